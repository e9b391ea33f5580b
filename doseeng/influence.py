"""The sparse influence matrix of a proton beam: dose at chosen points per MU of every spot, for planning.

The classical pencil beam on the engine's own rays and tables. Where it differs from `proton.beam_dose`: depth dose and
scattering are those around a point's own ray, the same for all spots, instead of being followed ray by ray through each
spot. In homogeneous and in layered tissue both agree; behind density edges across the beam (a tumour in lung) they part
by several percent. Plan with the matrix, then compute the final dose with the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix

from doseeng._kernels.influence import count_entries, depth_dose, fill_entries, gather_slice
from doseeng.beamseye import Frustum, TracedRays, frustum_around, trace_rays
from doseeng.errors import GeometryError
from doseeng.grid import BeamFrame, beam_frame
from doseeng.layers import (
    PROTONS_PER_UNIT,
    TABLE_STEP_MM,
    BeamPart,
    LayerTables,
    beam_parts,
    layer_tables,
    part_variance,
)
from doseeng.machines import lookup
from doseeng.machines.model import ProtonMachine
from doseeng.materials import MaterialMaps
from doseeng.plan import ProtonBeam
from doseeng.proton import central_entrance_mm, entrance_slice, slice_widths
from doseeng.scenario import NOMINAL, Scenario

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

COMPONENTS: Final = 3
"""Core and halo of the first optical Gaussian, and the second Gaussian."""

REACH_SIGMAS: Final = 3.0
"""Points further than so many widths of the widest component from every spot get no dose from the beam."""


@dataclass(frozen=True, slots=True)
class InfluenceSettings:
    """pitch_mm: distance of rays in the isocentre plane. slice_mm: along the axis; a depth dose is the mean over it.

    cutoff: entries below this share of their column's largest are dropped. What goes first is the widest component,
    whose entries are small but many.
    """

    pitch_mm: float = 2.5
    slice_mm: float = 1.5
    cutoff: float = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """Points within reach of the beam. rows: (n,) their place among all points. lateral_mm: (n, 2) gantry x and y.

    magnification: (n, 2). z_mm: (n,) gantry z. uv_mm: (n, 2) where their rays cross the isocentre plane.
    """

    rows: npt.NDArray[np.intp]
    lateral_mm: Array
    magnification: Array
    z_mm: Array

    @property
    def uv_mm(self) -> Array:
        return self.lateral_mm / self.magnification


def influence_matrix(
    beam: ProtonBeam,
    machine: ProtonMachine,
    maps: MaterialMaps,
    points_mm: npt.ArrayLike,
    patient_position: str,
    scenario: Scenario = NOMINAL,
    settings: InfluenceSettings = InfluenceSettings(),
) -> csc_matrix:
    """(n_points, n_spots) float32: physical dose to water in Gy per MU of each spot; matrix @ spot_mu is one fraction.

    points_mm: (n_points, 3) patient points, usually voxel centres. The MU of `beam` do not matter. Errors as
    `proton.beam_dose`, and GeometryError when no point lies within reach of the beam.
    """
    isocenter = np.asarray(beam.isocenter_mm) + np.asarray(scenario.isocenter_shift_mm)
    frame = beam_frame(isocenter, beam.gantry_deg, beam.couch_deg, patient_position)
    parts = beam_parts(beam, machine)
    all_points = np.asarray(points_mm, dtype=np.float64).reshape(-1, 3)
    points = _points_in_reach(all_points, frame, beam, machine)
    frustum = _frustum(points, frame, machine, maps, settings)
    rays = trace_rays(frustum, frame, maps.rsp, maps.scattering, scenario.rsp_scale)
    first = entrance_slice(rays, beam)
    position = np.column_stack(
        [
            (points.uv_mm - np.asarray(frustum.first_uv_mm)) / frustum.pitch_mm,
            (frustum.top_mm - points.z_mm) / frustum.slice_mm,
        ]
    ).astype(np.float32)
    n_layer = len(parts[0].energy_mev)
    amplitude = np.empty((n_layer, COMPONENTS, len(position)), dtype=np.float32)
    curvature = np.empty((n_layer, COMPONENTS, 2, len(position)), dtype=np.float32)
    for part in parts:
        tables = layer_tables(part, machine, beam.range_shifter, central_entrance_mm(frustum, rays, beam))
        optics = part_variance(part, machine, points.z_mm, beam.range_shifter).swapaxes(0, 1)
        width = _widths(frustum, rays, tables, position, first)[..., None]
        # A spot of optical variance o is spread by w: its protons at a point come from a ray o w / (o + w) around it.
        blur = np.sqrt(optics * width / (optics + width)) / (points.magnification * frustum.pitch_mm)
        dose = np.empty((len(part.energy_mev), len(position)), dtype=np.float32)
        depth_dose(
            tables.cumulative, tables.share, np.float32(TABLE_STEP_MM), rays.wet_mm, position,
            blur.astype(np.float32), dose,
        )  # fmt: skip
        _set_gaussians(part, machine, dose, optics + width, amplitude, curvature)
    return _sparse(points, beam, amplitude, curvature, len(all_points), settings.cutoff)


def _points_in_reach(points_mm: Array, frame: BeamFrame, beam: ProtonBeam, machine: ProtonMachine) -> _Points:
    gantry = frame.from_patient(points_mm)
    magnification = 1.0 - gantry[:, 2:] / np.asarray(machine.source_distance_mm)
    energy = np.unique(beam.spot_energy_mev)
    ends = np.array([gantry[:, 2].min(), gantry[:, 2].max()]) if len(gantry) else np.zeros(1)
    wide = lookup.optics_variance(machine, energy, 1, ends, beam.range_shifter).max()
    halo = lookup.rows_at(machine, machine.halo.sigma_mm, energy).max()
    reach = REACH_SIGMAS * np.sqrt(wide + halo**2)
    uv = gantry[:, :2] / magnification
    low, high = beam.spot_uv_mm.min(axis=0) - reach, beam.spot_uv_mm.max(axis=0) + reach
    rows = np.flatnonzero(np.all((uv >= low) & (uv <= high), axis=1))
    if not len(rows):
        raise GeometryError(
            f"beam {beam.number} '{beam.name}': none of {len(points_mm)} points lies within {reach:.0f} mm of a spot; "
            "check isocentre, gantry and couch angle and patient position"
        )
    return _Points(rows, gantry[rows, :2], magnification[rows], gantry[rows, 2])


def _frustum(
    points: _Points, frame: BeamFrame, machine: ProtonMachine, maps: MaterialMaps, settings: InfluenceSettings
) -> Frustum:
    low = points.uv_mm.min(axis=0) - settings.pitch_mm
    high = points.uv_mm.max(axis=0) + settings.pitch_mm
    box = (low[0], high[0], low[1], high[1])
    source = machine.source_distance_mm
    return frustum_around(frame, maps.rsp.grid, box, source, settings.pitch_mm, settings.slice_mm)


def _widths(frustum: Frustum, rays: TracedRays, tables: LayerTables, position: Float32, first: int) -> Float32:
    """(column, point) variance that the patient adds at each point, mm2: the engine's march, read off along the way."""
    n_column = tables.cumulative.shape[1]
    out = np.zeros((n_column, len(position)), dtype=np.float32)
    everywhere = np.ones((*frustum.shape[1:], n_column), dtype=np.float32)
    centre = np.clip(position[:, 2] - np.float32(0.5), 0, frustum.shape[0] - 1)
    order = np.argsort(centre, kind="stable")
    ascending = centre[order]
    span = (first, int(np.ceil(ascending[-1])) + 1)
    for k, width in slice_widths(frustum, rays, tables, everywhere, span):
        here = order[np.searchsorted(ascending, k - 1, "right") : np.searchsorted(ascending, k + 1, "left")]
        gather_slice(width, position, 1 - np.abs(centre[here] - np.float32(k)), here, out)
    return out


def _set_gaussians(
    part: BeamPart, machine: ProtonMachine, dose: Float32, variance: Array, amplitude: Float32, curvature: Float32
) -> None:
    """Peaks and curvatures of the Gaussians that `part` stands for; variance: (column, point, 2)."""
    n_layer = len(amplitude)
    protons = lookup.rows_at(machine, machine.protons_per_mu, part.energy_mev) / PROTONS_PER_UNIT
    second = lookup.rows_at(machine, machine.optics.weight, part.energy_mev)
    fluence = protons * np.where(part.gaussian == 1, second, 1.0 - second)
    peak = fluence[:, None] * dose / (2.0 * np.pi * np.sqrt(variance.prod(axis=2)))
    for column, gaussian in enumerate(part.gaussian):
        layer, component = column % n_layer, int(part.wide) + int(gaussian)
        amplitude[layer, component] = peak[column]
        curvature[layer, component] = 0.5 / variance[column].T


def _sparse(
    points: _Points, beam: ProtonBeam, amplitude: Float32, curvature: Float32, n_rows: int, cutoff: float
) -> csc_matrix:
    layers = np.unique(beam.spot_energy_mev, return_inverse=True)[1]
    arguments = (
        points.lateral_mm.astype(np.float32),
        points.magnification.astype(np.float32),
        beam.spot_uv_mm.astype(np.float32),
        layers,
        amplitude,
        curvature,
    )
    n_spots = len(layers)
    threshold = np.empty(n_spots, dtype=np.float32)
    counts = np.empty(n_spots, dtype=np.int64)
    count_entries(*arguments, np.float32(cutoff), threshold, counts)
    first = np.concatenate([[0], np.cumsum(counts)])
    # scipy keeps 32-bit indices when the matrix fits, and then multiplies without converting.
    index = np.int32 if max(first[-1], n_rows) < np.iinfo(np.int32).max else np.int64
    rows = np.zeros(first[-1], dtype=index)
    data = np.zeros(first[-1], dtype=np.float32)
    fill_entries(*arguments, threshold, first, rows, data)
    return csc_matrix((data, points.rows.astype(index)[rows], first.astype(index)), shape=(n_rows, n_spots))

"""Proton pencil-beam dose of one beam: trace, deposit, spread, resample.

Every pixel of the beam's-eye plane is its own sub-pencil with its own water-equivalent depth. A layer's fluence is the
sum of its spots at their narrowest; what the optics add elsewhere, and what the patient adds, is spread slice by slice.
Two components march on their own rays: the core, widened by Fermi-Eyges moments through the material it meets, and on
coarser rays everything wide: the nuclear halo and the wide optical Gaussian.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng._kernels.proton import ENTERED_WET_MM, deposit_slice, halo_step, largest_variance, scatter_step
from doseeng._kernels.spread import spread_bins
from doseeng.beamseye import Frustum, TracedRays, add_to_grid, frustum_around, trace_rays
from doseeng.errors import GeometryError
from doseeng.grid import BeamFrame, Grid, beam_frame
from doseeng.layers import TABLE_STEP_MM, BeamPart, LayerTables, beam_parts, layer_tables, part_variance
from doseeng.machines import lookup
from doseeng.machines.model import ProtonMachine
from doseeng.materials import MaterialMaps
from doseeng.plan import ProtonBeam
from doseeng.scenario import NOMINAL, Scenario

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

LATERAL_SIGMAS: Final = 4.0
"""Core rays reach this many standard deviations beyond the outermost spots."""
WIDE_SIGMAS: Final = 3.0
"""The same for the wide component, which holds a few percent of the dose."""
WATER_SPREAD: Final = 0.03
"""Multiple scattering in water ends at 2.2 % of the range (Gottschalk 2010); lung and gaps add to it."""


@dataclass(frozen=True, slots=True)
class ProtonSettings:
    """How finely the engine computes.

    pitch_mm: distance of rays in the isocentre plane; slice_mm: along the axis; width_bins: lateral widths per slice.
    wide_pitch_mm, wide_bins: the same for halo and wide optical Gaussian, which vary slowly.
    """

    pitch_mm: float = 1.5
    slice_mm: float = 1.5
    width_bins: int = 12
    wide_pitch_mm: float = 4.5
    wide_bins: int = 8


def beam_dose(
    beam: ProtonBeam,
    machine: ProtonMachine,
    maps: MaterialMaps,
    grid: Grid,
    patient_position: str,
    scenario: Scenario = NOMINAL,
    settings: ProtonSettings = ProtonSettings(),
) -> Float32:
    """Physical dose to water of one fraction of `beam`, Gy, float32 of grid.shape.

    Errors: MachineError when an energy lies outside the model; GeometryError when no ray meets the patient.
    """
    isocenter = np.asarray(beam.isocenter_mm) + np.asarray(scenario.isocenter_shift_mm)
    frame = beam_frame(isocenter, beam.gantry_deg, beam.couch_deg, patient_position)
    dose = np.zeros(grid.shape, dtype=np.float32)
    for part in beam_parts(beam, machine):
        if any(p.any() for p in part.protons):
            _add_part(part, beam, machine, maps, frame, scenario.rsp_scale, settings, grid, dose)
    return dose


def _add_part(
    part: BeamPart, beam: ProtonBeam, machine: ProtonMachine, maps: MaterialMaps, frame: BeamFrame, rsp_scale: float,
    settings: ProtonSettings, grid: Grid, dose: Float32,
) -> None:  # fmt: skip
    """Add the dose of one part of the beam to `dose`."""
    sigmas = WIDE_SIGMAS if part.wide else LATERAL_SIGMAS
    pitch = settings.wide_pitch_mm if part.wide else settings.pitch_mm
    largest = part_variance(part, machine, np.zeros(1), beam.range_shifter).max()
    margin = sigmas * np.sqrt(largest + (WATER_SPREAD * lookup.range_at(machine, part.energy_mev).max()) ** 2)
    low, high = beam.spot_uv_mm.min(axis=0) - margin, beam.spot_uv_mm.max(axis=0) + margin
    box = (low[0], high[0], low[1], high[1])
    frustum = frustum_around(frame, maps.rsp.grid, box, machine.source_distance_mm, pitch, settings.slice_mm)
    rays = trace_rays(frustum, frame, maps.rsp, maps.scattering, rsp_scale)
    first = entrance_slice(rays, beam)
    tables = layer_tables(part, machine, beam.range_shifter, central_entrance_mm(frustum, rays, beam))
    span = (first, _last_slice(rays, len(tables.cumulative)))
    variance = part_variance(part, machine, frustum.slice_center_mm, beam.range_shifter)
    square = frustum.magnification[:, None, :] ** 2
    narrowest = (variance / square)[slice(*span)].min(axis=0)
    residual = np.maximum(variance - narrowest * square, 0.0).astype(np.float32)
    fluence = _fluence(frustum, part, beam.spot_uv_mm, np.maximum(narrowest, (0.5 * pitch) ** 2))
    peak = fluence.max()
    fluence /= peak
    values = _march(
        frustum, rays, tables, fluence, residual, span, settings.wide_bins if part.wide else settings.width_bins
    )
    values *= (peak / np.prod(frustum.magnification, axis=1)).astype(np.float32)[:, None, None]
    add_to_grid(values, frustum, frame, grid, dose)


def entrance_slice(rays: TracedRays, beam: ProtonBeam) -> int:
    """The slice in front of the first where a ray has entered the patient."""
    entered = np.flatnonzero(rays.wet_mm.max(axis=(1, 2)) > ENTERED_WET_MM)
    if not len(entered):
        raise GeometryError(
            f"beam {beam.number} '{beam.name}': no ray meets the patient; "
            "check isocentre, gantry and couch angle and patient position"
        )
    return max(int(entered[0]) - 1, 0)


def central_entrance_mm(frustum: Frustum, rays: TracedRays, beam: ProtonBeam) -> float:
    """Gantry z where the ray through the middle of the spots enters the patient."""
    u, v = beam.spot_uv_mm.mean(axis=0)
    middle = rays.wet_mm[:, int(np.abs(frustum.v_mm - v).argmin()), int(np.abs(frustum.u_mm - u).argmin())]
    return frustum.top_mm - frustum.slice_mm * int(np.argmax(middle > ENTERED_WET_MM))


def _last_slice(rays: TracedRays, n_wet: int) -> int:
    """One past the last slice where a ray has not yet gone through the whole table."""
    alive = np.flatnonzero(rays.wet_mm[:-1].min(axis=(1, 2)) < n_wet * TABLE_STEP_MM)
    return int(alive[-1]) + 1


def _fluence(frustum: Frustum, part: BeamPart, spot_uv_mm: Array, variance: Array) -> Float32:
    """(n_v, n_u, n_layer) 1e9 protons per mm2 of the isocentre plane; variance (n_layer, 2) of the spots there."""
    out = np.empty((*frustum.shape[1:], len(part.energy_mev)), dtype=np.float32)
    for i, (spots, protons) in enumerate(zip(part.spots, part.protons, strict=True)):
        u, v = spot_uv_mm[spots].T
        rows = _gaussian(frustum.v_mm, v, variance[i, 1]) * protons[:, None]
        out[:, :, i] = rows.T @ _gaussian(frustum.u_mm, u, variance[i, 0])
    return out


def _gaussian(x_mm: Array, center_mm: Array, variance: float) -> Array:
    return np.exp(-0.5 * (x_mm - center_mm[:, None]) ** 2 / variance) / np.sqrt(2.0 * np.pi * variance)


def slice_widths(
    frustum: Frustum, rays: TracedRays, tables: LayerTables, fluence: Float32, span: tuple[int, int]
) -> Iterator[tuple[int, Float32]]:
    """March through the slices of `span`; yields each with the variance (n_v, n_u, n_layer), mm2, that the patient has
    added at its centre to every (ray, layer) with fluence. The array is the same each time, overwritten.
    """
    width = np.zeros(fluence.shape, dtype=np.float32)
    step = frustum.step_mm
    grain = np.float32(TABLE_STEP_MM)
    wide = len(tables.first_sigma) > 0
    moments = np.zeros((*frustum.shape[1:], 0 if wide else fluence.shape[2], 3), dtype=np.float32)
    sigma = np.tile(tables.first_sigma, (*frustum.shape[1:], 1))
    for k in range(*span):
        top, bottom = rays.wet_mm[k], rays.wet_mm[k + 1]
        if wide:
            halo_step(tables.slope, tables.angle, tables.extra, grain, top, bottom, fluence, step, sigma, width)
        else:
            scatter_step(tables.power, grain, top, bottom, rays.scattering[k], fluence, step, moments, width)
        yield k, width


def _march(
    frustum: Frustum, rays: TracedRays, tables: LayerTables, fluence: Float32, residual: Float32, span: tuple[int, int],
    n_bins: int,
) -> Float32:  # fmt: skip
    """(n_slice, n_v, n_u) deposits, spread: Gy mm2 per 1e9 protons times fluence."""
    _, n_v, n_u = frustum.shape
    out = np.zeros(frustum.shape, dtype=np.float32)
    bins = np.empty((n_bins, n_v, n_u), dtype=np.float32)
    moments = np.empty((n_v, n_bins, 2), dtype=np.float32)
    work = np.empty_like(bins)
    rows = np.empty(n_v, dtype=np.float32)
    grain = np.float32(TABLE_STEP_MM)
    pixel = frustum.pitch_mm * frustum.magnification
    for k, width in slice_widths(frustum, rays, tables, fluence, span):
        top, bottom = rays.wet_mm[k], rays.wet_mm[k + 1]
        largest_variance(tables.cumulative, grain, top, fluence, width, rows)
        largest = float(rows.max()) + float(residual[k].mean(axis=1).max())
        sigma_step = np.float32(max(1.0001 * np.sqrt(largest), 1e-3) / (n_bins - 1))
        bins[...] = 0.0
        moments[...] = 0.0
        deposit_slice(
            tables.cumulative, tables.share, grain, top, bottom, fluence, width, residual[k], sigma_step, bins, moments
        )
        spread_bins(bins, moments, sigma_step, pixel[k], work, out[k])
    return out

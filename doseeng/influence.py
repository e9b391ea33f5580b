"""The sparse influence matrix of a proton beam: dose in chosen voxels per MU of every spot, for planning.

The classical pencil beam on the engine's own march: depth, mixing of depths and scatter at each point are those that
the march finds there, and a spot is a sum of Gaussians around its own axis. Where it differs from `BeamModel.dose`:
what the march finds at a point holds for protons of all spots alike, instead of being followed from each spot.
In homogeneous and in layered tissue both agree; behind density edges across the beam (a tumour in lung) they part by
several percent. Plan with the matrix, then compute the final dose with the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix

from doseeng._kernels.influence import dose_and_spread, layer_columns
from doseeng._kernels.scalar import LANES
from doseeng.backend import March
from doseeng.beamseye import voxel_extent_mm
from doseeng.cpu import PER_MM, CpuBackend
from doseeng.errors import BackendUnavailable, GeometryError
from doseeng.layers import MIXING_LEVELS_MM, Kind
from doseeng.proton import BeamModel, Component, optics_variance
from doseeng.scenario import NOMINAL, Scenario

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

CUTOFF: Final = 1e-4
"""Entries below this share of their column's largest are dropped: the widest components', which are small but many."""


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """Points within reach of the beam. rows: (n,) their place among all points. gantry_mm: (n, 3).

    magnification: (n, 2) millimetres there per millimetre in the isocentre plane. voxel_mm: (3,) sides, along gantry x,
    y and z, of the box that a value is the mean over.
    """

    rows: npt.NDArray[np.intp]
    gantry_mm: Array
    magnification: Array
    voxel_mm: Array


def influence_matrix(
    model: BeamModel, points_mm: npt.ArrayLike, scenario: Scenario = NOMINAL, cutoff: float = CUTOFF
) -> csc_matrix:
    """(n_points, n_spots) float32: physical dose to water in Gy per MU of each spot; matrix @ spot_mu is one fraction.

    points_mm: (n_points, 3) patient points. An entry is the mean over a voxel of `model.grid` around its point. The MU
    of the model's beam do not matter. BackendUnavailable for a model that is not on the CPU; GeometryError when no
    ray meets the patient or no point lies within reach of the beam.
    """
    backend = model.backend
    if not isinstance(backend, CpuBackend):
        raise BackendUnavailable(
            f"influence matrices are computed on the CPU, not on {backend.description}; prepare the beam with cpu()"
        )
    marches = [pair for _, group in _everywhere(model).marches(scenario) for pair in group]
    all_points = np.asarray(points_mm, dtype=np.float64).reshape(-1, 3)
    points = _points_in_reach(all_points, model, scenario, [march for _, march in marches])
    gaussians = [_gaussians(backend, model, component, _down_to(march, points), points) for component, march in marches]
    peaks = np.stack([peak for peak, _ in gaussians], axis=1)
    curvature = np.stack([each for _, each in gaussians], axis=1)
    return _sparse(backend, model, points, peaks, curvature, len(all_points), cutoff)


def _everywhere(model: BeamModel) -> BeamModel:
    """The model with its march on all rays: points need to know it where no spot is, too."""
    components = tuple(replace(c, active=np.ones_like(c.active)) for c in model.components)
    return replace(model, components=components, _traced={}, _wet={})


def _points_in_reach(points_mm: Array, model: BeamModel, scenario: Scenario, marches: list[March]) -> _Points:
    """The points that any of the marches passes."""
    frame = model.frame(scenario)
    gantry = frame.from_patient(points_mm)
    magnification = 1.0 - gantry[:, 2:] / np.asarray(model.machine.source_distance_mm)
    every = _Points(np.arange(len(gantry)), gantry, magnification, voxel_extent_mm(frame, model.grid))
    rows = np.flatnonzero(np.any([_is_passed(march, _position(march, every)) for march in marches], axis=0))
    if not len(rows):
        beam = model.beam
        raise GeometryError(
            f"beam {beam.number} '{beam.name}': none of {len(points_mm)} points lies within its reach; "
            "check isocentre, gantry and couch angle and patient position"
        )
    return replace(every, rows=rows, gantry_mm=gantry[rows], magnification=magnification[rows])


def _position(march: March, points: _Points) -> Float32:
    """(n, 3) fractional column and row of the rays, and slice of the march."""
    frustum = march.rays.frustum
    uv = points.gantry_mm[:, :2] / points.magnification
    lateral = (uv - np.asarray(frustum.first_uv_mm)) / frustum.pitch_mm
    slices = (frustum.top_mm - points.gantry_mm[:, 2:]) / frustum.slice_mm - 0.5 - march.bounds[0]
    return np.concatenate([lateral, slices], axis=1).astype(np.float32)


def _down_to(march: March, points: _Points) -> March:
    """The march as far as the deepest point."""
    first, last = march.bounds[0], march.bounds[-1]
    end = min(max(first + int(_position(march, points)[:, 2].max()) + 2, first + 1), last)
    return replace(march, bounds=(*(b for b in march.bounds if b < end), end))


def _is_passed(march: March, position: Float32) -> npt.NDArray[np.bool_]:
    """Whether a position lies in the pixels of the rays and in the slices of the march."""
    _, n_v, n_u = march.rays.frustum.shape
    last = np.array([n_u, n_v, march.bounds[-1] - march.bounds[0]], dtype=np.float32) - np.float32(0.5)
    return np.all((position >= -0.5) & (position <= last), axis=1)


def _gaussians(
    backend: CpuBackend, model: BeamModel, component: Component, march: March, points: _Points
) -> tuple[Float32, Float32]:
    """Of every layer of one component: peaks (layer, n), Gy per MU, and curvatures (layer, 2, n), 1 / (2 variance)."""
    position = _position(march, points)
    layers, tables = model.layers, component.tables
    dose, variance = (np.zeros((layers.groups, len(position), LANES), dtype=np.float32) for _ in range(2))
    n_layer = len(layers.energy_mev)
    levels = np.array(MIXING_LEVELS_MM[: tables.dose.shape[1]], dtype=np.float32) ** 2
    water, *fields = _fields(backend, march)
    frustum = march.rays.frustum
    deep = np.float32(points.voxel_mm[2] / frustum.slice_mm)
    pixel_mm = (points.magnification * frustum.pitch_mm).astype(np.float32)
    averaged = (points.voxel_mm[:2] ** 2 / 12.0).astype(np.float32)
    optics = _optical_variance(model, component.kind, points)

    def one_group(g: int) -> None:
        of = slice(g * LANES, min((g + 1) * LANES, n_layer))
        dose_and_spread(
            position, deep, pixel_mm, averaged, optics[:, of].mean(axis=1), tables.dose[g], levels, PER_MM, water,
            *(f[g] for f in fields), tables.lanes[g, : of.stop - of.start], dose[g], variance[g],
        )  # fmt: skip

    backend.each(one_group, range(layers.groups))
    dose, variance = (a.transpose(0, 2, 1).reshape(-1, len(position))[:n_layer] for a in (dose, variance))
    variance = variance[:, None] + optics.transpose(1, 2, 0) + averaged[:, None]
    first_spot = np.unique(layers.spot_layer, return_index=True)[1]
    share = layers.wide_share if component.kind is Kind.WIDE else 1.0 - layers.wide_share
    protons = (layers.protons_per_mu[first_spot] * share).astype(np.float32)
    peak = protons[:, None] * _is_passed(march, position) * dose / (2.0 * np.pi * np.sqrt(variance.prod(axis=1)))
    return peak.astype(np.float32), (0.5 / variance).astype(np.float32)


def _fields(backend: CpuBackend, march: March) -> tuple[Float32, ...]:
    """At slice centres of the march: water (m, v, u); depth and its variance (group, m, v, u); moved and spread (group,
    2, m, v, u), P and Q of what the fluence has moved by, and of what it has not.
    """
    rays, (first, last) = march.rays, (march.bounds[0], march.bounds[-1])
    parts = list(backend.intervals(march))
    water = np.ascontiguousarray(rays.stopping[first:last] * rays.frustum.step_mm * np.float32(march.scale))
    wet = np.concatenate([part.wet for part in parts], axis=1)
    spread = np.concatenate([part.spread for part in parts], axis=2)
    moved = np.zeros_like(spread)
    for part in parts:
        for g, jump in part.jumps.items():
            moved[g, :, part.last - first :] += jump[:, None]
    return water, wet + np.float32(0.5) * water, np.concatenate([part.mixed for part in parts], axis=1), moved, spread


def _optical_variance(model: BeamModel, kind: Kind, points: _Points) -> Float32:
    """(n, layer, 2) without the patient, mm2; smooth along the axis, so that heights a millimetre apart are enough."""
    z = points.gantry_mm[:, 2]
    heights = np.linspace(z.min(), z.max(), max(2, int(np.ptp(z)) + 1))
    table = optics_variance(model, kind, heights)
    at = (z - heights[0]) / max(heights[1] - heights[0], 1e-9)
    lower = np.minimum(at.astype(np.intp), len(heights) - 2)
    share = (at - lower)[:, None, None]
    return (table[lower] * (1.0 - share) + table[lower + 1] * share).astype(np.float32)


def _sparse(
    backend: CpuBackend, model: BeamModel, points: _Points, peaks: Float32, curvature: Float32, n_rows: int,
    cutoff: float,
) -> csc_matrix:  # fmt: skip
    """The matrix from peaks (layer, component, n) and curvatures (layer, component, 2, n)."""
    across = np.ascontiguousarray(points.gantry_mm[:, :2].T, dtype=np.float32)
    magnification = np.ascontiguousarray(points.magnification.T, dtype=np.float32)
    spot_layer, uv_mm = model.layers.spot_layer, model.beam.spot_uv_mm.astype(np.float32)

    def one_layer(layer: int) -> list[tuple[int, npt.NDArray[np.int32], Float32]]:
        spots = np.flatnonzero(spot_layer == layer)
        u, at_u = np.unique(uv_mm[spots, 0], return_inverse=True)
        v, at_v = np.unique(uv_mm[spots, 1], return_inverse=True)
        counts, rows, data = layer_columns(
            across, magnification, u, v, at_u, at_v, peaks[layer], curvature[layer], np.float32(cutoff)
        )
        ends = np.cumsum(counts)[:-1]
        return list(zip(spots.tolist(), np.split(rows, ends), np.split(data, ends), strict=True))

    columns = sorted(chain.from_iterable(backend.each(one_layer, range(len(peaks)))), key=itemgetter(0))
    first = np.concatenate([[0], np.cumsum([len(rows) for _, rows, _ in columns])])
    # scipy keeps 32-bit indices when the matrix fits, and then multiplies without converting.
    index = np.int32 if max(first[-1], n_rows) < np.iinfo(np.int32).max else np.int64
    rows = points.rows.astype(index)[np.concatenate([rows for _, rows, _ in columns])]
    data = np.concatenate([data for _, _, data in columns])
    return csc_matrix((data, rows, first.astype(index)), shape=(n_rows, len(columns)))

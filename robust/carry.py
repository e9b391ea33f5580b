"""Where the error of a nominal dose goes when the range changes: along each beam, to the same water-equivalent depth.

A setup error leaves the depth of a voxel below the skin as it is, so an error of the dose that belongs to that depth
(a distal edge in lung, an interface) stays with the patient. A range error moves every distal edge, and the error of
the edge with it: left behind, it would sit where the dose is right and be missing where it is wrong.

With all relative stopping powers multiplied by s, protons have at water-equivalent depth w (of the nominal patient)
what they had nominally at s w. So the error at a voxel is the nominal one from the point on its ray with that depth.
Rays are parallel here: over the few millimetres that a range error moves anything, divergence is of no account.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.grid import BeamFrame, Grid, Volume, resample

Float32 = npt.NDArray[np.float32]

PITCH_MM: Final = 2.0
STEP_MM: Final = 1.0
"""Columns across the beam and steps along it: finer than dose grids, so that resampling costs little sharpness."""
REGION: Final = 0.01
"""A beam is followed where its own dose exceeds this share of its maximum; the error elsewhere stays in place."""
PROBE: Final = 0.01
"""Range change that tells which beam's dose depends on range where: about a third of a clinical range error."""
PLATEAU: Final = 1e-3
"""What a beam's own dose counts for beside its change with range, so that an error in a plateau has an owner too."""
AIR_SLOPE: Final = 1e-3
"""Water-equivalent millimetres per step that air gets, so that depth rises everywhere and can be inverted."""

KEPT: Final = 2
"""Range errors whose carried error is remembered: grids of scenarios have one short and one long."""


@dataclass(frozen=True, slots=True, eq=False)
class BeamDose:
    """One beam's nominal dose by the engine, on the dose grid, and its frame in the patient."""

    frame: BeamFrame
    dose: Volume


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """A grid whose slices are planes across the beam, downstream; wet_mm (nz, ny, nx) float32 at the voxel centres."""

    grid: Grid
    wet_mm: Float32


def error_carrier(error: Volume, beams: Sequence[BeamDose], rsp: Volume) -> Callable[[float], Float32]:
    """A function from a range scale to `error` (Gy, grid.shape, float32) as that range error carries it.

    error: reference minus own nominal dose of all beams together. rsp: relative stopping power of the patient. An error
    is shared among the beams by how much their own dose changes there with range, because it sits at their edges; what
    lies outside all beams stays in place. At a scale of 1 the error comes back as it is, not resampled.
    """
    columns = [_columns(beam, rsp) for beam in beams]
    weights = [_range_dependence(beam.dose, along) for beam, along in zip(beams, columns, strict=True)]
    total = np.sum(weights, axis=0) if weights else np.zeros(error.grid.shape)
    owned = total > 0.0
    parts = [
        (along, resample(Volume(error.grid, error.values * _ratio(weight, total)), along.grid, 0.0).values)
        for along, weight in zip(columns, weights, strict=True)
    ]
    staying = np.where(owned, np.float32(0.0), error.values)

    @lru_cache(maxsize=KEPT)
    def carried(rsp_scale: float) -> Float32:
        if rsp_scale == 1.0:
            return error.values
        out = staying.copy()
        for along, values in parts:
            out += resample(Volume(along.grid, _pulled(values, along.wet_mm, rsp_scale)), error.grid, 0.0).values
        return out

    return carried


def _columns(beam: BeamDose, rsp: Volume) -> _Columns:
    """Columns over the cross-section of a beam's dose, through the whole image, with their depth."""
    grid = beam.dose.grid
    region = np.argwhere(beam.dose.values > REGION * beam.dose.values.max())[:, ::-1]
    reach = beam.frame.from_patient(grid.to_patient(region)) if len(region) else np.zeros((1, 3))
    margin = max(grid.spacing_mm)
    low, high = reach.min(axis=0) - margin, reach.max(axis=0) + margin
    image = beam.frame.from_patient(rsp.grid.corners_mm())[:, 2]
    top, bottom = max(float(image.max()), float(high[2])), min(float(image.min()), float(low[2]))
    # Gantry X, -Y and -Z (downstream) make a right-handed set.
    axes = np.column_stack([beam.frame.axes[0], -beam.frame.axes[1], -beam.frame.axes[2]])
    nx, ny = (int(np.ceil((high[i] - low[i]) / PITCH_MM)) + 1 for i in (0, 1))
    nz = int(np.ceil((top - bottom) / STEP_MM)) + 2
    first = beam.frame.to_patient((low[0], high[1], top))
    along = Grid((nz, ny, nx), (PITCH_MM, PITCH_MM, STEP_MM), tuple(first), axes)
    stopping = STEP_MM * resample(rsp, along, 0.0).values.astype(np.float64) + AIR_SLOPE
    return _Columns(along, (np.cumsum(stopping, axis=0) - 0.5 * stopping).astype(np.float32))


def _range_dependence(dose: Volume, along: _Columns) -> Float32:
    """How much a beam's own dose depends on range, on its own grid, Gy: the weight of its claim on an error."""
    values = resample(dose, along.grid, 0.0).values
    change = np.abs(_pulled(values, along.wet_mm, 1.0 + PROBE) - _pulled(values, along.wet_mm, 1.0 - PROBE))
    return resample(Volume(along.grid, change + PLATEAU * values), dose.grid, 0.0).values


def _ratio(part: Float32, total: npt.NDArray[np.floating]) -> Float32:
    out: Float32 = np.divide(part, total, out=np.zeros_like(part), where=total > 0.0)
    return out


def _pulled(values: Float32, wet_mm: Float32, rsp_scale: float) -> Float32:
    """`values` (nz, ny, nx) taken from the depth rsp_scale times that of each voxel, linear along its column."""
    out = np.empty_like(values)
    for j in range(values.shape[1]):  # plane by plane, which bounds the temporaries
        out[:, j] = _pulled_plane(values[:, j], wet_mm[:, j], rsp_scale)
    return out


def _pulled_plane(values: Float32, wet_mm: Float32, rsp_scale: float) -> Float32:
    """The same for one plane (nz, nx) of columns."""
    nz, nx = values.shape
    depth = wet_mm.T.astype(np.float64)
    wanted = np.clip(rsp_scale * depth, depth[:, :1], depth[:, -1:])
    # One ascending list for all columns: each begins beyond the end of the one before.
    start = np.concatenate([[0.0], np.cumsum(depth[:-1, -1] + 1.0)])[:, None]
    steps = np.tile(np.arange(nz, dtype=np.float64), nx)
    at = np.interp((wanted + start).ravel(), (depth + start).ravel(), steps).reshape(nx, nz)
    low = np.minimum(at.astype(np.intp), nz - 2)
    column = np.arange(nx)[:, None]
    upper = values[low, column]
    pulled: Float32 = upper + (values[low + 1, column] - upper) * (at - low).astype(np.float32)
    return pulled.T

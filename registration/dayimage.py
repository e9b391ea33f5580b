"""CT images of the day for dose: the planning CT deformed, or the day's own image with its intensities corrected.

A *virtual CT* has exact CT numbers, but knows only what a deformation can make of the planning CT. A *corrected* image
keeps what the day shows and takes its intensities, locally, to those of the virtual CT. What the day's field of view
does not show comes from the virtual CT in both.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, label

from doseeng.grid import Grid, Volume, resample
from doseeng.transforms import as_field, warped
from registration.images import AIR_HU, block_grid, coarsened
from registration.result import DayRegistration

Float32 = npt.NDArray[np.float32]

SLAB: Final = 16
"""Slices that are deformed at a time, to keep memory small on fine CTs."""
ANCHORS_HU: Final = (-1000.0, -750.0, -80.0, 60.0, 700.0)
"""Air, lung, fat, muscle, bone: between them the correction is interpolated."""
SMOOTHING_MM: Final = 30.0
"""The errors of a cone-beam image (scatter, cupping, truncation) vary slowly; anatomy that differs does not."""
PASSES: Final = 3
BLOCK: Final = (3, 3, 3)
PRIOR: Final = 0.02
"""Weight of a tissue's mean correction where the day has little of it nearby (share of the voxels around)."""
MISMATCH_HU: Final = 300.0
"""A larger difference is anatomy, not intensity."""
BLEND_MM: Final = 9.0
"""Over which the corrected image gives way to the virtual CT at the edge of the field of view."""
GAS_HU, TISSUE_HU = -400.0, -150.0
LEAST_GAS_CM3: Final = 1.0
"""A difference between gas and tissue smaller than this is an edge that is a voxel off."""


def virtual_ct(planning: Volume, registration: DayRegistration) -> Volume:
    """The planning CT deformed to the day, on its own grid in the treatment frame, HU.

    Where the day clearly shows gas and the deformed CT tissue, or the other way round, in pieces of LEAST_GAS_CM3 and
    more, the day's corrected values are taken: no deformation makes gas of tissue.
    """
    return _with_gas(_deformed(planning, registration), _corrected(registration), registration)


def corrected_image(planning: Volume, registration: DayRegistration) -> Volume:
    """The day's image with corrected intensities, completed by the virtual CT, on the planning CT's grid, HU."""
    return _completed(_corrected(registration), _deformed(planning, registration), registration)


def virtual_and_corrected(planning: Volume, registration: DayRegistration) -> tuple[Volume, Volume]:
    """`virtual_ct` and `corrected_image`, which are made of the same parts, in the time of one."""
    deformed, corrected = _deformed(planning, registration), _corrected(registration)
    return _with_gas(deformed, corrected, registration), _completed(corrected, deformed, registration)


def as_is(planning: Volume, registration: DayRegistration) -> Volume:
    """The day's image as it is (an in-room CT, a CT made from MR), completed likewise."""
    return _completed(registration.day, _deformed(planning, registration), registration)


def corrections_hu(registration: DayRegistration) -> Float32:
    """What is added to each voxel of the day's image to correct its intensities; 0 outside its field of view.

    For each tissue (ANCHORS_HU) the smoothed mean difference of the deformed planning CT to the day, over voxels of
    that tissue that agree within MISMATCH_HU; after the shading correction of Park et al., Med Phys 42 (2015) 4449,
    with tissues apart because a cone-beam image errs in gain as well as offset. PASSES times, because only the first
    correction tells what is which tissue, and what is anatomy rather than intensity.
    """
    planning = warped(registration.planning, registration.pullback, AIR_HU).values
    seen = registration.seen.values > 0
    usable = seen & _is_flat(planning) & _is_flat(registration.day.values)
    correction = np.zeros(seen.shape, np.float32)
    for _ in range(PASSES):
        day = Volume(registration.day.grid, registration.day.values + correction)
        correction += _corrections(planning, day, usable)
    return np.where(seen, correction, np.float32(0.0))


def _corrections(planning: Float32, day: Volume, usable: npt.NDArray[np.bool_]) -> Float32:
    """One pass."""
    difference = planning - day.values
    counted = usable & (np.abs(difference) < MISMATCH_HU)
    correction, total = np.zeros(difference.shape, np.float32), np.zeros(difference.shape, np.float32)
    for anchor in range(len(ANCHORS_HU)):
        membership = _membership(day.values, anchor)
        weight = membership * counted
        if not weight.any():
            continue
        mean = float((weight * difference).sum(dtype=np.float64) / weight.sum(dtype=np.float64))
        correction += membership * _smooth_mean(weight, difference, mean, day.grid)
        total += membership
    return np.asarray(correction / np.maximum(total, np.float32(1e-3)), dtype=np.float32)


def _smooth_mean(weight: Float32, values: Float32, prior: float, grid: Grid) -> Float32:
    """Weighted mean of values over SMOOTHING_MM around every voxel; made on coarse blocks, since it varies slowly."""
    blocks = block_grid(grid, BLOCK)
    sigma = [SMOOTHING_MM / s for s in blocks.spacing_mm[::-1]]
    total = gaussian_filter(coarsened(weight * values, BLOCK), sigma, truncate=3.0) + PRIOR * prior
    weights = gaussian_filter(coarsened(weight, BLOCK), sigma, truncate=3.0) + PRIOR
    return resample(Volume(blocks, total / weights), grid, prior).values


def _corrected(registration: DayRegistration) -> Volume:
    day = registration.day
    return Volume(day.grid, np.maximum(day.values + corrections_hu(registration), AIR_HU))


def _membership(values: Float32, anchor: int) -> Float32:
    """How much (0..1) each voxel belongs to a tissue: 1 at its anchor, falling linearly to the neighbours'."""
    share = np.zeros(len(ANCHORS_HU))
    share[anchor] = 1.0
    return np.interp(values, ANCHORS_HU, share).astype(np.float32)


def _is_flat(values: Float32) -> npt.NDArray[np.bool_]:
    """Away from the edges of organs, which are a fraction of a voxel off and say nothing about intensities."""
    steepest = np.zeros(values.shape, np.float32)
    smooth = gaussian_filter(values, 1.0)
    for axis in range(3):
        steepest = np.maximum(steepest, np.abs(np.gradient(smooth, axis=axis)))
    return np.asarray(steepest < MISMATCH_HU / 4)


def _deformed(planning: Volume, registration: DayRegistration) -> Volume:
    grid = planning.grid
    out = np.empty(grid.shape, np.float32)
    for first in range(0, grid.shape[0], SLAB):
        count = min(SLAB, grid.shape[0] - first)
        slab = Grid((count, *grid.shape[1:]), grid.spacing_mm, tuple(grid.to_patient((0, 0, first))), grid.direction)
        out[first : first + count] = warped(planning, as_field(slab, registration.pullback), AIR_HU).values
    return Volume(grid, out)


def _with_gas(deformed: Volume, corrected: Volume, registration: DayRegistration) -> Volume:
    """The deformed planning CT with the day's values where one shows gas and the other tissue."""
    differs = _gas_differs(registration, corrected)
    if not differs.any():
        return deformed
    share = resample(Volume(corrected.grid, differs.astype(np.float32)), deformed.grid, 0.0).values
    day = resample(corrected, deformed.grid, AIR_HU).values
    return Volume(deformed.grid, np.where(share > 0.5, day, deformed.values))


def _completed(day: Volume, deformed: Volume, registration: DayRegistration) -> Volume:
    """The day's image, which gives way to the deformed planning CT at the edge of the field of view."""
    depth = distance_transform_edt(registration.seen.values > 0, sampling=day.grid.spacing_mm[::-1])
    weight = Volume(day.grid, np.clip(depth / BLEND_MM, 0.0, 1.0).astype(np.float32))
    share = resample(weight, deformed.grid, 0.0).values
    own = resample(day, deformed.grid, AIR_HU).values
    return Volume(deformed.grid, share * own + (1.0 - share) * deformed.values)


def _gas_differs(registration: DayRegistration, corrected: Volume) -> npt.NDArray[np.bool_]:
    """Where the day shows gas and the deformed planning CT tissue, or the other way round, in pieces that count."""
    planning = warped(registration.planning, registration.pullback, AIR_HU).values
    day, inside = corrected.values, registration.seen.values > 0
    found = np.zeros(day.shape, dtype=bool)
    for gas, tissue in ((day, planning), (planning, day)):
        differs = inside & (gas < GAS_HU) & (tissue > TISSUE_HU)
        core, count = label(binary_erosion(differs))
        if not count:
            continue
        pieces, _ = label(differs)
        sizes = np.bincount(pieces.ravel()) * corrected.grid.voxel_volume_cm3
        kept = np.unique(pieces[core > 0])
        found |= np.isin(pieces, kept[sizes[kept] >= LEAST_GAS_CM3])
    return found

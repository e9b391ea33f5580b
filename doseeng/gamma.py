"""The gamma index between two dose distributions (Low et al., Med Phys 25 (1998) 656; AAPM TG-218)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from doseeng._kernels.gamma import cell_ranges, gamma_of_points
from doseeng.errors import MetricError
from doseeng.grid import Grid, Volume


@dataclass(frozen=True, slots=True, eq=False)
class GammaResult:
    """Gamma of every reference point that was asked for.

    values: on the reference grid; NaN below the dose threshold, outside the mask and where the evaluated dose is out of
    reach; never above max_gamma. pass_rate_percent: share of the n_points points with gamma <= 1. n_unreached: points
    that should have been judged but lie further than max_gamma x distance from the evaluated dose grid; they are not
    part of n_points. normalisation_gy: what percent of global dose refers to.
    """

    values: Volume
    pass_rate_percent: float
    n_points: int
    n_unreached: int
    normalisation_gy: float


def gamma(
    reference: Volume,
    evaluated: Volume,
    *,
    dose_percent: float,
    distance_mm: float,
    local: bool = False,
    threshold_percent: float = 10.0,
    normalisation_gy: float | None = None,
    max_gamma: float = 2.0,
    interpolation_fraction: int = 10,
    mask: npt.NDArray[np.bool_] | None = None,
) -> GammaResult:
    """Gamma index of each reference point over the interpolated evaluated dose.

    reference, evaluated: dose in Gy on any two grids. dose_percent: of normalisation_gy (default: the largest reference
    dose), or of the dose of each reference point when `local`. threshold_percent: reference points below this share of
    normalisation_gy are left out. The evaluated dose is trilinear; every cell of it is searched in steps of
    distance_mm / interpolation_fraction (10: Wendling et al., Med Phys 34 (2007) 1647) and its best place refined off
    the steps. mask: bool array of the reference shape that limits the points. MetricError when an argument is
    impossible, a dose is not finite or no point is left to judge.
    """
    criteria = {"dose_percent": dose_percent, "distance_mm": distance_mm, "max_gamma": max_gamma}
    for name, value in criteria.items():
        if not (np.isfinite(value) and value > 0):
            raise MetricError(f"gamma: {name} must be a positive number, found {value}")
    if interpolation_fraction < 1:
        raise MetricError(f"gamma: interpolation_fraction must be at least 1, found {interpolation_fraction}")
    for name, volume in (("reference", reference), ("evaluated", evaluated)):
        if not np.isfinite(volume.values).all():
            raise MetricError(f"gamma: the {name} dose has values that are not finite; set them to a dose or crop them")
    normalisation = float(reference.values.max()) if normalisation_gy is None else float(normalisation_gy)
    chosen = _points_to_judge(reference, normalisation, threshold_percent, mask)
    dose = reference.values[chosen]
    criterion_gy = dose_percent / 100.0 * (dose if local else np.full_like(dose, normalisation))
    values, cells = _with_cells(evaluated)
    spacing = np.asarray(cells.spacing_mm)
    offsets, nearest2 = _cells_by_distance(spacing / distance_mm, max_gamma)
    # An even number, so that the middle of a slab made from a single plane is a step.
    steps = 2 * np.ceil(spacing / distance_mm * interpolation_fraction / 2 - 1e-6).astype(np.int64)
    low, high = cell_ranges(values)
    index = cells.to_index(reference.grid.to_patient(np.argwhere(chosen)[:, ::-1])).astype(np.float32)
    found = gamma_of_points(
        values,
        low,
        high,
        index,
        dose,
        (1.0 / criterion_gy).astype(np.float32),
        (spacing / distance_mm).astype(np.float32),
        steps,
        offsets,
        nearest2,
        max_gamma,
    )
    beyond = np.clip(np.maximum(-index, index - (np.asarray(values.shape[::-1]) - 1)), 0, None) * spacing
    found[np.linalg.norm(beyond, axis=1) > max_gamma * distance_mm] = np.nan
    judged = ~np.isnan(found)
    n_points = int(judged.sum())
    if n_points == 0:
        raise MetricError("gamma: the evaluated dose grid lies nowhere near the reference points; compare their frames")
    result = np.full(reference.grid.shape, np.nan, dtype=np.float32)
    result[chosen] = found
    passed = 100.0 * float((found[judged] <= 1.0).sum()) / n_points
    return GammaResult(Volume(reference.grid, result), passed, n_points, len(found) - n_points, normalisation)


def _points_to_judge(
    reference: Volume, normalisation_gy: float, threshold_percent: float, mask: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.bool_]:
    if normalisation_gy <= 0:
        raise MetricError(f"gamma: the normalisation dose must be positive, found {normalisation_gy} Gy")
    # Zero dose has no local criterion and nothing to say in a global one.
    chosen = (reference.values >= threshold_percent / 100.0 * normalisation_gy) & (reference.values > 0)
    if mask is not None:
        if mask.shape != reference.grid.shape:
            raise MetricError(f"gamma: mask of shape {mask.shape} does not fit the reference {reference.grid.shape}")
        chosen &= mask
    if not chosen.any():
        raise MetricError(
            f"gamma: no reference point in the mask has at least {threshold_percent} % of {normalisation_gy:.4g} Gy"
        )
    return np.asarray(chosen)


def _with_cells(volume: Volume) -> tuple[npt.NDArray[np.float32], Grid]:
    """Values and grid with at least two voxels along each axis: a single plane becomes a slab of constant dose."""
    values, grid = volume.values, volume.grid
    for axis in range(3):
        if values.shape[axis] == 1:
            values = np.repeat(values, 2, axis=axis)
            shift = np.zeros(3)
            shift[2 - axis] = -0.5
            x, y, z = grid.to_patient(shift)
            nz, ny, nx = values.shape
            grid = Grid((nz, ny, nx), grid.spacing_mm, (x, y, z), grid.direction)
    return np.ascontiguousarray(values), grid


def _cells_by_distance(
    unit: npt.NDArray[np.float64], reach: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Cells within reach of any point of cell (0, 0, 0): (m, 3) offsets, and their least squared distances, ascending.

    unit: cell size in units of the distance criterion.
    """
    extent = np.ceil(reach / unit).astype(int) + 1
    ranges: list[Any] = [np.arange(-n, n + 1) for n in extent]
    offsets = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    nearest2 = ((np.maximum(np.abs(offsets) - 1, 0) * unit) ** 2).sum(axis=1)
    centre2 = ((offsets * unit) ** 2).sum(axis=1)
    order = np.lexsort((centre2, nearest2))
    order = order[nearest2[order] < reach * reach]
    return np.ascontiguousarray(offsets[order]), nearest2[order].astype(np.float32)

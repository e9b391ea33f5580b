"""A small synthetic patient, a known deformation, and what a cone-beam scanner would make of the day."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from doseeng.grid import Grid, Volume
from doseeng.transforms import DisplacementField, inverse_field, voxel_centres, warped

GRID = Grid((44, 60, 72), (3.0, 3.0, 3.0), (-106.5, -88.5, -64.5))
FIELD_OF_VIEW_MM = 75.0


def patient() -> Volume:
    """Body, lungs, spine, ribs and vessels with fine structure everywhere, HU."""
    x, y, z = np.moveaxis(voxel_centres(GRID), -1, 0)
    rng = np.random.default_rng(5)
    hu = np.full(GRID.shape, -1000.0)
    body = (x / 92) ** 2 + (y / 70) ** 2 < 1
    hu[body] = 20.0 + 60.0 * _texture(rng, 3.0)[body]
    for side in (-1, 1):
        lung = ((x - side * 42) / 30) ** 2 + (y / 45) ** 2 + (z / 55) ** 2 < 1
        hu[lung] = -780.0 + 120.0 * _texture(rng, 2.0)[lung]
        vessels = lung & (_texture(rng, 1.5) > 1.6)
        hu[vessels] = 0.0
    spine = (x**2 + (y - 45) ** 2 < 14**2) & (np.abs(z % 24 - 12) > 3)
    hu[spine] = 450.0
    shell = np.abs(np.hypot(x / 84, y / 62) - 1) < 0.05
    hu[shell & (np.abs(z % 26 - 13) < 5)] = 500.0
    return Volume(GRID, gaussian_filter(hu, 0.6))


def deformation(largest_mm: float = 9.0, seed: int = 3) -> DisplacementField:
    """A smooth pullback with displacements of up to largest_mm."""
    rng = np.random.default_rng(seed)
    vectors = np.stack([_texture(rng, 8.0) for _ in range(3)], axis=-1)
    return DisplacementField(GRID, (largest_mm * vectors / np.abs(vectors).max()).astype(np.float32))


def day_of(planning: Volume, pullback: DisplacementField) -> Volume:
    """The true image of the day."""
    return warped(planning, pullback, -1000.0)


def cone_beam(day: Volume, offset_hu: float = -60.0, seed: int = 7) -> Volume:
    """Gain, offset, cupping, noise and a cylindrical field of view; -1000 HU outside it."""
    rng = np.random.default_rng(seed)
    radius = axis_distance_mm(day.grid)
    noise = 45.0 * gaussian_filter(rng.standard_normal(day.grid.shape), 0.6) / 0.35
    values = (0.9 * (day.values + 1000) - 1000) + offset_hu * (day.values > -500) - 60 * (1 - (radius / 75) ** 2)
    values = np.where(radius < FIELD_OF_VIEW_MM, values + noise, -1000.0)
    values[:4] = values[-4:] = -1000.0
    return Volume(day.grid, values.astype(np.float32))


def axis_distance_mm(grid: Grid) -> npt.NDArray[np.float64]:
    """Distance of every voxel to the axis of the scanner, which runs through the middle of the image."""
    x, y, _ = np.moveaxis(voxel_centres(grid), -1, 0)
    middle = grid.corners_mm().mean(axis=0)
    return np.asarray(np.hypot(x - middle[0], y - middle[1]))


def landmarks(pullback: DisplacementField, count: int = 200) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Points of the day in the body, well inside the field of view, and where they lie in the planning CT."""
    rng = np.random.default_rng(1)
    points = rng.uniform((-60, -50, -45), (60, 50, 45), (4 * count, 3))
    points = points[np.hypot(points[:, 0], points[:, 1]) < FIELD_OF_VIEW_MM - 9][:count]
    return points, pullback.apply(points)


def back(pullback: DisplacementField) -> DisplacementField:
    """The pushforward of a pullback."""
    return inverse_field(pullback, pullback.grid)


def _texture(rng: np.random.Generator, sigma: float) -> npt.NDArray[np.float64]:
    smooth = gaussian_filter(rng.standard_normal(GRID.shape), sigma)
    return np.asarray(smooth / smooth.std())

"""What a cone-beam scanner makes of a patient: scatter, streaks and noise, and a field of view that ends too early.

Not a simulation of a scanner: artefacts of the size and shape that clinical images have, painted in image space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, gaussian_filter1d, zoom

from doseeng.grid import Grid, Volume

Float32 = npt.NDArray[np.float32]

OUTSIDE_HU: Final = -1000.0
"""Value of voxels that the scanner does not see, as most vendors export them."""
BODY_HU: Final = -500.0
COARSE: Final = 6
"""Shading is slower than this many voxels."""
SHADING_MM: Final = 45.0
"""Width over which scatter smears the body into a cup."""
SHADING_WAVE_MM: Final = 60.0
STREAK_ANGLES: Final = 720
STREAK_SIGMA: Final = 1.2
"""Width of a streak in steps of the angle."""
STREAK_LENGTH_MM: Final = 110.0
STREAK_Z_MM: Final = 9.0
"""A streak goes on over neighbouring slices."""
NOISE_SIGMA: Final = 0.7
"""Reconstruction filters correlate neighbouring voxels, in voxels."""


@dataclass(frozen=True, slots=True)
class FieldOfView:
    """A cylinder along z around a point. spacing_mm: voxels (x, y, z)."""

    centre_mm: tuple[float, float, float]
    diameter_mm: float = 450.0
    length_mm: float = 180.0
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 3.0)

    @property
    def grid(self) -> Grid:
        """The voxels that hold the cylinder."""
        size = (self.diameter_mm, self.diameter_mm, self.length_mm)
        nx, ny, nz = (round(length / step) for length, step in zip(size, self.spacing_mm, strict=True))
        x, y, z = (
            centre - 0.5 * step * (n - 1)
            for centre, step, n in zip(self.centre_mm, self.spacing_mm, (nx, ny, nz), strict=True)
        )
        return Grid((nz, ny, nx), self.spacing_mm, (x, y, z))

    @property
    def radius_mm(self) -> Float32:
        """(1, ny, nx) distance of the voxels from the axis of the cylinder."""
        return _radius_mm(self.grid, self.centre_mm[:2])


@dataclass(frozen=True, slots=True)
class Look:
    """Strength of the artefacts. gain: of the contrast to air. offset_hu: everywhere in the body. cupping_hu: darker in
    the middle of the body than at its surface. shading_hu, streak_hu, noise_hu: standard deviations."""

    gain: float = 0.96
    offset_hu: float = -15.0
    cupping_hu: float = 70.0
    shading_hu: float = 12.0
    streak_hu: float = 24.0
    noise_hu: float = 28.0


def cone_beam(image: Volume, view: FieldOfView, look: Look, rng: np.random.Generator) -> Volume:
    """`image` (HU, on `view.grid`) as a cone-beam scanner shows it: whole HU, OUTSIDE_HU outside the cylinder."""
    values = image.values
    body = (values > BODY_HU).astype(np.float32)
    shading = _shading(image.grid, body, look, rng)
    hu = (values + 1000.0) * look.gain - 1000.0
    # Scatter is added to what the detector sees: dense tissue loses, air gains little.
    present = np.clip((values + 1000.0) / 1000.0, 0.0, 1.2)
    hu += present * (look.offset_hu + shading)
    hu += (0.25 + 0.75 * present) * _streaks(view, look, rng)
    noise = gaussian_filter(rng.standard_normal(values.shape, dtype=np.float32), NOISE_SIGMA, truncate=3.0)
    hu += look.noise_hu / noise.std() * noise
    hu = np.where(view.radius_mm <= 0.5 * view.diameter_mm, np.clip(np.rint(hu), -1024.0, 3000.0), OUTSIDE_HU)
    return Volume(image.grid, hu.astype(np.float32))


def _shading(grid: Grid, body: Float32, look: Look, rng: np.random.Generator) -> Float32:
    """A cup that follows the body, and a slow random wave."""
    coarse = np.ascontiguousarray(body[:, ::COARSE, ::COARSE])
    step = np.array(grid.spacing_mm[::-1]) * (1, COARSE, COARSE)
    cup = gaussian_filter(coarse, SHADING_MM / step)
    wave = gaussian_filter(rng.standard_normal(coarse.shape, dtype=np.float32), SHADING_WAVE_MM / step)
    slow = look.shading_hu / wave.std() * wave - look.cupping_hu * (cup - 0.5)
    fine = zoom(slow, np.array(body.shape) / coarse.shape, order=1, grid_mode=True, mode="nearest")
    return np.asarray(fine, dtype=np.float32)


def _streaks(view: FieldOfView, look: Look, rng: np.random.Generator) -> Float32:
    """Bright and dark lines that leave two places near the middle, as from bones and from what moves."""
    grid = view.grid
    out = np.zeros(grid.shape, dtype=np.float32)
    for _ in range(2):
        x, y = np.asarray(view.centre_mm[:2]) + rng.uniform(-60.0, 60.0, 2)
        profile = rng.standard_normal((grid.shape[0], STREAK_ANGLES), dtype=np.float32)
        profile = gaussian_filter1d(profile, STREAK_SIGMA, axis=1, mode="wrap")
        profile = gaussian_filter1d(profile, STREAK_Z_MM / grid.spacing_mm[2], axis=0)
        profile *= look.streak_hu / profile.std()
        dx, dy = _offsets(grid, (x, y))
        angle = np.arctan2(dy, dx) % np.pi
        index = (angle * (STREAK_ANGLES / np.pi)).astype(np.int32) % STREAK_ANGLES
        out += profile[:, index] * np.exp(-np.hypot(dx, dy) / np.float32(STREAK_LENGTH_MM))
    return out


def _radius_mm(grid: Grid, centre_mm: tuple[float, float]) -> Float32:
    dx, dy = _offsets(grid, centre_mm)
    return np.asarray(np.hypot(dx, dy)[None], dtype=np.float32)


def _offsets(grid: Grid, centre_mm: tuple[float, float]) -> tuple[Any, Any]:
    """x (1, nx) and y (ny, 1) distances of the voxels of a grid along the patient axes."""
    _, ny, nx = grid.shape
    x, y = (
        (origin + step * np.arange(n) - centre).astype(np.float32)
        for origin, step, n, centre in zip(grid.origin_mm, grid.spacing_mm, (nx, ny), centre_mm, strict=False)
    )
    return x[None, :], y[:, None]

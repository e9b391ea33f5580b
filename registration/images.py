"""The images that are compared: coarser copies of planning CT and day, what is known of the day, their similarities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from doseeng.errors import RegistrationError
from doseeng.grid import Grid, Volume, resample
from doseeng.transforms import RigidTransform, as_field, warped
from registration._kernels.similarity import CHANNELS, PAIRS, self_distances, to_similarities

Float32 = npt.NDArray[np.float32]

AIR_HU: Final = -1000.0
WINDOW_HU: Final = (-1000.0, 400.0)
"""Dense bone and metal differ between scanners, and their edges would outweigh everything else."""
NOISE_HU: Final = 20.0
"""Differences below this are noise and shall not count as structure (one voxel of the working grid)."""
SMOOTHING: Final = 0.6
"""Standard deviation, in voxels, of what takes the noise of a cone-beam image down before it is compared."""
KNOWN_SHARE: Final = 0.3
"""A coarser voxel is known when at least this share of it is."""
LEAST_PATCH: Final = 0.5
ALL_SEEN: Final = 0.99
"""A voxel of a resampled field of view counts as seen when all of it is, but for rounding."""
LEAST_VOXELS: Final = 8
"""An image of fewer voxels along an axis holds nothing to register."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Planning CT and day, each (nz, ny, nx) float32 HU; known: 1 where the day shows something, else 0."""

    planning: Float32
    day: Float32
    known: Float32


def working_grid(grid: Grid, spacing_mm: float) -> Grid:
    """The grid whose voxels are blocks of whole voxels of `grid`, about spacing_mm wide (never finer than `grid`)."""
    coarse = block_grid(grid, _factors(grid, (spacing_mm,) * 3))
    if min(coarse.shape) < LEAST_VOXELS:
        nz, ny, nx = coarse.shape
        raise RegistrationError(
            f"an image of {grid.shape[2]} x {grid.shape[1]} x {grid.shape[0]} voxels is too small to register: at "
            f"{spacing_mm:g} mm it has {nx} x {ny} x {nz} voxels, at least {LEAST_VOXELS} along each axis are needed"
        )
    return coarse


def coarsened(values: Float32, factors: tuple[int, int, int]) -> Float32:
    """Means over blocks of (z, y, x) voxels; the last block repeats the edge."""
    if factors == (1, 1, 1):
        return values
    padded = np.pad(values, [(0, -n % f) for n, f in zip(values.shape, factors, strict=True)], mode="edge")
    (nz, ny, nx), (fz, fy, fx) = padded.shape, factors
    blocks = padded.reshape(nz // fz, fz, ny // fy, fy, nx // fx, fx)
    return np.ascontiguousarray(blocks.mean(axis=(1, 3, 5)), dtype=np.float32)


def on_grid(volume: Volume, grid: Grid, outside: float) -> Float32:
    """`volume` on a working grid: averaged over about its voxels first, then trilinear."""
    factors = _factors(volume.grid, grid.spacing_mm)
    coarse = Volume(block_grid(volume.grid, factors), coarsened(volume.values, factors))
    return resample(coarse, grid, outside).values


def moved(volume: Volume, motion: RigidTransform, grid: Grid, outside: float) -> Volume:
    """`volume` after a rigid motion of its points, on a working grid, averaged over about its voxels."""
    own = working_grid(volume.grid, min(grid.spacing_mm))
    coarse = Volume(own, on_grid(volume, own, outside))
    return warped(coarse, as_field(grid, motion.inverse()), outside)


def pair_of(planning: Volume, day: Volume, seen: Volume | None, grid: Grid, day_grid: Grid | None = None) -> Pair:
    """Both images windowed and smoothed, the planning CT on `grid`, the day on `day_grid` (without it on `grid` too).

    Without `seen` the day is known wherever its image reaches. RegistrationError: nowhere.
    """
    shown = Volume(day.grid, np.ones(day.grid.shape, np.float32)) if seen is None else seen
    there = day_grid or grid
    known = (on_grid(shown, there, 0.0) > ALL_SEEN).astype(np.float32)
    if known.mean() == 0.0:
        raise RegistrationError("the day's image shows nothing of the planning CT's volume; is it of this patient?")
    return Pair(
        gaussian_filter(_windowed(on_grid(planning, grid, AIR_HU)), SMOOTHING),
        _smoothed(_windowed(on_grid(day, there, AIR_HU)), known),
        known,
    )


def coarser(pair: Pair, factor: int) -> Pair:
    """Block means of a pair; those of the day over what is known of it."""
    factors = (factor, factor, factor)
    share = coarsened(pair.known, factors)
    known = share > KNOWN_SHARE
    day = np.where(known, coarsened(pair.day * pair.known, factors) / np.maximum(share, KNOWN_SHARE), AIR_HU)
    return Pair(coarsened(pair.planning, factors), day.astype(np.float32), known.astype(np.float32))


def similarities(values: Float32, known: Float32 | None, noise_hu: float) -> Float32:
    """Self-similarity of every voxel's surroundings, (nz, ny, nx, 12) float32 in 0..1, -1 where unknown.

    Modality independent neighbourhood descriptors with the self-similarity context of Heinrich et al. (MICCAI 2013,
    LNCS 8149, 187), without their subtraction of the smallest distance, which misleads where some are unknown: at the
    edge of a truncated field of view.
    """
    whole = np.ones(values.shape, np.float32) if known is None else known
    out = np.empty((*values.shape, CHANNELS), np.float32)
    self_distances(values, whole, PAIRS, np.float32(LEAST_PATCH), out)
    to_similarities(out, np.float32(noise_hu**2))
    return out


def _factors(grid: Grid, spacing_mm: tuple[float, ...]) -> tuple[int, int, int]:
    """How many voxels (z, y, x) of `grid` make one of about spacing_mm (x, y, z)."""
    fx, fy, fz = (max(1, round(wanted / own)) for wanted, own in zip(spacing_mm, grid.spacing_mm, strict=True))
    return fz, fy, fx


def block_grid(grid: Grid, factors: tuple[int, int, int]) -> Grid:
    """The grid of the block means of `coarsened`."""
    fz, fy, fx = factors
    nz, ny, nx = (-(-n // f) for n, f in zip(grid.shape, factors, strict=True))
    sx, sy, sz = (s * f for s, f in zip(grid.spacing_mm, (fx, fy, fz), strict=True))
    first = grid.to_patient(((fx - 1) / 2, (fy - 1) / 2, (fz - 1) / 2))
    return Grid((nz, ny, nx), (sx, sy, sz), tuple(first), grid.direction)


def _windowed(values: Float32) -> Float32:
    return np.clip(values, *WINDOW_HU, dtype=np.float32)


def _smoothed(values: Float32, known: Float32) -> Float32:
    weight = gaussian_filter(known, SMOOTHING)
    smooth = gaussian_filter(values * known, SMOOTHING) / np.maximum(weight, 1e-3)
    return np.where(known > 0, smooth, AIR_HU).astype(np.float32)

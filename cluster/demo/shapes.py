"""Smooth shapes as level fields: positive inside, about millimetres from the surface, zero on it.

Fields broadcast over open coordinate arrays (x, y, z), so unions, cuts and contours of a whole phantom are array
operations: union = maximum, intersection = minimum, complement = minus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from doseeng.grid import Grid

Field = npt.NDArray[np.float32]
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Patient coordinates in mm of an axis-parallel grid, open: x (1, 1, nx), y (1, ny, 1), z (nz, 1, 1), float32."""

    x: Field
    y: Field
    z: Field

    def part(self, low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[Space, tuple[slice, slice, slice]]:
        """The part between two points and where it lies in an array of the whole space."""
        low, high = np.asarray(low), np.asarray(high)
        spans = [
            slice(int(np.searchsorted(axis.ravel(), a)), int(np.searchsorted(axis.ravel(), b, "right")))
            for axis, a, b in zip((self.x, self.y, self.z), low, high, strict=True)
        ]
        sx, sy, sz = spans
        return Space(self.x[:, :, sx], self.y[:, sy], self.z[sz]), (sz, sy, sx)


def space_of(grid: Grid) -> Space:
    """Voxel centres of a grid along the patient axes."""
    nz, ny, nx = grid.shape
    x, y, z = (
        (o + s * np.arange(n)).astype(np.float32)
        for o, s, n in zip(grid.origin_mm, grid.spacing_mm, (nx, ny, nz), strict=True)
    )
    return Space(x[None, None, :], y[None, :, None], z[:, None, None])


def superellipse(x: Any, y: Any, half_x: Any, half_y: Any, power: float) -> Field:
    """An infinite cylinder |x / half_x|^power + |y / half_y|^power < 1; the half axes may depend on z."""
    radius = (np.abs(x / half_x) ** power + np.abs(y / half_y) ** power) ** (1.0 / power)
    return np.asarray((1.0 - radius) * np.minimum(half_x, half_y), dtype=np.float32)


def ellipsoid(space: Space, centre: Triple, half: Triple, turn_deg: float = 0.0) -> Field:
    """An ellipsoid with half axes (x, y, z), turned about the patient's long axis."""
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    x, y, z = space.x - centre[0], space.y - centre[1], space.z - centre[2]
    across, along = c * x + s * y, c * y - s * x
    radius = np.sqrt((across / half[0]) ** 2 + (along / half[1]) ** 2 + (z / half[2]) ** 2)
    return np.asarray((1.0 - radius) * min(half), dtype=np.float32)


def tube(space: Space, points: Sequence[Triple], radius_mm: float) -> Field:
    """A round tube along a polyline."""
    field: Any = -np.inf
    for start, end in pairwise(points):
        field = np.maximum(field, capsule(space, start, end, radius_mm, radius_mm))
    return np.asarray(field, dtype=np.float32)


def capsule(space: Space, start: npt.ArrayLike, end: npt.ArrayLike, radius_start: float, radius_end: float) -> Field:
    """A round rod that tapers linearly between two points."""
    a, b = np.asarray(start, dtype=np.float32), np.asarray(end, dtype=np.float32)
    d = b - a
    x, y, z = space.x - a[0], space.y - a[1], space.z - a[2]
    t = np.clip((x * d[0] + y * d[1] + z * d[2]) / float(d @ d), 0.0, 1.0)
    distance = np.sqrt((x - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (z - t * d[2]) ** 2)
    return np.asarray(radius_start + t * (radius_end - radius_start) - distance, dtype=np.float32)

"""A structure as a level function of space: positive inside, its contours where it is zero.

In the plane of a contour the level is the signed distance in mm from the polygons (even-odd, holes included); between
planes it is linear (shape-based interpolation, Raya and Udupa, IEEE TMI 9 (1990) 32). It is clamped, outside at half of
what it is inside, so that thin parts whose sections do not overlap from plane to plane keep their volume instead of
fading out between them. Rounded parts end as a cone, prisms as flat as in `doseeng.masks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng._kernels.transport import levels_through_field, signed_distances
from doseeng.grid import Grid
from doseeng.masks import PRISM_REACH_SPACINGS, ContourPlanes
from doseeng.transforms import DisplacementField

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

STEPS_PER_THICKNESS: Final = 12.0
"""Pixels across the mean thickness (the radius of a disc): straight pieces between them lose 0.3 % of a disc."""
CLAMP_INSIDE: Final = 0.5
CLAMP_OUTSIDE: Final = 0.25
"""Of the mean thickness. Half way between two planes a wall shows half of itself as it is in each of them."""
FINEST_MM: Final = 0.4
COARSEST_MM: Final = 1.5
MOST_PIXELS: Final = 12_000_000
"""Large structures with thin walls get coarser pixels, so that memory stays below 100 MB."""
PADDING_PIXELS: Final = 2
SAME_REACH_MM: Final = 1e-6
END_REACH: Final = 0.8
"""A rounded part closes as a cone over one spacing, cut off at this share of it. Cut again half a spacing away, the
cone has the area that masks take off the new ends, so that the volume stays; the cut balances the step when a plane
more (or less) meets the structure."""


@dataclass(frozen=True, slots=True, eq=False)
class LevelFunction:
    """The level of one structure in mm, on pixels in the planes of its contours.

    axes: (3, 3) rows u, v, normal. first_uv_mm: (2,) position of pixel (0, 0) along u and v; step_mm: pixel size.
    levels: (planes, nv, nu) float32. knot_mm: (m,) ascending heights at which the level is levels[knot_plane], linear
    between them; joined: (m - 1,) whether there is structure between two knots. outside_mm: the
    level everywhere else, negative.
    """

    axes: Array
    first_uv_mm: Array
    step_mm: float
    levels: Float32
    knot_mm: Array
    knot_plane: npt.NDArray[np.int64]
    joined: npt.NDArray[np.bool_]
    outside_mm: float

    def on_planes(
        self, first_uv_mm: Array, step_mm: float, size: tuple[int, int], height_mm: Array, pullback: DisplacementField
    ) -> Float32:
        """(heights, nv, nu) levels where the pullback takes the pixels of planes parallel to those of the contours.

        first_uv_mm, step_mm: of the pixels, along the axes of this function; size: (nv, nu).
        """
        out = np.empty((len(height_mm), *size), dtype=np.float32)
        in_plane = self.axes[:2] * step_mm
        to_point = np.column_stack([*in_plane, self.axes[2], first_uv_mm @ self.axes[:2]])
        scale = np.array([1 / self.step_mm, 1 / self.step_mm, 1.0])
        to_pixel = np.column_stack([self.axes * scale[:, None], -np.append(self.first_uv_mm, 0.0) * scale])
        stack = (self.levels, self.knot_mm, self.knot_plane, self.joined)
        to_field = np.ascontiguousarray(pullback.grid.patient_to_index_matrix)
        heights, outside = np.ascontiguousarray(height_mm, dtype=np.float64), np.float32(self.outside_mm)
        levels_through_field(stack, pullback.vectors_mm, to_field, to_point, to_pixel, heights, out, outside)
        return out


def level_function(planes: ContourPlanes) -> LevelFunction:
    """The level function of contours sorted into planes."""
    uv = [[p @ planes.axes[:2].T for p in polygons] for polygons in planes.polygons]
    thickness = mean_thickness_mm(planes)
    low, high = _bounds([p for polygons in uv for p in polygons])
    step = _step_mm(thickness, high - low, len(uv))
    first = low - PADDING_PIXELS * step
    nu, nv = np.ceil((high - first) / step).astype(int) + PADDING_PIXELS
    polygons = [(p - first) / step for plane in uv for p in plane]
    starts = np.cumsum([0, *map(len, polygons)])
    of_plane = np.cumsum([0, *map(len, uv)])
    levels = np.empty((len(uv), nv, nu), dtype=np.float32)
    signed_distances(np.ascontiguousarray(np.concatenate(polygons)), starts, of_plane, levels)
    levels *= np.float32(step)
    levels, knots, plane, joined = _with_ends(planes, levels)
    outside = -thickness * CLAMP_OUTSIDE
    np.clip(levels, outside, thickness * CLAMP_INSIDE, out=levels)
    return LevelFunction(planes.axes, first, step, levels, knots, plane, joined, outside)


def mean_thickness_mm(planes: ContourPlanes) -> float:
    """Twice the area over the perimeter, all planes together: the radius of a disc, the thickness of a thin wall."""
    area, perimeter = 0.0, 0.0
    for polygons in planes.polygons:
        for polygon in polygons:
            side = np.roll(polygon, -1, axis=0) - polygon
            centred = polygon - polygon.mean(axis=0)
            area += 0.5 * float(np.cross(centred, side).sum(axis=0) @ planes.axes[2])
            perimeter += float(np.linalg.norm(side, axis=1).sum())
    return max(2.0 * abs(area) / perimeter, FINEST_MM)


@dataclass(frozen=True, slots=True, eq=False)
class SurfacePoints:
    """Points on the surface of a structure. points_mm, normals: (n, 3) patient axes; area: (n,) relative, what each
    stands for: a lattice meets slanted surfaces more often than those along its axes.
    """

    points_mm: Array
    normals: Array
    area: Array


def surface_points(level: LevelFunction, step_mm: float) -> SurfacePoints:
    """Where the level is zero on the lines of a lattice of step_mm, fixed in space.

    Structures with the same axes share the lattice, so that equal ones have equal points.
    """
    nv, nu = level.levels.shape[1:]
    low = np.append(level.first_uv_mm, level.knot_mm[0])
    high = np.append(level.first_uv_mm + level.step_mm * np.array([nu - 1, nv - 1]), level.knot_mm[-1])
    first = np.floor(low / step_mm) - 2
    count = (np.ceil(high / step_mm) + 3 - first).astype(int)
    heights = (first[2] + np.arange(count[2])) * step_mm
    values = level.on_planes(first[:2] * step_mm, step_mm, (count[1], count[0]), heights, identity_field())
    inside = values > 0.0
    points, slopes = [], []
    for axis in range(3):
        before = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        beyond = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        index = np.argwhere(inside[before] != inside[beyond])
        step = np.eye(3, dtype=int)[axis]
        near, far = values[tuple(index.T)], values[tuple((index + step).T)]
        part = (near / (near - far)).astype(np.float64)[:, None]
        points.append(index + part * step)
        slopes.append((1 - part) * _gradient(values, index) + part * _gradient(values, index + step))
    slope = np.concatenate(slopes)[:, ::-1]
    normal = slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-9)
    area = 1.0 / np.maximum(np.abs(normal).sum(axis=1), 1.0)
    at = (np.concatenate(points)[:, ::-1] + first) * step_mm
    return SurfacePoints(at @ level.axes, normal @ level.axes, area)


def _gradient(values: Float32, index: npt.NDArray[np.intp]) -> Array:
    """(n, 3) central differences of values at inner voxels (n, 3), along the array axes."""
    return np.column_stack(
        [values[tuple((index + step).T)] - values[tuple((index - step).T)] for step in np.eye(3, dtype=int)]
    ).astype(np.float64)


def identity_field() -> DisplacementField:
    """The displacement field that moves nothing, anywhere."""
    return DisplacementField(Grid((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), np.zeros((1, 1, 1, 3), np.float32))


def _step_mm(thickness_mm: float, extent_mm: Array, planes: int) -> float:
    wanted = float(np.clip(thickness_mm / STEPS_PER_THICKNESS, FINEST_MM, COARSEST_MM))
    return max(wanted, float(np.sqrt(np.prod(extent_mm) * planes / MOST_PIXELS)))


def _bounds(points: list[Array]) -> tuple[Array, Array]:
    return np.min([p.min(axis=0) for p in points], axis=0), np.max([p.max(axis=0) for p in points], axis=0)


def _with_ends(
    planes: ContourPlanes, levels: Float32
) -> tuple[Float32, Array, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Levels with those of the ends appended; heights and level planes of the knots; what is joined."""
    knots: list[tuple[float, int, bool]] = []
    ends: list[Float32] = []
    apart = planes.upper_mm[:-1] < planes.lower_mm[1:]
    for index, position in enumerate(planes.position_mm):
        if index == 0 or apart[index - 1]:
            height, level = _end(planes, levels[index], planes.lower_mm[index], position)
            ends.append(level)
            knots.append((height, len(levels) + len(ends) - 1, True))
        knots.append((float(position), index, True))
        if index == len(apart) or apart[index]:
            height, level = _end(planes, levels[index], planes.upper_mm[index], position)
            ends.append(level)
            knots.append((height, len(levels) + len(ends) - 1, False))
    heights, plane, joined = zip(*knots, strict=True)
    return np.concatenate([levels, ends]), np.array(heights), np.array(plane), np.array(joined[:-1])


def _end(planes: ContourPlanes, level: Float32, face_mm: float, position_mm: float) -> tuple[float, Float32]:
    """Height and level of the end of a part, from the level of its last plane and the face that masks give it."""
    reach = face_mm - position_mm
    if abs(abs(reach) - PRISM_REACH_SPACINGS * planes.spacing_mm) < SAME_REACH_MM:
        return face_mm, level
    return position_mm + np.sign(reach) * END_REACH * planes.spacing_mm, level - np.float32(END_REACH) * level.max()

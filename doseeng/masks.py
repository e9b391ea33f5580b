"""Structures as voxel weights: which share of every voxel lies inside the contours.

Contours are sorted into parallel planes. In a plane all polygons combine by even-odd filling with exact pixel areas.
Each plane stands for the slab that reaches half way to its neighbours; a part ends ROUNDED_REACH_SPACINGS beyond its
first and last plane, or half a spacing where it is a prism. A gap of more than MAX_GAP_SPACINGS plane spacings ends a
part: nothing is filled in where nothing was drawn (`contour_notices` names it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng._kernels.raster import coverage as pixel_coverage
from doseeng.errors import Notice, StructureError
from doseeng.grid import Grid, Volume, crop_grid, resample
from doseeng.structures import Structure

Array = npt.NDArray[np.float64]

# Contours closer than this along their normal belong to one plane; planning systems round positions to 0.01 mm.
SAME_PLANE_MM: Final = 0.05
# A contour that leaves its plane by more than this is not planar: rounding stays far below, a 3D curve far above.
PLANARITY_MM: Final = 0.5
# Planes at most this many plane spacings apart are joined; a plane left out makes two.
MAX_GAP_SPACINGS: Final = 1.5
# How far a part reaches beyond its last contour, in plane spacings: a cone that closes over half a spacing has the
# volume of a slab of a sixth. In two Eclipse plans the ends hold 5 to 60 %, on average a third, of what flat ends of
# half a spacing would hold; flat ends make a target of 13 cm3 2.7 % too large and its minimum dose too low.
ROUNDED_REACH_SPACINGS: Final = 1.0 / 6.0
# A last contour that repeats its neighbour ends a prism (phantoms, boxes) and stands for half a spacing like any other.
PRISM_REACH_SPACINGS: Final = 0.5
SAME_AREA: Final = 1e-3
# Sine of the tilt below which contours count as parallel to the grid's slices: 0.1 mm over 200 mm.
PARALLEL_SINE: Final = 5e-4


@dataclass(frozen=True, slots=True, eq=False)
class ContourPlanes:
    """The contours of one structure, sorted into planes that stand for slabs.

    axes: (3, 3) rows u, v, normal (unit, patient axes). position_mm: (n,) ascending, of the planes along the normal.
    lower_mm, upper_mm: (n,) faces of the slabs; where planes are joined, upper_mm[i] == lower_mm[i + 1]. polygons: per
    plane, (m, 3) patient points; holes turn against the polygon around them. spacing_mm: usual distance of the planes.
    """

    axes: Array
    position_mm: Array
    lower_mm: Array
    upper_mm: Array
    polygons: tuple[tuple[Array, ...], ...]
    spacing_mm: float

    @property
    def volume_cm3(self) -> float:
        """Sum over planes of even-odd area times slab thickness."""
        areas = [sum(_signed_area(p @ self.axes[:2].T) for p in polygons) for polygons in self.polygons]
        return float(np.dot(np.abs(areas), self.upper_mm - self.lower_mm)) / 1000.0

    def points_mm(self) -> Array:
        """(m, 3) patient points of all contours, on the two faces of their slabs."""
        normal, at = self.axes[2], self.position_mm
        faces = zip(self.polygons, self.lower_mm - at, self.upper_mm - at, strict=True)
        return np.concatenate([p + normal * d for polygons, low, high in faces for p in polygons for d in (low, high)])


def mask(structure: Structure, grid: Grid, slice_mm: float | None = None) -> Volume:
    """Share (0..1, float32) of every voxel of `grid` that lies inside the structure.

    Exact for grids with an axis along the contour normal (any axis, any rotation about it); oblique grids sample a
    mask made in the frame of the contours. slice_mm: thickness of a structure drawn on a single plane. Voxels outside
    the structure, and all of a structure outside the grid, are 0; see `coverage`. StructureError when the structure has
    no usable contour.
    """
    return mask_of_planes(contour_planes(structure, slice_mm), grid)


def volume_cm3(structure: Structure, slice_mm: float | None = None) -> float:
    """Volume in cm3 from the contours alone: sum over planes of even-odd area times thickness."""
    return contour_planes(structure, slice_mm).volume_cm3


def coverage(structure: Structure, grid: Grid, slice_mm: float | None = None) -> float:
    """Share (0..1) of the volume of a structure that lies within a grid."""
    inside = float(mask(structure, grid, slice_mm).values.sum(dtype=np.float64)) * grid.voxel_volume_cm3
    return min(inside / volume_cm3(structure, slice_mm), 1.0)


def contour_notices(structure: Structure, slice_mm: float | None = None) -> tuple[Notice, ...]:
    """What a physicist should know about the contours of a structure: planes left out between others."""
    planes = contour_planes(structure, slice_mm)
    apart = np.flatnonzero(planes.upper_mm[:-1] < planes.lower_mm[1:])
    gaps = [f"{planes.position_mm[i]:.1f} to {planes.position_mm[i + 1]:.1f} mm" for i in apart]
    if not gaps:
        return ()
    message = f"no contours from {', '.join(gaps)} (planes every {planes.spacing_mm:.2f} mm); taken as separate parts"
    return (Notice("contour-gap", structure.name, message),)


def contour_planes(structure: Structure, slice_mm: float | None = None) -> ContourPlanes:
    """Sort the contours of a structure into parallel planes and slabs; StructureError when that is impossible."""
    contours = [np.asarray(c, dtype=np.float64) for c in structure.contours if len(c) >= 3]
    newell = [_newell(c) for c in contours]
    if not contours or max(np.linalg.norm(n) for n in newell) == 0:
        raise StructureError(
            f"structure '{structure.name}' has no closed contour that encloses an area ({len(structure.contours)} "
            "contours found); contour it in the planning system or leave it out"
        )
    normal = max(newell, key=lambda n: float(np.linalg.norm(n)))
    axes = _frame(normal / np.linalg.norm(normal))
    heights = [c @ axes[2] for c in contours]
    worst = max(float(np.ptp(h)) for h in heights)
    if worst > PLANARITY_MM:
        raise StructureError(
            f"a contour of structure '{structure.name}' leaves the plane of the others by {worst:.2f} mm (at most "
            f"{PLANARITY_MM} mm expected): contours must lie in parallel planes; export it on the image slices"
        )
    position = np.array([h.mean() for h in heights])
    order = np.argsort(position, kind="stable")
    starts = np.flatnonzero(np.diff(position[order], prepend=-np.inf) > SAME_PLANE_MM)
    groups = np.split(order, starts[1:])
    polygons = tuple(_turned_holes([contours[i] for i in group], axes) for group in groups)
    position_mm = np.array([position[group].mean() for group in groups])
    spacing = _plane_spacing(structure, position_mm, slice_mm)
    area = np.array([abs(sum(_signed_area(p @ axes[:2].T) for p in group)) for group in polygons])
    lower, upper = _slab_faces(position_mm, area, spacing)
    return ContourPlanes(axes, position_mm, lower, upper, polygons, spacing)


def mask_of_planes(planes: ContourPlanes, grid: Grid) -> Volume:
    """`mask` of contours that are already sorted."""
    along = np.abs(planes.axes[2] @ grid.direction)
    axis = int(np.argmax(along))
    if np.linalg.norm(np.delete(along, axis)) > PARALLEL_SINE:
        return _oblique_mask(planes, grid)
    values = np.zeros(grid.shape, dtype=np.float32)
    # Slices along the contour normal first; u is the faster of the two in-plane axes in memory.
    slices = np.moveaxis(values, 2 - axis, 0)
    u_axis, v_axis = (a for a in range(3) if a != axis)
    weights = _slice_weights(planes, grid, axis)
    for plane, polygons in enumerate(planes.polygons):
        hit = np.flatnonzero(weights[:, plane])
        if not len(hit):
            continue
        uv = [grid.to_index(p)[:, [u_axis, v_axis]] + 0.5 for p in polygons]
        low, cover = plane_coverage(uv, slices.shape[:0:-1])
        nv, nu = cover.shape
        target = slices[hit[0] : hit[-1] + 1, low[1] : low[1] + nv, low[0] : low[0] + nu]
        target += weights[hit[0] : hit[-1] + 1, plane, None, None] * cover
    return Volume(grid, np.minimum(values, 1.0, out=values))


def plane_coverage(uv: list[Array], size: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Even-odd coverage of the pixels that polygons touch: first pixel (u, v), and (nv, nu) shares from there.

    uv: polygons (m, 2) in pixels, pixel c spans c..c + 1. size: number of pixels (u, v) from 0; the rest is cut off.
    """
    low = np.maximum(np.floor(np.min([p.min(axis=0) for p in uv], axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(np.max([p.max(axis=0) for p in uv], axis=0)).astype(int), size)
    low = np.minimum(low, size)
    nu, nv = np.maximum(high - low, 0)
    starts = np.cumsum([0, *map(len, uv)])
    return low, pixel_coverage(np.concatenate(uv) - low, starts, nv, nu)


def _oblique_mask(planes: ContourPlanes, grid: Grid) -> Volume:
    # Voxels of the same size along the contours' axes: trilinear sampling then blurs about as a voxel average would.
    spacing = np.asarray(grid.spacing_mm)[np.argmax(np.abs(planes.axes @ grid.direction), axis=1)]
    points = planes.points_mm() @ planes.axes.T
    low, high = points.min(axis=0), points.max(axis=0)
    nx, ny, nz = np.ceil((high - low) / spacing).astype(int) + 2
    x, y, z = (low - spacing / 2) @ planes.axes
    sx, sy, sz = spacing
    own = mask_of_planes(planes, Grid((nz, ny, nx), (sx, sy, sz), (x, y, z), planes.axes.T))
    part = crop_grid(grid, own.grid.corners_mm(), 0.0)
    nz, ny, nx = part.shape
    i, j, k = np.rint(grid.to_index(part.origin_mm)).astype(int)
    values = np.zeros(grid.shape, dtype=np.float32)
    values[k : k + nz, j : j + ny, i : i + nx] = resample(own, part, 0.0).values
    return Volume(grid, values)


def _slice_weights(planes: ContourPlanes, grid: Grid, axis: int) -> npt.NDArray[np.float32]:
    """(slices of the grid along `axis`, planes) share of each slice's thickness that each slab fills."""
    n = grid.shape[2 - axis]
    index = np.tile(grid.to_index(planes.polygons[0][0].mean(axis=0)), (n + 1, 1))
    index[:, axis] = np.arange(n + 1) - 0.5
    edges = grid.to_patient(index) @ planes.axes[2]
    filled = np.diff(np.clip(edges[:, None], planes.lower_mm, planes.upper_mm), axis=0)
    return np.asarray(np.abs(filled) / grid.spacing_mm[axis], dtype=np.float32)


def _slab_faces(position_mm: Array, area_mm2: Array, spacing_mm: float) -> tuple[Array, Array]:
    gap = np.diff(position_mm)
    joined = gap <= MAX_GAP_SPACINGS * spacing_mm
    below, above = np.append(False, joined), np.append(joined, False)
    reach_down = _end_reach(area_mm2, np.where(above, np.roll(area_mm2, -1), 0.0)) * spacing_mm
    reach_up = _end_reach(area_mm2, np.where(below, np.roll(area_mm2, 1), 0.0)) * spacing_mm
    lower = position_mm - np.where(below, np.append(0.0, gap) / 2, reach_down)
    upper = position_mm + np.where(above, np.append(gap, 0.0) / 2, reach_up)
    # One number for a shared face, so that rounding opens no gap.
    lower[1:] = np.where(joined, upper[:-1], lower[1:])
    return lower, upper


def _end_reach(area_mm2: Array, inner_mm2: Array) -> Array:
    """How far each plane would reach as the end of a part, in plane spacings; inner_mm2 is 0 for a plane alone."""
    repeated = np.abs(area_mm2 - inner_mm2) <= SAME_AREA * inner_mm2
    return np.where(repeated | (inner_mm2 == 0.0), PRISM_REACH_SPACINGS, ROUNDED_REACH_SPACINGS)


def _plane_spacing(structure: Structure, position_mm: Array, slice_mm: float | None) -> float:
    if len(position_mm) > 1:
        # The lower median is a distance that occurs, and a few planes left out do not change it.
        gaps = np.sort(np.diff(position_mm))
        return float(gaps[(len(gaps) - 1) // 2])
    if slice_mm is None:
        raise StructureError(
            f"structure '{structure.name}' lies on a single plane, so its thickness is unknown; give the slice spacing "
            "of its image (slice_mm)"
        )
    return float(slice_mm)


def _newell(points: Array) -> Array:
    """Twice the vector area of a closed polygon (Newell's method)."""
    centred = points - points.mean(axis=0)
    return np.asarray(np.cross(centred, np.roll(centred, -1, axis=0)).sum(axis=0))


def _frame(normal: Array) -> Array:
    """Rows u, v, normal: right-handed, normal along its largest component, u along a patient axis where possible."""
    normal = normal * np.sign(normal[np.argmax(np.abs(normal))])
    normal = np.where(np.abs(normal) < 1e-9, 0.0, normal)
    start = np.eye(3)[np.argmin(np.abs(normal))]
    u = start - (start @ normal) * normal
    u /= np.linalg.norm(u)
    return np.stack([u, np.cross(normal, u), normal])


def _turned_holes(polygons: list[Array], axes: Array) -> tuple[Array, ...]:
    """Polygons of one plane, counter-clockwise, but clockwise where an odd number of the others encloses them."""
    uv = [p @ axes[:2].T for p in polygons]
    turned = []
    for index, polygon in enumerate(polygons):
        around = sum(_encloses(uv[other], uv[index]) for other in range(len(uv)) if other != index)
        wanted = -1.0 if around % 2 else 1.0
        turned.append(polygon if _signed_area(uv[index]) * wanted >= 0 else polygon[::-1])
    return tuple(turned)


def _signed_area(uv: Array) -> float:
    u, v = (uv - uv.mean(axis=0)).T
    return 0.5 * float(np.dot(u, np.roll(v, -1)) - np.dot(v, np.roll(u, -1)))


def _encloses(outer: Array, inner: Array) -> bool:
    """True when most points of `inner` lie in `outer` (most: holes may touch the polygon around them)."""
    if np.any(inner.min(axis=0) > outer.max(axis=0)) or np.any(inner.max(axis=0) < outer.min(axis=0)):
        return False
    follower = np.roll(outer, -1, axis=0)
    u, v = inner[:, :1], inner[:, 1:]
    straddles = (outer[:, 1] > v) != (follower[:, 1] > v)
    rise = np.where(outer[:, 1] == follower[:, 1], 1.0, follower[:, 1] - outer[:, 1])
    crossing = outer[:, 0] + (v - outer[:, 1]) * (follower[:, 0] - outer[:, 0]) / rise
    return bool(((straddles & (u < crossing)).sum(axis=1) % 2).mean() > 0.5)

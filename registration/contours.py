"""Planned contours on today's anatomy, and what changed.

A structure becomes a level function (`registration.surface`), which the pullback carries to the treatment frame; its
zero lines in planes parallel to the planned ones are today's contours. Planes are the planned ones, continued at their
spacing as far as the structure has moved, so contours drawn on CT slices stay on the slices of the virtual CT.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import contourpy
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from doseeng.errors import Notice, StructureError
from doseeng.grid import Grid
from doseeng.masks import ContourPlanes, contour_planes, mask_of_planes
from doseeng.structures import Structure, StructureSet
from doseeng.transforms import DisplacementField
from registration.surface import LevelFunction, SurfacePoints, level_function, mean_thickness_mm, surface_points

Array = npt.NDArray[np.float64]


class _Motion(Enum):
    WITH_TISSUE = "deformed"
    RIGID = "shifted by the mean displacement of its contours"
    FIXED = "left where it was planned"


_MOTION: Final = {
    # A bolus and a marker keep their shape and stay where they are fastened.
    "BOLUS": _Motion.RIGID,
    "MARKER": _Motion.RIGID,
    "REGISTRATION": _Motion.RIGID,
    # Couch and fixation belong to the table, the others to the beams: neither follows the tissue.
    "SUPPORT": _Motion.FIXED,
    "FIXATION": _Motion.FIXED,
    "ISOCENTER": _Motion.FIXED,
    "DOSE_REGION": _Motion.FIXED,
    "IRRAD_VOLUME": _Motion.FIXED,
    "TREATED_VOLUME": _Motion.FIXED,
}
"""By RT ROI Interpreted Type; all others deform."""

CONTOUR_DECIMALS: Final = 3
"""Micrometres; DICOM decimal strings of a long contour stay short."""
STRAIGHT_MM: Final = 0.003
"""Points that lie so close to the line between their neighbours say nothing."""
THINNING_PASSES: Final = 4
SMALLEST_PIXELS: Final = 0.25
"""Polygons below this area in pixels are noise of the lattice."""
MARGIN_MM: Final = 2.0
"""Round the box where the pushforward says that a structure lies today, besides the inconsistency of both fields."""
VOXELS_FOR_CHANGE: Final = 60_000
FINEST_CHANGE_MM: Final = 0.5
COARSEST_CHANGE_MM: Final = 3.0
MOST_VOXELS: Final = 6_000_000
"""Of the box round both, so that a thin wall round the body takes seconds; it then has fewer voxels through it."""
MOST_QUERIES: Final = 20_000
"""Surface points whose distance is asked: their mean is known to a hundredth of its spread."""


@dataclass(frozen=True, slots=True)
class ContourChange:
    """How one structure changed from planning to today.

    planned_cm3, today_cm3: from the contours alone, as DVHs count them. shift_mm: centroid along patient x, y, z,
    today - planned. mean_surface_mm: mean distance of the surfaces, averaged over both ways. dice: twice the common
    volume over the sum of both.
    """

    structure: str
    planned_cm3: float
    today_cm3: float
    shift_mm: tuple[float, float, float]
    mean_surface_mm: float
    dice: float

    @property
    def volume_ratio(self) -> float:
        """Today's volume over the planned one."""
        return self.today_cm3 / self.planned_cm3


def propagated(
    structures: StructureSet,
    pushforward: DisplacementField,
    pullback: DisplacementField,
    slice_mm: float | None = None,
) -> StructureSet:
    """The planned structures in the treatment frame: same numbers, names, kinds, colours and overrides, in order.

    pullback: treatment points -> planning points; pushforward: the way back. slice_mm: slice spacing of the planning
    CT, the thickness of structures drawn on a single plane. Bolus and markers are shifted, couch and fixation stay
    (see `_MOTION`). Empty structures stay empty. One whose contours cannot be used, or that no plane meets today,
    becomes empty with a Notice; the others go on. The UIDs of the set, its frame of reference and image are left blank:
    they belong to the image that the caller makes.
    """
    made, notices = [], list(structures.notices)
    for structure in structures.structures:
        contours: tuple[Array, ...] = ()
        try:
            contours = _contours_today(structure, pushforward, pullback, slice_mm)
        except StructureError as error:
            notices.append(Notice("contours-not-propagated", structure.name, str(error)))
        else:
            if structure.contours and not contours:
                text = "the structure lies between the planes of its contours today; its contours are left out"
                notices.append(Notice("contours-lost", structure.name, text))
        made.append(replace(structure, contours=contours))
    return replace(
        structures,
        uid="",
        frame_of_reference_uid="",
        referenced_series_uid="",
        structures=tuple(made),
        notices=tuple(notices),
    )


def change(planned: Structure, today: Structure, slice_mm: float | None = None) -> ContourChange:
    """How a structure changed; StructureError when one of the two has no usable contour.

    slice_mm: slice spacing of the planning CT, for structures on a single plane.
    """
    before, after = contour_planes(planned, slice_mm), contour_planes(today, slice_mm)
    step = _change_step_mm(before, after)
    grid = _common_grid(before, after, step)
    a, b = mask_of_planes(before, grid).values, mask_of_planes(after, grid).values
    overlap = 2.0 * float(np.minimum(a, b).sum(dtype=np.float64))
    dice = overlap / float(a.sum(dtype=np.float64) + b.sum(dtype=np.float64))
    shift = _centroid_mm(after) - _centroid_mm(before)
    distance = _mean_surface_mm(level_function(before), level_function(after), step)
    moved = (float(shift[0]), float(shift[1]), float(shift[2]))
    return ContourChange(planned.name, before.volume_cm3, after.volume_cm3, moved, distance, dice)


def changes(
    planned: StructureSet, today: StructureSet, volume_tolerance: float, slice_mm: float | None = None
) -> tuple[tuple[ContourChange, ...], tuple[Notice, ...]]:
    """The change of every structure that has contours on both days, and a Notice for each that is implausible.

    volume_tolerance: share of the planned volume by which it may change, 0.3 for 30 %.
    """
    found, notices = [], []
    for before, after in zip(planned.structures, today.structures, strict=True):
        if before.is_empty or after.is_empty:
            continue
        try:
            one = change(before, after, slice_mm)
        except StructureError as error:
            notices.append(Notice("change-not-measured", before.name, str(error)))
            continue
        found.append(one)
        if abs(one.volume_ratio - 1.0) > volume_tolerance:
            text = (
                f"volume {one.today_cm3:.1f} cm3 today, {one.planned_cm3:.1f} cm3 planned "
                f"({100 * (one.volume_ratio - 1):+.0f} %, at most {100 * volume_tolerance:.0f} % expected); "
                "look at the propagated contours"
            )
            notices.append(Notice("volume-changed", before.name, text))
    return tuple(found), tuple(notices)


def _contours_today(
    structure: Structure, pushforward: DisplacementField, pullback: DisplacementField, slice_mm: float | None
) -> tuple[Array, ...]:
    motion = _MOTION.get(structure.kind.upper(), _Motion.WITH_TISSUE)
    if structure.is_empty or motion is _Motion.FIXED:
        return structure.contours
    if motion is _Motion.RIGID:
        shift = pushforward.at(np.concatenate(structure.contours)).mean(axis=0, dtype=np.float64)
        return tuple(contour + shift for contour in structure.contours)
    planes = contour_planes(structure, slice_mm)
    level = level_function(planes)
    low, high = _box_today(planes, level, pushforward, pullback)
    heights = _cut_heights(planes, low[2], high[2])
    nu, nv = np.ceil((high[:2] - low[:2]) / level.step_mm).astype(int) + 1
    values = level.on_planes(low[:2], level.step_mm, (nv, nu), heights, pullback)
    # Nothing lies on the border of the box, so that every line closes.
    values[:, (0, -1), :] = values[:, :, (0, -1)] = level.outside_mm
    u, v = (low[axis] + level.step_mm * np.arange(count) for axis, count in ((0, nu), (1, nv)))
    contours = []
    for height, plane in zip(heights, values, strict=True):
        if plane.max() <= 0.0:
            continue
        for line in contourpy.contour_generator(u, v, plane).lines(0.0):
            polygon = _thinned(np.asarray(line, dtype=np.float64)[:-1])
            if len(polygon) >= 3 and _area_mm2(polygon) > SMALLEST_PIXELS * level.step_mm**2:
                points = np.column_stack([polygon, np.full(len(polygon), height)]) @ planes.axes
                contours.append(np.round(points, CONTOUR_DECIMALS))
    return tuple(contours)


def _box_today(
    planes: ContourPlanes, level: LevelFunction, pushforward: DisplacementField, pullback: DisplacementField
) -> tuple[Array, Array]:
    """Box along the contours' axes that holds the structure today, as far as both fields agree where it is."""
    points = planes.points_mm()
    today = pushforward.apply(points)
    inconsistency = float(np.linalg.norm(pullback.apply(today) - points, axis=1).max())
    margin = MARGIN_MM + 2.0 * level.step_mm + 2.0 * inconsistency
    along = today @ planes.axes.T
    return along.min(axis=0) - margin, along.max(axis=0) + margin


def _cut_heights(planes: ContourPlanes, low_mm: float, high_mm: float) -> Array:
    """The planes of the contours, gaps between them filled at their spacing, continued as far as low_mm and high_mm."""
    own, spacing = planes.position_mm, planes.spacing_mm
    counts = np.maximum(np.rint(np.diff(own) / spacing).astype(int), 1)
    between = [np.linspace(a, b, n, endpoint=False) for a, b, n in zip(own[:-1], own[1:], counts, strict=True)]
    below = own[0] - spacing * np.arange(int((own[0] - low_mm) / spacing), 0, -1)
    above = own[-1] + spacing * np.arange(1, int((high_mm - own[-1]) / spacing) + 1)
    heights = np.concatenate([below, *between, own[-1:], above])
    return heights[(heights >= low_mm) & (heights <= high_mm)]


def _thinned(polygon: Array) -> Array:
    """A closed polygon without the points that lie on the line between their neighbours."""
    for turn in range(THINNING_PASSES):
        chord = np.roll(polygon, -1, axis=0) - np.roll(polygon, 1, axis=0)
        to_point = polygon - np.roll(polygon, 1, axis=0)
        away = np.abs(chord[:, 0] * to_point[:, 1] - chord[:, 1] * to_point[:, 0])
        straight = away <= STRAIGHT_MM * np.linalg.norm(chord, axis=1)
        # Every second point only, and never two neighbours across the seam: each keeps both ends of its line.
        index = np.arange(len(polygon))
        polygon = polygon[~(straight & (index % 2 == turn % 2) & (index < len(polygon) - 1))]
    return polygon


def _area_mm2(polygon: Array) -> float:
    x, y = (polygon - polygon.mean(axis=0)).T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def _centroid_mm(planes: ContourPlanes) -> Array:
    """Volume centroid (3,) of the slabs, patient axes."""
    moment, volume = np.zeros(3), 0.0
    middle = (planes.lower_mm + planes.upper_mm) / 2.0
    for polygons, height, thick in zip(planes.polygons, middle, planes.upper_mm - planes.lower_mm, strict=True):
        for polygon in polygons:
            u, v = (polygon @ planes.axes[:2].T).T
            cross = (u * np.roll(v, -1) - np.roll(u, -1) * v) * thick
            own = cross.sum() / 2.0
            uv = [float((cross * (w + np.roll(w, -1))).sum()) / 6.0 for w in (u, v)]
            moment += np.array([*uv, own * height])
            volume += own
    return np.asarray((moment / volume) @ planes.axes)


def _change_step_mm(before: ContourPlanes, after: ContourPlanes) -> float:
    wanted = (min(before.volume_cm3, after.volume_cm3) * 1000.0 / VOXELS_FOR_CHANGE) ** (1 / 3)
    # At least three voxels through a thin wall, or its surface falls through the lattice.
    wanted = float(np.clip(min(wanted, mean_thickness_mm(before) / 3.0), FINEST_CHANGE_MM, COARSEST_CHANGE_MM))
    box_mm3 = float(np.prod(np.ptp(np.concatenate([before.points_mm(), after.points_mm()]), axis=0)))
    return max(wanted, (box_mm3 / MOST_VOXELS) ** (1 / 3))


def _common_grid(before: ContourPlanes, after: ContourPlanes, step_mm: float) -> Grid:
    """A grid along the axes of `before` that holds both structures."""
    points = np.concatenate([before.points_mm(), after.points_mm()]) @ before.axes.T
    low = points.min(axis=0) - step_mm
    nx, ny, nz = np.ceil((points.max(axis=0) - low) / step_mm).astype(int) + 1
    x, y, z = low @ before.axes
    return Grid((nz, ny, nx), (step_mm, step_mm, step_mm), (x, y, z), before.axes.T)


def _mean_surface_mm(before: LevelFunction, after: LevelFunction, step_mm: float) -> float:
    one, other = surface_points(before, step_mm), surface_points(after, step_mm)
    return (_mean_distance_mm(one, other) + _mean_distance_mm(other, one)) / 2.0


def _mean_distance_mm(surface: SurfacePoints, other: SurfacePoints) -> float:
    """Mean over one surface of the distance from the other, to the plane that touches it at its nearest point."""
    asked = slice(None, None, max(len(surface.area) // MOST_QUERIES, 1))
    points = surface.points_mm[asked]
    _, nearest = cKDTree(other.points_mm).query(points)
    away = ((points - other.points_mm[nearest]) * other.normals[nearest]).sum(axis=1)
    return float(np.average(np.abs(away), weights=surface.area[asked]))

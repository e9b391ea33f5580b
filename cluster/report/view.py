"""Where to look: the centre and extent of the dose pictures, in the patient frame, and what 100 % means."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.case import Case
from doseeng.grid import Grid, Volume, resample
from doseeng.structures import Structure
from robust.goals import Goal
from robust.result import RobustReport

Array = npt.NDArray[np.float64]

_DOSE_REGION: Final = 0.1
"""Share of the reference dose that counts as irradiated when a picture is cropped."""
_MARGIN_MM: Final = 30.0
"""What stays visible beyond the irradiated region along the patient; without a body outline, twice as much."""
_BODY_MARGIN_MM: Final = 6.0
_PIXELS: Final = 300
"""Pixels along the longer side; a CT of 512 pixels over 500 mm has about as many over the body."""
_FINEST_PIXEL_MM: Final = 0.5


class Plane(StrEnum):
    """The planes of a picture; the value names it for people."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"

    @property
    def axis(self) -> int:
        """The patient axis (0 = x, 1 = y, 2 = z) the plane is perpendicular to."""
        return {"axial": 2, "coronal": 1, "sagittal": 0}[self.value]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What all pictures of a report share.

    low_mm, high_mm: (3,) corners of the region shown. centre_mm: (3,) point in all three planes. centre_name: what
    that point is. pixel_mm: edge of a pixel. stack_mm: positions of the axial stack, ascending; the middle one that
    equals centre_mm[2] is the one of the three planes. reference_gy: dose of 100 %; reference_name says which.
    """

    low_mm: Array
    high_mm: Array
    centre_mm: Array
    centre_name: str
    pixel_mm: float
    stack_mm: tuple[float, ...]
    reference_gy: float
    reference_name: str

    def plane_grid(self, plane: Plane, position_mm: float) -> Grid:
        """The display grid of a plane: axis-parallel, one voxel thick, square pixels."""
        count = np.maximum(np.round((self.high_mm - self.low_mm) / self.pixel_mm).astype(int), 1)
        origin = self.low_mm + self.pixel_mm / 2
        count[plane.axis] = 1
        origin[plane.axis] = position_mm
        p = self.pixel_mm
        return Grid((count[2], count[1], count[0]), (p, p, p), tuple(origin))


def make_view(report: RobustReport, case: Case, stack_size: int) -> View:
    """The view of a robustness report: see `view_of`; the dose is the nominal one."""
    return view_of(case, report.nominal.volume, "nominal dose", [r.goal for r in report.goals], stack_size)


def view_of(case: Case, dose: Volume | None, dose_name: str, goals: Iterable[Goal], stack_size: int) -> View:
    """The view of a case: through the centre of the target with the highest prescription, else of the dose.

    Without a prescription, in the plan or in a goal, 100 % is the maximum of `dose`, which is called `dose_name`.
    Without a dose, the target, or else the whole image, counts as irradiated.
    """
    target = main_target(case)
    reference_gy, reference_name = _reference(case, dose, dose_name, goals)
    if dose is not None:
        irradiated = _irradiated_box(dose, reference_gy)
    else:
        irradiated = _contour_box(target) if target is not None else _box(case.ct.grid.corners_mm())
    if target is not None:
        box = _contour_box(target)
        centre, centre_name = box.mean(axis=0), f"centre of {target.name}"
    else:
        box = irradiated
        centre, centre_name = irradiated.mean(axis=0), "centre of the irradiated region"
    low, high = _region(case, irradiated, box)
    spacing_z = slice_gap_mm(case.ct.grid)
    centre = np.clip(centre, low, high)
    centre[2] = _nearest_slice(case.ct.grid, centre, spacing_z)
    return View(
        low_mm=low,
        high_mm=high,
        centre_mm=centre,
        centre_name=centre_name,
        pixel_mm=max(float((high - low).max()) / _PIXELS, _FINEST_PIXEL_MM),
        stack_mm=_stack(float(centre[2]), spacing_z, box[:, 2], (low[2], high[2]), stack_size),
        reference_gy=reference_gy,
        reference_name=reference_name,
    )


def main_target(case: Case) -> Structure | None:
    """The contoured structure with the highest prescription; without one, the first contoured target; else None."""
    contoured = {s.number: s for s in case.structures.structures if not s.is_empty}
    prescribed = [p for p in case.plan.prescriptions if p.roi_number in contoured]
    if prescribed:
        return contoured[max(prescribed, key=lambda p: p.dose_gy).roi_number]
    return next((s for s in contoured.values() if s.is_target), None)


def slice_gap_mm(image: Grid) -> float:
    """How far apart the voxels of an image are along the patient; the slice spacing of an axial image."""
    return float(np.abs(image.direction[2]) @ np.asarray(image.spacing_mm))


def slice_values(volume: Volume, grid: Grid, outside: float) -> npt.NDArray[np.float32]:
    """Values of a volume on a one-voxel-thick display grid, as a picture (rows, columns)."""
    return resample(volume, grid, outside).values.squeeze(axis=grid.shape.index(1))


def highest(values: npt.NDArray[np.float32]) -> float:
    """The highest finite value, 0 if there is none: a broken dose must still make a report that says so."""
    return float(np.max(values, initial=0.0, where=np.isfinite(values)))


def _reference(case: Case, dose: Volume | None, dose_name: str, goals: Iterable[Goal]) -> tuple[float, str]:
    doses = [p.dose_gy for p in case.plan.prescriptions]
    if doses:
        return max(doses), "prescription"
    doses = [goal.prescription_gy for goal in goals if goal.prescription_gy]
    if doses:
        return max(doses), "prescription of the goals"
    return (highest(dose.values) if dose is not None else 0.0) or 1.0, f"maximum of the {dose_name}"


def _irradiated_box(dose: Volume, reference_gy: float) -> Array:
    """(2, 3) lowest and highest patient coordinates of the irradiated voxels; of the dose grid if there is none."""
    hit = np.argwhere(dose.values >= _DOSE_REGION * reference_gy)[:, ::-1]
    if not len(hit):
        return _box(dose.grid.corners_mm())
    low, high = hit.min(axis=0) - 0.5, hit.max(axis=0) + 0.5
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, 8).T
    return _box(dose.grid.to_patient(corners))


def _contour_box(structure: Structure) -> Array:
    return _box(np.concatenate(structure.contours))


def _box(points: Array) -> Array:
    return np.array([points.min(axis=0), points.max(axis=0)])


def _region(case: Case, irradiated: Array, target: Array) -> tuple[Array, Array]:
    """Corners of what is shown: the body across the patient, the irradiated region along it, within the CT."""
    body = case.structures.external()
    both = _box(np.concatenate([irradiated, target]))
    margin = np.full(3, _MARGIN_MM if body else 2 * _MARGIN_MM)
    low, high = both[0] - margin, both[1] + margin
    if body is not None:
        outline = _contour_box(body)
        low[:2] = outline[0, :2] - _BODY_MARGIN_MM
        high[:2] = outline[1, :2] + _BODY_MARGIN_MM
    image = _box(case.ct.grid.corners_mm())
    low, high = np.maximum(low, image[0]), np.minimum(high, image[1])
    return np.where(low < high, low, image[0]), np.where(low < high, high, image[1])


def _nearest_slice(grid: Grid, centre: Array, spacing_z: float) -> float:
    """The axial CT slice next to a point, so that axial pictures show measured and not interpolated slices."""
    start = float(grid.to_patient((0.0, 0.0, 0.0))[2])
    return start + round((float(centre[2]) - start) / spacing_z) * spacing_z


def _stack(centre: float, spacing: float, target: Array, shown: tuple[float, float], size: int) -> tuple[float, ...]:
    """Up to `size` positions on CT slices, centred, that reach beyond both ends of the target, within what is shown."""
    half = max(size // 2, 0)
    reach = max(float(target[1]) - centre, centre - float(target[0])) + spacing
    step = max(math.ceil(reach / (half * spacing)), 1) * spacing if half else spacing
    positions = [centre + i * step for i in range(-half, half + 1)]
    return tuple(z for z in positions if z == centre or shown[0] <= z <= shown[1])

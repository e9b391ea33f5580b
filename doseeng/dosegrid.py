"""Where dose is computed: the grid of a case, and what is named about it."""

from __future__ import annotations

from typing import Final

import numpy as np

from doseeng.case import Case
from doseeng.errors import Notice
from doseeng.grid import Grid, crop_grid, resampled_grid
from doseeng.masks import coverage

GRID_MARGIN_MM: Final = 10.0
"""Dose is computed this far around the body outline."""
FULLY_COVERED: Final = 0.999
"""Share of a target that must lie in the dose grid; the rest is rounding of contours against voxels."""
PAST_IMAGE_MM: Final = 0.1
"""Voxel centres may lie this far past the image; DICOM decimal strings round, and a rounded-up grid is no news."""


def default_grid(case: Case, spacing_mm: float) -> Grid:
    """That of the case's plan dose, or spacing_mm around the body, or around the image without a body outline."""
    for dose in case.doses:
        if dose.summation == "PLAN":
            return dose.volume.grid
    body = case.structures.external()
    box = case.ct.grid
    if body is not None:
        box = crop_grid(box, np.concatenate(body.contours), GRID_MARGIN_MM)
    return resampled_grid(box, (spacing_mm, spacing_mm, spacing_mm))


def grid_notices(case: Case, grid: Grid) -> tuple[Notice, ...]:
    """Targets that the grid clips, and voxels of the grid that the image knows nothing of."""
    return (*_clipped_targets(case, grid), *_past_image(case.ct.grid, grid))


def _clipped_targets(case: Case, grid: Grid) -> list[Notice]:
    notices = []
    for prescription in case.plan.prescriptions:
        target = case.structures.by_number(prescription.roi_number)
        if target.is_empty:
            continue
        inside = coverage(target, grid)
        if inside < FULLY_COVERED:
            text = f"only {100 * inside:.1f} % of the target lies in the dose grid; use a larger grid"
            notices.append(Notice("dose-grid-clips-target", target.name, text))
    return notices


def _past_image(image: Grid, grid: Grid) -> list[Notice]:
    last = np.asarray(grid.shape[::-1]) - 1
    centres = grid.to_patient([(i, j, k) for i in (0, last[0]) for j in (0, last[1]) for k in (0, last[2])])
    # A point (..., 3) is past a face by how far its index lies beyond the outer faces of the image.
    index = image.to_index(centres)
    past = np.maximum(-0.5 - index, index - (np.asarray(image.shape[::-1]) - 0.5)) * np.asarray(image.spacing_mm)
    if past.max() <= PAST_IMAGE_MM:
        return []
    farthest = past.max() + 0.5 * max(grid.spacing_mm)
    text = (
        f"the dose grid reaches up to {farthest:.1f} mm past the image; air is assumed there, so that scatter from "
        "tissue the image does not show is missing near its edge"
    )
    return [Notice("dose-grid-leaves-image", "CT", text)]

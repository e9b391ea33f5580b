"""An image for a phantom that exists only as structures with assigned densities."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.errors import StructureError
from doseeng.grid import Grid, Volume
from doseeng.masks import mask
from doseeng.structures import Structure, StructureSet

Array = npt.NDArray[np.float64]

DEFAULT_SPACING_MM: Final = (2.0, 2.0, 2.0)
MARGIN_VOXELS: Final = 3
OUTSIDE_HU: Final = -1000.0
INSIDE_HU: Final = 0.0
DENSITY_PROPERTIES: Final = frozenset({"REL_MASS_DENSITY", "REL_ELEC_DENSITY", "REL_STOP_RATIO"})
HALF_COVERED: Final = 0.5
SAME_PLANE_MM: Final = 0.01


def has_assigned_body(structures: StructureSet) -> bool:
    """Whether the body outline has a density or stopping power of its own, so that no CT is needed to know it."""
    external = structures.external()
    return external is not None and any(o.property in DENSITY_PROPERTIES for o in external.overrides)


def phantom_ct(structures: StructureSet, spacing_mm: tuple[float, float, float] = DEFAULT_SPACING_MM) -> Volume:
    """Air around a body outline filled with water, for overrides to replace: an axial image in HU.

    The image covers the box of all structures and three voxels more. Its spacing is the one nearest to `spacing_mm`
    (x, y, z) that divides the box of the outline into whole voxels, so that the faces of a box phantom stay where they
    are. StructureError when there is no outline.
    """
    external = structures.external()
    if external is None:
        raise StructureError(f"structure set '{structures.label}' has no EXTERNAL structure to make a phantom from")
    low, high = _box_mm(external)
    everything = np.concatenate([(low, high), *(c for s in structures.structures for c in s.contours)])
    count = np.maximum(np.rint((high - low) / spacing_mm), 1).astype(int)
    spacing = np.where(high > low, (high - low) / count, spacing_mm)
    before = np.ceil((low - everything.min(axis=0)) / spacing).astype(int) + MARGIN_VOXELS
    after = np.ceil((everything.max(axis=0) - high) / spacing).astype(int) + MARGIN_VOXELS
    size = before + count + after
    first = low + (0.5 - before) * spacing
    grid = Grid((size[2], size[1], size[0]), (spacing[0], spacing[1], spacing[2]), (first[0], first[1], first[2]))
    inside = mask(external, grid).values >= HALF_COVERED
    return Volume(grid, np.where(inside, np.float32(INSIDE_HU), np.float32(OUTSIDE_HU)))


def _box_mm(structure: Structure) -> tuple[Array, Array]:
    """Lower and upper corner of what the contours enclose; axial ones may stand for up to half a slice beyond."""
    points = np.concatenate(structure.contours)
    low, high = points.min(axis=0), points.max(axis=0)
    planes = np.unique(np.round([c[:, 2].mean() for c in structure.contours], 2))
    is_axial = max(float(np.ptp(c[:, 2])) for c in structure.contours) < SAME_PLANE_MM
    if is_axial and len(planes) > 1:
        half_slice = np.array([0.0, 0.0, np.median(np.diff(planes)) / 2])
        low, high = low - half_slice, high + half_slice
    return low, high

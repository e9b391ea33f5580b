"""What a day's image shows: inside its field of view, whose outside scanners fill with one constant."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, binary_opening
from scipy.spatial import ConvexHull

from doseeng.errors import RegistrationError
from doseeng.grid import Volume
from doseeng.masks import plane_coverage

PADDING_SHARE: Final = 0.5
"""The outside is one constant when at least this share of the image's corner columns has it."""
SAME_HU: Final = 0.5


def seen_region(day: Volume) -> Volume:
    """1 where the day's image shows something, 0 outside its field of view; the grid of `day`.

    In every slice the convex hull of all that differs from the constant in the image's corners: a field of view is
    convex, so the hull never reaches beyond it. An image without such a constant is seen everywhere.
    RegistrationError: nothing in it differs from the constant.
    """
    constant = _padding(day.values)
    if constant is None:
        return Volume(day.grid, np.ones(day.grid.shape, np.float32))
    shown = np.abs(day.values - constant) > SAME_HU
    # Single voxels beside the field of view (markers, compression) would stretch the hull.
    shown = binary_opening(shown, np.ones((1, 2, 2)))
    if not shown.any():
        raise RegistrationError(f"the day's image is empty: it is {constant:g} HU everywhere; export it again")
    return Volume(day.grid, np.stack([_hull(plane) for plane in shown]))


def _padding(values: npt.NDArray[np.float32]) -> float | None:
    """The constant of the four corner columns; None when there is none."""
    corners = values[:, [0, 0, -1, -1], [0, -1, 0, -1]].ravel()
    candidates, counts = np.unique(corners, return_counts=True)
    most = int(np.argmax(counts))
    return float(candidates[most]) if counts[most] >= PADDING_SHARE * len(corners) else None


def _hull(plane: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """1 for the pixels whose centres lie in the convex hull of the True ones, (ny, nx)."""
    out = np.zeros(plane.shape, np.float32)
    v, u = np.nonzero(plane & ~binary_erosion(plane))
    if not len(u):
        return out
    # A little of every pixel around its centre, so that those on the hull are more than half covered.
    around = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)]) * 0.3
    points = (np.column_stack([u, v])[:, None] + 0.5 + around).reshape(-1, 2)
    polygon = points[ConvexHull(points).vertices]
    low, cover = plane_coverage([polygon], plane.shape[::-1])
    height, width = cover.shape
    out[low[1] : low[1] + height, low[0] : low[0] + width] = cover > 0.5
    return out

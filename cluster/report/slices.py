"""Pictures: CT, structures and dose of one plane as WebP."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.path import Path

from cluster.report.canvas import Canvas, Label, Levels, rings
from cluster.report.colors import EMPHASISED_PERCENT, ISODOSES, StructureColor
from cluster.report.view import Plane, View, slice_gap_mm, slice_values
from doseeng.case import Case
from doseeng.errors import Notice, StructureError
from doseeng.grid import Grid, Volume, resample
from doseeng.masks import mask
from doseeng.structures import Structure

Image = npt.NDArray[np.float32]
Line = npt.NDArray[np.float64]

_AIR_HU: Final = -1000.0
_WASH_OPACITY: Final = (0.24, 0.44)
"""Of the lowest and the highest isodose band: low dose must not veil the anatomy."""
_SAME_PLANE_MM: Final = 0.05
"""Points of one planar contour agree this well; DICOM writes them with at least two decimals."""
_SCALE_BAR_MM: Final = 50.0
_WIDEST_SCALE_BAR: Final = 0.4
"""Wider than this share of the picture, the bar would meet the letter at the lower edge."""
_SIDES: Final = {
    Plane.AXIAL: ("R", "L", "A", "P"),
    Plane.CORONAL: ("R", "L", "S", "I"),
    Plane.SAGITTAL: ("A", "P", "S", "I"),
}
"""Patient directions at the left, right, top and bottom edge: radiological convention."""


@dataclass(frozen=True, slots=True)
class Window:
    """Hounsfield units shown from black to white."""

    name: str
    low_hu: float
    high_hu: float


SOFT_TISSUE: Final = Window("soft-tissue window", -160.0, 240.0)
THORAX: Final = Window("wide window for lung", -1000.0, 400.0)
_LUNG_HU: Final = (-950.0, -450.0)
_LUNG_SHARE: Final = 0.15
"""A target with this share of lung within 40 mm is read in a window that shows lung."""
_LUNG_REACH_MM: Final = 40.0


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One plane without dose. ct_hu: (rows, columns). outlines: colour and path of (column, row) in mm."""

    plane: Plane
    position_mm: float
    grid: Grid
    columns_mm: npt.NDArray[np.float64]
    rows_mm: npt.NDArray[np.float64]
    ct_hu: Image
    outlines: tuple[tuple[str, Path], ...]


def make_scene(
    case: Case,
    view: View,
    plane: Plane,
    position_mm: float,
    structures: Iterable[Structure],
    colors: dict[str, StructureColor],
) -> tuple[Scene, list[Notice]]:
    """The plane of a case's CT at `position_mm` along its axis; see `scene_of`."""
    return scene_of(case.ct, view, plane, position_mm, structures, colors)


def scene_of(
    image: Volume,
    view: View,
    plane: Plane,
    position_mm: float,
    structures: Iterable[Structure],
    colors: dict[str, StructureColor],
) -> tuple[Scene, list[Notice]]:
    """The plane of an image (HU) at `position_mm` along its axis. A structure that cannot be cut is left out and named
    in a notice."""
    grid = view.plane_grid(plane, position_mm)
    across, down = [axis for axis in range(3) if axis != plane.axis]
    size = grid.shape[::-1]
    columns = grid.origin_mm[across] + view.pixel_mm * np.arange(size[across], dtype=np.float64)
    rows = grid.origin_mm[down] + view.pixel_mm * np.arange(size[down], dtype=np.float64)
    outlines: list[tuple[str, Path]] = []
    notices: list[Notice] = []
    for structure in structures:
        try:
            outline = _outline(structure, plane, position_mm, image.grid, grid, columns, rows)
        except StructureError as error:
            notices.append(Notice("contour-not-drawn", structure.name, f"{error}; the {plane} picture lacks it"))
            continue
        if outline is not None:
            outlines.append((colors[structure.name].on_dark, outline))
    ct = slice_values(image, grid, _AIR_HU)
    return Scene(plane, position_mm, grid, columns, rows, ct, tuple(outlines)), notices


def choose_window(case: Case, view: View) -> Window:
    """The CT window that suits the surroundings of the centre: lung or soft tissue."""
    step = 4.0
    count = int(2 * _LUNG_REACH_MM / step)
    around = Grid((count, count, count), (step, step, step), tuple(view.centre_mm - _LUNG_REACH_MM + step / 2))
    hu = resample(case.ct, around, _AIR_HU).values
    lung = float(np.mean((hu > _LUNG_HU[0]) & (hu < _LUNG_HU[1])))
    return THORAX if lung > _LUNG_SHARE else SOFT_TISSUE


def draw(scene: Scene, dose: Volume, reference_gy: float, window: Window) -> bytes:
    """WebP picture of a scene with its dose wash (percent of reference_gy), isodose lines and structures."""
    percent = 100.0 * slice_values(dose, scene.grid, 0.0) / reference_gy
    return picture(scene, window, lambda canvas: paint_dose(canvas, scene, percent))


def picture(scene: Scene, window: Window, paint: Callable[[Canvas], None], rgb: Image | None = None) -> bytes:
    """WebP picture of a scene: its image, what `paint` draws (in mm of columns and rows), then structures and marks.

    rgb: (rows, columns, 3) in 0..1, shown instead of the grey image of the scene.
    """
    # Anterior is up in axial pictures, and patient y grows towards posterior.
    canvas = Canvas(scene.columns_mm, scene.rows_mm, rows_down=scene.plane is Plane.AXIAL)
    if rgb is None:
        canvas.show_grey(scene.ct_hu, window.low_hu, window.high_hu)
    else:
        canvas.show_colors(rgb)
    paint(canvas)
    for color, outline in scene.outlines:
        canvas.stroke(outline, "black", 2.8, opacity=0.55)
        canvas.stroke(outline, color, 1.5)
    _draw_marks(canvas, scene.plane)
    return canvas.webp()


def data_uri(webp: bytes) -> str:
    """A picture as text that stands inside the page."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")


def paint_dose(canvas: Canvas, scene: Scene, percent: Image) -> None:
    """Dose wash and isodose lines of a picture; percent: (rows, columns) of the reference dose."""
    known = percent[np.isfinite(percent)]
    if not known.size or known.max() <= ISODOSES[0][0]:
        return
    peak, lowest = float(known.max()), float(known.min())
    isodoses = Levels(scene.columns_mm, scene.rows_mm, percent)
    levels = [*(level for level, _ in ISODOSES), max(peak, ISODOSES[-1][0]) + 1.0]
    opacities = np.linspace(*_WASH_OPACITY, len(ISODOSES)).tolist()
    for (low, color), high, opacity in zip(ISODOSES, levels[1:], opacities, strict=True):
        if low < peak:
            canvas.fill(isodoses.band(low, high), color, opacity)
    if lowest < EMPHASISED_PERCENT < peak:
        canvas.stroke(isodoses.line(EMPHASISED_PERCENT), "black", 3.6)
    for level, color in ISODOSES:
        if lowest < level < peak:
            bold = level == EMPHASISED_PERCENT
            canvas.stroke(isodoses.line(level), "white" if bold else color, 1.8 if bold else 0.9)


def _draw_marks(canvas: Canvas, plane: Plane) -> None:
    """Patient directions at the edges and, if it fits, a scale bar."""
    edges = (
        ((0.0, 0.5), (12.0, 0.0)),
        ((1.0, 0.5), (-12.0, 0.0)),
        ((0.5, 1.0), (0.0, -12.0)),
        ((0.5, 0.0), (0.0, 12.0)),
    )
    for name, (edge, inward) in zip(_SIDES[plane], edges, strict=True):
        canvas.write(Label(name, edge, inward, size_pt=15, weight="bold", in_middle=True))
    if _SCALE_BAR_MM / canvas.width_mm < _WIDEST_SCALE_BAR:
        corner = (0.03, 0.04)
        canvas.scale_bar(_SCALE_BAR_MM, corner)
        length = f"{_SCALE_BAR_MM / 10:g} cm"
        canvas.write(Label(length, corner, (0.0, 5.0), size_pt=11, weight="normal", in_middle=False))


def _outline(
    structure: Structure, plane: Plane, position_mm: float, image: Grid, grid: Grid, columns: Line, rows: Line
) -> Path | None:
    """A structure in a plane, if it is there: its own polygons where they are axial, else the edge of its mask."""
    if plane is Plane.AXIAL and all(np.ptp(c[:, 2]) <= _SAME_PLANE_MM for c in structure.contours):
        return _polygons_near(structure, position_mm, slice_gap_mm(image))
    weight = mask(structure, grid, slice_gap_mm(image)).values.squeeze(axis=2 - plane.axis)
    if min(weight.shape) < 2 or not weight.min() < 0.5 < weight.max():
        return None
    return Levels(columns, rows, weight).line(0.5)


def _polygons_near(structure: Structure, position_mm: float, lone_gap_mm: float) -> Path | None:
    """The closed polygons of the contour plane next to a position; none beyond half a gap from the last plane.

    lone_gap_mm: the gap between planes to assume where the structure has a single one.
    """
    heights = np.array([contour[0, 2] for contour in structure.contours])
    planes = np.unique(np.round(heights, 2))
    gap = float(np.median(np.diff(planes))) if len(planes) > 1 else lone_gap_mm
    plane = float(planes[np.argmin(np.abs(planes - position_mm))])
    if abs(plane - position_mm) > gap / 2 + _SAME_PLANE_MM:
        return None
    return rings(structure.contours[i][:, :2] for i in np.flatnonzero(np.abs(heights - plane) <= _SAME_PLANE_MM))

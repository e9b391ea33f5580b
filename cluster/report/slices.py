"""Pictures: CT, structures and dose of one plane, drawn with matplotlib (object API, no global state) as WebP."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from cluster.report.colors import EMPHASISED_PERCENT, ISODOSES, StructureColor
from cluster.report.view import Plane, View, slice_gap_mm, slice_values
from doseeng.case import Case
from doseeng.errors import Notice, StructureError
from doseeng.grid import Grid, Volume, resample
from doseeng.masks import mask
from doseeng.structures import Structure

Image = npt.NDArray[np.float32]
Line = npt.NDArray[np.float64]

_LONG_SIDE_PX: Final = 640
_DPI: Final = 100
_WEBP_QUALITY: Final = 82
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
    """One plane without dose. ct_hu: (rows, columns). outlines: colour and lines (n, 2) of (column, row) in mm."""

    plane: Plane
    position_mm: float
    grid: Grid
    columns_mm: npt.NDArray[np.float64]
    rows_mm: npt.NDArray[np.float64]
    ct_hu: Image
    outlines: tuple[tuple[str, tuple[Line, ...]], ...]


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
    outlines: list[tuple[str, tuple[Line, ...]]] = []
    notices: list[Notice] = []
    for structure in structures:
        try:
            lines = _outline(structure, plane, position_mm, image.grid, grid, columns, rows)
        except StructureError as error:
            notices.append(Notice("contour-not-drawn", structure.name, f"{error}; the {plane} picture lacks it"))
            continue
        if lines:
            outlines.append((colors[structure.name].on_dark, lines))
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
    return picture(scene, window, lambda axes: paint_dose(axes, scene, percent))


def picture(scene: Scene, window: Window, paint: Callable[[Axes], None], rgb: Image | None = None) -> bytes:
    """WebP picture of a scene: its image, what `paint` draws (in mm of columns and rows), then structures and marks.

    rgb: (rows, columns, 3) in 0..1, shown instead of the grey image of the scene.
    """
    aspect = len(scene.rows_mm) / len(scene.columns_mm)
    width = _LONG_SIDE_PX if aspect <= 1 else round(_LONG_SIDE_PX / aspect)
    height = round(width * aspect)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    half = (scene.columns_mm[1] - scene.columns_mm[0]) / 2
    left, right = scene.columns_mm[0] - half, scene.columns_mm[-1] + half
    low, high = scene.rows_mm[0] - half, scene.rows_mm[-1] + half
    axes.imshow(
        scene.ct_hu if rgb is None else rgb,
        cmap="gray",
        vmin=window.low_hu,
        vmax=window.high_hu,
        extent=(left, right, low, high),
        origin="lower",
        interpolation="bilinear",
        aspect="auto",
    )
    paint(axes)
    for color, lines in scene.outlines:
        axes.add_collection(LineCollection(lines, colors="black", linewidths=2.8, alpha=0.55))
        axes.add_collection(LineCollection(lines, colors=color, linewidths=1.5))
    axes.set_xlim(left, right)
    # Anterior is up in axial pictures, and patient y grows towards posterior.
    axes.set_ylim((high, low) if scene.plane is Plane.AXIAL else (low, high))
    _draw_marks(axes, scene.plane, _SCALE_BAR_MM / (right - left))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", pil_kwargs={"quality": _WEBP_QUALITY, "method": 2})
    return buffer.getvalue()


def data_uri(webp: bytes) -> str:
    """A picture as text that stands inside the page."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")


def paint_dose(axes: Axes, scene: Scene, percent: Image) -> None:
    """Dose wash and isodose lines of a picture; percent: (rows, columns) of the reference dose."""
    levels = [level for level, _ in ISODOSES]
    opacity = np.linspace(*_WASH_OPACITY, len(ISODOSES))
    bands = [to_rgba(color, alpha) for (_, color), alpha in zip(ISODOSES, opacity.tolist(), strict=True)]
    known = percent[np.isfinite(percent)]
    if not known.size or known.max() <= levels[0]:
        return
    peak, lowest = float(known.max()), float(known.min())
    at = (scene.columns_mm, scene.rows_mm, percent)
    axes.contourf(*at, levels=[*levels, max(peak, levels[-1]) + 1.0], colors=bands)
    lines = [(level, color) for level, color in ISODOSES if lowest < level < peak]
    emphasis = [level == EMPHASISED_PERCENT for level, _ in lines]
    if any(emphasis):
        axes.contour(*at, levels=[EMPHASISED_PERCENT], colors="black", linewidths=3.6)
    if lines:
        axes.contour(
            *at,
            levels=[level for level, _ in lines],
            colors=["white" if bold else color for bold, (_, color) in zip(emphasis, lines, strict=True)],
            linewidths=[1.8 if bold else 0.9 for bold in emphasis],
        )


def _draw_marks(axes: Axes, plane: Plane, bar_width: float) -> None:
    """Patient directions at the edges and, if it fits, a scale bar of `bar_width` (share of the picture's width)."""
    style: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "color": "white",
        "path_effects": [patheffects.withStroke(linewidth=2.5, foreground="black")],
    }
    edges = (((0, 0.5), (12, 0)), ((1, 0.5), (-12, 0)), ((0.5, 1), (0, -12)), ((0.5, 0), (0, 12)))
    for name, (edge, inward) in zip(_SIDES[plane], edges, strict=True):
        axes.annotate(name, edge, inward, ha="center", va="center", size=15, weight="bold", **style)
    if bar_width < _WIDEST_SCALE_BAR:
        for color, width in (("black", 5.0), ("white", 2.5)):
            axes.plot([0.03, 0.03 + bar_width], [0.04, 0.04], transform=axes.transAxes, color=color, linewidth=width)
        axes.annotate(f"{_SCALE_BAR_MM / 10:g} cm", (0.03, 0.04), (0, 5), size=11, va="bottom", **style)


def _outline(
    structure: Structure, plane: Plane, position_mm: float, image: Grid, grid: Grid, columns: Line, rows: Line
) -> tuple[Line, ...]:
    """Lines (n, 2) of a structure in a plane: its own polygons where they are axial, else the edge of its mask."""
    if plane is Plane.AXIAL and all(np.ptp(c[:, 2]) <= _SAME_PLANE_MM for c in structure.contours):
        return _polygons_near(structure, position_mm, slice_gap_mm(image))
    weight = mask(structure, grid, slice_gap_mm(image)).values.squeeze(axis=2 - plane.axis)
    if min(weight.shape) < 2 or not weight.min() < 0.5 < weight.max():
        return ()
    edges = Figure().add_subplot().contour(columns, rows, weight, levels=[0.5])
    return tuple(np.asarray(line) for line in edges.allsegs[0])


def _polygons_near(structure: Structure, position_mm: float, lone_gap_mm: float) -> tuple[Line, ...]:
    """The closed polygons of the contour plane next to a position; none beyond half a gap from the last plane.

    lone_gap_mm: the gap between planes to assume where the structure has a single one.
    """
    heights = np.array([contour[0, 2] for contour in structure.contours])
    planes = np.unique(np.round(heights, 2))
    gap = float(np.median(np.diff(planes))) if len(planes) > 1 else lone_gap_mm
    plane = float(planes[np.argmin(np.abs(planes - position_mm))])
    if abs(plane - position_mm) > gap / 2 + _SAME_PLANE_MM:
        return ()
    chosen = np.flatnonzero(np.abs(heights - plane) <= _SAME_PLANE_MM)
    return tuple(np.concatenate([structure.contours[i][:, :2], structure.contours[i][:1, :2]]) for i in chosen)

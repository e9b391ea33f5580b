"""A picture of a plane in mm, drawn straight with Agg, the rasteriser of matplotlib, and written as WebP.

Figures, axes and artists of matplotlib cost several times what they draw here, and a report has dozens of pictures.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from contourpy import FillType, LineType, contour_generator
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgba
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from PIL import Image

Array = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]

SOLID: Final = ()
DASHED: Final = (4.0, 3.0)
DOTTED: Final = (1.0, 1.65)
"""Lengths of dash and gap in line widths."""

_LONG_SIDE_PX: Final = 640
_DPI: Final = 100
_PX_PER_PT: Final = _DPI / 72
_WEBP_QUALITY: Final = 82
_WEBP_EFFORT: Final = 2
"""Of 0 to 6: with 1 files are 15 % larger, with 3 they take twice as long and are 3 % smaller."""
_ARROW_WIDTH: Final = 0.004
"""Of the shaft, as a share of the picture's width."""
_ARROW: Final = np.array(
    [(0.0, 0.5), (-4.5, 0.5), (-5.0, 1.5), (0.0, 0.0), (-5.0, -1.5), (-4.5, -0.5), (0.0, -0.5), (0.0, 0.5)]
)
"""Closed outline in widths of the shaft; the first and the last two points from the tail, the others from the tip."""


class Levels:
    """Lines and bands of equal values (rows, columns) at pixel centres in mm; none where values are not finite."""

    def __init__(self, columns_mm: Array, rows_mm: Array, values: Picture) -> None:
        self._generator = contour_generator(
            columns_mm,
            rows_mm,
            np.ma.masked_invalid(values, copy=False),
            line_type=LineType.ChunkCombinedCode,
            fill_type=FillType.ChunkCombinedCode,
        )

    def line(self, level: float) -> Path:
        """All lines of a level."""
        return _path(*self._generator.lines(level))

    def band(self, low: float, high: float) -> Path:
        """The area between two levels."""
        return _path(*self._generator.filled(low, high))


@dataclass(frozen=True, slots=True)
class Label:
    """Words in a picture. at: shares of its width and height from the left lower corner. offset_pt: right and up from
    there to the middle of the words, or to their left lower corner. weight: "bold" or "normal"."""

    words: str
    at: tuple[float, float]
    offset_pt: tuple[float, float]
    size_pt: float
    weight: str
    in_middle: bool


class Canvas:
    """A picture of rows_mm by columns_mm: the ascending centres of the pixels of its ground, as its coordinates.

    rows_down: the first row is the upper one. What is drawn later covers what was drawn earlier.
    """

    def __init__(self, columns_mm: Array, rows_mm: Array, *, rows_down: bool) -> None:
        aspect = len(rows_mm) / len(columns_mm)
        self.width_px = _LONG_SIDE_PX if aspect <= 1 else round(_LONG_SIDE_PX / aspect)
        self.height_px = round(self.width_px * aspect)
        pixel = float(columns_mm[1] - columns_mm[0])
        self.width_mm = pixel * len(columns_mm)
        left, low, high = columns_mm[0] - pixel / 2, rows_mm[0] - pixel / 2, rows_mm[-1] + pixel / 2
        across, up = self.width_px / self.width_mm, self.height_px / (high - low)
        self._rows_down = rows_down
        self._to_px = Affine2D().translate(-left, -high if rows_down else -low).scale(across, -up if rows_down else up)
        self._agg = RendererAgg(self.width_px, self.height_px, _DPI)

    def show_grey(self, values: Picture, low: float, high: float) -> None:
        """The ground: (rows, columns), black at `low` and white at `high`."""
        levels = np.clip((self._stretched(values) - low) * (256.0 / (high - low)), 0.0, 255.0)
        self._show(levels.astype(np.uint8)[..., None])

    def show_colors(self, rgb: Picture) -> None:
        """The ground: (rows, columns, 3) in 0..1."""
        self._show(self._stretched((255.0 * rgb + 0.5).astype(np.uint8)))

    def fill(self, area: Path, color: str, opacity: float) -> None:
        """An area in mm; its edge is not smoothed, or seams would show between neighbouring bands."""
        gc = self._agg.new_gc()
        gc.set_linewidth(0.0)
        gc.set_antialiased(False)
        self._agg.draw_path(gc, area, self._to_px, to_rgba(color, opacity))

    def stroke(
        self, line: Path, color: str, width_pt: float, opacity: float = 1.0, dashes: tuple[float, ...] = SOLID
    ) -> None:
        """A line in mm."""
        self._stroke(line, self._to_px, to_rgba(color, opacity), width_pt, dashes)

    def arrows(self, tails_mm: Array, along_mm: Array | Picture) -> None:
        """White arrows with black edges: (n, 2) tails, (n, 2) vectors; a dot where there is next to no vector."""
        for tail, along in zip(tails_mm, along_mm, strict=True):
            self._edged(_arrow(tail, along, _ARROW_WIDTH * self.width_mm), self._to_px, 2.0)

    def scale_bar(self, length_mm: float, at: tuple[float, float]) -> None:
        """A bar from `at`, in shares of width and height from the left lower corner, to the right."""
        start, end = at[0] * self.width_px, (at[0] + length_mm / self.width_mm) * self.width_px
        bar = Path([(start, at[1] * self.height_px), (end, at[1] * self.height_px)])
        for color, width_pt in (("black", 5.0), ("white", 2.5)):
            self._stroke(bar, Affine2D(), to_rgba(color), width_pt, cap="projecting")

    def write(self, label: Label) -> None:
        """White words with a black edge."""
        glyphs, corner, middle = _glyphs(label.words, label.size_pt, label.weight)
        anchor = middle if label.in_middle else corner
        place = Affine2D().translate(label.offset_pt[0] - anchor[0], label.offset_pt[1] - anchor[1]).scale(_PX_PER_PT)
        place.translate(label.at[0] * self.width_px, label.at[1] * self.height_px)
        self._edged(glyphs, place, 2.5)

    def webp(self) -> bytes:
        """The picture as a file."""
        buffer = io.BytesIO()
        image = Image.fromarray(np.asarray(self._agg.buffer_rgba()))
        image.save(buffer, format="webp", quality=_WEBP_QUALITY, method=_WEBP_EFFORT)
        return buffer.getvalue()

    def _stretched(self, ground: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The ground at the pixels of the picture, upper row first."""
        image = Image.fromarray(ground if self._rows_down else np.ascontiguousarray(ground[::-1]))
        return np.asarray(image.resize((self.width_px, self.height_px), Image.Resampling.BILINEAR))

    def _show(self, levels: npt.NDArray[np.uint8]) -> None:
        """levels: (height, width, 1 or 3)."""
        pixels = np.asarray(self._agg.buffer_rgba())
        pixels[..., :3] = levels
        pixels[..., 3] = 255

    def _edged(self, shape: Path, place: Affine2D, edge_pt: float) -> None:
        self._stroke(shape, place, to_rgba("black"), edge_pt)
        gc = self._agg.new_gc()
        gc.set_linewidth(0.0)
        self._agg.draw_path(gc, shape, place, to_rgba("white"))

    def _stroke(
        self,
        line: Path,
        place: Affine2D,
        rgba: tuple[float, float, float, float],
        width_pt: float,
        dashes: tuple[float, ...] = SOLID,
        cap: Literal["butt", "projecting"] = "butt",
    ) -> None:
        gc = self._agg.new_gc()
        gc.set_foreground(rgba, isRGBA=True)
        gc.set_linewidth(width_pt)
        gc.set_capstyle(cap)
        if dashes:
            gc.set_dashes(0.0, [width_pt * length for length in dashes])
        self._agg.draw_path(gc, line, place)


def rings(polygons: Iterable[Array]) -> Path:
    """Polygons (n, 2), none of which repeats its first point at its end, as one path of closed lines."""
    closed = [np.concatenate([polygon, polygon[:1]]) for polygon in polygons]
    codes = [np.full(len(ring), Path.LINETO, dtype=Path.code_type) for ring in closed]
    for code in codes:
        code[0] = Path.MOVETO
    return Path(np.concatenate(closed), np.concatenate(codes))


def _path(points: list[Array | None], codes: list[npt.NDArray[np.uint8] | None]) -> Path:
    """The path of contourpy's only chunk."""
    return Path(np.empty((0, 2))) if points[0] is None else Path(points[0], codes[0])


@lru_cache(maxsize=32)
def _glyphs(words: str, size_pt: float, weight: str) -> tuple[Path, tuple[float, float], tuple[float, float]]:
    """Words in points, their left lower corner and their middle; lines are as high as from p to l."""
    font = FontProperties(weight=weight)
    glyphs = TextPath((0, 0), words, size=size_pt, prop=font)
    line, ink = TextPath((0, 0), "lp", size=size_pt, prop=font).get_extents(), glyphs.get_extents()
    return glyphs, (0.0, line.y0), ((ink.x0 + ink.x1) / 2, (line.y0 + line.y1) / 2)


def _arrow(tail: Array, along: Array | Picture, width: float) -> Path:
    """Outline of an arrow whose shaft is `width`; one too short for its head is a smaller arrow, or a dot."""
    length = float(np.hypot(*along)) / width
    if length < 1.0:
        turn = np.arange(7) * np.pi / 3
        return Path(tail + 0.5 * width * np.column_stack([np.cos(turn), np.sin(turn)]), closed=True)
    head = min(length / 5.0, 1.0)
    outline = head * _ARROW
    outline[1:-2, 0] += length
    ahead = along / np.hypot(*along)
    aside = np.array([-ahead[1], ahead[0]])
    return Path(tail + width * (outline[:, :1] * ahead + outline[:, 1:] * aside), closed=True)

"""A picture of a plane in mm, drawn straight with Agg, the rasteriser of matplotlib, and written as WebP.

Figures, axes and artists of matplotlib cost several times what they draw here, and a report has dozens of pictures.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import contourpy
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgba
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D, IdentityTransform, Transform
from PIL import Image

Array = npt.NDArray[np.float64]
RGBA = tuple[float, float, float, float]

_LONG_SIDE_PX: Final = 640
_DPI: Final = 100
_PX: Final = _DPI / 72.0
"""Pixels per point."""
_WEBP_QUALITY: Final = 82
_WEBP_EFFORT: Final = 2
_PIXEL: Final = Affine2D().scale(_PX)
_HALO_PT: Final = 2.5

DOTTED: Final = (1.0, 1.65)
DASHED: Final = (4.0, 3.0)
"""Dash and gap in line widths."""


class Contours:
    """Level lines and bands of values (rows, columns) at pixel centres in mm; nothing is drawn where they are NaN."""

    def __init__(self, columns_mm: Array, rows_mm: Array, values: npt.NDArray[np.float32]) -> None:
        kind = contourpy.FillType.ChunkCombinedCode, contourpy.LineType.ChunkCombinedCode
        known = np.ma.masked_invalid(values, copy=False)
        self._generator = contourpy.contour_generator(columns_mm, rows_mm, known, fill_type=kind[0], line_type=kind[1])

    def line(self, level: float) -> Path:
        """All lines of a level as one path."""
        points, codes = self._generator.lines(level)[:2]
        return _path(points[0], codes[0])

    def band(self, low: float, high: float) -> Path:
        """The area between two levels as one path."""
        points, codes = self._generator.filled(low, high)[:2]
        return _path(points[0], codes[0])


class Canvas:
    """A picture that is `rows_mm` by `columns_mm` (centres of its pixels, ascending), with the first row above if
    `rows_down`. What is drawn later covers what was drawn earlier."""

    def __init__(self, columns_mm: Array, rows_mm: Array, rows_down: bool) -> None:
        aspect = len(rows_mm) / len(columns_mm)
        self.width_px = _LONG_SIDE_PX if aspect <= 1 else round(_LONG_SIDE_PX / aspect)
        self.height_px = round(self.width_px * aspect)
        self._rows_down = rows_down
        pixel = columns_mm[1] - columns_mm[0]
        self.width_mm = float(pixel * len(columns_mm))
        across, up = self.width_px / self.width_mm, self.height_px / (pixel * len(rows_mm))
        left = columns_mm[0] - pixel / 2
        bottom = rows_mm[-1] + pixel / 2 if rows_down else rows_mm[0] - pixel / 2
        self._to_px = Affine2D().translate(-left, -bottom).scale(across, -up if rows_down else up)
        self._agg = RendererAgg(self.width_px, self.height_px, _DPI)
        self._pixels = np.asarray(self._agg.buffer_rgba())

    def show_grey(self, values: npt.NDArray[np.float32], low: float, high: float) -> None:
        """The ground: values (rows, columns) from black at `low` to white at `high`."""
        self._show(np.clip((self._stretched(values) - low) * (256.0 / (high - low)), 0, 255)[..., None])

    def show_colors(self, rgb: npt.NDArray[np.float32]) -> None:
        """The ground: (rows, columns, 3) in 0..1."""
        self._show(255.0 * np.stack([self._stretched(rgb[..., i]) for i in range(3)], axis=-1) + 0.5)

    def fill(self, area: Path, color: RGBA) -> None:
        """An area; not smoothed, or seams would show between neighbouring bands."""
        gc = self._agg.new_gc()
        gc.set_linewidth(0.0)
        gc.set_antialiased(False)
        self._agg.draw_path(gc, area, self._to_px, color)

    def stroke(
        self, line: Path, color: str, width_pt: float, opacity: float = 1.0, dashes: Sequence[float] = ()
    ) -> None:
        """A line; dashes: lengths of dash and gap in line widths."""
        self._stroke(line, self._to_px, to_rgba(color, opacity), width_pt, dashes)

    def glyphs(self, shapes: Iterable[Path], halo_pt: float = _HALO_PT) -> None:
        """White shapes with a black edge."""
        for shape in shapes:
            self._stroke(shape, self._to_px, to_rgba("black"), halo_pt)
            self._white(shape, self._to_px)

"""A result on a page of A4 as PDF, more where goals are many: what a physician is handed, without identity.

Text is measured before it is placed, so that nothing runs over a margin or into its neighbour: a page is full when the
next block does not fit.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.textpath import text_to_path

import doseeng
from cluster.report import text
from cluster.report.goaltable import STATUS_WORD
from doseeng.summary import STATEMENT, ReportSummary, SummaryRow
from robust.result import Verdict

WIDTH_PT: Final = 595.276
HEIGHT_PT: Final = 841.890
"""A4 in points."""
MARGIN_PT: Final = 48.0
_FOOTER_PT: Final = 58.0
_LEADING: Final = 1.38
_INK: Final = "#1d232b"
_FAINT: Final = "#5b6570"
_LINE: Final = "#c9d0d8"
_COLORS: Final = {"GREEN": "#1b7a48", "AMBER": "#9a6200", "RED": "#b3261e", "UNEVALUABLE": "#5b5f77", "": "#35506b"}
"""As the HTML reports: white on each of them has a contrast of more than 4.5 : 1."""
_MEANINGS: Final = {
    "GREEN": "all goals are met",
    "AMBER": "in doubt: a person has to look",
    "RED": "a goal is missed, or in doubt twice in a row",
    "UNEVALUABLE": "no answer can be trusted",
    "": "no goals were judged",
}
_MOST_REASONS: Final = 12
_MOST_NOTICES: Final = 6
_COLUMNS: Final = (0.0, 122.0, 188.0, 282.0, 332.0, 382.0, 447.0)
"""Left edges of the goal table's columns, points from the margin: structure, metric, limit, reference, value, band,
status."""
_SMALLEST: Final = 6.0
"""Letters that fit a cell may be as small as this before words are cut."""


def summary_pdf(summary: ReportSummary) -> bytes:
    """The pages as PDF bytes, the same for the same summary."""
    canvas = _Canvas(summary)
    _head(canvas, summary)
    _paragraphs(canvas, "Why", summary.reasons, _MOST_REASONS)
    _table(canvas, summary)
    _paragraphs(canvas, "Notices", summary.notices, _MOST_NOTICES)
    return canvas.finish(summary)


@dataclass(slots=True)
class _Canvas:
    """Pages that are filled from top to bottom. y: points from the top of the page, where the next block begins."""

    summary: ReportSummary
    pages: list[Figure] = field(default_factory=list)
    y: float = 0.0

    def __post_init__(self) -> None:
        self.turn()

    def turn(self) -> None:
        """Begin a new page."""
        figure = Figure(figsize=(WIDTH_PT / 72, HEIGHT_PT / 72))
        FigureCanvasAgg(figure)
        self.pages.append(figure)
        self.y = MARGIN_PT

    def make_room(self, height: float) -> bool:
        """Turn the page when `height` does not fit any more, and say whether that was so."""
        if self.y + height <= HEIGHT_PT - MARGIN_PT - _FOOTER_PT:
            return False
        self.turn()
        return True

    def write(
        self, x: float, y: float, words: str, font: FontProperties, color: str = _INK, align: str = "left"
    ) -> None:
        """One line; x, y: its baseline, points from the top left of the page."""
        self.pages[-1].text(
            x / WIDTH_PT, 1 - y / HEIGHT_PT, _plain(words), fontproperties=font, color=color, ha=align, va="baseline"
        )

    def rule(self, y: float, color: str = _LINE) -> None:
        """A line from margin to margin."""
        self.box(MARGIN_PT, y, WIDTH_PT - 2 * MARGIN_PT, 0.7, color)

    def box(self, x: float, y: float, width: float, height: float, color: str, is_round: bool = False) -> None:
        """A filled box; x, y: its top left corner."""
        corner = x / WIDTH_PT, 1 - (y + height) / HEIGHT_PT
        size = width / WIDTH_PT, height / HEIGHT_PT
        figure = self.pages[-1]
        if is_round:
            style = "round,pad=0,rounding_size=0.008"
            patch: Rectangle | FancyBboxPatch = FancyBboxPatch(
                corner, *size, boxstyle=style, transform=figure.transFigure, facecolor=color, edgecolor="none"
            )
        else:
            patch = Rectangle(corner, *size, transform=figure.transFigure, facecolor=color, edgecolor="none")
        figure.add_artist(patch)

    def block(self, x: float, width: float, words: str, font: FontProperties, color: str = _INK) -> None:
        """Wrapped text at the present place, which moves below it; lines go to the next page when they have to."""
        step = font.get_size_in_points() * _LEADING
        for line in wrapped(words, font, width):
            self.make_room(step)
            self.y += step
            self.write(x, self.y, line, font, color)

    def finish(self, summary: ReportSummary) -> bytes:
        """Footers on all pages, then the file."""
        for number, figure in enumerate(self.pages, start=1):
            _footer(figure, summary, f"{number} / {len(self.pages)}")
        file = io.BytesIO()
        keys = {
            "Title": f"doseeng: {summary.title}",
            "Creator": f"doseeng {doseeng.__version__}",
            "Producer": "matplotlib",
            "CreationDate": summary.made,
        }
        with PdfPages(file, metadata=keys) as pdf:
            for figure in self.pages:
                pdf.savefig(figure)
        return file.getvalue()


def wrapped(words: str, font: FontProperties, width: float) -> list[str]:
    """Lines no wider than `width` points; words that are wider alone are broken where they must be."""
    lines = [""]
    for word in words.split():
        joined = f"{lines[-1]} {word}".strip()
        if width_of(joined, font) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        while width_of(word, font) > width:
            fits = max(1, _letters(word, "", font, width))
            lines[-1:] = [word[:fits], ""]
            word = word[fits:]
        lines[-1] = word
    return [line for line in lines if line]


def width_of(words: str, font: FontProperties) -> float:
    """Width of a line in points."""
    if not words:
        return 0.0
    width: float = text_to_path.get_text_width_height_descent(_plain(words), font, ismath=False)[0]
    return width


def shortened(words: str, font: FontProperties, width: float) -> str:
    """`words`, cut with an ellipsis where they are wider than `width` points."""
    if width_of(words, font) <= width:
        return words
    return f"{words[: _letters(words, '…', font, width)]}…"


def _letters(words: str, end: str, font: FontProperties, width: float) -> int:
    """How many of the first letters fit into `width` points together with `end`."""
    return bisect_right(range(1, len(words)), width, key=lambda count: width_of(words[:count] + end, font))


def fitted(words: str, font: FontProperties, width: float) -> tuple[str, FontProperties]:
    """`words` in letters small enough for `width` points, and cut where the smallest are too wide."""
    size = font.get_size_in_points()
    smaller = font.copy()
    smaller.set_size(max(_SMALLEST, min(size, size * width / max(width_of(words, font), 1e-6))))
    return shortened(words, smaller, width), smaller


def _plain(words: str) -> str:
    # matplotlib reads text between dollars as mathematics; control characters have no glyph.
    return "".join(c if c.isprintable() else " " for c in words).replace("$", r"\$")


def _font(size: float, *, bold: bool = False, mono: bool = False) -> FontProperties:
    family = "DejaVu Sans Mono" if mono else "DejaVu Sans"
    return FontProperties(family=family, size=size, weight="bold" if bold else "normal")


def _head(canvas: _Canvas, summary: ReportSummary) -> None:
    inner = WIDTH_PT - 2 * MARGIN_PT
    canvas.write(MARGIN_PT, MARGIN_PT + 8, "doseeng", _font(9, bold=True), _FAINT)
    made = f"{summary.made:%Y-%m-%d %H:%M}"
    canvas.write(WIDTH_PT - MARGIN_PT, MARGIN_PT + 8, f"made {made}", _font(9), _FAINT, "right")
    canvas.y = MARGIN_PT + 16
    canvas.block(MARGIN_PT, inner, summary.title, _font(17, bold=True))
    canvas.y += 10
    color = _COLORS[summary.verdict]
    canvas.box(MARGIN_PT, canvas.y, inner, 44, color, is_round=True)
    word = summary.verdict or "DOSE"
    canvas.write(MARGIN_PT + 14, canvas.y + 29, word, _font(20, bold=True), "white")
    # Without goals the reasons alone say what the word means.
    if meaning := _MEANINGS[summary.verdict] if summary.rows or not summary.verdict else "":
        canvas.write(WIDTH_PT - MARGIN_PT - 14, canvas.y + 27, meaning, _font(11), "white", "right")
    canvas.y += 56
    for name, value in _facts(summary):
        top = canvas.y
        canvas.block(MARGIN_PT + 118, inner - 118, value, _font(9.5))
        canvas.write(MARGIN_PT, top + 9.5 * _LEADING, shortened(name, _font(9.5), 112), _font(9.5), _FAINT)
        canvas.y += 2


def _facts(summary: ReportSummary) -> list[tuple[str, str]]:
    facts = [("Plan", summary.plan_label or text.NO_VALUE), ("Case (pseudonym)", summary.case_key)]
    if summary.fractions:
        facts.append(("Fraction", f"{summary.fraction} of {summary.fractions}"))
    if summary.acquired is not None:
        facts.append(("Image acquired", f"{summary.acquired:%Y-%m-%d %H:%M}"))
    return facts + list(summary.facts)


def _heading(canvas: _Canvas, words: str, room: float) -> None:
    canvas.make_room(30 + room)
    canvas.y += 24
    canvas.write(MARGIN_PT, canvas.y, words, _font(11.5, bold=True))
    canvas.y += 5


def _paragraphs(canvas: _Canvas, heading: str, sentences: Sequence[str], most: int) -> None:
    if not sentences:
        return
    _heading(canvas, heading, 20)
    font = _font(9.5)
    for sentence in sentences[:most]:
        canvas.make_room(9.5 * _LEADING)
        canvas.write(MARGIN_PT + 2, canvas.y + 9.5 * _LEADING, "•", font, _FAINT)
        canvas.block(MARGIN_PT + 14, WIDTH_PT - 2 * MARGIN_PT - 14, sentence, font)
        canvas.y += 2
    if len(sentences) > most:
        rest = f"… and {len(sentences) - most} more, in the full report."
        canvas.block(MARGIN_PT + 14, WIDTH_PT - 2 * MARGIN_PT - 14, rest, font, _FAINT)


def _table(canvas: _Canvas, summary: ReportSummary) -> None:
    if not summary.rows:
        return
    _heading(canvas, "Goals", 60)
    _table_head(canvas, summary)
    unit = "Gy (RBE 1.1)" if summary.rbe_weighted else "Gy"
    for row in summary.rows:
        if canvas.make_room(_row_height(row)):
            _table_head(canvas, summary)
        _table_row(canvas, row, unit)


def _table_head(canvas: _Canvas, summary: ReportSummary) -> None:
    font = _font(8.5, bold=True)
    canvas.y += 14
    reference, value = (occasion.capitalize() for occasion in summary.occasions)
    names = ("Structure", "Metric", "Limit", reference, value, "Uncertainty", "Status")
    for index, name in enumerate(names):
        _cell(canvas, index, canvas.y, name, font, _FAINT)
    canvas.y += 5
    canvas.rule(canvas.y)


def _cell(canvas: _Canvas, index: int, y: float, words: str, font: FontProperties, color: str = _INK) -> None:
    words, font = fitted(words, font, _column_width(index))
    canvas.write(MARGIN_PT + _COLUMNS[index], y, words, font, color)


def _column_width(index: int) -> float:
    right = _COLUMNS[index + 1] if index + 1 < len(_COLUMNS) else WIDTH_PT - 2 * MARGIN_PT
    return right - _COLUMNS[index] - 6


def _row_height(row: SummaryRow) -> float:
    return 9 * _LEADING * len(wrapped(row.structure, _font(9, bold=True), _column_width(0))) + 8


def _table_row(canvas: _Canvas, row: SummaryRow, gray: str) -> None:
    font, color = _font(9), _COLORS[row.status]
    unit = {"%": "%", "cm3": "cm³", "Gy": gray}[row.unit]
    top = canvas.y + 9 * _LEADING + 2
    has_band = math.isfinite(row.low) and math.isfinite(row.high)
    band = f"{text.against_limit(row.low, row.limit)} to {text.against_limit(row.high, row.limit)}" if has_band else ""
    limit = f"{'≥' if row.relation == '>=' else '≤'} {text.limit_text(row.limit)} {unit}"
    _cell(canvas, 1, top, row.metric.replace("cm3", "cm³"), font)
    _cell(canvas, 2, top, limit, font)
    _cell(canvas, 3, top, text.against_limit(row.reference, row.limit), font)
    _cell(canvas, 4, top, text.against_limit(row.value, row.limit), _font(9, bold=True))
    _cell(canvas, 5, top, band, _font(8), _FAINT)
    _cell(canvas, 6, top, STATUS_WORD[Verdict(row.status)], _font(9, bold=True), color)
    canvas.y += 2
    canvas.block(MARGIN_PT, _column_width(0), row.structure, _font(9, bold=True))
    canvas.y += 4
    canvas.rule(canvas.y + 2, "#e6eaee")


def _footer(figure: Figure, summary: ReportSummary, page: str) -> None:
    def line(y: float, words: str, font: FontProperties, color: str, x: float = MARGIN_PT, align: str = "left") -> None:
        figure.text(x / WIDTH_PT, y / HEIGHT_PT, _plain(words), fontproperties=font, color=color, ha=align)

    line(MARGIN_PT + 22, STATEMENT, _font(9, bold=True), _INK)
    version = f"doseeng {doseeng.__version__}"
    digest = f"provenance SHA-256 {summary.provenance}" if summary.provenance else ""
    line(MARGIN_PT + 9, version, _font(7.5), _FAINT)
    line(MARGIN_PT - 2, digest, _font(6.5, mono=True), _FAINT)
    line(MARGIN_PT + 9, page, _font(7.5), _FAINT, WIDTH_PT - MARGIN_PT, "right")

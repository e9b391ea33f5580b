"""Results in brief: what goes into the plain data, and pages on which everything has its place."""

import itertools
import math
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cluster.report import summarypdf
from cluster.report.summarypdf import fitted, shortened, summary_pdf, width_of, wrapped
from doseeng.summary import STATEMENT, ReportSummary, SummaryRow

MADE = datetime(2026, 7, 4, 9, 30)
ROWS = (
    SummaryRow("CTV", "V95%", ">=", 95.0, "%", 99.8, 94.97, 93.9, 95.8, "AMBER", ""),
    SummaryRow("CTV_with_a_name_that_is_much_too_long_for_its_column", "D95%", ">=", 95.0, "%", 98.2, 91.3, 90.2, 92.0,
               "RED", ""),
    SummaryRow("Spinal cord PRV 5 mm", "Dmax", "<=", 45.0, "Gy", 1030.25, 1031.125, 1030.0, 1032.0, "GREEN", ""),
    SummaryRow("Lungs", "V20Gy[cm3]", "<=", 2000.0, "cm3", math.nan, math.nan, math.nan, math.nan, "UNEVALUABLE", ""),
)  # fmt: skip


def summary(times: int = 1, verdict: str = "RED") -> ReportSummary:
    return ReportSummary(
        title="Dose of a treatment day",
        verdict=verdict,
        plan_label="Prostate $7x2$ & <a label> as long as they are in clinics, so that it takes more than one line",
        case_key="c-7f3a2b1c",
        reasons=("CTV D95% is 91.3 %, limit 95 %: value and band both miss the limit.", "word" * 60) * times,
        made=MADE,
        rows=ROWS * times,
        fraction=7,
        fractions=30,
        acquired=MADE,
        facts=(("A name of a fact that is too long for its column", "11 of 11 passed"),),
        notices=("dose-grid-clips-target: by 3 mm",) * times,
        rbe_weighted=True,
        provenance="ab" * 32,
    )


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures of the pages that are made."""
    made: list[Figure] = []

    class Kept(Figure):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(summarypdf, "Figure", Kept)
    return made


@pytest.mark.parametrize(("times", "verdict", "count"), [(1, "RED", 1), (1, "UNEVALUABLE", 1), (6, "RED", 2)])
def test_no_text_leaves_the_page_or_touches_another(pages: list[Figure], times: int, verdict: str, count: int) -> None:
    summary_pdf(summary(times, verdict))
    assert len(pages) == count
    for page in pages:
        canvas = FigureCanvasAgg(page)
        boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in page.texts]
        margin = summarypdf.MARGIN_PT / 72 * page.dpi - 1.0
        for words, box in boxes:
            if words.strip():
                assert box.x0 >= margin, words
                assert box.x1 <= page.bbox.width - margin, words
                assert box.y0 >= margin - 10, words
                assert box.y1 <= page.bbox.height - margin + 10, words
        for (words, box), (others, other) in itertools.combinations(boxes, 2):
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            is_apart = not words.strip() or not others.strip() or width < 0.5 or height < 3.0
            assert is_apart, f"{words!r} over {others!r}"


def test_the_same_summary_gives_the_same_bytes() -> None:
    assert summary_pdf(summary()) == summary_pdf(summary())
    assert summary_pdf(summary()) != summary_pdf(summary(verdict="AMBER"))


def test_what_it_says_can_be_taken_out_of_it(tmp_path: Path) -> None:
    program = shutil.which("pdftotext")
    if program is None:
        pytest.skip("pdftotext (poppler) is not installed")
    path = tmp_path / "summary.pdf"
    path.write_bytes(summary_pdf(summary()))
    done = subprocess.run([program, "-layout", str(path), "-"], capture_output=True, text=True, timeout=60, check=True)
    for words in (
        "RED",
        "7 of 30",
        "94.97",
        "≥ 95 %",
        "≤ 45 Gy (RBE 1.1)",
        "in doubt",
        "no answer",
        "$7x2$",
        STATEMENT,
    ):
        assert words in done.stdout, words
    assert "95.0" not in done.stdout, "94.97 was rounded to the other side of its limit"
    assert "ab" * 32 in done.stdout


def test_a_dose_alone_has_a_page_too() -> None:
    bare = replace(summary(), verdict="", rows=(), reasons=(), notices=(), fractions=0, acquired=None, facts=())
    assert summary_pdf(bare).startswith(b"%PDF-")


def test_lines_are_no_wider_than_asked_and_lose_nothing() -> None:
    font = summarypdf._font(9.5)
    words = "a sentence with one " + "verylongword" * 12 + " in it"
    lines = wrapped(words, font, 100.0)
    assert max(width_of(line, font) for line in lines) <= 100.0
    assert "".join(lines).replace(" ", "") == words.replace(" ", "")
    assert wrapped("", font, 100.0) == []


def test_cells_shrink_before_they_are_cut() -> None:
    font = summarypdf._font(9)
    words, smaller = fitted("≤ 45 Gy (RBE 1.1)", font, 60.0)
    assert words == "≤ 45 Gy (RBE 1.1)"
    assert width_of(words, smaller) <= 60.0
    words, smallest = fitted("a text that no letters make fit", font, 30.0)
    assert words.endswith("…")
    assert width_of(words, smallest) <= 30.0
    assert smallest.get_size_in_points() == summarypdf._SMALLEST
    assert shortened("fits", font, 100.0) == "fits"

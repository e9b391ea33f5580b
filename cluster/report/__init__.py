"""The report a person reads: one HTML file that works offline, prints on A4 and holds all its numbers and pictures.

`write_report` is the way in for plans, `fraction.write_fraction_report` for treatment days. view.py decides where to
look, canvas.py, slices.py and pictures.py draw, plots.py lays out vector plots, text.py writes numbers, page.py and
fraction.py fill the templates. Nothing is evaluated here: verdicts come from `robust` and from the workflow of the day.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cluster.report.colors import structure_colors
from cluster.report.document import require_same_plan, write_document
from cluster.report.page import render_page
from cluster.report.pictures import make_pictures
from doseeng.case import Case
from robust.result import RobustReport

__all__ = ["write_report"]


def write_report(
    report: RobustReport, case: Case, path: Path, *, written: datetime | None = None, stack_size: int = 15
) -> Path:
    """Write the report of a case as one HTML file and return its path; missing folders are made.

    written: time stamp of the report, by default now. stack_size: axial pictures to leaf through, at most. The file
    appears complete or not at all. PlanError: report and case do not belong together.
    """
    require_same_plan(report.case_key, report.plan_label, case)
    colors = structure_colors(case.structures.structures)
    pictures = make_pictures(report, case, colors, stack_size)
    page = render_page(report, case, pictures, colors, written or datetime.now().astimezone())
    return write_document(page, path)

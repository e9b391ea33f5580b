"""The report a person reads: one HTML file that works offline, prints on A4 and holds all its numbers and pictures.

`write_report` is the way in. view.py decides where to look, slices.py and pictures.py draw, plots.py lays out vector
plots, text.py writes numbers, page.py fills the template. Nothing is evaluated here: verdicts come from `robust`.
"""

from __future__ import annotations

import os
import uuid
from datetime import datetime
from pathlib import Path

from cluster.report.colors import structure_colors
from cluster.report.page import render_page
from cluster.report.pictures import make_pictures
from doseeng.case import Case
from doseeng.errors import PlanError
from robust.result import RobustReport

__all__ = ["write_report"]


def write_report(
    report: RobustReport, case: Case, path: Path, *, written: datetime | None = None, stack_size: int = 15
) -> Path:
    """Write the report of a case as one HTML file and return its path; missing folders are made.

    written: time stamp of the report, by default now. stack_size: axial pictures to leaf through, at most. The file
    appears complete or not at all. PlanError: report and case do not belong together.
    """
    if report.case_key != case.key or report.plan_label != case.plan.label:
        raise PlanError(
            f"the report is about plan '{report.plan_label}' of case '{report.case_key}', but the case given is "
            f"'{case.key}' with plan '{case.plan.label}'; give the case that was evaluated"
        )
    colors = structure_colors(case.structures.structures)
    pictures = make_pictures(report, case, colors, stack_size)
    page = render_page(report, case, pictures, colors, written or datetime.now().astimezone())
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file of its own beside the target, so that readers never see half a report and writers never share one.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_text(page, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path

"""The page of a treatment day: what a physician and a physicist read between the image and the beam."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cluster.adaptation.result import FractionReport
from cluster.report import fractionplots, goaltable, plots, text
from cluster.report.colors import EMPHASISED_PERCENT, ISODOSES, UNKNOWN_COLOR, StructureColor, structure_colors
from cluster.report.data import dvh_data, facts
from cluster.report.document import render_document, require_same_plan, write_document
from cluster.report.fractionpictures import (
    ARROW_SCALE,
    DIFFERENCES,
    MOTIONS,
    FractionPictures,
    make_fraction_pictures,
)
from cluster.report.fractionplots import Trend
from cluster.report.fractiontables import (
    IMAGE_WORDS,
    DayGoalRow,
    day_tiles,
    dose_row,
    gate_rows,
    goal_row,
    path_rows,
    structure_row,
)
from cluster.report.page import prescriptions, shown_curves
from doseeng.case import Case
from doseeng.dose import Quantity
from doseeng.errors import Notice
from robust.export import finite
from robust.result import Verdict

DAY_MEANING: Final = {
    Verdict.GREEN: "Every goal holds on today's anatomy, with the uncertainty of its values counted in.",
    Verdict.AMBER: "On today's anatomy a limit lies within the uncertainty of a value: a person must decide.",
    Verdict.RED: "Today's anatomy misses a goal that the plan must keep: consider a new plan.",
    Verdict.UNEVALUABLE: "Image or registration cannot be trusted, so there is no answer; this is no pass.",
}

_AGAIN: Final = "A limit has lain within the uncertainty of a value once more: consider a new plan."
"""What RED means on a day that alone would not be RED."""


@dataclass(frozen=True, slots=True)
class CourseDay:
    """One evaluated day of the course."""

    date: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Duration:
    """A stage and its share of the whole in percent."""

    stage: str
    seconds: str
    share: float


def write_fraction_report(
    report: FractionReport, case: Case, path: Path, *, written: datetime | None = None, stack_size: int = 7
) -> Path:
    """Write the report of a treatment day as one HTML file and return its path; missing folders are made.

    written: time stamp of the report, by default now. stack_size: axial pictures to leaf through, at most. Days without
    image, registration or dose have fewer sections. The file appears complete or not at all. PlanError: report and case
    do not belong together.
    """
    require_same_plan(report.case_key, report.plan_label, case)
    colors = structure_colors(case.structures.structures)
    pictures = make_fraction_pictures(report, case, colors, stack_size)
    values = _values(report, case, pictures, colors, written or datetime.now().astimezone())
    return write_document(render_document("fraction.html.j2", ("report.css", "fraction.css"), values), path)


def _values(
    report: FractionReport,
    case: Case,
    pictures: FractionPictures,
    colors: dict[str, StructureColor],
    written: datetime,
) -> dict[str, object]:
    unit = text.dose_unit(_quantity(report, case))
    reference = pictures.view.reference_gy
    decimals = text.dose_decimals(reference)
    plot, curves = fractionplots.day_curves(report.bands, reference)
    dvh = dvh_data(plot, decimals, [c.planned for c in curves])
    goals = [goal_row(day, colors, unit) for day in report.goals]
    gates = gate_rows(report.gates)
    robust = report.robust
    return dict(
        report=report,
        plan=case.plan,
        prescriptions=prescriptions(case, unit),
        acquired=f"{report.acquired:%Y-%m-%d %H:%M %Z}".strip(),
        written=f"{written:%Y-%m-%d %H:%M %Z}".strip(),
        image_words=IMAGE_WORDS[report.image_method],
        unit=unit,
        meaning=_AGAIN if _is_red_by_repetition(report) else DAY_MEANING[report.verdict],
        words=goaltable.STATUS_WORD,
        tiles=day_tiles(report, case, unit),
        goals=goals,
        failed_gates=[gate for gate in gates if not gate.passed],
        passed_gates=[gate for gate in gates if gate.passed],
        paths=path_rows(report),
        path_reach=text.number(fractionplots.path_reach_mm(report.path_changes)),
        changes=[structure_row(change, colors) for change in report.structure_changes],
        pictures=pictures,
        structure_colors=colors,
        day_shift=text.signed(pictures.day_shift_hu, 0),
        reference=text.limit_text(round(reference, 2)),
        isodoses=[(f"{level:g}", text.number(level * reference / 100, decimals), color) for level, color in ISODOSES],
        emphasised=f"{EMPHASISED_PERCENT:g}",
        differences=_band_key(DIFFERENCES),
        motions=_band_key(MOTIONS),
        arrow_scale=f"{ARROW_SCALE:g}",
        plot=plot,
        area=plots,
        curves=curves,
        curve_colors={c.curve.structure: colors.get(c.curve.structure, UNKNOWN_COLOR) for c in curves},
        shown=shown_curves({day.goal.structure for day in report.goals}, report.bands, case),
        dose_rows=[dose_row(band, decimals) for band in report.bands],
        days=_course(report),
        trends=_trends(report, goals),
        box=fractionplots,
        robust_rows=[goaltable.goal_row(r, robust, colors, unit) for r in robust.goals] if robust else [],
        durations=_durations(report.seconds),
        registration_durations=_durations(report.registration.seconds if report.registration else {}),
        total_seconds=text.number(sum(report.seconds.values())),
        notices=_notices(report, case, pictures.notices),
        facts=[("image series UID", report.series_uid), *facts(report.provenance)],
        provenance=json.dumps(finite(report.provenance), indent=2, ensure_ascii=False, default=str),
        data=finite({"schema": "doseeng-fraction-page/1", "dose_unit": unit, "dvh": dvh}),
    )


def _is_red_by_repetition(report: FractionReport) -> bool:
    return report.verdict is Verdict.RED and report.verdict_alone is not Verdict.RED


def _quantity(report: FractionReport, case: Case) -> Quantity:
    dose = report.dose or report.planned_dose
    if dose is not None:
        return dose.quantity
    return Quantity.RBE_WEIGHTED if case.plan.modality == "proton" else Quantity.PHYSICAL


def _band_key(bands: Sequence[tuple[float, str]]) -> list[tuple[str, str]]:
    """Range in words and colour of bands that start at a level and reach, away from zero, to the next one or on."""
    levels = [level for level, _ in bands]
    key = []
    for level, color in bands:
        beyond = [other for other in levels if other * level > 0 and abs(other) > abs(level)]
        end = min(beyond, key=abs, default=None)
        sign = text.signed if min(levels) < 0 else text.number
        words = f"{sign(level, 0)} to {sign(end, 0)}" if end is not None else f"beyond {sign(level, 0)}"
        key.append((words, color))
    return key


def _course(report: FractionReport) -> list[CourseDay]:
    days = [CourseDay(f"{d.acquired:%Y-%m-%d}", d.verdict) for d in report.earlier]
    return [*days, CourseDay(f"{report.acquired:%Y-%m-%d}", report.verdict)]


def _trends(report: FractionReport, rows: list[DayGoalRow]) -> list[tuple[DayGoalRow, Trend]]:
    """A trend for each goal that has a value on any day."""
    trends = [fractionplots.trend(day, report.earlier, report.acquired) for day in report.goals]
    return [(row, t) for row, t in zip(rows, trends, strict=True) if any(p.y is not None for p in t.points)]


def _durations(seconds: dict[str, float]) -> list[Duration]:
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        Duration(stage, text.number(s), round(100.0 * s / longest, 1) if math.isfinite(s) else 0.0)
        for stage, s in seconds.items()
    ]


def _notices(report: FractionReport, case: Case, drawing: tuple[Notice, ...]) -> list[Notice]:
    """Every notice once, in order of appearance: reading, structures, registration, evaluation, drawing."""
    registration = report.registration.notices if report.registration else ()
    robust = report.robust.notices if report.robust else ()
    everything = (*case.notices, *case.structures.notices, *registration, *report.notices, *robust, *drawing)
    return list(dict.fromkeys(everything))

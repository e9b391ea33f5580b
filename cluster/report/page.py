"""The page: everything a report shows as ready-made text and geometry, filled into one self-contained HTML document."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cluster.report import plots, text
from cluster.report.beams import beam_table
from cluster.report.colors import EMPHASISED_PERCENT, ISODOSES, UNKNOWN_COLOR, StructureColor
from cluster.report.data import facts, report_data
from cluster.report.document import render_document
from cluster.report.goaltable import STATUS_WORD, goal_row, is_met
from cluster.report.openings import beam_openings
from cluster.report.pictures import Pictures
from cluster.report.scenariotable import scenario_table
from cluster.report.view import highest, main_target
from doseeng.case import Case
from doseeng.errors import Notice
from robust.export import finite
from robust.result import DvhBand, GoalResult, RobustReport, Verdict

_SHOWN_CURVES: Final = 8
"""More curves than this in one plot are a tangle; the rest starts hidden."""
_NO_METRIC: Final = ("", "")

VERDICT_MEANING: Final = {
    Verdict.GREEN: "Every goal is met, with the uncertainty of its values counted in.",
    Verdict.AMBER: "A limit lies within the uncertainty of a value: a person must decide.",
    Verdict.RED: "A goal is missed, even with the uncertainty of its value counted in.",
    Verdict.UNEVALUABLE: "The question cannot be answered from these data; this is no pass.",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the summary."""

    title: str
    metric: tuple[str, str]
    value: str
    unit: str
    detail: str
    status: Verdict | None = None


@dataclass(frozen=True, slots=True)
class DoseRow:
    """Doses of one structure read from its DVH, each as two texts: the main one, and what it is compared with."""

    structure: str
    volume: str
    doses: tuple[tuple[str, str], ...]


def render_page(
    report: RobustReport,
    case: Case,
    pictures: Pictures,
    colors: dict[str, StructureColor],
    written: datetime,
) -> str:
    """The HTML document. Everything that comes from files is escaped; nothing is loaded from elsewhere."""
    unit = text.dose_unit(report.nominal.quantity)
    view = pictures.view
    plot = plots.dvh_plot(report.bands, view.reference_gy)
    decimals = text.dose_decimals(view.reference_gy)
    values: dict[str, object] = dict(
        report=report,
        plan=case.plan,
        prescriptions=prescriptions(case, unit),
        written=f"{written:%Y-%m-%d %H:%M %Z}".strip(),
        unit=unit,
        meaning=VERDICT_MEANING,
        words=STATUS_WORD,
        tiles=_tiles(report, case, unit, view.reference_gy),
        goals=[goal_row(result, report, colors, unit) for result in report.goals],
        plot=plot,
        area=plots,
        colors={curve.structure: colors.get(curve.structure, UNKNOWN_COLOR) for curve in plot.curves},
        structure_colors=colors,
        shown=shown_curves({r.goal.structure for r in report.goals}, report.bands, case),
        dose_rows=[_dose_row(band, decimals) for band in report.bands],
        pictures=pictures,
        reference=text.limit_text(round(view.reference_gy, 2)),
        isodoses=[
            (f"{level:g}", text.number(level * view.reference_gy / 100, decimals), color) for level, color in ISODOSES
        ],
        emphasised=f"{EMPHASISED_PERCENT:g}",
        beams=beam_table(case.plan),
        openings=beam_openings(case.plan),
        scenarios=scenario_table(report, case.plan.modality),
        notices=_notices(report, case, pictures.notices),
        facts=facts(report.provenance),
        provenance=json.dumps(finite(report.provenance), indent=2, ensure_ascii=False, default=str),
        data=finite(report_data(report, plot, unit, decimals, written)),
    )
    return render_document("report.html.j2", ("report.css",), values)


def prescriptions(case: Case, unit: str) -> list[str]:
    """The prescriptions of a plan as text, highest first."""
    names = {s.number: s.name for s in case.structures.structures}
    return [
        f"{names.get(p.roi_number, f'ROI {p.roi_number}')} {p.dose_gy:g} {unit}"
        for p in sorted(case.plan.prescriptions, key=lambda p: -p.dose_gy)
    ]


def _tiles(report: RobustReport, case: Case, unit: str, reference_gy: float) -> list[Tile]:
    target = main_target(case)
    of_target = [
        r for r in report.goals if target is not None and r.goal.structure == target.name and r.goal.relation == ">="
    ]
    coverage = next((r for r in of_target if r.goal.metric.startswith("V")), None)
    dose = next((r for r in of_target if r.goal.metric.startswith("D")), None)
    tiles = [
        _goal_tile(title, result, report, unit)
        for title, result in (("Target coverage", coverage), ("Target dose", dose))
        if result is not None
    ]
    count = len(report.scenarios)
    met = sum(all(is_met(r, i) for r in report.goals) for i in range(count))
    green = sum(r.status is Verdict.GREEN for r in report.goals)
    hottest = highest(report.voxel_max.values)
    nominal = highest(report.nominal.volume.values)
    decimals = text.dose_decimals(reference_gy)
    return [
        *tiles,
        Tile("Scenarios", _NO_METRIC, f"{met} of {count}", "", f"meet every limit ({len(report.goals)} goals)"),
        Tile("Goals", _NO_METRIC, f"{green} of {len(report.goals)}", "", "met for certain, uncertainty counted in"),
        Tile(
            "Maximum dose",
            _NO_METRIC,
            text.number(100 * nominal / reference_gy),
            "%",
            f"nominal, {text.number(nominal, decimals)} {unit}; "
            f"in any scenario {text.number(100 * hottest / reference_gy)} %",
        ),
    ]


def _goal_tile(title: str, result: GoalResult, report: RobustReport, unit: str) -> Tile:
    goal = result.goal
    worst = text.against_limit(float(result.values[result.worst_index]), goal.limit)
    return Tile(
        title=f"{title}: {goal.structure}",
        metric=text.metric_parts(goal.metric),
        value=text.against_limit(float(result.values[0]), goal.limit),
        unit=text.goal_unit(goal, unit),
        detail=f"nominal; worst {worst} in {report.scenarios[result.worst_index].name}; "
        f"goal {text.sign(goal)} {text.limit_text(goal.limit)}",
        status=result.status,
    )


def shown_curves(goals: set[str], bands: tuple[DvhBand, ...], case: Case) -> set[str]:
    """The curves that start visible: those with goals and targets first, the body outline never."""
    kinds = {s.name: s for s in case.structures.structures}

    def rank(band: DvhBand) -> int:
        structure = kinds.get(band.structure)
        if band.structure in goals:
            return 0
        if structure is not None and structure.kind.upper() == "EXTERNAL":
            return 3
        return 1 if structure is not None and structure.is_target else 2

    ordered = sorted((band for band in bands if rank(band) < 3), key=rank)
    return {band.structure for band in ordered[:_SHOWN_CURVES]}


def _dose_row(band: DvhBand, decimals: int) -> DoseRow:
    columns = [plots.dose_to_volume(band, v) for v in (98.0, 50.0, 2.0)] + [plots.mean_dose(band)]
    doses = tuple(
        (
            text.number(float(c[0]), decimals),
            f"{text.number(float(c.min()), decimals)} to {text.number(float(c.max()), decimals)}",
        )
        for c in columns
    )
    return DoseRow(band.structure, text.number(band.volume_cm3, 1 if band.volume_cm3 >= 10 else 2), doses)


def _notices(report: RobustReport, case: Case, drawing: tuple[Notice, ...]) -> list[Notice]:
    """Every notice once, in order of appearance: reading, structures, evaluation, drawing."""
    return list(dict.fromkeys((*case.notices, *case.structures.notices, *report.notices, *drawing)))

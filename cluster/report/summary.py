"""Results in brief: from a plan's evaluation or a treatment day to the plain data that SR, PDF and messages take."""

from __future__ import annotations

from datetime import datetime

from cluster.adaptation.result import DayGoal, FractionReport
from cluster.report.fractiontables import IMAGE_WORDS
from doseeng.dose import Dose, Quantity
from doseeng.summary import ReportSummary, SummaryRow, provenance_digest
from robust.result import GoalResult, RobustReport


def summary_of_plan(report: RobustReport, made: datetime) -> ReportSummary:
    """A robustness evaluation: nominal scenario beside the worst one of each goal."""
    return ReportSummary(
        title="Robustness of a plan",
        verdict=report.verdict.value,
        plan_label=report.plan_label,
        case_key=report.case_key,
        reasons=report.reasons,
        made=made,
        rows=tuple(_plan_row(result) for result in report.goals),
        occasions=("nominal", "worst"),
        facts=(
            ("Scenarios", str(len(report.scenarios))),
            ("Worst scenario", report.scenarios[report.worst_index].name),
        ),
        notices=tuple(str(notice) for notice in report.notices),
        rbe_weighted=report.nominal.quantity is Quantity.RBE_WEIGHTED,
        provenance=provenance_digest(report.provenance),
    )


def summary_of_fraction(report: FractionReport, made: datetime) -> ReportSummary:
    """A treatment day: the plan beside the course as if every fraction were like this one."""
    failed = [gate for gate in report.gates if not gate.passed]
    return ReportSummary(
        title="Dose of a treatment day",
        verdict=report.verdict.value,
        plan_label=report.plan_label,
        case_key=report.case_key,
        reasons=report.reasons,
        made=made,
        rows=tuple(_day_row(goal) for goal in report.goals),
        fraction=report.fraction,
        fractions=report.fractions,
        acquired=report.acquired,
        facts=(
            ("Image for dose", IMAGE_WORDS[report.image_method]),
            ("Quality gates", f"{len(report.gates) - len(failed)} of {len(report.gates)} passed"),
            ("Days evaluated before", str(len(report.earlier))),
        ),
        notices=tuple(str(notice) for notice in report.notices),
        rbe_weighted=_is_weighted(report.planned_dose, report.dose),
        provenance=provenance_digest(report.provenance),
    )


def summary_of_dose(
    dose: Dose, plan_label: str, case_key: str, provenance: dict[str, object], made: datetime
) -> ReportSummary:
    """A recalculated dose: no goals, no verdict."""
    return ReportSummary(
        title="Recalculated dose of a plan",
        verdict="",
        plan_label=plan_label,
        case_key=case_key,
        reasons=(),
        made=made,
        facts=(("Maximum dose", f"{float(dose.volume.values.max()):.2f} Gy"),),
        rbe_weighted=_is_weighted(dose),
        provenance=provenance_digest(provenance),
    )


def _is_weighted(*doses: Dose | None) -> bool:
    return any(dose is not None and dose.quantity is Quantity.RBE_WEIGHTED for dose in doses)


def _plan_row(result: GoalResult) -> SummaryRow:
    goal = result.goal
    worst = float(result.values[result.worst_index])
    # The band of a plan's goal is known on the side that faces the limit alone.
    is_above = worst >= goal.limit
    return SummaryRow(
        structure=goal.structure,
        metric=goal.metric,
        relation=goal.relation,
        limit=goal.limit,
        unit=goal.unit,
        reference=float(result.values[0]),
        value=worst,
        low=worst - result.band if is_above else worst,
        high=worst if is_above else worst + result.band,
        status=result.status.value,
        reason=result.reason,
    )


def _day_row(day: DayGoal) -> SummaryRow:
    goal = day.goal
    return SummaryRow(
        structure=goal.structure,
        metric=goal.metric,
        relation=goal.relation,
        limit=goal.limit,
        unit=goal.unit,
        reference=day.planned,
        value=day.value,
        low=day.band.low,
        high=day.band.high,
        status=day.status.value,
        reason=day.reason,
    )

"""A fraction's report as JSON-ready data: the verdict and the numbers behind it, no volumes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cluster.adaptation.result import DayGoal, EarlierDay, FractionReport
from robust.export import finite, report_to_json

SCHEMA_VERSION = 1
"""Goes up when a key changes its meaning or goes away; new keys leave it."""


def fraction_to_json(report: FractionReport) -> dict[str, Any]:
    """What programs read: plain dictionaries, lists, strings, numbers and None (for a value that does not exist)."""
    return {
        "schema_version": SCHEMA_VERSION,
        "case": report.case_key,
        "plan": report.plan_label,
        "acquired": report.acquired.isoformat(),
        "series_uid": report.series_uid,
        "fraction": report.fraction,
        "fractions": report.fractions,
        "verdict": report.verdict.value,
        "verdict_alone": report.verdict_alone.value,
        "reasons": list(report.reasons),
        "image_method": report.image_method.value,
        "goals": [_goal(goal) for goal in report.goals],
        "gates": finite([asdict(gate) for gate in report.gates]),
        "path_changes": finite([asdict(change) for change in report.path_changes]),
        "structure_changes": finite([asdict(change) for change in report.structure_changes]),
        "couch_shift_mm": finite(list(report.couch_shift_mm)),
        "couch_rotation_deg": finite(report.couch_rotation_deg),
        "residual_rotation_deg": finite(report.residual_rotation_deg),
        "earlier": [_earlier(day) for day in report.earlier],
        "robust": report.robust and report_to_json(report.robust),
        "notices": [asdict(notice) for notice in report.notices],
        "seconds": {stage: round(seconds, 2) for stage, seconds in report.seconds.items()},
        "provenance": report.provenance,
    }


def _goal(day: DayGoal) -> dict[str, Any]:
    goal = day.goal
    return {
        "structure": goal.structure,
        "metric": goal.metric,
        "relation": goal.relation,
        "limit": goal.limit,
        "unit": goal.unit,
        "prescription_gy": goal.prescription_gy,
        "status": day.status.value,
        "reason": day.reason,
        "planned": finite(day.planned),
        "value": finite(day.value),
        "band": finite(asdict(day.band)),
        "accepted_in_plan": day.accepted_in_plan,
        "course": finite(day.course),
    }


def _earlier(day: EarlierDay) -> dict[str, Any]:
    return {
        "acquired": day.acquired.isoformat(),
        "series_uid": day.series_uid,
        "verdict": day.verdict.value,
        "values": finite(day.values),
    }

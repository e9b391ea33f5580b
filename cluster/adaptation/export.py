"""A fraction's report as JSON-ready data: the verdict and the numbers behind it, no volumes."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from cluster.adaptation.result import DayGoal, EarlierDay, FractionReport
from doseeng.errors import Notice
from robust.export import report_to_json

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
        "gates": _finite([asdict(gate) for gate in report.gates]),
        "path_changes": _finite([asdict(change) for change in report.path_changes]),
        "structure_changes": _finite([asdict(change) for change in report.structure_changes]),
        "couch_shift_mm": _finite(list(report.couch_shift_mm)),
        "couch_rotation_deg": _finite(report.couch_rotation_deg),
        "residual_rotation_deg": _finite(report.residual_rotation_deg),
        "earlier": [_earlier(day) for day in report.earlier],
        "robust": report.robust and report_to_json(report.robust),
        "notices": [_notice(notice) for notice in report.notices],
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
        "planned": _finite(day.planned),
        "value": _finite(day.value),
        "band": _finite(asdict(day.band)),
        "accepted_in_plan": day.accepted_in_plan,
        "course": _finite(day.course),
    }


def _earlier(day: EarlierDay) -> dict[str, Any]:
    return {
        "acquired": day.acquired.isoformat(),
        "series_uid": day.series_uid,
        "verdict": day.verdict.value,
        "values": _finite(day.values),
    }


def _notice(notice: Notice) -> dict[str, str]:
    return {"code": notice.code, "where": notice.where, "message": notice.message}


def _finite(value: Any) -> Any:
    """The same with None for each number that is NaN or infinite, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value

"""A report as JSON-ready data: the verdict and the numbers behind it, no volumes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from doseeng.scenario import Scenario
from robust.anchor import FORMULA, Anchoring
from robust.result import GoalResult, RobustReport

SCHEMA_VERSION = 1
"""Goes up when a key changes its meaning or goes away; new keys leave it."""


def report_to_json(report: RobustReport) -> dict[str, object]:
    """What programs read: plain dictionaries, lists, strings, numbers and None (for a value that does not exist)."""
    return {
        "schema_version": SCHEMA_VERSION,
        "case": report.case_key,
        "plan": report.plan_label,
        "verdict": report.verdict.value,
        "reasons": list(report.reasons),
        "goals": [_goal(result, report.scenarios) for result in report.goals],
        "scenarios": [scenario_to_json(scenario) for scenario in report.scenarios],
        "worst_scenario": report.scenarios[report.worst_index].name,
        "structures": {band.structure: {"volume_cm3": _number(band.volume_cm3)} for band in report.bands},
        "anchoring": report.anchoring and anchoring_to_json(report.anchoring),
        "notices": [asdict(notice) for notice in report.notices],
        "provenance": report.provenance,
    }


def scenario_to_json(scenario: Scenario) -> dict[str, object]:
    """A scenario's errors by the names of `doseeng.scenario.Scenario`."""
    return {**asdict(scenario), "isocenter_shift_mm": list(scenario.isocenter_shift_mm)}


def anchoring_to_json(anchoring: Anchoring) -> dict[str, object]:
    """What the scenario doses are anchored to, by which formula, and how well the nominal doses agree."""
    return {**asdict(anchoring), "formula": FORMULA if anchoring.is_used else None}


def finite(value: Any) -> Any:
    """The same with None for each number that is NaN or infinite, which JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _goal(result: GoalResult, scenarios: tuple[Scenario, ...]) -> dict[str, object]:
    goal, drawn = result.goal, result.probability
    return {
        "structure": goal.structure,
        "metric": goal.metric,
        "relation": goal.relation,
        "limit": goal.limit,
        "unit": goal.unit,
        "prescription_gy": goal.prescription_gy,
        "in_scenarios_percent": goal.in_scenarios_percent,
        "status": result.status.value,
        "reason": result.reason,
        "nominal": _number(result.values[0]),
        "worst": _number(result.values[result.worst_index]),
        "worst_scenario": scenarios[result.worst_index].name,
        "band": _number(result.band),
        "passed_percent": 100 * result.passed,
        "voxelwise": _number(result.voxelwise),
        "values": _numbers(result.values),
        "probability": drawn
        and {
            "met": drawn.met,
            "drawn": drawn.drawn,
            "lower_bound": drawn.lower_bound,
            "confidence": drawn.confidence,
        },
    }


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

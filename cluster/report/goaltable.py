"""The goal table: every goal across the scenarios, as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from cluster.report import plots, text
from cluster.report.colors import UNKNOWN_COLOR, StructureColor
from cluster.report.plots import Spread
from robust.result import GoalResult, RobustReport, Verdict

STATUS_WORD: Final = {
    Verdict.GREEN: "met",
    Verdict.AMBER: "in doubt",
    Verdict.RED: "missed",
    Verdict.UNEVALUABLE: "no answer",
}

_FULL_TINT_MARGIN: Final = 0.05
"""A cell of the scenario strip has its full tint when its value is 5 % of the limit away from it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One goal in one scenario. tint: 0..1, how far the value is from the limit. mark: "met", "missed" or "none"."""

    scenario: str
    value: str
    mark: str
    tint: float


@dataclass(frozen=True, slots=True)
class GoalRow:
    """One line of the goal table, as text."""

    structure: str
    color: StructureColor
    metric: tuple[str, str]
    limit: str
    unit: str
    nominal: str
    worst: str
    worst_scenario: str
    band: str
    voxelwise: str
    passed: str
    passed_percent: str
    asked: str
    status: Verdict
    word: str
    reason: str
    spread: Spread | None
    cells: tuple[Cell, ...]


def is_met(result: GoalResult, index: int) -> bool | None:
    """Whether a goal's limit is met in a scenario; None where it has no value."""
    value = float(result.values[index])
    if not math.isfinite(value):
        return None
    return value >= result.goal.limit if result.goal.relation == ">=" else value <= result.goal.limit


def goal_row(result: GoalResult, report: RobustReport, colors: dict[str, StructureColor], unit: str) -> GoalRow:
    """The line of one goal; `unit` is the dose unit of the report."""
    goal = result.goal
    count = len(report.scenarios)
    asked = {100.0: "in all", 0.0: "nominal only"}.get(
        goal.in_scenarios_percent, f"in at least {goal.in_scenarios_percent:g} %"
    )
    return GoalRow(
        structure=goal.structure,
        color=colors.get(goal.structure, UNKNOWN_COLOR),
        metric=text.metric_parts(goal.metric),
        limit=f"{text.sign(goal)}{text.NO_BREAK}{text.limit_text(goal.limit)}",
        unit=text.goal_unit(goal, unit),
        nominal=text.against_limit(float(result.values[0]), goal.limit),
        worst=text.against_limit(float(result.values[result.worst_index]), goal.limit),
        worst_scenario=report.scenarios[result.worst_index].name,
        band=text.number(result.band, 2),
        voxelwise=text.against_limit(result.voxelwise, goal.limit),
        passed=f"{round(result.passed * count)} of {count}",
        passed_percent=text.number(100 * result.passed, 0),
        asked=asked,
        status=result.status,
        word=STATUS_WORD[result.status],
        reason=result.reason,
        spread=plots.spread(result),
        cells=tuple(_cell(result, i, scenario.name) for i, scenario in enumerate(report.scenarios)),
    )


def _cell(result: GoalResult, index: int, scenario: str) -> Cell:
    value, limit = float(result.values[index]), result.goal.limit
    met = is_met(result, index)
    mark = "none" if met is None else "met" if met else "missed"
    margin = abs(value - limit) / (abs(limit) or 1.0) if met is not None else 0.0
    tint = round(min(margin / _FULL_TINT_MARGIN, 1.0), 2)
    return Cell(scenario, text.against_limit(value, limit), mark, tint)

"""The tables of a treatment day as text: goals, gates, path changes, structures, uncertainty, timings, earlier days."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from cluster.adaptation.result import DayGoal, FractionReport, ImageMethod, StructureChange
from cluster.report import fractionplots, plots, text
from cluster.report.beams import field_name
from cluster.report.colors import UNKNOWN_COLOR, StructureColor
from cluster.report.fractionplots import DayBar, PathBar
from cluster.report.goaltable import STATUS_WORD
from cluster.report.page import DoseRow, Tile
from cluster.report.view import main_target
from doseeng.case import Case
from registration.result import GateResult
from robust.result import DvhBand, Verdict

IMAGE_WORDS: Final = {
    ImageMethod.VIRTUAL_CT: "planning CT deformed to today",
    ImageMethod.CORRECTED: "today's image, intensities corrected",
    ImageMethod.AS_IS: "today's image as it is",
}

_LARGE_LIMIT: Final = 20.0
"""Values of gates with limits as large as this need no hundredths."""
_NO_METRIC: Final = ("", "")
_SEVERITY: Final = (Verdict.RED, Verdict.UNEVALUABLE, Verdict.AMBER, Verdict.GREEN)


@dataclass(frozen=True, slots=True)
class DayGoalRow:
    """One line of the goal table and of the table of its uncertainty."""

    structure: str
    color: StructureColor
    metric: tuple[str, str]
    limit: str
    unit: str
    planned: str
    accepted: bool
    known: bool
    value: str
    change: str
    low: str
    high: str
    parts: tuple[tuple[str, bool], ...]
    course: str
    course_met: bool | None
    bar: DayBar | None
    status: Verdict
    word: str
    reason: str


@dataclass(frozen=True, slots=True)
class GateRow:
    """One gate as text."""

    name: str
    where: str
    value: str
    limit: str
    unit: str
    passed: bool
    message: str


@dataclass(frozen=True, slots=True)
class PathRow:
    """One field of the pre-screen, mm of water."""

    field: str
    mean: str
    p05: str
    p95: str
    worst: str
    bar: PathBar | None


@dataclass(frozen=True, slots=True)
class StructureRow:
    """One structure: volumes, change in percent, shift along x, y, z and its length, surfaces, overlap."""

    structure: str
    color: StructureColor
    planned: str
    today: str
    change: str
    shift: tuple[str, str, str]
    length: str
    surface: str
    dice: str


def goal_row(day: DayGoal, colors: dict[str, StructureColor], unit: str) -> DayGoalRow:
    """The line of one goal; `unit` is the dose unit of the report."""
    goal, band = day.goal, day.band
    parts = (band.image, band.registration, band.dose)
    largest = max((p for p in parts if math.isfinite(p)), default=math.nan)
    met = day.course >= goal.limit if goal.relation == ">=" else day.course <= goal.limit
    return DayGoalRow(
        structure=goal.structure,
        color=colors.get(goal.structure, UNKNOWN_COLOR),
        metric=text.metric_parts(goal.metric),
        limit=f"{text.sign(goal)}{text.NO_BREAK}{text.limit_text(goal.limit)}",
        unit=text.goal_unit(goal, unit),
        planned=text.against_limit(day.planned, goal.limit),
        accepted=day.accepted_in_plan,
        known=math.isfinite(day.value),
        value=text.against_limit(day.value, goal.limit),
        change=text.signed(day.value - day.planned),
        low=text.against_limit(band.low, goal.limit),
        high=text.against_limit(band.high, goal.limit),
        parts=tuple((text.number(p, 2), p == largest and p > 0) for p in parts),
        course=text.against_limit(day.course, goal.limit),
        course_met=bool(met) if math.isfinite(day.course) else None,
        bar=fractionplots.day_bar(day),
        status=day.status,
        word=STATUS_WORD[day.status],
        reason=day.reason,
    )


def gate_rows(gates: tuple[GateResult, ...]) -> list[GateRow]:
    """All gates, failed ones first, else in their order."""
    return [
        GateRow(
            gate.name,
            gate.where,
            text.against_limit(gate.value, gate.limit, 1 if abs(gate.limit) >= _LARGE_LIMIT else 2),
            _gate_limit(gate),
            gate.unit,
            gate.passed,
            gate.message,
        )
        for gate in sorted(gates, key=lambda g: g.passed)
    ]


def _gate_limit(gate: GateResult) -> str:
    if not math.isfinite(gate.limit):
        return text.NO_VALUE
    return f"{'≥' if gate.relation == '>=' else '≤'}{text.NO_BREAK}{text.limit_text(gate.limit)}"


def path_rows(report: FractionReport) -> list[PathRow]:
    """The pre-screen, field by field."""
    reach = fractionplots.path_reach_mm(report.path_changes)
    return [
        PathRow(
            field_name(change.beam_number, change.beam_name),
            text.signed(change.mean_mm),
            text.signed(change.p05_mm),
            text.signed(change.p95_mm),
            text.signed(change.worst_mm),
            fractionplots.path_bar(change, reach),
        )
        for change in report.path_changes
    ]


def structure_row(change: StructureChange, colors: dict[str, StructureColor]) -> StructureRow:
    """The line of one structure."""
    percent = 100.0 * (change.today_cm3 / change.planned_cm3 - 1.0) if change.planned_cm3 > 0 else math.nan
    x, y, z = change.shift_mm
    return StructureRow(
        change.structure,
        colors.get(change.structure, UNKNOWN_COLOR),
        text.number(change.planned_cm3, _volume_decimals(change.planned_cm3)),
        text.number(change.today_cm3, _volume_decimals(change.planned_cm3)),
        text.signed(percent),
        (text.signed(x), text.signed(y), text.signed(z)),
        text.number(math.hypot(x, y, z)),
        text.number(change.mean_surface_mm),
        text.number(change.dice, 2),
    )


def dose_row(band: DvhBand, decimals: int) -> DoseRow:
    """D98, D50, D2 and mean dose of one structure, each today's and the planned one."""
    columns = [plots.dose_to_volume(band, v) for v in (98.0, 50.0, 2.0)] + [plots.mean_dose(band)]
    doses = tuple((text.number(float(c[1]), decimals), text.number(float(c[0]), decimals)) for c in columns)
    return DoseRow(band.structure, text.number(band.volume_cm3, _volume_decimals(band.volume_cm3)), doses)


def day_tiles(report: FractionReport, case: Case, unit: str) -> list[Tile]:
    """The figures that sum up a day."""
    target = main_target(case)
    targets = {s.name for s in case.structures.structures if s.is_target}
    covers = [g for g in report.goals if g.goal.relation == ">=" and g.goal.structure in targets]
    of_main = [g for g in covers if target is not None and g.goal.structure == target.name] or covers
    coverage = next((g for g in of_main if g.goal.metric.startswith("V")), of_main[0] if of_main else None)
    organs = [g for g in report.goals if g.goal.structure not in targets]
    organ = min(organs, key=lambda g: (_SEVERITY.index(g.status), _margin(g)), default=None)
    tiles = [
        _goal_tile(title, goal, unit)
        for title, goal in (("Coverage", coverage), ("Worst organ goal", organ))
        if goal is not None
    ]
    return [*tiles, _couch_tile(report), _gates_tile(report), *_path_tiles(report)]


def _goal_tile(title: str, day: DayGoal, unit: str) -> Tile:
    goal = day.goal
    band = f"; {text.number(day.band.low)} to {text.number(day.band.high)}" if math.isfinite(day.band.low) else ""
    return Tile(
        title=f"{title}: {goal.structure}",
        metric=text.metric_parts(goal.metric),
        value=text.against_limit(day.value, goal.limit),
        unit=text.goal_unit(goal, unit),
        detail=f"today{band}; plan {text.against_limit(day.planned, goal.limit)}; "
        f"goal {text.sign(goal)} {text.limit_text(goal.limit)}",
        status=day.status,
    )


def _couch_tile(report: FractionReport) -> Tile:
    x, y, z = report.couch_shift_mm
    shift_mm = math.hypot(x, y, z)
    if not math.isfinite(shift_mm):
        return Tile("Couch shift", _NO_METRIC, text.NO_VALUE, "", "not found")
    return Tile(
        "Couch shift",
        _NO_METRIC,
        text.number(shift_mm),
        "mm",
        f"left {text.signed(x)}, posterior {text.signed(y)}, superior {text.signed(z)} mm; "
        f"turned by {text.number(report.couch_rotation_deg)}°, {text.number(report.residual_rotation_deg)}° remain",
    )


def _gates_tile(report: FractionReport) -> Tile:
    failed = list(dict.fromkeys(g.name for g in report.gates if not g.passed))
    passed = sum(g.passed for g in report.gates)
    if not report.gates:
        return Tile("Quality gates passed", _NO_METRIC, text.NO_VALUE, "", "none was measured")
    detail = f"failed: {', '.join(failed)}" if failed else "image, registration and field of view can be trusted"
    return Tile("Quality gates passed", _NO_METRIC, f"{passed} of {len(report.gates)}", "", detail)


def _path_tiles(report: FractionReport) -> list[Tile]:
    known = [c for c in report.path_changes if math.isfinite(c.worst_mm)]
    if not known:
        return []
    worst = max(known, key=lambda c: abs(c.worst_mm))
    deeper = "more" if worst.worst_mm > 0 else "less"
    field = field_name(worst.beam_number, worst.beam_name)
    detail = f"{deeper} water in the way of field {field}; {text.signed(worst.mean_mm)} mm on average"
    return [Tile("Worst path change", _NO_METRIC, text.signed(worst.worst_mm), "mm", detail)]


def _margin(day: DayGoal) -> float:
    """How far a value is inside its limit, as share of the limit; unknown ones first."""
    inside = day.goal.limit - day.value if day.goal.relation == "<=" else day.value - day.goal.limit
    return inside / (abs(day.goal.limit) or 1.0) if math.isfinite(inside) else -math.inf


def _volume_decimals(cm3: float) -> int:
    return 1 if cm3 >= 10.0 else 2

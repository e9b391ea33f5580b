"""The verdict of a day: goals on today's dose against limit, plan and course.

The band of a goal's value has three parts, combined in quadrature on each side of the value: dose (what +- some percent
of dose make of it), registration (its root mean square deviations, up and down, between perturbed deformations) and
image (its difference between two ways to make an image for dose, or what +- some percent of dose make of it). Then

    UNEVALUABLE   a value does not exist, or a quality gate failed
    RED           value and band both miss the limit
    AMBER         the limit lies in the band
    GREEN         value and band both keep the limit

A goal that the plan itself clearly misses cannot tell a good day by its limit. It is judged against its planned value:
GREEN as long as it is no worse beyond the band, AMBER up to twice the band, RED from there.

AMBER today after a day that was AMBER or worse (the last that could be evaluated) is RED. Goals that only stay as
doubtful as they were in the plan are left out of that count: they are AMBER every day and announce no change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from cluster.adaptation.result import Band, DayGoal, EarlierDay
from doseeng.metrics import parse_metric
from registration.result import GateResult
from robust.goals import Goal
from robust.measure import Measured
from robust.result import Verdict
from robust.verdict import margins

Array = npt.NDArray[np.float64]

SEVERITY: Final = (Verdict.GREEN, Verdict.AMBER, Verdict.RED, Verdict.UNEVALUABLE)
_DIGITS: Final = {"%": 1, "cm3": 2, "Gy": 2}
_EXACT: Final = 1e-6
"""Values that agree this well, relative to the limit, are the same: sums of float32 doses differ by less."""


@dataclass(frozen=True, slots=True, eq=False)
class GoalMeasures:
    """One goal measured on one day.

    planned: on the planning CT with its planned contours, the band that of the dose engine. today: on today's dose and
    contours, likewise. perturbed: (n,) float64, today's value with perturbed deformations; (0,) without. image: today's
    value with the other image for dose, or, where there is none, with doses off by some percent: (0..2,) float64.
    """

    goal: Goal
    planned: Measured
    today: Measured
    perturbed: Array
    image: Array


def judge_goal(measures: GoalMeasures, before: EarlierDay | None = None) -> DayGoal:
    """Value, band, status of one goal and the sentence behind it, which also tells the evaluable day `before`."""
    goal, planned, today = measures.goal, measures.planned, measures.today
    if not (np.isfinite(today.value) and np.isfinite(planned.value)):
        which = "today" if np.isfinite(planned.value) else "in the plan"
        unknown = Band(np.nan, np.nan, np.nan, np.nan, np.nan)
        return DayGoal(
            goal, planned.value, today.value, unknown, Verdict.UNEVALUABLE, f"{goal.name} has no value {which}."
        )
    band = combined_band(measures)
    accepted = _clearly_missed(goal, planned.value, planned.low, planned.high)
    status = _against_plan(goal, planned.value, today.value, band) if accepted else _against_limit(goal, today, band)
    day = DayGoal(goal, planned.value, today.value, band, status, "", accepted)
    return replace(day, reason=_reason(day, before))


def combined_band(measures: GoalMeasures) -> Band:
    """The band around today's value. Its parts are given on the side that faces the limit, where they decide."""
    goal, (value, low, high) = measures.goal, measures.today
    sides = [
        (value - low, high - value),
        _spread(value, measures.perturbed),
        _both_sides(value, measures.image),
    ]
    down, up = (float(np.sqrt(sum(side[i] ** 2 for side in sides if np.isfinite(side[i])))) for i in (0, 1))
    decides = 0 if (margins(goal, value) >= 0) == (goal.relation == ">=") else 1
    dose, registration, image = (side[decides] for side in sides)
    lowest, highest = _possible(goal, value)
    return Band(image, registration, dose, max(value - down, lowest), min(value + up, highest))


def overall(
    goals: Sequence[DayGoal],
    planned: Sequence[Measured],
    gates: Sequence[GateResult],
    earlier: Sequence[EarlierDay],
) -> tuple[Verdict, Verdict, tuple[str, ...]]:
    """(verdict, verdict of this day alone, reasons with the most important first).

    planned: of each goal, with its band. earlier: days before this one, oldest first. A failed gate makes the day
    UNEVALUABLE, as do no goals at all.
    """
    failed = tuple(_gate_sentence(gate) for gate in gates if not gate.passed)
    if failed:
        # Values that cannot be trusted are no reasons.
        return Verdict.UNEVALUABLE, Verdict.UNEVALUABLE, failed
    by_severity = sorted(goals, key=lambda g: (-SEVERITY.index(g.status), _shortfall(g)))
    told = [goal.reason for goal in by_severity] or ["No goal could be judged."]
    if not goals:
        return Verdict.UNEVALUABLE, Verdict.UNEVALUABLE, tuple(told)
    alone = max((goal.status for goal in goals), key=SEVERITY.index)
    before = last_evaluable(earlier)
    if alone is Verdict.AMBER and before is not None and _is_second(goals, planned, before):
        when = f"{before.acquired:%Y-%m-%d}"
        return Verdict.RED, alone, (f"Second day in a row that is not GREEN, after {when}: RED.", *told)
    return alone, alone, tuple(told)


def not_trusted(goals: Sequence[DayGoal]) -> tuple[DayGoal, ...]:
    """The goals of a day whose gates failed: their values are told, but stand for nothing."""
    return tuple(
        replace(goal, status=Verdict.UNEVALUABLE, reason="Not judged, because a quality gate failed.") for goal in goals
    )


def last_evaluable(earlier: Sequence[EarlierDay]) -> EarlierDay | None:
    """The latest of the days before this one that could be evaluated."""
    return next((day for day in reversed(earlier) if day.verdict is not Verdict.UNEVALUABLE), None)


def _is_second(goals: Sequence[DayGoal], planned: Sequence[Measured], before: EarlierDay) -> bool:
    """Whether a goal that has changed is AMBER today, and one that had changed was not GREEN the day before."""
    today, earlier = False, False
    for day, plan in zip(goals, planned, strict=True):
        name = day.goal.name
        doubtful = _is_doubtful(day.goal, plan)
        now = day.status is Verdict.AMBER
        today |= now and not (doubtful and _is_no_worse(day.goal, plan.value, day.band.low, day.band.high))
        if before.statuses.get(name, Verdict.GREEN) is not Verdict.GREEN:
            low, high = before.low.get(name, np.nan), before.high.get(name, np.nan)
            earlier |= not (doubtful and _is_no_worse(day.goal, plan.value, low, high))
    return today and earlier


def _against_limit(goal: Goal, today: Measured, band: Band) -> Verdict:
    if _clearly_missed(goal, today.value, band.low, band.high):
        return Verdict.RED
    surely = band.low if goal.relation == ">=" else band.high
    return Verdict.GREEN if margins(goal, surely) >= 0 else Verdict.AMBER


def _against_plan(goal: Goal, planned: float, value: float, band: Band) -> Verdict:
    """The band on the side of the plan is what a change must exceed."""
    if _is_no_worse(goal, planned, band.low, band.high):
        return Verdict.GREEN
    reach = 2 * ((band.high - value) if goal.relation == ">=" else (value - band.low))
    return Verdict.AMBER if _is_no_worse(goal, planned, value - reach, value + reach) else Verdict.RED


def _is_no_worse(goal: Goal, planned: float, low: float, high: float) -> bool:
    """Whether the better end of a band is as good as the planned value; no for a band that does not exist."""
    room = _EXACT * (abs(goal.limit) or 1.0)
    return bool(high >= planned - room if goal.relation == ">=" else low <= planned + room)


def _is_doubtful(goal: Goal, planned: Measured) -> bool:
    """Whether the limit lies in the planned value's band."""
    surely = planned.low if goal.relation == ">=" else planned.high
    return not _clearly_missed(goal, *planned) and bool(margins(goal, surely) < 0)


def _clearly_missed(goal: Goal, value: float, low: float, high: float) -> bool:
    possibly = high if goal.relation == ">=" else low
    return bool(margins(goal, value) < 0 and margins(goal, possibly) < 0)


def _spread(value: float, perturbed: Array) -> tuple[float, float]:
    """Root mean square deviations below and above the value; 0 on a side without any, NaN when nothing was perturbed.

    A value at the shoulder of its DVH can only fall, and one among symmetric deviations has their standard deviation
    on both sides.
    """
    deviation = perturbed[np.isfinite(perturbed)] - value
    if not len(deviation):
        return np.nan, np.nan
    below, above = deviation[deviation < 0], deviation[deviation > 0]
    down, up = (float(np.sqrt(np.mean(side**2))) if len(side) else 0.0 for side in (below, above))
    return down, up


def _both_sides(value: float, others: Array) -> tuple[float, float]:
    """The largest difference to another estimate, both ways: the truth may lie beyond either. NaN without another."""
    known = others[np.isfinite(others)]
    if not len(known):
        return np.nan, np.nan
    half = float(np.abs(known - value).max())
    return half, half


def _possible(goal: Goal, value: float) -> tuple[float, float]:
    """Between which numbers the value of a goal can lie: no dose or volume is negative, no volume exceeds 100 %."""
    is_share = parse_metric(goal.metric).kind == "volume" and goal.unit == "%"
    return min(0.0, value), max(100.0, value) if is_share else np.inf


def _shortfall(day: DayGoal) -> float:
    margin = float(margins(day.goal, day.value))
    return margin if np.isfinite(margin) else -np.inf


def _gate_sentence(gate: GateResult) -> str:
    where = f" [{gate.where}]" if gate.where else ""
    return f"{gate.name}{where}: {gate.message}"


def _reason(day: DayGoal, before: EarlierDay | None) -> str:
    goal, unit = day.goal, day.goal.unit
    limit = f"limit {goal.relation} {_number(goal.limit, unit)}"
    band = f"band {_number(day.band.low, unit)} to {_number(day.band.high, unit)}"
    was = f"planned {_number(day.planned, unit)}"
    if before is not None and np.isfinite(before.values.get(goal.name, np.nan)):
        was += f", {_number(before.values[goal.name], unit)} on {before.acquired:%Y-%m-%d}"
    sentence = f"{goal.name} is {_number(day.value, unit)} today ({limit}, {band}; {was})"
    return f"{sentence}{_judgement(day)}."


def _judgement(day: DayGoal) -> str:
    if day.accepted_in_plan:
        worse = "no worse than planned" if day.status is Verdict.GREEN else "worse than planned beyond the band"
        return f"; the plan itself misses the limit, and today is {worse}"
    return {
        Verdict.RED: "; value and band miss the limit",
        Verdict.AMBER: "; the limit lies in the band",
        Verdict.GREEN: "",
    }[day.status]


def _number(value: float, unit: str) -> str:
    return f"{value:.{_DIGITS[unit]}f} {unit}"

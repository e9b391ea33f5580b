"""The verdict: how values, bands and quality gates become GREEN, AMBER, RED or UNEVALUABLE, and why.

In one scenario a goal is *clearly met* when value and band both keep the limit, *clearly missed* when both miss it, and
in between when the limit lies in the band. Over the scenarios:

    UNEVALUABLE   a value does not exist
    RED           clearly missed in the nominal scenario, or so often that the share of scenarios the goal asks for is
                  not reached even if every doubtful scenario meets it
    AMBER         that share is reached only if doubtful scenarios count as met, or the nominal scenario is doubtful
    GREEN         the share is clearly met, and so is the nominal scenario

The worst goal counts, and a failed quality gate makes the whole evaluation UNEVALUABLE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from doseeng.errors import Notice
from doseeng.scenario import Scenario
from robust.goals import Goal
from robust.result import CourseProbability, GoalResult, Verdict

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_SEVERITY: Final = (Verdict.GREEN, Verdict.AMBER, Verdict.RED, Verdict.UNEVALUABLE)

CONFIDENCE: Final = 0.95
"""One-sided confidence of probability statements."""


@dataclass(frozen=True, slots=True, eq=False)
class GoalValues:
    """One goal in every scenario: value, and the band between low and high, (n_scenario,) float64 in the goal's unit.

    voxelwise: the value on the voxel-wise minimum (">=") or maximum ("<=") dose over the scenarios, NaN without.
    """

    goal: Goal
    value: Array
    low: Array
    high: Array
    voxelwise: float = float("nan")


def margins(goal: Goal, value: npt.ArrayLike) -> Array:
    """By how much values keep the limit, relative to the limit (absolute where it is 0); negative when missed."""
    difference = np.asarray(value, dtype=np.float64) - goal.limit
    difference = difference if goal.relation == ">=" else -difference
    return difference / (abs(goal.limit) or 1.0)


def judge(values: GoalValues, scenarios: tuple[Scenario, ...]) -> GoalResult:
    """Status, reason and numbers of one goal; scenarios[0] is nominal."""
    goal = values.goal
    unknown = ~np.isfinite(values.value)
    if unknown.any():
        where = int(np.argmax(unknown))
        reason = f"{goal.name} has no value in '{scenarios[where].name}'."
        passed = float((margins(goal, values.value) >= 0).mean())
        return GoalResult(goal, values.value, where, np.nan, passed, Verdict.UNEVALUABLE, reason, values.voxelwise)
    outcome = _outcome(values)
    status = _status(goal, outcome)
    probability = course_probability(outcome.met, scenarios)
    sentence = _reason(values, scenarios, outcome, status)
    return GoalResult(
        goal,
        values.value,
        outcome.worst,
        float(outcome.band[outcome.worst]),
        float(outcome.met.mean()),
        status,
        sentence if probability is None else f"{sentence} {probability}",
        values.voxelwise,
        probability,
    )


def overall(
    results: tuple[GoalResult, ...], gates: tuple[Notice, ...], plan_label: str
) -> tuple[Verdict, tuple[str, ...]]:
    """The word over all goals, and the sentences behind it, most important first.

    gates: quality gates that failed; any makes the evaluation UNEVALUABLE, as does a plan without goals.
    """
    sentences = [str(gate) for gate in gates]
    if not results:
        sentences.append(
            f"Plan '{plan_label}' has no goal to judge: it prescribes no dose to a structure; give a goals file."
        )
    verdict = Verdict.UNEVALUABLE if sentences else max((r.status for r in results), key=_SEVERITY.index)
    by_severity = sorted(results, key=lambda r: (-_SEVERITY.index(r.status), _margin_at_worst(r)))
    return verdict, (*sentences, *(r.reason for r in by_severity))


def course_probability(
    met: Flags, scenarios: tuple[Scenario, ...], confidence: float = CONFIDENCE
) -> CourseProbability | None:
    """How likely a treatment course meets a goal, from the random draws among the scenarios alone; None without any."""
    drawn = [bool(m) for m, scenario in zip(met, scenarios, strict=True) if scenario.random]
    if not drawn:
        return None
    return CourseProbability(
        sum(drawn), len(drawn), clopper_pearson_lower(sum(drawn), len(drawn), confidence), confidence
    )


def clopper_pearson_lower(successes: int, draws: int, confidence: float) -> float:
    """One-sided exact lower confidence bound of a binomial probability (Clopper, Pearson, Biometrika 26 (1934) 404)."""
    if not 0 <= successes <= draws or draws < 1:
        raise ValueError(f"{successes} successes of {draws} draws are impossible")
    return 0.0 if successes == 0 else float(beta.ppf(1 - confidence, successes, draws - successes + 1))


class _Outcome(NamedTuple):
    """Per scenario: limit met by the value; by value and band; missed by both; half-width of the band that decides."""

    met: Flags
    clearly_met: Flags
    clearly_missed: Flags
    band: Array
    worst: int


def _outcome(values: GoalValues) -> _Outcome:
    goal = values.goal
    margin = margins(goal, values.value)
    met = margin >= 0
    surely, possibly = (values.low, values.high) if goal.relation == ">=" else (values.high, values.low)
    # The side of the band that faces the limit is the one that decides.
    band = np.abs(np.where(met, surely, possibly) - values.value)
    return _Outcome(met, margins(goal, surely) >= 0, margins(goal, possibly) < 0, band, int(np.argmin(margin)))


def _status(goal: Goal, outcome: _Outcome) -> Verdict:
    needed = _needed(goal, len(outcome.met))
    if outcome.clearly_missed[0] or np.count_nonzero(~outcome.clearly_missed) < needed:
        return Verdict.RED
    if not outcome.clearly_met[0] or np.count_nonzero(outcome.clearly_met) < needed:
        return Verdict.AMBER
    return Verdict.GREEN


def _needed(goal: Goal, count: int) -> int:
    """How many scenarios must meet the goal; the tolerance keeps 90 % of 10 at 9 in binary arithmetic."""
    return int(np.ceil(goal.in_scenarios_percent / 100 * count - 1e-9))


def _margin_at_worst(result: GoalResult) -> float:
    margin = float(margins(result.goal, result.values)[result.worst_index])
    return margin if np.isfinite(margin) else -np.inf


def _reason(values: GoalValues, scenarios: tuple[Scenario, ...], outcome: _Outcome, status: Verdict) -> str:
    goal, worst = values.goal, outcome.worst
    shown = 0 if goal.in_scenarios_percent == 0 or outcome.clearly_missed[0] else worst
    value, band = (_number(float(x[shown]), goal.unit) for x in (values.value, outcome.band))
    limit = f"limit {goal.relation} {_number(goal.limit, goal.unit)}, band ±{band}"
    sentence = f"{goal.name} is {value} in '{scenarios[shown].name}' ({limit})"
    doubtful = np.count_nonzero(~outcome.clearly_met & ~outcome.clearly_missed)
    if len(scenarios) == 1:
        return f"{sentence}; the limit lies in the band." if doubtful else f"{sentence}."
    if goal.in_scenarios_percent == 0:
        return f"{sentence}; only the nominal scenario counts."
    if status is Verdict.GREEN and outcome.met.all():
        return f"{sentence}, the worst of {len(scenarios)} scenarios."
    sentence += f"; met in {np.count_nonzero(outcome.met)} of {len(scenarios)} scenarios"
    if goal.in_scenarios_percent < 100:
        sentence += f", {goal.in_scenarios_percent:g} % of them asked"
    if shown != worst:
        sentence += f"; worst {_number(float(values.value[worst]), goal.unit)} in '{scenarios[worst].name}'"
    if status is Verdict.AMBER:
        sentence += f"; the limit lies in the band in {doubtful}"
    return f"{sentence}."


def _number(value: float, unit: str) -> str:
    digits = {"%": 1, "cm3": 2, "Gy": 2}[unit]
    return f"{value:.{digits}f} {unit}"

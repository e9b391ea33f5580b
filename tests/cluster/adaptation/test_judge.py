"""The verdict of a day against hand-made values: no dose, no image."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from cluster.adaptation.judge import GoalMeasures, combined_band, judge_goal, last_evaluable, not_trusted, overall
from cluster.adaptation.result import DayGoal, EarlierDay
from registration.result import GateResult
from robust.goals import Goal
from robust.measure import Measured
from robust.result import Verdict

COVER = Goal("CTV", "V95%", ">=", 95.0, "%", 60.0)
CORD = Goal("Cord", "Dmean", "<=", 26.0, "Gy")
NONE = np.zeros(0)


def measured(value: float, half: float = 1.0) -> Measured:
    return Measured(value, value - half, value + half)


def measures(goal: Goal, planned: float, today: float, half: float = 1.0) -> GoalMeasures:
    return GoalMeasures(goal, measured(planned, half), measured(today, half), NONE, NONE)


def judged(goal: Goal, planned: float, today: float, half: float = 1.0) -> DayGoal:
    return judge_goal(measures(goal, planned, today, half))


def day(verdict: Verdict, goal: Goal, value: float, half: float = 1.0, number: int = 1) -> EarlierDay:
    at = datetime(2025, 1, number)
    by_name = {goal.name: value}
    low, high = {goal.name: value - half}, {goal.name: value + half}
    return EarlierDay(at, f"1.2.{number}", verdict, by_name, low, high, {goal.name: verdict})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(96.1, Verdict.GREEN), (95.9, Verdict.AMBER), (94.1, Verdict.AMBER), (93.9, Verdict.RED)],
)
def test_coverage_against_its_limit(value: float, expected: Verdict) -> None:
    assert judged(COVER, 99.0, value).status is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(24.9, Verdict.GREEN), (25.1, Verdict.AMBER), (26.9, Verdict.AMBER), (27.1, Verdict.RED)],
)
def test_organ_against_its_limit(value: float, expected: Verdict) -> None:
    assert judged(CORD, 20.0, value).status is expected


def test_the_parts_of_the_band_add_in_quadrature_on_each_side() -> None:
    today = Measured(90.0, 87.0, 91.0)
    band = combined_band(
        GoalMeasures(COVER, measured(99.0), today, np.array([86.0, 86.0, 94.0, np.nan]), np.array([102.0]))
    )
    assert band.low == pytest.approx(90.0 - np.sqrt(3**2 + 4**2 + 12**2))
    # 90 + sqrt(1 + 16 + 144) would be more than the whole structure.
    assert band.high == 100.0
    # The limit lies above the value: that side decides.
    assert (band.dose, band.registration, band.image) == pytest.approx((1.0, 4.0, 12.0))


def test_deviations_to_one_side_widen_one_side() -> None:
    band = combined_band(
        GoalMeasures(COVER, measured(99.0), Measured(100.0, 100.0, 100.0), np.array([98.0, 97.0, 100.0]), NONE)
    )
    assert band.high == 100.0
    assert band.low == pytest.approx(100.0 - np.sqrt((2**2 + 3**2) / 2))
    assert np.isnan(band.image)


def test_no_dose_is_negative() -> None:
    assert combined_band(measures(CORD, 1.0, 0.4)).low == 0.0


def test_a_plan_that_misses_a_limit_alarms_only_when_today_is_worse() -> None:
    expected = {31.0: Verdict.GREEN, 30.0: Verdict.GREEN, 31.5: Verdict.AMBER, 32.5: Verdict.RED, 20.0: Verdict.GREEN}
    for value, status in expected.items():
        found = judged(CORD, 30.0, value)
        assert found.accepted_in_plan
        assert found.status is status, value
    assert not judged(CORD, 26.5, 26.5).accepted_in_plan


def test_same_value_as_planned_without_band_is_green_when_the_plan_misses() -> None:
    assert judged(COVER, 90.0, 90.0 - 1e-5, half=0.0).status is Verdict.GREEN
    assert judged(COVER, 90.0, 89.0, half=0.0).status is Verdict.RED


def test_the_sentence_tells_value_limit_band_plan_and_the_day_before() -> None:
    found = judge_goal(measures(COVER, 99.2, 93.0), day(Verdict.GREEN, COVER, 98.1, number=14))
    for part in ("CTV V95% is 93.0 %", ">= 95.0 %", "92.0 % to 94.0 %", "planned 99.2 %", "98.1 % on 2025-01-14"):
        assert part in found.reason
    assert found.reason.endswith("value and band miss the limit.")


@pytest.mark.parametrize(("planned", "today", "which"), [(np.nan, 97.0, "in the plan"), (97.0, np.nan, "today")])
def test_a_value_that_does_not_exist_is_unevaluable(planned: float, today: float, which: str) -> None:
    found = judged(COVER, planned, today)
    assert found.status is Verdict.UNEVALUABLE
    assert which in found.reason


def verdict_of(
    pairs: list[tuple[Goal, float, float]], earlier: tuple[EarlierDay, ...] = (), gates: tuple[GateResult, ...] = ()
) -> tuple[Verdict, Verdict, tuple[str, ...]]:
    goals = tuple(judged(*pair) for pair in pairs)
    return overall(goals, tuple(measured(planned) for _, planned, _ in pairs), gates, earlier)


def test_the_worst_goal_counts_and_comes_first() -> None:
    verdict, alone, reasons = verdict_of([(COVER, 99.0, 98.0), (CORD, 20.0, 30.0)])
    assert (verdict, alone) == (Verdict.RED, Verdict.RED)
    assert reasons[0].startswith("Cord")
    assert len(reasons) == 2


def test_a_failed_gate_makes_the_day_unevaluable_and_is_the_only_reason() -> None:
    gates = (
        GateResult("jacobian", "CTV", 1.0, 0.2, "", True, "fine"),
        GateResult("coverage", "CTV", 0.4, 0.9, "", False, "half the target is not in the image."),
    )
    verdict, alone, reasons = verdict_of([(COVER, 99.0, 80.0)], gates=gates)
    assert (verdict, alone) == (Verdict.UNEVALUABLE, Verdict.UNEVALUABLE)
    assert reasons == ("coverage [CTV]: half the target is not in the image.",)
    (goal,) = not_trusted([judged(COVER, 99.0, 98.0)])
    assert (goal.status, goal.value) == (Verdict.UNEVALUABLE, 98.0)


def test_no_goal_is_unevaluable() -> None:
    assert verdict_of([])[0] is Verdict.UNEVALUABLE


AMBER_TODAY = [(COVER, 99.0, 95.5)]


def test_two_ambers_in_a_row_are_red() -> None:
    verdict, alone, reasons = verdict_of(AMBER_TODAY, (day(Verdict.AMBER, COVER, 95.2),))
    assert (verdict, alone) == (Verdict.RED, Verdict.AMBER)
    assert "2025-01-01" in reasons[0]
    assert verdict_of(AMBER_TODAY, (day(Verdict.GREEN, COVER, 98.0),))[0] is Verdict.AMBER
    assert verdict_of(AMBER_TODAY)[0] is Verdict.AMBER


def test_a_day_between_that_was_green_breaks_the_row_one_without_verdict_does_not() -> None:
    amber, green = day(Verdict.AMBER, COVER, 95.2), day(Verdict.GREEN, COVER, 98.0, number=2)
    blind = replace(day(Verdict.UNEVALUABLE, COVER, 95.0, number=3), values={}, low={}, high={}, statuses={})
    assert verdict_of(AMBER_TODAY, (amber, green))[0] is Verdict.AMBER
    assert verdict_of(AMBER_TODAY, (amber, blind))[0] is Verdict.RED
    assert last_evaluable((amber, green, blind)) is green
    assert last_evaluable((blind,)) is None


def test_a_goal_as_doubtful_as_in_the_plan_is_amber_every_day_and_never_red_by_repetition() -> None:
    before = day(Verdict.AMBER, CORD, 25.8)
    same = verdict_of([(CORD, 25.9, 25.8)], (before,))
    assert same[:2] == (Verdict.AMBER, Verdict.AMBER)
    # It has become worse by more than the band since planning, two days in a row: that is news.
    worse = verdict_of([(CORD, 25.2, 26.4)], (day(Verdict.AMBER, CORD, 26.5),))
    assert worse[0] is Verdict.RED
    # Another goal is AMBER for the first time, beside the one that always is.
    first = verdict_of([(CORD, 25.9, 25.8), (COVER, 99.0, 95.5)], (before,))
    assert first[0] is Verdict.AMBER

"""The truth table of the verdict, and the sentences behind it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doseeng.errors import Notice
from doseeng.scenario import NOMINAL, Scenario
from robust.goals import Goal
from robust.result import GoalResult, Verdict
from robust.verdict import GoalValues, clopper_pearson_lower, judge, overall

GREEN, AMBER, RED, UNEVALUABLE = Verdict.GREEN, Verdict.AMBER, Verdict.RED, Verdict.UNEVALUABLE


def judged(values: list[float], *, band: float = 1.0, random: bool = False, **goal: object) -> GoalResult:
    """A goal CTV V95% >= 95 % (or as given) on values of nominal and further scenarios."""
    fields = {"structure": "CTV", "metric": "V95%", "relation": ">=", "limit": 95.0, "unit": "%", **goal}
    scenarios = (NOMINAL, *(Scenario(f"s{i}", random=random) for i in range(1, len(values))))
    value = np.array(values)
    return judge(GoalValues(Goal(**fields), value, value - band, value + band), scenarios)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([99.0], 100, GREEN),
        ([96.0], 100, GREEN),  # the band ends exactly at the limit
        ([95.5], 100, AMBER),  # meets, but the limit lies in the band
        ([94.5], 100, AMBER),  # misses within the band
        ([94.0], 100, AMBER),  # the band just reaches the limit
        ([93.9], 100, RED),  # value and band both miss
        ([99.0, 99.0, 99.0], 100, GREEN),
        ([99.0, 99.0, 94.5], 100, AMBER),
        ([99.0, 99.0, 93.0], 100, RED),
        ([99.0, 99.0, 93.0], 60, GREEN),  # two of three are enough
        ([99.0, 94.5, 93.0], 60, AMBER),  # enough only if the doubtful one counts
        ([99.0, 93.0, 93.0], 60, RED),
        ([93.0, 99.0, 99.0], 60, RED),  # nominal must hold whatever the share
        ([95.5, 99.0, 99.0], 60, AMBER),
        ([99.0, 10.0, 10.0], 0, GREEN),  # nominal alone counts
        ([93.0, 99.0, 99.0], 0, RED),
        ([99.0, np.nan, 99.0], 100, UNEVALUABLE),
        ([np.nan, 99.0, 99.0], 0, UNEVALUABLE),
    ],
)
def test_truth_table(values: list[float], share: float, expected: Verdict) -> None:
    assert judged(values, in_scenarios_percent=share).status is expected
    mirrored = judged([190 - v for v in values], relation="<=", in_scenarios_percent=share)
    assert mirrored.status is expected


def test_nine_of_ten_are_ninety_percent() -> None:
    assert judged([99.0] * 9 + [50.0], in_scenarios_percent=90).status is GREEN
    assert judged([99.0] * 8 + [50.0] * 2, in_scenarios_percent=90).status is RED


@given(st.lists(st.floats(80, 100), min_size=1, max_size=12), st.floats(0, 100), st.floats(0, 5), st.floats(0, 5))
def test_more_dose_never_worsens_coverage_and_a_wider_band_never_decides(
    values: list[float], share: float, band: float, more: float
) -> None:
    order = [GREEN, AMBER, RED]
    status = judged(values, band=band, in_scenarios_percent=share).status
    lifted = judged([v + more for v in values], band=band, in_scenarios_percent=share).status
    assert order.index(lifted) <= order.index(status)
    if judged(values, band=band + more, in_scenarios_percent=share).status is not status:
        assert judged(values, band=band + more, in_scenarios_percent=share).status is AMBER


def test_band_is_the_side_that_faces_the_limit() -> None:
    scenarios = (NOMINAL, Scenario("s1"))
    value = np.array([99.0, 97.0])
    values = GoalValues(Goal("CTV", "V95%", ">=", 95.0, "%"), value, np.array([98.0, 94.0]), np.array([99.5, 97.2]))
    result = judge(values, scenarios)
    assert result.worst_index == 1
    assert result.band == pytest.approx(3.0)
    assert result.status is AMBER
    missed = judge(GoalValues(values.goal, value - 3, values.low - 3, values.high - 3), scenarios)
    assert missed.band == pytest.approx(0.2)
    assert missed.status is RED


def test_reasons_carry_the_numbers() -> None:
    red = judged([98.0, 91.2, 96.5], band=0.8)
    assert red.reason == ("CTV V95% is 91.2 % in 's1' (limit >= 95.0 %, band ±0.8 %); met in 2 of 3 scenarios.")
    assert red.passed == pytest.approx(2 / 3)
    assert red.worst_index == 1
    assert judged([98.0, 97.0]).reason == (
        "CTV V95% is 97.0 % in 's1' (limit >= 95.0 %, band ±1.0 %), the worst of 2 scenarios."
    )
    assert judged([98.0, 95.5]).reason.endswith("; met in 2 of 2 scenarios; the limit lies in the band in 1.")
    organ = judged([50.0, 47.0], structure="Cord", metric="D0.03cm3", relation="<=", limit=45.0, unit="Gy")
    assert organ.reason.startswith("Cord D0.03cm3 is 50.00 Gy in 'nominal' (limit <= 45.00 Gy, band ±1.00 Gy)")
    assert "90 % of them asked" in judged([99.0, 90.0], in_scenarios_percent=90).reason
    nominal_fails = judged([90.0, 85.0]).reason
    assert "in 'nominal'" in nominal_fails
    assert "worst 85.0 % in 's1'" in nominal_fails
    assert "no value in 's1'" in judged([99.0, np.nan]).reason


def test_clopper_pearson_known_values() -> None:
    # All of n met: the bound is alpha^(1/n); one of one at 95 %: 0.05.
    assert clopper_pearson_lower(1, 1, 0.95) == pytest.approx(0.05)
    assert clopper_pearson_lower(100, 100, 0.95) == pytest.approx(0.05 ** (1 / 100))
    assert clopper_pearson_lower(0, 10, 0.95) == 0
    # 8 of 10, two-sided 95 %: the textbook interval starts at 0.4439.
    assert clopper_pearson_lower(8, 10, 0.975) == pytest.approx(0.4439, abs=5e-5)
    with pytest.raises(ValueError):
        clopper_pearson_lower(3, 2, 0.95)


def test_probability_counts_only_random_draws() -> None:
    assert judged([99.0, 99.0]).probability is None
    drawn = judged([99.0] * 60 + [90.0], random=True)
    assert drawn.probability is not None
    assert (drawn.probability.met, drawn.probability.drawn) == (59, 60)
    assert drawn.probability.lower_bound == pytest.approx(clopper_pearson_lower(59, 60, 0.95))
    assert (
        "Met in 59 of 60 random courses: in at least 92.3 % of treatment courses with 95 % confidence." in drawn.reason
    )


def test_the_worst_goal_counts() -> None:
    green, amber, red = judged([99.0]), judged([95.5]), judged([90.0])
    assert overall((green,), (), "P")[0] is GREEN
    assert overall((green, amber), (), "P")[0] is AMBER
    verdict, reasons = overall((green, amber, red), (), "P")
    assert verdict is RED
    assert reasons == (red.reason, amber.reason, green.reason)
    assert overall((red, judged([np.nan])), (), "P")[0] is UNEVALUABLE


def test_a_failed_gate_or_no_goal_is_unevaluable() -> None:
    gate = Notice("image-mismatch", "CBCT", "The daily image does not show the target.")
    verdict, reasons = overall((judged([99.0]),), (gate,), "P")
    assert verdict is UNEVALUABLE
    assert reasons[0] == str(gate)
    verdict, reasons = overall((), (), "P")
    assert verdict is UNEVALUABLE
    assert "prescribes no dose" in reasons[0]

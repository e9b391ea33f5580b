"""Scenario sets: counts, directions, magnitudes, names."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doseeng.errors import ConfigError
from doseeng.scenario import NOMINAL, Scenario
from robust.scenarios import DEFAULT_SET, SET_NAMES, directions, load_scenarios, scenario_set, site_errors

COUNTS = {
    "nominal": 1,
    "6": 7,
    "14": 15,
    "26": 27,
    "6x2": 13,
    "14x2": 29,
    "26x2": 53,
    "6x3": 21,
    "14x3": 45,
    "26x3": 81,
    "28": 29,
    "9-worst-case": 9,
    "random:17": 18,
    "delivery": 9,
}


@pytest.mark.parametrize("count", [6, 14, 26])
def test_directions_are_distinct_unit_vectors_that_cancel(count: int) -> None:
    units = directions(count)
    assert units.shape == (count, 3)
    assert len(np.unique(units.round(9), axis=0)) == count
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1)
    np.testing.assert_allclose(units.sum(axis=0), 0, atol=1e-12)
    # The set looks the same from either side of every axis: second moments are isotropic.
    np.testing.assert_allclose(units.T @ units, np.eye(3) * count / 3, atol=1e-12)


def test_other_direction_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match="8 setup directions"):
        directions(8)


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_sets_have_their_count_nominal_first_and_names_of_their_own(name: str, count: int) -> None:
    scenarios = scenario_set(name, setup_mm=3, range_percent=3.5, rng=np.random.default_rng(1))
    assert len(scenarios) == count
    assert scenarios[0] == NOMINAL
    assert len({s.name for s in scenarios}) == count
    assert len({(s.isocenter_shift_mm, s.rsp_scale, s.delivery) for s in scenarios}) == count


def test_every_set_name_is_counted_above() -> None:
    assert {n.replace(":N", ":17") for n in SET_NAMES} == set(COUNTS)


def test_clinical_28_is_14_directions_times_2_ranges() -> None:
    scenarios = scenario_set("28", setup_mm=3, range_percent=3.5)
    assert scenarios == scenario_set("14x2", setup_mm=3, range_percent=3.5)
    lengths = [np.linalg.norm(s.isocenter_shift_mm) for s in scenarios[1:]]
    np.testing.assert_allclose(lengths, 3)
    assert sorted({round(s.rsp_scale, 9) for s in scenarios[1:]}) == [0.965, 1.035]


def test_names_tell_the_error() -> None:
    by_name = {s.name: s for s in scenario_set("14x3", setup_mm=5, range_percent=3.5)}
    shifted = by_name["x+5.0 range-3.5%"]
    assert shifted.isocenter_shift_mm == (5, 0, 0)
    assert shifted.rsp_scale == pytest.approx(0.965)
    assert by_name["range+3.5%"].rsp_scale == pytest.approx(1.035)
    assert by_name["range+3.5%"].isocenter_shift_mm == (0, 0, 0)
    assert by_name["x+2.9 y-2.9 z+2.9"].isocenter_shift_mm == pytest.approx((2.88675, -2.88675, 2.88675), abs=1e-5)


def test_photons_have_no_range_but_a_density() -> None:
    names = [s.name for s in scenario_set("6x2", setup_mm=5, range_percent=2, modality="photon")]
    assert {"x+5.0 density-2.0%", "x+5.0 density+2.0%"} <= set(names)
    assert not any("range" in name for name in names)
    with pytest.raises(ConfigError, match="varies the density, but the density error is 0 %"):
        scenario_set("28", range_percent=0.0, modality="photon")


def test_defaults_vary_what_matters_to_the_modality() -> None:
    protons, photons = (scenario_set(DEFAULT_SET[m], range_percent=3.5) for m in ("proton", "photon"))
    assert len(protons) == 29
    assert len(photons) == 15
    assert {s.rsp_scale for s in photons} == {1.0}


def test_delivery_errors_come_one_at_a_time_both_ways() -> None:
    by_name = {s.name: s for s in scenario_set("delivery")}
    assert by_name["gantry+1.0°"] == Scenario("gantry+1.0°", gantry_deg=1.0)
    assert by_name["collimator-1.0°"] == Scenario("collimator-1.0°", collimator_deg=-1.0)
    assert by_name["couch+1.0°"] == Scenario("couch+1.0°", couch_deg=1.0)
    assert by_name["leaves-0.5mm"] == Scenario("leaves-0.5mm", leaf_opening_mm=-0.5)
    assert [np.count_nonzero(s.delivery) for s in by_name.values()] == [0] + [1] * 8


@given(st.tuples(*[st.floats(0.5, 20)] * 3))
def test_unequal_errors_put_shifts_on_an_ellipsoid(setup_mm: tuple[float, float, float]) -> None:
    shifts = np.array([s.isocenter_shift_mm for s in scenario_set("26", setup_mm=setup_mm)[1:]])
    np.testing.assert_allclose(((shifts / setup_mm) ** 2).sum(axis=1), 1, rtol=1e-9)


def test_one_error_at_a_time_in_the_set_of_nine() -> None:
    scenarios = scenario_set("9-worst-case", setup_mm=5, range_percent=3.5)
    errors = [np.count_nonzero(s.isocenter_shift_mm) + (s.rsp_scale != 1) for s in scenarios]
    assert errors == [0] + [1] * 8


def test_random_draws_have_the_stated_sigma_and_are_marked() -> None:
    drawn = scenario_set("random:4000", setup_mm=(5, 2.5, 10), range_percent=3, rng=np.random.default_rng(5))[1:]
    assert all(s.random for s in drawn)
    shifts = np.array([s.isocenter_shift_mm for s in drawn])
    # 4000 draws: the standard error of a standard deviation is 1.1 %.
    np.testing.assert_allclose(shifts.std(axis=0), [2.0, 1.0, 4.0], rtol=0.05)
    np.testing.assert_allclose(shifts.mean(axis=0) / [2.0, 1.0, 4.0], 0, atol=0.06)
    assert np.std([s.rsp_scale for s in drawn]) == pytest.approx(0.02, rel=0.05)
    assert (
        drawn == scenario_set("random:4000", setup_mm=(5, 2.5, 10), range_percent=3, rng=np.random.default_rng(5))[1:]
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("27", {}, "'27' is unknown; expected one of nominal"),
        ("14x4", {}, "unknown"),
        ("x2", {}, "unknown"),
        ("random:many", {}, "positive number of draws"),
        ("random:0", {}, "positive number of draws"),
        ("random:5", {}, "seeded random generator"),
        ("6", {"setup_mm": 0.0}, "varies the setup"),
        ("6", {"setup_mm": -1.0}, ">= 0"),
        ("28", {"range_percent": 0.0}, "use 6, 14 or 26"),
        ("28", {"range_percent": 35.0}, "0..20 %"),
    ],
)
def test_impossible_sets_are_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scenario_set(name, **options)


def test_site_errors() -> None:
    assert site_errors("head_neck") == ((3, 3, 3), 3.5)
    assert site_errors("default") == ((5, 5, 5), 3.5)
    with pytest.raises(ConfigError, match="expected one of default, brain"):
        site_errors("toe")


def test_explicit_lists(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[scenario]]\nname = "couch sag"\nshift_mm = [0, -2.5, 0]\n[[scenario]]\nname = "long"\nrange_percent = -3'
    )
    nominal, sag, long = load_scenarios(path)
    assert nominal == NOMINAL
    assert sag.isocenter_shift_mm == (0, -2.5, 0)
    assert sag.rsp_scale == 1
    assert long.rsp_scale == pytest.approx(0.97)


def test_explicit_lists_of_machine_errors(tmp_path: Path) -> None:
    path = tmp_path / "linac.toml"
    path.write_text(
        '[[scenario]]\nname = "worn"\ngantry_deg = 0.8\ncollimator_deg = -0.5\ncouch_deg = 1\nleaf_opening_mm = 0.3\n'
    )
    assert load_scenarios(path) == (NOMINAL, Scenario("worn", (0.0, 0.0, 0.0), 1.0, False, 0.8, -0.5, 1.0, 0.3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[scenario]]\nname = "a"\ngantry_deg = 90.0', r"scenario\[0\].gantry_deg: .*less than or equal to 10"),
        ('[[scenario]]\nname = "a"\ngantry = 1.0', r"unknown key; did you mean 'gantry_deg'"),
        ('[[scenario]]\nname = "nominal"\ncouch_deg = 1.0', r"nominal has no error, found \{'couch_deg': 1.0\}"),
        (
            '[[scenario]]\nname = "a"\nshift = [1, 0, 0]',
            r"mine.toml: scenario\[0\].shift: unknown key; did you mean 'shift_mm'",
        ),
        ('[[scenario]]\nname = "a"\nshift_mm = [1, 0]', r"scenario\[0\].shift_mm: .*at least 3 items"),
        ('[[scenario]]\nname = "a"\nshift_mm = [nan, 0, 0]', r"scenario\[0\].shift_mm\[0\]: .*finite"),
        ("[[scenario]]\nshift_mm = [1, 0, 0]", r"scenario\[0\].name: is missing"),
        ('[[scenario]]\nname = "a"', "has no error \\(shift_mm, range_percent, gantry_deg"),
        ('[[scenario]]\nname = "nominal"\nrange_percent = 1', "nominal has no error"),
        (
            '[[scenario]]\nname = "a"\nrange_percent = 1\n[[scenario]]\nname = "a"\nrange_percent = 2',
            r"scenario\[1\] 'a': the name is taken",
        ),
        ("scenario = []", "at least 1 item"),
        ("[[scenario", "not valid TOML"),
    ],
)
def test_wrong_lists_are_refused_with_the_path(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_scenarios(path)

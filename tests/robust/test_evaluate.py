"""The whole evaluation on a box phantom whose goals have formulas in every scenario."""

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import robust
from doseeng.case import Case
from doseeng.dose import Dose, Quantity
from doseeng.errors import ConfigError, GeometryError, Notice, StructureError
from doseeng.grid import Grid, Volume
from doseeng.scenario import NOMINAL, Scenario
from robust import Goal, RobustReport, Settings, Verdict, evaluate, report_to_json, scenario_set

DoseOf = Callable[[Scenario], Dose]

# Sampling of the structures: 0.2 % of a volume or a dose.
SAMPLING = 0.2
COVERAGE = (Goal("CTV", "V95%", ">=", 95.0, "%", 60.0), Goal("CTV", "D95%", ">=", 95.0, "%", 60.0))


def v95(shift_mm: float, isodose_mm: float = 22.0) -> float:
    """Percent of the CTV (x within +-20 mm) inside +-isodose_mm around shift_mm."""
    return 100 * (min(20, shift_mm + isodose_mm) - max(-20, shift_mm - isodose_mm)) / 40


def shifted(*millimetres: float) -> tuple[Scenario, ...]:
    return (NOMINAL, *(Scenario(f"x{mm:+.1f}", (mm, 0, 0)) for mm in millimetres))


def with_values(dose: Dose, values: np.ndarray, **changes: object) -> Dose:
    return replace(dose, volume=Volume(dose.volume.grid, values), **changes)


@pytest.mark.parametrize(
    ("setup_mm", "verdict"), [(2.0, Verdict.GREEN), (4.0, Verdict.AMBER), (5.0, Verdict.RED), (8.0, Verdict.RED)]
)
def test_coverage_follows_the_formula(case: Case, dose_of: DoseOf, setup_mm: float, verdict: Verdict) -> None:
    scenarios = scenario_set("6", setup_mm=setup_mm)
    report = evaluate(case, scenarios, robust.default_goals(case), dose_of)
    volume, dose = report.goals
    np.testing.assert_allclose(volume.values, [v95(s.isocenter_shift_mm[0]) for s in scenarios], atol=SAMPLING)
    # Where 5 % of the target (2 mm) are cold, the dose there is 5 % lower per millimetre beyond 21 mm.
    cold = [1 - 0.05 * max(abs(s.isocenter_shift_mm[0]) + 18 - 21, 0) for s in scenarios]
    np.testing.assert_allclose(dose.values, 100 * np.array(cold), atol=SAMPLING)
    assert report.verdict is verdict
    assert abs(report.scenarios[report.worst_index].isocenter_shift_mm[0]) == setup_mm
    np.testing.assert_array_equal(report.worst.volume.values, dose_of(scenarios[report.worst_index]).volume.values)
    assert report.reasons[0] in {volume.reason, dose.reason}


def test_bands_are_one_percent_of_dose_and_what_that_means_in_volume(case: Case, dose_of: DoseOf) -> None:
    volume, dose = evaluate(case, shifted(5), COVERAGE, dose_of).goals
    # Missed by the value: the favourable side counts, 94 % of the prescription instead of 95 % (0.2 mm further out).
    assert volume.band == pytest.approx(v95(5, 22.2) - v95(5), abs=SAMPLING)
    assert dose.band == pytest.approx(1.0, abs=1e-4)
    wide = evaluate(case, shifted(5), COVERAGE, dose_of, settings=Settings(dose_uncertainty_percent=10)).goals
    assert wide[0].band == pytest.approx(v95(5, 24) - v95(5), abs=SAMPLING)
    assert [g.status for g in wide] == [Verdict.AMBER, Verdict.AMBER]
    own = evaluate(case, shifted(5), (replace(COVERAGE[0], band=2.75),), dose_of).goals[0]
    assert (own.band, own.status) == (2.75, Verdict.AMBER)


def test_organs_count_and_name_their_scenario(case: Case, dose_of: DoseOf) -> None:
    cord = Goal("Cord", "Dmean", "<=", 28.0, "Gy")
    report = evaluate(case, shifted(-4, 4), (cord,), dose_of)
    # The cord's centre lies at 35 mm, the dose there is 60 Gy * (1 - 0.05 * (35 - shift - 21)); at -4 mm the dose ends
    # at 37 mm, and a triangle of 7 mm by 21 Gy is left over the cord's 10 mm.
    np.testing.assert_allclose(report.goals[0].values, [18, 7.35, 30], atol=0.1)
    assert report.goals[0].band == pytest.approx(0.6, abs=1e-4)
    assert report.verdict is Verdict.RED
    assert report.reasons[0].startswith(("Cord Dmean is 30.0", "Cord Dmean is 29.9"))
    assert "in 'x+4.0' (limit <= 28.00 Gy, band ±0.60 Gy); met in 2 of 3 scenarios." in report.reasons[0]


def test_share_of_scenarios(case: Case, dose_of: DoseOf) -> None:
    scenarios = scenario_set("6", setup_mm=5)
    assert (
        evaluate(case, scenarios, (replace(COVERAGE[0], in_scenarios_percent=70.0),), dose_of).verdict is Verdict.GREEN
    )
    assert evaluate(case, scenarios, (replace(COVERAGE[0], in_scenarios_percent=80.0),), dose_of).verdict is Verdict.RED
    nominal = evaluate(case, scenarios, (replace(COVERAGE[0], in_scenarios_percent=0.0),), dose_of)
    assert nominal.verdict is Verdict.GREEN
    assert nominal.worst_index == 0  # the goal counts in no other scenario


def test_voxel_statistics_and_voxelwise_goal(case: Case, dose_of: DoseOf) -> None:
    scenarios = shifted(-5, 5)
    report = evaluate(case, scenarios, (COVERAGE[0], Goal("Cord", "Dmean", "<=", 40.0, "Gy")), dose_of)
    doses = np.array([dose_of(s).volume.values for s in scenarios])
    np.testing.assert_array_equal(report.voxel_min.values, doses.min(axis=0))
    np.testing.assert_array_equal(report.voxel_max.values, doses.max(axis=0))
    assert report.voxel_std is not None
    np.testing.assert_allclose(report.voxel_std.values, doses.std(axis=0), atol=1e-4)
    # The voxel-wise minimum is cold on both sides at once.
    assert report.goals[0].voxelwise == pytest.approx(100 * 34 / 40, abs=SAMPLING)
    assert report.goals[1].voxelwise == pytest.approx(33, abs=0.3)


def test_dvh_bands(case: Case, dose_of: DoseOf) -> None:
    report = evaluate(case, shifted(5), COVERAGE, dose_of)
    bands = {band.structure: band for band in report.bands}
    assert list(bands) == ["CTV", "Cord"]  # neither the empty structure nor the body outline
    ctv = bands["CTV"]
    assert ctv.volume_cm3 == pytest.approx(64, rel=1e-3)
    assert ctv.dose_gy[0] == 0
    np.testing.assert_allclose(ctv.volume_percent[:, 0], 100)
    assert np.all(np.diff(ctv.volume_percent, axis=1) <= 1e-9)
    at_57 = np.searchsorted(ctv.dose_gy, 57.0 - 1e-6)
    np.testing.assert_allclose(ctv.volume_percent[:, at_57], [100, v95(5)], atol=SAMPLING)
    few = evaluate(case, shifted(5), COVERAGE, dose_of, settings=Settings(most_organs=0))
    assert [band.structure for band in few.bands] == ["CTV"]
    assert [n.code for n in few.notices] == ["organs-without-dvh"]


def test_only_three_doses_are_alive(case: Case, dose_of: DoseOf) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def watched(scenario: Scenario) -> Dose:
        nonlocal most
        values = np.array(dose_of(scenario).volume.values)
        alive.append(weakref.ref(values))
        most = max(most, sum(ref() is not None for ref in alive))
        return with_values(dose_of(NOMINAL), values)

    progress: list[tuple[int, int]] = []
    evaluate(case, scenario_set("14"), COVERAGE, watched, progress=lambda *p: progress.append(p))
    assert len(alive) == 15
    assert most <= 3
    assert progress == [(i, 15) for i in range(1, 16)]


def test_gates_make_it_unevaluable(case: Case, dose_of: DoseOf) -> None:
    def gate_of(changed: DoseOf, **options: object) -> str:
        report = evaluate(case, shifted(1), COVERAGE, changed, **options)  # type: ignore[arg-type]
        assert report.verdict is Verdict.UNEVALUABLE
        return report.reasons[0]

    def holed(scenario: Scenario) -> Dose:
        values = np.array(dose_of(scenario).volume.values)
        values[0, 0, 0] = np.nan if scenario != NOMINAL else 0
        return with_values(dose_of(scenario), values)

    small = Grid((40, 60, 38), (2, 2, 2), (-59, -59, -39))  # its last voxel ends at x = 16 mm, inside the target

    def clipped(scenario: Scenario) -> Dose:
        return replace(dose_of(scenario), volume=Volume(small, dose_of(scenario).volume.values[:, :, :38]))

    assert "dose-not-finite [x+1.0]: 1 of 144000 voxels" in gate_of(holed)
    assert "dose-not-rbe-weighted" in gate_of(lambda s: replace(dose_of(s), quantity=Quantity.PHYSICAL))
    assert "dose-not-of-the-plan" in gate_of(lambda s: replace(dose_of(s), summation="BEAM"))
    assert "dose-grid-clips-target [CTV]: Only 90.0 %" in gate_of(clipped)
    assert "bad-day [image]: No." in gate_of(dose_of, gates=(Notice("bad-day", "image", "No."),))
    everywhere = gate_of(lambda s: with_values(dose_of(s), np.full(dose_of(s).volume.values.shape, np.nan, np.float32)))
    assert "dose-not-finite [nominal]" in everywhere


def test_photon_plans_are_judged_by_physical_dose(case: Case, dose_of: DoseOf, photon_case: Any) -> None:
    photons = replace(case, plan=replace(case.plan, beams=photon_case.case.plan.beams))
    physical = evaluate(photons, (NOMINAL,), COVERAGE, lambda s: replace(dose_of(s), quantity=Quantity.PHYSICAL))
    assert physical.verdict is Verdict.GREEN
    weighted = evaluate(photons, (NOMINAL,), COVERAGE, dose_of)
    assert weighted.verdict is Verdict.UNEVALUABLE
    assert "dose-rbe-weighted" in weighted.reasons[0]


def test_an_organ_may_leave_the_dose_grid_with_a_notice(case: Case, dose_of: DoseOf) -> None:
    grid = Grid((40, 60, 47), (2, 2, 2), (-59, -59, -39))  # its last voxel ends at x = 34 mm, inside the cord

    def clipped(scenario: Scenario) -> Dose:
        return replace(dose_of(scenario), volume=Volume(grid, dose_of(scenario).volume.values[:, :, :47]))

    report = evaluate(case, (NOMINAL,), (*COVERAGE, Goal("Cord", "Dmean", "<=", 40.0, "Gy")), clipped)
    assert report.verdict is Verdict.GREEN
    assert [(n.code, n.where) for n in report.notices] == [("dose-grid-clips-structure", "Cord")]


def test_no_prescription_is_unevaluable(case_with: Callable[..., Case], dose_of: DoseOf) -> None:
    case = case_with(())
    report = evaluate(case, shifted(3), robust.default_goals(case), dose_of)
    assert report.verdict is Verdict.UNEVALUABLE
    assert "prescribes no dose" in report.reasons[0]
    assert len(report.bands[0].volume_percent) == 2


def test_a_goal_without_value_is_unevaluable(case: Case, dose_of: DoseOf) -> None:
    report = evaluate(case, shifted(1), (*COVERAGE, Goal("Cord", "D500cm3", "<=", 10.0, "Gy")), dose_of)
    assert report.verdict is Verdict.UNEVALUABLE
    assert "Cord D500cm3 has no value in 'nominal'." in report.reasons[0]
    assert [n.code for n in report.notices] == ["goal-without-value"]


def test_ptv_in_scenarios_is_named(case: Case, dose_of: DoseOf) -> None:
    structures = tuple(replace(s, kind="PTV") if s.name == "CTV" else s for s in case.structures.structures)
    ptv = replace(case, structures=replace(case.structures, structures=structures))
    assert [n.code for n in evaluate(ptv, shifted(2), COVERAGE, dose_of).notices] == ["ptv-in-scenarios"]
    assert evaluate(ptv, (NOMINAL,), COVERAGE, dose_of).notices == ()


def test_wrong_input_is_refused(case: Case, dose_of: DoseOf) -> None:
    for wrong in ((), shifted(3)[1:]):
        with pytest.raises(ConfigError, match="must be nominal"):
            evaluate(case, wrong, COVERAGE, dose_of)
    with pytest.raises(StructureError, match="did you mean 'CTV'"):
        evaluate(case, (NOMINAL,), (replace(COVERAGE[0], structure="ctv"),), dose_of)

    def wandering(scenario: Scenario) -> Dose:
        dose = dose_of(scenario)
        origin = (-59 + scenario.isocenter_shift_mm[0], -59, -39)
        return replace(dose, volume=Volume(Grid((40, 60, 60), (2, 2, 2), origin), dose.volume.values))

    with pytest.raises(GeometryError, match="on one grid"):
        evaluate(case, shifted(3), COVERAGE, wandering)


def test_probability_of_courses(case: Case, dose_of: DoseOf) -> None:
    scenarios = scenario_set("random:40", setup_mm=5.0, rng=np.random.default_rng(3))
    report = evaluate(case, scenarios, COVERAGE, dose_of)
    probability = report.goals[0].probability
    assert probability is not None
    expected = sum(v95(s.isocenter_shift_mm[0]) >= 95 for s in scenarios[1:])
    assert probability.drawn == 40
    assert abs(probability.met - expected) <= 1  # a draw may lie within the sampling error of the limit
    assert 0.5 < probability.lower_bound < probability.met / 40


def test_json_holds_the_numbers_and_no_volume(case: Case, dose_of: DoseOf) -> None:
    goals = (*COVERAGE, Goal("Cord", "D500cm3", "<=", 10.0, "Gy"))
    report: RobustReport = evaluate(case, shifted(5), goals, dose_of, provenance={"code_version": "0.1"})
    data = json.loads(json.dumps(report_to_json(report), allow_nan=False))
    assert data["verdict"] == "UNEVALUABLE"
    assert data["provenance"]["code_version"] == "0.1"
    assert data["provenance"]["robust"]["scenarios"] == 2
    assert data["scenarios"][1] == {
        "name": "x+5.0",
        "isocenter_shift_mm": [5.0, 0.0, 0.0],
        "rsp_scale": 1.0,
        "random": False,
        "gantry_deg": 0.0,
        "collimator_deg": 0.0,
        "couch_deg": 0.0,
        "leaf_opening_mm": 0.0,
    }
    volume = data["goals"][0]
    assert volume["worst"] == pytest.approx(92.5, abs=SAMPLING)
    assert volume["worst_scenario"] == "x+5.0"
    assert volume["passed_percent"] == 50
    assert data["goals"][2]["values"] == [None, None]
    assert len(json.dumps(data)) < 10_000

"""The robustness job: scenarios as asked, the engine called once per scenario, gates, and files all or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import robustness
from cluster.robustness import RobustnessRequest, read_anchor, requested_scenarios, run_robustness
from doseeng.dicom.rtdose import read_dose, write_dose
from doseeng.dicom.writing import new_context
from doseeng.dose import Dose, Quantity
from doseeng.engine import EngineSettings, Prepared, prepare, scenario_dose
from doseeng.errors import ConfigError, DicomError, GeometryError, MetricError
from doseeng.grid import Grid, Volume
from doseeng.photon import Algorithm, PhotonSettings
from doseeng.scenario import NOMINAL, Scenario
from robust.export import report_to_json
from robust.result import Verdict


@pytest.fixture(scope="module")
def prepared(water_case: Any) -> Prepared:
    return prepare(replace(water_case.case, dicom=new_context()))


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report has its own tests."""

    def write(_result: object, _case: object, path: Path) -> Path:
        path.write_text("report")
        return path

    monkeypatch.setattr(robustness, "write_report", write)


def with_plan_dose(prepared: Prepared, scale: float = 1.0, **changes: Any) -> Prepared:
    plan = prepared.case.doses[0]
    dose = replace(plan, volume=Volume(plan.volume.grid, plan.volume.values * np.float32(scale)), **changes)
    return replace(prepared, case=replace(prepared.case, doses=(dose,)))


def test_named_sets_take_the_errors_of_the_site_or_those_given() -> None:
    assert requested_scenarios(RobustnessRequest("nominal"), "proton") == (NOMINAL,)
    of_site = requested_scenarios(RobustnessRequest("6x2", site="head_neck"), "proton")
    assert len(of_site) == 13
    assert {round(float(np.linalg.norm(s.isocenter_shift_mm)), 6) for s in of_site[1:]} == {3.0}
    assert {round(s.rsp_scale, 6) for s in of_site[1:]} == {0.965, 1.035}
    given = requested_scenarios(RobustnessRequest("6", setup_mm=2.0), "proton")
    assert {round(float(np.linalg.norm(s.isocenter_shift_mm)), 6) for s in given[1:]} == {2.0}
    # Zero is an answer, not a missing one.
    with pytest.raises(ConfigError, match="0"):
        requested_scenarios(RobustnessRequest("28", range_percent=0.0), "proton")


def test_random_sets_repeat_with_their_seed() -> None:
    def drawn(seed: int) -> tuple[Scenario, ...]:
        return requested_scenarios(RobustnessRequest("random:5", seed=seed), "proton")

    assert drawn(3) == drawn(3)
    assert drawn(3)[1:] != drawn(4)[1:]


def test_scenarios_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('[[scenario]]\nname = "up"\nshift_mm = [0.0, -4.0, 0.0]\n')
    made = requested_scenarios(RobustnessRequest(str(tmp_path / "s.toml"), setup_mm=9.0), "proton")
    assert made == (NOMINAL, Scenario("up", (0.0, -4.0, 0.0)))


def test_each_scenario_is_computed_once(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def count(prepared: Prepared, scenario: Scenario = NOMINAL) -> Any:
        asked.append(scenario.name)
        return scenario_dose(prepared, scenario)

    monkeypatch.setattr(robustness, "scenario_dose", count)
    (tmp_path / "s.toml").write_text('[[scenario]]\nname = "off"\nshift_mm = [0.0, 0.0, 14.0]\n')
    steps: list[tuple[int, int]] = []
    request = RobustnessRequest(str(tmp_path / "s.toml"))
    result, path = run_robustness(prepared, request, tmp_path / "r.html", progress=lambda *step: steps.append(step))
    assert asked == ["nominal", "off"]
    assert steps == [(1, 2), (2, 2)]
    assert path.read_text() == "report"
    assert result.verdict is Verdict.RED
    assert result.scenarios[result.worst_index].name == "off"
    # 14 of 24 mm of the target's length leave the field's 48 mm by 2 mm: most of it keeps its dose.
    assert result.goals[0].values[0] == pytest.approx(100.0, abs=0.1)
    assert result.goals[0].values[1] < 95.0
    assert result.provenance["request"] == {
        "scenarios": str(tmp_path / "s.toml"),
        "site": "default",
        "setup_mm": None,
        "range_percent": None,
        "goals": None,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("changes", "verdict", "code"),
    [
        ({}, Verdict.GREEN, "nominal-compared"),
        ({"scale": 0.85}, Verdict.UNEVALUABLE, "nominal-disagrees"),
        ({"scale": 0.0}, Verdict.GREEN, "nominal-not-compared"),
        ({"quantity": Quantity.PHYSICAL}, Verdict.GREEN, "nominal-not-compared"),
        ({"summation": "FRACTION"}, Verdict.GREEN, "nominal-not-compared"),
    ],
)
def test_agreement_with_the_planning_system(
    prepared: Prepared, tmp_path: Path, changes: dict[str, Any], verdict: Verdict, code: str
) -> None:
    result, _ = run_robustness(with_plan_dose(prepared, **changes), RobustnessRequest("nominal"), tmp_path / "r.html")
    assert result.verdict is verdict
    assert [n.code for n in result.notices if n.code.startswith("nominal-")] == [code]
    assert any("nominal-disagrees" in reason for reason in result.reasons) == (verdict is Verdict.UNEVALUABLE)


def test_doses_read_back_as_evaluated(prepared: Prepared, tmp_path: Path) -> None:
    request = RobustnessRequest("6", setup_mm=4.0)
    result, _ = run_robustness(prepared, request, tmp_path / "r.html", tmp_path / "deep" / "doses")
    expected = {
        "nominal": result.nominal.volume,
        "worst": result.worst.volume,
        "voxel-min": result.voxel_min,
        "voxel-max": result.voxel_max,
    }
    assert {p.stem for p in (tmp_path / "deep" / "doses").iterdir()} == set(expected)
    for name, volume in expected.items():
        dose = read_dose(tmp_path / "deep" / "doses" / f"{name}.dcm")
        np.testing.assert_allclose(dose.volume.values, volume.values, atol=1e-6)
        assert (dose.plan_uid, dose.quantity) == (prepared.case.plan.uid, Quantity.RBE_WEIGHTED)
    assert np.all(expected["voxel-min"].values <= expected["voxel-max"].values)


def test_doses_come_all_or_none_and_before_the_report(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = robustness.write_dose

    def fail(path: Path, *rest: Any) -> None:
        if path.stem == "worst":
            raise DicomError("cannot write 'worst.dcm'")
        real(path, *rest)

    monkeypatch.setattr(robustness, "write_dose", fail)
    with pytest.raises(DicomError, match=r"worst\.dcm"):
        run_robustness(prepared, RobustnessRequest("nominal"), tmp_path / "r.html", tmp_path / "doses")
    assert list((tmp_path / "doses").iterdir()) == []
    assert not (tmp_path / "r.html").exists()


def test_doses_need_a_dicom_case(prepared: Prepared, tmp_path: Path) -> None:
    foreign = replace(prepared, case=replace(prepared.case, dicom=None))
    with pytest.raises(DicomError, match="not read from DICOM"):
        run_robustness(foreign, RobustnessRequest("nominal"), tmp_path / "r.html", tmp_path / "doses")


# --- anchored -------------------------------------------------------------------------------------------------------


def monte_carlo(prepared: Prepared, scale: float = 0.99, **changes: Any) -> Dose:
    """A stand-in for another engine's dose of the plan: scaled, with a soft edge and a touch of noise."""
    own = prepared.case.doses[0]
    values = own.volume.values.astype(float)
    values[1:-1] = 0.8 * values[1:-1] + 0.1 * values[2:] + 0.1 * values[:-2]
    values *= scale + np.random.default_rng(3).normal(0.0, 0.003, values.shape)
    volume = Volume(own.volume.grid, values.astype(np.float32))
    return replace(own, volume=volume, uid="1.2.826.0.1.3680043.10.4711.9", **changes)


def test_everything_is_anchored(prepared: Prepared, tmp_path: Path) -> None:
    anchor = monte_carlo(prepared)
    off = Scenario("off", (0.0, 0.0, 14.0))
    (tmp_path / "s.toml").write_text('[[scenario]]\nname = "off"\nshift_mm = [0.0, 0.0, 14.0]\n')
    request = RobustnessRequest(str(tmp_path / "s.toml"))
    doses = tmp_path / "doses"
    result, _ = run_robustness(prepared, request, tmp_path / "r.html", doses, anchor=anchor)
    nominal, own = scenario_dose(prepared, NOMINAL).volume.values, scenario_dose(prepared, off).volume.values
    expected = np.maximum(anchor.volume.values + (own - nominal), 0.0)
    np.testing.assert_array_equal(result.nominal.volume.values, anchor.volume.values)
    np.testing.assert_allclose(result.worst.volume.values, expected, atol=2e-6)
    np.testing.assert_allclose(result.voxel_min.values, np.minimum(anchor.volume.values, expected), atol=2e-6)
    np.testing.assert_allclose(result.voxel_max.values, np.maximum(anchor.volume.values, expected), atol=2e-6)
    # The goals judge the anchored doses too: 1 % less dose is 1 % less D95%.
    plain, _ = run_robustness(prepared, request, tmp_path / "r.html")
    d95 = [next(g for g in r.goals if g.goal.metric == "D95%").values[0] for r in (plain, result)]
    assert d95[1] - d95[0] == pytest.approx(-1.0, abs=0.5)

    told = report_to_json(result)
    assert told["anchoring"] == result.provenance["anchor"]
    record: Any = told["anchoring"]
    assert record["uid"] == anchor.uid
    assert len(record["sha256"]) == 64
    assert record["gamma_percent"] == pytest.approx(100.0, abs=0.5)
    assert record["mean_ratio"] == pytest.approx(1.01, abs=0.01)
    assert record["formula"] == "reference dose + (own scenario dose - own nominal dose)"
    assert (record["is_used"], record["clipped_in"]) == (True, "off")
    assert report_to_json(plain)["anchoring"] is None
    assert "anchor" not in plain.provenance

    codes = {n.code for n in result.notices}
    assert {"anchor-compared", "anchor-far-scenarios"} <= codes
    assert not {c for c in codes if c.startswith("nominal-")}
    written = [read_dose(path) for path in doses.iterdir()]
    assert len({d.uid for d in written} | {anchor.uid}) == 5
    assert all(f"anchored to RTDOSE sha256 {record['sha256'][:12]}" in d.comment for d in written)


def test_range_errors_carry_the_error_along(prepared: Prepared, tmp_path: Path) -> None:
    """The other engine stops protons 1 % later: so it does in each range scenario."""
    scaled = Scenario("x", rsp_scale=0.99)
    anchor = replace(scenario_dose(prepared, scaled), plan_uid=prepared.case.plan.uid, uid="1.2.3.9")
    (tmp_path / "s.toml").write_text('[[scenario]]\nname = "long"\nrange_percent = -5.0\n')
    request = RobustnessRequest(str(tmp_path / "s.toml"))
    result, _ = run_robustness(prepared, request, tmp_path / "r.html", anchor=anchor)
    long = result.voxel_min.values, result.voxel_max.values
    truth = scenario_dose(prepared, Scenario("truth", rsp_scale=0.95 * 0.99)).volume.values
    own = scenario_dose(prepared, Scenario("own", rsp_scale=0.95)).volume.values
    nominal = scenario_dose(prepared, NOMINAL).volume.values
    found = np.where(np.isclose(long[0], anchor.volume.values, atol=1e-6), long[1], long[0])

    def rms(values: np.ndarray) -> float:
        return float(np.sqrt(np.mean((values - truth)[truth > 1.0].astype(float) ** 2)))

    assert rms(found) < 0.5 * rms(own)
    assert rms(found) < 0.5 * rms(np.asarray(anchor.volume.values + own - nominal))


@pytest.mark.parametrize(
    ("scale", "changes", "said"),
    [
        (0.8, {}, "Anatomy, plan version"),
        (1.0 / 1.1, {}, "seems to be physical"),
        (1.0, {"quantity": Quantity.PHYSICAL}, "seems to be RBE-weighted"),
    ],
)
def test_an_anchor_that_disagrees_is_refused_with_its_numbers(
    prepared: Prepared, tmp_path: Path, scale: float, changes: dict[str, Any], said: str
) -> None:
    anchor = monte_carlo(prepared, scale, **changes)
    steps: list[tuple[int, int]] = []
    result, _ = run_robustness(
        prepared, RobustnessRequest("28"), tmp_path / "r.html", progress=lambda *s: steps.append(s), anchor=anchor
    )
    assert result.verdict is Verdict.UNEVALUABLE
    # Nothing is computed that could be taken for an answer.
    assert [s.name for s in result.scenarios] == ["nominal"]
    assert steps == [(1, 1)]
    own = scenario_dose(prepared, NOMINAL).volume.values
    np.testing.assert_allclose(result.nominal.volume.values, own, atol=1e-6)
    assert result.anchoring is not None
    assert not result.anchoring.is_used
    reason = next(r for r in result.reasons if "anchor-disagrees" in r)
    assert f"gamma {result.anchoring.gamma_percent:.1f} %" in reason
    assert f"mean ratio {result.anchoring.mean_ratio:.3f}" in reason
    assert said in reason


def test_physical_monte_carlo_is_weighted(prepared: Prepared, tmp_path: Path) -> None:
    anchor = monte_carlo(prepared, 1.0 / 1.1, quantity=Quantity.PHYSICAL)
    result, _ = run_robustness(prepared, RobustnessRequest("nominal"), tmp_path / "r.html", anchor=anchor)
    assert result.verdict is Verdict.GREEN
    assert result.anchoring is not None
    assert result.anchoring.weighted_by == 1.1
    np.testing.assert_allclose(result.nominal.volume.values, 1.1 * anchor.volume.values, rtol=1e-6)


def test_the_case_must_be_prepared_on_the_anchors_grid(prepared: Prepared, tmp_path: Path) -> None:
    other = Grid((20, 20, 20), (4.0, 4.0, 4.0), (-38.0, -38.0, -38.0))
    anchor = replace(monte_carlo(prepared), volume=Volume(other, np.ones(other.shape, dtype=np.float32)))
    with pytest.raises(GeometryError, match="on the anchor's grid"):
        run_robustness(prepared, RobustnessRequest("nominal"), tmp_path / "r.html", anchor=anchor)


def test_an_anchor_belongs_to_the_image_and_the_patient(prepared: Prepared, tmp_path: Path) -> None:
    case = prepared.case
    assert case.dicom is not None
    path = tmp_path / "mc.dcm"
    write_dose(path, monte_carlo(prepared), case.dicom, case.plan)
    found = read_anchor(path, case)
    assert (found.uid, found.plan_uid) == ("1.2.826.0.1.3680043.10.4711.9", case.plan.uid)
    moved = replace(case.dicom, frame_of_reference_uid="1.2.3.4")
    with pytest.raises(GeometryError, match=r"frame of reference .* 1\.2\.3\.4"):
        read_anchor(path, replace(case, dicom=moved))
    stranger = replace(case.dicom, patient={**case.dicom.patient, "PatientID": "QZ-1"})
    with pytest.raises(DicomError, match="different patient IDs") as caught:
        read_anchor(path, replace(case, dicom=stranger))
    assert "QZ-1" not in str(caught.value)
    assert read_anchor(path, replace(case, dicom=stranger), accept_patient_mismatch=True).uid == found.uid
    with pytest.raises(DicomError, match="not read from DICOM"):
        read_anchor(path, replace(case, dicom=None))


# --- photons ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photons(photon_case: Any) -> Prepared:
    settings = EngineSettings(photon=PhotonSettings(Algorithm.PENCIL))
    case = replace(photon_case.case, dicom=new_context())
    return prepare(case, machine_folders=[photon_case.folder], settings=settings)


def test_photon_plans_have_setup_errors_and_what_is_asked_for() -> None:
    usual = requested_scenarios(RobustnessRequest(site="head_neck"), "photon")
    assert [round(float(np.linalg.norm(s.isocenter_shift_mm)), 6) for s in usual] == [0.0] + [3.0] * 14
    assert {s.rsp_scale for s in usual} == {1.0}
    # A site's range error is one of stopping powers.
    with pytest.raises(ConfigError, match="varies the density, but the density error is 0 %"):
        requested_scenarios(RobustnessRequest("28", site="head_neck"), "photon")
    dense = requested_scenarios(RobustnessRequest("28", range_percent=2.0), "photon")
    assert {round(s.rsp_scale, 6) for s in dense[1:]} == {0.98, 1.02}
    drawn = requested_scenarios(RobustnessRequest("random:3"), "photon")
    assert {s.rsp_scale for s in drawn} == {1.0}
    assert len({s.isocenter_shift_mm for s in drawn}) == 4


def test_errors_of_a_collimator_are_refused_before_proton_doses_are_computed(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robustness, "scenario_dose", lambda *_: pytest.fail("computed"))
    with pytest.raises(ConfigError, match=r"scenario 'collimator.*': has a collimator error, but scanned proton beams"):
        run_robustness(prepared, RobustnessRequest("delivery"), tmp_path / "r.html")


def test_delivery_errors_of_a_photon_plan(photons: Prepared, tmp_path: Path) -> None:
    result, _ = run_robustness(photons, RobustnessRequest("delivery"), tmp_path / "r.html")
    assert len(result.scenarios) == 9
    assert result.nominal.quantity is Quantity.PHYSICAL
    assert result.provenance["request"]["scenarios"] == "delivery"
    assert [n.where for n in result.notices if n.code == "no-leaves-to-move"] == ["beam 1 'X1'"]
    told: Any = report_to_json(result)["scenarios"]
    assert {s["name"]: s["leaf_opening_mm"] for s in told}["leaves+0.5mm"] == 0.5
    # Half a millimetre of leaf end or a degree of gantry move nothing by much: the target is 5 cm and more inside.
    d95 = next(g.values for g in result.goals if g.goal.metric == "D95%")
    np.testing.assert_allclose(d95, d95[0], atol=3.0)
    assert len(np.unique(d95.round(6))) == 9


def test_the_default_of_a_photon_plan_is_told(photons: Prepared, tmp_path: Path) -> None:
    result, _ = run_robustness(photons, RobustnessRequest(setup_mm=2.0), tmp_path / "r.html")
    assert len(result.scenarios) == 15
    assert result.provenance["request"]["scenarios"] == "14"


def test_photon_doses_are_anchored_without_carrying_errors_along(photons: Prepared, tmp_path: Path) -> None:
    own = scenario_dose(photons, NOMINAL)
    values = own.volume.values * np.float32(0.99)
    values[15:, :, :] *= np.float32(0.995)
    anchor = replace(own, volume=Volume(photons.grid, values), uid="1.2.3.9", plan_uid=photons.case.plan.uid)
    (tmp_path / "s.toml").write_text('[[scenario]]\nname = "dense"\nrange_percent = 3.0\n')
    result, _ = run_robustness(photons, RobustnessRequest(str(tmp_path / "s.toml")), tmp_path / "r.html", anchor=anchor)
    dense = scenario_dose(photons, Scenario("dense", rsp_scale=1.03)).volume.values
    expected = np.maximum(dense + (values - own.volume.values), 0.0)
    np.testing.assert_allclose(result.voxel_min.values, np.minimum(values, expected), atol=2e-6)
    assert result.anchoring is not None
    assert not result.anchoring.is_carried
    assert "range" not in str(result.anchoring)
    weighted = replace(anchor, quantity=Quantity.RBE_WEIGHTED)
    with pytest.raises(MetricError, match="physical dose is evaluated"):
        run_robustness(photons, RobustnessRequest("nominal"), tmp_path / "r.html", anchor=weighted)

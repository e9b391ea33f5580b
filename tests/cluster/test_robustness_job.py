"""The robustness job: scenarios as asked, the engine called once per scenario, gates, and files all or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import robustness
from cluster.robustness import RobustnessRequest, requested_scenarios, run_robustness
from doseeng.dicom.rtdose import read_dose
from doseeng.dicom.writing import new_context
from doseeng.dose import Quantity
from doseeng.engine import Prepared, prepare, scenario_dose
from doseeng.errors import ConfigError, DicomError
from doseeng.grid import Volume
from doseeng.scenario import NOMINAL, Scenario
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
    assert requested_scenarios(RobustnessRequest("nominal")) == (NOMINAL,)
    of_site = requested_scenarios(RobustnessRequest("6x2", site="head_neck"))
    assert len(of_site) == 13
    assert {round(float(np.linalg.norm(s.isocenter_shift_mm)), 6) for s in of_site[1:]} == {3.0}
    assert {round(s.rsp_scale, 6) for s in of_site[1:]} == {0.965, 1.035}
    given = requested_scenarios(RobustnessRequest("6", setup_mm=2.0))
    assert {round(float(np.linalg.norm(s.isocenter_shift_mm)), 6) for s in given[1:]} == {2.0}
    # Zero is an answer, not a missing one.
    with pytest.raises(ConfigError, match="0"):
        requested_scenarios(RobustnessRequest("28", range_percent=0.0))


def test_random_sets_repeat_with_their_seed() -> None:
    def drawn(seed: int) -> tuple[Scenario, ...]:
        return requested_scenarios(RobustnessRequest("random:5", seed=seed))

    assert drawn(3) == drawn(3)
    assert drawn(3)[1:] != drawn(4)[1:]


def test_scenarios_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('[[scenario]]\nname = "up"\nshift_mm = [0.0, -4.0, 0.0]\n')
    made = requested_scenarios(RobustnessRequest(str(tmp_path / "s.toml"), setup_mm=9.0))
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

"""The command line on photon plans: the same commands, and what belongs to one kind of particle alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doseeng.dicom.rtdose import read_dose
from doseeng.grid import Volume

Run = Callable[..., Any]
PROTON_WORDS = re.compile(r"\bRBE\b|proton|spots|range error|undershoot|stopping", re.IGNORECASE)


@pytest.fixture(scope="module")
def case_dir(photon_case: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole case, whose doses the engine reproduces."""
    return photon_case.write(tmp_path_factory.mktemp("photons") / "case")


@pytest.fixture(scope="module")
def plan_only(photon_case: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case without doses of a planning system."""
    return photon_case.write(tmp_path_factory.mktemp("plan") / "case", replace(photon_case.case, doses=()))


@pytest.fixture(scope="module")
def proton_dir(water_case: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return water_case.write(tmp_path_factory.mktemp("protons") / "case", replace(water_case.case, doses=()))


@pytest.fixture
def on_linac(doseeng: Run, photon_case: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line with the case's machine installed."""
    monkeypatch.setenv("DOSEENG_MACHINES", str(photon_case.folder))
    return doseeng


def test_dose_agrees(on_linac: Run, photon_case: Any, case_dir: Path, tmp_path: Path) -> None:
    done = on_linac("dose", case_dir)
    assert done.code == 0, done.err
    assert "GREEN" in done.out
    assert "Gy (dose to medium, collapsed-cone)" in done.out
    assert not PROTON_WORDS.search(done.out + done.err)
    rows = [" ".join(re.findall(r"[^│\s]+", line)) for line in done.out.splitlines()]
    mu = [beam.meterset_mu for beam in photon_case.case.plan.beams]
    assert f"1 X1 6 MV static 0.0° 6.0 x 5.0 cm 2 {mu[0]:.1f} 1" in rows
    assert f"2 X2 6 MV static 90.0° 4.0 x 4.0 cm 2 {mu[1]:.1f} 1" in rows
    (written,) = tmp_path.glob("doseeng-dose-*.dcm")
    computed, reference = read_dose(written), read_dose(case_dir / "rd.dcm")
    assert computed.quantity.value == "physical"
    np.testing.assert_allclose(computed.volume.values, reference.volume.values, atol=2e-3)


def test_algorithm_and_medium_are_asked_for(on_linac: Run, plan_only: Path) -> None:
    kinds, highest = [], []
    for options in ((), ("--algorithm", "pencil"), ("--dose-to", "water"), ("--physical",)):
        done = on_linac("dose", plan_only, "--spacing", "5", "--out", "rd.dcm", "--json", *options)
        assert done.code == 0, done.err
        kinds.append(done.result["dose_kind"])
        highest.append(done.result["dose_max_gy"])
        assert done.result["provenance"]["settings"]["photon"]["algorithm"] in kinds[-1]
    assert kinds == [
        "dose to medium, collapsed-cone",
        "dose to medium, pencil",
        "dose to water, collapsed-cone",
        "dose to medium, collapsed-cone",
    ]
    assert highest[1] != highest[0]
    assert highest[3] == highest[0]


def test_photon_options_are_refused_for_protons(doseeng: Run, proton_dir: Path, tmp_path: Path) -> None:
    for arguments, option in (
        (("dose", proton_dir, "--algorithm", "pencil"), "--algorithm pencil"),
        (("dose", proton_dir, "--dose-to", "water"), "--dose-to water"),
        (("evaluate", proton_dir, "--algorithm", "collapsed-cone"), "--algorithm collapsed-cone"),
    ):
        done = doseeng(*arguments, "--json")
        assert done.code == 4
        assert done.result["error"]["type"] == "ConfigError"
        assert done.result["error"]["message"].startswith(f"{option}: is for photon plans, plan 'W1' has proton beams")
    assert list(tmp_path.iterdir()) == []


def test_let_is_for_protons(on_linac: Run, case_dir: Path) -> None:
    done = on_linac("let", case_dir, "--json")
    assert (done.code, done.result["error"]["type"]) == (4, "PlanError")
    assert "plan 'X1': has photon beams; LET and variable RBE exist for proton plans only" in done.out


def test_a_gantry_override_turns_the_beam(on_linac: Run, case_dir: Path) -> None:
    done = on_linac("dose", case_dir, "--gantry", "2=180", "--out", "rd.dcm", "--json")
    assert done.code == 2
    notices = {n["code"]: n["message"] for n in done.result["notices"]}
    assert notices["gantry-overridden"] == "180 degrees instead of 90"
    assert "with the gantry at 90" in notices["plan-dose-mismatch"]


def test_a_machine_that_is_not_there(doseeng: Run, case_dir: Path) -> None:
    done = doseeng("dose", case_dir, "--json")
    assert (done.code, done.result["error"]["type"]) == (4, "MachineError")
    assert "LINAC" in done.result["error"]["message"]


def test_case_show(doseeng: Run, case_dir: Path) -> None:
    shown = doseeng("case", "show", case_dir)
    assert shown.code == 0, shown.err
    said = " ".join(shown.out.split())
    assert "plan 'X1' (photon)" in said
    assert (
        "beam 2 'X2': LINAC, 6 MV static, gantry 90.0°, collimator 30.0°, couch 0.0°, field 4.0 x 4.0 cm, 20 leaf pairs"
        in said
    )
    assert "2 control points" in said


def test_evaluate_writes_a_report_without_words_of_protons(on_linac: Run, case_dir: Path) -> None:
    options = ("--scenarios", "6", "--setup-mm", "3", "--algorithm", "collapsed-cone")
    done = on_linac("evaluate", case_dir, *options, "--report", "r.html")
    assert done.code in (0, 1, 2), done.err
    assert "7 doses" in done.out
    page = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", Path("r.html").read_text())
    assert not PROTON_WORDS.search(done.out + done.err)
    assert not PROTON_WORDS.search(re.sub(r"<script.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL))
    assert page.count("Opening of beam") == 2
    assert "collapsed-cone" in page


def test_evaluate_defaults_to_setup_errors(on_linac: Run, plan_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.robustness.write_report", lambda _result, _case, path: path)
    found = on_linac("evaluate", plan_only, "--spacing", "6", "--json").result
    assert len(found["scenarios"]) == 15
    assert {s["rsp_scale"] for s in found["scenarios"]} == {1.0}
    assert found["provenance"]["settings"]["photon"]["algorithm"] == "pencil"
    Path("worn.toml").write_text('[[scenario]]\nname = "worn"\nleaf_opening_mm = 1.0\ngantry_deg = -0.5\n')
    found = on_linac("evaluate", plan_only, "--scenarios", "worn.toml", "--spacing", "6", "--json").result
    assert found["scenarios"][1]["leaf_opening_mm"] == 1.0
    assert found["scenarios"][1]["gantry_deg"] == -0.5


def test_dose_of_another_machine_state_is_red(on_linac: Run, photon_case: Any, tmp_path: Path) -> None:
    plan = photon_case.case.doses[0]
    wrong = replace(plan, volume=Volume(plan.volume.grid, np.roll(plan.volume.values, 3, axis=0)))
    folder = photon_case.write(tmp_path / "case", replace(photon_case.case, doses=(wrong,)))
    done = on_linac("dose", folder, "--algorithm", "pencil", "--out", "rd.dcm", "--json")
    assert (done.code, done.result["verdict"]) == (2, "RED")
    assert "dose-disagrees" in [n["code"] for n in done.result["notices"]]

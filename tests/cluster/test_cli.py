"""The command line as people and programs meet it: exit codes, JSON, files, and what happens when things go wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from cluster import robustness
from doseeng.case import DicomContext
from doseeng.dicom.rtdose import read_dose, write_dose
from doseeng.dicom.writing import patient_module, study_module
from doseeng.errors import DicomError
from doseeng.grid import Volume
from doseeng.machines.file import read_machine, write_machine
from doseeng.machines.library import find_machine

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def case_dir(water_case: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole case, whose doses the engine reproduces."""
    return water_case.write(tmp_path_factory.mktemp("water") / "case")


@pytest.fixture(scope="module")
def plan_only(water_case: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case without doses of a planning system."""
    return water_case.write(tmp_path_factory.mktemp("plan") / "case", replace(water_case.case, doses=()))


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the seconds that the pictures take where a test is about something else."""
    monkeypatch.setattr("cluster.robustness.write_report", lambda _result, _case, path: path)


def plan_dose(water_case: Any, values: np.ndarray) -> Any:
    """The case with another plan dose and no others."""
    plan = water_case.case.doses[0]
    return replace(water_case.case, doses=(replace(plan, volume=Volume(plan.volume.grid, values)),))


def files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# --- exit codes of `dose` -------------------------------------------------------------------------------------------


def test_dose_agrees(doseeng: Run, case_dir: Path, tmp_path: Path) -> None:
    done = doseeng("dose", case_dir)
    assert done.code == 0, done.err
    assert "GREEN" in done.out
    assert "RBE 1.1" in done.out
    (written,) = tmp_path.glob("doseeng-dose-*.dcm")
    assert written.name in done.out
    computed, reference = read_dose(written), read_dose(case_dir / "rd.dcm")
    np.testing.assert_allclose(computed.volume.values, reference.volume.values, atol=1e-3 * 2.0)


def test_dose_agrees_in_part(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    values = water_case.case.doses[0].volume.values.copy()
    high = np.argwhere(values > 0.3 * values.max())
    # Scattered voxels 20 % too high: hardly anything within 3 mm has their dose. About a tenth of what is judged.
    bad = np.random.default_rng(1).choice(high, int(0.1 * (values > 0.12 * values.max()).sum()), replace=False)
    values[tuple(bad.T)] *= 1.2
    done = doseeng("dose", water_case.write(tmp_path / "case", plan_dose(water_case, values)), "--out", "rd.dcm")
    assert done.code == 1, done.out + done.err
    assert "AMBER" in done.out


def test_dose_disagrees(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    moved = np.roll(water_case.case.doses[0].volume.values, 3, axis=2)
    folder = water_case.write(tmp_path / "case", plan_dose(water_case, moved))
    done = doseeng("dose", folder, "--out", "rd.dcm", "--json")
    assert done.code == 2
    assert done.result["verdict"] == "RED"
    assert [n["code"] for n in done.result["notices"]] == ["dose-disagrees"]
    assert read_dose(Path("rd.dcm")).volume.values.max() > 1.9


def test_dose_of_another_kind_is_not_compared(doseeng: Run, case_dir: Path) -> None:
    done = doseeng("dose", case_dir, "--physical", "--out", "rd.dcm", "--json")
    assert done.code == 3
    assert done.result["verdict"] == "UNEVALUABLE"
    assert {n["code"] for n in done.result["notices"]} == {"dose-not-compared"}
    assert read_dose(Path("rd.dcm")).quantity.value == "physical"


def test_dose_without_reference(doseeng: Run, plan_only: Path) -> None:
    done = doseeng("dose", plan_only, "--spacing", "5", "--out", "made/here/rd.dcm")
    assert done.code == 0
    assert "No dose of the planning system" in done.out
    assert read_dose(Path("made/here/rd.dcm")).volume.grid.spacing_mm == (5.0, 5.0, 5.0)


def test_let_shows_structures_and_writes_the_weighted_dose(doseeng: Run, case_dir: Path) -> None:
    done = doseeng("let", case_dir, "--rbe", "wedenberg", "--alpha-beta", "2", "--out", "rbe.dcm", "--json")
    assert done.code == 0, done.err
    rows = {row["structure"]: row for row in done.result["structures"]}
    target = rows["CTV"]
    # A spread-out peak of 24 mm at 5 cm depth: 2 to 5 keV/um; with LET and a small alpha/beta RBE exceeds 1.1.
    assert 2.0 < target["let_mean_kev_um"] < 5.0
    assert target["variable_mean_gy"] > 1.02 * target["constant_mean_gy"]
    assert read_dose(Path("rbe.dcm")).volume.values.max() >= target["variable_d2_gy"]
    shown = doseeng("let", case_dir)
    assert "CTV" in shown.out
    assert "mcnamara" in shown.out


def test_unknown_backend_is_refused(doseeng: Run, case_dir: Path) -> None:
    done = doseeng("dose", case_dir, "--backend", "tpu")
    assert done.code == 4
    assert "unknown backend 'tpu'; choose one of auto, cpu, cuda" in done.err


# --- options of both ------------------------------------------------------------------------------------------------


def test_overrides_are_named(doseeng: Run, plan_only: Path, tmp_path: Path) -> None:
    machine = replace(find_machine("generic-pbs"), name="other", aliases=(), protons_per_mu=np.full(31, 1e9))
    (tmp_path / "machines").mkdir()
    write_machine(machine, tmp_path / "machines" / "other.toml")
    options = ("--machine", "other", "--machine-folder", "machines", "--gantry", "2=450", "--json", "--spacing", "5")
    done = doseeng("dose", plan_only, *options)
    assert done.code == 0, done.out
    assert {n["code"]: n["where"] for n in done.result["notices"]} == {
        "gantry-overridden": "beam 2",
        "machine-replaced": "generic-pbs",
    }
    assert list(done.result["provenance"]["machines"]) == ["other"]
    dense = Path("dense.toml")
    shipped = Path(__file__).parents[2] / "doseeng" / "data" / "materials" / "schneider-2000.toml"
    dense.write_text(re.sub(r'(?m)^name = ".*"', 'name = "dense"', shipped.read_text()))
    done = doseeng("dose", plan_only, "--hu-table", dense, "--json", "--spacing", "5")
    assert done.result["provenance"]["hu_table"]["name"] == "dense"


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (("--machine", "nowhere"), "MachineError", "no machine 'nowhere'. Known: generic-pbs"),
        (("--hu-table", "nowhere"), "MaterialError", "HU table 'nowhere' not found"),
        (("--gantry", "3=0"), "ConfigError", "the plan has beams 1, 2"),
        (("--gantry", "1=up"), "ConfigError", "expected BEAM=DEGREES"),
        (("--gantry", "1=nan"), "ConfigError", "finite"),
        (("--machine-folder", "nowhere"), "MachineError", "does not exist"),
        (("--plan", "1.2.3"), "DicomError", "plan 1.2.3"),
        (("--spacing", "50"), "UsageError", "--spacing"),
        (("--nonsense",), "UsageError", "--nonsense"),
    ],
)
def test_wrong_options_are_errors_and_never_a_verdict(
    doseeng: Run, case_dir: Path, tmp_path: Path, options: tuple[str, ...], kind: str, message: str
) -> None:
    for command in ("dose", "evaluate"):
        done = doseeng(command, case_dir, *options, "--json")
        assert done.code == 4
        assert done.result["error"]["type"] == kind
        assert message in done.result["error"]["message"]
    assert files_below(tmp_path) == set()


def test_errors_for_people_are_one_message(doseeng: Run, tmp_path: Path) -> None:
    done = doseeng("dose", tmp_path / "nothing" / ("long" * 40))
    assert done.code == 4
    assert done.out == ""
    # On one line whatever the width, so that it can be searched for in a log.
    assert re.fullmatch(r"DicomError: '\S*/nothing/(long){40}' does not exist; [^\n]*\n", done.err)
    assert doseeng().code == 4
    assert doseeng("dose").code == 4
    assert doseeng("--version").code == 0
    assert doseeng("dose", "--help").code == 0


# --- evaluate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "code", "verdict"), [(95.0, 0, "GREEN"), (99.0, 1, "AMBER"), (104.0, 2, "RED")])
@pytest.mark.usefixtures("no_report")
def test_goal_against_limit_and_band(doseeng: Run, case_dir: Path, limit: float, code: int, verdict: str) -> None:
    goal = f'[[coverage]]\nmetric = "D95%"\nrelation = ">="\nlimit = {limit}\nunit = "%"\nband = 1.0\n'
    Path("goals.toml").write_text(goal)
    done = doseeng("evaluate", case_dir, "--scenarios", "nominal", "--goals", "goals.toml", "--json")
    assert done.code == code, done.out
    result = done.result
    assert result["verdict"] == verdict
    (found,) = result["goals"]
    assert found["limit"] == limit
    assert found["nominal"] == pytest.approx(99.2, abs=0.7)
    assert "nominal-compared" in {n["code"] for n in result["notices"]}


@pytest.mark.usefixtures("no_report")
def test_dose_that_is_not_reproduced_makes_it_unevaluable(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    wrong = 0.9 * water_case.case.doses[0].volume.values
    folder = water_case.write(tmp_path / "case", plan_dose(water_case, wrong))
    done = doseeng("evaluate", folder, "--scenarios", "nominal")
    assert done.code == 3
    assert "UNEVALUABLE" in done.out
    assert "nominal-disagrees" in done.out


# --- evaluate --anchor ----------------------------------------------------------------------------------------------


def anchor_file(water_case: Any, case_dir: Path, path: Path, scale: float = 0.99, **changes: Any) -> Path:
    """An RTDOSE beside the case: its plan dose, scaled, with other DICOM attributes where asked."""
    plan = water_case.case.doses[0]
    dataset = dcmread(case_dir / "rd.dcm")
    context = DicomContext(
        str(dataset.FrameOfReferenceUID), patient_module(dataset), study_module(dataset), str(dataset.SeriesInstanceUID)
    )
    values = Volume(plan.volume.grid, plan.volume.values * np.float32(scale))
    write_dose(path, replace(plan, volume=values, uid=""), context, water_case.case.plan)
    if changes:
        dataset = dcmread(path)
        for keyword, value in changes.items():
            if keyword == "plan":
                dataset.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID = value
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(path)
    return path


def test_evaluate_anchored(doseeng: Run, water_case: Any, case_dir: Path, tmp_path: Path) -> None:
    path = anchor_file(water_case, case_dir, tmp_path / "mc.dcm")
    uid = read_dose(path).uid
    options = ("--scenarios", "6", "--setup-mm", "4", "--anchor", path)
    done = doseeng("evaluate", case_dir, *options, "--report", "r.html", "--doses", "doses")
    assert done.code in (0, 1, 2), done.err
    told = f"Scenario doses are anchored to RTDOSE {uid}"
    assert told in done.out
    # The report is made of one piece; its text says the same as the terminal.
    page = " ".join(Path("r.html").read_text().split())
    assert told in page
    assert "reference dose + (own scenario dose - own nominal dose)" in page
    assert "mean ratio 1.010" in page
    for name in DOSES:
        written = dcmread(tmp_path / "doses" / f"{name}.dcm")
        assert "anchored to RTDOSE sha256" in written.DoseComment
        assert written.SeriesDescription == f"doseeng anchored {name}"
    np.testing.assert_allclose(
        read_dose(Path("doses/nominal.dcm")).volume.values, read_dose(path).volume.values, atol=1e-6
    )


@pytest.mark.usefixtures("no_report")
def test_anchored_result_for_programs(doseeng: Run, water_case: Any, case_dir: Path, tmp_path: Path) -> None:
    path = anchor_file(water_case, case_dir, tmp_path / "mc.dcm")
    done = doseeng("evaluate", case_dir, "--scenarios", "nominal", "--anchor", path, "--json")
    anchoring = done.result["anchoring"]
    assert anchoring["uid"] == read_dose(path).uid
    assert anchoring["mean_ratio"] == pytest.approx(1.01, abs=0.001)
    assert anchoring["is_used"] is True
    assert done.result["provenance"]["anchor"] == anchoring
    # The path, which may hold a name, is no part of the result.
    assert "mc.dcm" not in done.out
    plain = doseeng("evaluate", case_dir, "--scenarios", "nominal", "--json")
    assert plain.result["anchoring"] is None


@pytest.mark.usefixtures("no_report")
def test_anchor_sets_the_dose_grid(doseeng: Run, water_case: Any, plan_only: Path, tmp_path: Path) -> None:
    """A case without doses has no grid of its own."""
    dataset = dcmread(plan_only / "rs.dcm")
    context = DicomContext(
        dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID,
        patient_module(dataset),
        study_module(dataset),
        "1.2.3",
    )
    write_dose(tmp_path / "mc.dcm", replace(water_case.case.doses[0], uid=""), context, water_case.case.plan)
    options = ("--scenarios", "nominal", "--spacing", "6", "--anchor", "mc.dcm", "--json")
    done = doseeng("evaluate", plan_only, *options)
    assert done.code == 0, done.out
    assert done.result["provenance"]["dose_grid"]["shape"] == [30, 40, 40]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"plan": "1.2.3"}, "DicomError", "of plan 1.2.3"),
        ({"DoseSummationType": "FRACTION"}, "DicomError", "expected PLAN"),
        ({"FrameOfReferenceUID": "1.2.3"}, "GeometryError", "frame of reference 1.2.3"),
        ({"PatientID": "QZ-1"}, "DicomError", "--accept-patient-mismatch"),
        ({"DoseUnits": "RELATIVE"}, "DicomError", "expected GY"),
    ],
)
@pytest.mark.usefixtures("no_report")
def test_a_file_that_cannot_be_the_anchor_is_an_error(
    doseeng: Run, water_case: Any, case_dir: Path, tmp_path: Path, changes: dict[str, str], kind: str, message: str
) -> None:
    path = anchor_file(water_case, case_dir, tmp_path / "mc.dcm", **changes)
    done = doseeng("evaluate", case_dir, "--scenarios", "nominal", "--anchor", path, "--json")
    assert done.code == 4
    assert done.result["error"]["type"] == kind
    assert message in done.result["error"]["message"]
    for secret in (*water_case.secrets, "QZ-1"):
        assert secret not in done.out + done.err


@pytest.mark.usefixtures("no_report")
def test_an_anchor_that_disagrees_is_unevaluable(doseeng: Run, water_case: Any, case_dir: Path, tmp_path: Path) -> None:
    path = anchor_file(water_case, case_dir, tmp_path / "mc.dcm", 0.8)
    done = doseeng("evaluate", case_dir, "--anchor", path)
    assert done.code == 3
    assert "Not anchored to RTDOSE" in done.out
    assert "mean ratio 1.250" in done.out
    assert "1 doses" in done.out


def test_full_evaluation(doseeng: Run, plan_only: Path, tmp_path: Path) -> None:
    left = '[[scenario]]\nname = "left"\nshift_mm = [15.0, 0.0, 0.0]\n'
    Path("two.toml").write_text(f'{left}\n[[scenario]]\nname = "long"\nrange_percent = -3.5\n')
    options = ("--scenarios", "two.toml", "--report", "out/r.html", "--doses", "out/doses", "--spacing", "4")
    done = doseeng("evaluate", plan_only, *options)
    assert done.code == 2, done.err
    assert "nominal-not-compared" in done.err
    assert "'left'" in done.out
    assert files_below(tmp_path / "out") == {"r.html", *(f"doses/{n}.dcm" for n in DOSES)}
    nominal, worst, low, high = (read_dose(tmp_path / "out" / "doses" / f"{n}.dcm").volume.values for n in DOSES)
    step = 1e-6
    assert np.all(low <= nominal + step)
    assert np.all(nominal <= high + step)
    assert np.all((low <= worst + step) & (worst <= high + step))
    assert np.abs(worst - nominal).max() > 0.5
    html = (tmp_path / "out" / "r.html").read_text()
    assert html.lower().startswith("<!doctype html>")
    assert not re.search(r"""(?:src|href)\s*=\s*["']?https?:""", html)


DOSES = ("nominal", "worst", "voxel-min", "voxel-max")


@pytest.mark.usefixtures("no_report")
def test_random_scenarios_follow_their_seed(doseeng: Run, plan_only: Path) -> None:
    options = ("--scenarios", "random:2", "--seed", 7, "--spacing", "6", "--json")
    first, again = (doseeng("evaluate", plan_only, *options).result for _ in range(2))
    assert first["scenarios"] == again["scenarios"]
    assert first["goals"] == again["goals"]
    assert [s["random"] for s in first["scenarios"]] == [False, True, True]
    assert first["goals"][0]["probability"]["drawn"] == 2
    assert first["provenance"]["request"]["seed"] == 7


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (("--scenarios", "27"), "ConfigError", "scenario set '27' is unknown"),
        (("--scenarios", "missing.toml"), "ConfigError", "missing.toml"),
        (("--site", "moon"), "ConfigError", "'moon' is unknown"),
        (("--goals", "missing.toml"), "ConfigError", "missing.toml"),
        (("--goals", "wrong.toml"), "ConfigError", "wrong.toml: goal[0].limt: unknown key; did you mean 'limit'?"),
    ],
)
def test_wrong_requests(doseeng: Run, case_dir: Path, options: tuple[str, ...], kind: str, message: str) -> None:
    Path("wrong.toml").write_text('[[goal]]\nstructure = "Cord"\nmetric = "Dmean"\nlimt = 3.0\n')
    done = doseeng("evaluate", case_dir, *options, "--json", "--report", "r.html")
    assert (done.code, done.result["error"]["type"]) == (4, kind)
    assert message in done.result["error"]["message"]
    assert not Path("r.html").exists()


# --- what must not happen -------------------------------------------------------------------------------------------


def test_names_and_ids_of_patients_stay_inside_dicom(
    doseeng: Run, water_case: Any, case_dir: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(case_dir, tmp_path / "broken")
    (broken / "rs.dcm").write_bytes((broken / "rs.dcm").read_bytes()[:-200])
    said = ""
    for arguments in (
        ("evaluate", case_dir, "--scenarios", "nominal", "--report", "o/r.html", "--doses", "o"),
        ("dose", case_dir, "--out", "o/rd.dcm"),
        ("dose", case_dir, "--out", "o/rd.dcm", "--json"),
        ("case", "show", case_dir),
        ("case", "show", case_dir, "--json"),
        ("case", "show", broken),
        ("case", "show", broken, "--json"),
        ("dose", broken),
        ("dose", broken, "--json"),
    ):
        done = doseeng(*arguments)
        assert done.code == (4 if broken in arguments else 0)
        said += done.out + done.err
    said += Path("o/r.html").read_text() + " ".join(files_below(tmp_path))
    for secret in water_case.secrets:
        assert secret.lower() not in said.lower()
        # The search can find something: DICOM objects do carry the patient on.
        assert secret.encode() in Path("o/nominal.dcm").read_bytes()


def test_outputs_that_cannot_be_written_are_refused_at_once(
    doseeng: Run, case_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for arguments in (
        ("dose", case_dir, "--out", "file/rd.dcm"),
        ("dose", case_dir, "--out", "folder"),
        ("evaluate", case_dir, "--report", "file/r.html"),
        ("evaluate", case_dir, "--doses", "file"),
        ("demo", "--folder", "file"),
    ):
        done = doseeng(*arguments, "--json")
        assert done.code == 4
        assert done.result["error"]["type"] == "ConfigError"
        assert "cannot write" in done.result["error"]["message"]
    assert files_below(tmp_path) == {"file"}


def test_doses_do_not_go_where_they_would_be_read_as_reference(doseeng: Run, case_dir: Path) -> None:
    before = files_below(case_dir)
    for arguments in (
        ("dose", case_dir, "--out", case_dir / "rd9.dcm"),
        ("evaluate", case_dir, "--doses", case_dir / "doses"),
    ):
        done = doseeng(*arguments)
        assert done.code == 4
        assert "folder of the case" in done.err
    assert files_below(case_dir) == before


def test_failing_halfway_leaves_nothing(
    doseeng: Run, plan_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = robustness.write_dose

    def fail(path: Path, *rest: Any) -> None:
        if path.name == "voxel-min.dcm":
            raise DicomError("cannot write 'voxel-min.dcm': No space left on device")
        real(path, *rest)

    monkeypatch.setattr(robustness, "write_dose", fail)
    options = ("--scenarios", "nominal", "--doses", "o", "--report", "o/r.html", "--spacing", "6")
    done = doseeng("evaluate", plan_only, *options)
    assert done.code == 4
    assert "No space left" in done.err
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (OSError(28, "No space left on device", "/somewhere"), 4, "No space left on device: '/somewhere'"),
        (KeyboardInterrupt(), 130, "stopped before it was done"),
        (ZeroDivisionError("float division"), 4, "bug in doseeng"),
    ],
)
def test_the_process_edge(
    doseeng: Run,
    case_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    code: int,
    message: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("cluster.cli.dose.write_dose", fail)
    monkeypatch.setattr("cluster.cli.dose.recalculate", fail)
    done = doseeng("dose", case_dir, "--json")
    assert done.code == code
    assert message in done.result["error"]["message"]
    assert doseeng("dose", case_dir).out == ""
    assert files_below(tmp_path) == set()


# --- case -----------------------------------------------------------------------------------------------------------


def test_case_show(doseeng: Run, case_dir: Path) -> None:
    done = doseeng("case", "show", case_dir)
    assert done.code == 0
    for text in (
        "plan 'W1' (proton)",
        "40 x 40 x 30 voxels",
        "gantry 90°",
        "CTV",
        "13.8",
        "2 Gy",
        "dose BEAM of beams 2",
    ):
        assert text in done.out
    used = doseeng("case", "show", case_dir, "--json").result
    assert used["problem"] is None
    assert [s["name"] for s in used["used"]["structures"]] == ["BODY", "CTV", "Cord"]
    assert all(link["is_found"] for link in used["links"])


def test_case_show_of_what_is_no_case(doseeng: Run, case_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = shutil.copytree(case_dir, tmp_path / "broken")
    (broken / "rs.dcm").unlink()
    for folder, message in (("empty", "no plan with treatment beams"), ("broken", "refers to structure set")):
        done = doseeng("case", "show", folder)
        assert done.code == 4
        assert "Not usable as a case" in done.err
        assert message in done.err
        problem = doseeng("case", "show", folder, "--json").result["problem"]
        assert problem["type"] == "DicomError"
        assert message in problem["message"]
    assert "missing" in doseeng("case", "show", "broken").out
    assert doseeng("case", "show", "nowhere", "--json").result["error"]["type"] == "DicomError"


def test_case_show_of_a_zip(doseeng: Run, case_dir: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "case"), "zip", case_dir)
    assert doseeng("case", "show", archive).code == 0


# --- machine --------------------------------------------------------------------------------------------------------


def test_machine_list_and_show(doseeng: Run, tmp_path: Path) -> None:
    (tmp_path / "machines").mkdir()
    (tmp_path / "machines" / "broken.toml").write_text("nonsense")
    listed = doseeng("machine", "list", "--machine-folder", "machines", "--json")
    assert listed.code == 0
    assert "generic-pbs" in [m["name"] for m in listed.result["machines"]]
    assert [n["where"] for n in listed.result["notices"]] == ["broken.toml"]
    people = doseeng("machine", "list", "--machine-folder", "machines")
    assert "generic-pbs" in people.out
    assert "broken.toml" in people.err
    shown = doseeng("machine", "show", "GENERIC")
    assert "220" in shown.out
    assert doseeng("machine", "show", "generic-pbs", "--json").result["sha256"]
    assert doseeng("machine", "show", "nowhere").code == 4


def test_machine_import_and_use(doseeng: Run, data_dir: Path, plan_only: Path, tmp_path: Path) -> None:
    folder = data_dir / "proton_mc"
    files = (folder / "BDL_DN.txt", folder / "idd_fine_DN.npz")
    done = doseeng("machine", "import", "mcsquare", *files, "--name", "DN line", "--alias", "GANTRY1")
    assert done.code == 0, done.err
    installed = tmp_path / "config" / "doseeng" / "machines" / "dn_line.toml"
    assert str(installed) in done.out
    assert read_machine(installed).aliases == ("GANTRY1",)
    used = doseeng("dose", plan_only, "--machine", "gantry1", "--spacing", "6", "--json")
    assert list(used.result["provenance"]["machines"]) == ["DN line"]
    told = doseeng("machine", "import", "mcsquare", *files, "--name", "x", "--out", "x.toml", "--json").result
    assert told["file"] == "x.toml"
    assert told["machine"]["name"] == read_machine(Path("x.toml")).name == "x"


def test_machine_import_matrad(doseeng: Run) -> None:
    found = sorted(
        Path(__file__).parents[2].glob(".peers/*/lib/python*/site-packages/pyRadPlan/**/protons_Generic.mat")
    )
    if not found:
        pytest.skip("no matRad machine: `python -m benchmarks.speed` installs pyRadPlan, which ships one")
    done = doseeng("machine", "import", "matrad", found[0], "--out", "m.toml", "--json")
    assert done.code == 0, done.out
    assert len(read_machine(Path("m.toml")).energy_mev) == len(done.result["machine"]["energy_mev"])


def test_machine_commission(doseeng: Run, data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "proton_mc"
    with np.load(folder / "commissioning_DN.npz", allow_pickle=False) as scans:
        few = np.isin(scans["energy_mev"], [100.0, 150.0])
        kept = {k: v[few] if v.shape[:1] == few.shape else v for k, v in scans.items()}
    np.savez(tmp_path / "few.npz", **kept)
    arguments = ("machine", "commission", "proton", folder / "BDL_DN.txt", "few.npz", "--name", "few")
    done = doseeng(*arguments, "--out", "few.toml", "--json")
    assert done.code == 0, done.out
    assert [r["energy_mev"] for r in done.result["residuals"]] == [100.0, 150.0]
    assert all(r["depth_dose_percent"] < 1.0 for r in done.result["residuals"])
    assert read_machine(Path("few.toml")).energy_mev[[0, -1]].tolist() == [100.0, 150.0]


def test_machine_errors(doseeng: Run, data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "proton_mc"
    files = (folder / "BDL_DN.txt", folder / "idd_fine_DN.npz")
    (tmp_path / "file").write_text("")
    done = doseeng("machine", "import", "mcsquare", *files, "--out", "file/m.toml", "--json")
    assert done.code == 4
    assert "file" in done.result["error"]["message"]
    assert doseeng("machine", "import", "mcsquare", "none.txt", files[1]).code == 4
    assert doseeng("machine", "import", "matrad", files[1]).code == 4
    assert files_below(tmp_path) == {"file"}


def test_json_holds_no_numbers_that_json_lacks(doseeng: Run, case_dir: Path) -> None:
    done = doseeng("dose", case_dir, "--out", "rd.dcm", "--json")
    json.loads(done.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [c["what"] for c in done.result["comparisons"]] == ["beam 1 'F1'", "beam 2 'F2'", "plan"]

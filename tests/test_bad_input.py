"""Bad input end to end: each case ends in a clear error or a named notice, and nothing half-written stays behind.

The parts are tested beside the readers (`tests/doseeng/dicom`); here the whole way from a folder to `doseeng dose` and
`doseeng evaluate` is walked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from doseeng.case import Case
from doseeng.dicom.case import read_case
from doseeng.dicom.rtdose import read_dose
from doseeng.engine import prepare
from doseeng.errors import MaterialError, PlanError
from doseeng.grid import Volume, crop_grid, resample
from doseeng.plan import Prescription, ProtonBeam
from doseeng.structures import Structure

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures take seconds, and the report has its own tests."""

    def write(_result: object, _case: object, path: Path) -> Path:
        path.write_text("report")
        return path

    monkeypatch.setattr("cluster.robustness.write_report", write)


@pytest.fixture
def folder(water_case: Any, tmp_path: Path) -> Path:
    """A sound case without doses, to be broken."""
    return water_case.write(tmp_path / "case", replace(water_case.case, doses=()))


def edit(path: Path, change: Callable[[pydicom.Dataset], None]) -> None:
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spots(ds: pydicom.Dataset) -> pydicom.Dataset:
    """The control point with the spots of the first layer."""
    return ds.IonBeamSequence[0].IonControlPointSequence[0]


def set_first_weight(value: float) -> Callable[[pydicom.Dataset], None]:
    def change(ds: pydicom.Dataset) -> None:
        weights = list(spots(ds).ScanSpotMetersetWeights)
        spots(ds).ScanSpotMetersetWeights = [value, *weights[1:]]

    return change


def set_position(*xy_mm: float) -> Callable[[pydicom.Dataset], None]:
    def change(ds: pydicom.Dataset) -> None:
        for control_point in ds.IonBeamSequence[0].IonControlPointSequence[:2]:
            control_point.ScanSpotPositionMap = [*xy_mm, *list(control_point.ScanSpotPositionMap)[2:]]

    return change


def set_all(**values: object) -> Callable[[pydicom.Dataset], None]:
    def change(ds: pydicom.Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def set_beam(**values: object) -> Callable[[pydicom.Dataset], None]:
    return lambda ds: set_all(**values)(ds.IonBeamSequence[1])


def set_energy(mev: float) -> Callable[[pydicom.Dataset], None]:
    def change(ds: pydicom.Dataset) -> None:
        for control_point in ds.IonBeamSequence[1].IonControlPointSequence[:2]:
            control_point.NominalBeamEnergy = mev

    return change


def set_isocenter(*mm: float) -> Callable[[pydicom.Dataset], None]:
    return lambda ds: set_all(IsocenterPosition=list(mm))(spots(ds))


ERRORS: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "cut CT slice": (lambda f: cut(f / "CT.0007.dcm"), "DicomError", ("CT.0007.dcm", "1 are not")),
    "cut plan": (lambda f: cut(f / "rp.dcm"), "DicomError", ("rp.dcm", "no plan")),
    "cut structure set": (lambda f: cut(f / "rs.dcm"), "DicomError", ("rs.dcm", "structure set")),
    "plan that is text": (lambda f: (f / "rp.dcm").write_text("RT Ion Plan"), "DicomError", ("1 other files",)),
    "no pixels": (
        lambda f: edit(f / "CT.0003.dcm", lambda ds: delattr(ds, "PixelData")),
        "DicomError",
        ("CT.0003.dcm",),
    ),
    "missing slices inside": (
        lambda f: [(f / f"CT.{k:04d}.dcm").unlink() for k in (12, 13)],
        "DicomError",
        ("30 images", "2 are not in the folder"),
    ),
    "CT of another patient": (
        lambda f: [edit(p, set_all(PatientID="another")) for p in f.glob("CT.*")],
        "DicomError",
        ("rp.dcm", "CT.0001.dcm", "different patient IDs"),
    ),
    "CT in another frame of reference": (
        lambda f: [edit(p, set_all(FrameOfReferenceUID="1.2.3")) for p in f.glob("CT.*")],
        "GeometryError",
        ("CT.0001.dcm", "1.2.3"),
    ),
    "unknown machine": (
        lambda f: edit(f / "rp.dcm", set_beam(TreatmentMachineName="TR9")),
        "MachineError",
        ("no machine 'TR9'", "generic-pbs", "machine import"),
    ),
    "energy above the model": (
        lambda f: edit(f / "rp.dcm", set_energy(400.0)),
        "MachineError",
        ("beam 2 'F2'", "400 MeV", "70 to 220 MeV"),
    ),
    "negative MU": (lambda f: edit(f / "rp.dcm", set_first_weight(-0.5)), "PlanError", ("F1", "-0.5")),
    "NaN MU": (lambda f: edit(f / "rp.dcm", set_first_weight(float("nan"))), "PlanError", ("F1", "nan")),
    "NaN position": (lambda f: edit(f / "rp.dcm", set_position(float("nan"), 0.0)), "PlanError", ("F1", "position")),
    "position in micrometres": (
        lambda f: edit(f / "rp.dcm", set_position(24000.0, 0.0)),
        "PlanError",
        ("beam 1 'F1'", "(24000, 0) mm", "500 mm"),
    ),
    "no spot meets the patient": (
        lambda f: edit(f / "rp.dcm", set_isocenter(900.0, 0.0, 0.0)),
        "GeometryError",
        ("beam 1 'F1'", "isocentre"),
    ),
    "missing gantry angle": (
        lambda f: edit(f / "rp.dcm", lambda ds: spots(ds).__delattr__("GantryAngle")),
        "PlanError",
        ("F1", "GantryAngle"),
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_computed_is_an_error(
    doseeng: Run, water_case: Any, folder: Path, tmp_path: Path, name: str
) -> None:
    break_it, kind, parts = ERRORS[name]
    break_it(folder)
    for arguments in (
        ("dose", folder, "--out", tmp_path / "out" / "rd.dcm"),
        ("evaluate", folder, "--report", tmp_path / "out" / "r.html", "--doses", tmp_path / "out" / "d"),
    ):
        done = doseeng(*arguments, "--json")
        assert done.code == 4, done.out
        error = done.result["error"]
        assert error["type"] == kind
        for part in parts:
            assert part in error["message"]
        assert not any(secret in done.out + done.err for secret in water_case.secrets)
    assert not (tmp_path / "out").exists()


def write(water_case: Any, tmp_path: Path, **changes: Any) -> Path:
    return water_case.write(tmp_path / "case", replace(water_case.case, **changes))


def with_structures(case: Case, *structures: Structure) -> Any:
    return replace(case.structures, structures=structures)


def evaluated(doseeng: Run, folder: Path, *options: object) -> Any:
    return doseeng("evaluate", folder, "--scenarios", "nominal", "--spacing", "5", "--json", *options)


def test_empty_target(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    body, ctv, cord = water_case.case.structures.structures
    made = with_structures(water_case.case, body, replace(ctv, contours=()), cord)
    done = evaluated(doseeng, write(water_case, tmp_path, structures=made, doses=()))
    assert done.code == 4
    assert done.result["error"] == {
        "type": "StructureError",
        "message": "structure 'CTV' has no contour; draw it, or make its goals optional",
    }


def test_prescription_to_a_structure_that_is_not_there(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    plan = replace(water_case.case.plan, prescriptions=(Prescription(9, 2.0),))
    done = evaluated(doseeng, write(water_case, tmp_path, plan=plan, doses=()))
    assert (done.code, done.result["error"]["type"]) == (4, "StructureError")
    assert "ROI number 9" in done.result["error"]["message"]
    assert "'CTV'" in done.result["error"]["message"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("cord", "did you mean 'Cord'? Names are case-sensitive"), ("Heart", "it has 'BODY', 'CTV', 'Cord', 'Empty'"),
     ("Empty", "structure 'Empty' has no contour")],
)  # fmt: skip
def test_goal_structures_that_are_not_there(
    doseeng: Run, water_case: Any, tmp_path: Path, name: str, message: str
) -> None:
    made = with_structures(water_case.case, *water_case.case.structures.structures, Structure(4, "Empty", "ORGAN", ()))
    folder = write(water_case, tmp_path, structures=made, doses=())
    goal = f'[[goal]]\nstructure = "{name}"\nmetric = "Dmean"\nrelation = "<="\nlimit = 1.0\nunit = "Gy"\n'
    Path("goals.toml").write_text(goal)
    done = evaluated(doseeng, folder, "--goals", "goals.toml")
    assert (done.code, done.result["error"]["type"]) == (4, "StructureError")
    assert message in done.result["error"]["message"]
    Path("goals.toml").write_text(goal + "optional = true\n")
    done = evaluated(doseeng, folder, "--goals", "goals.toml")
    assert done.code == 0
    (skipped,) = [n for n in done.result["notices"] if n["code"] == "optional-goal-skipped"]
    assert skipped["where"] == name
    assert message in skipped["message"]


def test_names_that_differ_in_case_alone_stay_apart(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    case = water_case.case
    upper = replace(case.structures.by_name("CTV"), number=4, name="CORD")
    folder = write(water_case, tmp_path, structures=with_structures(case, *case.structures.structures, upper), doses=())
    rows = [
        f'[[goal]]\nstructure = "{name}"\nmetric = "Dmean"\nrelation = "<="\nlimit = 3.0\nunit = "Gy"\n'
        for name in ("Cord", "CORD")
    ]
    Path("goals.toml").write_text("\n".join(rows))
    goals = {g["structure"]: g["nominal"] for g in evaluated(doseeng, folder, "--goals", "goals.toml").result["goals"]}
    assert goals["CORD"] == pytest.approx(2.0, rel=0.02)
    assert goals["Cord"] < 1.0


def test_two_structures_of_one_name_are_not_guessed_between(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    case = water_case.case
    twin = replace(case.structures.by_name("Cord"), number=4, name="CTV")
    folder = write(water_case, tmp_path, structures=with_structures(case, *case.structures.structures, twin), doses=())
    done = evaluated(doseeng, folder)
    assert (done.code, done.result["error"]["type"]) == (4, "StructureError")
    assert "'CTV' stands for 2 ROIs (numbers 2, 4)" in done.result["error"]["message"]


def test_dose_grid_that_clips_the_target(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    plan = water_case.case.doses[0]
    half = crop_grid(plan.volume.grid, [(-60.0, -60.0, -50.0), (60.0, 60.0, 0.0)], 0.0)
    clipped = replace(plan, volume=resample(plan.volume, half, 0.0))
    folder = write(water_case, tmp_path, doses=(clipped,))
    done = doseeng("dose", folder, "--out", "rd.dcm", "--json")
    assert done.code == 0
    (notice,) = [n for n in done.result["notices"] if n["code"] == "dose-grid-clips-target"]
    assert notice["where"] == "CTV"
    assert read_dose(Path("rd.dcm")).volume.grid.is_same(half)
    done = evaluated(doseeng, folder)
    assert done.code == 3
    assert any("dose-grid-clips-target" in reason for reason in done.result["reasons"])


def test_dose_that_cannot_be_read_is_named_and_not_compared(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    folder = write(water_case, tmp_path, doses=water_case.case.doses[:1])
    cut(folder / "rd.dcm")
    done = evaluated(doseeng, folder)
    assert done.code == 0
    codes = {n["code"]: n["where"] for n in done.result["notices"]}
    assert codes["unreadable-file"] == "rd.dcm"
    assert "nominal-not-compared" in codes


def test_dose_in_another_frame_of_reference(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    folder = write(water_case, tmp_path)
    edit(folder / "rd.dcm", set_all(FrameOfReferenceUID="1.2.3"))
    done = evaluated(doseeng, folder)
    assert (done.code, done.result["error"]["type"]) == (4, "GeometryError")
    assert "'rd.dcm'" in done.result["error"]["message"]


def test_dose_of_another_patient_is_not_taken(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    folder = write(water_case, tmp_path)
    edit(folder / "rd.dcm", set_all(PatientID="another"))
    assert "'rd.dcm'" in evaluated(doseeng, folder).result["error"]["message"]
    accepted = evaluated(doseeng, folder, "--accept-patient-mismatch")
    assert accepted.code == 0
    assert "patient-mismatch" in {n["code"] for n in accepted.result["notices"]}


def moved_spots(beam: ProtonBeam, count: int, u_mm: float) -> ProtonBeam:
    uv = beam.spot_uv_mm.copy()
    uv[:count, 0] = u_mm
    return replace(beam, spot_uv_mm=uv)


def test_spots_aimed_past_the_patient_are_noticed(doseeng: Run, water_case: Any, tmp_path: Path) -> None:
    first, second = water_case.case.plan.proton_beams
    plan = replace(water_case.case.plan, beams=(first, moved_spots(second, 9, 75.0)))
    done = doseeng("dose", write(water_case, tmp_path, plan=plan, doses=()), "--out", "rd.dcm", "--json")
    assert done.code == 0
    (notice,) = done.result["notices"]
    assert (notice["code"], notice["where"]) == ("spots-miss-patient", "beam 2 'F2'")
    total, missed = second.spot_mu.sum(), second.spot_mu[:9].sum()
    assert f" spots, {missed:.4g} of {total:.4g} MU, " in notice["message"]
    assert notice["message"].startswith("9 of ")


@pytest.mark.parametrize(("u_mm", "misses"), [(59.0, False), (62.5, False), (64.5, True)])
def test_rays_diverge_from_the_source_to_the_patient(water_case: Any, u_mm: float, misses: bool) -> None:
    # The body ends at x = 60 mm and lies upstream of an isocentre on its back. Where a ray of u mm enters, 120 mm
    # upstream, it has come to u (1 - 120 / 2235): 59.1 mm for 62.5, 61.0 mm for 64.5.
    first, second = water_case.case.plan.proton_beams
    first = replace(moved_spots(first, 1, u_mm), isocenter_mm=(0.0, 60.0, 0.0))
    case = replace(water_case.case, plan=replace(water_case.case.plan, beams=(first, second)))
    found = [n for n in prepare(case).notices if n.code == "spots-miss-patient"]
    assert len(found) == misses


def test_nothing_is_noticed_in_a_sound_plan(water_case: Any) -> None:
    assert prepare(water_case.case).notices == ()


def test_spots_of_a_plan_made_in_python_are_checked_too(water_case: Any) -> None:
    beam = water_case.case.plan.proton_beams[0]
    for value, message in ((-1.0, "negative meterset"), (np.nan, "NaN or infinity"), (np.inf, "NaN or infinity")):
        mu = beam.spot_mu.copy()
        mu[5] = value
        with pytest.raises(PlanError, match=rf"beam 1 'F1': spot 5 has a.* {message}|{message}"):
            replace(beam, spot_mu=mu)


def test_image_with_nan(water_case: Any) -> None:
    values = water_case.case.ct.values.copy()
    values[3, 4, 5] = np.nan
    with pytest.raises(MaterialError, match="NaN"):
        prepare(replace(water_case.case, ct=Volume(water_case.case.ct.grid, values)))


def test_stray_files_do_not_matter_but_are_told(doseeng: Run, folder: Path) -> None:
    (folder / "notes.txt").write_text("remember the milk")
    (folder / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x99" * 50)
    case = read_case(folder)
    assert [n.code for n in case.notices] == ["unreadable-file"]
    shown = doseeng("case", "show", folder)
    assert shown.code == 0
    assert "1 files that are not DICOM" in shown.out
    assert "broken.dcm" in shown.err

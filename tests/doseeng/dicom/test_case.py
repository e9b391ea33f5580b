"""From a folder to a case: references decide, and a broken chain says where it broke."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

import doseeng
from doseeng.case import DicomContext
from doseeng.dicom.case import read_case, read_image
from doseeng.dicom.ct import write_ct
from doseeng.dicom.rtdose import write_dose
from doseeng.dicom.rtionplan_out import ion_plan_to_dataset
from doseeng.dicom.rtstruct import structure_set_to_dataset
from doseeng.dicom.writing import new_context, save
from doseeng.dose import Dose
from doseeng.errors import DicomError, GeometryError
from doseeng.grid import Grid, Volume
from doseeng.plan import Plan, ProtonBeam
from doseeng.structures import PhysicalOverride, Structure, StructureSet

ROOT = "1.2.826.0.1.3680043.11"
GRID = Grid((6, 8, 10), (2.0, 2.0, 3.0), (-9.0, -7.0, -7.5))
SECRETS = ("Secret", "secret-id", "another-id")


@dataclass(frozen=True)
class Parts:
    """A complete written case, to be broken one piece at a time."""

    folder: Path
    context: DicomContext
    plan: Plan
    structures: StructureSet

    def edit(self, name: str, **tags: object) -> None:
        ds = pydicom.dcmread(self.folder / name)
        for keyword, value in tags.items():
            setattr(ds, keyword, value)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(self.folder / name)


def box(half_mm: float) -> tuple[np.ndarray, ...]:
    square = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]) * half_mm
    planes = np.arange(-half_mm + 1.5, half_mm, 3.0)
    return tuple(np.column_stack([square, np.full(4, z)]) for z in planes)


def make_plan(uid: str = f"{ROOT}.1", structure_set_uid: str = f"{ROOT}.2") -> Plan:
    spots = np.zeros((2, 2)), np.array([100.0, 90.0]), np.array([1.0, 2.0])
    beam = ProtonBeam(1, "B1", "MACHINE", (0.0, 0.0, 0.0), 0.0, 0.0, *spots, fractions=3)
    return Plan("P1", uid, "HFS", (beam,), structure_set_uid=structure_set_uid)


def write_plan(folder: Path, name: str, plan: Plan, context: DicomContext) -> None:
    save(ion_plan_to_dataset(plan, context, source_distance_mm=(2000.0, 1800.0)), folder / name)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    folder = tmp_path / "case"
    folder.mkdir()
    values = np.arange(480, dtype=np.float32).reshape(GRID.shape) - 1000
    context = write_ct(folder, Volume(GRID, values), new_context("Secret^Name", "secret-id"))
    body = Structure(1, "Body", "EXTERNAL", box(6.0), None, (PhysicalOverride("REL_MASS_DENSITY", 1.02),))
    target = Structure(2, "PTV", "PTV", box(3.0))
    structures = StructureSet("S1", f"{ROOT}.2", context.frame_of_reference_uid, (body, target))
    save(structure_set_to_dataset(structures, context), folder / "rs.dcm")
    plan = make_plan()
    write_plan(folder, "rp.dcm", plan, context)
    dose = Dose(Volume(GRID, np.full(GRID.shape, 2.0)), uid=f"{ROOT}.3")
    write_dose(folder / "rd.dcm", dose, context, plan)
    return Parts(folder, context, plan, structures)


def refusal(parts: Parts, error: type[Exception], message: str, **options: object) -> None:
    with pytest.raises(error, match=message) as caught:
        read_case(parts.folder, **options)
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_complete_case(parts: Parts) -> None:
    case = read_case(parts.folder)
    assert case.ct.grid.is_same(GRID)
    assert case.ct.values[1, 2, 3] == 80 + 20 + 3 - 1000
    assert case.structures.names == ("Body", "PTV")
    assert (case.plan.label, case.plan.beams[0].fractions) == ("P1", 3)
    assert [d.volume.values.max() for d in case.doses] == [pytest.approx(2.0)]
    assert case.dicom is not None
    assert case.dicom.image_sop_instance_uids == parts.context.image_sop_instance_uids
    assert len(case.key) == 12
    assert not any(secret in repr(case) for secret in SECRETS)


def test_key_is_stable_and_differs_between_patients(parts: Parts) -> None:
    first = read_case(parts.folder).key
    assert read_case(str(parts.folder)).key == first
    for path in parts.folder.glob("*.dcm"):
        parts.edit(path.name, PatientID="another-id")
    assert read_case(parts.folder).key != first


def test_file_names_and_folders_do_not_matter(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "mixed" / "deep").mkdir(parents=True)
    for k, path in enumerate(sorted(parts.folder.iterdir())):
        shutil.copy(path, tmp_path / "mixed" / ("deep" if k % 2 else "") / f"{97 - k}")
    assert read_case(tmp_path / "mixed").ct.grid.is_same(GRID)


def test_zip_of_a_folder(parts: Parts, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "case"), "zip", parts.folder))
    assert read_case(archive).key == read_case(parts.folder).key


def test_paths_that_are_no_case(tmp_path: Path) -> None:
    with pytest.raises(DicomError, match="does not exist"):
        read_case(tmp_path / "nowhere")
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(DicomError, match="neither a folder nor a zip"):
        read_case(tmp_path / "x.txt")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zipped:
        zipped.writestr("x.dcm", b"0123456789" * 50)
    content = (tmp_path / "bad.zip").read_bytes()
    (tmp_path / "bad.zip").write_bytes(content.replace(b"0123456789", b"9876543210"))
    with pytest.raises(DicomError, match=r"'bad.zip' cannot be unpacked"):
        read_case(tmp_path / "bad.zip")


def test_no_plan(parts: Parts) -> None:
    (parts.folder / "rp.dcm").unlink()
    refusal(parts, DicomError, "no plan with treatment beams in the folder")


def test_several_plans_need_a_choice(parts: Parts) -> None:
    other = make_plan(f"{ROOT}.8")
    write_plan(parts.folder, "rp2.dcm", replace(other, label="P2"), parts.context)
    refusal(parts, DicomError, rf"several plans.*'P1' {ROOT}.1; 'P2' {ROOT}.8; choose one")
    refusal(parts, DicomError, rf"plan 1.2.3 .*is not in the folder; found 'P1' {ROOT}.1", plan_uid="1.2.3")
    chosen = read_case(parts.folder, plan_uid=f"{ROOT}.8")
    assert chosen.plan.label == "P2"
    assert chosen.doses == ()
    assert ("dose-of-other-plan", "rd.dcm") in [(n.code, n.where) for n in chosen.notices]


def test_plan_uid_used_twice_with_other_content(parts: Parts) -> None:
    write_plan(parts.folder, "rp2.dcm", replace(parts.plan, label="P2"), parts.context)
    refusal(parts, DicomError, r"is in 2 files of different content: 'rp.dcm', 'rp2.dcm'")


def test_missing_structure_set(parts: Parts) -> None:
    parts.edit("rs.dcm", SOPInstanceUID="1.2.99")
    refusal(parts, DicomError, rf"plan 'P1' refers to structure set {ROOT}.2, which is not in the folder; found 1.2.99")


def test_cut_off_structure_set_is_blamed(parts: Parts) -> None:
    path = parts.folder / "rs.dcm"
    path.write_bytes(path.read_bytes()[:-50])
    refusal(parts, DicomError, r"which is not in the folder; found none \(unreadable: rs.dcm\)")


def test_plan_without_structure_set(parts: Parts) -> None:
    parts.edit("rp.dcm", ReferencedStructureSetSequence=[])
    refusal(parts, DicomError, r"plan 'P1' \('rp.dcm'\) refers to no structure set")


def test_missing_last_slices_are_noticed_by_the_references(parts: Parts) -> None:
    (parts.folder / "CT.0006.dcm").unlink()
    refusal(parts, DicomError, "structure set 'S1' was drawn on 6 images, of which 1 are not in the folder")


def test_gap_in_the_ct(parts: Parts) -> None:
    ds = pydicom.dcmread(parts.folder / "rs.dcm")
    series = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    series.ContourImageSequence = []
    ds.save_as(parts.folder / "rs.dcm")
    (parts.folder / "CT.0003.dcm").unlink()
    refusal(parts, GeometryError, r"gap in the CT.*between 'CT.0002.dcm'")


def test_other_series_are_left_alone(parts: Parts) -> None:
    extra = parts.folder / "second"
    extra.mkdir()
    write_ct(
        extra, Volume(GRID, np.zeros(GRID.shape)), replace(parts.context, series_uid="", image_sop_instance_uids=())
    )
    assert read_case(parts.folder).ct.values[0, 0, 0] == -1000
    with pytest.raises(DicomError, match="expected one CT series, found"):
        read_image(parts.folder)
    assert read_image(parts.folder, parts.context.series_uid).volume.values[0, 0, 0] == -1000
    with pytest.raises(DicomError, match=r"CT series 1\.2\.3 is not in the folder"):
        read_image(parts.folder, "1.2.3")


@pytest.mark.parametrize("name", ["rs.dcm", "rd.dcm", "CT.0002.dcm"])
def test_patients_never_mix(parts: Parts, name: str) -> None:
    parts.edit(name, PatientID="another-id")
    refusal(parts, DicomError, f"'rp.dcm' and '{name}' belong together .* carry different patient IDs")


def test_accepted_patient_mismatch_is_noticed(parts: Parts) -> None:
    parts.edit("rp.dcm", PatientID="another-id")
    case = read_case(parts.folder, accept_patient_mismatch=True)
    assert "patient-mismatch" in [n.code for n in case.notices]
    assert not any(secret in str(n) for n in case.notices for secret in SECRETS)


@pytest.mark.parametrize("name", ["rd.dcm", "rp.dcm", "CT.0002.dcm"])
def test_frames_of_reference_must_agree(parts: Parts, name: str) -> None:
    parts.edit(name, FrameOfReferenceUID="1.2.77")
    expected = parts.context.frame_of_reference_uid
    refusal(
        parts, GeometryError, rf"'{name}' .*is in frame of reference 1\.2\.77, but structure set 'S1' in {expected}"
    )


def test_unsupported_dose_is_left_out_with_a_notice(parts: Parts) -> None:
    parts.edit("rd.dcm", DoseUnits="RELATIVE")
    case = read_case(parts.folder)
    assert case.doses == ()
    (notice,) = [n for n in case.notices if n.code == "dose-not-read"]
    assert "RELATIVE" in notice.message


def test_dose_of_another_plan_is_left_out_with_a_notice(parts: Parts) -> None:
    write_dose(parts.folder / "rd2.dcm", Dose(Volume(GRID, np.ones(GRID.shape))), parts.context, make_plan(f"{ROOT}.8"))
    case = read_case(parts.folder)
    assert len(case.doses) == 1
    (notice,) = [n for n in case.notices if n.code == "dose-of-other-plan"]
    assert f"{ROOT}.8" in notice.message


def test_patient_position_of_image_and_plan(parts: Parts) -> None:
    for path in parts.folder.glob("CT*"):
        parts.edit(path.name, PatientPosition="FFS")
    assert "patient-position-differs" in [n.code for n in read_case(parts.folder).notices]


def test_phantom_without_ct(parts: Parts) -> None:
    for path in parts.folder.glob("CT*"):
        path.unlink()
    case = read_case(parts.folder)
    assert "phantom-without-ct" in [n.code for n in case.notices]
    inside = np.argwhere(case.ct.values == 0)[:, ::-1]
    # The body is a cube of 12 mm about the origin: its faces lie on voxel faces, and it is full of water. How far it
    # reaches beyond its last contours (z = -4.5 and 4.5) is for the masks to say, up to half a slice.
    low, high = case.ct.grid.to_patient(inside.min(axis=0) - 0.5), case.ct.grid.to_patient(inside.max(axis=0) + 0.5)
    assert (low[:2], high[:2]) == (pytest.approx([-6, -6]), pytest.approx([6, 6]))
    assert -6.01 < low[2] < -4.0
    assert 4.0 < high[2] < 6.01
    assert len(inside) == np.prod(inside.max(axis=0) - inside.min(axis=0) + 1)
    assert set(np.unique(case.ct.values)) == {-1000.0, 0.0}
    assert np.all(case.ct.values[:3] == -1000)
    assert case.ct.grid.spacing_mm == pytest.approx((2.0, 2.0, 3.0))  # as the dose grid


def test_missing_ct_without_assigned_body(parts: Parts) -> None:
    for path in parts.folder.glob("CT*"):
        path.unlink()
    body = replace(parts.structures.structures[0], overrides=())
    bare = replace(parts.structures, structures=(body, parts.structures.structures[1]))
    save(structure_set_to_dataset(bare, parts.context), parts.folder / "rs.dcm")
    refusal(
        parts, DicomError, f"drawn on image series {parts.context.series_uid}, which is not in the folder.*found: none"
    )


def test_read_case_is_loaded_when_asked_for(parts: Parts) -> None:
    assert doseeng.read_case(parts.folder).plan.label == "P1"
    code = "import sys, doseeng; sys.exit('pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no_such_thing"):
        doseeng.no_such_thing  # noqa: B018


def test_real_photon_case(data_dir: Path) -> None:
    case = read_case(data_dir / "dicom" / "alderson_vmat.zip")
    assert case.ct.grid.shape == (160, 256, 256)
    assert case.plan.label == "test_vmat_gerd"
    assert [d.summation for d in case.doses] == ["PLAN", "BEAM"]
    assert case.doses[1].beam_numbers == (1,)


def test_real_phantom_needs_its_mismatch_accepted(unzipped: Callable[[str], Path]) -> None:
    folder = unzipped("dcpt_proton_slab")
    with pytest.raises(DicomError, match="different patient IDs"):
        read_case(folder)
    case = read_case(folder, accept_patient_mismatch=True)
    inside = np.argwhere(case.ct.values == 0)[:, ::-1]
    low, high = case.ct.grid.to_patient(inside.min(axis=0) - 0.5), case.ct.grid.to_patient(inside.max(axis=0) + 0.5)
    assert (low[:2], high[:2]) == (pytest.approx([-102.5] * 2), pytest.approx([102.5] * 2))
    assert -102.51 < low[2] < -99  # the last contours lie at 100 mm, 5 mm apart
    assert 99 < high[2] < 102.51
    assert [d.beam_numbers for d in case.doses] == [(), (1,), (2,)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("breast_imrt_embedded_dvh", "drawn on 98 images, of which 97 are not in the folder"),
        ("pinnacle_two_fields", "plan 'Plan_2.0' .* refers to no structure set"),
        ("eclipse_prostate_dvh", "structure set 'PROS' was drawn on image series .* not in the folder"),
    ],
)
def test_incomplete_real_exports_say_what_is_missing(unzipped: Callable[[str], Path], name: str, message: str) -> None:
    with pytest.raises(DicomError, match=message):
        read_case(unzipped(name))

"""The day's image: which series, whose, when, and what came along."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from doseeng.case import DicomContext
from doseeng.dicom.case import read_image
from doseeng.dicom.ct import write_ct
from doseeng.dicom.day import DayImage, read_day_image
from doseeng.dicom.registration_out import rigid_registration_to_dataset
from doseeng.dicom.rtstruct import structure_set_to_dataset
from doseeng.dicom.writing import new_context, save
from doseeng.errors import DicomError, RegistrationError
from doseeng.grid import Grid, Volume
from doseeng.structures import Structure, StructureSet
from doseeng.transforms import RigidTransform, identity_transform

VOLUME = Volume(Grid((3, 4, 5), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0)), np.full((3, 4, 5), 7.0))
ACQUIRED = datetime(2026, 3, 4, 8, 15, 30, 250000)
SQUARE = np.array([(1.0, 1.0, 3.0), (6.0, 1.0, 3.0), (6.0, 5.0, 3.0)])
SECRETS = ("Quatermain", "QZ-4711", "QZ-9")


def person(patient_id: str = "QZ-4711") -> DicomContext:
    return new_context("Quatermain^Zebulon", patient_id)


@pytest.fixture
def planning(tmp_path: Path) -> DicomContext:
    (tmp_path / "planning").mkdir()
    return write_ct(tmp_path / "planning", VOLUME, person())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "day").mkdir()
    return tmp_path / "day"


def changed(folder: Path, change: Callable[[pydicom.Dataset, int], None]) -> None:
    for n, path in enumerate(sorted(folder.glob("*.dcm"))):
        ds = pydicom.dcmread(path)
        change(ds, n)
        ds.save_as(path)


def codes(day: DayImage) -> list[str]:
    return [n.code for n in day.notices]


def test_the_day_knows_when_it_was_taken(folder: Path, planning: DicomContext) -> None:
    described = write_ct(folder, VOLUME, person(), acquired=ACQUIRED, series_description="CBCT")
    day = read_day_image(folder, planning)
    assert (day.acquired, day.series.acquired_tag) == (ACQUIRED, "AcquisitionDate")
    assert day.series.context.series_uid == described.series_uid
    assert (day.daily_structures, day.registration, day.notices) == (None, None, ())
    assert pydicom.dcmread(next(folder.iterdir())).SeriesDescription == "CBCT"
    assert not any(secret in repr(day) for secret in SECRETS)


def test_a_zip_is_read_too(folder: Path, planning: DicomContext, tmp_path: Path) -> None:
    write_ct(folder, VOLUME, person(), acquired=ACQUIRED)
    assert read_day_image(shutil.make_archive(str(tmp_path / "day"), "zip", folder), planning).acquired == ACQUIRED


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"AcquisitionTime": "0815"}, datetime(2026, 3, 4, 8, 15)),
        ({"AcquisitionTime": "08:15:30.5"}, datetime(2026, 3, 4, 8, 15, 30, 500000)),
        ({"AcquisitionDate": "2026.03.05", "AcquisitionTime": "08"}, datetime(2026, 3, 5, 8)),
        ({"AcquisitionTime": "081560"}, datetime(2026, 3, 4, 8, 15, 59)),
        ({"AcquisitionDateTime": "20260306091011.123456+0200"}, datetime(2026, 3, 6, 9, 10, 11, 123456)),
    ],
)
def test_times_as_vendors_write_them(
    folder: Path, planning: DicomContext, tags: dict[str, str], expected: datetime
) -> None:
    write_ct(folder, VOLUME, person(), acquired=ACQUIRED)
    changed(folder, lambda ds, n: [setattr(ds, keyword, value) for keyword, value in tags.items()])
    day = read_day_image(folder, planning)
    assert day.acquired == expected
    assert codes(day) == []


def test_the_earliest_slice_counts(folder: Path, planning: DicomContext) -> None:
    write_ct(folder, VOLUME, person(), acquired=ACQUIRED)
    changed(folder, lambda ds, n: setattr(ds, "AcquisitionTime", ("081532", "081530", "081531")[n]))
    assert read_day_image(folder, planning).acquired == ACQUIRED.replace(microsecond=0)


@pytest.mark.parametrize("broken", ["25xx", "991530", "081530.1234567"])
def test_a_malformed_time_is_named_and_the_next_one_taken(folder: Path, planning: DicomContext, broken: str) -> None:
    write_ct(folder, VOLUME, person(), acquired=ACQUIRED)

    def break_time(ds: pydicom.Dataset, n: int) -> None:
        ds["AcquisitionTime"]._value = broken
        ds.ContentTime = "101112"

    changed(folder, break_time)
    day = read_day_image(folder, planning)
    assert (day.acquired.hour, day.series.acquired_tag) == (10, "ContentDate")
    assert sorted(codes(day)) == ["acquisition-time-from-stand-in", "malformed-time"]
    assert broken in next(n.message for n in day.notices if n.code == "malformed-time")


def test_without_any_time_the_tags_are_named(folder: Path, planning: DicomContext) -> None:
    write_ct(folder, VOLUME, person())

    def forget(ds: pydicom.Dataset, n: int) -> None:
        del ds.SeriesTime

    changed(folder, forget)
    assert read_image(folder).acquired is None
    with pytest.raises(DicomError, match=r"Acquisition Date and Time \(0008,0022\), \(0008,0032\)"):
        read_day_image(folder, planning)


def test_several_series_are_listed_and_one_can_be_chosen(folder: Path, planning: DicomContext) -> None:
    uids = []
    for name, hour in (("a", 8), ("b", 9)):
        (folder / name).mkdir()
        made = write_ct(folder / name, VOLUME, person(), acquired=ACQUIRED.replace(hour=hour))
        uids.append(made.series_uid)
    with pytest.raises(DicomError, match="choose one by its Series Instance UID") as caught:
        read_day_image(folder, planning)
    assert all(f"{uid} (3 slices)" in str(caught.value) for uid in uids)
    assert read_day_image(folder, planning, series_uid=uids[1]).acquired.hour == 9
    with pytest.raises(DicomError, match=r"series 1\.2\.3 is not in the folder"):
        read_day_image(folder, planning, series_uid="1.2.3")


def test_the_planning_ct_is_no_image_of_the_day(folder: Path, planning: DicomContext, tmp_path: Path) -> None:
    with pytest.raises(DicomError, match="is the planning CT itself"):
        read_day_image(tmp_path / "planning", planning)
    write_ct(folder, VOLUME, person(), acquired=ACQUIRED)
    assert read_day_image(tmp_path, planning).acquired == ACQUIRED


def test_a_folder_without_image_says_what_it_holds(folder: Path, planning: DicomContext) -> None:
    with pytest.raises(DicomError, match="found no DICOM object"):
        read_day_image(folder, planning)
    save(rigid_registration_to_dataset(planning, person(), identity_transform()), folder / "r.dcm")
    with pytest.raises(DicomError, match="found Spatial Registration Storage"):
        read_day_image(folder, planning)


def test_another_patients_image_is_refused_unless_accepted(folder: Path, planning: DicomContext) -> None:
    write_ct(folder, VOLUME, person("QZ-9"), acquired=ACQUIRED)
    with pytest.raises(DicomError, match="another patient ID than the plan") as caught:
        read_day_image(folder, planning)
    assert not any(secret in str(caught.value) for secret in SECRETS)
    assert codes(read_day_image(folder, planning, accept_patient_mismatch=True)) == ["patient-mismatch"]


def test_without_patient_ids_nothing_is_known(folder: Path, planning: DicomContext) -> None:
    write_ct(folder, VOLUME, person(""), acquired=ACQUIRED)
    assert codes(read_day_image(folder, replace(planning, patient={}))) == ["patient-unknown"]


def draw(folder: Path, image: DicomContext, name: str = "rs.dcm") -> None:
    contour = Structure(1, "CTV", "CTV", (SQUARE,))
    save(structure_set_to_dataset(StructureSet("daily", "", "", (contour,)), image), folder / name)


def test_contours_of_the_day_come_along(folder: Path, planning: DicomContext) -> None:
    image = write_ct(folder, VOLUME, person(), acquired=ACQUIRED)
    draw(folder, image)
    draw(folder, planning, "of the planning CT.dcm")
    found = read_day_image(folder, planning).daily_structures
    assert found is not None
    assert found.frame_of_reference_uid == image.frame_of_reference_uid
    np.testing.assert_allclose(found.structures[0].contours[0], SQUARE)
    draw(folder, image, "again.dcm")
    with pytest.raises(DicomError, match=r"'again.dcm', 'rs.dcm'; keep the right one"):
        read_day_image(folder, planning)


def test_contours_that_do_not_belong_are_left_out_by_name(folder: Path, planning: DicomContext) -> None:
    image = write_ct(folder, VOLUME, person(), acquired=ACQUIRED)
    for broken, message in (
        (replace(image, patient={"PatientID": "QZ-9"}), "another patient ID"),
        (replace(image, frame_of_reference_uid="1.2.3"), "another frame of reference"),
    ):
        draw(folder, broken)
        day = read_day_image(folder, planning)
        assert (day.daily_structures, codes(day)) == (None, ["daily-structures-not-read"])
        assert message in day.notices[0].message


TURN = RigidTransform(
    np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), np.array([1.0, 2.0, 3.0]), np.zeros(3)
)


def test_the_clinics_registration_comes_along(folder: Path, planning: DicomContext) -> None:
    """Whichever frame the object is in, the answer is day -> planning."""
    image = write_ct(folder, VOLUME, person(), acquired=ACQUIRED)
    for registered, source, transform in ((planning, image, TURN), (image, planning, TURN.inverse())):
        save(rigid_registration_to_dataset(registered, source, transform), folder / "r.dcm")
        found = read_day_image(folder, planning).registration
        assert found is not None
        np.testing.assert_allclose(found.apply([10.0, 0.0, 0.0]), [1.0, 12.0, 3.0], atol=1e-6)
    save(rigid_registration_to_dataset(planning, image, TURN), folder / "same.dcm")
    assert read_day_image(folder, planning).registration is not None
    save(rigid_registration_to_dataset(planning, image, identity_transform()), folder / "other.dcm")
    with pytest.raises(RegistrationError, match=r"'other.dcm', 'r.dcm', 'same.dcm' place the day's image differently"):
        read_day_image(folder, planning)


def test_registrations_of_others_do_not_count(folder: Path, planning: DicomContext) -> None:
    image = write_ct(folder, VOLUME, person(), acquired=ACQUIRED)
    save(rigid_registration_to_dataset(planning, person(), TURN), folder / "of another image.dcm")
    assert read_day_image(folder, planning).registration is None
    stranger = replace(planning, patient={"PatientID": "QZ-9"})
    save(rigid_registration_to_dataset(stranger, image, TURN), folder / "stranger.dcm")
    broken = rigid_registration_to_dataset(planning, image, TURN)
    broken.RegistrationSequence = []
    save(broken, folder / "broken.dcm")
    day = read_day_image(folder, planning)
    assert day.registration is None
    assert [(n.code, n.where) for n in day.notices] == [
        ("registration-not-read", "broken.dcm"),
        ("registration-not-read", "stranger.dcm"),
    ]


def test_one_frame_needs_no_registration(folder: Path, planning: DicomContext) -> None:
    shared = replace(person(), frame_of_reference_uid=planning.frame_of_reference_uid)
    write_ct(folder, VOLUME, shared, acquired=ACQUIRED)
    assert read_day_image(folder, planning).registration is None


def test_breathing_phases_of_another_system_read_as_days(data_dir: Path, tmp_path: Path) -> None:
    """Three exports under different patient IDs and frames of reference, with 29 empty ROIs of 32 each."""
    archive = data_dir / "registration" / "synthetic_lung_phases.zip"
    if not archive.is_file():
        pytest.skip("reference data has no registration/synthetic_lung_phases.zip")
    shutil.unpack_archive(archive, tmp_path)
    context = read_image(tmp_path / "lung-1").context
    with pytest.raises(DicomError, match="another patient ID than the plan"):
        read_day_image(tmp_path / "lung-2", context)
    days = [read_day_image(tmp_path / f"lung-{n}", context, accept_patient_mismatch=True) for n in (2, 3)]
    assert days[0].acquired < days[1].acquired
    for day in days:
        assert day.series.context.frame_of_reference_uid != context.frame_of_reference_uid
        assert day.daily_structures is not None
        assert sum(s.is_empty for s in day.daily_structures.structures) == 29
        assert codes(day) == ["patient-mismatch", "rescale-type-unspecified"]

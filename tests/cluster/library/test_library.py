"""What belongs together, by references: the same objects that the command line takes from a folder."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from cluster.database.connection import Database
from cluster.library.library import Library
from doseeng.case import DicomContext
from doseeng.dicom.case import read_case
from doseeng.dicom.ct import write_ct
from doseeng.dicom.day import read_day_image
from doseeng.dicom.registration_out import rigid_registration_to_dataset
from doseeng.dicom.rtdose import write_dose
from doseeng.dicom.rtstruct import structure_set_to_dataset
from doseeng.dicom.writing import save
from doseeng.errors import DicomError
from doseeng.transforms import RigidTransform

PLAN = "1.2.826.0.1.3680043.10.4711.1"
STRUCTURES = "1.2.826.0.1.3680043.10.4711.2"
OWNER = {"PatientName": "Quatermain^Zebulon", "PatientID": "QZ-4711"}


def test_a_case_is_what_the_command_line_reads(
    library: Library, fill: Callable[..., Library], case_dir: Path, tmp_path: Path, water_case: Any
) -> None:
    others = tmp_path / "others"
    other_plan = replace(water_case.case.plan, uid="1.2.3.4.5", label="W2")
    others_doses = tuple(replace(dose, plan_uid=other_plan.uid) for dose in water_case.case.doses)
    water_case.write(
        others,
        replace(
            water_case.case,
            plan=replace(other_plan, structure_set_uid="1.2.3.4.6"),
            structures=replace(water_case.case.structures, uid="1.2.3.4.6"),
            doses=others_doses,
        ),
    )
    fill(library, case_dir)
    fill(library, others)
    found = library.case_objects("north", PLAN)
    taken = tmp_path / "taken"
    taken.mkdir()
    for sha256 in found.sha256s:
        library.blobs("north").copy_to(sha256, taken / f"{sha256}.dcm")
    ours, expected = read_case(taken, PLAN), read_case(case_dir)
    assert found.case_key == ours.key == expected.key
    assert len(found.sha256s) == len(list(case_dir.glob("*.dcm")))
    assert {dose.uid for dose in ours.doses} == {dose.uid for dose in expected.doses}
    assert np.array_equal(ours.ct.values, expected.ct.values)
    assert [notice.code for notice in ours.notices] == [notice.code for notice in expected.notices]
    assert len(library.plans("north")) == 2
    (patient,) = library.patients("north")
    assert (patient.studies, patient.instances) == (2, 2 * len(found.sha256s))


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        ("rp.dcm", rf"plan {PLAN} is not in the library of site 'north'"),
        ("rs.dcm", rf"refers to structure set {STRUCTURES}, which is not in the library"),
        ("CT.*.dcm", r"was drawn on image series [0-9.]+, which is not in the library.*send the CT too"),
        ("CT.0003.dcm", r"of which 1 were not received \(such as [0-9.]+\); send the complete CT series"),
    ],
)
def test_what_is_missing_is_named(library: Library, case_dir: Path, left_out: str, says: str) -> None:
    missing = set(case_dir.glob(left_out))
    for path in sorted(set(case_dir.glob("*.dcm")) - missing):
        library.receive("north", path)
    with pytest.raises(DicomError, match=says):
        library.case_objects("north", PLAN)
    # It comes later, in any order.
    for path in missing:
        library.receive("north", path)
    assert len(library.case_objects("north", PLAN).sha256s) == len(list(case_dir.glob("*.dcm")))


def test_no_site_sees_anothers(database: Database, blobs_of: Any, fill: Callable[..., Library], case_dir: Path) -> None:
    library = fill(Library(database, blobs_of), case_dir)
    assert len(library.case_objects("north", PLAN).sha256s) > 30
    assert library.plans("south") == library.series("south") == library.patients("south") == []
    assert library.instances("south") == []
    with pytest.raises(DicomError, match="site 'south'"):
        library.case_objects("south", PLAN)
    with pytest.raises(DicomError, match="site 'south'"):
        library.data("south", PLAN)
    series = next(s.series_uid for s in library.series("north") if s.role == "CT slice")
    assert library.image_objects("north", series).sha256s
    with pytest.raises(DicomError, match="site 'south'"):
        library.image_objects("south", series)


def test_our_own_dose_that_comes_back_is_not_the_planning_systems(
    library: Library, fill: Callable[..., Library], case_dir: Path, tmp_path: Path
) -> None:
    fill(library, case_dir)
    before = library.case_objects("north", PLAN)
    case = read_case(case_dir)
    assert case.dicom is not None
    write_dose(tmp_path / "own.dcm", replace(case.doses[0], uid=""), case.dicom, case.plan, "doseeng independent dose")
    write_dose(tmp_path / "theirs.dcm", replace(case.doses[0], uid=""), case.dicom, case.plan, "Monte Carlo")
    library.receive("north", tmp_path / "own.dcm")
    assert library.case_objects("north", PLAN) == before
    assert [s.description for s in library.series("north") if s.is_own] == ["doseeng independent dose"]
    library.receive("north", tmp_path / "theirs.dcm")
    assert len(library.case_objects("north", PLAN).sha256s) == len(before.sha256s) + 1


def test_a_setup_plan_is_no_plan(library: Library, case_dir: Path, tmp_path: Path) -> None:
    dataset = dcmread(case_dir / "rp.dcm")
    for beam in dataset.IonBeamSequence:
        beam.TreatmentDeliveryType = "SETUP"
    dataset.save_as(tmp_path / "setup.dcm")
    library.receive("north", tmp_path / "setup.dcm")
    assert library.plans("north") == []
    with pytest.raises(DicomError, match="no treatment beams"):
        library.case_objects("north", PLAN)


@pytest.fixture
def day_dir(water_case: Any, case_dir: Path, tmp_path: Path) -> Path:
    """A day's image with the contours drawn on it, and its registration to the planning CT."""
    folder = tmp_path / "day"
    folder.mkdir()
    planning = read_case(case_dir).dicom
    assert planning is not None
    study = {"StudyInstanceUID": str(generate_uid())}
    context = write_ct(
        folder,
        water_case.case.ct,
        DicomContext(str(generate_uid()), OWNER, study),
        acquired=datetime(2025, 1, 6, 8, 30),
        series_description="Daily",
    )
    drawn = replace(
        water_case.case.structures,
        uid="",
        frame_of_reference_uid=context.frame_of_reference_uid,
        referenced_series_uid=context.series_uid,
    )
    save(structure_set_to_dataset(drawn, context), folder / "rs.dcm")
    moved = RigidTransform(np.eye(3), np.array([1.0, 2.0, 3.0]), np.zeros(3))
    save(rigid_registration_to_dataset(planning, context, moved, "couch"), folder / "reg.dcm")
    return folder


def test_an_image_comes_with_its_contours_and_registrations(
    library: Library, fill: Callable[..., Library], case_dir: Path, day_dir: Path, tmp_path: Path
) -> None:
    fill(library, case_dir)
    fill(library, day_dir)
    series = next(s for s in library.series("north") if s.description == "Daily")
    assert (series.acquired, series.role) == ("2025-01-06T08:30:00", "CT slice")
    found = library.image_objects("north", series.series_uid)
    assert found.acquired == series.acquired
    assert len(found.sha256s) == len(list(day_dir.glob("*.dcm")))
    for sha256 in found.sha256s:
        library.blobs("north").copy_to(sha256, tmp_path / f"{sha256}.dcm")
    planning = read_case(case_dir).dicom
    assert planning is not None
    day = read_day_image(tmp_path, planning, series.series_uid)
    assert day.daily_structures is not None
    assert day.registration is not None
    # The planning CT's own contours are no contours of the day, and the other way round.
    assert len(library.case_objects("north", PLAN).sha256s) == len(list(case_dir.glob("*.dcm")))


def test_a_series_without_slices_is_named(library: Library, case_dir: Path) -> None:
    got = library.receive("north", case_dir / "rs.dcm")
    with pytest.raises(DicomError, match=r"has no CT slice in the library of site 'north', found structure set"):
        library.image_objects("north", got.series_uid)
    with pytest.raises(DicomError, match="found nothing"):
        library.image_objects("north", "1.2.3")

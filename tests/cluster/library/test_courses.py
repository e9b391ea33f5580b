"""Patients under treatment."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from cluster.database.connection import Database
from cluster.library.courses import Courses
from cluster.library.library import Library
from doseeng.dicom.inventory import patient_key
from doseeng.errors import ConfigError, DicomError, JobError

PLAN = "1.2.826.0.1.3680043.10.4711.1"


def test_a_plan_goes_under_treatment_and_ends(database: Database, blobs_of: Any, case_dir: Path) -> None:
    library, courses = Library(database, blobs_of), Courses(database)
    with pytest.raises(DicomError, match="send the plan first"):
        courses.treat("north", PLAN, {}, "ann")
    library.receive("north", case_dir / "rp.dcm")
    course = courses.treat("north", PLAN, {"treatment_site": "lung"}, "ann")
    assert (course.patient_key, course.created_by, course.ended_at) == (patient_key("QZ-4711"), "ann", None)
    assert courses.of_patient("north", course.patient_key) == [course] == courses.all("north")
    assert courses.all("south") == courses.of_patient("south", course.patient_key) == []
    with pytest.raises(DicomError, match="site 'south'"):
        courses.treat("south", PLAN, {}, "ann")
    again = courses.treat("north", PLAN, {"robust": True}, "ben")
    assert (again.options, again.started_at) == ({"robust": True}, course.started_at)
    ended = courses.end("north", PLAN)
    assert ended.ended_at is not None
    assert courses.end("north", PLAN).ended_at == ended.ended_at
    assert courses.all("north") == courses.of_patient("north", course.patient_key) == []
    assert courses.all("north", under_treatment=False) == [ended]
    assert courses.treat("north", PLAN, {}, "ann").ended_at is None
    with pytest.raises(JobError, match="not under treatment"):
        courses.end("south", PLAN)


def test_wrong_options_are_refused_with_the_nearest_key(
    sqlite_database: Database, blobs_of: Any, case_dir: Path
) -> None:
    Library(sqlite_database, blobs_of).receive("north", case_dir / "rp.dcm")
    courses = Courses(sqlite_database)
    with pytest.raises(ConfigError, match=r"options of the course: robst: unknown key; did you mean 'robust'"):
        courses.treat("north", PLAN, {"robst": True}, "ann")
    assert courses.all("north") == []


def test_whoever_has_no_patient_id_is_nobody(sqlite_database: Database, blobs_of: Any, case_dir: Path) -> None:
    dataset, written = dcmread(case_dir / "rp.dcm"), BytesIO()
    dataset.PatientID = ""
    dataset.save_as(written)
    Library(sqlite_database, blobs_of).receive("north", written.getvalue())
    courses = Courses(sqlite_database)
    course = courses.treat("north", PLAN, {}, "ann")
    assert courses.all("north") == [course]
    assert courses.of_patient("north", course.patient_key) == []

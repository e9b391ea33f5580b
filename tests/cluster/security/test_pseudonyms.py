"""The secret of a site, and that nothing handed out is ever lost or changed."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select

from cluster.database.connection import Database
from cluster.database.tables import PseudonymRow
from cluster.security.pseudonyms import Pseudonyms, site_secret
from doseeng.errors import ConfigError, DicomError

SECRET = b"s" * 32


def test_the_secret_is_made_once_and_is_private(tmp_path: Path) -> None:
    found: list[bytes] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        found.append(site_secret(tmp_path / "data", "north"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8
    assert len(found[0]) == 32
    assert site_secret(tmp_path / "data", "south") != found[0]
    (path,) = (tmp_path / "data").glob("*north*")
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [
        "pseudonyms-north.secret",
        "pseudonyms-south.secret",
    ]


def test_a_secret_that_others_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    site_secret(tmp_path, "north")
    path = tmp_path / "pseudonyms-north.secret"
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="may be read by others"):
        site_secret(tmp_path, "north")
    path.chmod(0o600)
    for damaged in ("", "abcd", "not hex"):
        path.write_text(damaged)
        with pytest.raises(ConfigError, match="damaged"):
            site_secret(tmp_path, "north")


def test_another_secret_than_before_is_refused(database: Database) -> None:
    Pseudonyms(database, "north", SECRET).keep()
    with pytest.raises(ConfigError, match="is not the one that its pseudonyms were made with"):
        Pseudonyms(database, "north", b"t" * 32)
    Pseudonyms(database, "south", b"t" * 32)


def test_what_was_handed_out_is_found_again(database: Database) -> None:
    pseudonyms = Pseudonyms(database, "north", SECRET)
    uids = {pseudonyms.uid(f"1.2.3.{n}"): f"1.2.3.{n}" for n in range(1200)}
    patient = pseudonyms.patient("QZ-4711")
    pseudonyms.remember(patient, {"PatientName": "Quatermain^Zebulon", "PatientSex": ""})
    pseudonyms.remember(patient, {"PatientName": "QUATERMAIN^Z"})
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(PseudonymRow)) == 0
    pseudonyms.keep()
    pseudonyms.keep()
    again = Pseudonyms(database, "north", SECRET)
    again.remember(patient, {"PatientName": "Quatermain^Zeb"})
    assert again.patient("QZ-4711") == patient
    again.keep()
    assert again.original_uids([*uids, "2.25.1", "1.2.3.4"]) == uids
    assert again.original_patient(patient) == "QZ-4711"
    assert again.remembered(patient, ["PatientName", "PatientSex"]) == {"PatientName": "Quatermain^Zebulon"}


def test_patients_of_the_same_name_are_apart(database: Database) -> None:
    pseudonyms = Pseudonyms(database, "north", SECRET)
    one, other = (pseudonyms.patient(i) for i in ("1", "2"))
    for patient in (one, other):
        pseudonyms.remember(patient, {"PatientName": "Smith^John"})
    pseudonyms.keep()
    assert pseudonyms.remembered(other, ["PatientName"]) == {"PatientName": "Smith^John"}


def test_sites_do_not_see_each_others(database: Database) -> None:
    north, south = Pseudonyms(database, "north", SECRET), Pseudonyms(database, "south", SECRET)
    patient, uid = north.patient("QZ-4711"), north.uid("1.2.3")
    north.keep()
    assert south.original_uids([uid]) == {}
    with pytest.raises(DicomError, match="no pseudonym of site 'south'"):
        south.original_patient(patient)


def test_identifiers_that_are_none_are_refused(sqlite_database: Database) -> None:
    pseudonyms = Pseudonyms(sqlite_database, "north", SECRET)
    for wrong in ("", "  ", "x" * 300, "a\0b"):
        with pytest.raises(DicomError):
            pseudonyms.patient(wrong)

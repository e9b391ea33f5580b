"""What goes, what stays, and what is found to be damaged or missing."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from cluster.database.connection import Database
from cluster.database.tables import ArtifactRow, AuditRow, CourseRow, FlagRow, InstanceRow, JobRow, OutboxRow, Table
from cluster.jobs import retention
from cluster.jobs.model import Artifact, JobState
from cluster.jobs.retention import Swept, Verified, sweep, verify
from cluster.jobs.store import JobStore
from cluster.service.config import Retention
from cluster.storage.files import FileBlobs
from doseeng.errors import JobError
from tests.cluster.jobs.making import a_result, a_spec

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=40)
MONTH = Retention(results_days=30, objects_days=30)


@pytest.fixture
def blobs_of(tmp_path: Path) -> Callable[[str], FileBlobs]:
    return lambda site: FileBlobs(tmp_path / site)


@pytest.fixture
def north(blobs_of: Callable[[str], FileBlobs]) -> FileBlobs:
    return blobs_of("north")


@pytest.fixture
def ended(database: Database, north: FileBlobs) -> Callable[..., str]:
    """`ended(number, at)`: a done job that ended then, with an artifact of its own; its flag was acknowledged."""
    store = JobStore(database)

    def make(number: int, at: datetime = OLD, **changes: str) -> str:
        job, _ = store.submit(a_spec(number, **changes), created_by="a")
        assert store.claim("one", 30.0) is not None
        blob = north.put(f"result {number}".encode())
        artifact = Artifact("result.json", "application/json", blob.sha256, blob.size)
        store.finish(job.id, "one", replace(a_result(), artifacts=(artifact,)))
        flag = {"site": "north", "job_id": job.id, "verdict": "RED", "headline": "", "details": {}, "created_at": at}
        add(database, FlagRow(id=f"flag{number}", acknowledged_at=at, **flag))
        with database.transaction() as session:
            session.execute(update(JobRow).where(JobRow.id == job.id).values(finished_at=at))
        return job.id

    return make


def add(database: Database, *rows: Table) -> None:
    with database.transaction() as session:
        session.add_all(rows)


def kept(database: Database) -> set[str]:
    with database.reading() as session:
        return set(session.scalars(select(JobRow.id)))


def an_object(north: FileBlobs, uid: str, patient: str, at: datetime) -> InstanceRow:
    blob = north.put(uid.encode())
    return InstanceRow(
        site="north", sop_uid=uid, sop_class_uid="1", series_uid="1", study_uid="1", patient_key=patient, plan_uids=[],
        references=[], sha256=blob.sha256, size=blob.size, received_at=at,
    )  # fmt: skip


def age(north: FileBlobs) -> None:
    for path in north.folder.glob("??/*"):
        os.utime(path, (0.0, 0.0))


def test_ended_jobs_go_with_their_artifacts(
    database: Database, ended: Callable[..., str], north: FileBlobs, blobs_of: Callable[[str], FileBlobs]
) -> None:
    ended(1)
    young = ended(2, NOW - timedelta(days=20))
    waiting, _ = JobStore(database).submit(a_spec(3), created_by="a")
    age(north)
    assert sweep(database, blobs_of, ["south"], MONTH) == Swept()
    assert sweep(database, blobs_of, ["north"], MONTH) == Swept(jobs=1, blobs=1, bytes=8)
    assert kept(database) == {young, waiting.id}
    assert len(list(north)) == 1
    with database.reading() as session:
        assert session.scalars(select(ArtifactRow.job_id)).all() == [young]
        assert len(session.scalars(select(FlagRow)).all()) == 2


def test_zero_days_are_for_ever(
    database: Database, ended: Callable[..., str], north: FileBlobs, blobs_of: Callable[[str], FileBlobs]
) -> None:
    ended(1)
    add(database, an_object(north, "1.1", "p", OLD))
    age(north)
    assert sweep(database, blobs_of, ["north"], Retention()) == Swept()


def test_what_somebody_still_needs_stays(
    database: Database, ended: Callable[..., str], north: FileBlobs, blobs_of: Callable[[str], FileBlobs]
) -> None:
    treated, of_plan = ended(1, patient_key="treated"), ended(2, plan_uid="1.9")
    open_flag, unsent, dead = ended(3), ended(4), ended(5)
    over, _ = ended(6, patient_key="over"), ended(7)
    course = {"site": "north", "options": {}, "started_at": OLD, "created_by": "a"}
    message = {"site": "north", "destination": "pacs", "kind": "dicom", "payload": {}, "attempt_key": "k"}
    times = {"next_attempt_at": OLD, "created_at": OLD}
    add(
        database,
        CourseRow(plan_uid="1.8", patient_key="treated", **course),
        CourseRow(plan_uid="1.9", patient_key="other", **course),
        CourseRow(plan_uid="1.7", patient_key="over", ended_at=OLD, **course),
        OutboxRow(id="m1", subject="flag4", state="pending", **message, **times),
        OutboxRow(id="m2", subject=dead, state="dead", **message, **times),
        OutboxRow(id="m3", subject=over, state="sent", **message, **times),
        an_object(north, "1.1", "treated", OLD),
        an_object(north, "1.2", "over", OLD),
        an_object(north, "1.3", "returned", OLD),
        an_object(north, "1.4", "returned", NOW),
        an_object(north, "1.5", "waits", OLD),
        AuditRow(
            sequence=1,
            at=OLD,
            site="north",
            actor="a",
            action="x",
            outcome="success",
            details={},
            previous="",
            digest="",
        ),
    )
    with database.transaction() as session:
        session.execute(update(FlagRow).where(FlagRow.job_id == open_flag).values(acknowledged_at=None))
    image = north.put(b"an image that is in no index")
    waiting, _ = JobStore(database).submit(a_spec(8, patient_key="waits", image=(image.sha256,)), created_by="a")
    age(north)
    swept = sweep(database, blobs_of, ["north"], MONTH)
    assert (swept.jobs, swept.objects, swept.blobs) == (2, 1, 3)
    assert kept(database) == {treated, of_plan, open_flag, unsent, dead, waiting.id}
    with database.reading() as session:
        assert set(session.scalars(select(InstanceRow.sop_uid))) == {"1.1", "1.3", "1.4", "1.5"}
        assert len(session.scalars(select(AuditRow)).all()) == 1
    assert north.has(image.sha256)
    assert verify(database, blobs_of, ["north"]).missing == (("north", a_spec().objects[0]),)


def test_young_orphans_stay_and_old_ones_go(
    database: Database, north: FileBlobs, blobs_of: Callable[[str], FileBlobs]
) -> None:
    old = north.put(b"left by a run whose lease was lost")
    age(north)
    young = north.put(b"of a job that still runs")
    assert sweep(database, blobs_of, ["north"], Retention()) == Swept(blobs=1, bytes=old.size)
    assert list(north) == [young]


def test_much_goes_in_portions(
    database: Database, ended: Callable[..., str], north: FileBlobs, blobs_of: Callable[[str], FileBlobs],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(retention, "CHUNK", 2)
    for number in range(5):
        ended(number)
        add(database, an_object(north, f"1.{number}", f"p{number}", OLD))
    age(north)
    swept = sweep(database, blobs_of, ["north"], MONTH)
    assert (swept.jobs, swept.objects, swept.blobs) == (5, 5, 10)
    assert list(north) == []


def test_a_removed_result_may_be_asked_for_again(
    database: Database, ended: Callable[..., str], blobs_of: Callable[[str], FileBlobs]
) -> None:
    removed = ended(1)
    sweep(database, blobs_of, ["north"], MONTH)
    store = JobStore(database)
    with pytest.raises(JobError, match="removed by a retention rule"):
        store.get("north", removed)
    again, is_new = store.submit(a_spec(1), created_by="a")
    assert (is_new, again.state) == (True, JobState.QUEUED)


def test_verify_reads_everything(
    database: Database, ended: Callable[..., str], north: FileBlobs, blobs_of: Callable[[str], FileBlobs]
) -> None:
    for number in range(3):
        ended(number)
    assert verify(database, blobs_of, ["north", "south"]) == Verified(3, (), ())
    first, second, _ = north
    (north.folder / first.sha256[:2] / first.sha256[2:]).write_bytes(b"result x")
    north.delete(second.sha256)
    found = verify(database, blobs_of, ["north"])
    assert found == Verified(2, (("north", first.sha256),), (("north", second.sha256),))
    assert not found.is_whole

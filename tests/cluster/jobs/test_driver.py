"""A driver: runs jobs, keeps leases, tells endings apart, stops when told and leaves nothing behind."""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.database.connection import Database
from cluster.executor.protocol import ExecutorLost
from cluster.jobs import attempt, driver
from cluster.jobs.attempt import EXECUTOR_WAIT_S, Attempt, ending
from cluster.jobs.claims import Rest
from cluster.jobs.context import JobContext
from cluster.jobs.model import JobResult, JobSpec, JobState
from cluster.jobs.scratch import scratch_folder
from cluster.jobs.store import JobStore
from cluster.storage.blobs import StorageUnavailable
from cluster.storage.files import FileBlobs
from doseeng.errors import JobError, PlanError
from tests.cluster.jobs.making import a_result, a_spec
from tests.cluster.jobs.work import a_driver, flags, run_job, statistics


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (driver, "POLL_S", 0.02), (driver, "BEAT_S", 0.02), (driver, "UNWIND_S", 1.0), (driver, "LISTEN_S", 0.1),
        (attempt, "SPACE_WAIT_S", 0.05), (attempt, "MEMORY_WAIT_S", 0.0),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def start(stop: threading.Event) -> Iterator[Callable[[driver.Driver], threading.Thread]]:
    """`start(driver)`: it runs in a thread until `stop`; stopped at the end of the test."""
    threads = []

    def begin(one: driver.Driver) -> threading.Thread:
        thread = threading.Thread(target=one.run, args=(stop,))
        thread.start()
        threads.append(thread)
        return thread

    yield begin
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def raises(error: BaseException) -> Callable[[JobSpec, JobContext], JobResult]:
    def run(_: JobSpec, __: JobContext) -> JobResult:
        raise error

    return run


def test_works_off_the_queue_and_leaves_nothing(store: JobStore, database: Database, tmp_path: Path) -> None:
    ids = [store.submit(a_spec(n, site=("north", "south")[n % 2]), created_by="a")[0].id for n in range(8)]
    a_driver(database, tmp_path, "one").run_until_empty()
    assert store.counts() == {("north", "evaluate", "done"): 4, ("south", "evaluate", "done"): 4}
    assert sorted(flags(database)) == sorted(ids)
    done = store.get("north", ids[2])
    assert done.attempts == 1
    blobs = a_driver(database, tmp_path, "one").blobs_of("north")
    assert blobs.get(done.artifacts[0].sha256) == statistics(2)
    assert [path for path in (tmp_path / "scratch").iterdir() if path.is_dir()] == []


def test_progress_reaches_the_database_and_cancelling_the_job(
    store: JobStore, database: Database, tmp_path: Path, start: Callable[[driver.Driver], threading.Thread]
) -> None:
    start(a_driver(database, tmp_path, "one"))
    job, _ = store.submit(a_spec(4, options={"number": 4, "seconds": 60.0}), created_by="a")
    until(lambda: store.get("north", job.id).stage == "statistics")
    seen = store.get("north", job.id)
    assert (seen.state, seen.done, seen.total) == (JobState.RUNNING, 4, 10)
    store.cancel("north", job.id)
    until(lambda: store.get("north", job.id).state is JobState.CANCELLED)
    assert flags(database) == []


def test_a_course_knows_its_earlier_days(store: JobStore, database: Database, tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def count(spec: JobSpec, context: JobContext) -> JobResult:
        seen[spec.lane_order] = len(context.earlier)
        return run_job(spec, context)

    for day in (3, 1, 2):
        store.submit(a_spec(day, lane="course", order=f"2025-0{day}"), created_by="a")
    a_driver(database, tmp_path, "one", count, slots=3).run_until_empty()
    assert seen == {"2025-01": 0, "2025-02": 1, "2025-03": 2}


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (PlanError("beam 1 has no spots"), "PlanError", "beam 1 has no spots"),
        (KeyError("DOE^JANE"), "InternalError", "(KeyError)"),
        (OSError(errno.EIO, "DOE^JANE"), "InternalError", "(OSError)"),
    ],
)
def test_errors_end_the_job_and_nothing_else(
    store: JobStore, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception,
    kind: str, message: str,
) -> None:  # fmt: skip
    broken, _ = store.submit(a_spec(1), created_by="a")
    good, _ = store.submit(a_spec(2), created_by="a")

    def run(spec: JobSpec, context: JobContext) -> JobResult:
        return raises(error)(spec, context) if spec.options["number"] == 1 else run_job(spec, context)

    with caplog.at_level(logging.DEBUG):
        a_driver(database, tmp_path, "one", run).run_until_empty()
    failed = store.get("north", broken.id)
    assert failed.error is not None
    assert failed.error.kind == kind
    assert message in failed.error.message
    assert "DOE" not in failed.error.message
    assert not any("DOE" in str(vars(record)) for record in caplog.records)
    assert store.get("north", good.id).state is JobState.DONE


def test_endings() -> None:
    def of(error: BaseException) -> Any:
        nobody: Any = None
        return ending(lambda: raises(error)(nobody, nobody), Attempt(nobody))

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/DOE")
    wrapped = JobError("scratch: the image cannot be written")
    wrapped.__cause__ = full
    assert of(full) == Rest("waiting: no space left for what it writes; make some", 0.05)
    assert of(wrapped) == Rest("waiting: scratch: the image cannot be written", 0.05)
    assert of(StorageUnavailable("s3 is away")) == Rest("waiting: s3 is away", 0.05)
    assert of(ExecutorLost("Ray has ended")) == Rest("waiting: Ray has ended", EXECUTOR_WAIT_S, counts=True)
    assert of(MemoryError()).counts
    # Nobody asked for it: a job that says so time and again must come to an end.
    assert of(attempt.Cancelled()).counts


def test_memory_that_never_suffices_ends_the_job(store: JobStore, database: Database, tmp_path: Path) -> None:
    job, _ = store.submit(a_spec(), created_by="a")
    a_driver(database, tmp_path, "one", raises(MemoryError()), attempts=2).run_until_empty()
    failed = store.get("north", job.id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert failed.error.message == "after 2 attempts: waiting: the memory of the machine did not suffice"


def test_a_full_disk_makes_the_job_wait_until_there_is_space(
    store: JobStore, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    start: Callable[[driver.Driver], threading.Thread],
) -> None:  # fmt: skip
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    job, _ = store.submit(a_spec(3), created_by="a")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        start(a_driver(database, tmp_path, "one"))
        until(lambda: "No space left" in store.get("north", job.id).stage)
    until(lambda: store.get("north", job.id).state is JobState.DONE)
    done = store.get("north", job.id)
    assert done.attempts == 1
    assert flags(database) == [job.id]
    assert FileBlobs(tmp_path / "north").get(done.artifacts[0].sha256) == statistics(3)


def test_a_result_that_cannot_be_written_down_fails_the_job(
    store: JobStore, database: Database, tmp_path: Path
) -> None:
    def unwritable(_: JobSpec, __: JobContext) -> JobResult:
        return JobResult("GREEN", {"case": object()})

    job, _ = store.submit(a_spec(), created_by="a")
    a_driver(database, tmp_path, "one", unwritable).run_until_empty()
    failed = store.get("north", job.id)
    assert failed.error is not None
    assert "its result could not be recorded" in failed.error.message


def test_told_to_stop_it_finishes_what_soon_ends(
    store: JobStore, database: Database, tmp_path: Path, stop: threading.Event
) -> None:
    short, _ = store.submit(a_spec(1, options={"number": 1, "seconds": 0.3}), created_by="a")
    waiting, _ = store.submit(a_spec(2), created_by="a")
    thread = threading.Thread(target=a_driver(database, tmp_path, "one", slots=1).run, args=(stop,))
    thread.start()
    until(lambda: store.get("north", short.id).state is JobState.RUNNING)
    stop.set()
    thread.join(30)
    assert store.get("north", short.id).state is JobState.DONE
    assert store.get("north", waiting.id).state is JobState.QUEUED


def test_told_to_stop_it_gives_back_what_takes_long(
    store: JobStore, database: Database, tmp_path: Path, stop: threading.Event
) -> None:
    wakes, woke = threading.Event(), threading.Event()

    def run(spec: JobSpec, context: JobContext) -> JobResult:
        if spec.options["number"] == 1:
            return run_job(spec, context)
        wakes.wait(30)
        woke.set()
        return a_result()

    listens, _ = store.submit(a_spec(1, options={"number": 1, "seconds": 60.0}), created_by="a")
    is_deaf, _ = store.submit(a_spec(2), created_by="a")
    one = replace(a_driver(database, tmp_path, "one", run, lease_s=60.0), grace_s=0.1)
    thread = threading.Thread(target=one.run, args=(stop,))
    thread.start()
    until(lambda: store.counts() == {("north", "evaluate", "running"): 2})
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    wakes.set()
    assert woke.wait(30)
    for job in (listens, is_deaf):
        given_back = store.get("north", job.id)
        assert (given_back.state, given_back.attempts) == (JobState.QUEUED, 0)


def test_two_drivers_on_one_database(store: JobStore, database: Database, tmp_path: Path) -> None:
    ids = [store.submit(a_spec(n), created_by="a")[0].id for n in range(20)]
    drivers = [a_driver(database, tmp_path, name) for name in ("one", "two")]
    threads = [threading.Thread(target=one.run_until_empty) for one in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert store.counts() == {("north", "evaluate", "done"): 20}
    assert sorted(flags(database)) == sorted(ids)


def test_scratch_of_dead_drivers_goes_and_that_of_living_ones_stays(tmp_path: Path) -> None:
    mine = tmp_path / "somebody's own files"
    mine.mkdir()
    with scratch_folder(tmp_path) as living:
        dead = tmp_path / "driver-dead"
        dead.mkdir()
        (dead / ".lock").touch()
        (dead / "half a dose").touch()
        with scratch_folder(tmp_path) as other:
            assert sorted(p for p in tmp_path.iterdir() if p.is_dir()) == sorted([mine, living, other])
    assert sorted(p for p in tmp_path.iterdir() if p.is_dir()) == [mine]

"""Everything that may die does, with -9: afterwards every job has ended once, with the result of an undisturbed run."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess as Process
from pathlib import Path

import pytest

from cluster.database.connection import Database, connect
from cluster.jobs import attempt
from cluster.jobs.context import JobContext
from cluster.jobs.model import JobResult, JobSpec, JobState
from cluster.jobs.store import JobStore
from cluster.storage.files import FileBlobs
from tests.cluster.conftest import PostgresServer
from tests.cluster.jobs.making import a_spec
from tests.cluster.jobs.work import a_driver, flags, run_job, statistics, work_off


@pytest.fixture
def start(database: Database, tmp_path: Path, processes: ForkServerContext) -> Iterator[Callable[..., Process]]:
    """`start(name, jobs)`: a process that asks for so many jobs and works until the queue is empty."""
    started: list[Process] = []
    url = database.engine.url.render_as_string(hide_password=False)

    def begin(name: str, jobs: int = 0) -> Process:
        started.append(processes.Process(target=work_off, args=(url, tmp_path, name, jobs, 1.0)))
        started[-1].start()
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.join()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def ended_once(store: JobStore, folder: Path, number: int) -> None:
    """Every job is done, byte for byte as if nothing had happened, and has one flag."""
    assert store.counts() == {("north", "evaluate", "done"): number}
    jobs = store.search("north", limit=number + 1)
    blobs = FileBlobs(folder / "north")
    for job in jobs:
        expected = statistics(job.spec.options["number"])
        assert blobs.get(job.artifacts[0].sha256) == expected
        assert job.summary is not None
        assert {name: job.summary[name] for name in json.loads(expected)} == json.loads(expected)
    assert sorted(flags(store.database)) == sorted(job.id for job in jobs)
    assert {blob.sha256 for blob in blobs} == {job.artifacts[0].sha256 for job in jobs}


def test_a_killed_driver_is_replaced(
    store: JobStore, database: Database, tmp_path: Path, start: Callable[..., Process]
) -> None:
    job, _ = store.submit(a_spec(1, options={"number": 1, "seconds": 1.0}), created_by="a")
    victim = start("victim")
    until(lambda: store.get("north", job.id).stage == "statistics")
    victim.kill()
    victim.join()
    left = store.get("north", job.id)
    assert (left.state, left.attempts) == (JobState.RUNNING, 1)
    assert list((tmp_path / "scratch").glob("driver-*/*/statistics.json"))
    a_driver(database, tmp_path, "heir").run_until_empty()
    assert store.get("north", job.id).attempts == 2
    ended_once(store, tmp_path, 1)
    assert [path for path in (tmp_path / "scratch").iterdir() if path.is_dir()] == []


def test_processes_that_ask_for_the_same_and_share_the_work(
    store: JobStore, tmp_path: Path, start: Callable[..., Process]
) -> None:
    drivers = [start(name, 12) for name in ("one", "two", "three")]
    for process in drivers:
        process.join(60)
    assert [process.exitcode for process in drivers] == [0, 0, 0]
    ended_once(store, tmp_path, 12)


def test_a_disk_that_is_really_full(
    small_disk: Path, store: JobStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "SPACE_WAIT_S", 0.1)

    def big(spec: JobSpec, context: JobContext) -> JobResult:
        context.blobs.put(bytes(200_000))
        return run_job(spec, context)

    filler = small_disk / "somebody else's"
    filler.write_bytes(bytes(150_000))
    job, _ = store.submit(a_spec(1), created_by="a")
    driver = a_driver(database, small_disk, "one", big)
    worker = threading.Thread(target=driver.run_until_empty)
    worker.start()
    until(lambda: store.get("north", job.id).stage.startswith("waiting: No space left on device"))
    assert list(FileBlobs(small_disk / "north")) == []
    filler.unlink()
    worker.join(60)
    done = store.get("north", job.id)
    assert (done.state, done.attempts) == (JobState.DONE, 1)
    assert FileBlobs(small_disk / "north").get(done.artifacts[0].sha256) == statistics(1)
    assert flags(database) == [job.id]


@pytest.mark.parametrize("how", ["connections", "server"])
def test_the_database_dies_during_a_batch(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, how: str
) -> None:
    database = connect(postgres_url)
    driver = a_driver(database, tmp_path, "one")
    for number in range(50):
        driver.store.submit(a_spec(number, options={"number": number, "seconds": 0.02}), created_by="a")
    worker = threading.Thread(target=driver.run_until_empty)
    worker.start()
    hits = 0
    while worker.is_alive():
        worker.join(0.1)
        if how == "connections" and hits < 20:
            others = "pid <> pg_backend_pid() AND datname LIKE 'test_%'"
            postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
            hits += 1
        elif how == "server" and hits < 2:
            postgres_server.restart()
            hits += 1
    assert hits >= 2
    ended_once(driver.store, tmp_path, 50)
    database.close()

"""A batch on this machine, without a server: a folder that holds its jobs, its objects and its results.

    DIR/doseeng.db     the jobs            DIR/reports/       one HTML report per item
    DIR/blobs/         objects, results    DIR/overview.html  all items, the most urgent first
    DIR/intake/        what was read       DIR/items.*, DIR/goals.*   the tables, CSV and Parquet

Whoever runs the batch again finds the jobs that are done, and computes the rest: a job is known by the content of its
inputs, its options and the version of the code.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import select

import doseeng
from cluster.batch.board import Board
from cluster.batch.intake import Intake, IntakeError
from cluster.batch.manifest import Manifest
from cluster.batch.overview import write_overview
from cluster.batch.results import ItemResult, by_urgency
from cluster.batch.tables import write_tables
from cluster.database.connection import Database, connect
from cluster.database.schema import upgrade
from cluster.database.tables import JobRow
from cluster.executor.open import open_executor
from cluster.jobs.driver import Driver
from cluster.jobs.model import JobState, Priority
from cluster.jobs.store import JobStore
from cluster.service.config import ExecutorConfig, Site
from cluster.storage.files import FileBlobs
from cluster.workflows.run import run_job
from doseeng.errors import ConfigError

SITE: Final = "batch"
"""The one site of a batch's folder."""
DATABASE: Final = "doseeng.db"
OVERVIEW: Final = "overview.html"
LOOK_S: Final = 0.4
"""How often the jobs are looked at."""
WRITE_S: Final = 20.0
"""How often tables and overview are written anew while items end."""
GRACE_S: Final = 3.0
"""What ends within it after Ctrl-C is kept; the rest is computed when the batch goes on."""
LIVE: Final = (JobState.QUEUED.value, JobState.RUNNING.value)

Watch = Callable[[Sequence[ItemResult]], None]
"""Called with all items every now and then."""


@dataclass(frozen=True, slots=True, eq=False)
class Workplace:
    """An opened batch folder, which no other process works in."""

    folder: Path
    store: JobStore
    blobs: FileBlobs


@contextmanager
def opened(folder: Path, attempts: int) -> Iterator[Workplace]:
    """The folder, made when it is not there. ConfigError: another process works in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
        database = connect(f"sqlite:///{folder / DATABASE}")
        try:
            upgrade(database)
            store = JobStore(database, attempts=attempts)
            _free_orphans(database, store)
            yield Workplace(folder, store, FileBlobs(folder / "blobs"))
        finally:
            database.close()


def run_batch(
    manifest: Manifest, folder: Path, site: Site, config: ExecutorConfig, watch: Watch, stop: threading.Event
) -> tuple[ItemResult, ...]:
    """Compute what is not done yet and write tables and overview; all items in the order of the manifest.

    site: what the options leave open, named `SITE`. stop: ends early; items that are not done then are WAITING.
    ConfigError: the folder is in use, or the executor cannot be had.
    """
    with opened(folder, config.attempts) as place:
        board = Board(place.store, place.blobs, SITE, folder)
        for item in manifest.items:
            board.add_waiting(item.name, manifest.kind.value, item.treatment_site)
        taken = threading.Event()
        worker = _Worker(place, config, stop, taken)
        worker.start()
        try:
            _take_in(manifest, place, site, board, watch, stop)
            taken.set()
            _follow(manifest, board, watch, worker, stop)
        except BaseException:
            stop.set()
            raise
        finally:
            taken.set()
            worker.join()
        board.look()
        watch(board.items)
        write_results(manifest, board.items, folder)
        worker.raise_problem()
        return board.items


def write_results(manifest: Manifest, items: Sequence[ItemResult], folder: Path) -> None:
    """The four tables, in the order of the manifest, and the overview, the most urgent item first."""
    write_tables(items, folder)
    write_overview(
        manifest.name, manifest.kind.value, by_urgency(items), folder / OVERVIEW, version=doseeng.__version__
    )


class _Worker(threading.Thread):
    """The driver of the batch, beside the thread that reads cases and shows the table."""

    def __init__(self, place: Workplace, config: ExecutorConfig, stop: threading.Event, taken: threading.Event) -> None:
        super().__init__(name="batch-driver")
        self._place, self._config, self._stop_asked, self._taken = place, config, stop, taken
        self._problem: Exception | None = None

    def run(self) -> None:
        try:
            executor = open_executor(self._config)
            try:
                Driver(
                    f"batch-{os.getpid()}",
                    self._place.store,
                    executor,
                    lambda _site: self._place.blobs,
                    run_job,
                    self._config,
                    self._place.folder / "scratch",
                    grace_s=GRACE_S,
                ).run_until_empty(self._stop_asked, self._is_over)
            finally:
                executor.close()
        except Exception as error:  # noqa: BLE001 - the edge of a thread: raised again in the one that waits for it
            self._problem = error
            self._stop_asked.set()

    def raise_problem(self) -> None:
        """What ended the driver before its time."""
        if self._problem is not None:
            raise self._problem

    def _is_over(self) -> bool:
        # The order matters: what was taken in before `taken` is in the counts.
        return self._taken.is_set() and not any(state in LIVE for _, _, state in self._place.store.counts())


def _take_in(
    manifest: Manifest, place: Workplace, site: Site, board: Board, watch: Watch, stop: threading.Event
) -> None:
    intake = Intake(place.blobs, site, manifest.kind, place.folder / "intake")
    shown_at = 0.0
    for number, item in enumerate(manifest.items):
        if stop.is_set():
            return
        try:
            name, spec = intake.spec_of(item, number + 1)
            job, _ = place.store.submit(spec, created_by="batch", priority=Priority.BATCH, batch=manifest.name[:128])
            board.set_job(number, name, job)
        except IntakeError as error:
            board.set_failed(number, error.name, error.kind, str(error))
        if time.monotonic() - shown_at > LOOK_S:
            board.look()
            watch(board.items)
            shown_at = time.monotonic()


def _follow(manifest: Manifest, board: Board, watch: Watch, worker: _Worker, stop: threading.Event) -> None:
    written_at, is_new = time.monotonic(), False
    while worker.is_alive():
        worker.join(LOOK_S)
        is_new |= board.look()
        watch(board.items)
        if is_new and not stop.is_set() and time.monotonic() - written_at > WRITE_S:
            write_results(manifest, board.items, board.folder)
            written_at, is_new = time.monotonic(), False


def _free_orphans(database: Database, store: JobStore) -> None:
    """What runs was left by a process that died, since nobody else works in this folder: no lease must be awaited."""
    query = select(JobRow.id, JobRow.driver).where(JobRow.state == JobState.RUNNING)
    for job_id, driver in database.retrying(lambda session: session.execute(query).all(), reads=True):
        store.give_back(job_id, driver)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    import fcntl

    with (folder / "batch.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another process works in '{folder}' now; wait for it, or choose another folder with --out"
            ) from error
        yield

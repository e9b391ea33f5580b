"""Works on jobs: claims them, keeps their leases, runs them and writes down how they ended.

A driver may be killed at any time: its leases end and others take over. What it was computing is computed again; what
it had stored by then is stored under the same digest, or collected by `cluster.jobs.retention`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.database.connection import DatabaseUnavailable
from cluster.executor.protocol import Executor
from cluster.jobs.attempt import Attempt, ending
from cluster.jobs.claims import Rest
from cluster.jobs.context import JobContext
from cluster.jobs.model import Job, JobFailure, JobResult, JobSpec, JobState
from cluster.jobs.scratch import job_folder, scratch_folder
from cluster.jobs.store import JobStore
from cluster.service.config import ExecutorConfig
from cluster.storage.blobs import BlobStore
from doseeng.errors import JobError

log = logging.getLogger(__name__)

POLL_S: Final = 0.2
"""How often an idle driver looks for jobs."""
BEAT_S: Final = 1.0
"""Progress reaches the database no more often than this."""
LISTEN_S: Final = 3.0
"""A job that makes no progress hears no later than this that it was cancelled."""
GRACE_S: Final = 20.0
"""How long a driver that is told to stop lets its jobs run on."""
UNWIND_S: Final = 5.0
"""How long a job that is told to stop may take to notice."""


@dataclass(frozen=True, slots=True, eq=False)
class Driver:
    """name: no other driver of the database has it. blobs_of: the blob store of a site. run_job: does the work.
    scratch: below it every job gets a folder of its own."""

    name: str
    store: JobStore
    executor: Executor
    blobs_of: Callable[[str], BlobStore]
    run_job: Callable[[JobSpec, JobContext], JobResult]
    config: ExecutorConfig
    scratch: Path
    grace_s: float = GRACE_S

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`; then finish what ends within the grace time, and give back the rest."""
        with scratch_folder(self.scratch) as folder:
            _Shift(self, folder).work(stop, lambda: False)

    def run_until_empty(self, stop: threading.Event | None = None, is_over: Callable[[], bool] | None = None) -> None:
        """Work until `is_over`, or `stop`. is_over: asked when there is nothing to claim; None: nothing waits or runs
        any more, here or at another driver."""
        with scratch_folder(self.scratch) as folder:
            _Shift(self, folder).work(stop or threading.Event(), is_over or self._nothing_is_left)

    def _nothing_is_left(self) -> bool:
        return all(JobState(state).is_end for _, _, state in self.store.counts())


class _Shift:
    """One run of a driver: its threads and what they share."""

    def __init__(self, driver: Driver, folder: Path) -> None:
        self._driver = driver
        self._folder = folder
        self._attempts: dict[str, Attempt] = {}
        self._claiming = threading.Lock()
        self._changed = threading.Event()
        self._found_nothing = threading.Event()
        self._closing = threading.Event()
        self._closed = threading.Event()

    def work(self, stop: threading.Event, is_over: Callable[[], bool]) -> None:
        """Until `stop` or `is_over`."""
        workers = [self._thread(self._work, f"job-{slot}") for slot in range(self._driver.config.slots)]
        keeper = self._thread(self._keep_leases, "leases")
        grace_s = 0.0
        try:
            while not stop.wait(POLL_S) and not (self._found_nothing.is_set() and self._is_over(is_over)):
                pass
            grace_s = self._driver.grace_s
        finally:
            # An interrupted batch (Ctrl-C) gives back at once.
            self._close(workers, grace_s)
            self._closed.set()
            keeper.join(UNWIND_S)

    def _is_over(self, is_over: Callable[[], bool]) -> bool:
        self._found_nothing.clear()
        try:
            return is_over()
        except DatabaseUnavailable as error:
            log.warning(str(error))
            return False

    def _close(self, workers: Sequence[threading.Thread], grace_s: float) -> None:
        self._closing.set()
        self._changed.set()
        _join(workers, grace_s)
        for attempt in list(self._attempts.values()):
            attempt.unwanted.set()
        _join(workers, UNWIND_S)
        for attempt in list(self._attempts.values()):
            # It does not listen. Its thread ends with the process; what it finds will be dropped.
            with suppress(JobError):
                self._driver.store.give_back(attempt.job.id, self._driver.name)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            attempt = Attempt(job)
            self._attempts[job.id] = attempt
            try:
                self._write(job, ending(lambda: self._run(attempt), attempt))  # noqa: B023
            finally:
                del self._attempts[job.id]
                self._changed.set()

    def _next(self) -> Job | None:
        """The next job, as soon as there is one; None at the end. One idle thread asks for all."""
        with self._claiming:
            while not self._closing.is_set():
                self._changed.clear()
                try:
                    job = self._driver.store.claim(self._driver.name, self._driver.config.lease_s)
                except Exception as error:  # noqa: BLE001
                    # Whatever it is, a driver that has ended helps nobody.
                    log.error("jobs cannot be claimed", extra={"error": _said(error)})
                    self._closing.wait(BEAT_S)
                    continue
                if job is not None:
                    return job
                self._found_nothing.set()
                self._changed.wait(POLL_S)
        return None

    def _run(self, attempt: Attempt) -> JobResult:
        driver, job = self._driver, attempt.job
        with job_folder(self._folder, job.id) as folder:
            earlier = driver.store.earlier(job)
            blobs = driver.blobs_of(job.spec.site)
            return driver.run_job(job.spec, JobContext(blobs, driver.executor, folder, attempt.progress, earlier))

    def _write(self, job: Job, end: JobResult | JobFailure | Rest) -> None:
        """Write down how a job ended, however long the database is away."""
        while True:
            try:
                self._write_once(job, end)
            except DatabaseUnavailable as error:
                log.warning("end of a job waits for the database", extra={"job_id": job.id, "error": str(error)})
                if self._closing.wait(BEAT_S):
                    return
            except JobError as error:
                log.warning(str(error), extra={"job_id": job.id})
                return
            except Exception as error:  # noqa: BLE001
                log.error("end of a job cannot be written", extra={"job_id": job.id, "error": _said(error)})
                if isinstance(end, JobFailure):
                    # Its lease ends, and with it the next attempt begins.
                    return
                end = JobFailure("InternalError", f"its result could not be recorded ({type(error).__name__})")
            else:
                log.info("job ended", extra={"job_id": job.id, "site": job.spec.site, "ending": type(end).__name__})
                return

    def _write_once(self, job: Job, end: JobResult | JobFailure | Rest) -> None:
        store, name = self._driver.store, self._driver.name
        if isinstance(end, JobResult):
            store.finish(job.id, name, end)
        elif isinstance(end, JobFailure):
            store.fail(job.id, name, end)
        else:
            store.give_back(job.id, name, end)

    def _keep_leases(self) -> None:
        interval_s = min(self._driver.config.lease_s / 3.0, LISTEN_S)
        while not self._closed.wait(min(BEAT_S, interval_s)):
            for attempt in list(self._attempts.values()):
                if attempt.is_due(interval_s) and not attempt.unwanted.is_set():
                    self._beat(attempt)

    def _beat(self, attempt: Attempt) -> None:
        store, name, lease_s = self._driver.store, self._driver.name, self._driver.config.lease_s
        position = attempt.position
        try:
            is_wanted = store.heartbeat(attempt.job.id, name, lease_s, *position)
        except Exception as error:  # noqa: BLE001
            # Nobody else can take the job either while the database is away.
            log.warning("lease could not be kept", extra={"job_id": attempt.job.id, "error": _said(error)})
            return
        attempt.told(position)
        if not is_wanted:
            attempt.unwanted.set()

    def _thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"doseeng-{name}", daemon=True)
        thread.start()
        return thread


def _join(threads: Sequence[threading.Thread], patience_s: float) -> None:
    end = time.monotonic() + patience_s
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0.0))


def _said(error: Exception) -> str:
    # Messages of the database quote rows.
    return str(error) if isinstance(error, JobError) else type(error).__name__

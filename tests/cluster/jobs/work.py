"""Work whose result is the same wherever it is computed, and drivers that do it.

Options of a job: number (seed), seconds (how long it takes).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cluster.database.connection import Database, connect
from cluster.database.tables import FlagRow
from cluster.jobs.context import JobContext
from cluster.jobs.driver import Driver
from cluster.jobs.model import Artifact, JobResult, JobSpec
from cluster.jobs.store import JobStore
from cluster.service.config import ExecutorConfig
from cluster.storage.files import FileBlobs
from tests.cluster.jobs.making import Ends, a_spec


def statistics(number: int) -> bytes:
    """Statistics of a dose that is different for every number; byte for byte the same wherever they are computed."""
    dose = np.random.default_rng(number).normal(60.0, 2.0, (8, 20, 20, 20)).astype(np.float32)
    found = {"min": dose.min(0).sum(), "max": dose.max(0).sum(), "mean": dose.mean(0).sum(), "std": dose.std(0).sum()}
    return json.dumps({name: float(value) for name, value in found.items()}, sort_keys=True).encode()


def run_job(spec: JobSpec, context: JobContext) -> JobResult:
    """Compute the statistics, slowly if asked, and keep them."""
    number, seconds = int(spec.options["number"]), float(spec.options.get("seconds", 0.0))
    found = statistics(number)
    (context.scratch / "statistics.json").write_bytes(found)
    end = time.monotonic() + seconds
    while True:
        context.progress("statistics", number, 10)
        if time.monotonic() >= end:
            break
        time.sleep(0.02)
    blob = context.blobs.put(context.scratch / "statistics.json")
    summary = {"case": "c", "plan": spec.plan_uid, "reasons": [], **json.loads(found)}
    return JobResult("RED", summary, (Artifact("result.json", "application/json", blob.sha256, blob.size),), "case")


def a_driver(
    database: Database, folder: Path, name: str, run: Callable[..., JobResult] = run_job, **changes: Any
) -> Driver:
    """A driver of this process that makes a flag of every ended job."""
    config = ExecutorConfig(**{"slots": 2, **changes})
    store = JobStore(database, (Ends(),), config.attempts)
    executor: Any = None  # The work here needs none.
    return Driver(name, store, executor, lambda site: FileBlobs(folder / site), run, config, folder / "scratch")


def flags(database: Database) -> list[str]:
    """Ids of the jobs of all flags."""
    with database.reading() as session:
        return [flag.job_id for flag in session.query(FlagRow)]


def work_off(url: str, folder: Path, name: str, jobs: int, lease_s: float) -> None:
    """Ask for the first `jobs` specs and work until the queue is empty; what a process of its own does."""
    database = connect(url)
    here = a_driver(database, folder, name, lease_s=lease_s)
    for number in range(jobs):
        here.store.submit(a_spec(number), created_by=name)
    here.run_until_empty()
    database.close()

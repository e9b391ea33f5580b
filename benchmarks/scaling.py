"""How a batch scales, measured here and simulated beyond: `python -m benchmarks.scaling [--jobs 200] [--sample 20]`.

Measured through the service's own path (jobs in SQLite, one driver, Ray, files as blobs) with small synthetic proton
plans: a sample on one worker, then the whole batch on two. Every unit writes down when it ran, so that the work in
units is known apart from everything around it. Then `benchmarks.scaling_model` is given what was measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.scaling_model import Rates, Work, simulate
from benchmarks.scaling_units import Ran, TimedExecutor, nothing, ran, two_nothings
from benchmarks.watercases import write_water_cases
from cluster.database.connection import connect
from cluster.database.schema import upgrade
from cluster.executor.open import open_executor
from cluster.executor.protocol import Executor
from cluster.jobs.context import JobContext
from cluster.jobs.driver import Driver
from cluster.jobs.model import JobKind, JobResult, JobSpec, Priority
from cluster.jobs.store import JobStore
from cluster.service.config import ExecutorConfig
from cluster.storage.files import FileBlobs
from cluster.workflows.evaluation import evaluate_in_blocks, run_evaluation

WORKERS: Final = 2
WARM_UP: Final = 4
"""Jobs that load kernels and fonts in every worker first; none is counted."""
EMPTY_UNITS: Final = 2000
EMPTY_JOBS: Final = 300
MEMORY_S: Final = 1.0
EFFICIENCY_TARGET: Final = 0.90
OVERHEAD_TARGET_MS: Final = 15.0
LARGE_VOXELS: Final = 72
LARGE_SCENARIOS: Final = "28"
SIMULATED: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
NODE_WORKERS: Final = 32
NETWORK_BYTES_S: Final = 1.25e9 * 0.8
"""10 Gbit/s, of which 80 % are reached."""
STORE_BYTES_S: Final = 2.0e9
"""A server for S3 or files with two such links or fast disks."""
CLINICAL_BYTES: Final = 80e6
"""A CT of 512 x 512 x 150 with its structures and plan; the synthetic cases are smaller."""
STILL_SCALES: Final = 0.80


@dataclass(frozen=True, slots=True)
class Run:
    """A batch. units: (name, process, began, ended). memory_mb: of the driver, once a second. cpu_s: of the driver.
    written_bytes: of the artifacts of a job."""

    jobs: int
    wall_s: float
    cpu_s: float
    units: list[Ran]
    memory_mb: list[float]
    written_bytes: float

    @property
    def work_s(self) -> float:
        """Time inside units."""
        return sum(ended - began for _, _, began, ended in self.units)

    def gap_s(self) -> float:
        """Median time between the end of a unit and the beginning of the next one of the same worker."""
        gaps = []
        for process in {unit[1] for unit in self.units}:
            mine = sorted((began, ended) for _, pid, began, ended in self.units if pid == process)
            gaps += [later[0] - earlier[1] for earlier, later in pairwise(mine)]
        return float(np.median(gaps))

    def mean_s(self, name: str) -> float:
        """Mean time of the units of a name."""
        return float(np.mean([ended - began for unit, _, began, ended in self.units if unit == name] or [0.0]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, simulate, print; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--sample", type=int, default=20)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="doseeng-scaling-") as name:
        folder = Path(name)
        specs, blobs = _cases(folder, asked.jobs + WARM_UP)
        with _executor(folder, 1) as one:
            alone = _batch(folder / "one", specs[: asked.sample + WARM_UP], blobs, one)
        with _executor(folder, WORKERS) as two:
            unit_ms = 1000.0 * _empty_units(two.inner)
            job_ms = 1000.0 * _empty_jobs(folder / "empty", two.inner)
            batch = _batch(folder / "two", specs, blobs, two)
            large = _large(folder, two)
        read = float(np.mean([sum(len(blobs.get(sha256)) for sha256 in spec.objects) for spec in specs[:3]]))
    ok = _show_measured(alone, batch, unit_ms, job_ms)
    _show_simulated(alone, large, unit_ms, job_ms, read)
    return 0 if ok else 1


def _cases(folder: Path, number: int) -> tuple[list[JobSpec], FileBlobs]:
    blobs = FileBlobs(folder / "blobs")
    specs = []
    for case in write_water_cases(folder / "cases", number):
        objects = tuple(sorted(blobs.put(path).sha256 for path in case.folder.glob("*.dcm")))
        specs.append(JobSpec("north", JobKind.EVALUATE, case.plan_uid, objects, options={"scenarios": "6"}))
    return specs, blobs


@contextmanager
def _executor(folder: Path, workers: int) -> Iterator[TimedExecutor]:
    executor = open_executor(ExecutorConfig(kind="ray", workers=workers, backend="cpu"))
    try:
        yield TimedExecutor(executor, folder / f"units-{workers}.jsonl")
    finally:
        executor.close()


def _batch(folder: Path, specs: list[JobSpec], blobs: FileBlobs, executor: TimedExecutor) -> Run:
    """The first jobs warm the workers up; the others are counted."""
    folder.mkdir()
    _work_off(folder / "warm", specs[:WARM_UP], blobs, executor, run_evaluation)
    executor.log.unlink(missing_ok=True)
    memory: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(MEMORY_S):
            memory.append(_memory_mb())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    cpu_s = time.process_time()
    written: list[int] = []

    def run_job(spec: JobSpec, context: JobContext) -> JobResult:
        result = run_evaluation(spec, context)
        written.append(sum(artifact.size for artifact in result.artifacts))
        return result

    wall_s = _work_off(folder / "batch", specs[WARM_UP:], blobs, executor, run_job)
    cpu_s = time.process_time() - cpu_s
    over.set()
    watcher.join()
    units = ran(executor.log)
    return Run(len(specs) - WARM_UP, wall_s, cpu_s, units, memory, float(np.mean(written)))


def _work_off(
    folder: Path, specs: list[JobSpec], blobs: FileBlobs, executor: Executor,
    run_job: Callable[[JobSpec, JobContext], JobResult],
) -> float:  # fmt: skip
    """Seconds from the first claim until the queue is empty."""
    folder.mkdir()
    database = connect(f"sqlite:///{folder / 'doseeng.db'}")
    upgrade(database)
    store = JobStore(database)
    for spec in specs:
        store.submit(spec, created_by="benchmark", priority=Priority.BATCH, batch="scaling")
    config = ExecutorConfig(kind="ray", workers=executor.workers, slots=2 * executor.workers + 1)
    driver = Driver("benchmark", store, executor, lambda _site: blobs, run_job, config, folder / "scratch")
    began = time.perf_counter()
    driver.run_until_empty()
    wall_s = time.perf_counter() - began
    states = store.counts()
    if states != {("north", JobKind.EVALUATE, "done"): len(specs)}:
        raise SystemExit(f"jobs did not all end well: {states}")
    database.close()
    return wall_s


def _empty_units(executor: Executor) -> float:
    """Seconds per unit that does nothing, back to back."""
    list(executor.each(nothing, (), range(100), lambda: True))
    began = time.perf_counter()
    for handle in executor.each(nothing, (), range(EMPTY_UNITS), lambda: True):
        executor.result(handle)
    return (time.perf_counter() - began) / EMPTY_UNITS


def _empty_jobs(folder: Path, executor: Executor) -> float:
    """Seconds per job of one unit that does nothing: database, driver and Ray."""
    folder.mkdir()
    specs = [JobSpec("north", JobKind.EVALUATE, f"1.2.{n}", ()) for n in range(EMPTY_JOBS)]
    return _work_off(folder / "jobs", specs, FileBlobs(folder / "blobs"), executor, _empty_job) / EMPTY_JOBS


def _empty_job(_spec: JobSpec, context: JobContext) -> JobResult:
    small, _ = context.executor.split(two_nothings, 2)
    context.executor.result(small, lambda: True)
    return JobResult("GREEN", {"case": "", "plan": "", "reasons": []})


@dataclass(frozen=True, slots=True)
class Large:
    """One case of a clinical size, block by block on two workers. partial_bytes: of a block."""

    run: Run
    partial_bytes: int
    grid: tuple[int, ...]


def _large(folder: Path, executor: TimedExecutor) -> Large:
    blobs = FileBlobs(folder / "large-blobs")
    (case,) = write_water_cases(folder / "large", 1, LARGE_VOXELS)
    objects = tuple(blobs.put(path).sha256 for path in case.folder.glob("*.dcm"))
    spec = JobSpec("north", JobKind.EVALUATE, case.plan_uid, objects, options={"scenarios": LARGE_SCENARIOS})
    scratch = folder / "large-scratch"
    scratch.mkdir()
    executor.log.unlink(missing_ok=True)
    began = time.perf_counter()
    result = evaluate_in_blocks(spec, JobContext(blobs, executor, scratch, lambda *_: None), 0.0)
    wall_s = time.perf_counter() - began
    units = ran(executor.log)
    voxels = int(np.prod(case.dose_shape))
    written = sum(artifact.size for artifact in result.artifacts)
    # Minimum and maximum in 4 bytes, mean and variance in 8; the worst dose in 4; DVHs are small.
    return Large(Run(1, wall_s, 0.0, units, [], float(written)), voxels * 28, case.dose_shape)


def _memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _show_measured(alone: Run, batch: Run, unit_ms: float, job_ms: float) -> bool:
    unit_alone_s = alone.work_s / alone.jobs
    ideal_s = unit_alone_s * batch.jobs / WORKERS
    efficiency = ideal_s / batch.wall_s
    gap_ms = 1000.0 * batch.gap_s()
    used = batch.work_s / (batch.wall_s * WORKERS)
    memory = batch.memory_mb
    tenth = max(1, len(memory) // 10)
    print(f"\n{batch.jobs} evaluations of 7 scenarios, {len(batch.units)} units, on {os.cpu_count()} cores\n")
    print("| quantity | found | target |\n|---|---|---|")
    print(f"| one job on one worker, mean of {alone.jobs} | {unit_alone_s:.2f} s in its unit | |")
    print(f"| ideal on {WORKERS} workers | {ideal_s:.1f} s | |")
    print(f"| wall | {batch.wall_s:.1f} s | |")
    print(f"| efficiency | {100 * efficiency:.1f} % | {100 * EFFICIENCY_TARGET:.0f} % |")
    slower = batch.work_s / batch.jobs / unit_alone_s
    print(f"| the same work beside another worker takes | {100 * (slower - 1):+.1f} % | |")
    print(f"| workers were inside units | {100 * used:.1f} % of the time | |")
    print(f"| from the end of a unit to the next one's beginning, median | {gap_ms:.1f} ms | 15 ms |")
    print(f"| an empty unit | {unit_ms:.2f} ms | |")
    print(f"| an empty job: database, driver, one unit | {job_ms:.1f} ms | 15 ms |")
    print(f"| the driver's processor time per job | {1000 * batch.cpu_s / batch.jobs:.1f} ms | |")
    first, last = float(np.mean(memory[:tenth])), float(np.mean(memory[-tenth:]))
    print(
        f"| driver's memory, first tenth / last tenth / peak | {first:.0f} / {last:.0f} / {max(memory):.0f} MB | flat |"
    )
    return efficiency >= EFFICIENCY_TARGET and max(job_ms, gap_ms) < OVERHEAD_TARGET_MS


def _show_simulated(alone: Run, large: Large, unit_ms: float, job_ms: float, read: float) -> None:
    unit_s, job_s = unit_ms / 1000.0, max(job_ms - unit_ms, 0.0) / 1000.0
    rates = Rates(job_s, unit_s, NODE_WORKERS, NETWORK_BYTES_S, STORE_BYTES_S)
    small = Work(alone.work_s / alone.jobs, 0, 0.0, 0.0, 0.0, read, 0.0, alone.written_bytes)
    run = large.run
    times = [ended - began for name, _, began, ended in run.units if name == "_block"]
    # The first block of a worker has the reading of the case in it.
    block_s, blocks = float(np.median(times)), len(times)
    clinical = Work(
        run.mean_s("_turn"), blocks, block_s, run.mean_s("_merged"), run.mean_s("_judge"), CLINICAL_BYTES,
        float(large.partial_bytes), run.written_bytes,
    )  # fmt: skip
    print(
        f"\nSimulated with {NODE_WORKERS} workers per node, {NETWORK_BYTES_S / 1e9:.1f} GB/s per node, blob store "
        f"{STORE_BYTES_S / 1e9:.0f} GB/s, one driver with {1000 * job_s:.1f} ms per job and {unit_ms:.2f} ms per unit."
    )
    print(f"Small: one unit of {small.prepare_s:.2f} s, case of {read / 1e6:.1f} MB.")
    print(
        f"Clinical: dose grid {' x '.join(map(str, large.grid))}, 29 scenarios, {blocks} blocks of {block_s:.2f} s, "
        f"merge {clinical.merge_s:.3f} s, judge {clinical.judge_s:.1f} s, preparing {clinical.prepare_s:.2f} s per "
        f"worker that meets the case, {large.partial_bytes / 1e6:.0f} MB per block; case of {CLINICAL_BYTES / 1e6:.0f} "
        "MB assumed."
    )
    for title, work, per_worker in (("small cases", small, 20), ("clinical cases", clinical, 8)):
        _table(title, work, rates, per_worker)
    print("\nOne clinical case alone (someone waits for it)\n\n| workers | seconds | times faster |\n|---|---|---|")
    alone_s = simulate(clinical, rates, 1, 1).wall_s
    for workers in SIMULATED[:6]:
        wall_s = simulate(clinical, rates, workers, 1).wall_s
        print(f"| {workers} | {wall_s:.1f} | {alone_s / wall_s:.1f} |")


def _table(title: str, work: Work, rates: Rates, per_worker: int) -> None:
    print(f"\nA batch of {title}, {per_worker} jobs per worker\n")
    print("| workers | nodes | jobs | wall s | jobs per hour | efficiency | driver | blob store | network | again |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    last, why = 0, ""
    for workers in SIMULATED:
        jobs = max(per_worker * workers, 200)
        found = simulate(work, rates, workers, jobs)
        shares = [*(found.busy[name] for name in ("driver", "blob store", "network")), found.again]
        print(
            f"| {workers} | {-(-workers // rates.node_workers)} | {jobs} | {found.wall_s:.0f} | "
            f"{3600 * jobs / found.wall_s:.0f} | {100 * found.efficiency:.0f} % | "
            + " | ".join(f"{100 * share:.0f} %" for share in shares)
            + " |"
        )
        if found.efficiency >= STILL_SCALES:
            last = workers
        elif not why:
            why = max(found.busy, key=found.busy.__getitem__)
    limit = (
        f"still scales at {last} workers"
        if last == SIMULATED[-1]
        else f"scales up to {last} workers; beyond, the {why} is what others wait for"
    )
    print(f"\nA batch of {title} {limit} (efficiency of at least {100 * STILL_SCALES:.0f} %).")


if __name__ == "__main__":
    sys.exit(main())

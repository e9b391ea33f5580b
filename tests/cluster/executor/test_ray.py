"""Units, evaluations and failures on a Ray of this machine's own. One serves all tests here: it takes seconds to start.
The last test kills another one, under a process of its own."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from benchmarks.watercases import write_water_cases
from cluster.executor.inprocess import InProcessExecutor
from cluster.executor.open import open_executor
from cluster.executor.protocol import Executor
from cluster.jobs.context import Cancelled, JobContext
from cluster.jobs.model import JobKind, JobResult, JobSpec
from cluster.service.config import ExecutorConfig
from cluster.storage.files import FileBlobs
from cluster.workflows.evaluation import evaluate_in_blocks
from doseeng.errors import DicomError, GeometryError, JobError
from tests.cluster.executor import units
from tests.cluster.executor.lonely import NOTICED
from tests.cluster.executor.processes import listening, ray_processes

# Not imported here: Ray reads its settings when it is imported, and `open_executor` makes them.
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

AT_ONCE = 1e6
"""Seconds for the first unit: it takes all blocks."""
IN_BLOCKS = 0.0
"""The first unit takes no block."""
UNITS_PER_WORKER = 2
RAY_ENDED_IT = 1
"""Exit code of a process that Ray ends when it finds its object store gone."""


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    """Two CPU workers."""
    opened = open_executor(ExecutorConfig(kind="ray", workers=2, backend="cpu"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobSpec, FileBlobs]:
    """A small case in a store, and a job about it with 7 scenarios."""
    folder = tmp_path_factory.mktemp("case")
    (written,) = write_water_cases(folder / "dicom", 1, voxels=24)
    blobs = FileBlobs(folder / "blobs")
    objects = tuple(sorted(blobs.put(path).sha256 for path in written.folder.glob("*.dcm")))
    return JobSpec("north", JobKind.EVALUATE, written.plan_uid, objects, options={"scenarios": "6"}), blobs


def run(case: tuple[JobSpec, FileBlobs], executor: Executor, folder: Path, begin_s: float, **told: Any) -> JobResult:
    spec, blobs = case
    progress = told.get("progress", lambda *_: None)
    return evaluate_in_blocks(spec, JobContext(blobs, executor, folder, progress), begin_s)


def statistics(blobs: FileBlobs, result: JobResult) -> tuple[dict[str, Any], str]:
    """What must not change: result.json, and the dose. How many threads computed it does not count."""
    by_name = {artifact.name: artifact.sha256 for artifact in result.artifacts}
    values = json.loads(blobs.get(by_name["result.json"]))
    values["provenance"].pop("backend")
    dose = pydicom.dcmread(pydicom.filebase.DicomBytesIO(blobs.get(by_name["RD.dcm"])))
    return values, hashlib.sha256(dose.PixelData).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(case: tuple[JobSpec, FileBlobs], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The statistics of one process that takes all blocks one after the other."""
    result = run(case, InProcessExecutor(), tmp_path_factory.mktemp("alone"), AT_ONCE)
    return statistics(case[1], result)


def test_units_run_elsewhere_with_one_thread(executor: Executor) -> None:
    pid, place, backend = executor.result(executor.call(units.where))
    assert pid != os.getpid()
    assert place == "cpu worker"
    assert "1 threads" in backend or "1 thread" in backend
    assert executor.workers == 2
    assert executor.description.startswith("ray 2.")


def test_without_a_gpu_dose_units_run_on_cpu_workers(executor: Executor) -> None:
    assert executor.result(executor.call(units.where_on_device)) == "cpu worker"


def test_errors_come_back_as_they_are(executor: Executor) -> None:
    broken = executor.call(units.refuse, "slice 3")
    for handle in (broken, executor.call(units.add, broken, 1), executor.split(units.refuse, 2, "slice 3")[0]):
        with pytest.raises(GeometryError, match="slice 3"):
            executor.result(handle)


def test_a_large_part_stays_where_it_is(executor: Executor) -> None:
    small, large = executor.split(units.pair, 2, 3)
    assert executor.result(small) == 3
    assert executor.result(executor.call(units.total, large)) == 3e6


def test_what_is_shared_is_mapped_and_not_copied(executor: Executor) -> None:
    shared = np.arange(100_000, dtype=np.float64)
    found = [executor.result(h) for h in executor.each(units.same, [shared], range(9), lambda: True)]
    assert found == [(number, 0, 0.0) for number in range(9)]


def test_few_units_are_under_way_and_none_begins_when_unwanted(executor: Executor, tmp_path: Path) -> None:
    wanted = [True]
    handles = executor.each(units.marked, [tmp_path], range(100), lambda: wanted[0])
    assert executor.result(next(handles)) == 0
    wanted[0] = False
    assert list(handles) == []
    assert executor.result(executor.call(units.add, 1, 1)) == 2
    time.sleep(0.5)
    assert 1 <= len(list(tmp_path.iterdir())) <= UNITS_PER_WORKER * executor.workers


def test_who_is_idle_is_known_while_units_are_waited_for(executor: Executor, tmp_path: Path) -> None:
    assert executor.idle == 2
    first = executor.split(units.pair, 2, 1)
    assert executor.idle == 1
    handles = executor.each(units.marked, [tmp_path], range(3), lambda: True)
    next(handles)
    assert executor.idle == 0
    list(handles)
    executor.result(first[0])
    assert executor.idle == 2


def test_what_wanted_raises_ends_a_wait(executor: Executor, tmp_path: Path) -> None:
    def cancelled() -> bool:
        raise Cancelled

    with pytest.raises(Cancelled):
        executor.result(executor.call(time.sleep, 5.0), cancelled)
    with pytest.raises(JobError, match="no longer wanted"):
        executor.result(executor.call(time.sleep, 5.0), lambda: False)


def test_a_unit_whose_worker_dies_runs_on_another(executor: Executor, tmp_path: Path) -> None:
    first = executor.call(units.dies_once, tmp_path)
    assert executor.result(first) != os.getpid()
    assert (tmp_path / "died").exists()


def test_nothing_of_ray_listens_beyond_this_machine(executor: Executor) -> None:
    pids = ray_processes(os.getpid())
    assert len(pids) >= 4
    addresses = listening([*pids, os.getpid()])
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert addresses
    assert addresses <= loopback


def test_a_stranger_without_the_token_is_refused(executor: Executor) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    script = f"import ray; ray.init(address='{address}', log_to_driver=False); print('in', flush=True)"
    stranger = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    # Ray asks again and again; its first answer is enough.
    with subprocess.Popen(
        [sys.executable, "-c", script], env=stranger, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as asking:
        assert asking.stdout is not None
        answer = next(line for line in asking.stdout if "InvalidAuthToken" in line or line == "in\n")
        asking.kill()
    assert "InvalidAuthToken" in answer


@pytest.mark.parametrize("begin_s", [AT_ONCE, IN_BLOCKS])
def test_an_evaluation_gives_the_same_bytes(
    executor: Executor, case: tuple[JobSpec, FileBlobs], undisturbed: Any, tmp_path: Path, begin_s: float
) -> None:
    steps: list[tuple[str, int, int]] = []
    result = run(case, executor, tmp_path, begin_s, progress=lambda *step: steps.append(step))
    assert statistics(case[1], result) == undisturbed
    assert steps[-1][1:] == (7, 7)
    assert steps == sorted(steps, key=lambda step: step[1])


def test_an_error_of_the_case_comes_back(executor: Executor, case: tuple[JobSpec, FileBlobs], tmp_path: Path) -> None:
    spec, blobs = case
    missing = replace(spec, plan_uid="1.2.3")
    with pytest.raises(DicomError, match=r"1\.2\.3"):
        run((missing, blobs), executor, tmp_path, AT_ONCE)


def test_a_cancelled_evaluation_stops(executor: Executor, case: tuple[JobSpec, FileBlobs], tmp_path: Path) -> None:
    def progress(_stage: str, done: int, total: int) -> None:
        if done >= 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(case, executor, tmp_path, IN_BLOCKS, progress=progress)


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_killed_workers_change_no_byte(
    executor: Executor, case: tuple[JobSpec, FileBlobs], undisturbed: Any, tmp_path: Path
) -> None:
    killed: list[int] = []
    over = threading.Event()

    def kill_a_block() -> None:
        while not (over.is_set() or killed):
            for pid in ray_processes(os.getpid(), "ray::_block")[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.02)

    killer = in_background(kill_a_block)
    result = run(case, executor, tmp_path, IN_BLOCKS)
    over.set()
    killer.join(5)
    assert killed
    assert statistics(case[1], result) == undisturbed


def test_when_ray_is_killed_the_job_runs_again_on_another(
    executor: Executor, case: tuple[JobSpec, FileBlobs], undisturbed: Any, tmp_path: Path
) -> None:
    spec, blobs = case
    given = {"spec": spec.to_json(), "blobs": str(blobs.folder), "folder": str(tmp_path)}
    (tmp_path / "case.json").write_text(json.dumps(given))
    driver = subprocess.run(
        [sys.executable, "-m", "tests.cluster.executor.lonely", str(tmp_path / "case.json")],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert (tmp_path / "killed").exists()
    assert not (tmp_path / "told-7-of-7").exists()
    # It says so, or Ray ends the process; it never hangs, and never takes the job for done.
    assert driver.returncode in {NOTICED, RAY_ENDED_IT}
    result = run(case, executor, tmp_path, IN_BLOCKS)
    assert statistics(blobs, result) == undisturbed

"""Work that runs elsewhere: its progress comes through the job's folder, and so does that nobody wants it any more."""

import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.executor.inprocess import InProcessExecutor
from cluster.jobs.context import Cancelled, JobContext
from cluster.jobs.model import JobKind, JobResult, JobSpec
from cluster.storage.files import FileBlobs
from cluster.workflows.unit import Reporter, Workplace, run_as_unit

SPEC = JobSpec("north", JobKind.DOSE, "1.2.3", ())
PATIENCE_S = 20.0


class Elsewhere(InProcessExecutor):
    """Units run in a thread, on pickled copies of their arguments, while the caller is asked if they are wanted."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        copies = pickle.loads(pickle.dumps(arguments))
        ended: list[Any] = []
        thread = threading.Thread(target=lambda: ended.append(InProcessExecutor().call(function, *copies)))
        thread.start()
        return thread, ended

    def result(self, handle: Any, wanted: Callable[[], bool] | None = None) -> Any:
        thread, ended = handle
        while thread.is_alive():
            assert wanted is not None
            wanted()
            thread.join(0.005)
        return InProcessExecutor().result(ended[0])


def context_of(tmp_path: Path, progress: Callable[[str, int, int], None], executor: Any) -> JobContext:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return JobContext(FileBlobs(tmp_path / "blobs"), executor, scratch, progress)


def seen_before_going_on(_spec: JobSpec, workplace: Workplace, folder: Path) -> JobResult:
    """Tells of a step and goes on only when that was heard."""
    workplace.progress("step", 1, 2)
    heard, end = folder.parent / "heard", time.monotonic() + PATIENCE_S
    while not heard.exists() and time.monotonic() < end:
        time.sleep(0.005)
    return JobResult("GREEN", {"heard": heard.exists()})


def until_cancelled(_spec: JobSpec, workplace: Workplace, folder: Path) -> JobResult:
    """Tells of a step again and again."""
    end = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < end:
            workplace.progress("step", 1, 2)
            time.sleep(0.005)
    except Cancelled:
        (folder.parent / "stopped").touch()
        raise
    return JobResult("GREEN", {})


def fails(_spec: JobSpec, _workplace: Workplace, _folder: Path) -> JobResult:
    raise ValueError("as it is")


def test_progress_comes_from_elsewhere(tmp_path: Path) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if (stage, done, total) == ("step", 1, 2):
            (tmp_path / "scratch" / "heard").touch()

    result = run_as_unit(SPEC, context_of(tmp_path, progress, Elsewhere()), seen_before_going_on)
    assert result == JobResult("GREEN", {"heard": True})


def test_work_elsewhere_ends_when_nobody_wants_it(tmp_path: Path) -> None:
    def progress(stage: str, _done: int, _total: int) -> None:
        if stage == "step":
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        run_as_unit(SPEC, context_of(tmp_path, progress, Elsewhere()), until_cancelled)
    end = time.monotonic() + PATIENCE_S
    while not (tmp_path / "scratch" / "stopped").exists() and time.monotonic() < end:
        time.sleep(0.005)
    assert (tmp_path / "scratch" / "stopped").exists()


@pytest.mark.parametrize("executor", [InProcessExecutor(), Elsewhere()])
def test_errors_come_as_they_are_and_leave_nothing(tmp_path: Path, executor: Any) -> None:
    with pytest.raises(ValueError, match="as it is"):
        run_as_unit(SPEC, context_of(tmp_path, lambda *_: None, executor), fails)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_progress_is_worth_no_failure(tmp_path: Path) -> None:
    Reporter(tmp_path / "on-another-machine", None)("step", 1, 2)
    assert not (tmp_path / "on-another-machine").exists()

"""Uploads in processes of their own: what is killed is done again, and nothing is lost or doubled."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from cluster.api.intake import GROUP_FILES, Upload
from cluster.api.workers import Workers
from cluster.library.entries import Received
from cluster.service.config import ServiceConfig, Site
from cluster.service.services import Services, open_services
from doseeng.errors import PeerError

PATIENCE_S = 60.0


class Counted(Workers):
    """Knows which processes it has started."""

    def __init__(self, config: ServiceConfig) -> None:
        self.pids: list[int] = []
        super().__init__(config, count=1)

    def has_other_than(self, pid: int) -> bool:
        return self.pids[-1] != pid

    def _started(self) -> ProcessPoolExecutor:
        worker = super()._started()
        self.pids.append(worker.submit(os.getpid).result())
        return worker


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("workers")
    opened = open_services(ServiceConfig(data_dir=str(folder), site=[Site(name="north"), Site(name="south")]))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def workers(services: Services) -> Iterator[Counted]:
    made = Counted(services.config)
    yield made
    made.close()


@dataclass
class Trap:
    """A file that whoever reads it waits for, and is killed. then: what is there for the next one."""

    path: Path
    then: bytes = b""

    def __post_init__(self) -> None:
        os.mkfifo(self.path)

    def spring(self, workers: Counted, times: int) -> None:
        for _ in range(times):
            held = self._reader()
            if times == 1:
                self.path.unlink()
                self.path.write_bytes(self.then)
            killed = workers.pids[-1]
            os.kill(killed, signal.SIGKILL)
            os.close(held)
            _until(partial(workers.has_other_than, killed), "no other worker was started")

    def _reader(self) -> int:
        """Wait until somebody has opened the file."""
        held: list[int] = []

        def is_read() -> bool:
            with suppress(OSError):
                held.append(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
            return bool(held)

        _until(is_read, "nobody reads the file")
        return held[0]


def _until(is_so: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)


def test_a_killed_worker_loses_and_doubles_nothing(
    services: Services, workers: Counted, case_folder: Path, tmp_path: Path
) -> None:
    first, second = sorted(case_folder.rglob("*.dcm"))[:2]
    trap = Trap(tmp_path / "trap", second.read_bytes())
    # One group is received when the worker comes to the trap.
    parts = (*((n, first) for n in range(1, GROUP_FILES + 1)), (GROUP_FILES + 1, trap.path))
    started = len(workers.pids)
    killer = threading.Thread(target=trap.spring, args=(workers, 1))
    killer.start()
    taken = workers.take(Upload("north", parts, tmp_path))
    killer.join()
    assert [one.part for one in taken] == [number for number, _ in parts]
    outcomes = [one.outcome for one in taken]
    assert all(isinstance(outcome, Received) for outcome in outcomes)
    assert [getattr(outcome, "is_new", None) for outcome in outcomes] == [False] * GROUP_FILES + [True]
    assert len(services.library.instances("north")) == 2
    assert len(workers.pids) == started + 1


def test_an_upload_that_kills_every_worker_is_refused_and_the_next_one_is_not(
    services: Services, workers: Counted, case_folder: Path, tmp_path: Path
) -> None:
    trap = Trap(tmp_path / "trap")
    killer = threading.Thread(target=trap.spring, args=(workers, 2))
    killer.start()
    with pytest.raises(PeerError, match="died each time"):
        workers.take(Upload("south", ((1, trap.path),), tmp_path))
    killer.join()
    path = min(case_folder.rglob("*.dcm"))
    (taken,) = workers.take(Upload("south", ((1, path),), tmp_path))
    assert isinstance(taken.outcome, Received)


def test_uploads_wait_for_each_other(services: Services, workers: Counted, case_folder: Path, tmp_path: Path) -> None:
    files = sorted(case_folder.rglob("*.dcm"))[2:8]
    with ThreadPoolExecutor(3) as pool:
        uploads = [Upload("south", ((1, path),), tmp_path) for path in files]
        found = [one.outcome for taken in pool.map(workers.take, uploads) for one in taken]
    assert [isinstance(outcome, Received) and outcome.is_new for outcome in found] == [True] * len(files)

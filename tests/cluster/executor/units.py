"""Units that the tests run on executors; a worker finds them by their module."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from cluster.executor import placement
from cluster.executor.placement import on_device
from doseeng.errors import GeometryError


def add(*numbers: float) -> float:
    return sum(numbers)


def pair(number: int) -> tuple[int, np.ndarray]:
    """A small part and a large one."""
    return number, np.full(1_000_000, float(number))


def total(array: np.ndarray) -> float:
    return float(array.sum())


def refuse(where: str) -> None:
    raise GeometryError(f"wrong in {where}")


def where() -> tuple[int, str, str]:
    """Process, kind of process, and backend."""
    return os.getpid(), placement.place().value, placement.unit_backend("auto").description


@on_device
def where_on_device() -> str:
    return placement.place().value


def marked(folder: Path, number: int) -> int:
    """Leaves a file when it begins."""
    (folder / str(number)).touch()
    time.sleep(0.3)
    return number


def dies_once(folder: Path) -> int:
    """Its process is killed the first time."""
    mark = folder / "died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def same(shared: np.ndarray, number: int) -> tuple[int, int, float]:
    """What was shared, and whether it was copied for this unit."""
    return number, int(shared.flags.writeable), float(shared[0])

"""Folders that running jobs fill: gone when the job is, also when its driver was killed."""

from __future__ import annotations

import fcntl
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

PREFIX: Final = "driver-"
LOCK: Final = ".lock"


@contextmanager
def scratch_folder(scratch: Path) -> Iterator[Path]:
    """A new folder of this driver's own below `scratch`, removed afterwards. Those of drivers that died go first:
    nobody holds the lock in them any more."""
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / LOCK).open("w") as door:
        # One at a time, so that nobody removes a folder between its making and its locking.
        fcntl.flock(door, fcntl.LOCK_EX)
        for left in scratch.glob(f"{PREFIX}*/{LOCK}"):
            _remove_if_left(left)
        own = scratch / f"{PREFIX}{uuid.uuid4().hex}"
        own.mkdir(mode=0o700)
        lock = (own / LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        lock.close()


@contextmanager
def job_folder(own: Path, job_id: str) -> Iterator[Path]:
    """A folder of one job, empty, removed afterwards."""
    folder = own / job_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(path: Path) -> None:
    with path.open("r+") as lock:
        if _locks(lock):
            shutil.rmtree(path.parent, ignore_errors=True)


def _locks(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

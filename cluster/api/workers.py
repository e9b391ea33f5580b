"""Processes that take uploads in, so that reading DICOM holds up nobody who only asks.

Each works on one upload at a time, behind the API and before the jobs of the same machine. One that dies takes nothing
with it: what it had received is kept, and the upload is done once more, which finds that.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from multiprocessing import get_context, parent_process
from queue import Empty, SimpleQueue
from typing import Final

from cluster.api.intake import Taken, Upload, take
from cluster.database.connection import connect
from cluster.library.library import Library
from cluster.operations.logs import set_up_logging
from cluster.service.config import ServiceConfig
from cluster.storage.open import open_blobs
from doseeng.errors import PeerError

WORKERS: Final = 2
NICE: Final = 5
TRIES: Final = 2
"""An upload that takes two processes down is broken, or the machine is."""
CLOSING_S: Final = 10.0
_PRELOADED: Final = ["cluster.service.services", "cluster.api.workers"]
"""Imported once, in the process that the others are forked from."""

_log = logging.getLogger(__name__)


class Workers:
    """`take` is a `cluster.api.intake.Take`; as many uploads at a time as there are workers, others wait."""

    def __init__(self, config: ServiceConfig, count: int = WORKERS) -> None:
        self._config = config
        self._count = count
        # This process has threads, so that it must not fork itself.
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        # One to a pool: a process that dies breaks its pool, and no other upload shall notice.
        self._idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
        for _ in range(count):
            self._idle.put(self._started())

    def take(self, upload: Upload) -> list[Taken]:
        """Take an upload in, in another process. PeerError when that dies again and again."""
        worker = self._idle.get()
        try:
            for _ in range(TRIES):
                try:
                    return worker.submit(_take, upload).result()
                except BrokenProcessPool:
                    _log.error("upload: the process that took it in has died; it is done again by another one")
                    worker.shutdown(wait=False)
                    worker = self._started()
        finally:
            self._idle.put(worker)
        raise PeerError("the upload could not be taken in: the process that reads it died each time; send it again")

    def close(self) -> None:
        """End the processes, when they have finished what they are at."""
        for _ in range(self._count):
            try:
                self._idle.get(timeout=CLOSING_S).shutdown()
            except Empty:
                return

    def _started(self) -> ProcessPoolExecutor:
        worker = ProcessPoolExecutor(1, self._context, initializer=_start, initargs=(self._config,))
        # The first upload need not wait for it.
        worker.submit(os.getpid)
        return worker


_open: Callable[[], Library]
"""The library of this process."""


def _start(config: ServiceConfig) -> None:
    global _open
    # They end with the process that started them, whatever a terminal or an init system sends to all of them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(NICE)
    set_up_logging("api")
    _open = cache(lambda: Library(connect(config.database), cache(partial(open_blobs, config))))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _take(upload: Upload) -> list[Taken]:
    return take(_open(), upload)

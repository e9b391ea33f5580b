"""One attempt at a job: what is known of it while it runs, and what its end means."""

from __future__ import annotations

import errno
import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cluster.database.connection import DatabaseUnavailable
from cluster.executor.protocol import ExecutorLost
from cluster.jobs.claims import Rest
from cluster.jobs.context import Cancelled
from cluster.jobs.model import Job, JobFailure, JobResult
from cluster.storage.blobs import StorageUnavailable
from doseeng.errors import DoseengError

log = logging.getLogger(__name__)

SPACE_WAIT_S: Final = 30.0
"""How long a job rests that found no space: people or retention rules make some."""
MEMORY_WAIT_S: Final = 10.0
"""How long a job rests that found no memory: the jobs beside it end."""
EXECUTOR_WAIT_S: Final = 1.0
"""How long a job rests whose executor ended under it: the next call opens another."""
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(slots=True, eq=False)
class Attempt:
    """A job that this driver runs; shared by the thread that runs it and the one that keeps its lease."""

    job: Job
    position: tuple[str, int, int] = ("", 0, 0)
    unwanted: threading.Event = field(default_factory=threading.Event)
    _told: tuple[str, int, int] = ("", 0, 0)
    _told_at: float = field(default_factory=time.monotonic)

    def progress(self, stage: str, done: int, total: int) -> None:
        """As `cluster.jobs.context.Progress`."""
        self.position = (stage, done, total)
        if self.unwanted.is_set():
            raise Cancelled

    def is_due(self, interval_s: float) -> bool:
        """Whether the database should hear of it: it went on, or said nothing for long."""
        return self.position != self._told or time.monotonic() - self._told_at >= interval_s

    def told(self, position: tuple[str, int, int]) -> None:
        """What the database has heard."""
        self._told, self._told_at = position, time.monotonic()


def ending(work: Callable[[], JobResult], attempt: Attempt) -> JobResult | JobFailure | Rest:
    """What `work` came to. Errors of ours go to people as they are; of others they get the class alone, and the log
    the place: messages of foreign code may quote what they worked on."""
    try:
        return work()
    except Cancelled:
        return Rest(counts=not attempt.unwanted.is_set())
    except (StorageUnavailable, DatabaseUnavailable) as error:
        return Rest(f"waiting: {error}", SPACE_WAIT_S)
    except ExecutorLost as error:
        return Rest(f"waiting: {error}", EXECUTOR_WAIT_S, counts=True)
    except MemoryError:
        return Rest("waiting: the memory of the machine did not suffice", MEMORY_WAIT_S, counts=True)
    except DoseengError as error:
        if _found_no_space(error):
            return Rest(f"waiting: {error}", SPACE_WAIT_S)
        return JobFailure(type(error).__name__, str(error))
    except Exception as error:  # noqa: BLE001
        if _found_no_space(error):
            return Rest("waiting: no space left for what it writes; make some", SPACE_WAIT_S)
        where = "".join(traceback.format_tb(error.__traceback__))
        said = {"job_id": attempt.job.id, "error": type(error).__name__, "where": where}
        log.error("internal error in a job", extra=said)
        message = (
            f"an error inside doseeng ({type(error).__name__}) ended it; the log of the driver tells where, under "
            f"job {attempt.job.id}: please report it"
        )
        return JobFailure("InternalError", message)


def _found_no_space(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in NO_SPACE:
            return True
        seen = seen.__cause__
    return False

"""What a computation costs: wall seconds compare waiting, CPU seconds (user + system, all threads) compare work."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one computation took. peak_mb: largest resident memory of its process until then."""

    name: str
    wall_s: float
    cpu_s: float
    peak_mb: float


def measured(name: str, work: Callable[[], Result]) -> tuple[Result, Cost]:
    """What `work` returns, and what it cost."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    result = work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result, Cost(name, wall, cpu, after.ru_maxrss / 1024.0)

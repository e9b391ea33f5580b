"""What workers run for `benchmarks.scaling`: units that write down when they ran, and units that do nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.executor.placement import is_on_device, on_device
from cluster.executor.protocol import Executor, Handle

Ran = tuple[str, int, float, float]
"""Name of a unit, process, and when it began and ended."""


def timed(function: Callable[..., Any], log: Path, *arguments: Any) -> Any:
    """A unit, and a line in the log."""
    began = time.time()
    try:
        return function(*arguments)
    finally:
        with log.open("a") as file:
            file.write(json.dumps([function.__name__, os.getpid(), began, time.time()]) + "\n")


def ran(log: Path) -> list[Ran]:
    """What a log holds."""
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return [(str(name), int(pid), float(began), float(ended)) for name, pid, began, ended in lines]


def nothing(number: int) -> int:
    """The smallest unit."""
    return number


def two_nothings() -> tuple[int, None]:
    """The smallest unit in two parts."""
    return 0, None


@dataclass(frozen=True, slots=True, eq=False)
class TimedExecutor:
    """An executor whose units are timed where they run."""

    inner: Executor
    log: Path

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = partial(timed, function, self.log)
        return on_device(wrapped) if is_on_device(function) else wrapped

    @property
    def workers(self) -> int:
        """As `Executor.workers`."""
        return self.inner.workers

    @property
    def idle(self) -> int:
        """As `Executor.idle`."""
        return self.inner.idle

    @property
    def description(self) -> str:
        """As `Executor.description`."""
        return self.inner.description

    def call(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        """As `Executor.call`."""
        return self.inner.call(self._timed(function), *arguments)

    def split(self, function: Callable[..., Any], parts: int, *arguments: Any) -> tuple[Handle, ...]:
        """As `Executor.split`."""
        return self.inner.split(self._timed(function), parts, *arguments)

    def result(self, handle: Handle, wanted: Callable[[], bool] | None = None) -> Any:
        """As `Executor.result`."""
        return self.inner.result(handle, wanted)

    def each(
        self, function: Callable[..., Any], shared: Sequence[Any], units: Iterable[Any], wanted: Callable[[], bool]
    ) -> Iterator[Handle]:
        """As `Executor.each`."""
        return self.inner.each(self._timed(function), shared, units, wanted)

    def close(self) -> None:
        """As `Executor.close`."""
        self.inner.close()

"""An executor that outlives its runtime: when Ray has ended, the next call opens another one.

What was under way is lost and says so; jobs are done again by whoever asked for them. Results of the runtime that ended
are never given to the new one, and the old one is closed only when no thread is inside it any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from cluster.executor.protocol import Executor, ExecutorLost, Handle
from doseeng.errors import ConfigError

LEAVE_S: Final = 60.0
"""How long threads may take to find out that the runtime they wait for has ended."""


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A handle and the runtime that it belongs to."""

    generation: int
    handle: Handle


class LastingExecutor:
    """Passes everything on to the executor that `opened` gives, and opens another one after ExecutorLost."""

    def __init__(self, opened: Callable[[], Executor]) -> None:
        self._opened = opened
        self._inner = opened()
        self._generation = 0
        self._is_lost = False
        self._inside = 0
        self._changed = threading.Condition()

    @property
    def workers(self) -> int:
        """As `Executor.workers`."""
        with self._use() as (_, inner):
            return inner.workers

    @property
    def idle(self) -> int:
        """As `Executor.idle`."""
        with self._use() as (_, inner):
            return inner.idle

    @property
    def description(self) -> str:
        """As `Executor.description`."""
        with self._use() as (_, inner):
            return inner.description

    def call(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        """As `Executor.call`."""
        with self._use(arguments) as (generation, inner):
            return _Held(generation, inner.call(function, *_bare(arguments)))

    def split(self, function: Callable[..., Any], parts: int, *arguments: Any) -> tuple[Handle, ...]:
        """As `Executor.split`."""
        with self._use(arguments) as (generation, inner):
            return tuple(_Held(generation, part) for part in inner.split(function, parts, *_bare(arguments)))

    def result(self, handle: Handle, wanted: Callable[[], bool] | None = None) -> Any:
        """As `Executor.result`."""
        with self._use([handle]) as (_, inner):
            return inner.result(_bare([handle])[0], wanted)

    def each(
        self, function: Callable[..., Any], shared: Sequence[Any], units: Iterable[Any], wanted: Callable[[], bool]
    ) -> Iterator[Handle]:
        """As `Executor.each`."""
        with self._use(shared) as (generation, inner):
            handles = iter(inner.each(function, _bare(shared), units, wanted))
        while True:
            with self._use([_Held(generation, handles)]):
                found = next(handles, None)
            if found is None:
                return
            yield _Held(generation, found)

    def close(self) -> None:
        """As `Executor.close`."""
        self._inner.close()

    @contextmanager
    def _use(self, arguments: Sequence[Any] = ()) -> Iterator[tuple[int, Executor]]:
        """The runtime and its number, for one call. ExecutorLost when an argument belongs to one that has ended."""
        of = {argument.generation for argument in arguments if isinstance(argument, _Held)}
        with self._changed:
            if self._is_lost and not of:
                self._open_again()
            if of - {self._generation} or self._is_lost:
                raise ExecutorLost("the runtime that held the job's partial results has ended; the job is done again")
            self._inside += 1
            current = self._generation, self._inner
        try:
            yield current
        except ExecutorLost:
            with self._changed:
                self._is_lost = self._is_lost or self._generation == current[0]
            raise
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _open_again(self) -> None:
        """Close what has ended and open another; the lock is held, so that one thread does it while others wait."""
        if not self._changed.wait_for(lambda: self._inside == 0 or not self._is_lost, LEAVE_S):
            raise ExecutorLost("the runtime has ended, and a thread still waits for it; restart this process")
        if self._is_lost:
            self._inner.close()
            try:
                self._inner = self._opened()
            except ConfigError as error:
                raise ExecutorLost(f"the runtime has ended and another one cannot be opened: {error}") from error
            self._generation += 1
            self._is_lost = False


def _bare(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """The same with the handles of the runtime itself."""
    return tuple(argument.handle if isinstance(argument, _Held) else argument for argument in arguments)

"""The executor that is no cluster: a call runs at once, in the thread that makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.executor.protocol import Handle


@dataclass(frozen=True, slots=True, eq=False)
class _Ended:
    """What came of a call."""

    value: Any = None
    error: Exception | None = None


class InProcessExecutor:
    """Units run one after the other, each with all threads of the engine. Nothing is pickled, and Ray is not needed."""

    @property
    def workers(self) -> int:
        """One: the caller."""
        return 1

    @property
    def idle(self) -> int:
        """As `Executor.idle`: whoever asks is about to call."""
        return 1

    @property
    def description(self) -> str:
        """Name, for provenance."""
        return "in-process"

    def call(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        """As `Executor.call`; the unit has run when this returns."""
        try:
            return _Ended(function(*[_value(argument) for argument in arguments]))
        except Exception as error:  # noqa: BLE001 - the edge of a unit: `result` raises it again
            return _Ended(error=error)

    def split(self, function: Callable[..., Any], parts: int, *arguments: Any) -> tuple[Handle, ...]:
        """As `Executor.split`."""
        ended = self.call(function, *arguments)
        assert isinstance(ended, _Ended)
        if ended.error is not None:
            return (ended,) * parts
        return tuple(_Ended(value) for _, value in zip(range(parts), ended.value, strict=True))

    def result(self, handle: Handle, wanted: Callable[[], bool] | None = None) -> Any:
        """As `Executor.result`."""
        return _value(handle)

    def each(
        self, function: Callable[..., Any], shared: Sequence[Any], units: Iterable[Any], wanted: Callable[[], bool]
    ) -> Iterator[Handle]:
        """As `Executor.each`."""
        for unit in units:
            if not wanted():
                return
            yield self.call(function, *shared, unit)

    def close(self) -> None:
        """Nothing to give back."""


def _value(argument: Any) -> Any:
    """The result of a handle; anything else as it is."""
    if not isinstance(argument, _Ended):
        return argument
    if argument.error is not None:
        raise argument.error
    return argument.value

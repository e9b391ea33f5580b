"""What every executor does: calls of functions that run somewhere, and whose results stay there until asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol


class Handle(Protocol):
    """The result of a call, wherever it is; may be given as an argument of another call."""


class Executor(Protocol):
    """Where work units run. A unit is a function of a module with picklable arguments, and may run twice: on another
    worker when the first one dies. Errors that a unit raises come back from `result` as they are; JobError when workers
    die time and again."""

    @property
    def workers(self) -> int:
        """How many units run at the same time."""

    @property
    def description(self) -> str:
        """Name, version and workers, for provenance."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        """Start a unit. Handles among the arguments are replaced by their results, without passing through here."""

    def result(self, handle: Handle) -> Any:
        """Wait for a unit and bring its result here."""

    def each(
        self, function: Callable[..., Any], shared: Sequence[Any], units: Iterable[Any], wanted: Callable[[], bool]
    ) -> Iterator[Handle]:
        """`function(*shared, unit)` for every unit; handles of those that are finished, in the order of the units.

        No more than a few units per worker are under way (back-pressure). wanted: asked between units; when it says no,
        what has not begun is dropped and the iteration ends.
        """

    def close(self) -> None:
        """Give the workers back."""

"""What every executor does: calls of functions that run somewhere, and whose results stay there until asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from doseeng.errors import JobError


class ExecutorLost(JobError):
    """The runtime under the executor has ended. It is no fault of the job, which can be done again; the executor is of
    no more use than to be closed, and another one must be opened."""


class Handle(Protocol):
    """The result of a call, wherever it is; may be given as an argument of another call."""


class Executor(Protocol):
    """Where work units run. A unit is a function of a module with picklable arguments, and may run twice: on another
    worker when the first one dies. Errors that a unit raises come back from `result` as they are; JobError when workers
    die time and again, ExecutorLost when there is nothing left to run them."""

    @property
    def workers(self) -> int:
        """How many units run at the same time."""

    @property
    def idle(self) -> int:
        """How many workers have nothing to do, as far as this driver knows: what others ask of a cluster it does not
        see. Worth asking before work is spread that one worker could do."""

    @property
    def description(self) -> str:
        """Name, version and workers, for provenance."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        """Start a unit. Handles among the arguments are replaced by their results, without passing through here."""

    def split(self, function: Callable[..., Any], parts: int, *arguments: Any) -> tuple[Handle, ...]:
        """As `call`, for a function that returns a tuple of that many: a handle of each, so that a small one can be
        brought here and a large one stay."""

    def result(self, handle: Handle, wanted: Callable[[], bool] | None = None) -> Any:
        """Wait for a unit and bring its result here. wanted: asked meanwhile; what it raises ends the wait and drops
        the unit, and so does its saying no, with JobError."""

    def each(
        self, function: Callable[..., Any], shared: Sequence[Any], units: Iterable[Any], wanted: Callable[[], bool]
    ) -> Iterator[Handle]:
        """`function(*shared, unit)` for every unit; handles of those that are finished, in the order of the units.

        No more than a few units per worker are under way (back-pressure). wanted: asked between units; when it says no,
        what has not begun is dropped and the iteration ends.
        """

    def close(self) -> None:
        """Give the workers back."""

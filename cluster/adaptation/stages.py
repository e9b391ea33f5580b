"""Stages of long work: what is done now, for people who wait, and how long each took, for the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Progress = Callable[[str, int, int], None]
"""Called with (stage, stages done, stages in all)."""


@dataclass(slots=True, eq=False)
class Stages:
    """Tells `progress` of each stage and keeps its wall time in `seconds`, in order."""

    total: int
    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def step(self, name: str) -> None:
        """Tells of a part of the stage that is under way."""
        if self.progress is not None:
            self.progress(name, len(self.seconds), self.total)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """One stage; an error that ends it leaves its time too."""
        self.step(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start

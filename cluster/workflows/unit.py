"""A job that is one unit of work: it runs where the executor puts it, tells how far it is, and ends when cancelled.

Where the unit runs in the driver's own process it calls the job's progress directly. Elsewhere on the same machine it
goes through two small files in the job's folder; on another machine nothing is told until the unit ends.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.executor.placement import on_device
from cluster.jobs.context import Cancelled, JobContext, Progress
from cluster.jobs.model import Artifact, JobResult, JobSpec
from cluster.storage.blobs import BlobStore

TOLD: Final = "progress.json"
UNWANTED: Final = "cancelled"
Step = tuple[str, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Reporter:
    """Progress of a unit. folder: the job's. direct: the job's own progress, which does not travel."""

    folder: Path
    direct: Progress | None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Tell it. Cancelled when the job is no longer wanted."""
        if self.direct is not None:
            self.direct(stage, done, total)
            return
        if (self.folder / UNWANTED).exists():
            raise Cancelled("the job was cancelled while it ran")
        # Progress is worth no failure: the folder may be on another machine, or full.
        with suppress(OSError):
            part = self.folder / f"{TOLD}.{os.getpid()}"
            part.write_text(json.dumps([stage, done, total]), encoding="utf-8")
            os.replace(part, self.folder / TOLD)

    def __reduce__(self) -> tuple[type[Reporter], tuple[Path, None]]:
        return Reporter, (self.folder, None)


@dataclass(frozen=True, slots=True, eq=False)
class Workplace:
    """What a unit is given. blobs: of the job's site. folder: of the job, where the unit runs on the driver's machine.
    earlier: as `JobContext.earlier`."""

    blobs: BlobStore
    folder: Path
    progress: Reporter
    earlier: tuple[tuple[Artifact, ...], ...]


Work = Callable[[JobSpec, Workplace, Path], JobResult]
"""A function of a module; its path is an empty folder of its own, removed afterwards."""


def run_as_unit(spec: JobSpec, context: JobContext, work: Work) -> JobResult:
    """`work` on the executor. Cancelled when the job is no longer wanted; what the work raises comes as it is."""
    workplace = Workplace(context.blobs, context.scratch, Reporter(context.scratch, context.progress), context.earlier)

    def is_wanted() -> bool:
        try:
            context.progress(*_told(context.scratch))
        except Cancelled:
            with suppress(OSError):
                (context.scratch / UNWANTED).touch()
            raise
        return True

    handle = context.executor.call(_worked, work, workplace, spec)
    result: JobResult = context.executor.result(handle, is_wanted)
    return result


@on_device
def _worked(work: Work, workplace: Workplace, spec: JobSpec) -> JobResult:
    here = workplace.folder if workplace.folder.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="unit-", dir=here) as folder:
        return work(spec, workplace, Path(folder))


def _told(folder: Path) -> Step:
    try:
        stage, done, total = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "started", 0, 1
    return str(stage), int(done), int(total)

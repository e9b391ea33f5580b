"""What a running job is given, besides what was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.executor.protocol import Executor
from cluster.jobs.model import Artifact
from cluster.storage.blobs import BlobStore

Progress = Callable[[str, int, int], None]
"""Called with stage, units done and units in all; raises Cancelled when the job is no longer wanted."""


class Cancelled(Exception):
    """The job was cancelled, or its lease went to another driver: what was computed is dropped."""


@dataclass(frozen=True, slots=True, eq=False)
class JobContext:
    """blobs: of the job's site. scratch: an empty folder of this job's own, removed afterwards. earlier: artifacts of
    the jobs of the same lane that ended well, by lane order: what the course store of an adapt job is made from."""

    blobs: BlobStore
    executor: Executor
    scratch: Path
    progress: Progress
    earlier: tuple[tuple[Artifact, ...], ...] = ()

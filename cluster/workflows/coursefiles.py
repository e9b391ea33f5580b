"""The course store of a plan as artifacts: every job of the lane keeps its own day, and the next one puts them back.

A job's files are those that its day added to the folder, and course.json, so that any of the jobs can be forgotten
(retention) without the others losing their course.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cluster.adaptation.course import HEADER
from cluster.jobs.model import Artifact
from cluster.storage.blobs import BlobStore
from cluster.workflows.artifacts import COURSE, kept

Digests = dict[str, str]
"""Name of a file in the folder -> SHA-256 of its bytes."""


def put_back(earlier: Iterable[Iterable[Artifact]], blobs: BlobStore, folder: Path) -> Digests:
    """The files of earlier jobs, in their order, in one folder; a day that was evaluated again replaces its files.

    JobError for bytes that are gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen: Digests = {}
    for artifacts in earlier:
        own = {a.name.removeprefix(COURSE): a.sha256 for a in artifacts if a.name.startswith(COURSE)}
        days = {_day_of(name) for name in own if name != HEADER}
        chosen = {name: sha256 for name, sha256 in chosen.items() if _day_of(name) not in days} | own
    for name, sha256 in chosen.items():
        blobs.copy_to(sha256, folder / Path(name).name)
    return chosen


def kept_course(folder: Path, before: Digests, blobs: BlobStore) -> tuple[Artifact, ...]:
    """The files that are not as they were put back, and course.json."""
    files = sorted([*folder.glob("*.json"), *folder.glob("*.npz")])
    return tuple(
        kept(blobs, f"{COURSE}{path.name}", path)
        for path in files
        if path.name == HEADER or before.get(path.name) != hashlib.sha256(path.read_bytes()).hexdigest()
    )


def _day_of(name: str) -> str:
    """What the names of a day's files begin with: day-<key>.json and day-<key>-<n>.npz."""
    return "-".join(name.partition(".")[0].split("-")[:2])

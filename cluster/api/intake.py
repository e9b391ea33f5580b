"""What an upload holds, taken in: archives are opened, objects given to the library by the dozen. It knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.api.archives import ArchiveRefused, entries, is_zip
from cluster.library.entries import Received
from cluster.library.intake import BY_HTTP, Intake, Refused
from cluster.library.library import Library
from cluster.node.notes import noting

GROUP_FILES: Final = 64
GROUP_BYTES: Final = 256 * 2**20
"""So much is indexed in one transaction, which others who write wait for, and lies unpacked at the same time."""


@dataclass(frozen=True, slots=True)
class Upload:
    """parts: number, from 1, and file of each. folder: for what archives unpack to, at most `unpacked_bytes`; None when
    archives are not opened. study_uid: objects of other studies are refused; "" for any."""

    site: str
    parts: tuple[tuple[int, Path], ...]
    folder: Path
    unpacked_bytes: int | None = None
    study_uid: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a file. part, entry: which one, both from 1; entry is 0 outside archives."""

    part: int
    entry: int
    outcome: Received | Refused


Take = Callable[[Upload], list[Taken]]
"""Takes an upload in, here or in another process. ArchiveRefused for one that unpacks to too much, JobError when it
cannot be stored."""


@dataclass(frozen=True, slots=True)
class _File:
    part: int
    entry: int
    path: Path


def take(library: Library, upload: Upload) -> list[Taken]:
    """Take an upload in, in the calling thread. What an earlier attempt did is found done: it may be repeated."""
    intake = library.intake(
        upload.site, calling_ae=BY_HTTP, study_uid=upload.study_uid, on_received=noting(upload.site)
    )
    taken: list[Taken] = []
    group: list[_File] = []
    size = 0
    for found in _files(upload):
        if isinstance(found, Taken):
            taken.append(found)
            continue
        group.append(found)
        size += found.path.stat().st_size
        if len(group) == GROUP_FILES or size >= GROUP_BYTES:
            taken += _together(intake, group)
            group, size = [], 0
    taken += _together(intake, group)
    return sorted(taken, key=lambda one: (one.part, one.entry))


def _together(intake: Intake, group: list[_File]) -> Iterator[Taken]:
    for file, outcome in zip(group, intake.take([file.path for file in group]), strict=True):
        if file.entry:
            file.path.unlink()
        yield Taken(file.part, file.entry, outcome)


def _files(upload: Upload) -> Iterator[_File | Taken]:
    """Every file of an upload: the parts themselves, or the entries of archives; refused ones with the reason."""
    for part, path in upload.parts:
        if upload.unpacked_bytes is None or not is_zip(path):
            yield _File(part, 0, path)
            continue
        folder = upload.folder / f"unpacked-{part}"
        folder.mkdir(exist_ok=True)
        try:
            for entry in entries(path, folder, upload.unpacked_bytes):
                if entry.path is None:
                    yield Taken(part, entry.number, Refused(entry.reason))
                else:
                    yield _File(part, entry.number, entry.path)
        except ArchiveRefused as error:
            if error.is_too_large:
                raise
            yield Taken(part, 0, Refused(str(error)))

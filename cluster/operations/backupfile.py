"""The file of a backup: a tar that begins with a manifest, which says what follows and with which checksum."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from doseeng.errors import JobError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SQLITE: Final = "database.sqlite"
POSTGRES: Final = "database.dump"
CHUNK: Final = 1 << 20
_MOST_MANIFEST: Final = 1 << 30

Progress = Callable[[int, int], None]
"""Called with members done and members in all."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the backup."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """What a backup holds. missing: blobs (SITE/SHA256) that the database refers to and that are not there."""

    made_at: str
    version: str
    database: str
    secrets: bool
    members: tuple[Member, ...]
    missing: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all members."""
        return sum(member.size for member in self.members)


def add_manifest(tar: tarfile.TarFile, summary: BackupSummary) -> None:
    """The first member."""
    data = json.dumps({"format": FORMAT, **asdict(summary)}, indent=1).encode()
    info = _plain(tarfile.TarInfo(MANIFEST))
    info.size, info.mtime = len(data), int(time.time())
    tar.addfile(info, io.BytesIO(data))


def add_file(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """A file as the next member."""
    tar.add(path, name, recursive=False, filter=_plain)


def verify_backup(path: Path, progress: Progress | None = None) -> BackupSummary:
    """Read all of it and compare every checksum. JobError says what is damaged."""
    summary = None
    for number, (summary, _, _) in enumerate(members_of(path), start=1):
        if progress is not None:
            progress(number, len(summary.members))
    if summary is None:
        raise damaged(path, "holds nothing")
    return summary


def members_of(path: Path) -> Iterator[tuple[BackupSummary, str, Checked]]:
    """Manifest, name and content of each member in turn, compared when the next one is asked for; JobError as it is
    damaged."""
    try:
        with tarfile.open(path, "r:") as tar:
            summary = _manifest(path, tar)
            expected = iter(summary.members)
            for found in tar:
                if found.name == MANIFEST:
                    continue
                member = next(expected, None)
                if member is None or found.name != member.name or not found.isreg():
                    raise damaged(path, f"'{found.name[:100]}' is not what its manifest says should follow")
                file = tar.extractfile(found)
                assert file is not None
                checked = Checked(file)
                yield summary, member.name, checked
                checked.finish()
                if checked.size != member.size or checked.digest.hexdigest() != member.sha256:
                    raise damaged(path, f"{member.name} is not what was written")
            if next(expected, None) is not None:
                raise damaged(path, "it ends before its manifest does")
    except (tarfile.TarError, EOFError) as error:
        raise damaged(path, str(error)) from error


class Checked:
    """A stream that is digested while it is read."""

    def __init__(self, file: Any) -> None:
        self._file, self.size, self.digest = file, 0, hashlib.sha256()

    def read(self, size: int) -> bytes:
        """As a file's."""
        data: bytes = self._file.read(size)
        self.size += len(data)
        self.digest.update(data)
        return data

    def finish(self) -> None:
        """Read what is left."""
        while self.read(CHUNK):
            pass


def _manifest(path: Path, tar: tarfile.TarFile) -> BackupSummary:
    first = tar.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > _MOST_MANIFEST:
        raise damaged(path, "it does not begin with a manifest; is it a backup of doseeng?")
    file = tar.extractfile(first)
    assert file is not None
    try:
        values = json.loads(file.read())
        if values.pop("format") != FORMAT:
            raise damaged(path, "it was made by another version of doseeng; restore it with that one")
        members = tuple(Member(**member) for member in values.pop("members"))
        summary = BackupSummary(**{**values, "members": members, "missing": tuple(values["missing"])})
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, "its manifest cannot be read") from error
    for member in members:
        parts = member.name.split("/")
        is_file = len(parts) == 2 and parts[0] == "files" and parts[1] not in ("", ".", "..")
        is_blob = len(parts) == 3 and parts[0] == "blobs" and parts[2] == member.sha256
        if not (is_file or is_blob or member.name in (SQLITE, POSTGRES)) or "\\" in member.name:
            raise damaged(path, f"'{member.name[:100]}' has no place in a backup")
    return summary


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without who made it where."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o600
    return info


def damaged(path: Path, what: str) -> JobError:
    """The error for a file that cannot be restored."""
    return JobError(f"backup '{path.name}' is damaged: {what}; nothing of it was restored, take another one")

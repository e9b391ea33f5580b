"""Blobs as files of one folder: complete or not at all, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cluster.storage.blobs import DIGEST, Blob, StorageUnavailable, checked_digest, digest_of, require_equal
from doseeng.errors import JobError

INCOMING: Final = ".incoming"
"""Folder of what is being written; on the same file system, so that a rename is all that is left to do."""
STALE_S: Final = 24 * 3600.0
"""A file in `INCOMING` that has not grown for so long belongs to nobody."""
CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FileBlobs:
    """The blobs of one site below `folder`, which is made when the first comes: FOLDER/ab/cdef... by digest."""

    folder: Path

    def put(self, data: bytes | Path) -> Blob:
        """As `BlobStore.put`. What is written has reached the disk when this returns."""
        sha256, size = digest_of(data)
        path = self._path(sha256)
        incoming = self.folder / INCOMING / uuid.uuid4().hex
        try:
            if _renewed(path, size):
                return Blob(sha256, size)
            incoming.parent.mkdir(parents=True, exist_ok=True)
            written = _write(data, incoming)
            path = self._path(written.sha256)
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                _sync_folder(self.folder)
            os.replace(incoming, path)
            _sync_folder(path.parent)
        except OSError as error:
            _forget(incoming)
            raise StorageUnavailable(
                f"{error.strerror or error}: a blob of {size} bytes cannot be written in {self.folder}; nothing of it "
                "was kept; make space there or move data_dir to a larger disk, what waits for it goes on by itself"
            ) from error
        return written

    def get(self, sha256: str) -> bytes:
        """As `BlobStore.get`."""
        with self._opened(sha256) as file:
            data = file.read()
        require_equal(sha256, hashlib.sha256(data).hexdigest(), str(self.folder))
        return data

    def copy_to(self, sha256: str, path: Path) -> Path:
        """As `BlobStore.copy_to`. A copy and no link: who writes into it must not write into the store."""
        with self._opened(sha256) as source, path.open("wb") as target:
            copied = _copy(source, target)
        if copied.sha256 != sha256:
            path.unlink()
        require_equal(sha256, copied.sha256, str(self.folder))
        return path

    def has(self, sha256: str) -> bool:
        """As `BlobStore.has`."""
        return self._path(sha256).is_file()

    def delete(self, sha256: str, older_than_s: float = 0.0) -> bool:
        """As `BlobStore.delete`, and safe beside a `put` of the same bytes: that one finds it gone and writes it anew,
        or has made it young before it was taken away, and then it comes back."""
        path, aside = self._path(sha256), self.folder / INCOMING / uuid.uuid4().hex
        try:
            aside.parent.mkdir(exist_ok=True)
            path.rename(aside)
        except FileNotFoundError:
            return False
        if older_than_s and _age_s(aside) < older_than_s:
            os.replace(aside, path)
            return False
        aside.unlink()
        return True

    def older_than(self, age_s: float) -> Iterator[Blob]:
        """As `BlobStore.older_than`. What a killed writer left half way is removed on the way."""
        for left in (self.folder / INCOMING).glob("*"):
            if _age_s(left) > STALE_S:
                _forget(left)
        return (blob for blob, blob_age_s in self._listed() if blob_age_s >= age_s)

    def __iter__(self) -> Iterator[Blob]:
        """As `BlobStore.__iter__`."""
        return (blob for blob, _ in self._listed())

    def _listed(self) -> Iterator[tuple[Blob, float]]:
        for folder in sorted(self.folder.glob("??")):
            for path in sorted(folder.iterdir()):
                digest = folder.name + path.name
                # Others may delete while this one looks.
                with suppress(FileNotFoundError):
                    found = path.stat()
                    if DIGEST.fullmatch(digest):
                        yield Blob(digest, found.st_size), time.time() - found.st_mtime

    def _path(self, sha256: str) -> Path:
        digest = checked_digest(sha256)
        return self.folder / digest[:2] / digest[2:]

    def _opened(self, sha256: str) -> BinaryIO:
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError as error:
            raise JobError(
                f"blob {sha256} is not in {self.folder}; it was removed by a retention rule, or never put at this "
                "site: restore it from a backup, or bring what it was made from again"
            ) from error
        except OSError as error:
            raise StorageUnavailable(
                f"{self.folder}: blob {sha256} cannot be read ({error.strerror or error}); check the disk and who "
                "owns the folder"
            ) from error


def _write(data: bytes | Path, path: Path) -> Blob:
    """The digest is of what was written: a file may have changed since it was looked at."""
    with path.open("xb") as target:
        if isinstance(data, bytes):
            target.write(data)
            written = Blob(hashlib.sha256(data).hexdigest(), len(data))
        else:
            with data.open("rb") as source:
                written = _copy(source, target)
        target.flush()
        os.fsync(target.fileno())
    return written


def _copy(source: BinaryIO, target: BinaryIO) -> Blob:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
        size += len(chunk)
    return Blob(digest.hexdigest(), size)


def _renewed(path: Path, size: int) -> bool:
    """Whether it is there, complete; then it is young again, so that collecting leaves it alone."""
    try:
        os.utime(path)
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget(path: Path) -> None:
    with suppress(OSError):
        path.unlink()

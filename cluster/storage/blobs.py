"""Where bytes are kept: by their SHA-256, apart per site, complete or not at all. DICOM objects and results alike."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from doseeng.errors import JobError

DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class StorageUnavailable(JobError):
    """The store takes or gives nothing now: its disk is full, or its server does not answer. It is no fault of the job
    that needed it, which goes back to the queue."""


@dataclass(frozen=True, slots=True)
class Blob:
    """What was stored."""

    sha256: str
    size: int


class BlobStore(Protocol):
    """The blobs of one site. Picklable: workers open it themselves. JobError for a blob that is absent or damaged;
    StorageUnavailable, which is one, while the store cannot be used."""

    def put(self, data: bytes | Path) -> Blob:
        """Keep bytes, or those of a file; what is there already is left as it is, but counts as put now.
        StorageUnavailable when there is no space."""

    def get(self, sha256: str) -> bytes:
        """The bytes, checked."""

    def copy_to(self, sha256: str, path: Path) -> Path:
        """The bytes as a file of the caller's, checked."""

    def has(self, sha256: str) -> bool:
        """Whether it is there."""

    def delete(self, sha256: str, older_than_s: float = 0.0) -> bool:
        """Forget it, unless it was put more recently; False when it stays or is not there."""

    def older_than(self, age_s: float) -> Iterator[Blob]:
        """Those that were put at least so long ago."""

    def __iter__(self) -> Iterator[Blob]:
        """All that is there."""


def digest_of(data: bytes | Path) -> tuple[str, int]:
    """SHA-256 in hex and size of bytes, or of those of a file."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest(), len(data)
    with data.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size


def checked_digest(sha256: str) -> str:
    """The same; JobError for what is no SHA-256 in lower-case hex: it becomes part of a path."""
    if not DIGEST.fullmatch(sha256):
        raise JobError(f"'{sha256[:80]}' is no SHA-256 in hex; blobs are asked for by the digest that put gave")
    return sha256


def require_equal(sha256: str, found: str, where: str) -> None:
    """JobError when the bytes that were read are not those that were put."""
    if found != sha256:
        raise JobError(
            f"blob {sha256} in {where} is damaged: its bytes now have SHA-256 {found}; restore it from a backup, or "
            "bring what it was made from again"
        )

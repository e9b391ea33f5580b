"""Where bytes are kept: by their SHA-256, apart per site, complete or not at all. DICOM objects and results alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Blob:
    """What was stored."""

    sha256: str
    size: int


class BlobStore(Protocol):
    """The blobs of one site. Picklable: workers open it themselves. JobError for a blob that is absent or damaged."""

    def put(self, data: bytes | Path) -> Blob:
        """Keep bytes, or those of a file; what is there already is left as it is. JobError when there is no space."""

    def get(self, sha256: str) -> bytes:
        """The bytes, checked."""

    def copy_to(self, sha256: str, path: Path) -> Path:
        """The bytes as a file of the caller's, checked."""

    def has(self, sha256: str) -> bool:
        """Whether it is there."""

    def delete(self, sha256: str) -> None:
        """Forget it; nothing when it is not there."""

    def __iter__(self) -> Iterator[Blob]:
        """All that is there."""

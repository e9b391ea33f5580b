"""ZIP archives from strangers: judged by their directory before anything is unpacked, and read one entry at a time.

Names of entries are never used, neither as paths nor in answers: they may point anywhere, and often hold a patient.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from doseeng.errors import DoseengError

MOST_ENTRIES: Final = 20_000
"""A 4D CT with its plan has about 2,000."""
MOST_ENTRY_BYTES: Final = 2 * 2**30
"""Of one DICOM object."""
MOST_RATIO: Final = 50
"""Images shrink to a third or so, phantoms of air and water to a fiftieth; bombs to a thousandth and less."""
RATIO_COUNTS_FROM: Final = 256 * 2**20
"""Less than this harms nobody, however small it was packed."""

_CHUNK: Final = 2**20
_DIRECTORY_BYTES: Final = MOST_ENTRIES * 512
"""Of the central directory, which is read as a whole: fixed part, name and extra fields of every entry."""
_END: Final = struct.Struct("<4s4H2LH")
"""End of central directory record: APPNOTE.TXT of PKWARE, section 4.3.16."""
_END_SIGNATURE: Final = b"PK\x05\x06"
_LOCATOR_SIGNATURE: Final = b"PK\x06\x07"
_LOCATOR_BYTES: Final = 20
_LONGEST_COMMENT: Final = 0xFFFF
_LOCAL_HEADER_BYTES: Final = 30
_ENCRYPTED: Final = 0x1
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip
"""What Python's reader raises for archives that are damaged, or made to do damage."""


class ArchiveRefused(DoseengError):
    """An archive that is damaged or would unpack to more than is allowed. is_too_large: the latter."""

    def __init__(self, message: str, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.is_too_large = is_too_large


@dataclass(frozen=True, slots=True)
class Entry:
    """number: from 1, in the order of the archive. path: where it lies, for the caller to remove; None when it was
    refused for `reason`."""

    number: int
    path: Path | None
    reason: str = ""


def is_zip(path: Path) -> bool:
    """Whether a file begins like an archive and not like DICOM, whose preamble may hold anything."""
    with path.open("rb") as file:
        head = file.read(132)
    return head[:4] in (b"PK\x03\x04", _END_SIGNATURE) and head[128:] != b"DICM"


def entries(archive: Path, folder: Path, most_bytes: int) -> Iterator[Entry]:
    """The files in an archive, each unpacked into `folder` when it is asked for. most_bytes: of all of them together.

    ArchiveRefused before anything is unpacked for an archive that is no good as a whole.
    """
    with archive.open("rb") as file:
        _check_directory(file)
        try:
            opened = zipfile.ZipFile(file)
        except _BROKEN as error:
            raise ArchiveRefused("the archive's directory cannot be read; make it again") from error
        infos = opened.infolist()
        _check_sizes(infos, archive.stat().st_size, most_bytes)
        for number, info in enumerate(infos, start=1):
            if info.is_dir():
                continue
            unpacked = folder / f"entry-{number}"
            reason = _refusal(info) or _unpack(opened, info, unpacked)
            if not reason and is_zip(unpacked):
                reason = "is an archive in an archive; send it by itself"
            if reason:
                unpacked.unlink(missing_ok=True)
            yield Entry(number, None if reason else unpacked, reason)


def _check_directory(file: IO[bytes]) -> None:
    """What Python's reader would take for the size of the directory, before it reads that into memory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - _LONGEST_COMMENT))
    tail = file.read()
    at = len(tail) - _END.size
    if at < 0 or tail[at : at + 4] != _END_SIGNATURE or tail[-2:] != b"\0\0":
        at = tail.rfind(_END_SIGNATURE)
    if at < 0 or len(tail) < at + _END.size:
        raise ArchiveRefused("the archive has no directory at its end; it was cut off, or is no ZIP file")
    if at >= _LOCATOR_BYTES and tail[at - _LOCATOR_BYTES :][:4] == _LOCATOR_SIGNATURE:
        raise ArchiveRefused("the archive is a ZIP64 one; send several smaller archives", is_too_large=True)
    *_, count, directory_bytes, _offset, _comment = _END.unpack_from(tail, at)
    if count > MOST_ENTRIES or directory_bytes > _DIRECTORY_BYTES:
        raise ArchiveRefused(
            f"the archive says that it has {count} entries; at most {MOST_ENTRIES} are taken at once", is_too_large=True
        )


def _check_sizes(infos: list[zipfile.ZipInfo], archive_bytes: int, most_bytes: int) -> None:
    total = sum(info.file_size for info in infos)
    if len(infos) > MOST_ENTRIES or total > most_bytes:
        raise ArchiveRefused(
            f"the archive unpacks to {total / 2**20:.0f} MB in {len(infos)} entries; at most {most_bytes / 2**20:.0f} "
            f"MB in {MOST_ENTRIES} entries are taken at once",
            is_too_large=True,
        )
    if total > max(RATIO_COUNTS_FROM, MOST_RATIO * archive_bytes):
        raise ArchiveRefused(
            f"the archive unpacks to {total / archive_bytes:.0f} times its size; at most {MOST_RATIO} times is taken",
            is_too_large=True,
        )
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ArchiveRefused("entries of the archive overlap, as they do in archives made to do damage")
        end = info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size


def _refusal(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        return "is a link or device, and no file"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted; send it without a password"
    if info.compress_type not in _METHODS:
        return "is packed in an unusual way; expected 'deflate' or none"
    if info.file_size > MOST_ENTRY_BYTES:
        return f"is {info.file_size / 2**30:.1f} GB; at most {MOST_ENTRY_BYTES / 2**30:.0f} GB are taken"
    return ""


def _unpack(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> str:
    """Why the entry cannot be unpacked, or ""."""
    try:
        with opened.open(info) as source, path.open("wb") as target:
            count = 0
            while chunk := source.read(_CHUNK):
                count += len(chunk)
                if count > info.file_size:
                    return "is longer than it says"
                target.write(chunk)
    except _BROKEN:
        return "is damaged and cannot be unpacked"
    return "" if count == info.file_size else "is shorter than it says"

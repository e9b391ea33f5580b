"""Damage to bytes, as faulty software, broken lines and hostile people do it; and what a process uses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

Random = np.random.Generator
MOST_GROWTH_MB: Final = 16.0
"""Of a process after its warm-up; over 4000 items a leak of 4 kB in each would show."""
LENGTHS: Final = (0, 1, 2, 0x7F, 0xFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
VRS: Final = (b"OB", b"OW", b"SQ", b"UN", b"UI", b"DS", b"IS", b"US", b"PN", b"LO", b"AT", b"FD", b"UT", b"ZZ")
MARKS: Final = (
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",  # item of undefined length
    b"\xfe\xff\x0d\xe0\x00\x00\x00\x00",  # end of an item
    b"\xfe\xff\xdd\xe0\x00\x00\x00\x00",  # end of a sequence
    b"\xe0\x7f\x10\x00OW\x00\x00\xff\xff\xff\xff",  # pixel data of undefined length
)
_EXPLICIT: Final = re.compile(rb"[\x00-\xff]{4}(?:[A-Z]{2})")
_UID_LENGTH: Final = 40


def mutated(random: Random, data: bytes) -> bytes:
    """`data` with one to three kinds of damage, most often one: what is damaged too much is refused at once."""
    for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
        if data:
            data = _KINDS[int(random.integers(len(_KINDS)))](random, data)
    return data


def with_uid(data: bytes, number: int) -> bytes:
    """The object with another SOP Instance UID of the same length, in file meta and dataset."""
    place = data.find(b"\x08\x00\x18\x00")
    found = re.compile(rb"[0-9.]{20,64}").search(data, place + 6)
    if place < 0 or found is None:
        return data
    uid = found.group()
    made = (b"1.2.826.0.1.3680043.10.4711.9." + b"%d" % (10**9 + number)).ljust(len(uid), b"7")[: len(uid)]
    return data.replace(uid, made) if len(uid) >= _UID_LENGTH else data


def _flip(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for place in random.integers(0, len(changed), size=int(random.integers(1, 17))):
        changed[place] ^= 1 << int(random.integers(8))
    return bytes(changed)


def _garble(random: Random, data: bytes) -> bytes:
    start, length = _span(random, data)
    return data[:start] + random.bytes(length) + data[start + length :]


def _cut_end(random: Random, data: bytes) -> bytes:
    return data[: int(random.integers(len(data)))]


def _take_out(random: Random, data: bytes) -> bytes:
    start, length = _span(random, data)
    return data[:start] + data[start + length :]


def _double(random: Random, data: bytes) -> bytes:
    start, length = _span(random, data)
    return data[: start + length] + data[start:]


def _wrong_length(random: Random, data: bytes) -> bytes:
    """Of two or four bytes at the place where explicit elements have their length, or anywhere."""
    heads = [found.start() for found in _EXPLICIT.finditer(data)]
    place = heads[int(random.integers(len(heads)))] + 6 if heads else int(random.integers(len(data)))
    size = int(random.choice([2, 4]))
    value = LENGTHS[int(random.integers(len(LENGTHS)))] & (256**size - 1)
    order = "little" if random.integers(2) else "big"
    return data[:place] + value.to_bytes(size, order) + data[place + size :]  # type: ignore[arg-type]


def _wrong_kind(random: Random, data: bytes) -> bytes:
    heads = [found.start() + 4 for found in _EXPLICIT.finditer(data)]
    if not heads:
        return _flip(random, data)
    place = heads[int(random.integers(len(heads)))]
    return data[:place] + VRS[int(random.integers(len(VRS)))] + data[place + 2 :]


def _mark(random: Random, data: bytes) -> bytes:
    place = int(random.integers(len(data)))
    return data[:place] + MARKS[int(random.integers(len(MARKS)))] * int(random.choice([1, 1, 1, 200])) + data[place:]


_KINDS: Final[tuple[Callable[[Random, bytes], bytes], ...]] = (
    _flip,
    _flip,
    _garble,
    _cut_end,
    _take_out,
    _double,
    _wrong_length,
    _wrong_length,
    _wrong_kind,
    _wrong_kind,
    _mark,
)


def _span(random: Random, data: bytes) -> tuple[int, int]:
    start = int(random.integers(len(data)))
    return start, int(random.integers(1, min(64, len(data) - start) + 1))


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """Resident memory, threads and open files of a process; zeros where the system does not tell."""

    rss_mb: float = 0.0
    threads: int = 0
    files: int = 0


def process_figures(pid: int | None = None) -> ProcessFigures:
    """Of this process, or another."""
    folder = Path("/proc") / str(os.getpid() if pid is None else pid)
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        return ProcessFigures(
            int(status["VmRSS"].split()[0]) / 1024.0, int(status["Threads"]), len(list((folder / "fd").iterdir()))
        )
    except (OSError, KeyError, ValueError):
        return ProcessFigures()

"""Bodies of uploads: streamed to disk as they come, one file per part, and never held in memory as a whole."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

from anyio import CapacityLimiter, to_thread
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

Result = TypeVar("Result")

UPLOADS: Final = "uploads"
"""Folder below data_dir; of its own disk, so that what is received need not cross to another one."""
MOST_PARTS: Final = 20_000
LEFT_S: Final = 24 * 3600.0
"""No upload takes a day; another process may be at a younger one."""
_AT_ONCE: Final = 2**20
"""Bytes gathered before a thread is asked to write them."""
_LONGEST_HEADER: Final = 1024

RECEIVING: Final = CapacityLimiter(4)
"""Uploads that are unpacked and read at the same time: the other threads stay free for quick answers."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of an upload. media_type: as its sender said, lower case, without parameters; "" for none."""

    path: Path
    media_type: str


def media_type_of(request: Request) -> tuple[str, dict[str, str]]:
    """The media type of a body, lower case, and its parameters."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    return kind.decode("latin-1").lower(), {k.decode("latin-1"): v.decode("latin-1") for k, v in options.items()}


@asynccontextmanager
async def spooled(request: Request, folder: Path) -> AsyncIterator[tuple[Path, list[Part]]]:
    """The parts of a body in a folder below `folder`, which is removed with all that is in it afterwards.

    HTTPException 400 for a body that is no multipart message although its type says so, or that was broken off.
    """
    kind, options = media_type_of(request)
    own = await to_thread.run_sync(_made, folder)
    try:
        if kind.startswith("multipart/"):
            parts = await _multipart(request, own, options.get("boundary", ""))
        else:
            parts = await _single(request, own, kind)
        yield own, parts
    except ClientDisconnect as error:
        raise HTTPException(400, "the upload was broken off; send it again") from error
    finally:
        await to_thread.run_sync(partial(shutil.rmtree, own, ignore_errors=True))


def remove_left(folder: Path, age_s: float = LEFT_S) -> None:
    """Remove what is left of uploads that were under way when their process was killed."""
    for path in folder.glob("*"):
        if time.time() - path.stat().st_mtime > age_s:
            shutil.rmtree(path, ignore_errors=True)


async def receiving(work: Callable[[], Result]) -> Result:
    """Run `work` in a thread, a few at a time."""
    return await to_thread.run_sync(work, limiter=RECEIVING)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=folder))


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces that are worth a thread's while."""
    gathered = bytearray()
    async for chunk in request.stream():
        gathered += chunk
        if len(gathered) >= _AT_ONCE:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


async def _single(request: Request, folder: Path, kind: str) -> list[Part]:
    path = folder / "part-1"
    file = await to_thread.run_sync(path.open, "wb")
    try:
        async for chunk in _chunks(request):
            await to_thread.run_sync(file.write, chunk)
    finally:
        await to_thread.run_sync(file.close)
    return [Part(path, kind)] if path.stat().st_size else []


async def _multipart(request: Request, folder: Path, boundary: str) -> list[Part]:
    if not boundary:
        raise HTTPException(400, "the Content-Type names no boundary between the parts of the body")
    writer = _PartWriter(folder)
    try:
        parser = MultipartParser(boundary.encode("latin-1"), writer.callbacks())
        async for chunk in _chunks(request):
            await to_thread.run_sync(parser.write, chunk)
        parser.finalize()
    except MultipartParseError as error:
        raise HTTPException(400, "the body is no multipart message with the boundary that its type names") from error
    finally:
        await to_thread.run_sync(writer.close)
    if not writer.is_complete:
        raise HTTPException(400, "the body ends before its last part does; send it again")
    return writer.parts


@dataclass(slots=True, eq=False)
class _PartWriter:
    """Takes what the parser finds, for form-data and related alike: parts differ in their headers alone."""

    folder: Path
    parts: list[Part] = field(default_factory=list)
    is_complete: bool = False
    _name: bytes = b""
    _value: bytes = b""
    _kind: str = ""
    _file: IO[bytes] | None = None

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all_done,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        if len(self.parts) >= MOST_PARTS:
            raise HTTPException(413, f"more than {MOST_PARTS} parts; send several requests")
        self._name = self._value = b""
        self._kind = ""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name = (self._name + data[start:end])[:_LONGEST_HEADER]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value = (self._value + data[start:end])[:_LONGEST_HEADER]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-type":
            self._kind = self._value.split(b";")[0].strip().decode("latin-1").lower()
        self._name = self._value = b""

    def _open(self) -> None:
        path = self.folder / f"part-{len(self.parts) + 1}"
        self._file = path.open("wb")
        self.parts.append(Part(path, self._kind))

    def _data(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None
        self._file.write(data[start:end])

    def _end(self) -> None:
        assert self._file is not None
        self._file.close()

    def _all_done(self) -> None:
        self.is_complete = True

"""From an item's folder or zip to a complete job: its objects go into the batch's blob store.

Each item is a library of its own: two items may hold different objects of one UID, and one that is broken spoils no
other. What was taken in is remembered by the names, sizes and times of the files, so that a batch that goes on reads
nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import doseeng
from cluster.batch.identity import Identity, identity_of, without_paths
from cluster.batch.manifest import Item
from cluster.database.connection import Database, connect
from cluster.database.tables import Table
from cluster.jobs.model import JobKind, JobSpec
from cluster.library.entries import CaseObjects, ImageObjects
from cluster.library.library import Library
from cluster.service.config import Site
from cluster.storage.blobs import BlobStore
from cluster.workflows.options import AdaptOptions, DoseOptions, EvaluateOptions
from cluster.workflows.specs import adapt_spec, dose_spec, evaluate_spec
from doseeng.dicom.files import PARSE_ERRORS, is_dicom, opened_folder, read_header
from doseeng.errors import DicomError, DoseengError

SCHEMA: Final = 1
"""Of what is remembered; another one is read anew."""
DICOMDIR: Final = "DICOMDIR"
_QUOTED: Final = re.compile(r"^'[^']*'\s*")


class IntakeError(DicomError):
    """An item that cannot be computed, with a message that tells nobody who the patient is. kind: of the error."""

    def __init__(self, message: str, kind: str, name: str) -> None:
        super().__init__(message)
        self.kind, self.name = kind, name


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What an item holds, without the bytes. tells_name: the item's name tells who the patient is."""

    case: CaseObjects
    image: ImageObjects | None
    tells_name: bool


@dataclass(slots=True)
class _Reading:
    """An item while it is read: its library, and who it is about."""

    library: Library
    identity: Identity = field(default_factory=Identity)


class ItemLibrary(Library):
    """The library of one item that was taken in before: it knows one plan and at most one image."""

    def __init__(self, taken: TakenIn, blobs: BlobStore) -> None:
        self._taken, self._blobs = taken, blobs

    def blobs(self, site: str) -> BlobStore:
        """The batch's."""
        return self._blobs

    def case_objects(self, site: str, plan_uid: str) -> CaseObjects:
        """The item's."""
        return self._taken.case

    def image_objects(self, site: str, series_uid: str) -> ImageObjects:
        """The item's."""
        if self._taken.image is None:
            raise DicomError("this item has no image of a day; name one in the manifest")
        return self._taken.image


@dataclass(frozen=True, slots=True)
class Intake:
    """memory: folder of what is remembered of items."""

    blobs: BlobStore
    site: Site
    kind: JobKind
    memory: Path

    def spec_of(self, item: Item, number: int) -> tuple[str, JobSpec]:
        """The name to show and the job of an item. IntakeError: it cannot be computed."""
        index = _private_index()
        reading = _Reading(Library(index, lambda _site: self.blobs))
        try:
            taken = self._taken_in(item, reading)
            return shown_name(item, number, taken.tells_name), self._spec(item, taken)
        except DoseengError as error:
            told = without_paths(str(error), item.case, item.image)
            name = shown_name(item, number, reading.identity.is_in(item.name))
            raise IntakeError(reading.identity.taken_out(told), type(error).__name__, name) from error
        finally:
            index.close()

    def _spec(self, item: Item, taken: TakenIn) -> JobSpec:
        library, options = ItemLibrary(taken, self.blobs), item.options
        if isinstance(options, DoseOptions):
            return dose_spec(library, self.site, taken.case.plan_uid, options)
        if isinstance(options, EvaluateOptions):
            return evaluate_spec(library, self.site, taken.case.plan_uid, options)
        assert isinstance(options, AdaptOptions)
        series = taken.image.series_uid if taken.image else ""
        return adapt_spec(library, self.site, taken.case.plan_uid, series, options)

    def _taken_in(self, item: Item, reading: _Reading) -> TakenIn:
        remembered = self.memory / f"{_digest([str(item.case.absolute()), item.plan_uid, str(item.image)])}.json"
        mark = _digest([SCHEMA, doseeng.__version__, item.name, *_fingerprint(item)])
        known = _recalled(remembered, mark)
        if known is not None and all(self.blobs.has(sha256) for sha256 in _digests(known)):
            return known
        taken = self._read(item, reading)
        _remember(remembered, mark, taken)
        return taken

    def _read(self, item: Item, reading: _Reading) -> TakenIn:
        site = self.site.name
        with ExitStack() as stack:
            for folder in _folders(item, stack):
                self._receive(folder, reading)
                plan_uid = item.plan_uid or _only_plan(reading.library, site)
                try:
                    case = reading.library.case_objects(site, plan_uid)
                    break
                except DicomError as error:
                    problem = error
            else:
                raise problem
            image = None if item.image is None else self._image(stack.enter_context(opened_folder(item.image)), reading)
        return TakenIn(case, image, reading.identity.is_in(item.name))

    def _image(self, folder: Path, reading: _Reading) -> ImageObjects:
        received = self._receive(folder, reading)
        known = {e.series_uid for e in reading.library.series(self.site.name) if e.role == "CT slice"}
        series = sorted(known & {uid for uid in received if uid})
        if len(series) != 1:
            raise DicomError(
                f"the image holds {len(series)} CT series, expected one; give a folder with the image of one day"
            )
        return reading.library.image_objects(self.site.name, series[0])

    def _receive(self, folder: Path, reading: _Reading) -> set[str]:
        """Take every DICOM object below a folder in; the series that there are. DicomError for a damaged one."""
        series: set[str] = set()
        patients: set[str] = set()
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DICOMDIR)
        for number, path in enumerate(files, start=1):
            if not is_dicom(path):
                continue
            try:
                received = reading.library.receive(self.site.name, path)
                if received.patient_key not in patients:
                    reading.identity |= identity_of(read_header(path))
                patients.add(received.patient_key)
                series.add(received.series_uid)
            except (DicomError, *PARSE_ERRORS) as error:
                reading.identity |= _identity_in(files)
                raise DicomError(f"{_place(path, number, files, folder, reading)}: {_told(error)}") from error
        return series


def _identity_in(files: Sequence[Path]) -> Identity:
    """That of all files that can be read at all: the one that cannot be may be named after the patient."""
    identity = Identity()
    for path in files:
        try:
            identity |= identity_of(read_header(path))
        except (DicomError, *PARSE_ERRORS):
            continue
    return identity


def _place(path: Path, number: int, files: Sequence[Path], folder: Path, reading: _Reading) -> str:
    name = f", '{path.relative_to(folder).as_posix()}'" if reading.identity.is_known else ""
    return f"file {number} of {len(files)} in the order of names{name}"


def _told(error: Exception) -> str:
    if not isinstance(error, DicomError):
        return "is damaged; copy or export it again"
    # What the error calls the file is the library's name for it, or the one that is said here already.
    return _QUOTED.sub("", str(error))


def shown_name(item: Item, number: int, tells_name: bool) -> str:
    """The item's name, or its number when that tells who the patient is."""
    return f"item-{number:03d}" if tells_name else item.name


def _folders(item: Item, stack: ExitStack) -> Iterator[Path]:
    """Where to look for the case: its folder, then those above it as far as that is allowed."""
    yield stack.enter_context(opened_folder(item.case))
    folder = item.case
    while item.within is not None and folder != item.within:
        folder = folder.parent
        yield folder


def _only_plan(library: Library, site: str) -> str:
    plans = library.plans(site)
    if len(plans) == 1:
        return plans[0].plan_uid
    found = "; ".join(f"{plan.plan_uid} '{plan.label}'" for plan in plans) or "none"
    raise DicomError(f"expected one plan with treatment beams, found {found}; name one in the column 'plan'")


def _private_index() -> Database:
    """An index in memory that knows one item."""
    database = connect("sqlite://")
    Table.metadata.create_all(database.engine)
    return database


def _fingerprint(item: Item) -> list[Any]:
    """Names, sizes and times of the files of an item."""
    marks: list[Any] = []
    for path in (item.within or item.case, item.image):
        if path is None or not path.exists():
            marks.append(None)
            continue
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        stats = [(p.relative_to(path).as_posix(), p.stat()) for p in files]
        marks.append([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    return marks


def _digest(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _digests(taken: TakenIn) -> tuple[str, ...]:
    return (*taken.case.sha256s, *(taken.image.sha256s if taken.image else ()))


def _remember(path: Path, mark: str, taken: TakenIn) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    part.write_text(json.dumps({"mark": mark, **asdict(taken)}), encoding="utf-8")
    os.replace(part, path)


def _recalled(path: Path, mark: str) -> TakenIn | None:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["mark"] != mark:
            return None
        case = CaseObjects(**{**held["case"], "sha256s": tuple(held["case"]["sha256s"])})
        image = held["image"] and ImageObjects(**{**held["image"], "sha256s": tuple(held["image"]["sha256s"])})
        return TakenIn(case, image or None, held["tells_name"])
    except (OSError, ValueError, KeyError, TypeError):
        # Half of it, or of another version: what was taken in is taken in again.
        return None

"""How objects come into a library: headers are checked, bytes are kept, then one transaction indexes them all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cluster.database.connection import Database
from cluster.database.tables import InstanceRow
from cluster.library.entries import Received
from cluster.library.header import Header, read_object_header
from cluster.storage.blobs import BlobStore, digest_of
from doseeng.errors import DicomError, JobError

BY_HTTP: Final = "(by HTTP, without AE title)"
"""`calling_ae` of what came through the API: longer than the 16 characters of an AE title, so that it is nobody's."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An object that was not taken in. sop_class_uid, sop_uid: "" when it could not be read that far."""

    reason: str
    sop_class_uid: str = ""
    sop_uid: str = ""
    is_of_other_study: bool = False


Outcome = Received | Refused
OnReceived = Callable[[Session, Sequence[Received]], None]
"""Called inside the transaction that indexes objects: what it writes is there exactly when they are."""


def nothing_more(_session: Session, _received: Sequence[Received]) -> None:
    """The `OnReceived` that does nothing."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes objects of one site in. calling_ae: of who sent them. study_uid: objects of other studies are refused; ""
    for any."""

    database: Database
    blobs: BlobStore
    site: str
    calling_ae: str = ""
    study_uid: str = ""
    on_received: OnReceived = nothing_more

    def take(self, files: Sequence[bytes | Path]) -> list[Outcome]:
        """What became of each. JobError when nothing can be stored."""
        outcomes: list[_Read | Refused] = []
        with as_files(files) as paths:
            for data, path in zip(files, paths, strict=True):
                outcomes.append(self._read(data, path))
        uids = [one.header.sop_uid for one in outcomes if isinstance(one, _Read)]
        if not uids:
            return [one for one in outcomes if isinstance(one, Refused)]
        known = self.database.retrying(lambda session: _known(session, self.site, uids), reads=True)
        for index, (data, one) in enumerate(zip(files, outcomes, strict=True)):
            if isinstance(one, _Read):
                # The bytes come first: an index entry never points to what is not there.
                if known.setdefault(one.header.sop_uid, one.sha256) == one.sha256:
                    self.blobs.put(data)
                else:
                    outcomes[index] = _conflict(one, known[one.header.sop_uid])
        # Each failure means that another connection has put one of these objects in meanwhile; then it is found.
        for _ in uids:
            with suppress(IntegrityError):
                return self.database.retrying(lambda session: self._index(session, outcomes))
        return self.database.retrying(lambda session: self._index(session, outcomes))

    def _read(self, data: bytes | Path, path: Path) -> _Read | Refused:
        try:
            header = read_object_header(path)
        except DicomError as error:
            return Refused(str(error))
        if self.study_uid not in ("", header.study_uid):
            reason = "the object belongs to another study than the one it was sent to"
            return Refused(reason, header.sop_class_uid, header.sop_uid, is_of_other_study=True)
        return _Read(header, *digest_of(data))

    def _index(self, session: Session, outcomes: Sequence[_Read | Refused]) -> list[Outcome]:
        known = _known(session, self.site, [one.header.sop_uid for one in outcomes if isinstance(one, _Read)])
        rows: list[dict[str, Any]] = []
        found: list[Outcome] = []
        for one in outcomes:
            if isinstance(one, Refused):
                found.append(one)
                continue
            uid = one.header.sop_uid
            is_new = uid not in known
            if known.setdefault(uid, one.sha256) != one.sha256:
                found.append(_conflict(one, known[uid]))
                continue
            if is_new:
                rows.append(self._row(one))
            found.append(_received(one, is_new))
        if rows:
            # In one order everywhere, so that two who bring the same objects do not wait for each other.
            session.execute(insert(InstanceRow), sorted(rows, key=lambda row: str(row["sop_uid"])))
        self.on_received(session, [one for one in found if isinstance(one, Received)])
        return found

    def _row(self, one: _Read) -> dict[str, Any]:
        row = asdict(one.header) | {name: list(getattr(one.header, name)) for name in ("plan_uids", "references")}
        where = {"site": self.site, "calling_ae": self.calling_ae, "received_at": datetime.now(UTC)}
        return row | where | {"sha256": one.sha256, "size": one.size}


@dataclass(frozen=True, slots=True)
class _Read:
    """An object whose header is sound."""

    header: Header
    sha256: str
    size: int


def _known(session: Session, site: str, uids: Iterable[str]) -> dict[str, str]:
    """Digests of those that are there, by SOP Instance UID."""
    query = select(InstanceRow.sop_uid, InstanceRow.sha256)
    found = session.execute(query.where(InstanceRow.site == site, InstanceRow.sop_uid.in_(uids)))
    return {uid: sha256 for uid, sha256 in found}


def _conflict(one: _Read, sha256: str) -> Refused:
    uid = one.header.sop_uid
    reason = (
        f"object {uid} was received before with other content (SHA-256 {sha256[:12]}..., now {one.sha256[:12]}...); "
        "the first one stays: an object that was changed needs a SOP Instance UID of its own"
    )
    return Refused(reason, one.header.sop_class_uid, uid)


def _received(one: _Read, is_new: bool) -> Received:
    header = one.header
    uids = (header.sop_uid, header.sop_class_uid, header.series_uid, header.study_uid)
    return Received(*uids, header.patient_key, header.modality, one.sha256, is_new)


@contextmanager
def as_files(files: Sequence[bytes | Path]) -> Iterator[list[Path]]:
    """Files with names of ours: names that people give files may tell who the patient is."""
    with tempfile.TemporaryDirectory(prefix="doseeng-") as folder:
        paths = [Path(folder) / f"object{number}.dcm" for number in range(len(files))]
        try:
            for data, path in zip(files, paths, strict=True):
                if isinstance(data, Path):
                    path.symlink_to(data.absolute())
                else:
                    path.write_bytes(data)
        except OSError as error:
            raise JobError(
                f"a temporary file cannot be written ({error.strerror}); check space and permissions of the "
                "temporary folder"
            ) from error
        yield paths

"""The audit log: who saw or did what. Rows are only added, and each holds the digest of the one before it.

Changing, removing, inserting or swapping rows breaks the chain at that place. Two things it cannot show by itself: that
rows were cut off at its end, and that somebody with the rights of the service made the whole rest anew. For both there
is the anchor: number and digest of the newest row, noted beside the database (at most once a minute, and when the
service stops). A row that an anchor names must be there with that digest. Whoever may write the database may write that
file too, so copy it, or the head that `doseeng audit verify` prints, to where they cannot.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from cluster.database.connection import Database
from cluster.database.tables import KEY, NAME, AuditRow

FIRST: Final = "0" * KEY
"""What the first row has for the digest of the one before it."""
ANCHOR_EVERY_S: Final = 60.0
ANCHOR_NAME: Final = "audit-anchor.jsonl"
"""File in the service's data folder."""
LOCK_KEY: Final = 0x61756469
"""PostgreSQL's advisory lock that appending holds ("audi" in ASCII)."""
_PAGE: Final = 5000
_MOST_PROBLEMS: Final = 100
_OBJECT_ID: Final = 255

_log = logging.getLogger(__name__)


class Action(StrEnum):
    """What is written down. `append` takes other words too; exports then know no more than that something was done."""

    START = "start"
    STOP = "stop"
    LOGIN = "login"
    LOGOUT = "logout"
    ACCESS_DENIED = "access-denied"
    USER_ADD = "user-add"
    USER_CHANGE = "user-change"
    USER_DISABLE = "user-disable"
    TOKEN_ISSUE = "token-issue"
    TOKEN_REVOKE = "token-revoke"
    OBJECT_RECEIVE = "object-receive"
    OBJECT_SEND = "object-send"
    OBJECT_READ = "object-read"
    OBJECT_DELETE = "object-delete"
    QUERY = "query"
    JOB_SUBMIT = "job-submit"
    JOB_CANCEL = "job-cancel"
    JOB_END = "job-end"
    RESULT_READ = "result-read"
    TREATMENT_START = "treatment-start"
    TREATMENT_END = "treatment-end"
    FLAG_SEND = "flag-send"
    FLAG_ACKNOWLEDGE = "flag-acknowledge"
    AUDIT_READ = "audit-read"
    AUDIT_EXPORT = "audit-export"
    BACKUP = "backup"
    RESTORE = "restore"
    DEIDENTIFY = "deidentify"
    REIDENTIFY = "reidentify"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row, as `cluster.database.tables.AuditRow`."""

    sequence: int
    at: datetime
    site: str
    actor: str
    role: str
    origin: str
    action: str
    object_type: str
    object_id: str
    outcome: str
    details: dict[str, Any]
    previous: str
    digest: str


@dataclass(frozen=True, slots=True)
class AuditProblem:
    """Where the log is not what was written. kind: changed, missing, replaced or cut-off."""

    sequence: int
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """rows: how many there are. head: digest of the newest. anchors: how many were compared."""

    rows: int
    sequence: int
    head: str
    anchors: int
    problems: tuple[AuditProblem, ...]

    @property
    def is_intact(self) -> bool:
        """Whether nothing was changed, as far as the chain and the anchors show."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Anchor:
    """The newest row at some time."""

    sequence: int
    digest: str


class AuditLog:
    """anchor: file that the head of the chain is noted in from time to time (`ANCHOR_NAME` in the data folder)."""

    def __init__(self, database: Database, anchor: Path | None = None) -> None:
        self._database = database
        self._anchor = anchor
        self._anchored_at = -ANCHOR_EVERY_S

    def append(
        self,
        *,
        site: str,
        actor: str,
        action: str,
        outcome: str = "success",
        role: str = "",
        origin: str = "",
        object_type: str = "",
        object_id: str = "",
        details: dict[str, Any] | None = None,
    ) -> AuditEntry:
        """Add a row; it is on disk when this returns. Too long or unprintable text is cut and cleaned, so that nothing
        that a stranger sends can keep a row out. Never a patient's name or identifier. ValueError for `details` that
        are no JSON."""
        named = {"site": site, "actor": actor, "role": role, "origin": origin, "action": str(action)}
        named |= {"object_type": object_type, "outcome": outcome}
        values: dict[str, Any] = {key: _clean(value, NAME) for key, value in named.items()}
        values["object_id"] = _clean(object_id, _OBJECT_ID)
        # There and back, so that what is digested is what the database gives back.
        values["details"] = json.loads(json.dumps(details or {}, allow_nan=False))
        values["at"] = datetime.now(UTC)
        entry = self._database.retrying(_appending(self._database.is_sqlite, values))
        if self._anchor is not None and time.monotonic() - self._anchored_at >= ANCHOR_EVERY_S:
            self._note(Anchor(entry.sequence, entry.digest))
        return entry

    def read(
        self, site: str, since: datetime | None = None, limit: int = 100, action: str = "", before: int | None = None
    ) -> list[AuditEntry]:
        """Newest first; `before`: only rows of lower sequence, to page on."""
        query = select(AuditRow).where(AuditRow.site == site).order_by(AuditRow.sequence.desc()).limit(limit)
        if since is not None:
            query = query.where(AuditRow.at >= since)
        if action:
            query = query.where(AuditRow.action == action)
        if before is not None:
            query = query.where(AuditRow.sequence < before)
        return self._database.retrying(lambda session: [_entry(row) for row in session.scalars(query)], reads=True)

    def head(self) -> Anchor:
        """Number and digest of the newest row, to be kept where nobody can change it; 0 when there is none."""
        return self._database.retrying(_head, reads=True)

    def anchor(self) -> None:
        """Note the head now, as when the service stops."""
        head = self.head()
        if self._anchor is not None and head.sequence:
            self._note(head)

    def verify(self, anchors: tuple[Anchor, ...] = ()) -> AuditCheck:
        """Read the whole log and say where it is not what was written. anchors: notes of the head that were kept
        elsewhere, besides those of the log's own file."""
        known = {a.sequence: a for a in (*read_anchors(self._anchor), *anchors)}
        found: set[int] = set()
        problems: list[AuditProblem] = []
        count, last = 0, Anchor(0, FIRST)
        for entry in self._all():
            problems += _judge(entry, last)
            note = known.get(entry.sequence)
            if note is not None:
                found.add(note.sequence)
                if note.digest != entry.digest:
                    what = "is not the row that was noted under that number: the log was made anew"
                    problems.append(AuditProblem(entry.sequence, "replaced", f"row {entry.sequence} {what}"))
            count, last = count + 1, Anchor(entry.sequence, entry.digest)
        lost = max((a for a in known if a > last.sequence), default=0)
        if lost:
            what = f"rows {last.sequence + 1} to at least {lost} are gone: the end of the log was cut off"
            problems.append(AuditProblem(last.sequence + 1, "cut-off", what))
        return AuditCheck(count, last.sequence, last.digest, len(known), tuple(problems[:_MOST_PROBLEMS]))

    def entries(self, site: str) -> Iterator[AuditEntry]:
        """All rows of a site, oldest first, for export."""
        return (entry for entry in self._all() if entry.site == site)

    def _all(self) -> Iterator[AuditEntry]:
        last = -1
        while True:
            entries = self._database.retrying(partial(_page, last=last), reads=True)
            yield from entries
            if len(entries) < _PAGE:
                return
            last = entries[-1].sequence

    def _note(self, head: Anchor) -> None:
        assert self._anchor is not None
        line = json.dumps({"sequence": head.sequence, "digest": head.digest, "at": datetime.now(UTC).isoformat()})
        self._anchored_at = time.monotonic()
        try:
            # One write of one short line in append mode: lines of several threads and processes do not mix.
            handle = os.open(self._anchor, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(handle, f"{line}\n".encode())
            finally:
                os.close(handle)
        except OSError as error:  # the row itself is safe; what was done must not fail for the note
            _log.error("audit log: its head could not be noted in %s: %s", self._anchor.name, error.strerror)


def read_anchors(path: Path | None) -> tuple[Anchor, ...]:
    """The notes in an anchor file; none when there is no file. A last line that was not finished is left out."""
    if path is None or not path.is_file():
        return ()
    notes = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            data = json.loads(line)
            notes.append(Anchor(int(data["sequence"]), str(data["digest"])))
        except (ValueError, KeyError, TypeError):
            continue
    return tuple(notes)


def digest_of(entry: AuditEntry) -> str:
    """SHA-256 of a row with the digest of the one before it, as canonical JSON (sorted keys, no spaces, ASCII)."""
    content = {name: getattr(entry, name) for name in _DIGESTED}
    content["at"] = entry.at.astimezone(UTC).isoformat(timespec="microseconds")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


_DIGESTED: Final = tuple(name for name in AuditEntry.__dataclass_fields__ if name != "digest")


def _appending(is_sqlite: bool, values: dict[str, Any]) -> Callable[[Session], AuditEntry]:
    attempts = 0

    def work(session: Session) -> AuditEntry:
        nonlocal attempts
        attempts += 1
        if not is_sqlite:  # SQLite's transactions that write are one at a time anyway
            session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        if attempts > 1 and (written := _written_before(session, values)) is not None:
            return written
        head = _head(session)
        bare = AuditEntry(**values, sequence=head.sequence + 1, previous=head.digest, digest="")
        entry = replace(bare, digest=digest_of(bare))
        session.execute(insert(AuditRow), {name: getattr(entry, name) for name in AuditEntry.__dataclass_fields__})
        return entry

    return work


def _written_before(session: Session, values: dict[str, Any]) -> AuditEntry | None:
    """The row, when its commit was done although its answer was lost."""
    same_time = session.scalars(select(AuditRow).where(AuditRow.at == values["at"]))
    return next((_entry(r) for r in same_time if all(getattr(r, name) == v for name, v in values.items())), None)


def _head(session: Session) -> Anchor:
    query = select(AuditRow.sequence, AuditRow.digest).order_by(AuditRow.sequence.desc()).limit(1)
    found = session.execute(query).first()
    return Anchor(*found) if found is not None else Anchor(0, FIRST)


def _page(session: Session, last: int) -> list[AuditEntry]:
    query = select(AuditRow).where(AuditRow.sequence > last).order_by(AuditRow.sequence).limit(_PAGE)
    return [_entry(row) for row in session.scalars(query)]


def _judge(entry: AuditEntry, last: Anchor) -> Iterator[AuditProblem]:
    number = entry.sequence
    if number != last.sequence + 1:
        gone = (
            f"row {last.sequence + 1} is"
            if number == last.sequence + 2
            else f"rows {last.sequence + 1} to {number - 1} are"
        )
        yield AuditProblem(last.sequence + 1, "missing", f"{gone} missing")
    elif entry.previous != last.digest:
        what = f"row {number} does not follow row {number - 1}: one of them was replaced, inserted or moved"
        yield AuditProblem(number, "replaced", what)
    if digest_of(entry) != entry.digest:
        yield AuditProblem(number, "changed", f"row {number} was changed after it was written, or moved from elsewhere")


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(**{name: getattr(row, name) for name in AuditEntry.__dataclass_fields__})


def _clean(value: str, longest: int) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)[:longest]

"""The worklist: what a person has to look at, who took note of it, and what became of the messages about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from cluster.database.connection import Database
from cluster.database.tables import FlagRow, OutboxRow
from cluster.jobs.rows import now
from doseeng.errors import JobError


@dataclass(frozen=True, slots=True)
class Sending:
    """A message about a flag. state: pending, sending, sent or dead (given up). error: of the last attempt."""

    destination: str
    state: str
    attempts: int
    sent_at: datetime | None
    error: str


@dataclass(frozen=True, slots=True)
class Flag:
    """One line. verdict: AMBER, RED, UNEVALUABLE or FAILED. details: kind, plan, reasons and goals of the job."""

    id: str
    site: str
    job_id: str
    verdict: str
    headline: str
    patient_key: str
    case_key: str
    details: dict[str, Any]
    created_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str
    comment: str
    messages: tuple[Sending, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Worklist:
    """The flags of all sites; every question names one site and never sees another's."""

    database: Database

    def open(self, site: str, include_acknowledged: bool = False, limit: int = 100) -> list[Flag]:
        """At most `limit` flags, newest first."""

        def work(session: Session) -> list[Flag]:
            query = select(FlagRow).where(FlagRow.site == site)
            if not include_acknowledged:
                query = query.where(FlagRow.acknowledged_at.is_(None))
            rows = session.scalars(query.order_by(FlagRow.created_at.desc(), FlagRow.id).limit(limit)).all()
            return _flags(session, site, rows)

        return self.database.retrying(work, reads=True)

    def get(self, site: str, flag_id: str) -> Flag:
        """JobError when the site has no such flag."""
        return self.database.retrying(lambda session: _flag(session, site, flag_id), reads=True)

    def acknowledge(self, site: str, flag_id: str, by: str, comment: str) -> Flag:
        """Write down that `by` took note of a flag, now. JobError when there is none, or somebody did so before."""
        written: list[datetime] = []

        def work(session: Session) -> Flag:
            written.append(now(session))
            statement = (
                update(FlagRow)
                .where(FlagRow.site == site, FlagRow.id == flag_id, FlagRow.acknowledged_at.is_(None))
                .values(acknowledged_at=written[-1], acknowledged_by=by, comment=comment)
            )
            result = session.execute(statement)
            assert isinstance(result, CursorResult)
            flag = _flag(session, site, flag_id)
            # The answer to the commit of an earlier attempt may have been lost: then it is ours all the same.
            if result.rowcount == 1 or flag.acknowledged_at in written:
                return flag
            raise JobError(
                f"flag {flag_id} was acknowledged by {flag.acknowledged_by} at {flag.acknowledged_at:%Y-%m-%d %H:%M} "
                "UTC already; that stands"
            )

        return self.database.retrying(work)


def _flag(session: Session, site: str, flag_id: str) -> Flag:
    query = select(FlagRow).where(FlagRow.site == site, FlagRow.id == flag_id)
    rows = session.scalars(query.execution_options(populate_existing=True)).all()
    if not rows:
        raise JobError(f"there is no flag '{flag_id}' at this site; list the worklist to see those there are")
    return _flags(session, site, rows)[0]


def _flags(session: Session, site: str, rows: Sequence[FlagRow]) -> list[Flag]:
    sendings: dict[str, list[Sending]] = {}
    jobs = [row.job_id for row in rows]
    query = select(OutboxRow).where(OutboxRow.site == site, OutboxRow.subject.in_(jobs))
    for sent in session.scalars(query.order_by(OutboxRow.destination)):
        sending = Sending(sent.destination, sent.state, sent.attempts, sent.sent_at, sent.last_error)
        sendings.setdefault(sent.subject, []).append(sending)
    return [_as_data(row, tuple(sendings.get(row.job_id, ()))) for row in rows]


def _as_data(row: FlagRow, messages: tuple[Sending, ...]) -> Flag:
    return Flag(
        id=row.id,
        site=row.site,
        job_id=row.job_id,
        verdict=row.verdict,
        headline=row.headline,
        patient_key=row.patient_key,
        case_key=row.case_key,
        details=row.details,
        created_at=row.created_at,
        acknowledged_at=row.acknowledged_at,
        acknowledged_by=row.acknowledged_by,
        comment=row.comment,
        messages=messages,
    )

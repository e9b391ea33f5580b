"""Who works on a job: taken under a lease, kept by heartbeats, ended once. All inside a transaction of the caller's."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Select, and_, bindparam, exists, or_, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session, aliased

from cluster.database.connection import is_passing
from cluster.database.tables import NAME, JobRow
from cluster.jobs.model import JobFailure, JobResult, JobState
from cluster.jobs.rows import (
    OnEnd,
    artifacts_of,
    back_to_queue,
    end_cancelled,
    end_done,
    end_failed,
    locked,
    now,
)
from doseeng.errors import JobError

log = logging.getLogger(__name__)

UNRECORDED_S: Final = 60.0
"""A job whose failure cannot be recorded is tried again after so long."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A job goes back to the queue. note: why, shown as its stage. wait_s: nobody takes it sooner. counts: whether the
    attempt counts; not when the job had no part in it."""

    note: str = ""
    wait_s: float = 0.0
    counts: bool = False


def _claimable() -> Select[JobRow]:
    other = aliased(JobRow)
    of_lane = and_(other.site == JobRow.site, other.lane == JobRow.lane)
    # Of one lane, in the order of its jobs; those of equal order as they came.
    is_earlier = or_(
        other.lane_order < JobRow.lane_order,
        other.created_at < JobRow.created_at,
        and_(other.created_at == JobRow.created_at, other.id < JobRow.id),
    )
    one_runs = exists().where(of_lane, other.state == JobState.RUNNING)
    one_is_before = exists().where(
        of_lane, other.state == JobState.QUEUED, other.lane_order <= JobRow.lane_order, is_earlier
    )
    return (
        select(JobRow)
        .where(
            JobRow.state == JobState.QUEUED,
            or_(JobRow.not_before.is_(None), JobRow.not_before <= bindparam("at")),
            or_(JobRow.lane == "", and_(~one_runs, ~one_is_before)),
        )
        .order_by(JobRow.priority, JobRow.created_at, JobRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=JobRow)
        .execution_options(populate_existing=True)
    )


_CLAIMABLE: Final = _claimable()
_EXPIRED: Final = (
    select(JobRow)
    .where(JobRow.state == JobState.RUNNING, JobRow.lease_until < bindparam("at"))
    .with_for_update(skip_locked=True)
    .execution_options(populate_existing=True)
)
"""Made once: SQLAlchemy takes longer to make them than the database to answer them."""


def claim(session: Session, driver: str, lease_s: float, at: datetime) -> JobRow | None:
    """The most urgent, then oldest job that may run, made running for `driver`; None when there is none.

    Two drivers that take two jobs of one lane at the same time find out here: the database lets one of them run.
    """
    while True:
        row = session.scalars(_CLAIMABLE, {"at": at}).first()
        if row is None:
            return None
        try:
            with session.begin_nested():
                row.state, row.driver, row.lease_until = JobState.RUNNING, driver, at + timedelta(seconds=lease_s)
                row.attempts += 1
                row.started_at = row.updated_at = at
                row.not_before, row.stage = None, ""
        except IntegrityError:
            continue
        return row


def reclaim(session: Session, attempts: int, on_end: Sequence[OnEnd], at: datetime) -> None:
    """Send jobs whose lease has ended back to the queue; one that has had `attempts` attempts fails."""
    for row in session.scalars(_EXPIRED, {"at": at}).all():
        if row.cancel_requested:
            end_cancelled(session, row)
        elif row.attempts < attempts:
            back_to_queue(session, row, "waiting again: its driver died or was cut off")
        else:
            _give_up(session, row, at, on_end)
    session.flush()


def _give_up(session: Session, row: JobRow, at: datetime, on_end: Sequence[OnEnd]) -> None:
    message = (
        f"{row.attempts} drivers that worked on it died or were cut off, the last one in stage "
        f"'{row.stage or 'start'}'; look for memory that ran out, and submit it again"
    )
    try:
        with session.begin_nested():
            end_failed(session, row, JobFailure("JobError", message), on_end)
    except Exception as error:
        if isinstance(error, DBAPIError) and is_passing(error):
            raise
        # A hook that breaks on one job must not keep everybody from claiming others.
        log.error("failure of a job could not be recorded", extra={"job_id": row.id, "error": type(error).__name__})
        row.lease_until = at + timedelta(seconds=UNRECORDED_S)


def heartbeat(session: Session, job_id: str, driver: str, lease_s: float, stage: str, done: int, total: int) -> bool:
    """Keep the lease and say how far it is; False when the job is no longer wanted, or no longer this driver's."""
    at = now(session)
    statement = (
        update(JobRow)
        .where(
            JobRow.id == job_id,
            JobRow.driver == driver,
            JobRow.state == JobState.RUNNING,
            JobRow.cancel_requested.is_(False),
        )
        .values(lease_until=at + timedelta(seconds=lease_s), stage=stage[:NAME], done=done, total=total, updated_at=at)
    )
    result = session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount == 1


def finish(session: Session, job_id: str, driver: str, result: JobResult, on_end: Sequence[OnEnd]) -> None:
    """End a job with its result. A repeat changes nothing. A job whose cancelling was asked for ends cancelled.

    JobError when the job is no longer this driver's.
    """
    row = locked(session, job_id)
    if _is_held(row, driver):
        if row.cancel_requested:
            end_cancelled(session, row)
        else:
            end_done(session, row, result, on_end)
        return
    if row.state == JobState.DONE and row.driver == driver:
        kept = artifacts_of(session, [job_id])[job_id]
        summary = json.loads(json.dumps(result.summary))
        if (row.verdict, row.summary, set(kept)) == (result.verdict, summary, set(result.artifacts)):
            return
    if not _was_cancelled(row, driver):
        raise _lost(row, driver)


def fail(session: Session, job_id: str, driver: str, failure: JobFailure, on_end: Sequence[OnEnd]) -> None:
    """End a job without a result. A repeat changes nothing. JobError when the job is no longer this driver's."""
    row = locked(session, job_id)
    if _is_held(row, driver):
        if row.cancel_requested:
            end_cancelled(session, row)
        else:
            end_failed(session, row, failure, on_end)
        return
    is_repeat = row.state == JobState.FAILED and row.error == {"kind": failure.kind, "message": failure.message}
    if not (is_repeat and row.driver == driver) and not _was_cancelled(row, driver):
        raise _lost(row, driver)


def give_back(session: Session, job_id: str, driver: str, rest: Rest, attempts: int, on_end: Sequence[OnEnd]) -> None:
    """Make a job wait again, for others; cancelled when that was asked for. One that has had `attempts` attempts, and
    whose last one counts, fails. JobError when it is no longer this driver's."""
    row = locked(session, job_id)
    if not _is_held(row, driver):
        if _was_cancelled(row, driver):
            return
        raise _lost(row, driver)
    if row.cancel_requested:
        end_cancelled(session, row)
    elif rest.counts and row.attempts >= attempts:
        end_failed(session, row, JobFailure("JobError", f"after {row.attempts} attempts: {rest.note}"), on_end)
    else:
        back_to_queue(session, row, rest.note)
        row.attempts -= 0 if rest.counts else 1
        row.not_before = row.updated_at + timedelta(seconds=rest.wait_s) if rest.wait_s else None


def _is_held(row: JobRow, driver: str) -> bool:
    return row.state == JobState.RUNNING and row.driver == driver


def _was_cancelled(row: JobRow, driver: str) -> bool:
    # The commit that cancelled it may have been lost on the way back.
    return row.state == JobState.CANCELLED and row.driver == driver


def _lost(row: JobRow, driver: str) -> JobError:
    holder = f" by {row.driver}" if row.driver else ""
    return JobError(
        f"job {row.id} is no longer worked on by {driver}: it is {row.state}{holder}; what this driver found is dropped"
    )

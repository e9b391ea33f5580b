"""All jobs, kept: what is asked goes in once, is claimed, ends once. Safe for many processes on many machines."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cluster.database.connection import Database
from cluster.database.tables import JobRow
from cluster.jobs import claims
from cluster.jobs.claims import Rest
from cluster.jobs.model import Artifact, Job, JobFailure, JobKind, JobResult, JobSpec, JobState, Priority
from cluster.jobs.rows import OnEnd, artifacts_of, end_cancelled, job_of, locked, now
from doseeng.errors import JobError

ATTEMPTS: Final = 3
"""How often a job may take its driver down before it fails."""
NO_REST: Final = Rest()


@dataclass(frozen=True, slots=True, eq=False)
class JobStore:
    """on_end: called inside the transaction that ends a job done or failed. attempts: see `ATTEMPTS`.

    Every method waits for a database that is away for a moment (`Database.retrying`) and does its work once, also when
    the answer to a commit was lost.
    """

    database: Database
    on_end: Sequence[OnEnd] = field(default=())
    attempts: int = ATTEMPTS

    def submit(
        self, spec: JobSpec, *, created_by: str, priority: Priority = Priority.PERSON, batch: str = ""
    ) -> tuple[Job, bool]:
        """The job, and whether it was made now: an equal one that waits, runs or is done is returned instead, and
        becomes as urgent as asked for if it still waits."""
        job_id, key = uuid.uuid4().hex, spec.content_key

        def work(session: Session) -> tuple[Job, bool]:
            while (row := _live(session, spec.site, key)) is None:
                row = _new_row(session, spec, job_id, key, created_by, priority, batch)
                # Who asked for the same a moment ago has made it.
                with suppress(IntegrityError), session.begin_nested():
                    session.add(row)
            if row.state == JobState.QUEUED and priority < row.priority:
                row.priority = int(priority)
            return job_of(row, artifacts_of(session, [row.id])[row.id]), row.id == job_id

        return self.database.retrying(work)

    def get(self, site: str, job_id: str) -> Job:
        """JobError when the site has no such job."""

        def work(session: Session) -> Job:
            row = session.get(JobRow, job_id)
            if row is None or row.site != site:
                raise _unknown(site, job_id)
            return job_of(row, artifacts_of(session, [row.id])[row.id])

        return self.database.retrying(work, reads=True)

    def search(
        self,
        site: str,
        *,
        states: Sequence[JobState] = (),
        kinds: Sequence[JobKind] = (),
        verdicts: Sequence[str] = (),
        batch: str = "",
        patient_key: str = "",
        plan_uid: str = "",
        limit: int = 100,
        before: str = "",
    ) -> list[Job]:
        """Jobs of a site, newest first; what is empty restricts nothing. before: id of a job; only older ones, so that
        the id of a page's last job brings the next page. JobError when the site has no such job."""

        def work(session: Session) -> list[Job]:
            query = select(JobRow).where(JobRow.site == site)
            for column, wanted in ((JobRow.state, states), (JobRow.kind, kinds), (JobRow.verdict, verdicts)):
                if wanted:
                    query = query.where(column.in_([str(value) for value in wanted]))
            for name, value in (("batch", batch), ("patient_key", patient_key), ("plan_uid", plan_uid)):
                if value:
                    query = query.where(getattr(JobRow, name) == value)
            if before:
                query = _older(session, query, site, before)
            rows = session.scalars(query.order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(limit)).all()
            artifacts = artifacts_of(session, [row.id for row in rows])
            return [job_of(row, artifacts[row.id]) for row in rows]

        return self.database.retrying(work, reads=True)

    def cancel(self, site: str, job_id: str) -> Job:
        """End a waiting job at once; tell the driver of a running one, which ends it as soon as it listens.

        JobError when the site has no such job, or it is done or failed already.
        """

        def work(session: Session) -> Job:
            row = locked(session, job_id)
            if row.site != site:
                raise _unknown(site, job_id)
            if row.state == JobState.QUEUED:
                end_cancelled(session, row)
            elif row.state == JobState.RUNNING:
                row.cancel_requested, row.updated_at = True, now(session)
            elif row.state != JobState.CANCELLED:
                raise JobError(f"job {job_id} is {row.state} already; there is nothing left to cancel")
            return job_of(row, artifacts_of(session, [row.id])[row.id])

        return self.database.retrying(work)

    def counts(self) -> dict[tuple[str, str, str], int]:
        """How many jobs there are of each site, kind and state; only what there is."""

        def work(session: Session) -> dict[tuple[str, str, str], int]:
            columns = (JobRow.site, JobRow.kind, JobRow.state)
            rows = session.execute(select(*columns, func.count()).group_by(*columns))
            return {(site, kind, state): number for site, kind, state, number in rows}

        return self.database.retrying(work, reads=True)

    def claim(self, driver: str, lease_s: float) -> Job | None:
        """The most urgent, then oldest job that may run, now run by `driver` until the lease ends; None when there is
        none. Jobs whose lease has ended are sent back to the queue first, or fail after `attempts`."""
        taken: list[tuple[str, datetime | None]] = []

        def work(session: Session) -> Job | None:
            row = _taken_before(session, taken, driver)
            if row is None:
                at = now(session)
                claims.reclaim(session, self.attempts, self.on_end, at)
                row = claims.claim(session, driver, lease_s, at)
            taken[:] = [(row.id, row.lease_until)] if row is not None else []
            return job_of(row) if row is not None else None

        return self.database.retrying(work)

    def heartbeat(self, job_id: str, driver: str, lease_s: float, stage: str, done: int, total: int) -> bool:
        """Keep the lease and say how far the job is. False: it was cancelled, or went to another driver."""
        return self.database.retrying(
            lambda session: claims.heartbeat(session, job_id, driver, lease_s, stage, done, total)
        )

    def finish(self, job_id: str, driver: str, result: JobResult) -> None:
        """End a job with its result, or cancelled if that was asked for. JobError when the lease was lost."""
        self.database.retrying(lambda session: claims.finish(session, job_id, driver, result, self.on_end))

    def fail(self, job_id: str, driver: str, failure: JobFailure) -> None:
        """End a job without a result, or cancelled if that was asked for. JobError when the lease was lost."""
        self.database.retrying(lambda session: claims.fail(session, job_id, driver, failure, self.on_end))

    def give_back(self, job_id: str, driver: str, rest: Rest = NO_REST) -> None:
        """Send a job back to the queue; cancelled if that was asked for. JobError when the lease was lost."""
        self.database.retrying(
            lambda session: claims.give_back(session, job_id, driver, rest, self.attempts, self.on_end)
        )

    def earlier(self, job: Job) -> tuple[tuple[Artifact, ...], ...]:
        """Artifacts of the done jobs of the same lane that come before this one, in the order of the lane."""
        if not job.spec.lane:
            return ()

        def work(session: Session) -> tuple[tuple[Artifact, ...], ...]:
            query = select(JobRow.id).where(
                JobRow.site == job.spec.site,
                JobRow.lane == job.spec.lane,
                JobRow.lane_order < job.spec.lane_order,
                JobRow.state == JobState.DONE,
            )
            ids = session.scalars(query.order_by(JobRow.lane_order, JobRow.finished_at, JobRow.id)).all()
            artifacts = artifacts_of(session, ids)
            return tuple(artifacts[job_id] for job_id in ids)

        return self.database.retrying(work, reads=True)


def _live(session: Session, site: str, key: str) -> JobRow | None:
    query = select(JobRow).where(JobRow.site == site, JobRow.live_key == key).with_for_update()
    return session.scalars(query).one_or_none()


def _new_row(
    session: Session, spec: JobSpec, job_id: str, key: str, created_by: str, priority: Priority, batch: str
) -> JobRow:
    at = now(session)
    return JobRow(
        id=job_id,
        site=spec.site,
        kind=spec.kind,
        state=JobState.QUEUED,
        priority=int(priority),
        spec=spec.to_json(),
        content_key=key,
        live_key=key,
        lane=spec.lane,
        lane_order=spec.lane_order,
        batch=batch,
        patient_key=spec.patient_key,
        plan_uid=spec.plan_uid,
        created_at=at,
        updated_at=at,
        created_by=created_by,
    )


def _older(session: Session, query: Select[JobRow], site: str, before: str) -> Select[JobRow]:
    last = session.get(JobRow, before)
    if last is None or last.site != site:
        raise _unknown(site, before)
    is_older = or_(JobRow.created_at < last.created_at, and_(JobRow.created_at == last.created_at, JobRow.id < last.id))
    return query.where(is_older)


def _taken_before(session: Session, taken: Sequence[tuple[str, datetime | None]], driver: str) -> JobRow | None:
    """The row that an earlier try took, when only the answer to its commit was lost. taken: its id and lease."""
    for job_id, lease_until in taken:
        row = session.get(JobRow, job_id)
        is_ours = row is not None and row.state == JobState.RUNNING and row.driver == driver
        if row is not None and is_ours and row.lease_until == lease_until:
            return row
    return None


def _unknown(site: str, job_id: str) -> JobError:
    return JobError(f"site '{site}' has no job {job_id}; it may have been removed by a retention rule")

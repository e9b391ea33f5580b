"""Jobs as rows of the database and back. The states of jobs are set here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cluster.database.tables import NAME, ArtifactRow, JobRow
from cluster.jobs.model import Artifact, Job, JobFailure, JobResult, JobSpec, JobState
from doseeng.errors import JobError

OnEnd = Callable[[Session, Job], None]
"""Called inside the transaction that ends a job done or failed: what it writes is there exactly when the end is."""


def now(session: Session) -> datetime:
    """The time by the database's clock: drivers on several machines agree on when a lease ends."""
    if session.get_bind().dialect.name == "sqlite":
        return datetime.now(UTC)
    time: datetime = session.scalars(select(func.clock_timestamp())).one()
    return time.astimezone(UTC)


def locked(session: Session, job_id: str) -> JobRow:
    """The row, which nobody else changes until the transaction ends. JobError when there is none."""
    # populate_existing: what the session read before it had the lock may be old.
    query = select(JobRow).where(JobRow.id == job_id).with_for_update().execution_options(populate_existing=True)
    row = session.scalars(query).one_or_none()
    if row is None:
        raise JobError(f"there is no job {job_id}; it may have been removed by a retention rule")
    return row


def artifacts_of(session: Session, ids: Sequence[str]) -> dict[str, tuple[Artifact, ...]]:
    """Artifacts of jobs by job, in the order of their names."""
    columns = (ArtifactRow.job_id, ArtifactRow.name, ArtifactRow.media_type, ArtifactRow.sha256, ArtifactRow.size)
    rows = session.execute(select(*columns).where(ArtifactRow.job_id.in_(ids)).order_by(ArtifactRow.name))
    found: dict[str, list[Artifact]] = {job_id: [] for job_id in ids}
    for job_id, name, media_type, sha256, size in rows:
        found[job_id].append(Artifact(name, media_type, sha256, size))
    return {job_id: tuple(artifacts) for job_id, artifacts in found.items()}


def job_of(row: JobRow, artifacts: tuple[Artifact, ...] = ()) -> Job:
    """A row as plain data."""
    return Job(
        id=row.id,
        spec=JobSpec.from_json(row.spec),
        state=JobState(row.state),
        priority=row.priority,
        batch=row.batch,
        created_at=row.created_at,
        created_by=row.created_by,
        started_at=row.started_at,
        finished_at=row.finished_at,
        updated_at=row.updated_at,
        attempts=row.attempts,
        cancel_requested=row.cancel_requested,
        stage=row.stage,
        done=row.done,
        total=row.total,
        case_key=row.case_key,
        verdict=row.verdict,
        summary=row.summary,
        error=JobFailure(**row.error) if row.error else None,
        artifacts=artifacts,
    )


def end_done(session: Session, row: JobRow, result: JobResult, on_end: Sequence[OnEnd]) -> None:
    """Make a job done, with what it left."""
    _end(session, row, JobState.DONE)
    row.verdict, row.summary = result.verdict, result.summary
    row.case_key = result.case_key or row.case_key
    session.add_all(ArtifactRow(job_id=row.id, site=row.site, **asdict(artifact)) for artifact in result.artifacts)
    _tell(session, job_of(row, tuple(sorted(result.artifacts, key=lambda artifact: artifact.name))), on_end)


def end_failed(session: Session, row: JobRow, failure: JobFailure, on_end: Sequence[OnEnd]) -> None:
    """Make a job failed; its content may be asked for again."""
    _end(session, row, JobState.FAILED)
    row.live_key, row.error = None, asdict(failure)
    _tell(session, job_of(row), on_end)


def end_cancelled(session: Session, row: JobRow) -> None:
    """Make a job cancelled; its content may be asked for again."""
    _end(session, row, JobState.CANCELLED)
    row.live_key, row.cancel_requested = None, True


def back_to_queue(session: Session, row: JobRow, note: str = "") -> None:
    """Make a running job wait again; note: why, as lists show it."""
    row.state, row.driver, row.lease_until = JobState.QUEUED, "", None
    row.stage, row.done, row.total = note[:NAME], 0, 0
    row.updated_at = now(session)


def _end(session: Session, row: JobRow, state: JobState) -> None:
    row.state, row.lease_until = state, None
    row.finished_at = row.updated_at = now(session)


def _tell(session: Session, job: Job, on_end: Sequence[OnEnd]) -> None:
    session.flush()
    for hook in on_end:
        hook(session, job)

"""What is kept for how long, and whether what should be there still is, unharmed.

Flags and the audit log are always kept, and so is everything of a patient under treatment, of a flag that nobody has
acknowledged and of a message that has not been sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from cluster.database.connection import Database
from cluster.database.tables import ArtifactRow, CourseRow, FlagRow, InstanceRow, JobRow, OutboxRow
from cluster.jobs.model import JobSpec, JobState
from cluster.service.config import Retention
from cluster.storage.blobs import BlobStore, StorageUnavailable
from doseeng.errors import JobError

log = logging.getLogger(__name__)

GRACE_S: Final = 24 * 3600.0
"""A blob that nothing refers to is left for so long: a running job stores what it found before it can end. No job, and
no transfer of a case, takes a day."""
CHUNK: Final = 500
"""Rows per statement."""

_ENDED: Final = [state.value for state in JobState if state.is_end]
_LIVE: Final = [state.value for state in JobState if not state.is_end]


@dataclass(frozen=True, slots=True)
class Swept:
    """What was removed."""

    jobs: int = 0
    objects: int = 0
    blobs: int = 0
    bytes: int = 0

    def __add__(self, other: Swept) -> Swept:
        return Swept(
            self.jobs + other.jobs, self.objects + other.objects, self.blobs + other.blobs, self.bytes + other.bytes
        )


@dataclass(frozen=True, slots=True)
class Verified:
    """checked: blobs that were read. damaged, missing: site and SHA-256 of blobs whose bytes are not those that were
    put, and of those that an object or artifact refers to and that are not there."""

    checked: int
    damaged: tuple[tuple[str, str], ...]
    missing: tuple[tuple[str, str], ...]

    @property
    def is_whole(self) -> bool:
        """Whether all is there, unharmed."""
        return not self.damaged and not self.missing


def sweep(
    database: Database,
    blobs_of: Callable[[str], BlobStore],
    sites: Iterable[str],
    retention: Retention,
    at: datetime | None = None,
) -> Swept:
    """Remove what the rules let go at the time `at` (now): ended jobs with their artifacts, the DICOM objects of
    patients of whom nothing has come for long, and blobs that nothing refers to any more."""
    at = at or datetime.now(UTC)
    swept = Swept()
    for site in sites:
        if retention.results_days:
            swept += Swept(jobs=_remove_jobs(database, site, at - timedelta(days=retention.results_days)))
        if retention.objects_days:
            swept += Swept(objects=_remove_objects(database, site, at - timedelta(days=retention.objects_days)))
        swept += _remove_blobs(database, site, blobs_of(site))
    removed = {"jobs": swept.jobs, "objects": swept.objects, "blobs": swept.blobs, "bytes": swept.bytes}
    log.info("retention rules applied", extra=removed)
    return swept


def verify(database: Database, blobs_of: Callable[[str], BlobStore], sites: Iterable[str]) -> Verified:
    """Read every blob of the sites and compare its SHA-256. StorageUnavailable when a store cannot be read at all."""
    checked, damaged, missing = 0, list[tuple[str, str]](), list[tuple[str, str]]()
    for site in sites:
        blobs, present = blobs_of(site), set[str]()
        # What is referred to is read first: what comes and goes meanwhile is not missing.
        wanted = database.retrying(lambda session: set(_all_references(session, site)), reads=True)  # noqa: B023
        for blob in blobs:
            present.add(blob.sha256)
            checked += 1
            try:
                blobs.get(blob.sha256)
            except StorageUnavailable:
                raise
            except JobError:
                if blobs.has(blob.sha256):
                    damaged.append((site, blob.sha256))
        missing += [(site, sha256) for sha256 in sorted(wanted - present) if not blobs.has(sha256)]
    return Verified(checked, tuple(damaged), tuple(missing))


def _remove_jobs(database: Database, site: str, before: datetime) -> int:
    open_flags = select(FlagRow.job_id).where(FlagRow.site == site, FlagRow.acknowledged_at.is_(None))
    unsent = select(OutboxRow.subject).where(OutboxRow.site == site, OutboxRow.state != "sent")
    of_unsent_flags = select(FlagRow.job_id).where(FlagRow.site == site, FlagRow.id.in_(unsent))
    query = select(JobRow.id).where(
        JobRow.site == site,
        JobRow.state.in_(_ENDED),
        JobRow.finished_at < before,
        JobRow.patient_key.not_in(_treated(site)),
        JobRow.plan_uid.not_in(select(CourseRow.plan_uid).where(CourseRow.site == site, CourseRow.ended_at.is_(None))),
        JobRow.id.not_in(open_flags),
        JobRow.id.not_in(of_unsent_flags),
        JobRow.id.not_in(unsent),
    )

    def work(session: Session) -> int:
        ids = session.scalars(query.limit(CHUNK)).all()
        # Artifacts go with their job.
        session.execute(delete(JobRow).where(JobRow.id.in_(ids)))
        return len(ids)

    return sum(_until_none(lambda: database.retrying(work)))


def _remove_objects(database: Database, site: str, before: datetime) -> int:
    """By patient: a plan without its images would be worth nothing."""
    wanted = select(JobRow.patient_key).where(JobRow.site == site, JobRow.state.in_(_LIVE))
    silent = (
        select(InstanceRow.patient_key)
        .where(
            InstanceRow.site == site,
            InstanceRow.patient_key.not_in(_treated(site)),
            InstanceRow.patient_key.not_in(wanted),
        )
        .group_by(InstanceRow.patient_key)
        .having(func.max(InstanceRow.received_at) < before)
    )

    def work(session: Session) -> int:
        patient = session.scalars(silent.limit(1)).first()
        rows = session.scalars(
            delete(InstanceRow)
            .where(InstanceRow.site == site, InstanceRow.patient_key == patient, InstanceRow.received_at < before)
            .returning(InstanceRow.sop_uid)
        )
        return len(rows.all())

    return sum(_until_none(lambda: database.retrying(work)))


def _remove_blobs(database: Database, site: str, blobs: BlobStore) -> Swept:
    swept = Swept()
    # Once is enough: the inputs of jobs that come later are objects of the index.
    needed = database.retrying(lambda session: _needed(session, site), reads=True)
    old = blobs.older_than(GRACE_S)
    while chunk := tuple(islice(old, CHUNK)):
        digests = [blob.sha256 for blob in chunk]
        kept = database.retrying(lambda session: _references(session, site, digests), reads=True)  # noqa: B023
        for blob in chunk:
            if blob.sha256 not in kept | needed and blobs.delete(blob.sha256, older_than_s=GRACE_S):
                swept += Swept(blobs=1, bytes=blob.size)
    return swept


def _treated(site: str) -> Select[str]:
    return select(CourseRow.patient_key).where(CourseRow.site == site, CourseRow.ended_at.is_(None))


def _references(session: Session, site: str, digests: Sequence[str]) -> set[str]:
    """Which of these digests an object or an artifact refers to."""
    found: set[str] = set()
    for table in (ArtifactRow, InstanceRow):
        found.update(session.scalars(select(table.sha256).where(table.site == site, table.sha256.in_(digests))))
    return found


def _all_references(session: Session, site: str) -> Iterator[str]:
    for table in (ArtifactRow, InstanceRow):
        yield from session.scalars(select(table.sha256).where(table.site == site))
    yield from _needed(session, site)


def _needed(session: Session, site: str) -> set[str]:
    """Inputs of the jobs that wait or run."""
    specs = session.scalars(select(JobRow.spec).where(JobRow.site == site, JobRow.state.in_(_LIVE)))
    return {sha256 for spec in specs for sha256 in JobSpec.from_json(spec).inputs}


def _until_none(work: Callable[[], int]) -> Iterator[int]:
    while number := work():
        yield number

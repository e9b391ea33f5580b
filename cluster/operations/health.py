"""Whether the service can do its work now: asked by load balancers, container runtimes and people.

Alive is who answers at all; ready is who passes every check here. All of it is read from the database and the disk, so
that any process of the service can say it of the whole.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from cluster.database.schema import require_current
from cluster.database.tables import JobRow, OutboxRow
from cluster.jobs.model import JobState
from cluster.operations.metrics import WAITING
from doseeng.errors import DoseengError

if TYPE_CHECKING:
    from cluster.service.services import Services

LEAST_FREE_BYTES: Final = 2 * 1024**3
"""Room for a day's image, its dose and what they are computed with; below it nothing new should be taken in."""
OUTBOX_LATE: Final = timedelta(minutes=15)
"""A message that has waited for longer is stuck: a flag should be seen before the patient leaves the couch."""
SILENT_LEASES: Final = 3
"""Drivers renew a lease several times before it ends; after so many of them without a sign nobody is there."""
_PROBE: Final = b"doseeng readiness probe\n"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold. detail: what was found, for people."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """ok: whether all checks hold."""

    ok: bool
    checks: tuple[Check, ...]


def readiness(services: Services, least_free_bytes: int = LEAST_FREE_BYTES) -> Readiness:
    """Every check, also after one has failed; never raises."""
    checks: list[Check] = [_guarded("database", lambda: _database(services))]
    answers = checks[0].ok
    checks.append(_guarded("storage", lambda: _storage(services)))
    checks.append(_guarded("disk", lambda: _disk(services, least_free_bytes)))
    if answers:
        checks.append(_guarded("outbox", lambda: _outbox(services)))
        checks.append(_guarded("drivers", lambda: _drivers(services)))
    return Readiness(all(check.ok for check in checks), tuple(checks))


def _guarded(name: str, check: Callable[[], tuple[bool, str]]) -> Check:
    try:
        return Check(name, *check())
    except (DoseengError, DBAPIError, OSError) as error:
        told = str(error) if isinstance(error, DoseengError) else type(error).__name__
        return Check(name, False, told)


def _database(services: Services) -> tuple[bool, str]:
    if not services.database.answers():
        return False, f"{services.database.url} does not answer"
    require_current(services.database)
    return True, "answers, schema is current"


def _storage(services: Services) -> tuple[bool, str]:
    for site in services.config.site:
        blobs = services.blobs_of(site.name)
        # New bytes each time: those that are there already would not be written.
        stored = blobs.put(_PROBE + uuid.uuid4().bytes)
        is_there = blobs.has(stored.sha256)
        blobs.delete(stored.sha256)
        if not is_there:
            return False, f"site {site.name}: what is written cannot be found again"
    return True, "takes and keeps bytes"


def _disk(services: Services, least: int) -> tuple[bool, str]:
    free = shutil.disk_usage(services.config.data).free
    said = f"{free / 1024**3:.1f} GiB free of data_dir's disk"
    return free >= least, said if free >= least else f"{said}; at least {least / 1024**3:.1f} GiB are needed"


def _outbox(services: Services) -> tuple[bool, str]:
    with services.database.reading() as session:
        oldest = session.scalar(select(func.min(OutboxRow.created_at)).where(OutboxRow.state.in_(WAITING)))
        dead = session.scalar(select(func.count()).where(OutboxRow.state == "dead")) or 0
    given_up = f"; {dead} given up" if dead else ""
    if oldest is None:
        return True, f"nothing waits{given_up}"
    waited = datetime.now(UTC) - oldest
    return waited <= OUTBOX_LATE, f"the oldest message has waited {waited.total_seconds():.0f} s{given_up}"


def _drivers(services: Services) -> tuple[bool, str]:
    """Dead drivers are seen by leases that lapsed, and by jobs that wait while nothing moves."""
    silence = timedelta(seconds=SILENT_LEASES * services.config.executor.lease_s)
    now = datetime.now(UTC)
    with services.database.reading() as session:
        running, lease = session.execute(
            select(func.count(), func.max(JobRow.lease_until)).where(JobRow.state == JobState.RUNNING)
        ).one()
        waiting, since = session.execute(
            select(func.count(), func.min(JobRow.updated_at)).where(JobRow.state == JobState.QUEUED)
        ).one()
        moved = session.scalar(select(func.max(JobRow.updated_at)).where(JobRow.state != JobState.QUEUED))
    if running and (lease is None or now - lease > silence):
        return False, f"{running} jobs are under way, but no driver has given a sign of life; start one"
    idle_since = max(since, moved) if since and moved else since
    if waiting and not running and idle_since is not None and now - idle_since > silence:
        return False, f"{waiting} jobs wait and no driver takes them; start one"
    return True, f"{running} jobs under way, {waiting} waiting"

"""What tests of jobs share: a store whose ends are recorded, and time that passes at once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from cluster.database.connection import Database
from cluster.database.tables import JobRow
from cluster.jobs.store import JobStore
from tests.cluster.jobs.making import Ends


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def store(database: Database, ends: Ends) -> JobStore:
    return JobStore(database, (ends,))


@pytest.fixture
def expire(database: Database) -> Callable[[str], None]:
    """`expire(job_id)`: its lease ended a second ago, and nothing rests any more."""

    def now(job_id: str) -> None:
        past = datetime.now(UTC) - timedelta(seconds=1)
        with database.transaction() as session:
            session.execute(
                update(JobRow).where(JobRow.id == job_id, JobRow.state == "running").values(lease_until=past)
            )
            session.execute(update(JobRow).where(JobRow.id == job_id).values(not_before=None))

    return now

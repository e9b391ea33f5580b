"""Migrations: what they make is what the tables say, on both databases, also when several processes run them."""

from collections.abc import Iterator
from importlib.resources import files
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from cluster.database.connection import Database, connect
from cluster.database.schema import require_current, upgrade
from cluster.database.tables import Table
from doseeng.errors import JobError


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'with %percent.db'}"
    return request.getfixturevalue("empty_postgres_url")


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = connect(empty_url)
    yield database
    database.close()


def test_migrations_make_exactly_the_tables(database: Database) -> None:
    with database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_server_default": True})
        assert compare_metadata(context, Table.metadata) == []


def test_partial_unique_index_is_there(database: Database) -> None:
    # Alembic does not compare the condition of an index.
    index = {entry["name"]: entry for entry in inspect(database.engine).get_indexes("jobs")}["uq_jobs_lane_running"]
    assert index["unique"]
    assert any("running" in str(condition) for condition in index["dialect_options"].values())


def test_an_empty_database_is_refused_and_says_what_to_do(empty: Database) -> None:
    with pytest.raises(JobError, match=r"has schema none, .* needs \d+; start `doseeng serve`"):
        require_current(empty)
    upgrade(empty)
    require_current(empty)


def test_upgrade_again_changes_nothing(database: Database) -> None:
    with database.transaction() as session:
        session.execute(
            text("INSERT INTO users VALUES ('u', 'north', 'ann', 'viewer', '', '', false, 0, NULL, :at)"),
            {"at": "2025-01-01 00:00:00"},
        )
    upgrade(database)
    require_current(database)
    with database.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM users")) == 1


def test_a_newer_database_is_neither_used_nor_touched(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refuses in (require_current, upgrade):
        with pytest.raises(JobError, match="schema 9999, which this version of doseeng does not know"):
            refuses(database)


def _upgrade_in_process(url: str, start: Barrier) -> None:
    database = connect(url)
    start.wait(30)
    upgrade(database)
    require_current(database)


def test_processes_that_start_at_once(empty_url: str, empty: Database, processes: ForkServerContext) -> None:
    start = processes.Barrier(3)
    started = [processes.Process(target=_upgrade_in_process, args=(empty_url, start)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0, 0]
    require_current(empty)


def test_steps_are_shipped_with_the_package() -> None:
    steps = files("cluster.database.migrations") / "versions"
    assert any(step.name.endswith("_initial.py") for step in steps.iterdir())

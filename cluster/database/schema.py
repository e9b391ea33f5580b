"""Bring the database to the schema of this version of doseeng, and refuse to work on another one."""

from __future__ import annotations

from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.orm import Session

from cluster.database.connection import Database
from doseeng.errors import JobError

MIGRATIONS: Final = "cluster.database:migrations"
"""Package and folder, as Alembic finds them through importlib: no alembic.ini is needed."""
LOCK: Final = 0x646F7365
"""Key of the advisory lock that processes take which upgrade a PostgreSQL database: "dose" in ASCII."""


def upgrade(database: Database) -> None:
    """Bring the schema to this version; nothing where it is there already. Several processes may do so at once.

    All steps are one transaction: an upgrade that fails leaves what was. JobError when the database is of a newer
    version.
    """

    def work(session: Session) -> None:
        if not database.is_sqlite:
            # On SQLite the transaction itself is the lock.
            session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        config = _config()
        found = _revision(session)
        if found is not None and found not in _revisions(config):
            raise _wrong(database, found, config)
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "head")

    database.retrying(work)


def require_current(database: Database) -> None:
    """JobError when the schema is not that of this version."""
    config = _config()
    found = database.retrying(_revision, reads=True)
    if found != _head(config):
        raise _wrong(database, found, config)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    return config


def _head(config: Config) -> str | None:
    return ScriptDirectory.from_config(config).get_current_head()


def _revisions(config: Config) -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def _revision(session: Session) -> str | None:
    return MigrationContext.configure(session.connection()).get_current_revision()


def _wrong(database: Database, found: str | None, config: Config) -> JobError:
    if found is not None and found not in _revisions(config):
        return JobError(
            f"the database {database.url} has schema {found}, which this version of doseeng does not know; it was made "
            "by a newer one: install that, or restore a backup from before"
        )
    return JobError(
        f"the database {database.url} has schema {found or 'none'}, this version of doseeng needs {_head(config)}; "
        "start `doseeng serve`, which upgrades it, or call cluster.database.schema.upgrade"
    )

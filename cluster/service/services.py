"""What every part of the service works with, opened once from the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from cluster.database.connection import Database, connect
from cluster.database.schema import upgrade
from cluster.flags.hook import flag_hook
from cluster.flags.worklist import Worklist
from cluster.jobs.store import JobStore
from cluster.library.courses import Courses
from cluster.library.library import Library
from cluster.security.audit import ANCHOR_NAME, AuditLog
from cluster.security.users import Users
from cluster.service.config import ServiceConfig
from cluster.storage.blobs import BlobStore
from cluster.storage.open import open_blobs


@dataclass(frozen=True, slots=True, eq=False)
class Services:
    """All of them are safe to share between threads. blobs_of: the blob store of a site."""

    config: ServiceConfig
    database: Database
    store: JobStore
    library: Library
    courses: Courses
    users: Users
    audit: AuditLog
    worklist: Worklist
    blobs_of: Callable[[str], BlobStore]

    def close(self) -> None:
        """Note the head of the audit log, and give the database's connections back."""
        self.audit.anchor()
        self.database.close()


def open_services(config: ServiceConfig) -> Services:
    """The services of a configuration, on a database of the newest schema.

    ConfigError for a database or storage that cannot be used.
    """
    config.data.mkdir(parents=True, exist_ok=True)
    database = connect(config.database)
    upgrade(database)
    return services_on(config, database)


def services_on(config: ServiceConfig, database: Database) -> Services:
    """The services of a configuration, on an open database."""

    @cache
    def blobs_of(site: str) -> BlobStore:
        return open_blobs(config, site)

    return Services(
        config=config,
        database=database,
        store=JobStore(database, on_end=(flag_hook(config),), attempts=config.executor.attempts),
        library=Library(database, blobs_of),
        courses=Courses(database),
        users=Users(database),
        audit=AuditLog(database, config.data / ANCHOR_NAME),
        worklist=Worklist(database),
        blobs_of=blobs_of,
    )

"""The connection to the database: SQLite in a file for one machine, PostgreSQL for more; one way to run a transaction.

    database = connect("sqlite:///doseeng.db")
    with database.transaction() as session:
        ...

Transactions that write on SQLite take the lock when they begin, so that none has to be undone half way; on PostgreSQL
rows are locked where they are claimed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from doseeng.errors import ConfigError, JobError

Result = TypeVar("Result")

BUSY_TIMEOUT_S: Final = 30
"""How long a writer waits for another on SQLite."""
PATIENCE_S: Final = 60.0
"""For what works by itself: a restart takes seconds."""
CONNECT_S: Final = 4
"""For one attempt to connect to PostgreSQL: a machine that is gone does not even refuse."""
FIRST_WAIT_S: Final = 0.05
LONGEST_WAIT_S: Final = 2.0


class DatabaseUnavailable(JobError):
    """The database did not answer for all of somebody's patience. It is no fault of what was asked."""


@dataclass(frozen=True, slots=True, eq=False)
class Database:
    """engine: of SQLAlchemy, safe to share between threads. url: without password, for messages. patience_s: how long
    `retrying` goes on while it cannot be reached."""

    engine: Engine
    url: str
    patience_s: float = PATIENCE_S

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of this machine."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that is committed at the end of the block and rolled back by an error."""
        with sessionmaker(self.engine, expire_on_commit=False).begin() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads, beside any writer."""
        with Session(self.engine.execution_options(reads=True), expire_on_commit=False) as session:
            yield session

    def retrying(self, work: Callable[[Session], Result], reads: bool = False) -> Result:
        """`work` in a transaction of its own, again and again while the database cannot be reached or is busy.

        reads: `work` only reads, and need not wait for who writes.

        `work` must do all that it does through the session, so that a repeat finds nothing done: what a lost
        connection left open is rolled back. Except when the connection is lost during the commit itself: then nobody
        knows, so that `work` must also recognise what it has done already. DatabaseUnavailable when patience ends.
        """
        end = time.monotonic() + self.patience_s
        wait_s = FIRST_WAIT_S
        while True:
            try:
                with self.reading() if reads else self.transaction() as session:
                    return work(session)
            except (OperationalError, InterfaceError, DBAPIError) as error:
                if not is_passing(error):
                    raise
                if time.monotonic() + wait_s > end:
                    raise DatabaseUnavailable(
                        f"the database {self.url} has not answered for {self.patience_s:.0f} s "
                        f"({type(error.orig).__name__}); start it, what was queued is kept"
                    ) from error
            time.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2.0 * wait_s, LONGEST_WAIT_S)

    def answers(self) -> bool:
        """Whether a query can be answered now."""
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except DBAPIError:
            return False
        return True

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def connect(url: str) -> Database:
    """The database of a SQLAlchemy URL; its schema is the business of `cluster.database.migrations`.

    ConfigError for a URL that is none, or whose driver is not installed.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        shown = parsed.render_as_string(hide_password=True)
        if parsed.get_backend_name() == "sqlite":
            engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})
            event.listen(engine, "connect", _sqlite_connected)
            event.listen(engine, "begin", _sqlite_begins)
        else:
            waits = {} if "connect_timeout" in parsed.query else {"connect_timeout": CONNECT_S}
            engine = create_engine(parsed, connect_args=waits, pool_pre_ping=True, pool_size=10, max_overflow=20)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            f"database url '{url.split('@')[-1]}' cannot be used ({error}); expected sqlite:///FILE or "
            "postgresql://USER:PASSWORD@HOST/NAME with 'doseeng[postgres]' installed"
        ) from error
    return Database(engine, shown)


def is_passing(error: DBAPIError) -> bool:
    """Whether an error is one of the connection or of another's lock, and not of what was asked."""
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    said = str(error.orig).lower()
    state = getattr(error.orig, "sqlstate", None) or ""
    # SQLSTATE classes: 08 connection, 40 serialisation or deadlock, 57 operator's intervention, 53 resources.
    return state[:2] in ("08", "40", "57", "53") or (
        isinstance(error, OperationalError) and (not state) and not said.startswith("no such")
    )


def _sqlite_connected(connection: Any, _record: Any) -> None:
    # The driver's own transactions begin too late; ours begin below.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _sqlite_begins(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE")

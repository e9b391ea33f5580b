"""A database that is away: how long that is waited for."""

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text

from cluster.database import connection
from cluster.database.connection import Database, DatabaseUnavailable, connect


@pytest.fixture
def mute() -> Iterator[int]:
    """Port of a machine that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_says_nothing_is_not_waited_for(mute: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed")
    monkeypatch.setattr(connection, "CONNECT_S", 2)
    away = replace(connect(f"postgresql://somebody@127.0.0.1:{mute}/none"), patience_s=0.1)
    with pytest.raises(DatabaseUnavailable, match=f"127.0.0.1:{mute}.*for 0 s"):
        away.retrying(lambda session: session.execute(text("SELECT 1")), reads=True)


def test_patience_is_of_each_user_of_one_engine(sqlite_database: Database) -> None:
    impatient = replace(sqlite_database, patience_s=0.0)
    assert impatient.engine is sqlite_database.engine
    assert sqlite_database.patience_s == connection.PATIENCE_S

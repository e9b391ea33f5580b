"""Databases for the tests of the service: SQLite in a file, and a private PostgreSQL server where there is one.

Processes to be killed, and a disk that is soon full.
"""

import multiprocessing
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from cluster.database.connection import Database, connect
from cluster.database.schema import upgrade

ROLE = "doseeng"
TEMPLATE = "doseeng_template"


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server of the tests' own: reached by a socket in `folder`, no port. programs: folder of its programs."""

    folder: Path
    programs: Path

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://{ROLE}@/{name}?host={self.folder}"

    def start(self) -> None:
        # Durable against a killed server, which is what is tested; not against a power failure.
        options = f"-c listen_addresses='' -c fsync=off -c unix_socket_directories='{self.folder}'"
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-o", options, "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", mode, "-w", "stop")

    def restart(self) -> None:
        """As after a crash: nobody is told, nothing is flushed."""
        self.stop()
        self.start()

    def execute(self, statement: str, name: str = "postgres") -> None:
        engine = create_engine(self.url(name), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def initialise(self) -> None:
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._run("initdb", "-D", f"{self.folder}/data", "-U", ROLE, "-A", "trust", "-E", "UTF8", "--no-sync")

    def _run(self, program: str, *arguments: str) -> None:
        # PostgreSQL does not run as root.
        as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*as_user, self.programs / program, *arguments], cwd=self.folder, stdout=subprocess.DEVNULL, timeout=60
        )
        assert done.returncode == 0, f"{program}: {(self.folder / 'log').read_text() if program == 'pg_ctl' else ''}"


def _postgres_programs() -> Path | None:
    found = shutil.which("pg_ctl")
    if found:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return folders[-1] if folders else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server with a template of the current schema; skips where PostgreSQL is not installed."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL not found: install it, or put pg_ctl on the path")
    if os.geteuid() == 0 and (shutil.which("runuser") is None or not _has_user("postgres")):
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
    folder = Path(tempfile.mkdtemp(prefix="doseeng-pg-"))
    server = PostgresServer(folder, programs)
    try:
        server.initialise()
        server.start()
        try:
            server.execute(f"CREATE DATABASE {TEMPLATE}")
            database = connect(server.url(TEMPLATE))
            upgrade(database)
            database.close()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a PostgreSQL database without any table."""
    yield from _made(postgres_server, "template1")


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a PostgreSQL database with the current schema and nothing in it."""
    yield from _made(postgres_server, TEMPLATE)


def _made(server: PostgresServer, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(name)
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Makes processes as a fresh interpreter would, but quickly: what most of them need is imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.cluster.jobs.work"])
    return context


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    """A SQLite file with the current schema and nothing in it."""
    database = connect(f"sqlite:///{tmp_path / 'doseeng.db'}")
    upgrade(database)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Each kind of database with the current schema and nothing in it."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
        return
    database = connect(request.getfixturevalue("postgres_url"))
    yield database
    database.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; skips where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    asked = [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    if subprocess.run(asked, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)

"""PostgreSQL's own programs for a copy as of one moment; the password goes through the environment, never a command."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url

from doseeng.errors import ConfigError, JobError

PLACES: Final = "/usr/lib/postgresql/*/bin"
"""Where Debian keeps the programs of each version."""
LONGEST_TOLD: Final = 400


def dump_postgres(url: str, path: Path, without_rows_of: Sequence[str]) -> Path:
    """The whole database in pg_dump's custom format. ConfigError: pg_dump is not installed; JobError: what it said."""
    left_out = [f"--exclude-table-data={table}" for table in without_rows_of]
    _run("pg_dump", url, ["--format=custom", "--no-owner", "--no-privileges", f"--file={path}", *left_out])
    return path


def restore_postgres(url: str, path: Path) -> None:
    """A dump into an empty database, all or nothing. Errors as `dump_postgres`."""
    arguments = ["--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error"]
    _run("pg_restore", url, [*arguments, f"--dbname={_address(make_url(url))}", str(path)], names_database=False)


def _run(program: str, url: str, arguments: Sequence[str], names_database: bool = True) -> None:
    parsed = make_url(url)
    found = shutil.which(program) or max((str(p) for p in Path("/").glob(f"{PLACES[1:]}/{program}")), default="")
    if not found:
        raise ConfigError(
            f"{program} is not installed; install PostgreSQL's client programs (postgresql-client on Debian), of the "
            "server's version or newer"
        )
    environment = {**os.environ, "PGPASSWORD": parsed.password or os.environ.get("PGPASSWORD", "")}
    target = [f"--dbname={_address(parsed)}"] if names_database else []
    ended = subprocess.run([found, *target, *arguments], env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        said = " ".join(ended.stderr.split())[:LONGEST_TOLD]
        raise JobError(f"{program} failed ({said}); check that it is at least as new as the server")


def _address(url: URL) -> str:
    """Of libpq, without driver and password."""
    return url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)

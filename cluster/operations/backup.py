"""Everything the service must not lose as one tar file, and back: database, objects and results, audit anchors.

    manifest.json            what is in it: size and SHA-256 of every member, in their order
    files/NAME               of data_dir: the anchors of the audit log and, on demand, the secrets of pseudonyms
    database.sqlite          or database.dump (pg_dump's custom format)
    blobs/SITE/SHA256        objects and results that the database refers to

The database is copied while the service runs, as of one moment; blobs are never changed after they were written, so
those that the copy refers to belong to it. A backup holds patients' data: keep it as you keep them. Without `secrets`
nobody's password hash or token is in it, and users have to be added again after it was restored.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import inspect, make_url, select, union
from sqlalchemy.orm import Session

import doseeng
from cluster.database.connection import connect
from cluster.database.schema import upgrade
from cluster.database.tables import ArtifactRow, InstanceRow, JobRow
from cluster.jobs.model import JobState
from cluster.operations.backupfile import (
    CHUNK,
    POSTGRES,
    SQLITE,
    BackupSummary,
    Checked,
    Member,
    Progress,
    add_file,
    add_manifest,
    damaged,
    members_of,
    verify_backup,
)
from cluster.operations.postgres import dump_postgres, restore_postgres
from cluster.security.audit import ANCHOR_NAME, Action, AuditCheck, AuditLog
from cluster.service.config import ServiceConfig
from cluster.storage.open import open_blobs
from doseeng.errors import ConfigError, JobError

SECRET_FILES: Final = "pseudonyms-*.secret"
SECRET_TABLES: Final = ("tokens", "users")
"""In the order in which they can be emptied."""
ACTOR: Final = "doseeng backup"


def make_backup(config: ServiceConfig, path: Path, secrets: bool, progress: Progress | None = None) -> BackupSummary:
    """Write the backup; it appears complete or not at all, and only its owner may read it.

    The service may go on meanwhile. ConfigError: `path` exists. JobError: the database cannot be copied, or a blob is
    damaged.
    """
    if path.exists():
        raise ConfigError(f"'{path}' exists already; give a new name, backups are not overwritten")
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    # Beside the target, where there must be room anyway.
    with tempfile.TemporaryDirectory(prefix=".doseeng-backup-", dir=path.parent) as scratch:
        try:
            summary = _write(config, part, Path(scratch), secrets, progress or (lambda _done, _total: None))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    _log(config, Action.BACKUP, summary, "")
    return summary


def restore_backup(
    config: ServiceConfig, path: Path, progress: Progress | None = None
) -> tuple[BackupSummary, AuditCheck]:
    """Bring a backup into an empty service and its schema to this version; what it held, and the audit log's check.

    The file is read to its end before anything is written. ConfigError: data_dir, database or blob store are not empty,
    or the database is of another kind than the backup's. JobError: the backup is damaged.
    """
    summary = verify_backup(path)
    _require_target(config, summary)
    config.data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restoring-", dir=config.data) as scratch:
        database = None
        for number, (_, name, file) in enumerate(members_of(path), start=1):
            held = _keep(file, Path(scratch) / "member")
            place, _, rest = name.partition("/")
            if place == "files":
                os.replace(held, config.data / rest)
            elif place == "blobs":
                site, _, sha256 = rest.partition("/")
                if open_blobs(config, site).put(held).sha256 != sha256:
                    raise damaged(path, f"{name} is not what its name says")
                held.unlink()
            else:
                database = held.rename(Path(scratch) / name)
            if progress is not None:
                progress(number, len(summary.members))
        if database is None:
            raise damaged(path, "it has no database")
        # Last, so that a restore that was cut off leaves no service that looks whole.
        _put_database(config, database)
    target = connect(config.database)
    try:
        upgrade(target)
        audit = AuditLog(target, config.data / ANCHOR_NAME)
        check = audit.verify()
        _log(config, Action.RESTORE, summary, "success" if check.is_intact else "audit log does not verify")
    finally:
        target.close()
    return summary, check


def _write(config: ServiceConfig, part: Path, scratch: Path, secrets: bool, progress: Progress) -> BackupSummary:
    # Anchors first: one that was noted after the database was copied would name a row that the copy lacks.
    files = _copied_files(config, scratch, secrets)
    name, database = _copied_database(config, scratch, secrets)
    files.append((name, database))
    held, missing = _referenced(config, database if name == SQLITE else None)
    members = [Member(name, path.stat().st_size, _sha256(path)) for name, path in files]
    members += [Member(f"blobs/{site}/{sha256}", size, sha256) for site, sha256, size in held]
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    summary = BackupSummary(made_at, doseeng.__version__, name, secrets, tuple(members), tuple(missing))
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as target, tarfile.open(fileobj=target, mode="w") as tar:
        add_manifest(tar, summary)
        for number, member in enumerate(members, start=1):
            if number <= len(files):
                add_file(tar, files[number - 1][1], member.name)
            else:
                _, site, sha256 = member.name.split("/")
                path = open_blobs(config, site).copy_to(sha256, scratch / "blob")
                add_file(tar, path, member.name)
                path.unlink()
            progress(number, len(members))
        tar.close()
        target.flush()
        os.fsync(target.fileno())
    return summary


def _copied_files(config: ServiceConfig, scratch: Path, secrets: bool) -> list[tuple[str, Path]]:
    paths = [config.data / ANCHOR_NAME]
    paths += sorted(config.data.glob(SECRET_FILES)) if secrets else []
    copied = []
    for path in paths:
        if path.is_file():
            copy = scratch / path.name
            copy.write_bytes(path.read_bytes())
            copied.append((f"files/{path.name}", copy))
    return copied


def _copied_database(config: ServiceConfig, scratch: Path, secrets: bool) -> tuple[str, Path]:
    left_out = () if secrets else SECRET_TABLES
    if make_url(config.database).get_backend_name() != "sqlite":
        return POSTGRES, dump_postgres(config.database, scratch / POSTGRES, left_out)
    source_path = make_url(config.database).database
    if not source_path or not Path(source_path).is_file():
        raise JobError(f"there is no database '{source_path}'; nothing to back up: check --config and data_dir")
    path = scratch / SQLITE
    with closing(sqlite3.connect(source_path)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
        for table in left_out:
            target.execute(f"DELETE FROM {table}")
        target.commit()
        # What was deleted must not be left in free pages; and the copy is one file, without a log beside it.
        target.execute("VACUUM")
        target.execute("PRAGMA journal_mode=DELETE")
    return SQLITE, path


def _referenced(config: ServiceConfig, copy: Path | None) -> tuple[list[tuple[str, str, int]], list[str]]:
    """Blobs (site, digest, size) that the copied database refers to, and those of them that are not there."""
    database = connect(f"sqlite:///{copy}" if copy else config.database)
    try:
        with database.reading() as session:
            named = dict(_named(session))
    finally:
        database.close()
    held, missing = [], []
    sizes = {site.name: {blob.sha256: blob.size for blob in open_blobs(config, site.name)} for site in config.site}
    for site, sha256 in sorted(named):
        size = sizes.get(site, {}).get(sha256)
        if size is None:
            missing.append(f"{site}/{sha256}")
        else:
            held.append((site, sha256, size))
    return held, missing


def _named(session: Session) -> Iterator[tuple[tuple[str, str], None]]:
    both = union(select(InstanceRow.site, InstanceRow.sha256), select(ArtifactRow.site, ArtifactRow.sha256))
    for site, sha256 in session.execute(both):
        yield (site, sha256), None
    # Jobs that are still to run need what their specs name, machine models among it.
    waiting = select(JobRow.site, JobRow.spec).where(JobRow.state.in_([JobState.QUEUED, JobState.RUNNING]))
    for site, spec in session.execute(waiting):
        machines = spec.get("options", {}).get("machines", {}).values()
        for sha256 in (*spec.get("objects", ()), *spec.get("image", ()), *machines):
            yield (site, sha256), None


def _require_target(config: ServiceConfig, summary: BackupSummary) -> None:
    is_sqlite = make_url(config.database).get_backend_name() == "sqlite"
    if is_sqlite != (summary.database == SQLITE):
        kinds = {SQLITE: "SQLite", POSTGRES: "PostgreSQL"}
        raise ConfigError(
            f"the backup is of {kinds.get(summary.database, 'another database')}, database_url names the other kind; "
            "restore it to the same kind of database"
        )
    for name in {member.name.split("/")[1] for member in summary.members if member.name.startswith("blobs/")}:
        config.site_named(name)
        if next(iter(open_blobs(config, name)), None) is not None:
            raise ConfigError(f"the blob store of site '{name}' is not empty; restore into an empty one")
    if is_sqlite and Path(make_url(config.database).database or "").exists():
        raise ConfigError("there is a database already; restore with another data_dir, or move the old one away")
    if not is_sqlite:
        target = connect(config.database)
        try:
            if inspect(target.engine).get_table_names():
                raise ConfigError(f"database {target.url} is not empty; restore into a new one (createdb)")
        finally:
            target.close()
    taken = [m.name for m in summary.members if m.name.startswith("files/") and (config.data / m.name[6:]).exists()]
    if taken:
        raise ConfigError(f"'{taken[0][6:]}' is in data_dir already; restore into an empty data_dir")


def _put_database(config: ServiceConfig, held: Path) -> None:
    url = make_url(config.database)
    if url.get_backend_name() != "sqlite":
        restore_postgres(config.database, held)
        return
    target = Path(url.database or "")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(held, target)


def _keep(file: Checked, path: Path) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        while chunk := file.read(CHUNK):
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    return path


def _log(config: ServiceConfig, action: Action, summary: BackupSummary, outcome: str) -> None:
    database = connect(config.database)
    try:
        audit = AuditLog(database, config.data / ANCHOR_NAME)
        details = {"members": len(summary.members), "bytes": summary.size, "made_at": summary.made_at}
        for site in config.site:
            audit.append(site=site.name, actor=ACTOR, action=action, outcome=outcome or "success", details=details)
    finally:
        database.close()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

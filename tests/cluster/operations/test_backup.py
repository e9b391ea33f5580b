"""A backup brings everything back elsewhere, says when it is damaged, and overwrites nothing."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cluster.cli.backup import backup, restore
from cluster.database.tables import ArtifactRow
from cluster.jobs.model import Job
from cluster.operations.backup import make_backup, restore_backup
from cluster.operations.backupfile import verify_backup
from cluster.security.pseudonyms import site_secret
from cluster.service.config import ServiceConfig
from cluster.service.services import Services
from doseeng.errors import AccessError, ConfigError, JobError
from tests.cluster.operations.conftest import SITES, fill, serving

Configured = Callable[..., ServiceConfig]
PASSWORD = "correct horse battery staple"


def jobs(services: Services) -> list[Job]:
    return [job for site in SITES for job in services.store.search(site)]


def results(services: Services) -> list[bytes]:
    return [services.blobs_of(job.spec.site).get(a.sha256) for job in jobs(services) for a in job.artifacts]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_there_and_back(kind: str, configured: Configured, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    is_sqlite = kind == "sqlite"
    if not is_sqlite and shutil.which("pg_dump") is None:
        pytest.skip("pg_dump not found: install postgresql-client")
    here = configured("here", "" if is_sqlite else request.getfixturevalue("postgres_url"))
    there = configured("there", "" if is_sqlite else request.getfixturevalue("empty_postgres_url"))
    with serving(here) as services:
        fill(services)
        site_secret(here.data, "north")
        before, bytes_before = jobs(services), results(services)
        made = make_backup(here, tmp_path / "all.tar", secrets=True)
    assert made.missing == ()
    assert len(before) == 8
    found, audit = restore_backup(there, tmp_path / "all.tar")
    assert found == made
    assert audit.is_intact
    assert audit.rows == 2
    with serving(there) as services:
        assert jobs(services) == before
        assert results(services) == bytes_before
        assert services.users.login("north", "ada", PASSWORD).name == "ada"
        assert [flag.headline for flag in services.worklist.open("south")] == ["CTV is cold"]
        assert services.audit.verify().is_intact
        assert services.audit.read("north")[0].action == "restore"
    assert site_secret(there.data, "north") == site_secret(here.data, "north")


@pytest.fixture
def filled(configured: Configured) -> ServiceConfig:
    config = configured("here")
    with serving(config) as services:
        fill(services)
        services.users.issue_token("north", "ada", "script", 30)
        site_secret(config.data, "north")
    return config


def test_without_secrets_there_are_none(filled: ServiceConfig, configured: Configured, tmp_path: Path) -> None:
    with serving(filled) as services:
        hashed = services.users.list("north")[0]
        assert hashed.name == "ada"
    made = make_backup(filled, tmp_path / "all.tar", secrets=False)
    assert (tmp_path / "all.tar").stat().st_mode & 0o077 == 0
    content = (tmp_path / "all.tar").read_bytes()
    assert b"$argon2" not in content
    assert not [member for member in made.members if "secret" in member.name]
    there = configured("there")
    restore_backup(there, tmp_path / "all.tar")
    with serving(there) as services:
        assert len(jobs(services)) == 8
        with pytest.raises(AccessError):
            services.users.login("north", "ada", PASSWORD)


def test_a_damaged_backup_restores_nothing(filled: ServiceConfig, configured: Configured, tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    made = make_backup(filled, path, secrets=False)
    data = path.read_bytes()
    at = data.index(b"result of south")
    path.write_bytes(data[:at] + b"Result" + data[at + 6 :])
    there = configured("there")
    with pytest.raises(JobError, match="is not what was written"):
        restore_backup(there, path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(JobError, match="damaged"):
        restore_backup(there, path)
    assert not there.data.exists()
    path.write_bytes(data)
    assert verify_backup(path) == made


def test_a_member_has_no_way_out(filled: ServiceConfig, configured: Configured, tmp_path: Path) -> None:
    make_backup(filled, tmp_path / "good.tar", secrets=False)
    there = configured("there")
    for name in ("files/../../evil", "/etc/evil", "blobs/north/../../x", "files/..", "evil"):
        rename_first_member(tmp_path, name)
        with pytest.raises(JobError, match="has no place"):
            restore_backup(there, tmp_path / "bad.tar")
    assert not there.data.exists()


def rename_first_member(tmp_path: Path, name: str) -> None:
    """bad.tar as good.tar, but that one member and its entry in the manifest have another name."""
    with tarfile.open(tmp_path / "good.tar") as good, tarfile.open(tmp_path / "bad.tar", "w") as bad:
        for number, member in enumerate(good):
            file = good.extractfile(member)
            assert file is not None
            data = file.read()
            if number == 0:
                manifest = json.loads(data)
                manifest["members"][0]["name"] = name
                data = json.dumps(manifest).encode()
            elif number == 1:
                member.name = name
            member.size = len(data)
            (tmp_path / "data").write_bytes(data)
            with (tmp_path / "data").open("rb") as source:
                bad.addfile(member, source)


def test_nothing_is_overwritten(filled: ServiceConfig, configured: Configured, tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    make_backup(filled, path, secrets=False)
    with pytest.raises(ConfigError, match="exists already"):
        make_backup(filled, path, secrets=False)
    with serving(filled) as services:
        before = jobs(services)
    with pytest.raises(ConfigError, match=r"not empty|already"):
        restore_backup(filled, path)
    with serving(filled) as services:
        assert jobs(services) == before
    there = configured("there")
    there.data.mkdir()
    (there.data / "doseeng.db").write_bytes(b"")
    with pytest.raises(ConfigError, match="database already"):
        restore_backup(there, path)


def test_a_missing_blob_is_named(filled: ServiceConfig, tmp_path: Path) -> None:
    with serving(filled) as services:
        with services.database.reading() as session:
            lost = session.query(ArtifactRow).filter(ArtifactRow.site == "south").one()
        services.blobs_of("south").delete(lost.sha256)
    made = make_backup(filled, tmp_path / "all.tar", secrets=False)
    assert made.missing == (f"south/{lost.sha256}",)
    assert verify_backup(tmp_path / "all.tar") == made


def test_the_commands(filled: ServiceConfig, configured: Configured, tmp_path: Path) -> None:
    there = configured("there")
    app = typer.Typer()
    app.command()(backup)
    app.command()(restore)
    runner, file = CliRunner(), str(tmp_path / "all.tar")

    def run(*arguments: str) -> dict[str, object]:
        ended = runner.invoke(app, [*arguments, "--json"])
        assert ended.exit_code == 0, ended.output
        found: dict[str, object] = json.loads(ended.stdout)
        return found

    made = run("backup", file, "--config", str(filled.data.parent / "doseeng.toml"))
    assert made["missing"] == []
    assert run("restore", file, "--check")["audit_is_intact"] is None
    assert run("restore", file, "--config", str(there.data.parent / "doseeng.toml"))["audit_is_intact"] is True

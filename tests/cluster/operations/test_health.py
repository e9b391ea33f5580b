"""Readiness: each check can fail, says why, and spares the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.database.connection import connect
from cluster.database.tables import JobRow, OutboxRow
from cluster.jobs.model import JobState
from cluster.operations.health import Readiness, readiness
from cluster.service.config import ServiceConfig
from cluster.service.services import Services
from cluster.storage.files import FileBlobs
from tests.cluster.operations.conftest import fill, message, serving, spec


@pytest.fixture
def services(configured: Callable[..., ServiceConfig]) -> Iterator[Services]:
    with serving(configured("here")) as opened:
        yield opened


def failed(found: Readiness) -> dict[str, str]:
    assert found.ok == all(check.ok for check in found.checks)
    return {check.name: check.detail for check in found.checks if not check.ok}


def test_a_working_service_is_ready(services: Services) -> None:
    fill(services)
    found = readiness(services, least_free_bytes=0)
    assert failed(found) == {}
    assert [check.name for check in found.checks] == ["database", "storage", "disk", "outbox", "drivers"]
    for site in ("north", "south"):
        assert len(list(services.blobs_of(site))) == 2, "asking leaves nothing behind"


def test_a_full_disk(services: Services) -> None:
    assert failed(readiness(services, least_free_bytes=1 << 60)).keys() == {"disk"}


def test_a_database_that_is_gone(services: Services, tmp_path: Path) -> None:
    gone = replace(services, database=connect(f"sqlite:///{tmp_path}/no/such/folder/x.db"))
    found = readiness(gone, least_free_bytes=0)
    assert failed(found).keys() == {"database"}
    assert [check.name for check in found.checks] == ["database", "storage", "disk"]


def test_a_database_of_another_version(services: Services, tmp_path: Path) -> None:
    empty = replace(services, database=connect(f"sqlite:///{tmp_path}/empty.db"))
    assert "schema" in failed(readiness(empty, least_free_bytes=0))["database"]


def test_a_store_that_takes_nothing(services: Services, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    broken = replace(services, blobs_of=lambda _site: FileBlobs(tmp_path / "file"))
    assert failed(readiness(broken, least_free_bytes=0)).keys() == {"storage"}


def test_an_outbox_that_is_stuck(services: Services) -> None:
    with services.database.transaction() as session:
        late = message("north", "pacs", "pending")
        late.created_at = datetime.now(UTC) - timedelta(hours=2)
        session.add(late)
    assert "72" in failed(readiness(services, least_free_bytes=0))["outbox"]
    with services.database.transaction() as session:
        session.query(OutboxRow).update({"state": "dead"})
    assert failed(readiness(services, least_free_bytes=0)) == {}, "what was given up is for the worklist"


def test_drivers_that_are_gone(services: Services) -> None:
    services.store.submit(spec("north", 1), created_by="test")
    assert failed(readiness(services, least_free_bytes=0)) == {}, "a job may wait a moment"
    long_ago = datetime.now(UTC) - timedelta(seconds=4 * services.config.executor.lease_s)
    with services.database.transaction() as session:
        session.query(JobRow).update({"created_at": long_ago, "updated_at": long_ago})
    assert "no driver takes them" in failed(readiness(services, least_free_bytes=0))["drivers"]
    assert services.store.claim("d1", 60.0) is not None
    assert failed(readiness(services, least_free_bytes=0)) == {}
    with services.database.transaction() as session:
        session.query(JobRow).update({"state": JobState.RUNNING, "lease_until": long_ago})
    assert "sign of life" in failed(readiness(services, least_free_bytes=0))["drivers"]


def test_details_hold_no_password(configured: Callable[..., ServiceConfig]) -> None:
    with serving(configured("here")) as services:
        away = replace(services, database=connect(f"postgresql://doseeng:hunter2@/none?host={os.devnull}"))
        found = readiness(away, least_free_bytes=0)
        assert "hunter2" not in str(found)
        assert failed(found).keys() == {"database"}

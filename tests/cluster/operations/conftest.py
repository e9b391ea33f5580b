"""A service with something in it, on each kind of database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.database.tables import FlagRow, InstanceRow, OutboxRow
from cluster.jobs.model import Artifact, JobFailure, JobKind, JobResult, JobSpec, Priority
from cluster.security.access import Role
from cluster.service.config import ServiceConfig, read_config
from cluster.service.services import Services, open_services

SITES = ("north", "south")
OPERATIONS = "\n".join(f'[[site]]\nname = "{name}"' for name in SITES)


@contextmanager
def serving(config: ServiceConfig) -> Iterator[Services]:
    services = open_services(config)
    try:
        yield services
    finally:
        services.close()


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., ServiceConfig]:
    """`configured("here", url)`: the configuration of a service with two sites and a data_dir of that name."""

    def make(name: str, url: str = "") -> ServiceConfig:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "doseeng.toml").write_text(f'data_dir = "data"\ndatabase_url = "{url}"\n{OPERATIONS}\n')
        return read_config(folder / "doseeng.toml", {})

    return make


def spec(site: str, number: int, kind: JobKind = JobKind.EVALUATE, objects: tuple[str, ...] = ()) -> JobSpec:
    return JobSpec(site, kind, f"1.2.{number}", objects, patient_key=f"p{number}")


def fill(services: Services) -> None:
    """One job done, failed, running and waiting at each site; objects, a flag, messages, users."""
    for site in SITES:
        blobs = services.blobs_of(site)
        image = blobs.put(f"an object of {site}".encode())
        with services.database.transaction() as session:
            session.add(instance(site, image.sha256, image.size))
        submit = services.store.submit
        for number in range(3):
            submit(spec(site, number, objects=(image.sha256,)), created_by="test", priority=Priority.TODAY)
        result = blobs.put(f"result of {site}".encode())
        done = services.store.claim("d1", 60.0)
        assert done is not None
        artifact = Artifact("result.json", "application/json", result.sha256, result.size)
        services.store.finish(done.id, "d1", JobResult("RED", {"reasons": []}, (artifact,), "case1"))
        failed = services.store.claim("d1", 60.0)
        assert failed is not None
        services.store.fail(failed.id, "d1", JobFailure("PlanError", "no spots"))
        assert services.store.claim("d1", 60.0) is not None
        submit(spec(site, 9, JobKind.DOSE, (image.sha256,)), created_by="test", priority=Priority.BATCH)
        services.users.add(site, "ada", Role.PHYSICIST, "correct horse battery staple")
        services.audit.append(site=site, actor="test", action="job-submit")
        with services.database.transaction() as session:
            session.query(FlagRow).filter(FlagRow.site == site).delete()
            session.query(OutboxRow).filter(OutboxRow.site == site).delete()
            session.add(flag(site, done.id))
            session.add_all([message(site, "pacs", "pending"), message(site, "mail", "dead")])


def instance(site: str, sha256: str, size: int) -> InstanceRow:
    return InstanceRow(
        site=site,
        sop_uid="1.2.3",
        sop_class_uid="1.2",
        series_uid="1.3",
        study_uid="1.4",
        patient_key="p0",
        modality="CT",
        plan_uids=[],
        references=[],
        sha256=sha256,
        size=size,
        received_at=datetime.now(UTC),
    )


def flag(site: str, job_id: str) -> FlagRow:
    made = datetime.now(UTC) - timedelta(minutes=3)
    values = {"job_id": job_id, "verdict": "RED", "headline": "CTV is cold", "details": {}, "created_at": made}
    return FlagRow(id=f"flag-{site}", site=site, **values)


def message(site: str, destination: str, state: str) -> OutboxRow:
    made = datetime.now(UTC) - timedelta(minutes=2)
    values = {"kind": "webhook", "payload": {}, "attempt_key": "k", "next_attempt_at": made, "created_at": made}
    return OutboxRow(id=f"{site}-{destination}", site=site, subject="s", destination=destination, state=state, **values)

"""What tests of the API work with: a service, and clients that speak for its users."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import update

from cluster.database.tables import JobRow
from cluster.jobs.model import Artifact, Job, JobFailure, JobResult
from cluster.security.access import Role
from cluster.service.services import Services

HERE, THERE = "north", "south"
AWAY = "archive"
"""A destination of HERE that nobody sends to."""
PASSWORD = "plain-sailing-to-the-isles"
DRIVER = "driver-of-the-tests"


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """tokens: by site and role."""

    services: Services
    app: FastAPI
    client: TestClient
    tokens: dict[tuple[str, Role], str]

    def headers(self, role: Role | str, site: str = HERE) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[site, Role(role)]}"}

    def ask(self, role: Role | str, method: str, path: str, *, site: str = HERE, **more: object) -> httpx.Response:
        """A request of a user, to a path below /api/v1."""
        headers = {**self.headers(role, site), **more.pop("headers", {})}  # type: ignore[dict-item]
        return self.client.request(method, f"/api/v1{path}", headers=headers, **more)  # type: ignore[arg-type]

    def upload(self, folder: Path, site: str = HERE) -> httpx.Response:
        data, kind = zipped(folder), "application/zip"
        return self.ask(Role.PLANNER, "POST", "/objects", site=site, content=data, headers={"Content-Type": kind})

    def finish(self, job_id: str, verdict: str = "RED", files: dict[str, tuple[str, bytes]] | None = None) -> Job:
        """End a waiting job as a driver would. files: name -> media type and bytes."""
        job = self.claimed(job_id)
        blobs = self.services.blobs_of(job.spec.site)
        files = files or {"result.json": ("application/json", b'{"goals": []}')}
        artifacts = []
        for name, (kind, data) in files.items():
            blob = blobs.put(data)
            artifacts.append(Artifact(name, kind, blob.sha256, blob.size))
        summary = {"case": "a case", "plan": "a plan", "reasons": ["CTV misses D95"]}
        self.services.store.finish(job_id, DRIVER, JobResult(verdict, summary, tuple(artifacts), "case-key"))
        return self.services.store.get(job.spec.site, job_id)

    def fail(self, job_id: str) -> None:
        self.claimed(job_id)
        self.services.store.fail(job_id, DRIVER, JobFailure("PlanError", "beam 1 has no spots; export it again"))

    def claimed(self, job_id: str) -> Job:
        with self.services.database.transaction() as session:
            session.execute(update(JobRow).where(JobRow.id == job_id).values(priority=-1))
        job = self.services.store.claim(DRIVER, 60.0)
        assert job is not None
        assert job.id == job_id
        with self.services.database.transaction() as session:
            session.execute(update(JobRow).where(JobRow.id == job_id).values(priority=10))
        return job


def zipped(folder: Path) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.dcm")):
            archive.write(path, path.name)
    return data.getvalue()

"""A site whose jobs another doseeng computes: nothing of the patient leaves, and all of it is back in the results."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pydicom
import pytest
import uvicorn
from pydantic import SecretStr

from cluster.api.app import create_app
from cluster.executor.inprocess import InProcessExecutor
from cluster.jobs.driver import Driver
from cluster.jobs.model import Job, JobState
from cluster.security.access import Role
from cluster.security.pseudonyms import open_pseudonyms
from cluster.service.config import Center, ExecutorConfig, ServiceConfig, Site
from cluster.service.running import runner
from cluster.service.services import Services, open_services
from cluster.workflows.center import Returning, restored_text
from cluster.workflows.options import EvaluateOptions
from cluster.workflows.specs import evaluate_spec
from tests.conftest import WaterCase

PLAN = "1.2.826.0.1.3680043.10.4711.1"
BACKGROUND = ExecutorConfig(lease_s=30.0)


def work_once(services: Services, name: str, folder: Path) -> None:
    Driver(
        name, services.store, InProcessExecutor(), services.blobs_of, runner(services), BACKGROUND, folder
    ).run_until_empty()


def ended(services: Services, job: Job) -> Job:
    found = services.store.get(job.spec.site, job.id)
    assert found.state is JobState.DONE, found.error
    return found


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, str, str]]:
    """A service with an API on loopback and a driver; its address and a token."""
    folder = tmp_path_factory.mktemp("center")
    services = open_services(ServiceConfig(data_dir=str(folder), site=[Site(name="clients")]))
    services.users.add("clients", "north", Role.SERVICE)
    token = services.users.issue_token("clients", "north", "tests", 1)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(services), log_config=None))
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    serving.start()
    stop = threading.Event()
    driver = Driver(
        "center", services.store, InProcessExecutor(), services.blobs_of, runner(services), BACKGROUND, folder / "s"
    )
    working = threading.Thread(target=driver.run, args=(stop,))
    working.start()
    while not server.started:
        time.sleep(0.05)
    yield services, f"http://127.0.0.1:{listening.getsockname()[1]}", token
    stop.set()
    server.should_exit = True
    working.join()
    serving.join()
    services.close()


@pytest.fixture(scope="module")
def computed(
    center: tuple[Services, str, str], water_case: WaterCase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Services, Job, Job]]:
    """The site, and the same question answered at the centre and at the site itself."""
    _, url, token = center
    folder = tmp_path_factory.mktemp("sites")
    away = Site(name="north", center=Center(url=url, token=SecretStr(token)))
    services = open_services(ServiceConfig(data_dir=str(folder / "data"), site=[away, Site(name="south")]))
    case = water_case.write(folder / "case")
    jobs = []
    for site in services.config.site:
        for path in sorted(case.glob("*.dcm")):
            services.library.receive(site.name, path)
        spec = evaluate_spec(services.library, site, PLAN, EvaluateOptions(scenarios="nominal"))
        jobs.append(services.store.submit(spec, created_by="tests")[0])
    work_once(services, "site", folder / "scratch")
    yield services, ended(services, jobs[0]), ended(services, jobs[1])
    services.close()


def artifact(services: Services, job: Job, name: str) -> bytes:
    found = next(a for a in job.artifacts if a.name == name)
    return services.blobs_of(job.spec.site).get(found.sha256)


def test_the_centre_finds_what_the_site_would_find(computed: tuple[Services, Job, Job]) -> None:
    services, away, here = computed
    assert away.verdict == here.verdict
    assert away.case_key == here.case_key
    goals = [json.loads(artifact(services, job, "result.json"))["goals"] for job in (away, here)]
    assert goals[0] == goals[1]
    assert goals[0]


def test_results_carry_the_patient_again(computed: tuple[Services, Job, Job], water_case: WaterCase) -> None:
    services, away, here = computed
    for name in ("RD.dcm", "SR.dcm"):
        found, own = (pydicom.dcmread(io.BytesIO(artifact(services, job, name))) for job in (away, here))
        assert found.PatientID == own.PatientID == "QZ-4711"
        assert found.PatientName == own.PatientName
        assert found.StudyInstanceUID == own.StudyInstanceUID
        assert "PatientIdentityRemoved" not in found
    dose = pydicom.dcmread(io.BytesIO(artifact(services, away, "RD.dcm")))
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == PLAN
    assert json.loads(artifact(services, away, "result.json"))["provenance"]["plan_uid"] == PLAN
    assert {a.name for a in here.artifacts} - {a.name for a in away.artifacts} == {"summary.pdf", "PDF.dcm"}


def test_nothing_of_the_patient_is_at_the_centre(
    computed: tuple[Services, Job, Job], center: tuple[Services, str, str], water_case: WaterCase
) -> None:
    services = center[0]
    kept = [path.read_bytes() for path in services.config.data.rglob("*") if path.is_file()]
    assert sum(map(len, kept)) > 100_000
    for secret in (*water_case.secrets, PLAN, computed[1].case_key):
        assert not any(secret.encode() in data for data in kept), f"'{secret}' is at the centre"


def test_dates_of_the_patient_move_and_others_stay(computed: tuple[Services, Job, Job]) -> None:
    services = computed[0]
    pseudonyms = open_pseudonyms(services.database, services.config.data, "north")
    patient = Returning(pseudonyms, "QZ-4711", 400)
    uid = pseudonyms.uid(PLAN)
    text = f"acquired 2024-12-02, written 2026-03-01 10:00, never 2024-02-31, {uid}, 2.25.1"
    expected = f"acquired 2026-01-06, written 2026-03-01 10:00, never 2024-02-31, {PLAN}, 2.25.1"
    assert restored_text(text, patient, today=date(2026, 3, 1)) == expected


def test_a_centre_that_is_not_there_is_named(water_case: WaterCase, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    away = Site(name="north", center=Center(url=f"http://127.0.0.1:{port}", token=SecretStr("dsg_x")))
    services = open_services(ServiceConfig(data_dir=str(tmp_path / "data"), site=[away]))
    for path in sorted(water_case.write(tmp_path / "case").glob("*.dcm")):
        services.library.receive("north", path)
    spec = evaluate_spec(services.library, away, PLAN, EvaluateOptions(scenarios="nominal"))
    job, _ = services.store.submit(spec, created_by="tests")
    work_once(services, "site", tmp_path / "scratch")
    found = services.store.get("north", job.id)
    services.close()
    assert found.state is JobState.FAILED
    assert found.error is not None
    assert found.error.kind == "PeerError"
    assert "cannot be reached" in found.error.message

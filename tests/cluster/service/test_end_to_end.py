"""The whole service as a clinic starts it: an image is sent, parts are killed on the way, the flag arrives once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator

import pytest

from benchmarks import service as network
from benchmarks.smallpatient import SmallPatient, write_small_patient
from cluster.client import Client
from cluster.flags.webhook import verify_signature

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed (storescu, storescp)"),
]

PARTS = ("api", "node", "driver", "messenger")


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> SmallPatient:
    return write_small_patient(tmp_path_factory.mktemp("patient"))


@pytest.fixture(scope="module")
def after_kills(patient: SmallPatient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[network.Clinic]:
    """A clinic whose service lost each of its parts once: the node between the plan and the image, the driver while the
    job was under way, API and messenger as the flag was due."""
    folder = tmp_path_factory.mktemp("clinic")
    with network.clinic(folder, treatment_site="default", quiet_s=1.0, lease_s=3.0) as place:
        network.store(patient.case, place.port("node"))
        kill(place, "node")
        network.store(patient.cbct, place.port("node"))
        with client_of(place) as client:
            network.wait(lambda: any(job.state != "queued" for job in client.jobs()), "the job's start")
            kill(place, "driver")
        kill(place, "api")
        kill(place, "messenger")
        network.wait(lambda: bool(place.hook.received), "the flag at the webhook")
        network.wait(lambda: "SR" in network.modalities(place.received), "the report at the archive")
        yield place


def kill(place: network.Clinic, part: str) -> None:
    """kill -9, and wait until the supervisor has started it again."""
    pid = place.state(part)["pid"]
    os.kill(pid, signal.SIGKILL)

    def is_back() -> bool:
        return (place.run / f"{part}.json").exists() and place.state(part)["pid"] != pid

    network.wait(is_back, f"another {part}")


def client_of(place: network.Clinic) -> Client:
    token = (place.config.parent / "data" / "operator.token").read_text().strip()
    return Client(f"http://127.0.0.1:{place.port('api')}", token)


def test_the_image_started_one_job_and_it_ended_once(after_kills: network.Clinic, patient: SmallPatient) -> None:
    with client_of(after_kills) as client:
        (job,) = client.jobs()
        assert (job.kind, job.state) == ("adapt", "done")
        assert job.summary["series_uid"] == patient.cbct_uid
        (flag,) = client.worklist()
    assert flag["job_id"] == job.id
    assert flag["verdict"] == job.verdict == "UNEVALUABLE"


def test_the_flag_arrived_once_signed_and_without_identity(after_kills: network.Clinic, patient: SmallPatient) -> None:
    time.sleep(1.0)
    keys = {delivery.headers["Doseeng-Delivery"] for delivery in after_kills.hook.received}
    assert len(keys) == 1
    delivery = after_kills.hook.received[0]
    verify_signature(network.SECRET, delivery.headers, delivery.body, time.time())
    assert json.loads(delivery.body)["verdict"] == "UNEVALUABLE"
    assert not any(secret.encode() in delivery.body for secret in patient.secrets)


def test_a_second_copy_of_the_image_starts_nothing(after_kills: network.Clinic, patient: SmallPatient) -> None:
    network.store(patient.cbct, after_kills.port("node"))
    time.sleep(2.5)
    with client_of(after_kills) as client:
        assert len(list(client.jobs())) == 1


def test_the_audit_log_verifies(after_kills: network.Clinic) -> None:
    assert "intact" in network.audited(after_kills.config)


def test_nothing_of_the_patient_is_outside_of_objects(after_kills: network.Clinic, patient: SmallPatient) -> None:
    data = after_kills.config.parent / "data"
    others = [path for path in data.rglob("*") if path.is_file() and "blobs" not in path.parts]
    assert len(others) > len(PARTS)
    for path in others:
        content = path.read_bytes()
        assert not any(secret.encode() in content for secret in patient.secrets), path.name

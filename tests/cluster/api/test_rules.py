"""What comes by HTTP starts jobs by the site's rules, as what comes by C-STORE does."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.smallpatient import SmallPatient, write_small_patient
from cluster.database.tables import SeriesRow
from cluster.jobs.model import JobKind, Priority
from cluster.node.watcher import SeriesWatcher
from tests.cluster.api.making import HERE, Service
from tests.cluster.api.test_dicomweb import related, stored

RULE = {"name": "cone-beam", "modality": "CT", "description": "cbct", "quiet_s": 5.0, "min_images": 10}


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> SmallPatient:
    return write_small_patient(tmp_path_factory.mktemp("patient"))


def look(service: Service) -> list[str]:
    """What a watcher that has just started does when all is quiet."""
    return [job.id for job in SeriesWatcher(service.services).look(datetime.now(UTC) + timedelta(seconds=30))]


def by_zip(service: Service, folder: Path) -> None:
    assert service.upload(folder).json()["refused"] == []


def by_stow(service: Service, folder: Path) -> None:
    body = related(*(path.read_bytes() for path in sorted(folder.glob("*.dcm"))))
    assert stored(service, body).status_code == 200


@pytest.mark.parametrize("send", [by_zip, by_stow])
def test_a_day_of_a_treated_patient_starts_one_job(
    service_of: Callable[..., Service], patient: SmallPatient, send: Callable[[Service, Path], None]
) -> None:
    service = service_of(site={"rule": [RULE]})
    send(service, patient.case)
    assert service.ask("physicist", "PUT", f"/courses/{patient.plan_uid}", json={}).status_code == 200
    assert look(service) == []
    send(service, patient.cbct)
    (job_id,) = look(service)
    job = service.services.store.get(HERE, job_id)
    assert (job.spec.kind, job.spec.plan_uid, job.priority) == (JobKind.ADAPT, patient.plan_uid, Priority.TODAY)
    assert (job.spec.image_series_uid, len(job.spec.image)) == (patient.cbct_uid, len(patient.cbct_files))
    send(service, patient.cbct)
    assert SeriesWatcher(service.services).catch_up() == 0
    assert look(service) == []
    assert len(service.ask("viewer", "GET", "/jobs").json()["jobs"]) == 1


def test_a_note_is_there_exactly_when_the_objects_are(
    service_of: Callable[..., Service], patient: SmallPatient, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = service_of(site={"rule": [RULE]})

    def killed(*_: object) -> int:
        raise RuntimeError("killed between the objects and their note")

    with monkeypatch.context() as patched:
        patched.setattr("cluster.node.notes._count", killed)
        assert service.upload(patient.cbct).status_code == 500
    assert service.services.library.instances(HERE) == []
    by_zip(service, patient.cbct)
    with service.services.database.reading() as session:
        row = session.get(SeriesRow, (HERE, patient.cbct_uid))
    assert row is not None
    assert (row.state, row.instances) == ("waiting", len(patient.cbct_files))


def test_a_site_that_treats_by_itself(service_of: Callable[..., Service], patient: SmallPatient) -> None:
    service = service_of(site={"rule": [RULE], "auto_treat": True})
    by_zip(service, patient.case)
    assert look(service) == []
    (course,) = service.ask("viewer", "GET", "/courses").json()
    assert (course["plan_uid"], course["created_by"]) == (patient.plan_uid, "auto-treat")
    by_zip(service, patient.cbct)
    assert len(look(service)) == 1


def test_rules_for_one_sender_do_not_fit_uploads(service_of: Callable[..., Service], patient: SmallPatient) -> None:
    service = service_of(site={"rule": [{**RULE, "calling_ae": ["CT1"]}], "auto_treat": True})
    by_zip(service, patient.case)
    by_zip(service, patient.cbct)
    assert look(service) == []

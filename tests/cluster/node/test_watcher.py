"""From received series to jobs: time is given, nothing waits."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread

from cluster.database.tables import SeriesRow
from cluster.jobs.model import JobKind, JobState, Priority
from cluster.node.notes import note_received
from cluster.node.watcher import SeriesWatcher
from cluster.service.services import Services
from doseeng.errors import JobError

START = datetime(2026, 1, 6, 9, 30, tzinfo=UTC)
QUIET = timedelta(seconds=5)
A_MOMENT = timedelta(seconds=1)


@dataclass
class Site:
    """One site of a service, as the node fills it; every object takes a tenth of a second."""

    services: Services
    name: str = "north"
    now: datetime = START

    @property
    def watcher(self) -> SeriesWatcher:
        """As after a restart: it knows nothing but the database."""
        return SeriesWatcher(self.services)

    def receive(self, files: list[Path]) -> None:
        for file in files:
            self.now += timedelta(milliseconds=100)
            received = self.services.library.receive(self.name, file, calling_ae="LINAC")
            note_received(self.services.database, self.name, received, self.now)

    def row(self, series_uid: str) -> SeriesRow:
        with self.services.database.reading() as session:
            found = session.get(SeriesRow, (self.name, series_uid))
        assert found is not None
        return found

    def look(self, after: timedelta = QUIET) -> list[str]:
        self.now += after
        return [job.id for job in self.watcher.look(self.now)]


@pytest.fixture
def site(services: Services) -> Site:
    return Site(services)


@pytest.fixture
def treated(site: Site, patient) -> Site:
    """The patient's plan is under treatment, its planning CT has been looked at."""
    site.receive(patient.case_files)
    site.services.courses.treat("north", patient.plan_uid, {}, "test")
    assert site.look() == []
    return site


def test_a_complete_series_of_a_treated_patient_starts_one_urgent_job(treated: Site, patient) -> None:
    treated.receive(patient.cbct_files)
    assert treated.look(A_MOMENT) == []
    (job_id,) = treated.look()
    job = treated.services.store.get("north", job_id)
    assert (job.spec.kind, job.spec.plan_uid, job.priority) == (JobKind.ADAPT, patient.plan_uid, Priority.TODAY)
    assert job.spec.image_series_uid == patient.cbct_uid
    assert len(job.spec.image) == len(patient.cbct_files)
    row = treated.row(patient.cbct_uid)
    assert (row.state, row.rule, row.job_id, row.instances) == ("started", "cone-beam", job_id, 12)
    (entry,) = treated.services.audit.read("north")
    assert (entry.action, entry.object_id, entry.details) == ("job-submit", job_id, {"rule": "cone-beam"})
    assert treated.look() == []
    assert len(treated.services.store.search("north")) == 1


def test_repeats_start_nothing(treated: Site, patient) -> None:
    treated.receive(patient.cbct_files)
    treated.look()
    treated.receive(patient.cbct_files)
    assert treated.look() == []
    assert treated.row(patient.cbct_uid).state == "started"


def test_the_quiet_period_counts_from_the_last_image(treated: Site, patient) -> None:
    treated.receive(patient.cbct_files[:10])
    assert treated.look(QUIET - A_MOMENT) == []
    treated.receive(patient.cbct_files[10:])
    assert treated.look(QUIET - A_MOMENT) == []
    assert len(treated.look(A_MOMENT)) == 1


def test_a_late_image_makes_a_new_job_and_cancels_the_incomplete_one(treated: Site, patient) -> None:
    treated.receive(patient.cbct_files[:-1])
    (first,) = treated.look()
    treated.receive(patient.cbct_files[-1:])
    assert treated.row(patient.cbct_uid).state == "waiting"
    (second,) = treated.look()
    assert first != second
    store = treated.services.store
    assert store.get("north", first).state == JobState.CANCELLED
    assert len(store.get("north", second).spec.image) == len(patient.cbct_files)
    row = treated.row(patient.cbct_uid)
    assert (row.state, row.job_id) == ("started", second)
    assert "more images came after a job had started with 11" in row.note


def test_a_watcher_killed_after_submission_does_not_submit_twice(
    treated: Site, patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    treated.receive(patient.cbct_files)
    with monkeypatch.context() as patched:
        patched.setattr(SeriesWatcher, "_settle", _killed)
        with pytest.raises(KeyboardInterrupt):
            treated.look()
    (job_id,) = treated.look()
    assert [job.id for job in treated.services.store.search("north")] == [job_id]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_images_whose_note_was_lost_are_found_at_the_start(treated: Site, patient) -> None:
    for file in patient.cbct_files:
        treated.services.library.receive("north", file, calling_ae="LINAC")
    assert treated.look() == []
    watcher = treated.watcher
    assert watcher.catch_up() == 1
    assert watcher.catch_up() == 0
    later = datetime.now(UTC) + timedelta(seconds=30)
    assert len(watcher.look(later)) == 1


def test_what_was_not_sent_to_the_node_starts_nothing(treated: Site, patient) -> None:
    for file in patient.cbct_files:
        treated.services.library.receive("north", file)
    assert treated.watcher.catch_up() == 0
    assert treated.look() == []


def test_series_that_start_nothing_say_why(site: Site, patient) -> None:
    site.receive(patient.case_files)
    site.receive(patient.cbct_files[:4])
    site.look(timedelta(seconds=30))
    assert site.row(patient.cbct_uid).state == "too-few-images"
    assert site.row(patient.cbct_uid).note == "4 images, rule 'cone-beam' wants 10"
    assert site.row(patient.ct_uid).state == "no-rule"
    site.receive(patient.cbct_files[4:])
    site.look()
    assert site.row(patient.cbct_uid).state == "not-under-treatment"


def test_treatment_that_begins_the_same_day_brings_the_job(site: Site, patient) -> None:
    site.receive(patient.case_files + patient.cbct_files)
    assert site.look() == []
    site.services.courses.treat("north", patient.plan_uid, {}, "test")
    assert len(site.look()) == 1


def test_treatment_that_begins_days_later_does_not(site: Site, patient) -> None:
    site.receive(patient.case_files + patient.cbct_files)
    site.look()
    site.now += timedelta(days=2)
    site.services.courses.treat("north", patient.plan_uid, {}, "test")
    assert site.look() == []


def test_the_planning_ct_is_no_image_of_a_day(make_services: Callable[..., Services], patient) -> None:
    rule = {"name": "any", "quiet_s": 5.0, "min_images": 1}
    site = Site(make_services(site=[{"name": "north", "calling_ae": ["LINAC"], "rule": [rule]}]))
    site.receive(patient.case_files)
    site.services.courses.treat("north", patient.plan_uid, {}, "test")
    assert site.look() == []
    assert site.row(patient.ct_uid).state == "planning-image"


def test_what_we_made_ourselves_is_no_image_of_a_day(treated: Site, patient, tmp_path: Path) -> None:
    files = []
    for file in patient.cbct_files:
        dataset = dcmread(file)
        dataset.Manufacturer, dataset.SeriesDescription = "doseeng", "doseeng CBCT corrected"
        dataset.save_as(tmp_path / file.name)
        files.append(tmp_path / file.name)
    treated.receive(files)
    assert treated.look() == []
    assert treated.row(patient.cbct_uid).state == "own-result"


def test_an_image_without_time_is_refused_with_the_reason(treated: Site, patient, tmp_path: Path) -> None:
    files = []
    for file in patient.cbct_files:
        dataset = dcmread(file)
        for keyword in [
            e.keyword for e in dataset if e.keyword.endswith(("Date", "Time")) and "Study" not in e.keyword
        ]:
            delattr(dataset, keyword)
        dataset.save_as(tmp_path / file.name)
        files.append(tmp_path / file.name)
    treated.receive(files)
    assert treated.look() == []
    row = treated.row(patient.cbct_uid)
    assert row.state == "refused"
    assert "does not say when it was acquired" in row.note


def test_a_site_that_treats_by_itself(make_services: Callable[..., Services], patient) -> None:
    rule = {"name": "cone-beam", "description": "cbct", "quiet_s": 5.0}
    north = {"name": "north", "calling_ae": ["LINAC"], "auto_treat": True, "rule": [rule]}
    site = Site(make_services(site=[north]))
    site.receive([file for file in patient.case_files if file.name != "CT.0001.dcm"])
    watcher = site.watcher
    watcher.look(site.now)
    assert site.services.courses.all("north") == []
    site.receive([patient.case / "CT.0001.dcm"])
    watcher.look(site.now)
    (course,) = site.services.courses.all("north")
    assert (course.plan_uid, course.created_by) == (patient.plan_uid, "auto-treat")
    site.receive(patient.cbct_files)
    assert len(site.look()) == 1
    site.services.courses.end("north", patient.plan_uid)
    assert watcher.look(site.now) == []
    assert site.services.courses.all("north") == []


def test_a_database_that_is_away_leaves_the_series_waiting(treated: Site, patient, monkeypatch) -> None:
    treated.receive(patient.cbct_files)

    def away(*_: object, **__: object) -> None:
        raise JobError("the database has not answered")

    with monkeypatch.context() as patched:
        patched.setattr(type(treated.services.store), "submit", away)
        with pytest.raises(JobError):
            treated.look()
    assert treated.row(patient.cbct_uid).state == "waiting"
    assert len(treated.look()) == 1


def test_sites_are_apart(treated: Site, patient) -> None:
    south = Site(treated.services, "south", treated.now)
    south.receive(patient.cbct_files)
    assert south.look() == []
    assert south.row(patient.cbct_uid).state == "not-under-treatment"
    assert treated.services.store.search("north") == []

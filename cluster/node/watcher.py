"""From received image series to jobs: a series of a patient under treatment that fits a rule starts one, once complete.

All that is known is in the database, so that a watcher that was killed goes on where it stopped. A series is complete
when nothing more of it has come for the rule's quiet period; what comes later makes it a new question and a new job.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cluster.database.tables import CourseRow, InstanceRow, SeriesRow
from cluster.jobs.model import Job, Priority
from cluster.library.closure import LOCALIZER
from cluster.library.entries import CourseEntry, Received, SeriesEntry
from cluster.node.network import IMAGE_CLASSES
from cluster.node.notes import SeriesState, note_received
from cluster.node.rules import SeriesFacts, fitting
from cluster.security.audit import Action
from cluster.service.config import Rule, Site
from cluster.workflows.options import AdaptOptions
from cluster.workflows.specs import adapt_spec
from doseeng.dicom.inventory import PLAN_CLASSES
from doseeng.errors import DicomError, DoseengError, JobError
from robust.configuration import checked

if TYPE_CHECKING:
    from cluster.service.services import Services

CREATED_BY: Final = "rule"
AUTO_TREAT: Final = "auto-treat"
LOOK_EVERY_S: Final = 1.0
QUIET_S: Final = 20.0
"""For series that fit no rule; as the default of rules."""
SAME_DAY: Final = timedelta(hours=24)
"""A patient who is put under treatment later than this after an image is not judged on it."""

_log = logging.getLogger(__name__)


class SeriesWatcher:
    """Looks at received series, and puts plans under treatment at sites where nobody has to say so."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tried: dict[tuple[str, str], int] = {}

    def run(self, stop: threading.Event) -> None:
        """Look again and again until `stop`. What fails is logged and tried again."""
        is_caught_up = False
        while not stop.is_set():
            try:
                if not is_caught_up:
                    self.catch_up()
                    is_caught_up = True
                self.look(datetime.now(UTC))
            except (DoseengError, OSError) as error:
                _log.error("watcher: %s", error)
            stop.wait(LOOK_EVERY_S)

    def catch_up(self) -> int:
        """Take note of series whose images were kept while the note was not: a node that was killed between the two,
        and whose sender did not come again. How many there were. What came by HTTP is noted as it is indexed."""
        counted = (
            select(InstanceRow.site, InstanceRow.series_uid, func.count().label("instances"))
            .where(InstanceRow.sop_class_uid.in_(IMAGE_CLASSES), InstanceRow.calling_ae != "")
            .group_by(InstanceRow.site, InstanceRow.series_uid)
            .subquery()
        )
        query = (
            select(counted.c.site, counted.c.series_uid)
            .outerjoin(SeriesRow, (SeriesRow.site == counted.c.site) & (SeriesRow.series_uid == counted.c.series_uid))
            .where(func.coalesce(SeriesRow.instances, 0) < counted.c.instances)
        )
        with self._services.database.reading() as session:
            missed = session.execute(query).all()
        for site, series_uid in missed:
            newest = max(
                self._services.library.instances(site, series_uid=series_uid), key=lambda entry: entry.received_at
            )
            received = Received(
                newest.sop_uid,
                newest.sop_class_uid,
                series_uid,
                newest.study_uid,
                newest.patient_key,
                newest.modality,
                newest.sha256,
                True,
            )
            note_received(self._services.database, site, received, newest.received_at)
        return len(missed)

    def look(self, now: datetime) -> list[Job]:
        """Judge every series that waits and is complete by now; the jobs that were started for them."""
        started: list[Job] = []
        for site in self._services.config.site:
            if site.auto_treat:
                self._treat_new_plans(site)
            for row in self._due(site.name, now):
                started += self._judge(site, row, now)
        return started

    def _due(self, site: str, now: datetime) -> Sequence[SeriesRow]:
        """Series that wait, and those of today whose patient has come under treatment since they were looked at."""
        is_treated = (
            select(CourseRow.plan_uid)
            .where(
                CourseRow.site == SeriesRow.site,
                CourseRow.patient_key == SeriesRow.patient_key,
                CourseRow.ended_at.is_(None),
            )
            .exists()
        )
        waits = SeriesRow.state == SeriesState.WAITING
        late = (SeriesRow.state == SeriesState.NOT_TREATED) & (SeriesRow.last_received > now - SAME_DAY) & is_treated
        query = select(SeriesRow).where(SeriesRow.site == site, waits | late).order_by(SeriesRow.last_received)
        with self._services.database.reading() as session:
            return session.scalars(query).all()

    def _judge(self, site: Site, row: SeriesRow, now: datetime) -> list[Job]:
        entry = self._entry(site.name, row.series_uid)
        if entry is None:
            self._settle(row, SeriesState.REFUSED, "its images are gone from the library, or are localizers alone")
            return []
        facts = SeriesFacts(entry.modality, entry.description, entry.manufacturer, entry.calling_ae)
        rule = fitting(site.rule, facts)
        if now - row.last_received < timedelta(seconds=rule.quiet_s if rule is not None else QUIET_S):
            return []
        courses = self._services.courses.of_patient(site.name, entry.patient_key)
        state, note = self._verdict(site, entry, rule, courses)
        if state is not SeriesState.STARTED:
            self._settle(row, state, note, rule.name if rule is not None else "")
            return []
        assert rule is not None
        return self._start(site, row, rule, courses)

    def _verdict(
        self, site: Site, entry: SeriesEntry, rule: Rule | None, courses: Sequence[CourseEntry]
    ) -> tuple[SeriesState, str]:
        """Whether a complete series starts jobs, and if not, why."""
        if entry.is_own:
            return SeriesState.OWN_RESULT, "a job of this service made it"
        if rule is None:
            return SeriesState.NO_RULE, f"fits none of the {len(site.rule)} rules of the site"
        if entry.instances < rule.min_images:
            return SeriesState.TOO_FEW, f"{entry.instances} images, rule '{rule.name}' wants {rule.min_images}"
        if not courses:
            return SeriesState.NOT_TREATED, "no plan of the patient is under treatment"
        images = {image.sha256 for image in self._services.library.instances(site.name, series_uid=entry.series_uid)}
        for course in courses:
            try:
                case = self._services.library.case_objects(site.name, course.plan_uid)
            except DicomError:
                continue  # said when the job is made
            if images & set(case.sha256s):
                return SeriesState.PLANNING_IMAGE, f"plan {course.plan_uid} was made on it"
        return SeriesState.STARTED, ""

    def _start(self, site: Site, row: SeriesRow, rule: Rule, courses: Sequence[CourseEntry]) -> list[Job]:
        """One job for each plan of the patient under treatment; what an incomplete series had started is cancelled."""
        jobs: list[Job] = []
        refusals: list[str] = []
        for course in courses:
            try:
                options = checked(course.options, AdaptOptions, "options of the course")
                spec = adapt_spec(self._services.library, site, course.plan_uid, row.series_uid, options)
            except JobError:
                raise  # the database or the storage is away: try again
            except DoseengError as error:
                refusals.append(str(error))
                continue
            job, is_new = self._services.store.submit(spec, created_by=CREATED_BY, priority=Priority.TODAY)
            jobs.append(job)
            if is_new:
                self._audit(site.name, Action.JOB_SUBMIT, "job", job.id, {"rule": rule.name})
                _log.info("watcher: series %s starts job %s (rule '%s')", row.series_uid, job.id, rule.name)
        if row.job_id and row.job_id not in {job.id for job in jobs}:
            self._cancel(site.name, row.job_id)
        notes = [row.note] * bool(row.note) + refusals
        if not jobs:
            self._settle(row, SeriesState.REFUSED, "; ".join(notes), rule.name)
            return []
        if len(jobs) > 1:
            notes.append("jobs " + ", ".join(job.id for job in jobs))
        self._settle(row, SeriesState.STARTED, "; ".join(notes), rule.name, jobs[0].id)
        return jobs

    def _cancel(self, site: str, job_id: str) -> None:
        try:
            self._services.store.cancel(site, job_id)
        except JobError:
            return  # it has ended; its result stands beside the new one's
        self._audit(site, Action.JOB_CANCEL, "job", job_id, {"reason": "its series was not complete"})
        _log.info("watcher: job %s is cancelled, its series was not complete", job_id)

    def _settle(self, row: SeriesRow, state: SeriesState, note: str, rule: str = "", job_id: str = "") -> None:
        """Write down what became of a series, unless more of it has come meanwhile."""

        def work(session: Session) -> None:
            now = session.get(SeriesRow, (row.site, row.series_uid), with_for_update=True)
            if now is None:
                return
            now.rule, now.note = rule, note
            now.job_id = job_id or now.job_id
            if now.last_received == row.last_received and now.instances == row.instances:
                now.state = state

        self._services.database.retrying(work)
        if row.state != state:
            _log.info("watcher: series %s: %s (%s)", row.series_uid, state.value, note)

    def _entry(self, site: str, series_uid: str) -> SeriesEntry | None:
        """The images of a series, without localizers."""
        entries = self._services.library.series(site, series_uid=series_uid)
        return next((entry for entry in entries if entry.role != LOCALIZER), None)

    def _treat_new_plans(self, site: Site) -> None:
        """Put plans under treatment that were never, were sent to us, and whose case is complete.

        A plan whose case is not is tried again when more of the patient has come.
        """
        query = (
            select(InstanceRow.sop_uid, InstanceRow.patient_key)
            .outerjoin(CourseRow, (CourseRow.site == InstanceRow.site) & (CourseRow.plan_uid == InstanceRow.sop_uid))
            .where(
                InstanceRow.site == site.name,
                InstanceRow.sop_class_uid.in_(PLAN_CLASSES),
                InstanceRow.calling_ae != "",
                CourseRow.plan_uid.is_(None),
            )
        )
        with self._services.database.reading() as session:
            plans = session.execute(query).all()
        for plan_uid, patient_key in plans:
            count = len(self._services.library.instances(site.name, patient_key=patient_key))
            if self._tried.get((site.name, plan_uid)) == count:
                continue
            try:
                self._services.library.case_objects(site.name, plan_uid)
                self._services.courses.treat(site.name, plan_uid, {}, AUTO_TREAT)
            except DicomError as error:
                self._tried[site.name, plan_uid] = count
                _log.info("watcher: plan %s is not put under treatment yet: %s", plan_uid, error)
                continue
            self._audit(site.name, Action.TREATMENT_START, "plan", plan_uid, {})
            _log.info("watcher: plan %s is under treatment", plan_uid)

    def _audit(self, site: str, action: Action, object_type: str, object_id: str, details: dict[str, Any]) -> None:
        self._services.audit.append(
            site=site, actor=CREATED_BY, action=action, object_type=object_type, object_id=object_id, details=details
        )

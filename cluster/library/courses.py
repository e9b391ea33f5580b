"""Who is under treatment: a plan whose days are judged as their images arrive."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.database.connection import Database
from cluster.database.tables import CourseRow, InstanceRow
from cluster.library.closure import treats
from cluster.library.entries import CourseEntry
from cluster.workflows.options import AdaptOptions
from doseeng.dicom.inventory import PLAN_CLASSES, patient_key
from doseeng.errors import DicomError, JobError
from robust.configuration import checked

UNKNOWN_PATIENT = patient_key("")
"""Pseudonym of whoever has no patient ID: nothing shows that two objects that carry it are of one patient."""


class Courses:
    """Plans under treatment, per site."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def treat(self, site: str, plan_uid: str, options: dict[str, Any], created_by: str) -> CourseEntry:
        """Put a plan under treatment; again, with other options or after its end, it goes on with these options.

        options: of its adapt jobs, as `AdaptOptions` takes them. ConfigError for wrong options, DicomError for a plan
        that the site does not have.
        """
        checked(options, AdaptOptions, "options of the course")
        return self._database.retrying(lambda session: _treat(session, site, plan_uid, options, created_by))

    def end(self, site: str, plan_uid: str) -> CourseEntry:
        """The last fraction was given: images start no more jobs. JobError for a plan that was never treated."""
        return self._database.retrying(lambda session: _end(session, site, plan_uid))

    def of_patient(self, site: str, patient_key: str) -> list[CourseEntry]:
        """Plans of a patient under treatment now, the latest first; none for a patient without ID."""
        if patient_key == UNKNOWN_PATIENT:
            return []
        return [course for course in self.all(site) if course.patient_key == patient_key]

    def all(self, site: str, under_treatment: bool = True) -> list[CourseEntry]:
        """Plans under treatment now (or also those that were), the latest first."""
        query = select(CourseRow).where(CourseRow.site == site)
        if under_treatment:
            query = query.where(CourseRow.ended_at.is_(None))
        with self._database.reading() as session:
            rows = list(session.scalars(query.order_by(CourseRow.started_at.desc(), CourseRow.plan_uid)))
        return [_entry(row) for row in rows]


def _treat(session: Session, site: str, plan_uid: str, options: dict[str, Any], created_by: str) -> CourseEntry:
    plan = session.get(InstanceRow, (site, plan_uid))
    if plan is None or plan.sop_class_uid not in PLAN_CLASSES or not treats(plan):
        raise DicomError(
            f"plan {plan_uid[:64]} with treatment beams is not in the library of site '{site}'; send the plan first"
        )
    row = session.get(CourseRow, (site, plan_uid))
    if row is None:
        row = CourseRow(
            site=site,
            plan_uid=plan_uid,
            patient_key=plan.patient_key,
            case_key="",
            options=options,
            started_at=datetime.now(UTC),
            created_by=created_by,
        )
        session.add(row)
    row.options = options
    row.ended_at = None
    session.flush()
    return _entry(row)


def _end(session: Session, site: str, plan_uid: str) -> CourseEntry:
    row = session.get(CourseRow, (site, plan_uid))
    if row is None:
        raise JobError(f"plan {plan_uid[:64]} is not under treatment at site '{site}', so that nothing can end")
    row.ended_at = row.ended_at or datetime.now(UTC)
    session.flush()
    return _entry(row)


def _entry(row: CourseRow) -> CourseEntry:
    return CourseEntry(
        row.plan_uid,
        row.patient_key,
        row.case_key,
        row.options,
        row.started_at,
        row.ended_at,
        row.created_by,
    )

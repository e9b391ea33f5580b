"""The DICOM objects of every site: bytes in the blob store, an index in the database, cases made by references.

    library = Library(database, blobs_of)
    received = library.receive("north", data)
    case = library.case_objects("north", plan_uid)

Every question names its site, and no answer holds anything of another one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, select

from cluster.database.connection import Database
from cluster.database.tables import InstanceRow
from cluster.library.closure import case_rows, image_rows, treats
from cluster.library.entries import (
    CaseObjects,
    ImageObjects,
    InstanceEntry,
    PatientEntry,
    PlanEntry,
    Received,
    SeriesEntry,
    is_own_result,
)
from cluster.library.intake import Intake, OnReceived, Refused, as_files, nothing_more
from cluster.storage.blobs import BlobStore
from doseeng.dicom.files import read_header
from doseeng.dicom.inventory import PLAN_CLASSES, case_key
from doseeng.dicom.tags import text
from doseeng.errors import DicomError


class Library:
    """What was received, per site."""

    def __init__(self, database: Database, blobs_of: Callable[[str], BlobStore]) -> None:
        self._database = database
        self._blobs_of = blobs_of

    def blobs(self, site: str) -> BlobStore:
        """Where the bytes of a site's objects are."""
        return self._blobs_of(site)

    def receive(self, site: str, data: bytes | Path, *, calling_ae: str = "") -> Received:
        """Take a DICOM part 10 object in; one that is there already, byte for byte, changes nothing.

        DicomError for what is not DICOM, damaged or without its UIDs, and for other bytes under a SOP Instance UID that
        is taken: the first ones stay. JobError when it cannot be stored.
        """
        (outcome,) = self.intake(site, calling_ae=calling_ae).take([data])
        if isinstance(outcome, Refused):
            raise DicomError(outcome.reason)
        return outcome

    def intake(
        self, site: str, *, calling_ae: str = "", study_uid: str = "", on_received: OnReceived = nothing_more
    ) -> Intake:
        """For many objects: one transaction for all that are given to it at once."""
        return Intake(self._database, self._blobs_of(site), site, calling_ae, study_uid, on_received)

    def instances(
        self, site: str, *, study_uid: str = "", series_uid: str = "", patient_key: str = ""
    ) -> list[InstanceEntry]:
        """Objects of a study, series or patient (or of all), by series and SOP Instance UID."""
        wanted = {"study_uid": study_uid, "series_uid": series_uid, "patient_key": patient_key}
        query = (
            select(InstanceRow).where(InstanceRow.site == site).order_by(InstanceRow.series_uid, InstanceRow.sop_uid)
        )
        for name, value in wanted.items():
            if value:
                query = query.where(getattr(InstanceRow, name) == value)
        with self._database.reading() as session:
            rows = session.scalars(query.order_by(InstanceRow.series_uid, InstanceRow.sop_uid))
            return [_instance_entry(row) for row in rows]

    def plans(self, site: str, patient_key: str = "") -> list[PlanEntry]:
        """Plans that have treatment beams, the latest received first."""
        query = select(InstanceRow).where(InstanceRow.site == site, InstanceRow.sop_class_uid.in_(PLAN_CLASSES))
        if patient_key:
            query = query.where(InstanceRow.patient_key == patient_key)
        with self._database.reading() as session:
            rows = list(session.scalars(query.order_by(InstanceRow.received_at.desc(), InstanceRow.sop_uid)))
        return [_plan_entry(row) for row in rows if treats(row)]

    def series(self, site: str, patient_key: str = "", series_uid: str = "") -> list[SeriesEntry]:
        """Series by time of reception, the latest first; a series with localizers is one entry for each role."""
        query = _series_query().where(InstanceRow.site == site)
        if patient_key:
            query = query.where(InstanceRow.patient_key == patient_key)
        if series_uid:
            query = query.where(InstanceRow.series_uid == series_uid)
        with self._database.reading() as session:
            return [_series_entry(*row) for row in session.execute(query)]

    def patients(self, site: str) -> list[PatientEntry]:
        """Patients, the latest received first."""
        last = func.max(InstanceRow.received_at)
        counts = (
            func.count(InstanceRow.study_uid.distinct()),
            func.count(InstanceRow.series_uid.distinct()),
            func.count(),
        )
        query = select(InstanceRow.patient_key, *counts, last).where(InstanceRow.site == site)
        query = query.group_by(InstanceRow.patient_key).order_by(last.desc(), InstanceRow.patient_key)
        with self._database.reading() as session:
            return [PatientEntry(*row) for row in session.execute(query)]

    def case_objects(self, site: str, plan_uid: str) -> CaseObjects:
        """The plan, its structure set, the image series that was drawn on, and the doses of the plan.

        The same objects that `doseeng.dicom.case.read_case` takes from a folder that holds everything of the site.
        DicomError names what is missing or ambiguous.
        """
        blobs = self._blobs_of(site)
        with self._database.reading() as session:
            rows = case_rows(session, site, plan_uid, blobs)
        plan = rows[0]
        with as_files([blobs.get(plan.sha256)]) as (path,):
            key = case_key(text(read_header(path), "PatientID"), plan.sop_uid)
        return CaseObjects(plan.sop_uid, plan.patient_key, key, _digests(rows))

    def image_objects(self, site: str, series_uid: str) -> ImageObjects:
        """The slices of a series, the structure sets drawn on it and the registrations of its frame of reference.

        What `doseeng.dicom.day.read_day_image` asks for. DicomError when the site has no such series of CT slices.
        """
        with self._database.reading() as session:
            slices, beside = image_rows(session, site, series_uid)
        acquired = min((row.acquired for row in slices if row.acquired), default="")
        return ImageObjects(series_uid, slices[0].patient_key, acquired, _digests([*slices, *beside]))

    def data(self, site: str, sop_uid: str) -> bytes:
        """The bytes of an object as they were received. DicomError when the site has no such object."""
        with self._database.reading() as session:
            row = session.get(InstanceRow, (site, sop_uid))
        if row is None:
            raise DicomError(f"object {sop_uid[:64]} is not in the library of site '{site}'; send it first")
        return self._blobs_of(site).get(row.sha256)


def _instance_entry(row: InstanceRow) -> InstanceEntry:
    return InstanceEntry(**{name: getattr(row, name) for name in InstanceEntry.__slots__})


def _plan_entry(row: InstanceRow) -> PlanEntry:
    return PlanEntry(
        row.sop_uid, row.patient_key, row.label, row.role, row.study_uid, row.structure_set_uid, row.received_at
    )


def _series_entry(*columns: Any) -> SeriesEntry:
    """From the columns of `_series_query`."""
    values = dict(zip(SeriesEntry.__slots__, columns, strict=False))
    return SeriesEntry(**values, is_own=is_own_result(values["manufacturer"], values["description"]))


def _series_query() -> Select[Any]:
    """Columns in the order of `SeriesEntry`, without its last one."""
    last = func.max(InstanceRow.received_at)
    alike = (
        InstanceRow.series_uid,
        InstanceRow.study_uid,
        InstanceRow.patient_key,
        InstanceRow.modality,
        InstanceRow.role,
        InstanceRow.series_description,
        InstanceRow.manufacturer,
    )
    query = select(
        *alike,
        func.coalesce(func.min(func.nullif(InstanceRow.acquired, "")), ""),
        func.max(InstanceRow.frame_of_reference_uid),
        func.max(InstanceRow.calling_ae),
        func.count(),
        func.min(InstanceRow.received_at),
        last,
    )
    return query.group_by(*alike).order_by(last.desc(), InstanceRow.series_uid, InstanceRow.role)


def _digests(rows: list[InstanceRow]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.sha256 for row in rows))

"""Which objects belong together, by the references between them: the rules of `read_case` and `read_day_image`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydicom.uid import CTImageStorage, RTDoseStorage, RTStructureSetStorage
from sqlalchemy import ColumnElement, String, cast, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from cluster.database.tables import InstanceRow
from cluster.library.entries import is_own_result
from cluster.storage.blobs import BlobStore
from doseeng.dicom.files import read_file
from doseeng.dicom.inventory import PLAN_CLASSES, ReferencedSeries, object_of
from doseeng.dicom.phantom import has_assigned_body
from doseeng.dicom.registration import REGISTRATION_CLASSES
from doseeng.dicom.rtstruct import structure_set_from
from doseeng.errors import DicomError

LOCALIZER = "CT localizer"
WITHOUT_TREATMENT = ", 0 treatment "
"""In the role of a plan that has setup beams alone (`doseeng.dicom.inventory`)."""


def treats(row: InstanceRow) -> bool:
    """Whether a plan has beams that give dose on purpose."""
    return WITHOUT_TREATMENT not in row.role


def case_rows(session: Session, site: str, plan_uid: str, blobs: BlobStore) -> list[InstanceRow]:
    """Plan, structure set, image slices, doses of the plan, in this order. DicomError names what is missing."""
    plan = session.get(InstanceRow, (site, plan_uid))
    if plan is None or plan.sop_class_uid not in PLAN_CLASSES:
        what = "is not in the library" if plan is None else f"is no plan but a {plan.modality or 'foreign'} object"
        raise DicomError(f"plan {plan_uid[:64]} {what} of site '{site}'; send the RT Plan or RT Ion Plan")
    if not treats(plan):
        raise DicomError(f"plan {plan_uid} has no treatment beams ({plan.role}); choose another plan")
    if not plan.structure_set_uid:
        raise DicomError(f"plan {plan_uid} refers to no structure set; export it with the one that it was made on")
    structures = session.get(InstanceRow, (site, plan.structure_set_uid))
    if structures is None or structures.sop_class_uid != RTStructureSetStorage:
        raise DicomError(
            f"plan {plan_uid} refers to structure set {plan.structure_set_uid}, which is not in the library of site "
            f"'{site}'; send the structure set too"
        )
    slices = _slices(session, site, structures, blobs)
    doses = _naming(session, site, InstanceRow.plan_uids, plan_uid, InstanceRow.sop_class_uid == RTDoseStorage)
    # A dose that a job of ours made is no dose of the planning system, even when an archive sends it back.
    return [plan, structures, *slices, *(d for d in doses if not is_own_result(d.manufacturer, d.series_description))]


def image_rows(session: Session, site: str, series_uid: str) -> tuple[list[InstanceRow], list[InstanceRow]]:
    """CT slices of a series, and the structure sets and registrations that belong to it. DicomError without slices."""
    found = _of_series(session, site, [series_uid])
    slices = [row for row in found if row.sop_class_uid == CTImageStorage]
    if not slices:
        there = ", ".join(sorted({row.role for row in found})) or "nothing"
        raise DicomError(
            f"image series {series_uid[:64]} has no CT slice in the library of site '{site}', found {there}; send the "
            "CT or cone-beam CT of the day as single-frame slices"
        )
    drawn = _naming(
        session, site, InstanceRow.references, series_uid, InstanceRow.sop_class_uid == RTStructureSetStorage
    )
    registrations: list[InstanceRow] = []
    for frame in dict.fromkeys(row.frame_of_reference_uid for row in slices if row.frame_of_reference_uid):
        is_one = InstanceRow.sop_class_uid.in_(REGISTRATION_CLASSES)
        registrations += _naming(session, site, InstanceRow.references, frame, is_one)
    return slices, [*drawn, *dict.fromkeys(registrations)]


def _slices(session: Session, site: str, structures: InstanceRow, blobs: BlobStore) -> list[InstanceRow]:
    """Those of the one series that the structure set was drawn on; [] for a phantom that needs none."""
    with tempfile.TemporaryDirectory(prefix="doseeng-") as folder:
        path = blobs.copy_to(structures.sha256, Path(folder) / "structures.dcm")
        dataset = read_file(path)
        read = object_of(dataset, path, path.name)
        series = {s.uid: s for s in read.referenced_series} if read is not None else {}
        found = _of_series(session, site, series)
        if not found and not has_assigned_body(structure_set_from(dataset, f"structure set {structures.sop_uid}")):
            raise DicomError(
                f"structure set {structures.sop_uid} was drawn on image series {', '.join(series) or 'none'}, which is "
                f"not in the library of site '{site}'; send the CT too (only a phantom whose EXTERNAL structure has an "
                "assigned density can do without)"
            )
    present = dict.fromkeys(row.series_uid for row in found)
    if len(present) > 1:
        raise DicomError(
            f"structure set {structures.sop_uid} refers to {len(present)} image series of site '{site}': "
            f"{', '.join(present)}; which is the planning CT cannot be told"
        )
    if found:
        _require_complete(structures.sop_uid, series[found[0].series_uid], found)
    return found


def _require_complete(structures_uid: str, series: ReferencedSeries, found: list[InstanceRow]) -> None:
    wanted = set(series.image_uids)
    missing = wanted - {row.sop_uid for row in found}
    if missing:
        raise DicomError(
            f"structure set {structures_uid} was drawn on {len(wanted)} images, of which {len(missing)} were not "
            f"received (such as {min(missing)}); send the complete CT series {series.uid}"
        )


def _of_series(session: Session, site: str, series_uids: Iterable[str]) -> list[InstanceRow]:
    query = select(InstanceRow).where(InstanceRow.site == site, InstanceRow.series_uid.in_(list(series_uids)))
    return [row for row in session.scalars(query.order_by(InstanceRow.sop_uid)) if row.role != LOCALIZER]


def _naming(
    session: Session, site: str, column: InstrumentedAttribute[Any], uid: str, is_one: ColumnElement[bool]
) -> list[InstanceRow]:
    """Objects of a class whose list of UIDs holds `uid`: the database finds candidates, the list itself decides."""
    query = select(InstanceRow).where(InstanceRow.site == site, is_one, cast(column, String).contains(f'"{uid}"'))
    return [row for row in session.scalars(query.order_by(InstanceRow.sop_uid)) if uid in getattr(row, column.key)]

"""What every kind of job hands to people and archives: a structured report, a page as PDF, and that page as DICOM."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydicom.uid import (
    CTImageStorage,
    DeformableSpatialRegistrationStorage,
    RTDoseStorage,
    RTIonPlanStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    SpatialRegistrationStorage,
)

from cluster.jobs.model import Artifact
from cluster.report.summarypdf import summary_pdf
from cluster.storage.blobs import BlobStore
from cluster.workflows.artifacts import PAGES, PAGES_OBJECT, REPORT_OBJECT, kept
from doseeng.case import Case
from doseeng.dicom.encapsulated_pdf import pdf_to_dataset
from doseeng.dicom.files import read_header
from doseeng.dicom.inventory import DicomObject, object_of
from doseeng.dicom.structured_report import Evidence, Role, structured_report_to_dataset
from doseeng.dicom.writing import save
from doseeng.errors import DicomError
from doseeng.summary import ReportSummary

_ROLES: Final[dict[str, Role]] = {
    RTPlanStorage: "plan",
    RTIonPlanStorage: "plan",
    RTDoseStorage: "dose",
    RTStructureSetStorage: "structures",
    CTImageStorage: "image",
    SpatialRegistrationStorage: "registration",
    DeformableSpatialRegistrationStorage: "registration",
}


def document_artifacts(
    summary: ReportSummary, case: Case, blobs: BlobStore, folder: Path, files: Iterable[Path]
) -> tuple[Artifact, ...]:
    """SR.dcm, summary.pdf and PDF.dcm in the study of the case.

    files: the DICOM objects that the result rests on and those that were made. folder: where the objects are written
    before they are kept. DicomError when the case is not from DICOM.
    """
    if case.dicom is None:
        raise DicomError("the case was not read from DICOM; there is no study to put a report in")
    report = structured_report_to_dataset(summary, case.dicom, evidence_of(files))
    pages = summary_pdf(summary)
    document = pdf_to_dataset(pages, case.dicom, summary.title, summary.made)
    save(report, folder / REPORT_OBJECT)
    save(document, folder / PAGES_OBJECT)
    return (
        kept(blobs, REPORT_OBJECT, folder / REPORT_OBJECT),
        kept(blobs, PAGES, pages),
        kept(blobs, PAGES_OBJECT, folder / PAGES_OBJECT),
    )


def evidence_of(files: Iterable[Path]) -> tuple[Evidence, ...]:
    """The objects by series, as a structured report refers to them; those of other classes are left out."""
    found: dict[tuple[Role, str, str, str], list[str]] = {}
    for path in files:
        read = object_of(read_header(path), path, path.name)
        if read is not None and _is_whole(read):
            key = (_ROLES[read.sop_class_uid], read.study_uid, read.series_uid, read.sop_class_uid)
            found.setdefault(key, []).append(read.sop_uid)
    return tuple(Evidence(*key, tuple(uids)) for key, uids in found.items())


def _is_whole(read: DicomObject) -> bool:
    return read.sop_class_uid in _ROLES and bool(read.study_uid and read.series_uid)

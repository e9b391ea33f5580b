"""A PDF as a DICOM object (PS3.3 A.45.1 Encapsulated PDF, C.24): archives and viewers show it beside the images."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from doseeng.case import DicomContext
from doseeng.dicom.srcontent import code_item, own
from doseeng.dicom.writing import new_dataset
from doseeng.errors import DicomError

_LARGEST: Final = 2**32 - 2
"""What one attribute can hold (PS3.5 7.1.1: a 32-bit length, all ones reserved)."""
_SIGNATURE: Final = b"%PDF-"


def pdf_to_dataset(
    pdf: bytes,
    context: DicomContext,
    title: str,
    made: datetime,
    *,
    series_uid: str = "",
    sop_instance_uid: str = "",
) -> Dataset:
    """The document in the study of `context`. made: when its content was made, local time.

    The pages of doseeng show pseudonyms alone, which Burned In Annotation says. DicomError for what is no PDF, is too
    large, or when the context names no study.
    """
    if not pdf.startswith(_SIGNATURE) or len(pdf) > _LARGEST:
        raise DicomError(
            f"expected a PDF of at most 4 GiB, found {len(pdf)} bytes that begin otherwise or are too many"
        )
    ds = new_dataset(
        EncapsulatedPDFStorage,
        context,
        "DOC",
        series_description=f"doseeng: {title}",
        series_uid=series_uid,
        sop_instance_uid=sop_instance_uid,
    )
    # A document lies in no frame of reference and has no operator.
    del ds.FrameOfReferenceUID, ds.PositionReferenceIndicator, ds.OperatorsName
    ds.ConversionType = "WSD"
    ds.InstanceNumber = "1"
    ds.ContentDate, ds.ContentTime = made.strftime("%Y%m%d"), made.strftime("%H%M%S")
    ds.AcquisitionDateTime = ""
    ds.BurnedInAnnotation = "NO"
    ds.DocumentTitle = title[:64]
    ds.ConceptNameCodeSequence = [code_item(own("SUMMARY", "Summary of a result"))]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocumentLength = len(pdf)
    # Values have an even length; readers of PDF end at its %%EOF.
    ds.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return ds

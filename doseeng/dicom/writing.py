"""What every DICOM object that doseeng writes has in common: modules, identifiers, atomic files."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

import doseeng
from doseeng.case import DicomContext
from doseeng.errors import DicomError

MANUFACTURER: Final = "doseeng"

PATIENT_KEYWORDS: Final = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY_KEYWORDS: Final = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
)


def patient_module(dataset: Dataset) -> dict[str, str]:
    """Tag keyword -> text of the patient module; identity, so never for messages."""
    return _texts(dataset, PATIENT_KEYWORDS)


def study_module(dataset: Dataset) -> dict[str, str]:
    """Tag keyword -> text of the general study module."""
    return _texts(dataset, STUDY_KEYWORDS)


def new_context(patient_name: str = "doseeng^demo", patient_id: str = "doseeng-demo") -> DicomContext:
    """A fresh study and frame of reference, for cases that doseeng makes itself."""
    now = datetime.now()
    return DicomContext(
        frame_of_reference_uid=str(generate_uid()),
        patient={"PatientName": patient_name, "PatientID": patient_id, "PatientBirthDate": "", "PatientSex": ""},
        study={
            "StudyInstanceUID": str(generate_uid()),
            "StudyDate": now.strftime("%Y%m%d"),
            "StudyTime": now.strftime("%H%M%S"),
            "StudyID": "1",
        },
    )


def new_dataset(
    sop_class_uid: str,
    context: DicomContext,
    modality: str,
    *,
    series_description: str = "",
    series_uid: str = "",
    sop_instance_uid: str = "",
    series_number: int = 1,
) -> FileDataset:
    """An explicit-VR little-endian object with SOP common, patient, study, series, frame and equipment modules.

    The text is UTF-8. Series and instance identifiers that are not given are generated. Dates are those of now, in
    local time. Raises DicomError when the context names no study.
    """
    if not context.study.get("StudyInstanceUID"):
        raise DicomError(
            "the DICOM context has no StudyInstanceUID; take one from a case that was read, or new_context()"
        )
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid or generate_uid())
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    now = datetime.now()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.InstanceCreationDate = now.strftime("%Y%m%d")
    ds.InstanceCreationTime = now.strftime("%H%M%S")
    for keyword in PATIENT_KEYWORDS:
        setattr(ds, keyword, context.patient.get(keyword, ""))
    for keyword in STUDY_KEYWORDS:
        setattr(ds, keyword, context.study.get(keyword, ""))
    ds.Modality = modality
    ds.SeriesInstanceUID = series_uid or generate_uid()
    ds.SeriesNumber = str(series_number)
    ds.SeriesDate = ds.InstanceCreationDate
    ds.SeriesTime = ds.InstanceCreationTime
    if series_description:
        ds.SeriesDescription = series_description[:64]
    ds.OperatorsName = ""
    ds.FrameOfReferenceUID = context.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = "doseeng"
    ds.SoftwareVersions = doseeng.__version__
    return ds


def save(dataset: Dataset, path: Path) -> None:
    """Write `dataset` to `path` at once: a reader sees the old file or the complete new one, never half of it.

    The folder must exist. Raises DicomError when the file cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb") as file:
            dataset.save_as(file, enforce_file_format=True)
        os.replace(temporary, path)
    except OSError as error:
        raise DicomError(f"cannot write '{path}': {error.strerror}; check folder, space and permissions") from error
    finally:
        temporary.unlink(missing_ok=True)


def decimals(values: Iterable[float]) -> list[str]:
    """Numbers as DICOM decimal strings (at most 16 characters, as exact as they can be)."""
    return [format_number_as_ds(float(v)) for v in values]


def _texts(dataset: Dataset, keywords: tuple[str, ...]) -> dict[str, str]:
    return {k: str(dataset.get(k)) for k in keywords if dataset.get(k) not in (None, "")}

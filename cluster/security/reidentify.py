"""The way back: results that another place made of pseudonyms get the identity of the site's patient again."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset

from cluster.security.deidentify import KEPT_OF_PATIENT, KEPT_OF_STUDY, shifted
from cluster.security.elements import each, values_of, vr_of
from cluster.security.pseudonyms import Pseudonyms
from doseeng.dicom.tags import text

MARKS: Final = (
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
)
"""What says that an object has no identity."""
DATES_OF_PATIENT: Final = ("AcquisitionDate", "AcquisitionDateTime")
"""Dates that a result has from the patient's images; all others are of the day on which it was made."""
ACQUIRED: Final = "ACQUIRED"
"""Code of our reports for the time of the day's image, which is text there."""
_ACQUIRED_FORM: Final = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}")


def reidentify(dataset: FileDataset, pseudonyms: Pseudonyms) -> FileDataset:
    """A copy with the patient's and study's own attributes and UIDs.

    Objects that were de-identified here and came back get all their dates back; of results made elsewhere those that
    come from the patient's images. What stands in pixels, in an encapsulated document or in free text is left as it is.
    DicomError when the patient is none of this site's.
    """
    made = copy.deepcopy(dataset)
    pseudonym = text(dataset, "PatientID")
    patient_id = pseudonyms.original_patient(pseudonym)
    patient = pseudonyms.remembered(pseudonym, KEPT_OF_PATIENT)
    study = pseudonyms.remembered(text(dataset, "StudyInstanceUID"), KEPT_OF_STUDY)
    _restore_dates(made, pseudonyms.shift_days(patient_id))
    _restore_uids(made, pseudonyms)
    made.PatientID = patient_id
    for keyword in KEPT_OF_PATIENT:
        setattr(made, keyword, patient.get(keyword, ""))
    for keyword, value in study.items():
        setattr(made, keyword, value)
    for keyword in MARKS:
        made.pop(keyword, None)
    return made


def _restore_dates(dataset: Dataset, days: int) -> None:
    all_of_them = text(dataset, "LongitudinalTemporalInformationModified") == "MODIFIED"
    for element in _elements(dataset):
        if element.VR in ("DA", "DT") and (all_of_them or element.keyword in DATES_OF_PATIENT):
            element.value = each(element.value, partial(_moved, vr=element.VR, days=days))
        elif element.keyword == "ContentSequence":
            for item in element.value:
                _restore_acquired(item, days)


def _moved(value: str, vr: str, days: int) -> str:
    return shifted(value, vr, days) or value


def _restore_acquired(item: Dataset, days: int) -> None:
    names = item.get("ConceptNameCodeSequence") or ()
    written = text(item, "TextValue")
    if any(text(name, "CodeValue") == ACQUIRED for name in names) and _ACQUIRED_FORM.fullmatch(written):
        moved = datetime.strptime(written, "%Y-%m-%d %H:%M") + timedelta(days=days)
        item.TextValue = f"{moved:%Y-%m-%d %H:%M}"


def _restore_uids(dataset: FileDataset, pseudonyms: Pseudonyms) -> None:
    elements = [element for part in (dataset, dataset.file_meta) for element in _elements(part) if element.VR == "UI"]
    originals = pseudonyms.original_uids(uid for element in elements for uid in values_of(element.value))
    for element in elements:
        element.value = each(element.value, lambda uid: originals.get(uid, uid))


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """All elements that may hold a UID or a date, and all sequences, at any depth; numbers and pixels stay unread."""
    for tag in list(dataset.keys()):
        if vr_of(dataset, tag) not in ("UI", "DA", "DT", "SQ"):
            continue
        element = dataset[tag]
        yield element
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _elements(item)

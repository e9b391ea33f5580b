"""De-identification of radiotherapy objects by DICOM PS3.15 Annex E, so that another place computes on pseudonyms.

What becomes of each attribute is `cluster.security.confidentiality`. UIDs are replaced consistently, so that references
between objects hold; dates of a patient are moved by the same number of days; names of structures, beams and machines,
which goals and beam models go by, stay where they hold no identity. Images of the head still show a face: the dose
needs the skin.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    CTImageStorage,
    DeformableSpatialRegistrationStorage,
    EnhancedSRStorage,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RTDoseStorage,
    RTIonPlanStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    SpatialRegistrationStorage,
)

from cluster.security.confidentiality import PROFILE, Action, action_of, basic_action_of
from cluster.security.elements import each, values_of, vr_of
from cluster.security.identity import Identity, identity_of, looks_like_identifier
from cluster.security.pseudonyms import Pseudonyms
from doseeng.dicom.files import PARSE_ERRORS
from doseeng.dicom.tags import text
from doseeng.dicom.writing import PATIENT_KEYWORDS, STUDY_KEYWORDS
from doseeng.errors import DicomError, Notice

CLASSES: Final = (
    CTImageStorage,
    MRImageStorage,
    RTStructureSetStorage,
    RTPlanStorage,
    RTIonPlanStorage,
    RTDoseStorage,
    SpatialRegistrationStorage,
    DeformableSpatialRegistrationStorage,
    BasicTextSRStorage,
    EnhancedSRStorage,
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
)
"""What the treatment of attributes is made for; others (films, screen shots, documents) may show identity anywhere."""
REPLACED: Final = "REMOVED"
METHOD: Final = "DICOM PS3.15 Annex E, by doseeng"
WELL_KNOWN: Final = "1.2.840.10008."
"""Root of the UIDs that the standard itself gives out."""
KEPT_OF_PATIENT: Final = tuple(k for k in PATIENT_KEYWORDS if k != "PatientID")
KEPT_OF_STUDY: Final = tuple(k for k in STUDY_KEYWORDS if k != "StudyInstanceUID")
_CODED: Final = re.compile(r"[A-Z0-9_ \\\0]*")
_NUMBERS: Final = re.compile(rb"[0-9+\-.eE\\ \0]*")
_TIME: Final = re.compile(r"\d{2,6}(\.\d{1,6})?")
_DATE: Final = re.compile(r"(\d{4})(\d{2})(\d{2})((?:\d{2,6}(?:\.\d{1,6})?)?(?:[+-]\d{4})?)")


@dataclass(frozen=True, slots=True)
class Deidentified:
    """dataset: to be sent away. notices: labels that held identity and were replaced."""

    dataset: FileDataset
    notices: tuple[Notice, ...]


def deidentify(dataset: FileDataset, pseudonyms: Pseudonyms, identity: Identity | None = None) -> Deidentified:
    """A copy without identity; the way back is written down at the site before this returns.

    identity: what all objects of the patient say of who that is (`identity_of`); without it what this object says.
    DicomError for objects that are not treated (see CLASSES), whose pixels show text, or that have no Patient ID.
    """
    check_class(dataset)
    patient_id = text(dataset, "PatientID")
    work = _Work(pseudonyms, pseudonyms.patient(patient_id), pseudonyms.shift_days(patient_id), identity)
    if identity is None:
        work.identity = identity_of([dataset])
    made = copy.deepcopy(dataset)
    work.treat(made)
    _remember(dataset, made, work.pseudonym, pseudonyms)
    made.PatientID = made.PatientName = work.pseudonym
    made.PatientIdentityRemoved = "YES"
    made.LongitudinalTemporalInformationModified = "MODIFIED"
    made.DeidentificationMethod = METHOD
    made.DeidentificationMethodCodeSequence = Sequence(
        _code(*pair) for pair in PROFILE if pair[0] != "113104" or "ContentSequence" in made
    )
    made.file_meta = _file_meta(dataset, made)
    made.preamble = b"\0" * 128  # it may hold a header of another format
    pseudonyms.keep()
    return Deidentified(made, tuple(dict.fromkeys(work.notices)))


def check_class(dataset: FileDataset) -> None:
    """DicomError for an object that de-identification does not cover."""
    sop_class = text(dataset, "SOPClassUID")
    if not text(dataset, "SOPInstanceUID"):
        raise DicomError("the object has no SOP Instance UID; export it again")
    if sop_class not in CLASSES:
        name = dataset.SOPClassUID.name if sop_class else "unknown"
        raise DicomError(f"a {name} object cannot be de-identified: it may show identity anywhere; leave it out")
    if not UID(text(dataset.file_meta, "TransferSyntaxUID") or ImplicitVRLittleEndian).is_transfer_syntax:
        raise DicomError("the object's transfer syntax is unknown; export it again")
    if text(dataset, "BurnedInAnnotation") not in ("", "NO"):
        raise DicomError("the image has text burned into its pixels (Burned In Annotation); it cannot be de-identified")
    if "ConversionType" in dataset or "SCREEN SAVE" in text(dataset, "ImageType"):
        raise DicomError("the image is a secondary capture, whose pixels may show text; it cannot be de-identified")


def shifted(value: str, vr: str, days: int) -> str:
    """A DA or DT value moved by days, "" for one that is no full date. TM values, which stay, likewise."""
    if vr == "TM":
        return value if _TIME.fullmatch(value.strip()) else ""
    match = _DATE.fullmatch(value.strip())
    if match is None or (vr == "DA" and match[4]):
        return ""
    try:
        moved = date(int(match[1]), int(match[2]), int(match[3])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved:%Y%m%d}{match[4]}"


class _Work:
    """One object under treatment."""

    def __init__(self, pseudonyms: Pseudonyms, pseudonym: str, shift_days: int, identity: Identity | None) -> None:
        self.pseudonyms = pseudonyms
        self.pseudonym = pseudonym
        self.shift_days = shift_days
        self.identity = identity or Identity()
        self.notices: list[Notice] = []

    def treat(self, dataset: Dataset) -> None:
        """Treat all elements of a data set in place. What cannot be read is removed."""
        for tag in sorted(dataset.keys()):
            try:
                self._treat_element(dataset, tag)
            except PARSE_ERRORS:
                del dataset[tag]

    def _treat_element(self, dataset: Dataset, tag: BaseTag) -> None:
        raw, vr = dataset.get_item(tag), vr_of(dataset, tag)
        action = action_of(tag, vr)
        if action is Action.NUMBERS:
            # Bytes are looked at as they are: contours have millions of numbers.
            is_text = isinstance(raw, RawDataElement) and vr in ("DS", "IS")
            if is_text and not _NUMBERS.fullmatch(raw.value or b""):
                del dataset[tag]
        elif action is Action.RECURSE:
            for item in dataset[tag].value or ():
                self.treat(item)
        elif action in (Action.UID, Action.SHIFT):
            change = self._uid if action is Action.UID else lambda value: shifted(value, vr, -self.shift_days)
            dataset[tag].value = each(dataset[tag].value, change)
        elif action in (Action.TERM, Action.NAME, Action.DESCRIPTION, Action.CODED):
            self._clean(dataset, tag, vr, action)
        elif action is not Action.KEEP:
            self._replace(dataset, tag, vr, action)

    def _clean(self, dataset: Dataset, tag: BaseTag, vr: str, action: Action) -> None:
        texts = values_of(dataset[tag].value)
        if action is Action.CODED:
            if all(_CODED.fullmatch(value) for value in texts):
                return
            action = Action.DESCRIPTION
        is_in = self.identity.has_part_in if action is Action.TERM else self.identity.is_in
        if not any(map(is_in, texts)) and not (action is Action.DESCRIPTION and any(map(looks_like_identifier, texts))):
            return
        keyword = keyword_for_tag(tag)
        where, instead = keyword, basic_action_of(tag, vr)
        if keyword == "ROIName":
            where = f"ROI {dataset.get('ROINumber', '')}".strip()
            dataset[tag].value = where
        else:
            self._replace(dataset, tag, vr, instead)
        self.notices.append(
            Notice("identity-in-label", where, "held identity, a date or a long number and was replaced")
        )

    def _replace(self, dataset: Dataset, tag: BaseTag, vr: str, action: Action) -> None:
        if action is Action.PSEUDONYM:
            dataset[tag].value = self.pseudonym
        elif action is Action.EMPTY:
            dataset[tag].value = Sequence() if vr == "SQ" else ""
        elif action is Action.DUMMY and vr in _DUMMIES:
            if dataset[tag].value not in (None, ""):
                dataset[tag].value = _DUMMIES[vr]
        else:
            del dataset[tag]

    def _uid(self, value: str) -> str:
        return value if not value or value.startswith(WELL_KNOWN) else self.pseudonyms.uid(value)


_DUMMIES: Final = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), REPLACED),
    "DS": "0",
    "IS": "0",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
}
"""Value of a dummy by VR; elements of other VRs are removed."""


def _remember(original: Dataset, made: Dataset, patient: str, pseudonyms: Pseudonyms) -> None:
    pseudonyms.remember(patient, {k: text(original, k) for k in KEPT_OF_PATIENT})
    study = text(made, "StudyInstanceUID")
    if study:
        pseudonyms.remember(study, {k: text(original, k) for k in KEPT_OF_STUDY})


def _file_meta(original: FileDataset, made: Dataset) -> FileMetaDataset:
    """Only what a reader needs: who sent or wrote the file is nobody's business."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    meta.TransferSyntaxUID = original.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    return meta


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item

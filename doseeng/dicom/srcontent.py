"""Content items of structured reports (DICOM PS3.3 C.17.3, C.18) and the coding schemes that name them (C.12.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from doseeng.dicom.writing import decimals
from doseeng.errors import DicomError

SCHEME: Final = "99DOSEENG"
"""Designator of doseeng's own codes; those of private schemes begin with 99 (PS3.3 8.2)."""
SCHEME_UID: Final = "2.25.126728387457229187994117619291349005270"
"""UID of the scheme, made from a UUID once (PS3.5 B.2). It never changes."""
_LONGEST_CODE: Final = 16
_LONGEST_MEANING: Final = 64
_NOT_A_NUMBER: Final = ("114000", "DCM", "Not a number")


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept: value, scheme designator and meaning (PS3.3 8.8)."""

    value: str
    scheme: str
    meaning: str


COMMENT: Final = Code("121106", "DCM", "Comment")
CONCLUSION: Final = Code("121077", "DCM", "Conclusion")
CONCLUSIONS: Final = Code("121076", "DCM", "Conclusions")


def own(value: str, meaning: str) -> Code:
    """A code of the private scheme. DicomError when a code value does not fit DICOM's sixteen characters."""
    if len(value) > _LONGEST_CODE:
        raise DicomError(f"code '{value}' has {len(value)} characters, DICOM takes {_LONGEST_CODE}")
    return Code(value, SCHEME, meaning[:_LONGEST_MEANING])


def coding_schemes() -> list[Dataset]:
    """Coding Scheme Identification Sequence (PS3.3 C.12.1.1.1, PS3.16 section 8) of the schemes used here."""
    known = (
        ("DCM", "1.2.840.10008.2.16.4", "DICOM Controlled Terminology"),
        ("UCUM", "2.16.840.1.113883.6.8", "Unified Code for Units of Measure"),
        ("RFC5646", "", "RFC 5646 Tags for Identifying Languages"),
        (SCHEME, SCHEME_UID, "doseeng"),
    )
    items = []
    for designator, uid, name in known:
        item = Dataset()
        item.CodingSchemeDesignator = designator
        if uid:
            item.CodingSchemeUID = uid
        item.CodingSchemeName = name
        if designator == SCHEME:
            item.CodingSchemeResponsibleOrganization = "The doseeng developers"
        items.append(item)
    return items


def code_item(concept: Code) -> Dataset:
    """One item of a code sequence."""
    item = Dataset()
    item.CodeValue = concept.value
    item.CodingSchemeDesignator = concept.scheme
    item.CodeMeaning = concept.meaning
    return item


def container(name: Code, children: Sequence[Dataset]) -> Dataset:
    """CONTAINER: a heading, its parts apart from one another."""
    item = _item("CONTAINER", name, "CONTAINS")
    item.ContinuityOfContent = "SEPARATE"
    item.ContentSequence = list(children)
    return item


def text_item(name: Code, value: str, relationship: str = "CONTAINS") -> Dataset:
    """TEXT."""
    item = _item("TEXT", name, relationship)
    item.TextValue = value
    return item


def code(name: Code, value: Code, relationship: str = "CONTAINS") -> Dataset:
    """CODE."""
    item = _item("CODE", name, relationship)
    item.ConceptCodeSequence = [code_item(value)]
    return item


def uid_item(name: Code, value: str, relationship: str = "CONTAINS") -> Dataset:
    """UIDREF."""
    item = _item("UIDREF", name, relationship)
    item.UID = value
    return item


def measurement(name: Code, value: float, unit: Code) -> Dataset:
    """NUM (PS3.3 C.18.1); a value that does not exist is written as none, with "Not a number" as the reason."""
    item = _item("NUM", name, "CONTAINS")
    if not math.isfinite(value):
        item.MeasuredValueSequence = []
        item.NumericValueQualifierCodeSequence = [code_item(Code(*_NOT_A_NUMBER))]
        return item
    measured = Dataset()
    measured.MeasurementUnitsCodeSequence = [code_item(unit)]
    measured.NumericValue = decimals([value])[0]
    item.MeasuredValueSequence = [measured]
    return item


def composite(name: Code, sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """COMPOSITE: a reference to one object (PS3.3 C.18.3)."""
    item = _item("COMPOSITE", name, "CONTAINS")
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    item.ReferencedSOPSequence = [reference]
    return item


def _item(value_type: str, name: Code, relationship: str) -> Dataset:
    item = Dataset()
    item.RelationshipType = relationship
    item.ValueType = value_type
    item.ConceptNameCodeSequence = [code_item(name)]
    return item

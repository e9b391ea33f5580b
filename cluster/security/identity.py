"""What would tell who a patient is, found in the patient's own objects, and looked for in texts that are to be kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from cluster.security.elements import values_of, vr_of
from doseeng.dicom.files import PARSE_ERRORS

_TAGS: Final = frozenset(
    tag_for_keyword(keyword)
    for keyword in (
        "PatientID",
        "PatientBirthDate",
        "OtherPatientIDs",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "MedicalRecordLocator",
        "AccessionNumber",
        "AdmissionID",
        "InstitutionName",
        "InstitutionAddress",
        "InstitutionalDepartmentName",
    )
)
"""Attributes that name somebody or some place, besides all names of persons."""
SHORTEST_PART: Final = 4
"""A shorter piece of a name may stand in a word by chance ("Li" in "Liver"): it counts as a word of its own. A shorter
identifier ("12") is not looked for: it would be found in dose levels."""
SHORTEST_WORD: Final = 2
_NUMBER: Final = re.compile(r"\d{6,}|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}")
"""A date or an identifier of whatever kind."""


@dataclass(frozen=True, slots=True)
class Identity:
    """parts: case-folded, not to be found anywhere in a text. words: likewise, but only as words of their own."""

    parts: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()

    def __or__(self, other: Identity) -> Identity:
        return Identity(self.parts | other.parts, self.words | other.words)

    def is_in(self, text: str) -> bool:
        """Whether a text names somebody, as far as this knows."""
        return self.has_part_in(text) or not self.words.isdisjoint(_words(text.casefold()))

    def has_part_in(self, text: str) -> bool:
        """Likewise, by the parts alone."""
        folded = text.casefold()
        return any(part in folded for part in self.parts)


def looks_like_identifier(text: str) -> bool:
    """Whether a text holds a long number or a date."""
    return _NUMBER.search(text) is not None


def identity_of(datasets: Iterable[Dataset]) -> Identity:
    """Names of all persons, identifiers, birth date and institution that the objects of one patient give."""
    parts: set[str] = set()
    words: set[str] = set()
    for dataset in datasets:
        for vr, text in _texts(dataset):
            if vr == "PN":
                # Prefixes and suffixes ("Dr") name nobody.
                pieces = [
                    w for group in text.split("=") for name in group.split("^")[:3] for w in _words(name.casefold())
                ]
                words |= {w for w in pieces if SHORTEST_WORD <= len(w) < SHORTEST_PART}
                parts |= {w for w in pieces if len(w) >= SHORTEST_PART}
            elif len(text) >= SHORTEST_PART:
                parts.add(text.casefold())
    return Identity(frozenset(parts), frozenset(words))


def _texts(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """(VR, value) of everything that names somebody, at any depth."""
    for tag in list(dataset.keys()):
        try:
            if vr_of(dataset, tag) not in ("PN", "SQ") and tag not in _TAGS:
                continue
            element = dataset[tag]
        except PARSE_ERRORS:
            continue  # what cannot be read is not kept either
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _texts(item)
        else:
            yield from ((element.VR, value.strip()) for value in values_of(element.value))


def _words(text: str) -> set[str]:
    return {word for word in re.split(r"[\W_\d]+", text) if word}

"""Keeps who a patient is out of what a batch shows: names of items and folders were chosen by people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from doseeng.dicom.tags import text

SHOWN_INSTEAD: Final = "…"
_IDENTIFIERS: Final = ("PatientID", "AccessionNumber", "PatientBirthDate", "OtherPatientIDs")
_SHORTEST: Final = 3
"""Shorter pieces of names and identifiers are in half of all words."""
_LONG: Final = 5
"""Those of this length are found inside of other words too."""
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Identity:
    """What must not be shown, in lower case. words: of the name. identifiers: whole, as DICOM has them."""

    words: frozenset[str] = frozenset()
    identifiers: frozenset[str] = frozenset()

    @property
    def is_known(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self.words or self.identifiers)

    def is_in(self, shown: str) -> bool:
        """Whether a text tells who the patient is."""
        return self.taken_out(shown) != shown

    def taken_out(self, shown: str) -> str:
        """The text without what tells who the patient is."""
        for identifier in sorted(self.identifiers, key=len, reverse=True):
            # Short ones only where they stand alone: "107" is in many numbers.
            plain = re.escape(identifier)
            pattern = plain if len(identifier) >= _LONG else rf"(?<![^\W_]){plain}(?![^\W_])"
            shown = re.sub(pattern, SHOWN_INSTEAD, shown, flags=re.IGNORECASE)
        return _WORD.sub(lambda found: SHOWN_INSTEAD if self._names(found[0].lower()) else found[0], shown)

    def _names(self, word: str) -> bool:
        return word in self.words or any(name in word for name in self.words if len(name) >= _LONG)

    def __or__(self, other: Identity) -> Identity:
        """That of both."""
        return Identity(self.words | other.words, self.identifiers | other.identifiers)


def identity_of(dataset: Dataset) -> Identity:
    """The patient of a DICOM object."""
    words = _WORD.findall(text(dataset, "PatientName").lower())
    identifiers = {text(dataset, keyword).strip().lower() for keyword in _IDENTIFIERS}
    return Identity(
        frozenset(word for word in words if len(word) >= _SHORTEST and not word.isdigit()),
        frozenset(value for value in identifiers if len(value) >= _SHORTEST),
    )


def without_paths(message: str, *paths: Path | None) -> str:
    """A message without the paths of the case: folders are named after patients more often than not."""
    for path in paths:
        if path is not None:
            message = message.replace(f"'{path}'", "the folder or zip").replace(f"'{path.name}'", "the folder or zip")
    return message

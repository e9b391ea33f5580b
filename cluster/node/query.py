"""Matching of query keys with attributes as PS3.4 section C.2.2.2 says, on plain datasets."""

from __future__ import annotations

import re
from typing import Any, Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

LEVELS: Final = ("PATIENT", "STUDY", "SERIES", "IMAGE")
_WITH_WILDCARDS: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
"""Value representations whose keys may hold * and ? (C.2.2.2.4)."""
_WITH_RANGES: Final = frozenset({"DA", "TM", "DT"})


def matches(key: DataElement, found: Dataset) -> bool:
    """Whether an attribute fits one key. An empty key fits all; one that the object does not have fits only that.

    Sequences fit when one item does (C.2.2.2.6). Names are compared without regard to case, as a person types them.
    """
    if key.VR == "SQ":
        wanted = list(key.value or ())
        if not wanted or not len(wanted[0]):
            return True
        there = list(found[key.tag].value or ()) if key.tag in found else []
        return any(all(matches(inner, item) for inner in wanted[0]) for item in there)
    wanted_values = _texts(key.value)
    if not wanted_values:
        return True
    there_values = _texts(found[key.tag].value) if key.tag in found else []
    return any(_fits(key.VR, wanted, value) for wanted in wanted_values for value in there_values)


def answer_to(identifier: Dataset, found: Dataset) -> Dataset:
    """The attributes that were asked for, with their values or empty (PS3.4 section C.4.1.1.3.2)."""
    answer = Dataset()
    for key in identifier:
        if key.tag.element == 0 or key.keyword in ("SpecificCharacterSet", "QueryRetrieveLevel"):
            continue
        if key.tag in found:
            answer[key.tag] = found[key.tag]
        elif key.keyword:
            setattr(answer, key.keyword, [] if key.VR == "SQ" else None)
    return answer


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    return [text for text in (str(each).strip() for each in values) if text]


def _fits(vr: str, wanted: str, value: str) -> bool:
    if vr in _WITH_RANGES and "-" in wanted:
        first, _, last = wanted.partition("-")
        # "1030" stands for the whole minute, so the end of a range is compared to its own length.
        return (not first or value >= first) and (not last or value[: len(last)] <= last)
    if vr in _WITH_RANGES:
        return value == wanted
    if vr in _WITH_WILDCARDS and ("*" in wanted or "?" in wanted):
        pattern = re.escape(wanted).replace(r"\*", ".*").replace(r"\?", ".")
        return re.fullmatch(pattern, value, re.IGNORECASE | re.DOTALL if vr == "PN" else re.DOTALL) is not None
    if vr == "PN":
        return value.rstrip("^=").casefold() == wanted.rstrip("^=").casefold()
    return value == wanted

"""When an image was acquired: the date and time tags, which every vendor fills differently (PS3.5 6.2: DA, TM, DT)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydicom.dataset import Dataset

from doseeng.dicom.tags import text
from doseeng.errors import DicomError, Notice

SOURCES: Final = (
    ("AcquisitionDateTime",),
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
    ("SeriesDate", "SeriesTime"),
)
"""Where the time is looked for, the best first: content and series times may be those of a later reconstruction."""

STAND_INS: Final = ("ContentDate", "SeriesDate")
"""Sources that may give another time than that of the patient on the table."""

MAX_SHOWN: Final = 26
"""Characters of a malformed value that a message repeats: the length of the longest date and time."""

# The separators of ACR-NEMA (2026.11.22, 08:30:00) are still met; offsets from UTC are dropped, see acquisition_time.
_DATE: Final = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME: Final = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d{1,6}))?)?)?")
_OFFSET: Final = re.compile(r"[+-]\d{4}$")


def acquisition_time(datasets: Sequence[Dataset]) -> tuple[datetime | None, str, tuple[Notice, ...]]:
    """The earliest time in the datasets of one series, the keyword of the date it is from, and malformed values.

    The first of SOURCES that gives a date *and* a time in any dataset decides; (None, "", ...) when none does. The
    time is the scanner's local one, without time zone: fractions of one course are ordered by one clock.
    """
    malformed: dict[str, Notice] = {}
    for keywords in SOURCES:
        found = [t for ds in datasets if (t := _time_of(ds, keywords, malformed)) is not None]
        if found:
            return min(found), keywords[0], tuple(malformed.values())
    return None, "", tuple(malformed.values())


def _time_of(dataset: Dataset, keywords: tuple[str, ...], malformed: dict[str, Notice]) -> datetime | None:
    try:
        values = [text(dataset, keyword) for keyword in keywords]
    except DicomError as error:
        malformed.setdefault(keywords[0], Notice("malformed-time", "CT", f"{error}; it was not used"))
        return None
    if not all(values):
        return None
    moment = _parsed("".join(_OFFSET.sub("", v) for v in values))
    if moment is None:
        shown = " ".join(ascii(v[:MAX_SHOWN]) for v in values)
        message = f"{' and '.join(keywords)} {shown} say no date and time; they were not used"
        malformed.setdefault(keywords[0], Notice("malformed-time", "CT", message))
    return moment


def _parsed(value: str) -> datetime | None:
    date = _DATE.match(value)
    time = _TIME.fullmatch(value[date.end() :]) if date else None
    if date is None or time is None:
        return None
    year, month, day = (int(part) for part in date.groups())
    hour, minute, second = (int(part or 0) for part in time.groups()[:3])
    microsecond = int((time.group(4) or "0").ljust(6, "0"))
    try:
        # DICOM allows leap seconds (60), datetime does not.
        return datetime(year, month, day, hour, minute, 59 if second == 60 else second, microsecond)
    except ValueError:
        return None

"""What the library and the courses answer, as plain data. No identity: patients are known by their pseudonyms."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from doseeng.dicom.writing import MANUFACTURER

OWN_RESULT: Final = "doseeng"
"""How the Series Description of every object begins that a job of ours made."""


@dataclass(frozen=True, slots=True)
class Received:
    """An object that was taken in. is_new: False when its very bytes were there already."""

    sop_uid: str
    sop_class_uid: str
    series_uid: str
    study_uid: str
    patient_key: str
    modality: str
    sha256: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class InstanceEntry:
    """An object of a site; the fields are those of `cluster.database.tables.InstanceRow`."""

    sop_uid: str
    sop_class_uid: str
    series_uid: str
    study_uid: str
    patient_key: str
    modality: str
    role: str
    label: str
    acquired: str
    sha256: str
    size: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """A plan with treatment beams. role: what it is, in words."""

    plan_uid: str
    patient_key: str
    label: str
    role: str
    study_uid: str
    structure_set_uid: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """Objects of one series and role. acquired: of the earliest, scanner's local time as ISO text, "" for unknown.

    calling_ae: who sent it, "" when it came another way. first_received, last_received: of its objects. is_own: a job
    of ours made it, so that it is no news from the clinic even when an archive sends it back.
    """

    series_uid: str
    study_uid: str
    patient_key: str
    modality: str
    role: str
    description: str
    manufacturer: str
    acquired: str
    frame_of_reference_uid: str
    calling_ae: str
    instances: int
    first_received: datetime
    last_received: datetime
    is_own: bool


@dataclass(frozen=True, slots=True)
class PatientEntry:
    """How much there is of a patient."""

    patient_key: str
    studies: int
    series: int
    instances: int
    last_received: datetime


@dataclass(frozen=True, slots=True)
class CaseObjects:
    """The objects of a plan's case, by the SHA-256 of their bytes."""

    plan_uid: str
    patient_key: str
    case_key: str
    sha256s: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageObjects:
    """A day's image with the contours and registrations that belong to it. acquired: as `SeriesEntry.acquired`."""

    series_uid: str
    patient_key: str
    acquired: str
    sha256s: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CourseEntry:
    """A plan under treatment, or one that was until `ended_at`. options: of its adapt jobs."""

    plan_uid: str
    patient_key: str
    case_key: str
    options: dict[str, Any]
    started_at: datetime
    ended_at: datetime | None
    created_by: str


def is_own_result(manufacturer: str, series_description: str) -> bool:
    """Whether an object came from a job of ours: what we sent to an archive may come back from it."""
    return manufacturer == MANUFACTURER and series_description.startswith(OWN_RESULT)

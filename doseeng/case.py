"""A case: what belongs to one patient's plan, put together."""

from __future__ import annotations

from dataclasses import dataclass, field

from doseeng.dose import Dose
from doseeng.errors import Notice
from doseeng.grid import Volume
from doseeng.plan import Plan
from doseeng.structures import StructureSet


@dataclass(frozen=True, slots=True)
class DicomContext:
    """What DICOM objects written for this case must repeat. Identity stays out of `repr`, logs and messages.

    patient, study: tag keyword -> value of the patient and study modules. series_uid and sop_class_uid and
    sop_instance_uids describe the image series.
    """

    frame_of_reference_uid: str
    patient: dict[str, str] = field(default_factory=dict, repr=False)
    study: dict[str, str] = field(default_factory=dict, repr=False)
    series_uid: str = ""
    image_sop_class_uid: str = ""
    image_sop_instance_uids: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """An image, its structures, a plan, and the doses the planning system computed for it.

    key: a pseudonym, safe for logs and file names. ct: Hounsfield units. doses: what came with the case.
    notices: named warnings from reading.
    """

    key: str
    ct: Volume
    structures: StructureSet
    plan: Plan
    doses: tuple[Dose, ...] = ()
    dicom: DicomContext | None = None
    notices: tuple[Notice, ...] = ()

"""What lies in a folder: objects by patient, study and series, and the references between them. No pixels are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    CTImageStorage,
    MediaStorageDirectoryStorage,
    RTDoseStorage,
    RTIonPlanStorage,
    RTPlanStorage,
    RTStructureSetStorage,
)

from doseeng.dicom.files import PARSE_ERRORS, is_dicom, read_header
from doseeng.dicom.tags import items, text
from doseeng.errors import DicomError, Notice

KEY_LENGTH: Final = 12
PLAN_CLASSES: Final = (RTPlanStorage, RTIonPlanStorage)
DELIVERED: Final = ("TREATMENT", "CONTINUATION", "")
"""Treatment Delivery Types that give dose on purpose; an absent one means treatment."""


@dataclass(frozen=True, slots=True)
class ReferencedSeries:
    """An image series that a structure set was drawn on, and the images it names."""

    uid: str
    image_uids: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class DicomObject:
    """One file and what it refers to.

    name: path below the scanned folder. patient_key: pseudonym. role: what it is, in words. treatment_beams: of a
    plan. plan_uids: plans a dose belongs to. structure_set_uid: what a plan is based on.
    """

    path: Path
    name: str
    sop_class_uid: str
    sop_uid: str
    modality: str
    patient_key: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    role: str
    label: str = ""
    treatment_beams: int = 0
    plan_uids: tuple[str, ...] = ()
    structure_set_uid: str = ""
    referenced_series: tuple[ReferencedSeries, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """Objects that share patient, study, series and role; `labels` of plans and structure sets."""

    patient_key: str
    study_uid: str
    series_uid: str
    modality: str
    role: str
    count: int
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A reference from one object to another ("plan -> structure set") and whether its target lies in the folder."""

    kind: str
    source: str
    target_uid: str
    is_found: bool


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything DICOM in a folder. notices: unreadable and repeated files. other_files: how many are not DICOM."""

    objects: tuple[DicomObject, ...]
    notices: tuple[Notice, ...] = ()
    other_files: int = 0


def scan(folder: Path) -> Inventory:
    """List the DICOM objects below `folder`, in the order of their names.

    Files that are not DICOM are counted; DICOM files that cannot be read become notices. Of byte-identical copies the
    first one counts.
    """
    objects: dict[str, list[DicomObject]] = {}
    notices: list[Notice] = []
    other_files = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        try:
            found = object_of(read_header(path), path, name) if is_dicom(path) else None
        except DicomError as error:
            notices.append(Notice("unreadable-file", name, str(error)))
            continue
        except PARSE_ERRORS:
            notices.append(Notice("unreadable-file", name, "the file is damaged; copy or export it again"))
            continue
        if found is None:
            other_files += 1
            continue
        twins = objects.setdefault(found.sop_uid, [])
        copied = next((twin for twin in twins if _same_bytes(twin.path, path)), None)
        if copied is None:
            twins.append(found)
        else:
            notices.append(Notice("repeated-file", name, f"the same as '{copied.name}', counted once"))
    ordered = sorted((o for twins in objects.values() for o in twins), key=lambda o: o.name)
    return Inventory(tuple(ordered), tuple(notices), other_files)


def series_of(inventory: Inventory) -> tuple[Series, ...]:
    """The objects grouped by patient, study, series and role."""
    groups: dict[tuple[str, str, str, str, str], list[DicomObject]] = {}
    for o in inventory.objects:
        groups.setdefault((o.patient_key, o.study_uid, o.series_uid, o.modality, o.role), []).append(o)
    return tuple(
        Series(*key, count=len(members), labels=tuple(o.label for o in members if o.label))
        for key, members in sorted(groups.items())
    )


def links_of(inventory: Inventory) -> tuple[Link, ...]:
    """Plan -> structure set, structure set -> image series, dose -> plan; in file order."""
    uids = {o.sop_uid for o in inventory.objects}
    series = {o.series_uid for o in inventory.objects}
    return tuple(
        Link(kind, o.name, target, target in (series if kind.endswith("series") else uids))
        for o in inventory.objects
        for kind, target in _references(o)
    )


def patient_key(patient_id: str) -> str:
    """A pseudonym for a patient identifier."""
    return hashlib.sha256(patient_id.encode()).hexdigest()[:KEY_LENGTH]


def case_key(patient_id: str, plan_uid: str) -> str:
    """A pseudonym for a patient's plan."""
    return hashlib.sha256(f"{patient_id}{plan_uid}".encode()).hexdigest()[:KEY_LENGTH]


def _references(o: DicomObject) -> Iterator[tuple[str, str]]:
    if o.structure_set_uid:
        yield "plan -> structure set", o.structure_set_uid
    for series in o.referenced_series:
        yield "structure set -> image series", series.uid
    for uid in o.plan_uids:
        yield "dose -> plan", uid


def object_of(ds: FileDataset, path: Path, name: str) -> DicomObject | None:
    """What a dataset is and refers to; None for a DICOMDIR, which only lists other files. name: for messages.

    DicomError when it has no SOP Instance UID, and as PARSE_ERRORS for values that cannot be decoded.
    """
    sop_class = text(ds, "SOPClassUID")
    if not sop_class and ds.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None  # a DICOMDIR lists other files
    if not text(ds, "SOPInstanceUID"):
        raise DicomError(f"'{path.name}' has no SOP Instance UID; export it again")
    beams = items(ds, "BeamSequence") + items(ds, "IonBeamSequence") if sop_class in PLAN_CLASSES else []
    treated = sum(text(beam, "TreatmentDeliveryType") in DELIVERED for beam in beams)
    structure_sets = items(ds, "ReferencedStructureSetSequence") if sop_class in PLAN_CLASSES else []
    plans = items(ds, "ReferencedRTPlanSequence") if sop_class == RTDoseStorage else []
    return DicomObject(
        path=path,
        name=name,
        sop_class_uid=sop_class,
        sop_uid=text(ds, "SOPInstanceUID"),
        modality=text(ds, "Modality"),
        patient_key=patient_key(text(ds, "PatientID")),
        study_uid=text(ds, "StudyInstanceUID"),
        series_uid=text(ds, "SeriesInstanceUID"),
        frame_of_reference_uid=_frame(ds),
        role=_role(ds, sop_class, treated, len(beams) - treated),
        label=text(ds, "RTPlanLabel") or text(ds, "StructureSetLabel"),
        treatment_beams=treated,
        plan_uids=tuple(text(plan, "ReferencedSOPInstanceUID") for plan in plans),
        structure_set_uid=text(structure_sets[0], "ReferencedSOPInstanceUID") if structure_sets else "",
        referenced_series=_referenced_series(ds),
    )


def _frame(ds: Dataset) -> str:
    frames = [text(item, "FrameOfReferenceUID") for item in items(ds, "ReferencedFrameOfReferenceSequence")]
    return text(ds, "FrameOfReferenceUID") or (frames[0] if len(frames) == 1 else "")


def _referenced_series(ds: Dataset) -> tuple[ReferencedSeries, ...]:
    images: dict[str, list[str]] = {}
    for frame in items(ds, "ReferencedFrameOfReferenceSequence"):
        for study in items(frame, "RTReferencedStudySequence"):
            for series in items(study, "RTReferencedSeriesSequence"):
                found = (text(i, "ReferencedSOPInstanceUID") for i in items(series, "ContourImageSequence"))
                images.setdefault(text(series, "SeriesInstanceUID"), []).extend(found)
    return tuple(ReferencedSeries(uid, tuple(image_uids)) for uid, image_uids in images.items())


def _role(ds: Dataset, sop_class: str, treatment_beams: int, setup_beams: int) -> str:
    if sop_class == CTImageStorage:
        return "CT localizer" if "LOCALIZER" in text(ds, "ImageType") else "CT slice"
    if sop_class == RTStructureSetStorage:
        return "structure set"
    if sop_class == RTDoseStorage:
        return f"dose ({text(ds, 'DoseSummationType')}, {text(ds, 'DoseType')}, {text(ds, 'DoseUnits')})"
    if sop_class in PLAN_CLASSES:
        kind = "ion plan" if sop_class == RTIonPlanStorage else "photon or electron plan"
        return f"{kind}, {treatment_beams} treatment and {setup_beams} setup beams"
    return str(ds.SOPClassUID.name) if sop_class else "unknown object"


def _same_bytes(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()

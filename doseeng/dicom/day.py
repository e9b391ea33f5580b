"""The image of a treatment day: one CT or cone-beam series, when it was taken, and what was exported along with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, RTStructureSetStorage

from doseeng.case import DicomContext
from doseeng.dicom.ct import CtSeries, read_ct
from doseeng.dicom.files import opened_folder, read_file
from doseeng.dicom.inventory import DicomObject, Inventory, patient_key, scan
from doseeng.dicom.registration import REGISTRATION_CLASSES, registration_from, rigid_between
from doseeng.dicom.rtstruct import structure_set_from
from doseeng.dicom.times import STAND_INS
from doseeng.errors import DicomError, GeometryError, Notice, RegistrationError, StructureError
from doseeng.structures import StructureSet
from doseeng.transforms import RigidTransform, is_near

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True, eq=False)
class DayImage:
    """A day's image as exported. acquired: scanner's local time, by which days are put in order.

    daily_structures: contours drawn on this image, in its frame. registration: day points -> planning points, as the
    clinic's own rigid registration object says. Both None when not exported along.
    """

    series: CtSeries
    acquired: datetime
    daily_structures: StructureSet | None = None
    registration: RigidTransform | None = None
    notices: tuple[Notice, ...] = ()


def read_day_image(
    path: Path | str,
    planning: DicomContext,
    series_uid: str | None = None,
    accept_patient_mismatch: bool = False,
) -> DayImage:
    """The day's image in a folder (searched to its depths) or a zip of one.

    planning: the DICOM context of the planning image (`Case.dicom`), which is never taken for a day's image. series_uid
    chooses among several series. Images of a day usually have their own frame of reference.

    DicomError when there is no series or several, when none of its slices says when it was taken, when it belongs to
    another patient than the plan (accept_patient_mismatch turns this into a notice: phantoms), or for several sets of
    contours of it; GeometryError for stacks that are no regular grid; RegistrationError for exported registrations
    that contradict each other. Contours and registrations that cannot be read are left out with a notice.
    """
    with opened_folder(Path(path)) as folder:
        inventory = scan(folder)
        slices = _slices(inventory, planning, series_uid)
        notices = list(inventory.notices)
        notices += _require_patient(slices, planning, accept_patient_mismatch)
        series = read_ct(o.path for o in slices)
        if series.acquired is None:
            raise DicomError(
                f"image series {series.context.series_uid} does not say when it was acquired: neither Acquisition Date "
                "and Time (0008,0022), (0008,0032), Acquisition DateTime (0008,002A), Content Date and Time "
                "(0008,0023), (0008,0033) nor Series Date and Time (0008,0021), (0008,0031) hold a date and a time; "
                "export it without removing them"
            )
        if series.acquired_tag in STAND_INS:
            found = f"it carries no acquisition date and time; {series.acquired_tag} and its time were taken instead"
            notices.append(Notice("acquisition-time-from-stand-in", "daily image", found))
        own_key = slices[0].patient_key
        structures = _structures(inventory, series, own_key, notices)
        registration = _registration(inventory, series, planning, own_key, notices)
    return DayImage(series, series.acquired, structures, registration, (*notices, *series.notices))


def _slices(inventory: Inventory, planning: DicomContext, series_uid: str | None) -> list[DicomObject]:
    found = [o for o in inventory.objects if o.sop_class_uid == CTImageStorage and o.role != "CT localizer"]
    others = [o for o in found if o.series_uid != planning.series_uid]
    if found and not others:
        raise DicomError(
            f"the only image series {planning.series_uid} is the planning CT itself; give the folder of the day's image"
        )
    series = dict.fromkeys(o.series_uid for o in others)
    listed = "; ".join(f"{uid} ({sum(o.series_uid == uid for o in others)} slices)" for uid in series)
    if series_uid is not None:
        if series_uid not in series:
            raise DicomError(f"image series {series_uid} is not in the folder; found {listed or 'none'}")
        return [o for o in others if o.series_uid == series_uid]
    if len(series) > 1:
        raise DicomError(
            f"expected one image series of the day, found {listed}; give a folder with one of them, or choose one by "
            "its Series Instance UID (series_uid)"
        )
    if not series:
        roles = ", ".join(sorted({o.role for o in inventory.objects})) or "no DICOM object"
        unread = [n.where for n in inventory.notices if n.code == "unreadable-file"]
        raise DicomError(
            f"expected one CT or cone-beam CT series of single-frame slices, found {roles}"
            f"{f' (unreadable: {_listing(unread[:5])})' if unread else ''}; export the day's image too"
        )
    return others


def _require_patient(slices: Sequence[DicomObject], planning: DicomContext, accept: bool) -> list[Notice]:
    identifier = planning.patient.get("PatientID", "").strip()
    if slices[0].patient_key != patient_key(identifier):
        found = f"the image series {slices[0].series_uid} carries another patient ID than the plan"
        if not accept:
            raise DicomError(f"{found}; find out whose image it is, or accept it (--accept-patient-mismatch)")
        return [Notice("patient-mismatch", "daily image", f"{found}; this was accepted explicitly")]
    if not identifier:
        found = "neither the image nor the plan carries a patient ID; nothing shows that they are one patient's"
        return [Notice("patient-unknown", "daily image", found)]
    return []


def _structures(inventory: Inventory, series: CtSeries, own_key: str, notices: list[Notice]) -> StructureSet | None:
    """The contours drawn on the series; of another patient's or another frame, none."""
    uid, frame = series.context.series_uid, series.context.frame_of_reference_uid
    drawn = [
        o
        for o in inventory.objects
        if o.sop_class_uid == RTStructureSetStorage and uid in (s.uid for s in o.referenced_series)
    ]
    if len(drawn) > 1:
        names = _listing(f"'{o.name}'" for o in drawn)
        raise DicomError(f"{len(drawn)} structure sets were drawn on the day's image: {names}; keep the right one")
    for o, structures in _readable(drawn, structure_set_from, "daily-structures-not-read", own_key, notices):
        if structures.frame_of_reference_uid in ("", frame):
            notices.extend(structures.notices)
            return structures
        found = "its contours lie in another frame of reference than the image that it was drawn on"
        notices.append(Notice("daily-structures-not-read", o.name, found))
    return None


def _readable(
    objects: Iterable[DicomObject],
    parse: Callable[[FileDataset, str], Read],
    code: str,
    own_key: str,
    notices: list[Notice],
) -> Iterator[tuple[DicomObject, Read]]:
    """What can be read of objects beside the day's image; the rest becomes notices, and the day goes on without."""
    for o in objects:
        if o.patient_key != own_key:
            notices.append(Notice(code, o.name, "it carries another patient ID than the image"))
            continue
        try:
            read = parse(read_file(o.path), f"'{o.name}'")
        except (DicomError, GeometryError, StructureError) as error:
            notices.append(Notice(code, o.name, str(error)))
        else:
            yield o, read


def _registration(
    inventory: Inventory, series: CtSeries, planning: DicomContext, own_key: str, notices: list[Notice]
) -> RigidTransform | None:
    """The rigid transform day -> planning that the exported registration objects agree on."""
    day_uid, planning_uid = series.context.frame_of_reference_uid, planning.frame_of_reference_uid
    if day_uid == planning_uid:
        return None
    found: dict[str, RigidTransform] = {}
    objects = [o for o in inventory.objects if o.sop_class_uid in REGISTRATION_CLASSES]
    for o, registration in _readable(objects, registration_from, "registration-not-read", own_key, notices):
        rigid = rigid_between(registration, day_uid, planning_uid)
        if rigid is not None:
            found[o.name] = rigid
    first, names = next(iter(found.values()), None), [f"'{name}'" for name in found]
    if first is not None and not all(is_near(first, other) for other in found.values()):
        raise RegistrationError(
            f"registration objects {_listing(names)} place the day's image differently on the "
            "planning CT; keep the one that holds"
        )
    return first


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"

"""From a folder to a case: the plan, and by its references the structure set, the image and the doses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom.uid import CTImageStorage, RTDoseStorage, RTStructureSetStorage

from doseeng.case import Case, DicomContext
from doseeng.dicom.ct import CtSeries, read_ct
from doseeng.dicom.files import opened_folder, read_file
from doseeng.dicom.inventory import PLAN_CLASSES, DicomObject, Inventory, case_key, scan
from doseeng.dicom.phantom import DEFAULT_SPACING_MM, has_assigned_body, phantom_ct
from doseeng.dicom.rtdose import dose_from
from doseeng.dicom.rtplan import plan_from
from doseeng.dicom.rtstruct import structure_set_from
from doseeng.dicom.tags import text
from doseeng.dicom.writing import patient_module, study_module
from doseeng.dose import Dose
from doseeng.errors import DicomError, GeometryError, Notice
from doseeng.grid import Volume
from doseeng.plan import Plan
from doseeng.structures import StructureSet


def read_case(path: Path | str, plan_uid: str | None = None, accept_patient_mismatch: bool = False) -> Case:
    """The case in a folder (searched to its depths) or in a zip of one.

    plan_uid: SOP Instance UID of the plan to take when there are several. What belongs to the plan is decided by
    references between the objects, never by file names. accept_patient_mismatch: go on, with a notice, when objects of
    one chain carry different patient identifiers (phantom exports do).

    DicomError when the plan is ambiguous, a reference leads nowhere, files are broken or patients differ;
    GeometryError for frames of reference that differ and for CT stacks that are no regular grid; PlanError and
    StructureError from the objects themselves.
    """
    with opened_folder(Path(path)) as folder:
        return _assemble(scan(folder), plan_uid, accept_patient_mismatch)


def read_image(path: Path | str, series_uid: str | None = None) -> CtSeries:
    """The CT (or cone-beam CT) series in a folder or zip; DicomError when there are several and none is named."""
    with opened_folder(Path(path)) as folder:
        inventory = scan(folder)
        slices = [o for o in inventory.objects if o.sop_class_uid == CTImageStorage and o.role != "CT localizer"]
        series = dict.fromkeys(o.series_uid for o in slices)
        if series_uid is not None:
            slices = [o for o in slices if o.series_uid == series_uid]
            if not slices:
                raise DicomError(f"CT series {series_uid} is not in the folder; found {_listing(series)}")
        elif len(series) != 1:
            raise DicomError(
                f"expected one CT series, found {_listing(series)}{_unread(inventory)}; "
                "name one by its Series Instance UID"
            )
        return read_ct(o.path for o in slices)


def _assemble(inventory: Inventory, plan_uid: str | None, accept_patient_mismatch: bool) -> Case:
    plan_object = _choose_plan(inventory, plan_uid)
    structure_object = _structure_set_of(inventory, plan_object)
    slices = _image_slices(inventory, structure_object)
    dose_objects = [o for o in _of_class(inventory, RTDoseStorage) if plan_object.sop_uid in o.plan_uids]
    notices = list(inventory.notices)
    notices += _require_one_patient([plan_object, structure_object, *slices, *dose_objects], accept_patient_mismatch)
    plan_dataset = read_file(plan_object.path)
    plan, plan_notices = plan_from(plan_dataset, f"'{plan_object.name}'")
    structures = structure_set_from(read_file(structure_object.path), f"'{structure_object.name}'")
    _require_one_frame(structures, plan_object, [*slices, *dose_objects])
    doses, dose_notices = _doses(inventory, dose_objects, plan)
    notices += [*plan_notices, *structures.notices, *dose_notices]
    if slices:
        image = read_ct(o.path for o in slices)
        notices += [*image.notices, *_position_notice(plan, image)]
        ct, context = image.volume, image.context
    else:
        ct = _phantom(inventory, structures, structure_object, doses)
        notices.append(
            Notice("phantom-without-ct", structures.label, "there is no CT; the image was made from the body outline")
        )
        context = DicomContext(
            frame_of_reference_uid=structures.frame_of_reference_uid,
            patient=patient_module(plan_dataset),
            study=study_module(plan_dataset),
        )
    key = case_key(text(plan_dataset, "PatientID"), plan.uid)
    return Case(key, ct, structures, plan, doses, context, tuple(notices))


def _choose_plan(inventory: Inventory, plan_uid: str | None) -> DicomObject:
    plans = [o for o in inventory.objects if o.sop_class_uid in PLAN_CLASSES and o.treatment_beams]
    described = "; ".join(f"'{o.label}' {o.sop_uid}" for o in plans) or "none"
    if plan_uid is not None:
        plans = [o for o in plans if o.sop_uid == plan_uid]
        if not plans:
            raise DicomError(
                f"plan {plan_uid} with treatment beams is not in the folder; found {described}{_unread(inventory)}"
            )
        return _only(plans, f"plan {plan_uid}")
    if not plans:
        raise DicomError(
            f"no plan with treatment beams in the folder ({len(inventory.objects)} DICOM objects, "
            f"{inventory.other_files} other files){_unread(inventory)}; export the RT Plan or RT Ion Plan too"
        )
    if len({o.sop_uid for o in plans}) > 1:
        raise DicomError(f"several plans with treatment beams: {described}; choose one by its UID (plan_uid)")
    return _only(plans, f"plan {plans[0].sop_uid}")


def _structure_set_of(inventory: Inventory, plan: DicomObject) -> DicomObject:
    if not plan.structure_set_uid:
        raise DicomError(
            f"plan '{plan.label}' ('{plan.name}') refers to no structure set; export the plan together with the "
            "structure set it was made on"
        )
    sets = _of_class(inventory, RTStructureSetStorage)
    found = [o for o in sets if o.sop_uid == plan.structure_set_uid]
    if not found:
        raise DicomError(
            f"plan '{plan.label}' refers to structure set {plan.structure_set_uid}, which is not in the folder; "
            f"found {_listing(o.sop_uid for o in sets)}{_unread(inventory)}; export plan and structure set together"
        )
    return _only(found, f"structure set {plan.structure_set_uid}")


def _image_slices(inventory: Inventory, structures: DicomObject) -> list[DicomObject]:
    """The CT slices of the one series that the structure set was drawn on; [] when none of them is in the folder."""
    referenced = {series.uid: series for series in structures.referenced_series}
    slices = [o for o in inventory.objects if o.series_uid in referenced and o.role != "CT localizer"]
    present = dict.fromkeys(o.series_uid for o in slices)
    if len(present) > 1:
        raise DicomError(
            f"structure set '{structures.label}' refers to several image series in the folder: {_listing(present)}; "
            "leave only the planning CT"
        )
    if slices:
        wanted = set(referenced[slices[0].series_uid].image_uids)
        missing = wanted - {o.sop_uid for o in slices}
        if missing:
            raise DicomError(
                f"structure set '{structures.label}' was drawn on {len(wanted)} images, of which {len(missing)} are "
                f"not in the folder{_unread(inventory)}; export the complete CT series {slices[0].series_uid}"
            )
    return slices


def _phantom(
    inventory: Inventory, structures: StructureSet, structure_object: DicomObject, doses: Sequence[Dose]
) -> Volume:
    if not has_assigned_body(structures):
        found = _listing(o.series_uid for o in _of_class(inventory, CTImageStorage))
        wanted = _listing(series.uid for series in structure_object.referenced_series)
        raise DicomError(
            f"structure set '{structures.label}' was drawn on image series {wanted}, which is not in the folder; CT "
            f"series found: {found}{_unread(inventory)}; export the CT too (only a phantom whose EXTERNAL structure "
            "has an assigned density can do without)"
        )
    return phantom_ct(structures, doses[0].volume.grid.spacing_mm if doses else DEFAULT_SPACING_MM)


def _require_one_patient(chain: Sequence[DicomObject], accept_mismatch: bool) -> list[Notice]:
    first = chain[0]
    other = next((o for o in chain if o.patient_key != first.patient_key), None)
    if other is None:
        return []
    found = f"'{first.name}' and '{other.name}' belong together by their references but carry different patient IDs"
    if not accept_mismatch:
        raise DicomError(f"{found}; find out whose data these are, or accept it (--accept-patient-mismatch)")
    return [Notice("patient-mismatch", other.name, f"{found}; this was accepted explicitly")]


def _require_one_frame(structures: StructureSet, plan: DicomObject, spatial: Sequence[DicomObject]) -> None:
    """The plan may leave its frame of reference out; images and doses may not."""
    expected = structures.frame_of_reference_uid
    for o in [plan] * bool(plan.frame_of_reference_uid) + [*spatial]:
        if o.frame_of_reference_uid != expected:
            raise GeometryError(
                f"'{o.name}' ({o.role}) is in frame of reference {o.frame_of_reference_uid or 'none'}, but structure "
                f"set '{structures.label}' in {expected or 'none'}; export objects of one planning image"
            )


def _doses(inventory: Inventory, own: Sequence[DicomObject], plan: Plan) -> tuple[tuple[Dose, ...], tuple[Notice, ...]]:
    """The doses of the plan; those that are unsupported, and the doses of other plans, become notices."""
    doses, notices = [], []
    for o in own:
        try:
            doses.append(dose_from(read_file(o.path), f"'{o.name}'"))
        except (DicomError, GeometryError) as error:
            notices.append(Notice("dose-not-read", o.name, str(error)))
    for o in _of_class(inventory, RTDoseStorage):
        if plan.uid not in o.plan_uids:
            belongs = f"belongs to plan {_listing(o.plan_uids)}" if o.plan_uids else "refers to no plan"
            notices.append(Notice("dose-of-other-plan", o.name, f"{belongs}, not to '{plan.label}', and was left out"))
    return tuple(doses), tuple(notices)


def _position_notice(plan: Plan, image: CtSeries) -> list[Notice]:
    if image.patient_position in ("", plan.patient_position):
        return []
    found = f"the CT says {image.patient_position}, the plan {plan.patient_position}; the plan's position is used"
    return [Notice("patient-position-differs", plan.label, found)]


def _of_class(inventory: Inventory, sop_class_uid: str) -> list[DicomObject]:
    return [o for o in inventory.objects if o.sop_class_uid == sop_class_uid]


def _only(found: Sequence[DicomObject], what: str) -> DicomObject:
    if len(found) > 1:
        names = ", ".join(f"'{o.name}'" for o in found)
        raise DicomError(f"{what} is in {len(found)} files of different content: {names}; keep the right one")
    return found[0]


def _listing(uids: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(uids)) or "none"


def _unread(inventory: Inventory) -> str:
    names = [n.where for n in inventory.notices if n.code == "unreadable-file"]
    return f" (unreadable: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else ""

"""What RT Plans and RT Ion Plans share: which beams are given how often, prescriptions, setup, refusals.

DICOM PS3.3 C.8.8.9 (general plan), C.8.8.10 (prescription), C.8.8.12 (patient setup), C.8.8.13 (fraction scheme).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from doseeng.dicom.tags import integer, items, number, numbers, required_integer, text
from doseeng.errors import Notice, PlanError
from doseeng.grid import PATIENT_POSITIONS
from doseeng.plan import Prescription

Array = npt.NDArray[np.float64]

TREATMENT_DELIVERIES: Final = frozenset({"TREATMENT", "CONTINUATION", ""})
ANGLE_TOLERANCE_DEG: Final = 0.01
"""Angles that agree this well do not move; planning systems write residues of about 1e-9 degrees."""
POSITION_TOLERANCE_MM: Final = 0.01
METERSET_TOLERANCE: Final = 1e-3
"""Relative: decimal strings and float32 weights agree to about 1e-6; more is a damaged or unusual plan."""

FIXED_AT_ZERO: Final = {
    "GantryPitchAngle": "gantry pitch",
    "TableTopPitchAngle": "table top pitch",
    "TableTopRollAngle": "table top roll",
    "TableTopEccentricAngle": "table top eccentric angle",
    "HeadFixationAngle": "head fixation angle",
}


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A treatment beam as one fraction group gives it. where: names file and beam in messages."""

    beam: Dataset = field(repr=False)
    number: int
    name: str
    where: str
    meterset_mu: float
    fractions: int
    fraction_group: int


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Treatment beams in order of the fraction groups, names of the others, and what was noticed."""

    treatment: tuple[Delivery, ...]
    setup_beams: tuple[str, ...]
    notices: tuple[Notice, ...]


def deliveries_of(dataset: Dataset, beam_keyword: str, where: str) -> Deliveries:
    """Which beams of the sequence `beam_keyword` treat, with which meterset and how often.

    Setup and imaging beams and beams without meterset are listed apart. PlanError for brachytherapy, groups without a
    number of fractions, references to beams that are not there, duplicated beam numbers, a meterset that is negative or
    not finite, or a dosimeter unit other than MU.
    """
    beams: dict[int, Dataset] = {}
    for item in items(dataset, beam_keyword):
        beam_number = required_integer(item, "BeamNumber", where)
        if beam_number in beams:
            raise PlanError(f"{where}: beam number {beam_number} is given twice; export the plan again")
        beams[beam_number] = item
    treatment: list[Delivery] = []
    other: dict[str, None] = {}
    notices: list[Notice] = []
    referenced: set[int] = set()
    for group_number, fractions, reference in _references(dataset, where):
        beam_number = required_integer(reference, "ReferencedBeamNumber", where)
        if beam_number not in beams:
            raise PlanError(f"{where}: fraction group {group_number} refers to beam {beam_number}, which is not there")
        referenced.add(beam_number)
        beam = beams[beam_number]
        name = text(beam, "BeamName")
        beam_where = f"{where}, beam {beam_number} '{name}'"
        meterset = _meterset(reference, beam_where)
        kind = text(beam, "TreatmentDeliveryType").upper()
        if kind in TREATMENT_DELIVERIES and meterset > 0:
            _require_monitor_units(beam, beam_where)
            treatment.append(Delivery(beam, beam_number, name, beam_where, meterset, fractions, group_number))
            continue
        other[name or str(beam_number)] = None
        if kind in TREATMENT_DELIVERIES:
            notices.append(Notice("beam-without-meterset", name, "has no meterset and is taken for a setup beam"))
        elif meterset > 0:
            notices.append(Notice("imaging-dose-left-out", name, f"{kind} beam of {meterset:g} MU is not computed"))
    for beam_number in sorted(set(beams) - referenced):
        name = text(beams[beam_number], "BeamName")
        other[name or str(beam_number)] = None
        notices.append(Notice("beam-not-in-fraction-group", name, "no fraction group gives this beam; it is left out"))
    return Deliveries(tuple(treatment), tuple(other), tuple(notices))


def _references(dataset: Dataset, where: str) -> Iterator[tuple[int, int, Dataset]]:
    """(group number, fractions, referenced beam item) of every fraction group."""
    groups = items(dataset, "FractionGroupSequence")
    if not groups:
        raise PlanError(f"{where}: has no FractionGroupSequence (300A,0070), so no meterset; export the plan again")
    for group in groups:
        group_number = required_integer(group, "FractionGroupNumber", where)
        if integer(group, "NumberOfBrachyApplicationSetups", where):
            raise PlanError(f"{where}: fraction group {group_number} gives brachytherapy, which is not supported")
        references = items(group, "ReferencedBeamSequence")
        fractions = integer(group, "NumberOfFractionsPlanned", where)
        if references and (fractions is None or fractions < 1):
            raise PlanError(
                f"{where}: fraction group {group_number} plans {fractions} fractions; expected at least one "
                "(NumberOfFractionsPlanned (300A,0078))"
            )
        for reference in references:
            yield group_number, fractions or 0, reference


def _meterset(reference: Dataset, where: str) -> float:
    values = numbers(reference, "BeamMeterset", where)
    meterset = float(values[0]) if len(values) else 0.0
    if not np.isfinite(meterset) or meterset < 0:
        raise PlanError(f"{where}: BeamMeterset is {meterset:g} MU; expected a finite number that is not negative")
    return meterset


def _require_monitor_units(beam: Dataset, where: str) -> None:
    unit = text(beam, "PrimaryDosimeterUnit").upper()
    if unit != "MU":
        raise PlanError(
            f"{where}: PrimaryDosimeterUnit is '{unit}'; only monitor units (MU) are supported, "
            "export the plan with MU or scale it beforehand"
        )


def prescriptions_of(dataset: Dataset, where: str) -> tuple[tuple[Prescription, ...], tuple[Notice, ...]]:
    """Doses prescribed to ROIs, and notices for target prescriptions that name no ROI or when there is none at all."""
    found: dict[Prescription, None] = {}
    notices: list[Notice] = []
    for item in items(dataset, "DoseReferenceSequence"):
        dose = number(item, "TargetPrescriptionDose", where)
        if text(item, "DoseReferenceType").upper() != "TARGET" or dose is None:
            continue
        roi_number = integer(item, "ReferencedROINumber", where)
        if roi_number is not None and dose > 0:
            found[Prescription(roi_number, dose)] = None
            continue
        label = text(item, "DoseReferenceDescription")
        kind = text(item, "DoseReferenceStructureType")
        message = f"prescribes {dose:g} Gy to '{label}' ({kind}) and names no ROI; state the target in the goals"
        notices.append(Notice("prescription-without-roi", where, message))
    if not found and not notices:
        notices.append(Notice("no-prescription", where, "the plan prescribes no dose to a target"))
    return tuple(found), tuple(notices)


def patient_position_of(dataset: Dataset, deliveries: tuple[Delivery, ...], where: str) -> str:
    """The patient position all treatment beams share; PlanError when it is missing, mixed or unsupported."""
    setups = items(dataset, "PatientSetupSequence")
    by_number = {integer(s, "PatientSetupNumber", where): text(s, "PatientPosition").upper() for s in setups}
    positions: dict[str, str] = {}
    for delivery in deliveries:
        reference = integer(delivery.beam, "ReferencedPatientSetupNumber", delivery.where)
        if reference is None:
            candidates = set(by_number.values())
        else:
            candidates = {by_number.get(reference, "")}
        for position in candidates or {""}:
            positions.setdefault(position, delivery.name)
    if "" in positions:
        raise PlanError(
            f"{where}: beam '{positions['']}' has no patient position; expected PatientPosition (0018,5100) in its "
            "item of PatientSetupSequence; export the plan with patient setup"
        )
    if len(positions) > 1:
        listing = ", ".join(f"{p} (beam '{name}')" for p, name in positions.items())
        raise PlanError(f"{where}: beams treat the patient in several positions: {listing}; split the plan")
    (position,) = positions
    if position not in PATIENT_POSITIONS:
        raise PlanError(
            f"{where}: patient position '{position}' is not supported; expected {', '.join(PATIENT_POSITIONS)}"
        )
    return position


def structure_set_uid_of(dataset: Dataset) -> str:
    """SOP Instance UID of the referenced structure set, "" when the plan names none."""
    references = items(dataset, "ReferencedStructureSetSequence")
    return text(references[0], "ReferencedSOPInstanceUID") if references else ""


def refuse_accessories(delivery: Delivery, sequences: dict[str, tuple[str, str]]) -> None:
    """PlanError naming the accessories found; sequences: keyword -> (what it is, keyword of its name)."""
    for keyword, (label, id_keyword) in sequences.items():
        found = items(delivery.beam, keyword)
        if found:
            names = ", ".join(f"'{text(item, id_keyword) or index}'" for index, item in enumerate(found, 1))
            raise PlanError(f"{delivery.where}: uses {label} {names}, which is not supported")


def bolus_of(delivery: Delivery) -> tuple[str, ...]:
    """Names of the boluses a beam is treated through."""
    found = items(delivery.beam, "ReferencedBolusSequence")
    return tuple(text(i, "BolusID") or f"ROI {integer(i, 'ReferencedROINumber', delivery.where)}" for i in found)


def bolus_notices(deliveries: tuple[Delivery, ...], meaning: str) -> tuple[Notice, ...]:
    """One notice per beam that is treated through a bolus; meaning: what the engine takes it for."""
    named = ((d, bolus_of(d)) for d in deliveries)
    message = "is treated through bolus {}; {}"
    return tuple(Notice("bolus", d.name, message.format(", ".join(names), meaning)) for d, names in named if names)


def refuse_ion_wedges(delivery: Delivery, control_points: list[Dataset]) -> None:
    """PlanError naming the wedges of an ion beam unless every control point that states a wedge position says OUT."""
    wedges = items(delivery.beam, "IonWedgeSequence")
    settings = [s for cp in control_points for s in items(cp, "IonWedgePositionSequence")]
    if wedges and (not settings or any(text(s, "WedgePosition").upper() != "OUT" for s in settings)):
        names = ", ".join(f"'{text(w, 'WedgeID') or text(w, 'WedgeNumber')}' ({text(w, 'WedgeType')})" for w in wedges)
        raise PlanError(f"{delivery.where}: uses wedge {names}, which is not supported")


def refuse_tilts(control_point: Dataset, where: str) -> None:
    """PlanError when the table or gantry is tilted out of the plane IEC 61217 angles describe here."""
    for keyword, label in FIXED_AT_ZERO.items():
        angle = number(control_point, keyword, where)
        if angle is not None and abs((angle + 180.0) % 360.0 - 180.0) > ANGLE_TOLERANCE_DEG:
            raise PlanError(f"{where}: has a {label} of {angle:g} degrees ({keyword}); only 0 is supported")


def per_control_point(control_points: list[Dataset], keyword: str, width: int, where: str) -> Array:
    """(n_cp, width) float64 values of an attribute that DICOM repeats only when it changes.

    PlanError when the first control point lacks it or a value is not finite or has another number of components.
    """
    rows: list[Array] = []
    for index, control_point in enumerate(control_points):
        values = numbers(control_point, keyword, where)
        if len(values) == 0 and rows:
            rows.append(rows[-1])
            continue
        if len(values) != width or not np.all(np.isfinite(values)):
            raise PlanError(
                f"{where}: control point {index} has {keyword} = {values[:4].tolist()}; expected {width} finite "
                "number(s), which the first control point must state"
            )
        rows.append(values)
    return np.array(rows)


def constant(values: Array, keyword: str, tolerance: float, where: str) -> Array:
    """The one value (width,) of an attribute that may not change between control points; PlanError when it does."""
    if np.ptp(values, axis=0).max() > tolerance:
        raise PlanError(f"{where}: {keyword} changes between control points, which is not supported for this technique")
    return np.asarray(values[0], dtype=np.float64)


def cumulative_meterset(control_points: list[Dataset], beam: Dataset, where: str) -> Array:
    """(n_cp,) cumulative meterset as a fraction of the beam's, from 0 to 1, never falling.

    PlanError when weights are missing, do not start at 0, fall, or end elsewhere than FinalCumulativeMetersetWeight.
    """
    if len(control_points) < 2:
        raise PlanError(f"{where}: has {len(control_points)} control point(s); expected at least two")
    weight = per_control_point(control_points, "CumulativeMetersetWeight", 1, where)[:, 0]
    final = number(beam, "FinalCumulativeMetersetWeight", where)
    if final is None or final <= 0:
        raise PlanError(f"{where}: FinalCumulativeMetersetWeight is {final}; expected a positive number")
    tolerance = METERSET_TOLERANCE * final
    if abs(weight[0]) > tolerance or abs(weight[-1] - final) > tolerance or np.any(np.diff(weight) < -tolerance):
        raise PlanError(
            f"{where}: cumulative meterset weights run from {weight[0]:g} to {weight[-1]:g}; expected a rise from 0 to "
            f"FinalCumulativeMetersetWeight = {final:g}"
        )
    rising = np.maximum.accumulate(np.clip(weight / final, 0.0, 1.0))
    rising[0], rising[-1] = 0.0, 1.0
    return rising

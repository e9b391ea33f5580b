"""RT Plans and RT Ion Plans in: `plan_from` reads both; photon beams (DICOM PS3.3 C.8.8.14) are read here."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import RTIonPlanStorage, RTPlanStorage

from doseeng.dicom.plan_common import (
    ANGLE_TOLERANCE_DEG,
    POSITION_TOLERANCE_MM,
    Deliveries,
    Delivery,
    bolus_notices,
    bolus_of,
    constant,
    cumulative_meterset,
    deliveries_of,
    patient_position_of,
    per_control_point,
    prescriptions_of,
    refuse_accessories,
    refuse_tilts,
    structure_set_uid_of,
)
from doseeng.dicom.rtionplan import proton_beam_from, spot_notices
from doseeng.dicom.tags import items, number, numbers, required_integer, required_number, text
from doseeng.dicom.wedges_blocks import blocks_of, wedges_of
from doseeng.errors import DicomError, Notice, PlanError
from doseeng.plan import Mlc, PhotonBeam, Plan, ProtonBeam

Array = npt.NDArray[np.float64]

JAWS: Final = {"X": "X", "ASYMX": "X", "Y": "Y", "ASYMY": "Y"}
MLCS: Final[dict[str, Literal["X", "Y"]]] = {"MLCX": "X", "MLCX1": "X", "MLCX2": "X", "MLCY": "Y"}
"""MLCX1 and MLCX2 are the layers of Varian's machines with two of them, outside the terms that DICOM defines."""
REFUSED_ACCESSORIES: Final = {
    "CompensatorSequence": ("compensator", "CompensatorID"),
    "ApplicatorSequence": ("applicator", "ApplicatorID"),
    "GeneralAccessorySequence": ("accessory", "GeneralAccessoryID"),
}


def plan_from(dataset: Dataset, where: str) -> tuple[Plan, tuple[Notice, ...]]:
    """The plan of an RT Plan (photons) or RT Ion Plan (scanned protons) dataset; `where` names the file in messages.

    Setup beams are listed, not read. Raises DicomError for another object or broken tags and PlanError, naming the
    beam, for whatever the dose engine could not compute: other particles and techniques, accessories, tilted tables,
    missing isocentre, angles, meterset or patient position.
    """
    sop_class = text(dataset, "SOPClassUID")
    beams: tuple[ProtonBeam, ...] | tuple[PhotonBeam, ...]
    if sop_class == RTIonPlanStorage:
        found = _deliveries(dataset, "IonBeamSequence", where)
        beams = tuple(proton_beam_from(delivery) for delivery in found.treatment)
        extra = bolus_notices(found.treatment, "it counts only when its structure carries a density override")
        extra += tuple(n for d, beam in zip(found.treatment, beams, strict=True) for n in spot_notices(d, beam))
    elif sop_class == RTPlanStorage:
        found = _deliveries(dataset, "BeamSequence", where)
        beams = tuple(photon_beam_from(delivery) for delivery in found.treatment)
        extra = tuple(n for delivery in found.treatment for n in _leaf_notices(delivery))
        meaning = "it counts as water, or for every beam as its structure's density override if there is one"
        extra += bolus_notices(found.treatment, meaning)
    else:
        raise DicomError(f"{where}: expected an RT Plan or RT Ion Plan, found {sop_class or 'no SOP class'}")
    prescriptions, prescription_notices = prescriptions_of(dataset, where)
    plan = Plan(
        label=text(dataset, "RTPlanLabel"),
        uid=text(dataset, "SOPInstanceUID"),
        patient_position=patient_position_of(dataset, found.treatment, where),
        beams=beams,
        prescriptions=prescriptions,
        structure_set_uid=structure_set_uid_of(dataset),
        approval=text(dataset, "ApprovalStatus"),
        setup_beams=found.setup_beams,
        intent=text(dataset, "PlanIntent"),
    )
    return plan, (*found.notices, *prescription_notices, *extra)


def _deliveries(dataset: Dataset, beam_keyword: str, where: str) -> Deliveries:
    found = deliveries_of(dataset, beam_keyword, where)
    if not found.treatment:
        listing = ", ".join(f"'{name}'" for name in found.setup_beams) or "none at all"
        raise PlanError(f"{where}: has no treatment beam with a meterset; beams found: {listing}")
    return found


def photon_beam_from(delivery: Delivery) -> PhotonBeam:
    """The control points of one photon beam; PlanError or DicomError naming the beam when it cannot be read."""
    beam, where = delivery.beam, delivery.where
    radiation = text(beam, "RadiationType").upper()
    if radiation != "PHOTON":
        raise PlanError(f"{where}: is a beam of radiation type '{radiation}'; only PHOTON is supported in an RT Plan")
    refuse_accessories(delivery, REFUSED_ACCESSORIES)
    control_points = items(beam, "ControlPointSequence")
    meterset_fraction = cumulative_meterset(control_points, beam, where)
    for control_point in control_points:
        refuse_tilts(control_point, where)
    energy = per_control_point(control_points, "NominalBeamEnergy", 1, where)
    jaw_x, jaw_y, mlcs = _limiting_devices(beam, control_points, where)
    found = PhotonBeam(
        number=delivery.number,
        name=delivery.name,
        machine=text(beam, "TreatmentMachineName"),
        energy_mv=float(constant(energy, "NominalBeamEnergy", 0.0, where)[0]),
        fluence_mode=_fluence_mode(beam),
        technique=text(beam, "BeamType").upper(),
        source_axis_mm=required_number(beam, "SourceAxisDistance", where),
        meterset_mu=delivery.meterset_mu,
        meterset_fraction=meterset_fraction,
        isocenter_mm=per_control_point(control_points, "IsocenterPosition", 3, where),
        gantry_deg=_gantry(control_points, where),
        collimator_deg=_nearest(per_control_point(control_points, "BeamLimitingDeviceAngle", 1, where)[:, 0]),
        couch_deg=_nearest(per_control_point(control_points, "PatientSupportAngle", 1, where)[:, 0]),
        jaw_x_mm=jaw_x,
        jaw_y_mm=jaw_y,
        mlcs=mlcs,
        wedges=wedges_of(beam, control_points, where),
        blocks=blocks_of(beam, where),
        block_tray_factor=number(beam, "TotalBlockTrayFactor", where),
        bolus=bolus_of(delivery),
        bolus_rois=tuple(
            required_integer(item, "ReferencedROINumber", where) for item in items(beam, "ReferencedBolusSequence")
        ),
        fractions=delivery.fractions,
        fraction_group=delivery.fraction_group,
    )
    _require_static(found, where)
    return found


def _require_static(beam: PhotonBeam, where: str) -> None:
    """PlanError when a beam of type STATIC moves while meterset is given, which DICOM (PS3.3 C.8.8.14) rules out."""
    if beam.technique != "STATIC":
        return
    given = np.diff(beam.meterset_fraction) > 0
    positions = {"X jaws": beam.jaw_x_mm, "Y jaws": beam.jaw_y_mm, "isocentre": beam.isocenter_mm}
    angles = {"gantry": beam.gantry_deg, "collimator": beam.collimator_deg, "couch": beam.couch_deg}
    moving = [(name, values[:, None], ANGLE_TOLERANCE_DEG) for name, values in angles.items()]
    moving += [(name, values, POSITION_TOLERANCE_MM) for name, values in positions.items()]
    moving += [("leaves", mlc.leaf_mm.reshape(len(mlc.leaf_mm), -1), POSITION_TOLERANCE_MM) for mlc in beam.mlcs]
    for name, values, tolerance in moving:
        # Jaws that are not there stay at infinity, and infinity less infinity is no number.
        steps = np.abs(np.diff(np.nan_to_num(values), axis=0)).max(axis=1)
        for index in np.flatnonzero(given & (steps > tolerance))[:1]:
            raise PlanError(
                f"{where}: BeamType is STATIC but between control points {index} and {index + 1}, where meterset is "
                f"given, the {name} move by {steps[index]:g}; expected BeamType DYNAMIC, or two control points with "
                "equal positions for each segment"
            )


def _leaf_notices(delivery: Delivery) -> tuple[Notice, ...]:
    """A notice for each multileaf collimator that no control point positions."""
    unused = [kind for kind in _mlc_kinds(delivery.beam) if not _is_positioned(delivery.beam, kind)]
    text = "is listed but no control point gives leaf positions; its leaves count as fully retracted"
    return tuple(Notice("leaves-not-positioned", delivery.name, f"{kind} {text}") for kind in unused)


def _mlc_kinds(beam: Dataset) -> list[str]:
    kinds = [text(device, "RTBeamLimitingDeviceType").upper() for device in items(beam, "BeamLimitingDeviceSequence")]
    return [kind for kind in kinds if kind in MLCS]


def _is_positioned(beam: Dataset, kind: str) -> bool:
    return any(
        text(position, "RTBeamLimitingDeviceType").upper() == kind
        for control_point in items(beam, "ControlPointSequence")
        for position in items(control_point, "BeamLimitingDevicePositionSequence")
    )


def _fluence_mode(beam: Dataset) -> str:
    modes = items(beam, "PrimaryFluenceModeSequence")
    if not modes:
        return ""
    mode = text(modes[0], "FluenceMode").upper()
    return mode if mode == "STANDARD" else text(modes[0], "FluenceModeID").upper() or mode


def _gantry(control_points: list[Dataset], where: str) -> Array:
    """(n_cp,) gantry angles made continuous with the rotation direction that holds from each control point on."""
    angle = per_control_point(control_points, "GantryAngle", 1, where)[:, 0]
    direction = ""
    continuous = angle.copy()
    for index, control_point in enumerate(control_points[:-1]):
        direction = text(control_point, "GantryRotationDirection").upper() or direction
        step = (angle[index + 1] - angle[index]) % 360.0
        if min(step, 360.0 - step) <= ANGLE_TOLERANCE_DEG:
            step = (step + 180.0) % 360.0 - 180.0
        elif direction == "CC":
            step -= 360.0
        elif direction != "CW":
            raise PlanError(
                f"{where}: gantry moves from {angle[index]:g} to {angle[index + 1]:g} degrees after control point "
                f"{index}, but GantryRotationDirection is '{direction}'; expected CW or CC"
            )
        continuous[index + 1] = continuous[index] + step
    return continuous


def _nearest(angle: Array) -> Array:
    """Angles made continuous by the shorter way; collimators and couches move in small steps."""
    return np.asarray(np.unwrap(angle, period=360.0), dtype=np.float64)


def _limiting_devices(beam: Dataset, control_points: list[Dataset], where: str) -> tuple[Array, Array, tuple[Mlc, ...]]:
    """Jaw edges (n_cp, 2) on X and Y, infinite without such a jaw, and the layers of the multileaf collimator."""
    jaws: dict[str, Array] = {}
    mlcs: dict[str, Mlc | None] = {}
    for device in items(beam, "BeamLimitingDeviceSequence"):
        kind = text(device, "RTBeamLimitingDeviceType").upper()
        pairs = required_integer(device, "NumberOfLeafJawPairs", where)
        if kind in JAWS and pairs == 1 and JAWS[kind] not in jaws:
            jaws[JAWS[kind]] = _positions(control_points, kind, 2, where)
        elif kind in MLCS and pairs > 0 and kind not in mlcs:
            mlcs[kind] = _mlc(device, kind, pairs, control_points, where) if _is_positioned(beam, kind) else None
        else:
            raise PlanError(
                f"{where}: beam limiting device '{kind}' with {pairs} pair(s) is not supported; "
                f"expected at most one jaw pair per axis and one of each of {', '.join(MLCS)}"
            )
    open_jaw = np.tile([-np.inf, np.inf], (len(control_points), 1))
    return jaws.get("X", open_jaw), jaws.get("Y", open_jaw), tuple(mlc for mlc in mlcs.values() if mlc)


def _mlc(device: Dataset, kind: str, pairs: int, control_points: list[Dataset], where: str) -> Mlc:
    boundary = numbers(device, "LeafPositionBoundaries", where)
    if len(boundary) != pairs + 1:
        raise PlanError(
            f"{where}: {kind} states {len(boundary)} leaf boundaries for {pairs} leaf pairs; one more needed"
        )
    leaf = _positions(control_points, kind, 2 * pairs, where).reshape(-1, 2, pairs)
    try:
        return Mlc(MLCS[kind], boundary, leaf)
    except PlanError as error:
        raise PlanError(f"{where}: {error}") from error


def _positions(control_points: list[Dataset], kind: str, width: int, where: str) -> Array:
    """(n_cp, width) positions of one beam limiting device, carried over where a control point does not repeat them."""
    empty = Dataset()
    of_device = [
        next(
            (
                item
                for item in items(control_point, "BeamLimitingDevicePositionSequence")
                if text(item, "RTBeamLimitingDeviceType").upper() == kind
            ),
            empty,
        )
        for control_point in control_points
    ]
    return per_control_point(of_device, "LeafJawPositions", width, f"{where}, {kind}")

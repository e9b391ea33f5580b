"""RT Ion Plans out (DICOM PS3.3 A.48, C.8.8.25): scanned proton plans as a planning system would export them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RTIonPlanStorage, RTStructureSetStorage

from doseeng.case import DicomContext
from doseeng.dicom.writing import decimals, new_dataset
from doseeng.errors import PlanError
from doseeng.plan import Plan, ProtonBeam, RangeShifter

_NONE = "NONE"


def ion_plan_to_dataset(plan: Plan, context: DicomContext, *, source_distance_mm: tuple[float, float]) -> Dataset:
    """An RT Ion Plan of a proton plan, never approved: a research tool releases no treatment.

    source_distance_mm: (x, y) distance of the virtual scanning sources from the isocentre, which DICOM asks for. Reads
    back as the same plan with spot positions, spot MU and range shifter exact to float32 (the FL of DICOM); spots
    without meterset are written but dropped when read. Keeps `plan.uid` when there is one. PlanError for photon plans,
    for a beam number that comes twice and for fraction groups whose beams disagree on the number of fractions.
    """
    beams = plan.proton_beams
    numbers = [beam.number for beam in beams]
    if len(set(numbers)) < len(numbers):
        raise PlanError(f"plan '{plan.label}': beam numbers {numbers} repeat; an RT Ion Plan needs different ones")
    dataset = new_dataset(RTIonPlanStorage, context, "RTPLAN", sop_instance_uid=plan.uid)
    dataset.RTPlanLabel = plan.label[:16]
    dataset.RTPlanDate = dataset.InstanceCreationDate
    dataset.RTPlanTime = dataset.InstanceCreationTime
    dataset.PlanIntent = plan.intent or "RESEARCH"
    if plan.structure_set_uid:
        dataset.RTPlanGeometry = "PATIENT"
        reference = Dataset()
        reference.ReferencedSOPClassUID = RTStructureSetStorage
        reference.ReferencedSOPInstanceUID = plan.structure_set_uid
        dataset.ReferencedStructureSetSequence = Sequence([reference])
    else:
        dataset.RTPlanGeometry = "TREATMENT_DEVICE"
    if plan.prescriptions:
        dataset.DoseReferenceSequence = Sequence(_dose_references(plan))
    setup = Dataset()
    setup.PatientSetupNumber = 1
    setup.PatientPosition = plan.patient_position
    dataset.PatientSetupSequence = Sequence([setup])
    metersets = {beam.number: _total_weight(beam) for beam in beams}
    dataset.FractionGroupSequence = Sequence(_fraction_groups(plan, metersets))
    dataset.IonBeamSequence = Sequence(_beam_item(b, metersets[b.number], source_distance_mm) for b in beams)
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _total_weight(beam: ProtonBeam) -> str:
    """The beam's meterset in MU as the spot weights, rounded to float32, add up to."""
    return decimals([beam.spot_mu.astype(np.float32).sum(dtype=np.float64)])[0]


def _dose_references(plan: Plan) -> Iterator[Dataset]:
    for index, prescription in enumerate(plan.prescriptions, 1):
        item = Dataset()
        item.DoseReferenceNumber = index
        item.DoseReferenceStructureType = "VOLUME"
        item.ReferencedROINumber = prescription.roi_number
        item.DoseReferenceType = "TARGET"
        item.TargetPrescriptionDose = decimals([prescription.dose_gy])[0]
        yield item


def _fraction_groups(plan: Plan, metersets: dict[int, str]) -> Iterator[Dataset]:
    for group_number in dict.fromkeys(beam.fraction_group for beam in plan.proton_beams):
        beams = [beam for beam in plan.proton_beams if beam.fraction_group == group_number]
        fractions = {beam.fractions for beam in beams}
        if len(fractions) > 1:
            raise PlanError(
                f"plan '{plan.label}': beams of fraction group {group_number} are given in {sorted(fractions)} "
                "fractions; expected one number"
            )
        group = Dataset()
        group.FractionGroupNumber = group_number
        group.NumberOfFractionsPlanned = beams[0].fractions
        group.NumberOfBeams = len(beams)
        group.NumberOfBrachyApplicationSetups = 0
        group.ReferencedBeamSequence = Sequence()
        for beam in beams:
            reference = Dataset()
            reference.BeamMeterset = metersets[beam.number]
            reference.ReferencedBeamNumber = beam.number
            group.ReferencedBeamSequence.append(reference)
        yield group


def _beam_item(beam: ProtonBeam, meterset: str, source_distance_mm: tuple[float, float]) -> Dataset:
    item = Dataset()
    item.TreatmentMachineName = beam.machine
    item.PrimaryDosimeterUnit = "MU"
    item.BeamNumber = beam.number
    item.BeamName = beam.name
    item.BeamType = "STATIC"
    item.RadiationType = "PROTON"
    item.TreatmentDeliveryType = "TREATMENT"
    for keyword in ("Wedges", "Compensators", "Boli", "Blocks", "LateralSpreadingDevices", "RangeModulators"):
        setattr(item, f"NumberOf{keyword}", 0)
    item.FinalCumulativeMetersetWeight = meterset
    item.ScanMode = "MODULATED"
    item.VirtualSourceAxisDistances = list(source_distance_mm)
    item.NumberOfRangeShifters = 0 if beam.range_shifter is None else 1
    if beam.range_shifter is not None:
        shifter = Dataset()
        shifter.RangeShifterNumber = 1
        shifter.RangeShifterID = beam.range_shifter.id
        shifter.RangeShifterType = "BINARY"
        item.RangeShifterSequence = Sequence([shifter])
    item.PatientSupportType = "TABLE"
    item.ReferencedPatientSetupNumber = 1
    item.IonControlPointSequence = Sequence(_control_points(beam, meterset))
    item.NumberOfControlPoints = len(item.IonControlPointSequence)
    return item


def _control_points(beam: ProtonBeam, meterset: str) -> Iterator[Dataset]:
    """Two control points per energy layer: its spots with their weights, and its end with weights of zero."""
    weight = beam.spot_mu.astype(np.float32)
    cumulative = np.concatenate([[0.0], np.cumsum(weight, dtype=np.float64)])
    edges = [0, *(np.flatnonzero(np.diff(beam.spot_energy_mev)) + 1), len(weight)]
    index = 0
    for start, end in pairwise(edges):
        for at, weights in ((start, weight[start:end]), (end, np.zeros(end - start, dtype=np.float32))):
            item = Dataset()
            item.ControlPointIndex = index
            item.CumulativeMetersetWeight = meterset if at == len(weight) else decimals([cumulative[at]])[0]
            item.NominalBeamEnergy = decimals([beam.spot_energy_mev[start]])[0]
            if index == 0:
                _set_geometry(item, beam)
            item.ScanSpotTuneID = "1"
            item.NumberOfScanSpotPositions = end - start
            item.ScanSpotPositionMap = beam.spot_uv_mm[start:end].astype(np.float32).ravel().tolist()
            item.ScanSpotMetersetWeights = weights.tolist()
            item.NumberOfPaintings = 1
            index += 1
            yield item


def _set_geometry(item: Dataset, beam: ProtonBeam) -> None:
    """What the first control point states for all."""
    item.GantryAngle = decimals([beam.gantry_deg])[0]
    item.GantryRotationDirection = _NONE
    item.BeamLimitingDeviceAngle = "0"
    item.BeamLimitingDeviceRotationDirection = _NONE
    item.PatientSupportAngle = decimals([beam.couch_deg])[0]
    item.PatientSupportRotationDirection = _NONE
    item.TableTopVerticalPosition = ""
    item.TableTopLongitudinalPosition = ""
    item.TableTopLateralPosition = ""
    item.TableTopPitchAngle = 0.0
    item.TableTopPitchRotationDirection = _NONE
    item.TableTopRollAngle = 0.0
    item.TableTopRollRotationDirection = _NONE
    item.GantryPitchAngle = 0.0
    item.GantryPitchRotationDirection = _NONE
    item.IsocenterPosition = decimals(beam.isocenter_mm)
    item.SnoutPosition = beam.snout_position_mm
    if beam.range_shifter is not None:
        item.RangeShifterSettingsSequence = Sequence([_shifter_setting(beam.range_shifter)])


def _shifter_setting(shifter: RangeShifter) -> Dataset:
    setting = Dataset()
    setting.ReferencedRangeShifterNumber = 1
    setting.RangeShifterSetting = "IN"
    setting.IsocenterToRangeShifterDistance = shifter.downstream_face_mm
    setting.RangeShifterWaterEquivalentThickness = shifter.wet_mm
    return setting

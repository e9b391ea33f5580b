"""Scanned proton beams of RT Ion Plans in (DICOM PS3.3 C.8.8.25)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from doseeng.dicom.plan_common import (
    ANGLE_TOLERANCE_DEG,
    METERSET_TOLERANCE,
    POSITION_TOLERANCE_MM,
    Delivery,
    constant,
    cumulative_meterset,
    per_control_point,
    refuse_accessories,
    refuse_ion_wedges,
    refuse_tilts,
)
from doseeng.dicom.tags import integer, items, number, numbers, required_integer, text
from doseeng.errors import Notice, PlanError
from doseeng.plan import ProtonBeam, RangeShifter

Array = npt.NDArray[np.float64]

SPOT_MODES: Final = frozenset({"STATIONARY", "LEAP"})
"""Modulated scan mode types that deliver discrete spots; LINEAR paints lines between them."""

REFUSED_ACCESSORIES: Final = {
    "IonBlockSequence": ("aperture or block", "BlockName"),
    "IonRangeCompensatorSequence": ("range compensator", "CompensatorID"),
    "RangeModulatorSequence": ("range modulator or ridge filter", "RangeModulatorID"),
    "ApplicatorSequence": ("applicator", "ApplicatorID"),
}

SHIFTER_SETTINGS: Final = (
    "RangeShifterSetting",
    "IsocenterToRangeShifterDistance",
    "RangeShifterWaterEquivalentThickness",
)


def proton_beam_from(delivery: Delivery) -> ProtonBeam:
    """The spots of one scanned proton beam, one fraction's meterset in MU, zero-weight spots left out.

    PlanError naming the beam for other particles, scattering, uniform, line or wobbled scanning, accessories, several
    range shifters, geometry that changes between control points, weights that are negative, not finite or contradict
    the cumulative meterset.
    """
    beam, where = delivery.beam, delivery.where
    _require_spot_scanning(beam, where)
    refuse_accessories(delivery, REFUSED_ACCESSORIES)
    control_points = items(beam, "IonControlPointSequence")
    cumulative = cumulative_meterset(control_points, beam, where)
    refuse_ion_wedges(delivery, control_points)
    _refuse_scatterers(beam, control_points, where)
    for control_point in control_points:
        refuse_tilts(control_point, where)

    def fixed(keyword: str, width: int, tolerance: float) -> Array:
        return constant(per_control_point(control_points, keyword, width, where), keyword, tolerance, where)

    x, y, z = fixed("IsocenterPosition", 3, POSITION_TOLERANCE_MM)
    uv, energy, mu = _spots(delivery, control_points, cumulative)
    return ProtonBeam(
        number=delivery.number,
        name=delivery.name,
        machine=text(beam, "TreatmentMachineName"),
        isocenter_mm=(float(x), float(y), float(z)),
        gantry_deg=float(fixed("GantryAngle", 1, ANGLE_TOLERANCE_DEG)[0]),
        couch_deg=float(fixed("PatientSupportAngle", 1, ANGLE_TOLERANCE_DEG)[0]),
        spot_uv_mm=uv,
        spot_energy_mev=energy,
        spot_mu=mu,
        fractions=delivery.fractions,
        fraction_group=delivery.fraction_group,
        snout_position_mm=_snout_position(control_points, where),
        range_shifter=_range_shifter(beam, control_points, where),
    )


def spot_notices(delivery: Delivery, beam: ProtonBeam) -> Iterator[Notice]:
    """A notice when spots lie behind a jaw that the plan states (spots and jaws in the isocentre plane, mm).

    Jaws turn with the beam limiting device, spots do not: only jaws at angle 0 are compared.
    """
    first = items(delivery.beam, "IonControlPointSequence")[0]
    if number(first, "BeamLimitingDeviceAngle", delivery.where):
        return
    for item in items(first, "BeamLimitingDevicePositionSequence"):
        kind = text(item, "RTBeamLimitingDeviceType").upper()
        edges = numbers(item, "LeafJawPositions", delivery.where)
        if len(edges) == 2 and kind[-1:] in ("X", "Y"):
            across = beam.spot_uv_mm[:, "XY".index(kind[-1])]
            count = int(np.count_nonzero((across < edges[0]) | (across > edges[1])))
            if count:
                yield Notice(
                    "spot-behind-jaw", beam.name, f"{count} spots lie behind jaw {kind}, which is not modelled"
                )


def _require_spot_scanning(beam: Dataset, where: str) -> None:
    radiation = text(beam, "RadiationType").upper()
    if radiation != "PROTON":
        raise PlanError(
            f"{where}: is a beam of radiation type '{radiation}'; only PROTON is supported in an RT Ion Plan"
        )
    mode = text(beam, "ScanMode").upper()
    kind = text(beam, "ModulatedScanModeType").upper()
    if mode != "MODULATED" and not (mode == "MODULATED_SPEC" and kind in SPOT_MODES):
        named = f"{mode or 'not stated'} {kind}".strip()
        raise PlanError(
            f"{where}: scan mode is {named}; only spot scanning is supported (ScanMode MODULATED, or MODULATED_SPEC "
            "with STATIONARY or LEAP), not scattering, uniform, wobbled or line scanning"
        )
    support = text(beam, "PatientSupportType").upper()
    if support not in ("TABLE", ""):
        raise PlanError(f"{where}: patient support is '{support}'; only TABLE is supported")
    for device in items(beam, "IonBeamLimitingDeviceSequence"):
        if text(device, "RTBeamLimitingDeviceType").upper().startswith("MLC"):
            raise PlanError(f"{where}: uses a multileaf collimator, which is not supported for protons")


def _refuse_scatterers(beam: Dataset, control_points: list[Dataset], where: str) -> None:
    """Scanning magnets are listed as lateral spreading devices too; only scatterers in the beam are refused."""
    out = {
        integer(setting, "ReferencedLateralSpreadingDeviceNumber", where)
        for setting in items(control_points[0], "LateralSpreadingDeviceSettingsSequence")
        if text(setting, "LateralSpreadingDeviceSetting").upper() == "OUT"
    }
    for device in items(beam, "LateralSpreadingDeviceSequence"):
        in_beam = integer(device, "LateralSpreadingDeviceNumber", where) not in out
        if text(device, "LateralSpreadingDeviceType").upper() == "SCATTERER" and in_beam:
            name = text(device, "LateralSpreadingDeviceID")
            raise PlanError(f"{where}: uses scatterer '{name}', which is not supported for scanned beams")


def _spots(delivery: Delivery, control_points: list[Dataset], cumulative: Array) -> tuple[Array, Array, Array]:
    """Positions (n, 2) mm, energies (n,) MeV and meterset (n,) MU of the spots with weight, in delivery order.

    The weights of a control point are delivered between it and the next; maps that are not repeated hold on.
    """
    where = delivery.where
    final = number(delivery.beam, "FinalCumulativeMetersetWeight", where) or 1.0
    energy = per_control_point(control_points, "NominalBeamEnergy", 1, where)[:, 0]
    share = np.diff(cumulative)
    uv, weight = np.empty((0, 2)), np.empty(0)
    parts: list[tuple[Array, Array, Array]] = []
    for index, control_point in enumerate(control_points[:-1]):
        at = f"{where}, control point {index}"
        positions = numbers(control_point, "ScanSpotPositionMap", at)
        stated = numbers(control_point, "ScanSpotMetersetWeights", at)
        if len(positions):
            _check_positions(control_point, positions, at)
            uv = positions.reshape(-1, 2)
        if len(stated):
            _check_weights(stated, at)
            weight = stated
        elif share[index] == 0.0:
            continue
        if len(uv) != len(weight):
            raise PlanError(f"{at}: has {len(uv)} spot positions but {len(weight)} spot weights")
        if abs(weight.sum() / final - share[index]) > METERSET_TOLERANCE:
            raise PlanError(
                f"{at}: its spot weights sum to {weight.sum():g}, the cumulative meterset weight rises by "
                f"{share[index] * final:g}; export the plan again"
            )
        given = weight != 0.0
        parts.append((uv[given], np.full(np.count_nonzero(given), energy[index]), weight[given]))
    if not parts:
        raise PlanError(f"{where}: has no spots with weight; expected ScanSpotPositionMap and ScanSpotMetersetWeights")
    mu = np.concatenate([p[2] for p in parts]) * (delivery.meterset_mu / final)
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), mu


def _check_positions(control_point: Dataset, positions: Array, where: str) -> None:
    count = integer(control_point, "NumberOfScanSpotPositions", where)
    if len(positions) % 2 or (count is not None and len(positions) != 2 * count):
        raise PlanError(
            f"{where}: ScanSpotPositionMap has {len(positions)} values; expected x and y of {count} spots "
            "(NumberOfScanSpotPositions)"
        )


def _check_weights(weight: Array, where: str) -> None:
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(bad):
        raise PlanError(f"{where}: spot {bad[0]} has a meterset weight of {weight[bad[0]]:g}; expected at least 0")


def _snout_position(control_points: list[Dataset], where: str) -> float | None:
    """Isocentre to the downstream side of the snout in mm, None when the plan does not say."""
    if len(numbers(control_points[0], "SnoutPosition", where)) == 0:
        return None
    values = per_control_point(control_points, "SnoutPosition", 1, where)
    return float(constant(values, "SnoutPosition", POSITION_TOLERANCE_MM, where)[0])


def _range_shifter(beam: Dataset, control_points: list[Dataset], where: str) -> RangeShifter | None:
    """The one range shifter in the beam, None without; its settings may not change between control points."""
    shifters = {required_integer(i, "RangeShifterNumber", where): i for i in items(beam, "RangeShifterSequence")}
    if not shifters:
        return None
    settings: dict[int, Dataset] = {}
    for control_point in control_points:
        for item in items(control_point, "RangeShifterSettingsSequence"):
            shifter_number = required_integer(item, "ReferencedRangeShifterNumber", where)
            first = settings.setdefault(shifter_number, item)
            if any(text(item, k) not in ("", text(first, k)) for k in SHIFTER_SETTINGS):
                raise PlanError(f"{where}: changes range shifter {shifter_number} between control points")
    in_beam: list[RangeShifter] = []
    for shifter_number, shifter in shifters.items():
        name = text(shifter, "RangeShifterID") or str(shifter_number)
        at = f"{where}, range shifter '{name}'"
        setting = settings.get(shifter_number)
        state = "" if setting is None else text(setting, "RangeShifterSetting").upper()
        if setting is None or state not in ("IN", "OUT"):
            raise PlanError(f"{at}: its setting is '{state}'; expected IN or OUT (RangeShifterSetting (300A,0362))")
        if state == "IN":
            in_beam.append(_shifter_in_beam(name, setting, at))
    if len(in_beam) > 1:
        names = ", ".join(f"'{s.id}'" for s in in_beam)
        raise PlanError(f"{where}: has {len(in_beam)} range shifters in the beam ({names}); only one is supported")
    return in_beam[0] if in_beam else None


def _shifter_in_beam(name: str, setting: Dataset, where: str) -> RangeShifter:
    wet = number(setting, "RangeShifterWaterEquivalentThickness", where)
    distance = number(setting, "IsocenterToRangeShifterDistance", where)
    if wet is None or wet <= 0:
        raise PlanError(
            f"{where}: its water-equivalent thickness is {wet}; expected a positive "
            "RangeShifterWaterEquivalentThickness (300A,0366) in mm: enter it in the planning system and export again"
        )
    if distance is None:
        raise PlanError(
            f"{where}: its position is missing; expected IsocenterToRangeShifterDistance (300A,0364), the distance in "
            "mm from the isocentre to its downstream edge: export the plan again with it"
        )
    return RangeShifter(name, wet, distance)

"""Quality gates of a day's registration (AAPM TG-132, Brock et al., Med Phys 44 (2017) e43, and beyond).

A failed gate makes the day UNEVALUABLE. Every gate has a limit of its name in gates.toml (`registration.gatesettings`).

    similarity-*             images agree better where the registration puts them than 10 mm beside it
    restart-*                a deformation that is pushed aside is found again
    folding, volume-change-*, inverse-consistency, bone-rigidity    tissue can undergo the deformation
    target-seen, path-seen   the field of view shows what the dose depends on
    tissue-overlap-dice, air-level, correction, residual, rotation    the image is one of this patient, in HU
    contour-*, landmark-*    where people have drawn on the day's image
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.case import Case
from doseeng.errors import RegistrationError, StructureError
from doseeng.grid import Grid, Volume
from doseeng.masks import mask, volume_cm3
from doseeng.structures import Structure, StructureSet
from doseeng.transforms import jacobian_determinant
from registration.contours import change
from registration.gatecoverage import beam_paths
from registration.gatemeasures import (
    AIR_MARGIN_MM,
    Comparison,
    Intensities,
    Mask,
    bone_deviation_mm,
    comparison,
    halved,
    halved_mask,
    intensities,
    inverse_error_mm,
)
from registration.gatesettings import GateLimits, read_limits
from registration.images import AIR_HU
from registration.result import DayRegistration, GateResult

TARGET_MARGIN_MM: Final = 15.0
ORGAN_MARGIN_MM: Final = 5.0
"""What is compared around a structure: its own border is most of what a cone-beam image shows of it."""
LOCAL_PERCENTILES: Final = (1.0, 99.0)
WHOLE_SHARE: Final = 0.95
"""A structure that the field of view cuts can only be drawn on the day as far as it is seen."""
LEAST_DICE_CM3: Final = 5.0
"""Dice of smaller structures tells their size more than how well they were found."""
BODY: Final = "body"
IMAGE: Final = "day's image"
_UNITS: Final = {"mm": "mm", "percent": "%", "hu": "HU", "deg": "deg"}
"""By the last word of a limit's key."""
_AT_LEAST: Final = ("folding", "target_seen_percent", "path_seen_percent", "tissue_overlap_dice", "contour_dice")
"""Limits from below; all others are from above."""
_LOOK: Final = "look at both images there: is it this patient, and does the deformation follow what is seen?"


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """Points of the same anatomy, (n, 3) mm each: on the planning CT, and on the day's image in its own frame."""

    planning_mm: npt.NDArray[np.float64]
    day_mm: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        planning, day = self.planning_mm.shape, self.day_mm.shape
        if planning != day or len(day) != 2 or day[1] != 3 or not len(self.day_mm):
            raise RegistrationError(f"landmarks must be two equal lists of points (n, 3), found {planning} and {day}")


@dataclass(frozen=True, slots=True, eq=False)
class _Region:
    """A structure of today. core: its voxels on the comparison grid; around: with what is compared around it.

    seen: share (0..1) of its volume in the field of view, NaN without contours.
    """

    name: str
    is_target: bool
    core: Mask
    around: Mask
    seen: float


def evaluate(
    registration: DayRegistration,
    case: Case,
    today: StructureSet,
    drawn: StructureSet | None = None,
    *,
    landmarks: Landmarks | None = None,
    organs: Collection[str] | None = None,
    limits: GateLimits | None = None,
) -> tuple[GateResult, ...]:
    """All gates of a registration; those of organs, beams and bones that the day does not show are left out.

    case: the planned one. today: its structures on today's anatomy, treatment frame. drawn: structures that a person
    drew on the day's image, in its frame, compared by name. organs: names of those that are looked at besides targets;
    without, all of kind ORGAN. limits: without, the shipped ones.
    """
    held = limits or read_limits()
    images, levels = comparison(registration), intensities(registration, today)
    drawn_numbers = {structure.number for structure in case.structures.structures if not structure.is_empty}
    planned = tuple(structure for structure in today.structures if structure.number in drawn_numbers)
    regions = _regions(planned, images, organs, registration.seen)
    found = [
        *_similarity_gates(images, regions, halved_mask(levels.body), held),
        *_field_gates(registration, regions, levels.body, held),
        *_seen_gates(case, regions, images, levels, held),
        *_image_gates(registration, levels, held),
    ]
    if drawn is not None:
        found += _contour_gates(registration, case, today, drawn, held)
    if landmarks is not None:
        found += _landmark_gates(registration, landmarks, held)
    return tuple(found)


def _gate(limits: GateLimits, key: str, where: str, value: float, said: str, advice: str) -> GateResult:
    """The gate of a limit. said: what was found; advice: what to do when it fails."""
    limit, last = float(getattr(limits, key)), key.rsplit("_", 1)[-1]
    unit = _UNITS.get(last, "")
    name = (key.removesuffix(f"_{last}") if unit else key).replace("_", "-")
    is_floor = key in _AT_LEAST
    passed = bool(value >= limit if is_floor else value <= limit)
    if not passed and np.isnan(value):
        said = f"could not be measured; {advice}"
    elif not passed:
        said = f"{said} ({'at least' if is_floor else 'at most'} {f'{limit:g} {unit}'.strip()} is trusted); {advice}"
    return GateResult(name, where, float(value), limit, unit, passed, said, ">=" if is_floor else "<=")


def _regions(
    planned: Sequence[Structure], images: Comparison, organs: Collection[str] | None, seen: Volume
) -> list[_Region]:
    """Of today's structures those that the plan has contours of: what was empty already is no finding."""
    found = []
    for structure in planned:
        is_asked = structure.kind.upper() == "ORGAN" if organs is None else structure.name in organs
        is_organ = is_asked and structure.kind.upper() != "EXTERNAL" and not structure.is_empty
        if structure.is_target or is_organ:
            core = _mask(structure, images.grid)
            margin_mm = TARGET_MARGIN_MM if structure.is_target else ORGAN_MARGIN_MM
            around = images.grown(core, margin_mm)
            found.append(_Region(structure.name, structure.is_target, core, around, _seen_share(structure, seen)))
    return found


def _seen_share(structure: Structure, seen: Volume) -> float:
    """What lies outside the grid is not seen either."""
    try:
        inside, whole = mask(structure, seen.grid).values, volume_cm3(structure)
    except StructureError:
        return np.nan
    shown = float((inside * seen.values).sum(dtype=np.float64)) * seen.grid.voxel_volume_cm3
    return min(shown / whole, 1.0)


def _mask(structure: Structure, grid: Grid) -> Mask:
    """Voxels of a structure; none of one without usable contours, which is a finding and no error here."""
    try:
        return mask(structure, grid).values > 0.5
    except StructureError:
        return np.zeros(grid.shape, dtype=bool)


def _similarity_gates(
    images: Comparison, regions: list[_Region], body: Mask, limits: GateLimits
) -> Iterator[GateResult]:
    """Whether the images agree where the registration says, in every structure and in the whole body."""
    for region in regions:
        if region.is_target or images.is_known(region.around):
            key = "similarity_target" if region.is_target else "similarity_organ"
            yield _similarity_gate(images, region.around, region.name, key, limits)
            restart = "restart_target_mm" if region.is_target else "restart_organ_mm"
            yield _restart_gate(images, region.around, region.name, restart, limits)
    yield _similarity_gate(images, body, BODY, "similarity_body", limits)
    yield _restart_gate(images, body, BODY, "restart_body_mm", limits)


def _similarity_gate(images: Comparison, region: Mask, where: str, key: str, limits: GateLimits) -> GateResult:
    value = images.relative_mismatch(region)
    said = f"here the images disagree {value:.2f} times as much as 10 mm beside the registered position"
    return _gate(limits, key, where, value, said, _LOOK)


def _restart_gate(images: Comparison, region: Mask, where: str, key: str, limits: GateLimits) -> GateResult:
    value = images.restart_error_mm(region)
    said = f"pushed aside and found again, the deformation comes back within {value:.1f} mm (95 % of the voxels)"
    return _gate(limits, key, where, value, said, _LOOK)


def _field_gates(
    registration: DayRegistration, regions: list[_Region], body: Mask, limits: GateLimits
) -> Iterator[GateResult]:
    """Whether tissue can undergo the deformation."""
    ratios = jacobian_determinant(registration.pullback).values
    inside = ratios[body] if body.any() else np.full(1, np.nan)
    smallest = float(inside.min())
    said, advice = f"the smallest local volume ratio is {smallest:.2f}", "the deformation folds; register again"
    yield _gate(limits, "folding", BODY, smallest, said, advice)
    low, high = np.percentile(inside, LOCAL_PERCENTILES)
    local = _factor(float(low), float(high))
    said = f"98 % of the body keep their volume within a factor of {local:.2f}"
    yield _gate(limits, "volume_change_local", BODY, local, said, "look whether such a swelling or shrinking is seen")
    coarse = halved(ratios)
    for region in regions:
        if region.core.any():
            ratio = float(coarse[region.core].mean())
            changed = _factor(ratio, ratio)
            said = f"the structure's volume has changed by a factor of {changed:.2f}"
            yield _gate(limits, "volume_change_organ", region.name, changed, said, "look at its propagated contours")
    error = inverse_error_mm(registration, body)
    said = f"there and back again, a point of the body is up to {error:.2f} mm off"
    yield _gate(limits, "inverse_consistency_mm", BODY, error, said, "the deformation has no way back; register again")
    bone = bone_deviation_mm(registration)
    if bone is not None:
        said = f"the bone that bends most bends by {bone:.1f} mm (root mean square)"
        yield _gate(limits, "bone_rigidity_mm", "bones", bone, said, "no bone does; look at the deformation there")


def _factor(low: float, high: float) -> float:
    """The largest change of volume, up or down, as a factor of at least 1; infinite where volume is lost."""
    return max(high, 1.0 / low) if low > 0.0 else (np.nan if np.isnan(low) else np.inf)


def _seen_gates(
    case: Case, regions: list[_Region], images: Comparison, levels: Intensities, limits: GateLimits
) -> Iterator[GateResult]:
    """Whether the field of view shows what the dose depends on."""
    targets = [region for region in regions if region.is_target]
    known = halved_mask(levels.known)
    for region in targets:
        share = 100.0 * region.seen
        said = f"{share:.1f} % of the target lies in the field of view"
        yield _gate(limits, "target_seen_percent", region.name, share, said, "scan again with the target in view")
    every = np.logical_or.reduce([region.core for region in targets]) if targets else np.zeros(known.shape, bool)
    if not every.any():
        advice = "check that the target has contours, and that it was propagated"
        yield _gate(limits, "target_seen_percent", "all targets", np.nan, "", advice)
        return
    body = halved_mask(levels.body)
    for path in beam_paths(case.plan, every, body, known, halved(levels.planned), images.grid):
        share = 100.0 * path.seen
        said = f"{share:.0f} % of the water-equivalent way to the target lies in the field of view"
        yield _gate(limits, "path_seen_percent", path.beam, share, said, "scan again with a larger field of view")
        if images.is_known(path.region):
            yield _restart_gate(images, path.region, path.beam, "restart_path_mm", limits)


def _image_gates(registration: DayRegistration, levels: Intensities, limits: GateLimits) -> Iterator[GateResult]:
    """Whether the image is one of this patient, in Hounsfield units."""
    overlap = levels.tissue_overlap
    said = f"tissue of the day and of the deformed planning CT overlap with a Dice coefficient of {overlap:.3f}"
    yield _gate(limits, "tissue_overlap_dice", IMAGE, overlap, said, "is it this patient, and this body region?")
    if levels.air_hu is not None:
        off = abs(levels.air_hu - AIR_HU)
        said = f"air {AIR_MARGIN_MM:g} mm beside the patient has {levels.air_hu:.0f} HU, {off:.0f} HU off"
        yield _gate(limits, "air_level_hu", IMAGE, off, said, "check the scanner's HU calibration and the export")
    size, residual = levels.correction_hu, abs(levels.residual_hu)
    said = f"soft tissue is corrected by up to {size:.0f} HU"
    yield _gate(limits, "correction_hu", IMAGE, size, said, "check the scanner's HU calibration and the export")
    said = f"after correction soft tissue is {residual:.0f} HU off"
    yield _gate(limits, "residual_hu", IMAGE, residual, said, "the image shows other tissue than the planning CT")
    angle = registration.rigid.angle_deg
    said = f"the patient lies turned by {angle:.1f} degrees"
    advice = "no setup error is so large: check the patient position and the orientation of the image"
    yield _gate(limits, "rotation_deg", IMAGE, angle, said, advice)


def _contour_gates(
    registration: DayRegistration, case: Case, today: StructureSet, drawn: StructureSet, limits: GateLimits
) -> Iterator[GateResult]:
    """How well propagated contours agree with those that a person drew on the day, by name."""
    slice_mm, advice = (
        case.ct.grid.spacing_mm[2],
        "look at both contours: is the deformation wrong there, or one of them?",
    )
    for own in drawn.structures:
        found = next((s for s in today.structures if s.name == own.name), None)
        if found is None or own.is_empty or own.kind.upper() == "EXTERNAL" or not _is_whole(found, registration):
            continue
        there = Structure(own.number, own.name, own.kind, tuple(registration.couch.apply(c) for c in own.contours))
        try:
            differs = change(found, there, slice_mm)
        except StructureError as error:
            yield _gate(limits, "contour_distance_mm", own.name, np.nan, "", str(error))
            continue
        distance = differs.mean_surface_mm
        said = f"propagated and drawn contour are {distance:.1f} mm apart on average"
        yield _gate(limits, "contour_distance_mm", own.name, distance, said, advice)
        if min(differs.planned_cm3, differs.today_cm3) >= LEAST_DICE_CM3:
            said = f"propagated and drawn contour overlap with a Dice coefficient of {differs.dice:.2f}"
            yield _gate(limits, "contour_dice", own.name, differs.dice, said, advice)


def _is_whole(structure: Structure, registration: DayRegistration) -> bool:
    """Whether the day shows (nearly) all of a structure; an empty one is compared, and found missing."""
    inside = _mask(structure, registration.seen.grid)
    return not inside.any() or float(registration.seen.values[inside].mean()) >= WHOLE_SHARE


def _landmark_gates(registration: DayRegistration, landmarks: Landmarks, limits: GateLimits) -> Iterator[GateResult]:
    there = registration.pullback.apply(registration.couch.apply(landmarks.day_mm))
    error = np.linalg.norm(there - landmarks.planning_mm, axis=1)
    advice = "look at the landmarks on both images"
    said = f"{len(error)} landmarks are {error.mean():.1f} mm off on average"
    yield _gate(limits, "landmark_mean_mm", "landmarks", float(error.mean()), said, advice)
    said = f"the worst of {len(error)} landmarks is {error.max():.1f} mm off"
    yield _gate(limits, "landmark_max_mm", "landmarks", float(error.max()), said, advice)

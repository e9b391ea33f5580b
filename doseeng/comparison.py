"""An independent dose against the planning system's: how well they agree, and why they might not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from doseeng.dose import Dose
from doseeng.engine import Prepared, single_beam_dose
from doseeng.errors import GeometryError, MetricError, Notice
from doseeng.gamma import gamma
from doseeng.gantry import start_deg, starting_at
from doseeng.grid import Volume, resample
from doseeng.photon import Algorithm, PhotonSettings
from doseeng.proton import ProtonSettings

DOSE_PERCENT: Final = 3.0
DISTANCE_MM: Final = 3.0
THRESHOLD_PERCENT: Final = 10.0
"""Criteria of an independent recalculation: 3 %/3 mm global, 10 % threshold (AAPM TG-218 uses 3 %/2 mm in water)."""
PASS_PERCENT: Final = 95.0
ACTION_PERCENT: Final = 90.0
"""Tolerance and action limits of the gamma pass rate (AAPM TG-218)."""
HIGH_DOSE: Final = 0.5
"""Mean ratios are taken above this share of the reference's maximum."""
TURNS_DEG: Final = (90.0, 180.0, 270.0)
"""Gantry angles that exports are known to confuse differ by quarter turns."""
COARSE: Final = ProtonSettings(pitch_mm=8.0, slice_mm=8.0)
COARSE_PHOTON: Final = PhotonSettings(Algorithm.PENCIL, pitch_mm=8.0, slice_mm=8.0)
"""Rays and slices 4 mm apart or more: 2 % off, enough to tell quarter turns apart, in a third to half of the time."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Computed against reference dose. what: "plan" or the beam. mean_ratio: computed / reference above HIGH_DOSE.

    gamma_percent: pass rate at DOSE_PERCENT / DISTANCE_MM; points: how many reference voxels were judged.
    reference_max_gy, computed_max_gy: largest values of both on the dose grid.
    """

    what: str
    gamma_percent: float
    points: int
    mean_ratio: float
    reference_max_gy: float
    computed_max_gy: float


@dataclass(frozen=True, slots=True, eq=False)
class TurnedBeam:
    """The dose of a beam at another gantry angle than the plan's; of an arc, gantry_deg is where it starts."""

    gantry_deg: float
    dose: Dose


def compare(what: str, reference: Dose, computed: Dose) -> Comparison:
    """Gamma and mean ratio of two absolute doses of one kind, nothing normalised.

    MetricError when one is physical and the other RBE-weighted, or when the reference holds no dose.
    """
    if reference.quantity is not computed.quantity:
        raise MetricError(f"{what}: the reference is {reference.quantity} dose, the computed one {computed.quantity}")
    highest = float(reference.volume.values.max())
    if highest <= 0.0:
        raise MetricError(f"{what}: the reference dose is zero everywhere")
    result = gamma(
        reference.volume,
        computed.volume,
        dose_percent=DOSE_PERCENT,
        distance_mm=DISTANCE_MM,
        threshold_percent=THRESHOLD_PERCENT,
    )
    on_reference = resample(computed.volume, reference.volume.grid, 0.0).values
    high = reference.volume.values > HIGH_DOSE * highest
    ratio = float(on_reference[high].sum(dtype=np.float64) / reference.volume.values[high].sum(dtype=np.float64))
    return Comparison(
        what, result.pass_rate_percent, result.n_points, ratio, highest, float(computed.volume.values.max())
    )


def compare_with_case(
    prepared: Prepared, progress: Callable[[int, int], None] | None = None
) -> tuple[Dose, tuple[Comparison, ...], tuple[Notice, ...]]:
    """The nominal dose, its comparison with every plan and beam dose of the case, and notices on what does not fit.

    Where a dose disagrees beyond the action limit, quarter turns of the gantry are tried: a dose that fits a turned
    gantry was computed for another geometry than the plan says, and the notice names it. Doses that nothing can be
    compared with (of fractions, of the other kind, of zero) become notices too.
    """
    steps = len(prepared.beams) + len(prepared.case.doses)
    tell = progress or (lambda _done, _total: None)
    beams: dict[int, Dose] = {}
    for i, beam in enumerate(prepared.beams):
        tell(i, steps)
        beams[beam.number] = single_beam_dose(prepared, i)
    found, notices = [], []
    turned: dict[int, TurnedBeam] = {}
    # Beam doses first: they tell which way each beam was turned, which a symmetric plan dose cannot.
    for i, reference in enumerate(sorted(prepared.case.doses, key=lambda dose: dose.summation == "PLAN")):
        tell(len(beams) + i, steps)
        what = _label(prepared, reference)
        numbers = _beams_of(prepared, reference)
        if not numbers:
            text = f"a dose of summation type '{reference.summation}' is neither of the plan nor of beams it has"
            notices.append(Notice("dose-not-compared", what, text))
            continue
        try:
            comparison = compare(what, reference, _sum_of(prepared, [beams[n] for n in numbers]))
        except MetricError as error:
            notices.append(Notice("dose-not-compared", what, str(error)))
            continue
        found.append(comparison)
        if comparison.gamma_percent < ACTION_PERCENT:
            notices.append(_explanation(prepared, reference, numbers, comparison, turned))
    return _sum_of(prepared, list(beams.values())), tuple(found), tuple(notices)


def _label(prepared: Prepared, reference: Dose) -> str:
    if not reference.beam_numbers:
        return reference.summation.lower()
    names = {b.number: b.name for b in prepared.beams}
    return "beam " + ", ".join(f"{n} '{names.get(n, '?')}'" for n in reference.beam_numbers)


def _beams_of(prepared: Prepared, reference: Dose) -> tuple[int, ...]:
    """Numbers of the beams that a dose is the sum of; () when they cannot be told."""
    planned = tuple(b.number for b in prepared.beams)
    if reference.summation == "PLAN":
        return planned
    is_known = reference.summation == "BEAM" and set(reference.beam_numbers) <= set(planned)
    return reference.beam_numbers if is_known else ()


def _sum_of(prepared: Prepared, beams: Sequence[Dose]) -> Dose:
    values = np.zeros(prepared.grid.shape, dtype=np.float32)
    for beam in beams:
        values += beam.volume.values
    return replace(beams[0], volume=Volume(prepared.grid, values), summation="PLAN", beam_numbers=())


def _explanation(
    prepared: Prepared, reference: Dose, numbers: tuple[int, ...], found: Comparison, turned: dict[int, TurnedBeam]
) -> Notice:
    """What a dose that disagrees was computed for; beams whose turn is found go into `turned`, for the plan's sum."""
    what = f"gamma {found.gamma_percent:.1f} % at {DOSE_PERCENT:g} %/{DISTANCE_MM:g} mm"
    known = all(n in turned for n in numbers)
    tried = {n: turned[n] for n in numbers} if known else _nearest_turn(prepared, reference, numbers)
    if tried:
        rate = compare(found.what, reference, _sum_of(prepared, [t.dose for t in tried.values()])).gamma_percent
        if rate >= ACTION_PERCENT:
            turned.update(tried)
            planned = " / ".join(f"{start_deg(b):g}" for b in prepared.beams if b.number in tried)
            fitting = " / ".join(f"{tried[b.number].gantry_deg:g}" for b in prepared.beams if b.number in tried)
            text = (
                f"{what}, but {rate:.1f} % with the gantry at {fitting} degrees instead of the plan's {planned}: "
                "this dose was computed for another geometry than the plan states; do not use them together"
            )
            return Notice("plan-dose-mismatch", found.what, text)
    text = f"{what}; no quarter turn of the gantry explains it: check machine, HU table, overrides and plan version"
    return Notice("dose-disagrees", found.what, text)


def _nearest_turn(prepared: Prepared, reference: Dose, numbers: tuple[int, ...]) -> dict[int, TurnedBeam]:
    """The beams turned by the same quarter turn, the one that comes nearest to a dose; {} when all miss the patient."""
    coarse = replace(prepared, settings=replace(prepared.settings, proton=COARSE, photon=COARSE_PHOTON))
    differences = {}
    for turn_deg in TURNS_DEG:
        try:
            doses = [t.dose for t in _turned(coarse, numbers, turn_deg).values()]
        except GeometryError:
            continue
        differences[turn_deg] = _rms_difference_gy(reference, _sum_of(prepared, doses))
    return _turned(prepared, numbers, min(differences, key=differences.__getitem__)) if differences else {}


def _turned(prepared: Prepared, numbers: tuple[int, ...], turn_deg: float) -> dict[int, TurnedBeam]:
    beams = tuple(starting_at(b, (start_deg(b) + turn_deg) % 360.0) for b in prepared.beams)
    other = replace(prepared, beams=beams)
    return {
        beam.number: TurnedBeam(start_deg(beam), single_beam_dose(other, i))
        for i, beam in enumerate(beams)
        if beam.number in numbers
    }


def _rms_difference_gy(reference: Dose, computed: Dose) -> float:
    delta = resample(computed.volume, reference.volume.grid, 0.0).values - reference.volume.values
    return float(np.sqrt(np.mean(delta**2, dtype=np.float64)))

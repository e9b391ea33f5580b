"""An independent dose against the planning system's: how well they agree, and why they might not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from doseeng.dose import Dose
from doseeng.engine import Prepared, scenario_dose, single_beam_dose
from doseeng.errors import MetricError, Notice
from doseeng.gamma import gamma
from doseeng.grid import Volume, resample

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

    When the plan dose disagrees beyond the action limit, quarter turns of the gantry are tried: a dose that fits turned
    angles was computed for another geometry than the plan says, and the notice names it.
    """
    steps = len(prepared.beams) + len(prepared.case.doses)
    tell = progress or (lambda _done, _total: None)
    beams = []
    for i in range(len(prepared.beams)):
        tell(i, steps)
        beams.append(single_beam_dose(prepared, i))
    total = _sum_of(prepared, beams)
    found, notices = [], []
    explained: dict[int, float] = {}
    # Beam doses first: they tell which way each beam was turned, which a symmetric plan dose cannot.
    for i, reference in enumerate(sorted(prepared.case.doses, key=lambda dose: dose.summation == "PLAN")):
        tell(len(prepared.beams) + i, steps)
        computed = _counterpart(prepared, reference, beams, total)
        if computed is None:
            text = f"a dose with summation type {reference.summation} was not compared"
            notices.append(Notice("dose-not-compared", reference.summation, text))
            continue
        what = "plan" if reference.summation == "PLAN" else _beam_label(prepared, reference)
        comparison = compare(what, reference, computed)
        found.append(comparison)
        if comparison.gamma_percent < ACTION_PERCENT:
            fitting = _fitting_angles(prepared, reference, explained)
            explained.update(fitting)
            notices.append(_explanation(prepared, reference, comparison, fitting))
    return total, tuple(found), tuple(notices)


def turned(prepared: Prepared, gantry_deg: dict[int, float]) -> Prepared:
    """The same case with other gantry angles, by beam number."""
    beams = tuple(replace(b, gantry_deg=gantry_deg.get(b.number, b.gantry_deg)) for b in prepared.beams)
    return replace(prepared, beams=beams)


def _sum_of(prepared: Prepared, beams: list[Dose]) -> Dose:
    values = np.zeros(prepared.grid.shape, dtype=np.float32)
    for beam in beams:
        values += beam.volume.values
    return replace(beams[0], volume=Volume(prepared.grid, values), summation="PLAN", beam_numbers=())


def _counterpart(prepared: Prepared, reference: Dose, beams: list[Dose], total: Dose) -> Dose | None:
    if reference.summation == "PLAN":
        return total
    wanted = [b for b in beams if set(b.beam_numbers) <= set(reference.beam_numbers)]
    if reference.summation == "BEAM" and len(wanted) == len(reference.beam_numbers) > 0:
        return _sum_of(prepared, wanted)
    return None


def _beam_label(prepared: Prepared, reference: Dose) -> str:
    names = {b.number: b.name for b in prepared.beams}
    return "beam " + ", ".join(f"{n} '{names.get(n, '?')}'" for n in reference.beam_numbers)


def _fitting_angles(prepared: Prepared, reference: Dose, explained: dict[int, float]) -> dict[int, float]:
    """Gantry angles, by beam number, that fit a dose better than the plan's; {} when no quarter turn does."""
    concerned = [b for b in prepared.beams if not reference.beam_numbers or b.number in reference.beam_numbers]
    candidates = [{b.number: (b.gantry_deg + turn) % 360.0 for b in concerned} for turn in TURNS_DEG]
    if all(b.number in explained for b in concerned):
        candidates.insert(0, {b.number: explained[b.number] for b in concerned})
    differences = [_difference(prepared, reference, angles) for angles in candidates]
    best = int(np.argmin(differences))
    return candidates[best] if differences[best] < _difference(prepared, reference, {}) else {}


def _explanation(prepared: Prepared, reference: Dose, found: Comparison, angles: dict[int, float]) -> Notice:
    what = f"gamma {found.gamma_percent:.1f} % at {DOSE_PERCENT:g} %/{DISTANCE_MM:g} mm"
    if angles:
        rate = compare(found.what, reference, _dose_of(turned(prepared, angles), reference)).gamma_percent
        if rate >= ACTION_PERCENT:
            planned = " / ".join(f"{b.gantry_deg:g}" for b in prepared.beams if b.number in angles)
            fitting = " / ".join(f"{angle:g}" for angle in angles.values())
            text = (
                f"{what}, but {rate:.1f} % with the gantry at {fitting} degrees instead of the plan's {planned}: "
                "this dose was computed for another geometry than the plan states; do not use them together"
            )
            return Notice("plan-dose-mismatch", found.what, text)
    text = f"{what}; no quarter turn of the gantry explains it: check machine, HU table, overrides and plan version"
    return Notice("dose-disagrees", found.what, text)


def _dose_of(prepared: Prepared, reference: Dose) -> Dose:
    if not reference.beam_numbers:
        return scenario_dose(prepared)
    chosen = [i for i, b in enumerate(prepared.beams) if b.number in reference.beam_numbers]
    return _sum_of(prepared, [single_beam_dose(prepared, i) for i in chosen])


def _difference(prepared: Prepared, reference: Dose, angles: dict[int, float]) -> float:
    """Root mean square difference on the reference grid; quick to tell geometries apart."""
    computed = _dose_of(turned(prepared, angles), reference)
    delta = resample(computed.volume, reference.volume.grid, 0.0).values - reference.volume.values
    return float(np.sqrt(np.mean(delta**2, dtype=np.float64)))

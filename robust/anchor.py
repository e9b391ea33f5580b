"""Scenario doses anchored to a reference: what the clinic's Monte Carlo computed, changed as the own engine says.

    dose(scenario) = reference + (own(scenario) - own(nominal))

The own engine's error is nearly the same in all scenarios of a plan, so it cancels in the bracket; the nominal dose is
the reference itself. Where the range changes, the error moves with the distal edges (`robust.carry`):

    dose(scenario) = own(scenario) + carried(reference - own(nominal))

which is the same as above without a range error. Photons have no distal edge: an error of density leaves the error of
their dose where it is. The statistical noise of the reference is part of every scenario, the
same noise each time: spread over scenarios does not grow by it, and the lowest and highest doses keep it.

It must not be used with a reference of another plan or on another anatomy, and it does not repair an engine that is
grossly wrong: `usable_reference` raises for what the data say, `disagreement` is the gate for what the doses say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

import doseeng
from doseeng.comparison import ACTION_PERCENT, DISTANCE_MM, DOSE_PERCENT, HIGH_DOSE, PASS_PERCENT, Comparison
from doseeng.dose import Dose, Quantity
from doseeng.engine import RBE
from doseeng.errors import DicomError, GeometryError, MetricError, Notice
from doseeng.plan import Plan
from doseeng.scenario import Modality, Scenario

Float32 = npt.NDArray[np.float32]

FORMULA: Final = "reference dose + (own scenario dose - own nominal dose)"
RATIO_TOLERANCE: Final = 0.05
"""Largest deviation of the mean ratio from 1: dose differences between scenarios are wrong by the same share, and no
uncertainty of a commissioned machine explains more (constant RBE is 10 %, one fraction of a course far more)."""
SAME_RATIO: Final = 0.03
"""A mean ratio this near to a known factor is taken for it when a disagreement is explained."""
CUT_OFF: Final = 0.9
"""Dose on the outer faces of its grid above this share of the maximum: the high-dose region goes on outside."""
CLIPPED_NOTICE_PERCENT: Final = 0.5
"""Negative dose set to zero, in percent of all dose, from which it is named; 13 mm of shift in lung clip 0.1 %."""
FAR_MM: Final = 10.0
"""Setup errors up to 7 mm in lung left an error of 1.5 times the Monte Carlo noise, 13 mm left 1.9 times
(`benchmarks.anchoring`); beyond this the scenarios are named."""
DIGEST_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class Anchoring:
    """What scenario doses are anchored to, for results and reports.

    uid: SOP Instance UID of the RTDOSE. sha256: of its values in Gy (float32) as stored. weighted_by: what they were
    multiplied with to be of the evaluated quantity (1: nothing). gamma_percent, points, mean_ratio: the own nominal
    dose against the reference (`doseeng.comparison`). is_used: False when it was refused for a gross disagreement.
    clipped_percent: negative dose set to zero, percent of all dose, in the scenario clipped_in where it is most.
    is_carried: range errors carry the difference of the nominal doses along the beams (protons).
    """

    uid: str
    sha256: str
    weighted_by: float
    gamma_percent: float
    points: int
    mean_ratio: float
    is_used: bool = True
    clipped_percent: float = 0.0
    clipped_in: str = ""
    is_carried: bool = True

    def __str__(self) -> str:
        known = f"RTDOSE {self.uid or 'without UID'} (sha256 {self.sha256[:DIGEST_SHOWN]})"
        agrees = (
            f"gamma {self.gamma_percent:.1f} % at {DOSE_PERCENT:g} %/{DISTANCE_MM:g} mm, mean ratio "
            f"{self.mean_ratio:.3f}"
        )
        if not self.is_used:
            return f"Not anchored to {known}: the engine's nominal dose, which is shown, disagrees with it ({agrees})."
        weighted = f" times {self.weighted_by:g} (constant RBE)" if self.weighted_by != 1.0 else ""
        clipped = (
            f" Negative dose set to zero: at most {self.clipped_percent:.2f} % of all dose, in '{self.clipped_in}'."
            if self.clipped_in
            else ""
        )
        carried = "; range errors carry the difference of the nominal doses along the beams" if self.is_carried else ""
        return (
            f"Scenario doses are anchored to {known}{weighted}: {FORMULA}{carried}. The engine's nominal dose against "
            f"the reference: {agrees}. The nominal dose shown is the reference; its statistical noise is the same in "
            f"every scenario.{clipped}"
        )


@dataclass(slots=True, eq=False)
class AnchoredDoses:
    """A function from scenarios to anchored doses. clipped_percent: what was set to zero in each, percent of all."""

    reference: Dose
    own: Callable[[Scenario], Dose]
    error: Callable[[float], Float32]
    clipped_percent: dict[str, float] = field(default_factory=dict)

    def __call__(self, scenario: Scenario) -> Dose:
        """The anchored dose of a scenario; the reference itself in the nominal one."""
        if scenario.is_nominal:
            return self.reference
        values = self.own(scenario).volume.values + self.error(scenario.rsp_scale)
        below = -float(np.minimum(values, 0.0).sum(dtype=np.float64))
        np.maximum(values, 0.0, out=values)
        total = float(values.sum(dtype=np.float64))
        self.clipped_percent[scenario.name] = 100.0 * below / total if total > 0.0 else 0.0
        return replace(self.reference, volume=replace(self.reference.volume, values=values))


def anchored(
    reference: Dose, own: Callable[[Scenario], Dose], error: Callable[[float], Float32], label: str = ""
) -> AnchoredDoses:
    """Scenario doses anchored to `reference`, on its grid.

    own: the engine's dose of a scenario, on the grid of the reference, of its quantity. error: reference minus own
    nominal dose, as a range scale carries it (`robust.carry.error_carrier`; for photons as it is). label: names the
    reference in the comment of the doses; they are new objects and carry no UID of the reference.
    """
    comment = f"doseeng {doseeng.__version__}: anchored to RTDOSE {label}".rstrip()
    return AnchoredDoses(replace(reference, uid="", comment=comment), own, error)


def usable_reference(reference: Dose, plan: Plan, quantity: Quantity) -> tuple[Dose, float]:
    """The reference in the evaluated quantity, and the factor that took; an error when it cannot be an anchor.

    Physical dose becomes RBE-weighted by the constant 1.1 (ICRU Report 78), which is how the engine weights; the other
    way round is refused, because a weighted dose does not say by which model it was weighted. DicomError: of another
    plan or of several, not summed over the plan, not finite, zero. GeometryError: its grid cuts the high dose off.
    MetricError: of a quantity that cannot be converted.
    """
    if reference.plan_uid != plan.uid:
        found = f"of plan {reference.plan_uid}" if reference.plan_uid else "of no plan, or of several"
        raise DicomError(
            f"the anchor is a dose {found}; expected plan '{plan.label}' ({plan.uid}): export the dose of this plan"
        )
    if reference.summation != "PLAN":
        raise DicomError(
            f"the anchor has Dose Summation Type '{reference.summation}', expected PLAN: give the dose of the whole "
            "course of all beams"
        )
    values = reference.volume.values
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise DicomError(f"{bad} of {values.size} voxels of the anchor are NaN or infinite; export the dose again")
    highest = float(values.max())
    if highest <= 0.0:
        raise DicomError(f"the anchor holds no dose (highest value {highest:g} Gy); export the dose again")
    edge = max(float(np.take(values, i, axis=axis).max()) for axis in range(3) for i in (0, -1))
    if edge >= CUT_OFF * highest:
        raise GeometryError(
            f"the anchor's grid cuts its high dose off: {edge:.2f} Gy on its outer faces, {highest:.2f} Gy at most; "
            "export the dose on a grid that holds all of it"
        )
    if reference.quantity is quantity:
        return reference, 1.0
    if quantity is Quantity.PHYSICAL:
        raise MetricError(
            "the anchor is RBE-weighted by a model it does not name, but physical dose is evaluated; give the "
            "physical dose of the same plan"
        )
    weighted = replace(reference.volume, values=values * np.float32(RBE))
    return replace(reference, volume=weighted, quantity=quantity), RBE


def disagreement(
    found: Comparison, fractions: int, modality: Modality
) -> tuple[tuple[Notice, ...], tuple[Notice, ...]]:
    """(gates, notices) on the engine's nominal dose against the anchor; a gate means: do not anchor.

    Below the action limit of gamma, or with a mean ratio off by more than RATIO_TOLERANCE, the two doses are not of
    the same delivery to the same anatomy, and the change that the engine computes is not the reference's change.
    """
    text = (
        f"engine's nominal dose against the anchor: gamma {found.gamma_percent:.1f} % at {DOSE_PERCENT:g} %/"
        f"{DISTANCE_MM:g} mm over {found.points} points, mean ratio {found.mean_ratio:.3f} above "
        f"{100 * HIGH_DOSE:g} % of the maximum"
    )
    if found.gamma_percent < ACTION_PERCENT or abs(found.mean_ratio - 1.0) > RATIO_TOLERANCE:
        needed = f"needed: {ACTION_PERCENT:g} % and {1 - RATIO_TOLERANCE:g} to {1 + RATIO_TOLERANCE:g}"
        message = f"{text} ({needed}); no scenario was computed. {_cause(found.mean_ratio, fractions, modality)}"
        return (Notice("anchor-disagrees", "plan", message),), ()
    code = "anchor-compared" if found.gamma_percent >= PASS_PERCENT else "anchor-agrees-weakly"
    return (), (Notice(code, "plan", text),)


def clipping_notices(clipped_percent: dict[str, float]) -> tuple[Notice, ...]:
    """A notice for the scenario in which most negative dose was set to zero, when that is not negligible."""
    worst = max(clipped_percent, key=clipped_percent.__getitem__, default="")
    if not worst or clipped_percent[worst] < CLIPPED_NOTICE_PERCENT:
        return ()
    message = (
        f"anchored dose was negative and set to zero, {clipped_percent[worst]:.2f} % of all dose: the scenario is too "
        "far from the nominal one, or the engine too far from the anchor, for their difference to be trusted there"
    )
    return (Notice("anchored-dose-clipped", worst, message),)


def reach_notices(scenarios: tuple[Scenario, ...], modality: Modality) -> tuple[Notice, ...]:
    """A notice when setup errors are larger than those that anchoring was shown to hold for."""
    sizes_mm = [float(np.linalg.norm(scenario.isocenter_shift_mm)) for scenario in scenarios]
    far = sum(size > FAR_MM for size in sizes_mm)
    if not far:
        return ()
    worst = scenarios[int(np.argmax(sizes_mm))].name
    where = ", above all at the lateral edges of fields with range shifters" if modality == "proton" else ""
    message = (
        f"{far} of {len(scenarios)} scenarios have setup errors above {FAR_MM:g} mm, up to {max(sizes_mm):.1f} mm; the "
        f"engine's error cancels less there{where}"
    )
    return (Notice("anchor-far-scenarios", worst, message),)


def digest(dose: Dose) -> str:
    """sha256 of the values of a dose, hexadecimal."""
    return hashlib.sha256(dose.volume.values.tobytes()).hexdigest()


def _cause(mean_ratio: float, fractions: int, modality: Modality) -> str:
    """What a mean ratio (own / reference) far from 1 looks like, and what to do."""
    known = [(float(fractions), f"the number of fractions ({fractions}): the anchor seems to be of one fraction")]
    if modality == "proton":
        known += [
            (RBE, f"the RBE of {RBE:g}: the anchor seems to be physical, though it says RBE-weighted"),
            (1.0 / RBE, f"one over the RBE of {RBE:g}: the anchor seems to be RBE-weighted, though it says physical"),
        ]
    for ratio, meaning in known:
        if ratio != 1.0 and abs(mean_ratio / ratio - 1.0) < SAME_RATIO:
            return f"The ratio is {meaning}."
    return (
        "Anatomy, plan version, machine model, HU table or overrides differ; find out with `doseeng dose`, or evaluate "
        "without an anchor."
    )

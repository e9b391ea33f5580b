"""The recalculation job: a plan's dose by our engine, held against every dose that the case brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from doseeng.case import Case
from doseeng.comparison import ACTION_PERCENT, DISTANCE_MM, DOSE_PERCENT, PASS_PERCENT, Comparison, compare_with_case
from doseeng.dose import Dose, Quantity
from doseeng.engine import Prepared, dose_kind
from doseeng.errors import Notice
from robust.result import Verdict

DESCRIPTION = "doseeng independent dose"


@dataclass(frozen=True, slots=True, eq=False)
class Recalculation:
    """What was found. verdict: from the gamma of the plan's doses, None when the case brings no dose at all."""

    prepared: Prepared
    dose: Dose
    comparisons: tuple[Comparison, ...]
    notices: tuple[Notice, ...]
    verdict: Verdict | None


def recalculate(prepared: Prepared, progress: Callable[[int, int], None] | None = None) -> Recalculation:
    """The dose of a prepared case and its comparisons. Errors as of the engine."""
    computed, comparisons, findings = compare_with_case(prepared, progress)
    verdict = _verdict(comparisons) if prepared.case.doses else None
    return Recalculation(prepared, computed, comparisons, (*prepared.notices, *findings), verdict)


def quantity_of(case: Case) -> Quantity:
    """What the planning system reports, so that like is compared with like; photon dose is always physical."""
    if case.plan.modality == "photon":
        return Quantity.PHYSICAL
    plan_first = sorted(case.doses, key=lambda dose: dose.summation != "PLAN")
    return plan_first[0].quantity if plan_first else Quantity.RBE_WEIGHTED


def recalculation_to_json(found: Recalculation) -> dict[str, object]:
    """What programs read: plain dictionaries, lists, strings, numbers and None."""
    return {
        "case": found.prepared.case.key,
        "plan": found.prepared.case.plan.label,
        "verdict": found.verdict.value if found.verdict else None,
        "quantity": found.dose.quantity.value,
        "dose_kind": dose_kind(found.prepared),
        "dose_max_gy": float(found.dose.volume.values.max()),
        "comparisons": [asdict(c) for c in found.comparisons],
        "notices": [asdict(n) for n in found.notices],
        "provenance": dict(found.prepared.provenance),
    }


def reasons_of(found: Recalculation) -> tuple[str, ...]:
    """Why the verdict is what it is, one sentence for each dose that was compared."""
    said = tuple(
        f"{c.what}: gamma {c.gamma_percent:.1f} % at {DOSE_PERCENT:g} %/{DISTANCE_MM:g} mm against the planning "
        f"system's dose (tolerance {PASS_PERCENT:g} %, action {ACTION_PERCENT:g} %), mean ratio {c.mean_ratio:.3f}."
        for c in found.comparisons
    )
    if said:
        return said
    if found.verdict is None:
        return ("The case brings no dose of the planning system; there is nothing to compare with.",)
    return tuple(n.message for n in found.notices if n.code == "dose-not-compared") or ("No dose could be compared.",)


def _verdict(comparisons: tuple[Comparison, ...]) -> Verdict:
    plan = [c.gamma_percent for c in comparisons if c.what == "plan"] or [c.gamma_percent for c in comparisons]
    if not plan:
        return Verdict.UNEVALUABLE
    if min(plan) >= PASS_PERCENT:
        return Verdict.GREEN
    return Verdict.AMBER if min(plan) >= ACTION_PERCENT else Verdict.RED

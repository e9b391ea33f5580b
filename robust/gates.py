"""Quality gates of a robustness evaluation (a failed one makes it UNEVALUABLE) and the notices that come near one."""

from __future__ import annotations

from typing import Final

import numpy as np

from doseeng.case import Case
from doseeng.dose import Dose, Quantity
from doseeng.dvh import DoseSamples
from doseeng.errors import Notice
from doseeng.scenario import Scenario
from robust.goals import Goal

MISSING_SHARE: Final = 0.001
"""A structure may lose this share of its volume to the edge of the dose grid: less than any goal resolves."""


def dose_kind_gates(case: Case, dose: Dose) -> tuple[Notice, ...]:
    """The dose must be of the kind that was prescribed: the whole plan; RBE-weighted for protons, else physical."""
    gates = []
    if case.plan.modality == "proton" and dose.quantity is not Quantity.RBE_WEIGHTED:
        message = "Proton prescriptions are RBE-weighted but the dose is physical; weight it (constant 1.1) first."
        gates.append(Notice("dose-not-rbe-weighted", case.plan.label, message))
    if case.plan.modality == "photon" and dose.quantity is not Quantity.PHYSICAL:
        message = "Photon prescriptions are physical dose but the dose is RBE-weighted; give the physical dose."
        gates.append(Notice("dose-rbe-weighted", case.plan.label, message))
    if dose.summation != "PLAN":
        message = f"Goals refer to the whole plan but the dose is summed over {dose.summation}; give the plan's dose."
        gates.append(Notice("dose-not-of-the-plan", case.plan.label, message))
    return tuple(gates)


def finite_gate(scenario: Scenario, dose: Dose) -> tuple[Notice, ...]:
    """Every voxel of a dose must be a number."""
    bad = int(dose.volume.values.size - np.count_nonzero(np.isfinite(dose.volume.values)))
    if bad == 0:
        return ()
    message = f"{bad} of {dose.volume.values.size} voxels of the dose are NaN or infinite; nothing is judged by it."
    return (Notice("dose-not-finite", scenario.name, message),)


def clipping(goals: tuple[Goal, ...], samples: dict[str, DoseSamples]) -> tuple[tuple[Notice, ...], tuple[Notice, ...]]:
    """(gates, notices) about structures that reach out of the dose grid.

    A structure that must receive dose (a goal ">=") has to lie in the grid. One that must be spared may leave it: dose
    outside is lower, so judging the part inside errs on the safe side, and a notice says so.
    """
    covered = {goal.structure for goal in goals if goal.relation == ">="}
    gates, notices = [], []
    for name, sampled in samples.items():
        if sampled.covered >= 1 - MISSING_SHARE:
            continue
        share = f"{100 * sampled.covered:.1f} % of its volume lies in the dose grid"
        if name in covered:
            gates.append(Notice("dose-grid-clips-target", name, f"Only {share}; compute the dose on a larger grid."))
        else:
            message = f"Only {share}; values and DVHs describe that part."
            notices.append(Notice("dose-grid-clips-structure", name, message))
    return tuple(gates), tuple(notices)


def margin_notices(case: Case, goals: tuple[Goal, ...], scenarios: tuple[Scenario, ...]) -> tuple[Notice, ...]:
    """PTVs that are judged under setup errors which their margin already holds."""
    if all(scenario.isocenter_shift_mm == (0.0, 0.0, 0.0) for scenario in scenarios):
        return ()
    asked = dict.fromkeys(g.structure for g in goals if g.relation == ">=" and g.in_scenarios_percent > 0)
    message = (
        "The margin of a PTV already allows for setup errors, so asking for its coverage in every scenario asks twice; "
        'judge the CTV in the scenarios and the PTV in the nominal one (in_scenarios = "nominal").'
    )
    return tuple(
        Notice("ptv-in-scenarios", name, message)
        for name in asked
        if case.structures.by_name(name).kind.upper() == "PTV"
    )

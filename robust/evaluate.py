"""Robustness evaluation: goals, DVH bands, voxel statistics and the verdict from one pass over the scenario doses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from doseeng.case import Case
from doseeng.dose import Dose
from doseeng.dvh import sample_dose
from doseeng.errors import ConfigError, JobError, Notice
from doseeng.grid import Volume
from doseeng.scenario import Scenario
from robust.gates import dose_kind_gates, margin_notices
from robust.goals import Goal
from robust.measure import Measured
from robust.result import RobustReport
from robust.tally import (
    Basis,
    Settings,
    Tally,
    basis_of,
    blocks,
    empty_tally,
    highest_gy,
    measured_or_none,
    take_block,
)
from robust.verdict import GoalValues, judge, overall

__all__ = ["DEFAULTS", "Settings", "evaluate", "judged", "require_nominal_first"]

DEFAULTS: Final = Settings()


def evaluate(
    case: Case,
    scenarios: tuple[Scenario, ...],
    goals: tuple[Goal, ...],
    dose_of: Callable[[Scenario], Dose],
    *,
    settings: Settings = DEFAULTS,
    gates: tuple[Notice, ...] = (),
    notices: tuple[Notice, ...] = (),
    provenance: Mapping[str, object] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RobustReport:
    """Judge a case over scenarios; no more than three doses are alive: nominal, the worst so far and the current one.

    scenarios: nominal first. dose_of: dose of the whole course in one scenario, all on one grid (GeometryError
    otherwise). gates: quality gates that failed elsewhere; the verdict is then UNEVALUABLE, as it is when a dose holds
    NaN, is of another kind than the prescription, or its grid clips a target. notices: what else to name.
    progress: called with (doses done, doses in all). The worst scenario is the one in which the goals that count there
    keep their limits by the smallest margin, relative to the limit. ConfigError: no scenario, or the first is not
    nominal. StructureError: the structure of a goal is missing, empty or unusable.
    """
    require_nominal_first(scenarios)
    nominal = dose_of(scenarios[0])
    basis = basis_of(case, scenarios, goals, nominal.volume.grid, settings, lambda: highest_gy(nominal))

    def once(scenario: Scenario) -> Dose:
        return nominal if scenario is scenarios[0] else dose_of(scenario)

    tally = empty_tally(basis)
    for block in blocks(len(scenarios)):
        take_block(tally, basis, block, once, progress)
    used = settings.record(len(scenarios))
    return judged(case, basis, tally, gates=gates, notices=notices, provenance={**(provenance or {}), **used})


def require_nominal_first(scenarios: tuple[Scenario, ...]) -> None:
    """ConfigError when there is no scenario, or the first has an error."""
    if not scenarios or not scenarios[0].is_nominal:
        found = scenarios[0].name if scenarios else "none"
        raise ConfigError(f"the first scenario must be nominal (no error), found '{found}'; put nominal first")


def judged(
    case: Case,
    basis: Basis,
    tally: Tally,
    *,
    gates: tuple[Notice, ...] = (),
    notices: tuple[Notice, ...] = (),
    provenance: Mapping[str, object] | None = None,
) -> RobustReport:
    """The verdict over a tally of all scenarios; arguments as of `evaluate`. JobError: scenarios are missing in it."""
    nominal, scenarios = tally.nominal, basis.scenarios
    if nominal is None or tally.end != len(scenarios):
        raise JobError(f"{tally.count} of {len(scenarios)} scenarios were taken in; the evaluation is not complete")
    # A broken nominal dose stands in for statistics that nothing could be added to.
    low, high, mean, std = (
        (tally.voxels.minimum(), tally.voxels.maximum(), tally.voxels.mean(), tally.voxels.std())
        if tally.voxels.count
        else (nominal.volume,) * 4
    )
    found: list[Notice] = [*case.notices, *margin_notices(case, basis.goals, scenarios), *basis.notices, *notices]
    found += tally.notices
    voxelwise = [_voxelwise(basis, tally, goal, low if goal.relation == ">=" else high, found) for goal in basis.goals]
    results = tuple(
        judge(_values(goal, measured, extreme), scenarios)
        for goal, measured, extreme in zip(basis.goals, tally.measured, voxelwise, strict=True)
    )
    failed = tuple(dict.fromkeys((*dose_kind_gates(case, nominal), *gates, *tally.gates)))
    verdict, reasons = overall(results, failed, case.plan.label)
    return RobustReport(
        case_key=case.key,
        plan_label=case.plan.label,
        verdict=verdict,
        reasons=reasons,
        scenarios=scenarios,
        goals=results,
        bands=tuple(row.band() for row in tally.rows.values()),
        nominal=nominal,
        worst=nominal if tally.worst is None else tally.worst,
        worst_index=tally.worst_index,
        voxel_min=low,
        voxel_max=high,
        notices=(*failed, *dict.fromkeys(found)),
        provenance=dict(provenance or {}),
        voxel_mean=mean,
        voxel_std=std,
    )


def _voxelwise(basis: Basis, tally: Tally, goal: Goal, extreme: Volume, notices: list[Notice]) -> float:
    if not tally.voxels.count:
        return np.nan
    samples = {goal.structure: sample_dose(basis.points[goal.structure], extreme)}
    return measured_or_none(goal, samples, 0.0, notices).value


def _values(goal: Goal, measured: list[Measured], voxelwise: float) -> GoalValues:
    value, low, high = np.array(measured, dtype=np.float64).T
    return GoalValues(goal, value, low, high, voxelwise)

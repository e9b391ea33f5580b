"""What a robustness evaluation found, as plain data. Reports, JSON and exit codes are made from this alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from doseeng.dose import Dose
from doseeng.errors import Notice
from doseeng.grid import Volume
from doseeng.scenario import Scenario
from robust.anchor import Anchoring
from robust.goals import Goal


class Verdict(StrEnum):
    """The word; the numbers behind it are in the report."""

    GREEN = "GREEN"
    AMBER = "AMBER"
    RED = "RED"
    UNEVALUABLE = "UNEVALUABLE"


@dataclass(frozen=True, slots=True)
class CourseProbability:
    """How often random treatment courses met a goal.

    met of drawn courses; lower_bound: with one-sided `confidence` at least this share of all courses meets it.
    """

    met: int
    drawn: int
    lower_bound: float
    confidence: float

    def __str__(self) -> str:
        return (
            f"Met in {self.met} of {self.drawn} random courses: in at least {100 * self.lower_bound:.1f} % of "
            f"treatment courses with {100 * self.confidence:g} % confidence."
        )


@dataclass(frozen=True, slots=True, eq=False)
class GoalResult:
    """One goal across the scenarios.

    values: (n_scenario,) float64 in the unit of the goal, order of `RobustReport.scenarios`; NaN where it has no value.
    worst_index: the scenario that is worst for this goal. band: half-width of the uncertainty of the value there, on
    the side that faces the limit (same unit). passed: share of scenarios that meet the limit, 0..1. status and reason:
    the verdict of this goal alone. voxelwise: the value on the voxel-wise minimum (goals ">=") or maximum ("<=") dose
    over the scenarios (Korevaar et al., Radiother Oncol 141 (2019) 267); NaN where there is none. probability: None
    without random scenarios.
    """

    goal: Goal
    values: npt.NDArray[np.float64]
    worst_index: int
    band: float
    passed: float
    status: Verdict
    reason: str
    voxelwise: float = float("nan")
    probability: CourseProbability | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DvhBand:
    """Cumulative DVH of one structure over the scenarios.

    dose_gy: (m,) ascending from 0. volume_percent: (n_scenario, m), share of the structure that receives at least
    dose_gy. volume_cm3: of the structure.
    """

    structure: str
    volume_cm3: float
    dose_gy: npt.NDArray[np.float64]
    volume_percent: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RobustReport:
    """The whole answer. scenarios[0] is nominal.

    nominal, worst: doses of the nominal and of the worst scenario (worst_index: the one that fails the goals by most).
    voxel_min, voxel_max: per voxel over all scenarios, Gy. voxel_mean, voxel_std: likewise, the standard deviation over
    the scenarios as a population (a spread over a grid of errors, no probability). reasons: sentences behind the
    verdict, most important first.
    provenance: JSON-ready dictionary (code version, hashes, machine, settings). anchoring: the reference dose that all
    scenario doses, and so everything here, are anchored to; None when they are the engine's alone.
    """

    case_key: str
    plan_label: str
    verdict: Verdict
    reasons: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    goals: tuple[GoalResult, ...]
    bands: tuple[DvhBand, ...]
    nominal: Dose
    worst: Dose
    worst_index: int
    voxel_min: Volume
    voxel_max: Volume
    notices: tuple[Notice, ...] = ()
    provenance: dict[str, object] = field(default_factory=dict)
    voxel_mean: Volume | None = None
    voxel_std: Volume | None = None
    anchoring: Anchoring | None = None

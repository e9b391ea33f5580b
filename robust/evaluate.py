"""Robustness evaluation: goals, DVH bands, voxel statistics and the verdict from one pass over the scenario doses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from doseeng.case import Case
from doseeng.dose import Dose
from doseeng.dvh import DoseSamples, SamplePoints, sample_dose, sample_points
from doseeng.errors import ConfigError, MetricError, Notice, StructureError
from doseeng.grid import Volume
from doseeng.masks import contour_notices
from doseeng.scenario import Scenario
from robust.gates import clipping, dose_kind_gates, finite_gate, margin_notices
from robust.goals import Goal, filled
from robust.measure import NO_VALUE, Measured, dose_band_gy, measure
from robust.result import RobustReport
from robust.statistics import DVH_STEPS, DvhRows, VoxelStatistics
from robust.verdict import GoalValues, judge, margins, overall

_NO_ORGAN: Final = frozenset(
    {"EXTERNAL", "SUPPORT", "FIXATION", "BOLUS", "MARKER", "REGISTRATION", "ISOCENTER", "CONTRAST_AGENT", "CONTROL"}
    | {"DOSE_REGION", "DOSE_MEASUREMENT", "TREATED_VOLUME", "IRRAD_VOLUME"}
)
"""RT ROI Interpreted Types without a clinical DVH (DICOM PS3.3 C.8.8.8)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """dose_uncertainty_percent: half-width of the band of a dose, in percent of the prescription. most_organs: DVHs of
    at most so many structures that have no goal and are no target."""

    dose_uncertainty_percent: float = 1.0
    most_organs: int = 20


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
    if not scenarios or not scenarios[0].is_nominal:
        found = scenarios[0].name if scenarios else "none"
        raise ConfigError(f"the first scenario must be nominal (no error), found '{found}'; put nominal first")
    nominal = dose_of(scenarios[0])
    run = _Run(case, scenarios, goals, nominal, settings)
    run.gates += gates
    run.notices += notices
    for index, scenario in enumerate(scenarios):
        run.add(scenario, dose_of(scenario) if index else nominal)
        if progress is not None:
            progress(index + 1, len(scenarios))
    used = {"robust": {**asdict(settings), "scenarios": len(scenarios)}}
    return run.report({**(provenance or {}), **used})


class _Run:
    """Everything that is gathered while the scenario doses pass by."""

    def __init__(
        self, case: Case, scenarios: tuple[Scenario, ...], goals: tuple[Goal, ...], nominal: Dose, settings: Settings
    ) -> None:
        self.case, self.scenarios, self.goals, self.nominal = case, scenarios, goals, nominal
        self.gates: list[Notice] = list(dose_kind_gates(case, nominal))
        self.notices: list[Notice] = [*case.notices, *margin_notices(case, goals, scenarios)]
        self.points = self._sample(settings)
        values = nominal.volume.values
        highest = float(np.max(values, where=np.isfinite(values), initial=0.0))
        reference_gy = max((p.dose_gy for p in case.plan.prescriptions), default=highest) or 1.0
        self.bands_gy = [dose_band_gy(g, reference_gy, settings.dose_uncertainty_percent) for g in goals]
        step_gy = reference_gy / DVH_STEPS
        self.rows = {name: DvhRows(name, p.volume_cm3, step_gy) for name, p in self.points.items()}
        self.voxels = VoxelStatistics(nominal.volume.grid)
        self.measured: list[list[Measured]] = [[] for _ in goals]
        self.count = 0
        self.worst, self.worst_index, self.worst_margin = nominal, 0, np.inf

    def add(self, scenario: Scenario, dose: Dose) -> None:
        """Take the dose of the next scenario in."""
        index = self.count
        self.count += 1
        broken = finite_gate(scenario, dose)
        if broken:
            self.gates += broken
            for row in self.rows.values():
                row.add_unknown()
            for measured in self.measured:
                measured.append(NO_VALUE)
            return
        self.voxels.add(dose.volume)
        samples = {name: sample_dose(points, dose.volume) for name, points in self.points.items()}
        for name, row in self.rows.items():
            row.add(samples[name])
        if index == 0:
            clipped, named = clipping(self.goals, samples)
            self.gates += clipped
            self.notices += named
        here = [self._measure(*pair, samples) for pair in zip(self.goals, self.bands_gy, strict=True)]
        for measured, now in zip(self.measured, here, strict=True):
            measured.append(now)
        self._keep_worst(index, dose, here)

    def report(self, provenance: dict[str, object]) -> RobustReport:
        """The verdict over all that was added."""
        # A broken nominal dose stands in for statistics that nothing could be added to.
        low, high, mean, std = (
            (self.voxels.minimum(), self.voxels.maximum(), self.voxels.mean(), self.voxels.std())
            if self.voxels.count
            else (self.nominal.volume,) * 4
        )
        voxelwise = [self._voxelwise(goal, low if goal.relation == ">=" else high) for goal in self.goals]
        results = tuple(
            judge(_values(goal, measured, extreme), self.scenarios)
            for goal, measured, extreme in zip(self.goals, self.measured, voxelwise, strict=True)
        )
        gates, notices = tuple(dict.fromkeys(self.gates)), tuple(dict.fromkeys(self.notices))
        verdict, reasons = overall(results, gates, self.case.plan.label)
        return RobustReport(
            case_key=self.case.key,
            plan_label=self.case.plan.label,
            verdict=verdict,
            reasons=reasons,
            scenarios=self.scenarios,
            goals=results,
            bands=tuple(row.band() for row in self.rows.values()),
            nominal=self.nominal,
            worst=self.worst,
            worst_index=self.worst_index,
            voxel_min=low,
            voxel_max=high,
            notices=(*gates, *notices),
            provenance=provenance,
            voxel_mean=mean,
            voxel_std=std,
        )

    def _sample(self, settings: Settings) -> dict[str, SamplePoints]:
        """Sample points of the structures of the goals, of all targets and of some organs, in this order."""
        spacing, slice_mm = self.nominal.volume.grid.spacing_mm, self.case.ct.grid.spacing_mm[2]
        asked = [filled(self.case, name) for name in dict.fromkeys(goal.structure for goal in self.goals)]
        points = {s.name: sample_points(s, spacing, slice_mm) for s in asked}
        self.notices += [notice for s in asked for notice in contour_notices(s, slice_mm)]
        others = [s for s in self.case.structures.structures if not s.is_empty and s.name not in points]
        targets = [s for s in others if s.is_target]
        organs = [s for s in others if not s.is_target and s.kind.upper() not in _NO_ORGAN]
        for structure in (*targets, *organs[: settings.most_organs]):
            try:
                points[structure.name] = sample_points(structure, spacing, slice_mm)
            except StructureError as error:
                self.notices.append(Notice("structure-without-dvh", structure.name, str(error)))
        if len(organs) > settings.most_organs:
            left = ", ".join(f"'{s.name}'" for s in organs[settings.most_organs :])
            message = f"{settings.most_organs} organs without goals have a DVH; left out: {left}."
            self.notices.append(Notice("organs-without-dvh", "", message))
        return points

    def _measure(self, goal: Goal, band_gy: float, samples: dict[str, DoseSamples]) -> Measured:
        try:
            return measure(goal, samples[goal.structure], band_gy)
        except MetricError as error:
            self.notices.append(Notice("goal-without-value", goal.name, str(error)))
            return NO_VALUE

    def _voxelwise(self, goal: Goal, extreme: Volume) -> float:
        if not self.voxels.count:
            return np.nan
        samples = {goal.structure: sample_dose(self.points[goal.structure], extreme)}
        return self._measure(goal, 0.0, samples).value

    def _keep_worst(self, index: int, dose: Dose, here: list[Measured]) -> None:
        counted = [
            float(margins(goal, measured.value))
            for goal, measured in zip(self.goals, here, strict=True)
            if index == 0 or goal.in_scenarios_percent > 0
        ]
        margin = min((m for m in counted if np.isfinite(m)), default=np.inf)
        if margin < self.worst_margin:
            self.worst, self.worst_index, self.worst_margin = dose, index, margin


def _values(goal: Goal, measured: list[Measured], voxelwise: float) -> GoalValues:
    value, low, high = np.array(measured, dtype=np.float64).T
    return GoalValues(goal, value, low, high, voxelwise)

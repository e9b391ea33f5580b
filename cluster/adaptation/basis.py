"""The plan's side of every day: its dose on the planning CT by our engine, its goals and their values, made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.adaptation.measures import Points, Yardstick, measured, points_in, samples_in, yardstick
from cluster.adaptation.settings import AdaptSettings, dose_percent
from doseeng.case import Case
from doseeng.comparison import ACTION_PERCENT, DISTANCE_MM, DOSE_PERCENT, compare
from doseeng.dose import Dose
from doseeng.dvh import DoseSamples
from doseeng.engine import Prepared, scenario_dose
from doseeng.errors import MetricError, Notice, StructureError
from doseeng.grid import Grid
from doseeng.materials import HuTable, read_hu_table
from doseeng.structures import Structure
from registration.gatesettings import GateLimits, read_limits
from registration.result import GateResult
from robust.goals import goals_for, read_goal_file
from robust.measure import Measured

PrepareDay = Callable[[Case, Grid], Prepared]
"""Prepares a case on another image with the machines and settings of the plan, for dose on a given grid."""


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """What all days of a course are held against.

    prepared: the plan on its planning CT. prepare_day: the same on another image. dose: on the planning CT. points,
    samples: where structures are sampled there, and the dose in them. planned: value of each goal. engine_percent:
    half-width of the band of a dose. hu_table: what HU mean. limits: of the registration's gates. gates: about the
    plan's dose, the same every day.
    """

    prepared: Prepared
    prepare_day: PrepareDay
    settings: AdaptSettings
    yardstick: Yardstick
    dose: Dose
    points: Points
    samples: Mapping[str, DoseSamples]
    planned: tuple[Measured, ...]
    engine_percent: float
    hu_table: HuTable
    limits: GateLimits
    gates: tuple[GateResult, ...] = ()
    notices: tuple[Notice, ...] = ()

    @property
    def case(self) -> Case:
        """The planned case."""
        return self.prepared.case

    @property
    def isocenter_mm(self) -> tuple[float, float, float]:
        """Of the first beam; where beams have several, the couch moves between them by known amounts."""
        beam = self.case.plan.beams[0]
        first = beam.isocenter_mm if isinstance(beam.isocenter_mm, tuple) else beam.isocenter_mm[0]
        return float(first[0]), float(first[1]), float(first[2])

    @property
    def fractions(self) -> int:
        """Fractions of the plan."""
        return max(beam.fractions for beam in self.case.plan.beams)


def make_basis(
    prepared: Prepared,
    prepare_day: PrepareDay,
    settings: AdaptSettings,
    goals_path: Path | None = None,
    hu_table: HuTable | None = None,
    limits: GateLimits | None = None,
) -> Basis:
    """The plan's dose and goals; goals_path: a TOML as `doseeng evaluate` takes it, None for the shipped coverage rule.
    hu_table: the one that the case was prepared with; limits: of the registration's gates (without: the shipped ones).

    ConfigError, StructureError, PlanError: as `robust.goals.goals_for`.
    """
    case = prepared.case
    goal_file = read_goal_file(goals_path)
    goals, goal_notices = goals_for(case, goal_file)
    percent = dose_percent(settings, goal_file, is_own=goals_path is not None)
    measures = yardstick(case, goals, percent, settings.image_percent)
    dose = scenario_dose(prepared)
    points, point_notices = points_in(case.structures, case, goals)
    samples = samples_in(points, dose.volume)
    gates, dose_notices = _reproduces_plan(case, dose)
    return Basis(
        prepared,
        prepare_day,
        settings,
        measures,
        dose,
        points,
        samples,
        tuple(measured(goal, samples, band) for goal, band in zip(goals, measures.engine_gy, strict=True)),
        percent,
        hu_table or read_hu_table(),
        limits or read_limits(),
        gates,
        (*prepared.notices, *goal_notices, *point_notices, *dose_notices),
    )


def main_target(case: Case) -> Structure:
    """The target that paths are followed to: of the prescribed ones that with the highest dose, else the first target.

    StructureError when there is none with contours.
    """
    prescribed = sorted(case.plan.prescriptions, key=lambda p: -p.dose_gy)
    targets = [case.structures.by_number(p.roi_number) for p in prescribed]
    targets += [s for s in case.structures.structures if s.is_target]
    found = next((s for s in targets if not s.is_empty), None)
    if found is None:
        raise StructureError(f"structure set '{case.structures.label}' has no target with contours")
    return found


def _reproduces_plan(case: Case, dose: Dose) -> tuple[tuple[GateResult, ...], tuple[Notice, ...]]:
    """Whether the engine reproduces the planning system's dose, where there is one: if not, no day can be judged."""
    reference = next((d for d in case.doses if d.summation == "PLAN"), None)
    if reference is None:
        message = "the case holds no plan dose; the engine's was not checked against the planning system's"
        return (), (Notice("plan-not-compared", "", message),)
    try:
        found = compare("plan", reference, dose)
    except MetricError as error:
        return (), (Notice("plan-not-compared", "", str(error)),)
    message = (
        f"gamma {found.gamma_percent:.1f} % at {DOSE_PERCENT:g} %/{DISTANCE_MM:g} mm of the engine's dose on the "
        f"planning CT against the planning system's, mean ratio {found.mean_ratio:.3f}"
    )
    passed = found.gamma_percent >= ACTION_PERCENT
    hint = "" if passed else "; find out why with `doseeng dose`"
    return (GateResult("plan-dose", "plan", found.gamma_percent, ACTION_PERCENT, "%", passed, f"{message}{hint}."),), ()

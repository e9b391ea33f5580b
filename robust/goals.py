"""Clinical goals: what a dose must achieve for one structure, and how they come from a plan and a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from doseeng.case import Case
from doseeng.errors import ConfigError, Notice, PlanError, StructureError
from doseeng.metrics import parse_metric
from doseeng.structures import Structure
from robust.configuration import DATA_DIR, CoverageRow, GoalFile, GoalRow, read_toml


@dataclass(frozen=True, slots=True)
class Goal:
    """`structure`: `metric` `relation` `limit`.

    metric: "V95%" (volume receiving 95 % of the prescription), "V20Gy", "D95%" (dose to 95 % of the volume), "D2cm3",
    "Dmean" and the other forms of `doseeng.metrics`. unit of value and limit: "%" (of volume, or of prescription
    for doses), "cm3" or "Gy". prescription_gy: what percent of dose refers to; None where the goal needs none.
    in_scenarios_percent: share of the scenarios that must meet the limit; 100 all, 0 the nominal one alone. The nominal
    scenario must always meet it. band: half-width of the uncertainty in `unit`; None: computed from the dose engine's.
    """

    structure: str
    metric: str
    relation: Literal[">=", "<="]
    limit: float
    unit: Literal["%", "cm3", "Gy"]
    prescription_gy: float | None = None
    in_scenarios_percent: float = 100.0
    band: float | None = None

    @property
    def name(self) -> str:
        """Structure and metric, as in "CTV V95%"."""
        return f"{self.structure} {self.metric}"


def read_goal_file(path: Path | None = None) -> GoalFile:
    """A goals TOML (the shipped one without `path`); ConfigError names file, path of the key and near misses."""
    return read_toml(path or DATA_DIR / "goals.toml", GoalFile)


def default_goals(case: Case) -> tuple[Goal, ...]:
    """The shipped coverage rule for every prescribed target; () for a plan without prescription.

    StructureError: a prescription's ROI is missing or empty. PlanError: two doses for one ROI.
    """
    return goals_for(case, read_goal_file())[0]


def goals_for(case: Case, file: GoalFile) -> tuple[tuple[Goal, ...], tuple[Notice, ...]]:
    """The goals of `file` for a case: coverage of every prescribed target first, then the named structures.

    Notices tell of optional goals that were skipped. ConfigError: a percent of dose without a prescription.
    StructureError, PlanError: as `default_goals`, and for a named structure that is missing or empty.
    """
    prescribed = _prescribed(case)
    rows = read_goal_file().coverage if file.coverage is None else file.coverage
    goals = [
        _goal(row, target.name, dose_gy, f"coverage[{i}]")
        for target, dose_gy in prescribed.values()
        for i, row in enumerate(rows or [])
    ]
    notices = []
    for i, row in enumerate(file.goal):
        try:
            structure = filled(case, row.structure)
        except StructureError as error:
            if not row.optional:
                raise
            notices.append(Notice("optional-goal-skipped", row.structure, f"{row.metric} is not evaluated: {error}"))
            continue
        own = prescribed.get(structure.number)
        dose = row.prescription_gy if row.prescription_gy is not None else own[1] if own else None
        goals.append(_goal(row, structure.name, dose, f"goal[{i}]"))
    return tuple(dict.fromkeys(goals)), tuple(notices)


def filled(case: Case, name: str) -> Structure:
    """The structure of a case by name; StructureError with a hint when it is missing or has no contour."""
    structure = case.structures.by_name(name)
    if structure.is_empty:
        raise StructureError(f"structure '{name}' has no contour; draw it, or make its goals optional")
    return structure


def _prescribed(case: Case) -> dict[int, tuple[Structure, float]]:
    """ROI number -> structure and dose in Gy."""
    found: dict[int, tuple[Structure, float]] = {}
    for prescription in case.plan.prescriptions:
        structure = filled(case, case.structures.by_number(prescription.roi_number).name)
        dose_gy = prescription.dose_gy
        if structure.number in found and found[structure.number][1] != dose_gy:
            raise PlanError(
                f"plan '{case.plan.label}': '{structure.name}' is prescribed both {found[structure.number][1]:g} and "
                f"{dose_gy:g} Gy; name one in a goals file (coverage = [] and [[goal]] with prescription_gy)"
            )
        found[structure.number] = structure, dose_gy
    return found


def _goal(row: CoverageRow | GoalRow, structure: str, prescription_gy: float | None, where: str) -> Goal:
    if prescription_gy is None and _needs_prescription(row):
        raise ConfigError(
            f"{where} ('{structure}' {row.metric} in {row.unit}): percent of dose needs a prescription, and the plan "
            "gives this structure none; add prescription_gy"
        )
    return Goal(structure, row.metric, row.relation, row.limit, row.unit, prescription_gy, row.in_scenarios, row.band)


def _needs_prescription(row: CoverageRow) -> bool:
    metric = parse_metric(row.metric)
    return metric.of == "%" if metric.kind == "volume" else row.unit == "%"

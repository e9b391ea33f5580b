"""The list of scenarios: which errors each has, in the words of the plan's modality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.report import text
from cluster.report.goaltable import is_met
from doseeng.scenario import Modality, Scenario
from robust.result import RobustReport


@dataclass(frozen=True, slots=True)
class ScenarioRow:
    """One line: the errors in the columns of the table, and how many limits are met."""

    name: str
    errors: tuple[str, ...]
    kind: str
    met: str
    is_worst: bool


@dataclass(frozen=True, slots=True)
class ScenarioTable:
    """headings: of the errors. meaning: what they are, as one sentence."""

    headings: tuple[str, ...]
    rows: tuple[ScenarioRow, ...]
    meaning: str


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    cell: Callable[[Scenario], str]
    meaning: str = ""


def scenario_table(report: RobustReport, modality: Modality) -> ScenarioTable:
    """Every scenario with its errors; those of the machine, and of density for photons, where any scenario has them."""
    columns = [*_setup(), *_materials(report.scenarios, modality), *_delivery(report.scenarios)]
    meanings = ("shift of the isocentre in patient axes", *(c.meaning for c in columns if c.meaning))
    rows = [
        ScenarioRow(
            name=scenario.name,
            errors=tuple(column.cell(scenario) for column in columns),
            kind="random draw" if scenario.random else "fixed",
            met=f"{sum(bool(is_met(result, i)) for result in report.goals)} of {len(report.goals)}",
            is_worst=i == report.worst_index,
        )
        for i, scenario in enumerate(report.scenarios)
    ]
    sentence = "; ".join(meanings)
    return ScenarioTable(tuple(c.heading for c in columns), tuple(rows), f"{sentence[0].upper()}{sentence[1:]}.")


def _setup() -> list[_Column]:
    def cell(axis: int) -> Callable[[Scenario], str]:
        return lambda scenario: text.signed(scenario.isocenter_shift_mm[axis])

    return [_Column(f"{name} (mm)", cell(axis)) for axis, name in enumerate(("Left", "Posterior", "Superior"))]


def _materials(scenarios: tuple[Scenario, ...], modality: Modality) -> list[_Column]:
    if modality == "proton":
        meaning = "a range error is a change of every relative stopping power"
        return [_Column("Range error", text.range_text, meaning)]
    if all(scenario.rsp_scale == 1.0 for scenario in scenarios):
        return []
    meaning = "a density error is a change of density and attenuation of every material"
    return [_Column("Density error", text.scale_text, meaning)]


def _delivery(scenarios: tuple[Scenario, ...]) -> list[_Column]:
    def cell(error: int) -> Callable[[Scenario], str]:
        return lambda scenario: text.signed(scenario.delivery[error])

    headings = ("Gantry (°)", "Collimator (°)", "Couch (°)", "Leaves (mm)")
    meanings = (
        *(f"a {name} error adds to the {name} angle of every beam" for name in ("gantry", "collimator", "couch")),
        "with a leaf error every leaf end is open farther by it",
    )
    return [
        _Column(heading, cell(error), meaning)
        for error, (heading, meaning) in enumerate(zip(headings, meanings, strict=True))
        if any(scenario.delivery[error] != 0.0 for scenario in scenarios)
    ]

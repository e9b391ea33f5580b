"""`doseeng let`: dose-averaged LET per structure, and what a variable RBE would make of the dose."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli import options
from cluster.cli.console import err, out, print_json, show_line, show_notices
from doseeng.case import Case
from doseeng.dicom.rtdose import write_dose
from doseeng.dose import Dose, Quantity
from doseeng.dvh import sample_dose, sample_points
from doseeng.engine import EngineSettings, let_volume, require_protons, scenario_dose, variable_rbe_dose
from doseeng.errors import ConfigError, Notice, StructureError
from doseeng.grid import Volume
from doseeng.metrics import evaluate_metric
from doseeng.rbe import RbeModel

ALPHA_BETA_GY = 3.0
"""Late-reacting tissue; the models' effect is larger the smaller it is."""


@dataclass(frozen=True, slots=True)
class LetRow:
    """One structure: LETd of all its dose and of the highest 2 % (keV/um), mean and D2 of both doses (Gy)."""

    structure: str
    let_mean_kev_um: float
    let_2_kev_um: float
    constant_mean_gy: float
    variable_mean_gy: float
    constant_d2_gy: float
    variable_d2_gy: float


def let(
    case_dir: options.CaseDir,
    model: Annotated[RbeModel, typer.Option("--rbe", help="RBE model to compare the constant 1.1 with.")] = (
        RbeModel.MCNAMARA
    ),
    alpha_beta: Annotated[float, typer.Option(min=0.1, help="Alpha/beta of the tissue, Gy.")] = ALPHA_BETA_GY,
    output: Annotated[Path | None, typer.Option("--out", help="RTDOSE of the dose with that RBE to write.")] = None,
    plan: options.PlanUid = None,
    machine: options.Machine = None,
    machine_folder: options.MachineFolder = None,
    hu_table: options.HuTableOption = options.DEFAULT_HU_TABLE,
    spacing: options.Spacing = 3.0,
    gantry: options.Gantry = None,
    accept_patient_mismatch: options.AcceptMismatch = False,
    backend: options.BackendOption = "auto",
    as_json: options.Json = False,
) -> None:
    """Where the LET is high in a proton plan, and what a variable RBE would say about its dose.

    LETd is that of primary and secondary protons in water. Prescriptions use the constant 1.1; the variable models are
    fits to cells in culture, to compare plans with, not to prescribe by.
    """
    options.require_writable(output)
    if output is not None:
        options.require_outside(case_dir, output)
    with err.status("Computing dose and LET", spinner="dots"):
        case = options.load_case(case_dir, plan, accept_patient_mismatch, gantry)
        require_protons(case.plan)
        settings = EngineSettings(spacing_mm=spacing, quantity=Quantity.RBE_WEIGHTED)
        prepared = options.prepare_case(case, machine, machine_folder, hu_table, settings, backend)
        constant, lets = scenario_dose(prepared), let_volume(prepared)
        variable = variable_rbe_dose(prepared, model, alpha_beta)
        rows, notices = let_rows(case, constant, variable, lets)
    if output is not None:
        if case.dicom is None:
            raise ConfigError("the case was not read from DICOM; there is nothing to refer to in an RTDOSE")
        write_dose(output, variable, case.dicom, case.plan, f"doseeng RBE {model.value}")
    if as_json:
        print_json(
            {
                "case": case.key,
                "rbe": model.value,
                "alpha_beta_gy": alpha_beta,
                "structures": [asdict(row) for row in rows],
                "notices": [asdict(n) for n in (*prepared.notices, *notices)],
                "provenance": dict(prepared.provenance),
            }
        )
        return
    show_notices((*prepared.notices, *notices))
    _show(case, rows, model, alpha_beta)
    if output is not None:
        show_line(out, f"RTDOSE: {escape(str(output))}")


def let_rows(case: Case, constant: Dose, variable: Dose, lets: Volume) -> tuple[tuple[LetRow, ...], tuple[Notice, ...]]:
    """A row for every structure that dose reaches, and notices for those that cannot be sampled."""
    rows, notices = [], []
    grid = constant.volume.grid
    product = Volume(grid, lets.values * constant.volume.values)
    for structure in case.structures.structures:
        if structure.is_empty:
            continue
        try:
            points = sample_points(structure, grid.spacing_mm, case.ct.grid.spacing_mm[2])
        except StructureError as error:
            notices.append(Notice("structure-without-dvh", structure.name, str(error)))
            continue
        let, one, other, weighted = (
            sample_dose(points, volume) for volume in (lets, constant.volume, variable.volume, product)
        )
        if len(one.dose_gy) == 0 or one.dose_gy[-1] <= 0.0:
            continue
        means = [evaluate_metric(sampled, "Dmean") for sampled in (weighted, one, other)]
        highest = [evaluate_metric(sampled, "D2%") for sampled in (let, one, other)]
        rows.append(LetRow(structure.name, means[0] / means[1], highest[0], means[1], means[2], *highest[1:]))
    return tuple(rows), tuple(notices)


def _show(case: Case, rows: tuple[LetRow, ...], model: RbeModel, alpha_beta_gy: float) -> None:
    title = f"Plan '{escape(case.plan.label)}' · RBE {model.value}, alpha/beta {alpha_beta_gy:g} Gy"
    table = Table(title=title, title_justify="left")
    table.add_column("structure")
    for heading in ("LETd", "LETd 2 %", "mean 1.1", f"mean {model.value}", "D2% 1.1", f"D2% {model.value}"):
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = list(asdict(row).values())[1:]
        table.add_row(escape(row.structure), *(f"{value:.2f}" for value in numbers))
    out.print(table)
    out.print("[dim]LETd in keV/um, doses in Gy. Variable RBE compares plans; prescriptions use 1.1.[/dim]")

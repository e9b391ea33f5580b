"""`doseeng evaluate`: robustness of a plan over error scenarios, with goals, verdict and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli import options
from cluster.cli.console import ExitCode, badge, err, out, print_json, progress_bar, show_line, show_notices
from cluster.robustness import RobustnessRequest, read_anchor, run_robustness
from doseeng.engine import EngineSettings
from doseeng.photon import Algorithm
from robust.export import report_to_json
from robust.result import GoalResult, RobustReport
from robust.scenarios import DEFAULT_SET, SET_NAMES

Scenarios = Annotated[
    str | None,
    typer.Option(
        help=(
            f"Scenario set ({', '.join(SET_NAMES)}) or the path of a .toml list; without it {DEFAULT_SET['proton']} "
            f"for protons and {DEFAULT_SET['photon']}, setup errors alone, for photons."
        )
    ),
]
Site = Annotated[
    str, typer.Option(help="Treatment site that sets the setup and range errors (default, head_neck, ...).")
]
SetupMm = Annotated[float | None, typer.Option("--setup-mm", min=0.0, help="Setup error instead of the site's.")]
RangePercent = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=20.0, help="Range error instead of the site's; for photons an error of density, none unless given."
    ),
]
Goals = Annotated[Path | None, typer.Option(help="Goals as TOML; without it V95% and D95% of every prescribed target.")]
Report = Annotated[Path | None, typer.Option(help="HTML report to write instead of doseeng-report-CASE.html here.")]
Doses = Annotated[
    Path | None, typer.Option("--doses", help="Folder for RTDOSE of nominal, worst scenario, voxel-wise min and max.")
]
Anchor = Annotated[
    Path | None,
    typer.Option(
        metavar="RTDOSE",
        help=(
            "Dose of this plan from a better engine, such as the clinic's Monte Carlo. Every scenario dose becomes "
            "that dose + (own scenario - own nominal): the engine's error is nearly the same in all scenarios and "
            "cancels. Its grid is the dose grid. Refused when it is of another plan or image (error), or when the "
            "engine's nominal dose disagrees with it grossly (UNEVALUABLE, with the numbers)."
        ),
    ),
]

LONGEST_WORD = len("collimator+1.0°")
"""Names of scenarios wrap between their words, also on narrow terminals."""


def evaluate(
    case_dir: options.CaseDir,
    scenarios: Scenarios = None,
    site: Site = "default",
    setup_mm: SetupMm = None,
    range_percent: RangePercent = None,
    goals: Goals = None,
    report: Report = None,
    doses: Doses = None,
    anchor: Anchor = None,
    seed: Annotated[int, typer.Option(help="Seed of random scenario sets.")] = 0,
    plan: options.PlanUid = None,
    machine: options.Machine = None,
    machine_folder: options.MachineFolder = None,
    hu_table: options.HuTableOption = options.DEFAULT_HU_TABLE,
    spacing: options.Spacing = 3.0,
    algorithm: options.AlgorithmOption = None,
    gantry: options.Gantry = None,
    accept_patient_mismatch: options.AcceptMismatch = False,
    backend: options.BackendOption = "auto",
    as_json: options.Json = False,
) -> None:
    """Evaluate the robustness of a DICOM plan: goals x scenarios, DVH bands, verdict, HTML report.

    The default is the clinical set of 28 scenarios (14 setup directions x range -/+) beside the nominal one, for photon
    plans the 14 setup errors alone; "delivery" is a set of errors of a linear accelerator. The verdict is UNEVALUABLE
    when a quality gate fails, such as a planning system's dose that the engine cannot reproduce. With a Monte Carlo
    dose of the plan at hand, give it as --anchor: the nominal dose is then that dose, and scenarios change it by what
    the engine says changes.
    """
    if doses is not None:
        options.require_outside(case_dir, doses)
        options.require_writable(doses / "nominal.dcm")
    options.require_writable(report)
    with err.status("Reading the case", spinner="dots"):
        case = options.load_case(case_dir, plan, accept_patient_mismatch, gantry)
        photon = options.photon_settings(case, algorithm, Algorithm.PENCIL)
        settings = EngineSettings(spacing_mm=spacing, photon=photon)
        reference = None if anchor is None else read_anchor(anchor, case, accept_patient_mismatch)
        grid = None if reference is None else reference.volume.grid
        prepared = options.prepare_case(case, machine, machine_folder, hu_table, settings, backend, grid)
    request = RobustnessRequest(scenarios, site, setup_mm, range_percent, goals, seed)
    with progress_bar("Computing scenario doses", quiet=as_json) as progress:
        result, path = run_robustness(
            prepared, request, report or Path(f"doseeng-report-{case.key}.html"), doses, progress, reference
        )
    if as_json:
        print_json({**report_to_json(result), "report": str(path)})
    else:
        show_result(result, path)
    raise typer.Exit(ExitCode[result.verdict.value])


def show_result(result: RobustReport, path: Path) -> None:
    """The verdict table and where the report is."""
    show_notices(result.notices)
    table = Table(title=f"Plan '{escape(result.plan_label)}' · {len(result.scenarios)} doses", title_justify="left")
    table.add_column("goal")
    for heading in ("nominal", "worst"):
        table.add_column(heading, justify="right")
    table.add_column("in scenario", min_width=LONGEST_WORD)
    table.add_column("met", justify="right")
    table.add_column("status")
    for goal in result.goals:
        table.add_row(*_cells(goal, result))
    out.print(table)
    if result.anchoring is not None:
        show_line(out, escape(str(result.anchoring)))
    out.print(f"Verdict {badge(result.verdict)}")
    for reason in result.reasons:
        show_line(out, f"  • {escape(reason)}")
    out.print("[dim]Research and quality-assurance tool: it does not release a treatment.[/dim]")
    show_line(out, f"Report: {escape(str(path))}")


def _cells(result: GoalResult, report: RobustReport) -> tuple[str, ...]:
    goal = result.goal
    worst = report.scenarios[result.worst_index].name
    return (
        escape(f"{goal.name} {goal.relation} {goal.limit:g} {goal.unit}"),
        f"{result.values[0]:.2f}",
        f"{result.values[result.worst_index]:.2f} ± {result.band:.2f}",
        escape(worst),
        f"{100 * result.passed:.0f} %",
        badge(result.status),
    )

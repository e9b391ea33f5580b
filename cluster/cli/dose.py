"""`doseeng dose`: recalculate a plan independently and hold it against the planning system's dose."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli import options
from cluster.cli.console import ExitCode, badge, err, out, print_json, progress_bar, show_line, show_notices
from doseeng.case import Case
from doseeng.comparison import (
    ACTION_PERCENT,
    DISTANCE_MM,
    DOSE_PERCENT,
    PASS_PERCENT,
    Comparison,
    compare_with_case,
)
from doseeng.dicom.rtdose import write_dose
from doseeng.dose import Dose, Quantity
from doseeng.engine import RBE, EngineSettings
from doseeng.errors import ConfigError
from robust.result import Verdict


def dose(
    case_dir: options.CaseDir,
    output: Annotated[
        Path | None, typer.Option("--out", help="RTDOSE to write instead of doseeng-dose-CASE.dcm here.")
    ] = None,
    physical: Annotated[bool, typer.Option("--physical", help="Physical dose instead of RBE-weighted.")] = False,
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
    """Recalculate a DICOM plan on its CT and write the dose as RTDOSE.

    The case's own RTDOSE objects (plan and beams) are compared by gamma 3 %/3 mm (global, 10 % threshold), absolute,
    nothing normalised. The exit code follows the plan's pass rate: GREEN from 95 %, AMBER from 90 %, RED below
    (AAPM TG-218); UNEVALUABLE when none of the doses can be compared; without any it is 0.
    """
    options.require_outside(case_dir, output or Path.cwd())
    options.require_writable(output)
    with err.status("Reading the case", spinner="dots"):
        case = options.load_case(case_dir, plan, accept_patient_mismatch, gantry)
        quantity = Quantity.PHYSICAL if physical else _quantity_of(case)
        settings = EngineSettings(spacing_mm=spacing, quantity=quantity)
        prepared = options.prepare_case(case, machine, machine_folder, hu_table, settings, backend)
    if case.dicom is None:
        raise ConfigError("the case was not read from DICOM; there is nothing to refer to in an RTDOSE")
    with progress_bar("Computing dose", quiet=as_json) as progress:
        computed, comparisons, findings = compare_with_case(prepared, progress)
    path = output or Path(f"doseeng-dose-{case.key}.dcm")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dose(path, computed, case.dicom, case.plan, "doseeng independent dose")
    notices = (*prepared.notices, *findings)
    verdict = _verdict(comparisons) if case.doses else None
    if as_json:
        print_json(
            {
                "case": case.key,
                "plan": case.plan.label,
                "verdict": verdict.value if verdict else None,
                "quantity": computed.quantity.value,
                "dose_max_gy": float(computed.volume.values.max()),
                "output": str(path),
                "comparisons": [asdict(c) for c in comparisons],
                "notices": [asdict(n) for n in notices],
                "provenance": dict(prepared.provenance),
            }
        )
    else:
        show_notices(notices)
        _show(case, computed, comparisons, verdict, path)
    raise typer.Exit(ExitCode[verdict.value] if verdict else ExitCode.GREEN)


def _quantity_of(case: Case) -> Quantity:
    """What the planning system reports, so that like is compared with like."""
    plan_first = sorted(case.doses, key=lambda dose: dose.summation != "PLAN")
    return plan_first[0].quantity if plan_first else Quantity.RBE_WEIGHTED


def _verdict(comparisons: tuple[Comparison, ...]) -> Verdict:
    plan = [c.gamma_percent for c in comparisons if c.what == "plan"] or [c.gamma_percent for c in comparisons]
    if not plan:
        return Verdict.UNEVALUABLE
    if min(plan) >= PASS_PERCENT:
        return Verdict.GREEN
    return Verdict.AMBER if min(plan) >= ACTION_PERCENT else Verdict.RED


def _show(case: Case, computed: Dose, comparisons: tuple[Comparison, ...], verdict: Verdict | None, path: Path) -> None:
    unit = f"Gy (RBE {RBE})" if computed.quantity is Quantity.RBE_WEIGHTED else "Gy"
    beams = Table(title=f"Plan '{escape(case.plan.label)}'", title_justify="left")
    for heading in ("beam", "gantry", "couch", "spots", "layers", "MU / fraction", "fractions"):
        beams.add_column(heading, justify="left" if heading == "beam" else "right")
    for beam in case.plan.proton_beams:
        layers = len(set(beam.spot_energy_mev.tolist()))
        cells = (f"{beam.gantry_deg:g}°", f"{beam.couch_deg:g}°", str(len(beam.spot_mu)), str(layers))
        beams.add_row(f"{beam.number} {escape(beam.name)}", *cells, f"{beam.spot_mu.sum():.1f}", str(beam.fractions))
    out.print(beams)
    out.print(f"Maximum dose {computed.volume.values.max():.3f} {unit}")
    if comparisons:
        table = Table(title="Against the planning system", title_justify="left")
        table.add_column("dose")
        for heading in (f"γ {DOSE_PERCENT:g} %/{DISTANCE_MM:g} mm", "mean ratio", "max TPS", "max doseeng"):
            table.add_column(heading, justify="right")
        for c in comparisons:
            maxima = (f"{c.reference_max_gy:.3f}", f"{c.computed_max_gy:.3f}")
            table.add_row(escape(c.what), f"{c.gamma_percent:.1f} %", f"{c.mean_ratio:.3f}", *maxima)
        out.print(table)
    out.print(f"Verdict {badge(verdict)}" if verdict else "No dose of the planning system to compare with.")
    show_line(out, f"RTDOSE: {escape(str(path))}")

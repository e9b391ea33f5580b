"""`doseeng dose`: recalculate a plan independently and hold it against the planning system's dose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster import photonbeams
from cluster.cli import options
from cluster.cli.console import ExitCode, badge, err, out, print_json, progress_bar, show_line, show_notices
from cluster.recalculation import DESCRIPTION, Recalculation, quantity_of, recalculate, recalculation_to_json
from doseeng.comparison import DISTANCE_MM, DOSE_PERCENT
from doseeng.dicom.rtdose import write_dose
from doseeng.dose import Quantity
from doseeng.engine import RBE, EngineSettings, dose_kind
from doseeng.errors import ConfigError
from doseeng.photon import Algorithm
from doseeng.plan import PhotonBeam, Plan, ProtonBeam


def dose(
    case_dir: options.CaseDir,
    output: Annotated[
        Path | None, typer.Option("--out", help="RTDOSE to write instead of doseeng-dose-CASE.dcm here.")
    ] = None,
    physical: Annotated[
        bool, typer.Option("--physical", help="Physical dose of protons instead of RBE-weighted.")
    ] = False,
    plan: options.PlanUid = None,
    machine: options.Machine = None,
    machine_folder: options.MachineFolder = None,
    hu_table: options.HuTableOption = options.DEFAULT_HU_TABLE,
    spacing: options.Spacing = 3.0,
    algorithm: options.AlgorithmOption = None,
    dose_to: Annotated[
        options.DoseTo | None,
        typer.Option("--dose-to", help="Photon dose to the medium itself (without it) or to water in the medium."),
    ] = None,
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
        quantity = Quantity.PHYSICAL if physical else quantity_of(case)
        photon = options.photon_settings(case, algorithm, Algorithm.COLLAPSED_CONE, dose_to)
        settings = EngineSettings(spacing_mm=spacing, quantity=quantity, photon=photon)
        prepared = options.prepare_case(case, machine, machine_folder, hu_table, settings, backend)
    if case.dicom is None:
        raise ConfigError("the case was not read from DICOM; there is nothing to refer to in an RTDOSE")
    with progress_bar("Computing dose", quiet=as_json) as progress:
        found = recalculate(prepared, progress)
    path = output or Path(f"doseeng-dose-{case.key}.dcm")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dose(path, found.dose, case.dicom, case.plan, DESCRIPTION)
    if as_json:
        print_json({**recalculation_to_json(found), "output": str(path)})
    else:
        show_notices(found.notices)
        _show(found, path)
    raise typer.Exit(ExitCode[found.verdict.value] if found.verdict else ExitCode.GREEN)


def _show(found: Recalculation, path: Path) -> None:
    prepared, computed = found.prepared, found.dose
    out.print(_beam_table(prepared.case.plan))
    kind = f"RBE {RBE}" if computed.quantity is Quantity.RBE_WEIGHTED else dose_kind(prepared)
    out.print(f"Maximum dose {computed.volume.values.max():.3f} Gy ({kind})")
    if found.comparisons:
        table = Table(title="Against the planning system", title_justify="left")
        table.add_column("dose")
        for heading in (f"γ {DOSE_PERCENT:g} %/{DISTANCE_MM:g} mm", "mean ratio", "max TPS", "max doseeng"):
            table.add_column(heading, justify="right")
        for c in found.comparisons:
            maxima = (f"{c.reference_max_gy:.3f}", f"{c.computed_max_gy:.3f}")
            table.add_row(escape(c.what), f"{c.gamma_percent:.1f} %", f"{c.mean_ratio:.3f}", *maxima)
        out.print(table)
    nothing = "No dose of the planning system to compare with."
    out.print(f"Verdict {badge(found.verdict)}" if found.verdict else nothing)
    show_line(out, f"RTDOSE: {escape(str(path))}")


def _beam_table(plan: Plan) -> Table:
    """What a physicist compares with the plan sheet, in the width of a terminal."""
    if plan.modality == "proton":
        headings: tuple[str, ...] = ("beam", "gantry", "couch", "spots", "layers", "MU / fraction", "fractions")
        rows = [_proton_cells(beam) for beam in plan.proton_beams]
    else:
        headings = ("beam", "energy", "technique", "gantry", "field", "points", "MU / fraction", "fractions")
        rows = [_photon_cells(beam) for beam in plan.photon_beams]
    table = Table(title=f"Plan '{escape(plan.label)}'", title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("beam", "energy", "technique") else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _proton_cells(beam: ProtonBeam) -> tuple[str, ...]:
    layers = len(set(beam.spot_energy_mev.tolist()))
    angles = (f"{beam.gantry_deg:g}°", f"{beam.couch_deg:g}°")
    counts = (str(len(beam.spot_mu)), str(layers), f"{beam.spot_mu.sum():.1f}", str(beam.fractions))
    return (f"{beam.number} {beam.name}", *angles, *counts)


def _photon_cells(beam: PhotonBeam) -> tuple[str, ...]:
    return (
        f"{beam.number} {beam.name}",
        photonbeams.energy(beam),
        photonbeams.technique(beam),
        photonbeams.gantry(beam, "°"),
        f"{photonbeams.field_cm(beam)} cm",
        str(len(beam.gantry_deg)),
        f"{beam.meterset_mu:.1f}",
        str(beam.fractions),
    )

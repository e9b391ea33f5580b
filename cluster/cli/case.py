"""`doseeng case show`: what is in a folder and what would be used."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster import photonbeams
from cluster.cli import options
from cluster.cli.console import ExitCode, err, out, print_json, show_line, show_notices
from doseeng.case import Case
from doseeng.dicom.case import read_case
from doseeng.dicom.files import opened_folder
from doseeng.dicom.inventory import Inventory, links_of, scan, series_of
from doseeng.errors import DoseengError
from doseeng.masks import volume_cm3
from doseeng.plan import PhotonBeam, ProtonBeam

app = typer.Typer(no_args_is_help=True, help="Look into DICOM folders.")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Folder or .zip with DICOM objects.")],
    plan: options.PlanUid = None,
    accept_patient_mismatch: options.AcceptMismatch = False,
    as_json: options.Json = False,
) -> None:
    """Tell what is in a folder, how it hangs together and what a computation would use.

    Exit code 0 when the folder makes a usable case, 4 when it does not (the reason is shown).
    """
    with err.status("Reading", spinner="dots"), opened_folder(folder) as opened:
        inventory = scan(opened)
        case, problem = None, None
        try:
            case = read_case(opened, plan, accept_patient_mismatch=accept_patient_mismatch)
        except DoseengError as error:
            problem = error
    if as_json:
        print_json(_as_json(inventory, case, problem))
    else:
        _show_inventory(inventory)
        if case is not None:
            _show_case(case)
        if problem is not None:
            kind = type(problem).__name__
            show_line(err, f"[bold red]Not usable as a case[/bold red] ({kind}): {escape(str(problem))}")
    raise typer.Exit(ExitCode.ERROR if problem else ExitCode.GREEN)


def _show_inventory(inventory: Inventory) -> None:
    table = Table(title="In the folder", title_justify="left")
    for heading in ("patient", "modality", "what", "files", "labels"):
        table.add_column(heading, justify="right" if heading == "files" else "left")
    for series in series_of(inventory):
        labels = escape(", ".join(series.labels))
        table.add_row(series.patient_key, series.modality, series.role, str(series.count), labels)
    out.print(table)
    for link in links_of(inventory):
        mark = "[green]found[/green]" if link.is_found else "[red]missing[/red]"
        show_line(out, f"  {link.kind}: {escape(link.source)} → {link.target_uid} {mark}")
    if inventory.other_files:
        out.print(f"  {inventory.other_files} files that are not DICOM were passed over")
    show_notices(inventory.notices)


def _show_case(case: Case) -> None:
    ct = case.ct.grid
    out.print(f"\n[bold]Would be used[/bold]: case {case.key}, plan '{escape(case.plan.label)}' ({case.plan.modality})")
    spacing = " x ".join(f"{s:.2f}" for s in ct.spacing_mm)
    out.print(
        f"  image {ct.shape[2]} x {ct.shape[1]} x {ct.shape[0]} voxels of {spacing} mm, {case.plan.patient_position}"
    )
    for beam in case.plan.beams:
        delivers = _proton_text(beam) if isinstance(beam, ProtonBeam) else _photon_text(beam)
        name, machine = escape(beam.name), escape(beam.machine)
        out.print(f"  beam {beam.number} '{name}': {machine}, {escape(delivers)}, {beam.fractions} fractions")
    targets = {p.roi_number: p.dose_gy for p in case.plan.prescriptions}
    table = Table(title="Structures", title_justify="left")
    for heading in ("no.", "name", "kind", "cm³", "prescribed"):
        table.add_column(heading, justify="left" if heading in ("name", "kind") else "right")
    for s in case.structures.structures:
        volume = "empty" if s.is_empty else f"{volume_cm3(s):.1f}"
        prescribed = f"{targets[s.number]:g} Gy" if s.number in targets else ""
        table.add_row(str(s.number), escape(s.name), s.kind, volume, prescribed)
    out.print(table)
    for dose in case.doses:
        beams = f" of beams {', '.join(map(str, dose.beam_numbers))}" if dose.beam_numbers else ""
        out.print(f"  dose {dose.summation}{beams}: maximum {dose.volume.values.max():.2f} Gy, {dose.quantity}")
    show_notices(case.notices)


def _proton_text(beam: ProtonBeam) -> str:
    angles = f"gantry {beam.gantry_deg:g}°, couch {beam.couch_deg:g}°"
    return f"{angles}, {len(beam.spot_mu)} spots, {beam.spot_mu.sum():.1f} MU"


def _photon_text(beam: PhotonBeam) -> str:
    pairs = " + ".join(str(mlc.leaf_mm.shape[2]) for mlc in beam.mlcs)
    parts = (
        f"{photonbeams.energy(beam)} {photonbeams.technique(beam)}",
        f"gantry {photonbeams.gantry(beam, '°')}",
        f"collimator {photonbeams.span(beam.collimator_deg, '°')}",
        f"couch {photonbeams.span(beam.couch_deg, '°')}",
        f"field {photonbeams.field_cm(beam)} cm",
        f"{pairs} leaf pairs" if pairs else "",
        photonbeams.accessories(beam),
        f"{len(beam.gantry_deg)} control points",
        f"{beam.meterset_mu:.1f} MU",
    )
    return ", ".join(part for part in parts if part)


def _as_json(inventory: Inventory, case: Case | None, problem: DoseengError | None) -> dict[str, object]:
    used = None
    if case is not None:
        used = {
            "case": case.key,
            "plan": case.plan.label,
            "modality": case.plan.modality,
            "beams": len(case.plan.beams),
            "structures": [{"number": s.number, "name": s.name, "kind": s.kind} for s in case.structures.structures],
            "doses": len(case.doses),
            "notices": [asdict(n) for n in case.notices],
        }
    return {
        "series": [asdict(s) for s in series_of(inventory)],
        "links": [asdict(link) for link in links_of(inventory)],
        "notices": [asdict(n) for n in inventory.notices],
        "other_files": inventory.other_files,
        "used": used,
        "problem": None if problem is None else {"type": type(problem).__name__, "message": str(problem)},
    }

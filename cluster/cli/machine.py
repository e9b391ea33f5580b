"""`doseeng machine`: beam models, listed, shown, imported and commissioned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli import options
from cluster.cli.console import out, print_json, progress_bar, show_line, show_notices
from doseeng.errors import Notice
from doseeng.machines.commission import commission_proton
from doseeng.machines.file import machine_hash, write_machine
from doseeng.machines.importers import import_dcpt, import_matrad, import_mcsquare
from doseeng.machines.library import find_machine, install_machine, list_machines
from doseeng.machines.model import ProtonMachine

app = typer.Typer(no_args_is_help=True, help="Beam models: list, show, import, commission.")
importers = typer.Typer(no_args_is_help=True, help="Import a beam model from another program's data.")
app.add_typer(importers, name="import")

Name = Annotated[str | None, typer.Option(help="Name of the new machine; without it from the file.")]
Alias = Annotated[list[str] | None, typer.Option(help="Treatment machine name of plans that this model stands for.")]
Out = Annotated[Path | None, typer.Option("--out", help="File to write instead of installing for this user.")]


@app.command("list")
def list_(folder: options.MachineFolder = None, as_json: options.Json = False) -> None:
    """List the machines that plans can use."""
    entries, notices = list_machines(folder or [])
    if as_json:
        machines = [_summary(e.machine) | {"file": str(e.path)} for e in entries]
        print_json({"machines": machines, "notices": [asdict(n) for n in notices]})
        return
    table = Table()
    for heading in ("name", "version", "stands for", "energies MeV", "range mm", "file"):
        table.add_column(heading)
    for entry in entries:
        m = entry.machine
        energies = f"{m.energy_mev[0]:g} – {m.energy_mev[-1]:g} ({len(m.energy_mev)})"
        ranges = f"{m.range_mm[0]:.0f} – {m.range_mm[-1]:.0f}"
        table.add_row(
            escape(m.name), escape(m.version), escape(", ".join(m.aliases)), energies, ranges, escape(entry.path.name)
        )
    out.print(table)
    show_notices(notices)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name or alias of a machine.")],
    folder: options.MachineFolder = None,
    as_json: options.Json = False,
) -> None:
    """Show what a machine delivers, energy by energy."""
    machine = find_machine(name, folder or [])
    if as_json:
        print_json(_summary(machine))
        return
    out.print(f"[bold]{escape(machine.name)}[/bold] {machine.version}: {escape(machine.description)}")
    out.print(f"source: {escape(machine.source)} · sha256 {machine_hash(machine)[:16]}")
    distance = " / ".join(f"{d:g}" for d in machine.source_distance_mm)
    out.print(
        f"virtual source distances x / y {distance} mm, optics {machine.optics.plane_mm:g} mm upstream of the isocentre"
    )
    for shifter in machine.range_shifters:
        out.print(f"range shifter {escape(shifter.id)}: {shifter.wet_mm:g} mm water, {shifter.density_gcm3:g} g/cm³")
    table = Table()
    for heading in (
        "MeV",
        "range mm",
        "spread MeV",
        "protons / MU",
        "σx / σy mm",
        "wide share %",
        "halo at 80 % range %",
    ):
        table.add_column(heading, justify="right")
    for i, energy in enumerate(machine.energy_mev):
        sigma = " / ".join(f"{s:.2f}" for s in machine.optics.sigma_mm[i, 0])
        halo = 100 * machine.halo.fraction[i][int(abs(machine.halo.depth_fraction - 0.8).argmin())]
        table.add_row(
            f"{energy:g}",
            f"{machine.range_mm[i]:.1f}",
            f"{machine.energy_spread_mev[i]:.2f}",
            f"{machine.protons_per_mu[i]:.3g}",
            sigma,
            f"{100 * machine.optics.weight[i]:.1f}",
            f"{halo:.1f}",
        )
    out.print(table)


@importers.command("mcsquare")
def from_mcsquare(
    beam_data: Annotated[Path, typer.Argument(help="Beam data library text (BDL).")],
    depth_doses: Annotated[Path, typer.Argument(help="Depth doses in water: .npz, .csv or text.")],
    name: Name = None,
    alias: Alias = None,
    output: Out = None,
    as_json: options.Json = False,
) -> None:
    """From MCsquare beam data and a depth-dose table."""
    machine, notices = import_mcsquare(beam_data, depth_doses, name=name)
    _keep(machine, notices, alias, output, as_json)


@importers.command("matrad")
def from_matrad(
    file: Annotated[Path, typer.Argument(help="matRad or pyRadPlan protons_*.mat.")],
    focus: Annotated[int, typer.Option(min=0, help="Which focus of the table.")] = 0,
    name: Name = None,
    alias: Alias = None,
    output: Out = None,
    as_json: options.Json = False,
) -> None:
    """From a matRad or pyRadPlan machine file."""
    machine, notices = import_matrad(file, focus=focus, name=name)
    _keep(machine, notices, alias, output, as_json)


@importers.command("dcpt")
def from_dcpt(
    file: Annotated[Path, typer.Argument(help="DCPT beam model .csv.")],
    source_distance_mm: Annotated[
        tuple[float, float], typer.Option(help="Virtual source distances x y in mm, as plans state them (300A,030A).")
    ],
    base: Annotated[str, typer.Option(help="Machine whose depth doses and halo are taken.")] = "generic-pbs",
    folder: options.MachineFolder = None,
    name: Name = None,
    alias: Alias = None,
    output: Out = None,
    as_json: options.Json = False,
) -> None:
    """From a DCPT beam model: optics and protons per MU, with the depth doses of a base machine."""
    machine, notices = import_dcpt(
        file, base=find_machine(base, folder or []), source_distance_mm=source_distance_mm, name=name
    )
    _keep(machine, notices, alias, output, as_json)


@app.command()
def commission(
    beam_data: Annotated[Path, typer.Argument(help="MCsquare beam data text (BDL): optics, spread, protons per MU.")],
    water_scans: Annotated[Path, typer.Argument(help=".npz with depth doses and lateral profiles in water.")],
    name: Annotated[str, typer.Option(help="Name of the new machine.")],
    alias: Alias = None,
    output: Out = None,
    as_json: options.Json = False,
) -> None:
    """Fit a machine to water scans and report how well it meets them.

    With the beam data and scans that the shipped `generic-pbs` was made from, its name and `--alias generic`, this
    reproduces its file byte for byte.
    """
    with progress_bar("Fitting the halo", quiet=as_json) as progress:
        machine, residuals, notices = commission_proton(beam_data, water_scans, name, progress)
    if not as_json:
        table = Table(title="Residuals against the water scans", title_justify="left")
        for heading in ("MeV", "range mm", "profiles, rms % of each maximum", "depth dose, worst % of maximum"):
            table.add_column(heading, justify="right")
        for r in residuals:
            cells = (f"{r.range_mm:.2f}", f"{r.profile_percent:.2f}", f"{r.depth_dose_percent:.2f}")
            table.add_row(f"{r.energy_mev:g}", *cells)
        out.print(table)
    _keep(machine, notices, alias, output, as_json, residuals=[asdict(r) for r in residuals])


def _keep(
    machine: ProtonMachine,
    notices: Sequence[Notice],
    alias: list[str] | None,
    output: Path | None,
    as_json: bool,
    **more: object,
) -> None:
    """Write the machine where it is wanted and tell about it."""
    named = replace(machine, aliases=tuple(alias or machine.aliases))
    if output is None:
        path = install_machine(named)
    else:
        path = output
        write_machine(named, path)
    if as_json:
        told = {"machine": _summary(named), "file": str(path), "notices": [asdict(n) for n in notices]}
        print_json({**told, **more})
        return
    show_notices(notices)
    show_line(out, f"Machine '{escape(named.name)}' ({len(named.energy_mev)} energies) written to {escape(str(path))}")


def _summary(machine: ProtonMachine) -> dict[str, object]:
    return {
        "name": machine.name,
        "version": machine.version,
        "aliases": list(machine.aliases),
        "source": machine.source,
        "sha256": machine_hash(machine),
        "energy_mev": machine.energy_mev.tolist(),
        "range_mm": machine.range_mm.tolist(),
    }

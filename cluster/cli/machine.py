"""`doseeng machine`: beam models, listed, shown and imported."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli import options
from cluster.cli.adjust import adjust
from cluster.cli.commission import app as commission_app
from cluster.cli.console import out, print_json, show_notices
from cluster.cli.machineout import keep, summary
from doseeng.machines.importers import import_dcpt, import_matrad, import_mcsquare
from doseeng.machines.library import (
    Machine,
    MachineEntry,
    any_machine_hash,
    beam_quality,
    find_any_machine,
    find_machine,
    find_photon_machine,
    list_machines,
)
from doseeng.machines.model import ProtonMachine
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.photonphysics import effective_energy_mev, mean_energy_mev

app = typer.Typer(no_args_is_help=True, help="Beam models: list, show, import, commission, adjust.")
importers = typer.Typer(no_args_is_help=True, help="Import a beam model from another program's data.")
app.add_typer(importers, name="import")
app.add_typer(commission_app, name="commission")

Name = Annotated[str | None, typer.Option(help="Name of the new machine; without it from the file.")]


@app.command("list")
def list_(folder: options.MachineFolder = None, as_json: options.Json = False) -> None:
    """List the machines that plans can use."""
    entries, notices = list_machines(folder or [])
    if as_json:
        machines = [summary(e.machine) | {"file": str(e.path)} for e in entries]
        print_json({"machines": machines, "notices": [asdict(n) for n in notices]})
        return
    protons, photons = Table(title="Protons", title_justify="left"), Table(title="Photons", title_justify="left")
    for table, what in ((protons, ("energies MeV", "range mm")), (photons, ("beam", "cGy / MU", "leaves"))):
        for heading in ("name", "version", "stands for", *what, "file"):
            table.add_column(heading)
    for entry in entries:
        _add_row(photons if isinstance(entry.machine, PhotonMachine) else protons, entry)
    for table in (protons, photons):
        if table.row_count:
            out.print(table)
    show_notices(notices)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name or alias of a machine.")],
    energy_mv: Annotated[
        float | None, typer.Option(help="Which photon beam of a linac; without it the name must be enough.")
    ] = None,
    fluence_mode: Annotated[str, typer.Option(help="STANDARD or FFF; goes with --energy-mv.")] = "",
    folder: options.MachineFolder = None,
    as_json: options.Json = False,
) -> None:
    """Show what a machine delivers: a proton line energy by energy, a photon beam with its head and leaves."""
    machine = (
        find_any_machine(name, folder or [])
        if energy_mv is None
        else find_photon_machine(name, energy_mv, fluence_mode, folder or [])
    )
    if as_json:
        print_json(summary(machine))
        return
    out.print(f"[bold]{escape(machine.name)}[/bold] {escape(machine.version)}: {escape(machine.description)}")
    out.print(f"source: {escape(machine.source)} · sha256 {any_machine_hash(machine)[:16]}")
    if isinstance(machine, PhotonMachine):
        _show_photons(machine)
    else:
        _show_protons(machine)


def _add_row(table: Table, entry: MachineEntry[Machine]) -> None:
    m = entry.machine
    what: tuple[str, ...]
    if isinstance(m, PhotonMachine):
        leaves = ", ".join(leaf.id for leaf in m.leaves)
        what = (beam_quality(m), f"{100 * m.reference.gy_per_mu:.4g}", escape(leaves))
    else:
        energies = f"{m.energy_mev[0]:g} – {m.energy_mev[-1]:g} ({len(m.energy_mev)})"
        what = (energies, f"{m.range_mm[0]:.0f} – {m.range_mm[-1]:.0f}")
    names = (escape(m.name), escape(m.version), escape(", ".join(m.aliases)))
    table.add_row(*names, *what, escape(entry.path.name))


def _show_protons(machine: ProtonMachine) -> None:
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


def _show_photons(machine: PhotonMachine) -> None:
    ref, head, electrons, jaws = machine.reference, machine.head, machine.electrons, machine.jaws
    mean = mean_energy_mev(machine.spectrum_mev, machine.spectrum_weight)
    effective = effective_energy_mev(machine.spectrum_mev, machine.spectrum_weight)
    focal = " / ".join(f"{s:g}" for s in head.focal_mm)
    rows = (
        ("beam", f"{beam_quality(machine)}, target to isocentre {machine.source_axis_mm:g} mm"),
        (
            "reference",
            f"{100 * ref.gy_per_mu:.5g} cGy/MU at {ref.depth_mm:g} mm depth, SSD {ref.ssd_mm:g} mm, "
            f"field {ref.field_mm:g} x {ref.field_mm:g} mm",
        ),
        ("spectrum", f"mean {mean:.2f} MeV; water attenuates the energy fluence as it does {effective:.2f} MeV"),
        ("profile", f"{machine.profile.max():.3f} at most, to {machine.profile_mm[-1]:g} mm from the axis"),
        ("focal spot", f"σx / σy {focal} mm"),
        (
            "extra-focal",
            f"{100 * head.scatter_share:.1f} % of the focal energy fluence, σ {head.scatter_sigma_mm:g} mm, "
            f"{head.scatter_plane_mm:g} mm from the target",
        ),
        ("electrons", f"{100 * electrons.share:.1f} % at the surface, 1/e in {electrons.depth_mm:g} mm of water"),
        ("jaws", f"{100 * jaws.transmission:.2f} %, X at {jaws.x_plane_mm:g} mm, Y at {jaws.y_plane_mm:g} mm"),
        ("wedges", ", ".join(f"{w.id} ({w.angle_deg:g}°)" for w in machine.wedges) or "none"),
    )
    table = Table(show_header=False)
    for name, text in rows:
        table.add_row(name, escape(text))
    out.print(table)
    leaves = Table(title="Multileaf collimators", title_justify="left")
    for heading in ("leaves", "number x mm", "plane mm", "transmission %", "between %", "tip offset mm", "tongue mm"):
        leaves.add_column(heading, justify="left" if heading == "leaves" else "right")
    for leaf in machine.leaves:
        widths = ", ".join(f"{count} x {width:g}" for count, width in leaf.widths)
        numbers = (100 * leaf.transmission, 100 * leaf.interleaf_transmission, leaf.tip_offset_mm, leaf.tongue_mm)
        leaves.add_row(escape(leaf.id), widths, f"{leaf.plane_mm:g}", *(f"{n:.2f}" for n in numbers))
    if machine.leaves:
        out.print(leaves)


@importers.command("mcsquare")
def from_mcsquare(
    beam_data: Annotated[Path, typer.Argument(help="Beam data library text (BDL).")],
    depth_doses: Annotated[Path, typer.Argument(help="Depth doses in water: .npz, .csv or text.")],
    name: Name = None,
    alias: options.Alias = None,
    output: options.MachineOut = None,
    as_json: options.Json = False,
) -> None:
    """From MCsquare beam data and a depth-dose table."""
    machine, notices = import_mcsquare(beam_data, depth_doses, name=name)
    keep(machine, notices, alias, output, as_json)


@importers.command("matrad")
def from_matrad(
    file: Annotated[Path, typer.Argument(help="matRad or pyRadPlan protons_*.mat.")],
    focus: Annotated[int, typer.Option(min=0, help="Which focus of the table.")] = 0,
    name: Name = None,
    alias: options.Alias = None,
    output: options.MachineOut = None,
    as_json: options.Json = False,
) -> None:
    """From a matRad or pyRadPlan machine file."""
    machine, notices = import_matrad(file, focus=focus, name=name)
    keep(machine, notices, alias, output, as_json)


@importers.command("dcpt")
def from_dcpt(
    file: Annotated[Path, typer.Argument(help="DCPT beam model .csv.")],
    source_distance_mm: Annotated[
        tuple[float, float], typer.Option(help="Virtual source distances x y in mm, as plans state them (300A,030A).")
    ],
    base: Annotated[str, typer.Option(help="Machine whose depth doses and halo are taken.")] = "generic-pbs",
    folder: options.MachineFolder = None,
    name: Name = None,
    alias: options.Alias = None,
    output: options.MachineOut = None,
    as_json: options.Json = False,
) -> None:
    """From a DCPT beam model: optics and protons per MU, with the depth doses of a base machine."""
    machine, notices = import_dcpt(
        file, base=find_machine(base, folder or []), source_distance_mm=source_distance_mm, name=name
    )
    keep(machine, notices, alias, output, as_json)


app.command()(adjust)

"""`doseeng machine commission`: a machine fitted to what a clinic measured in water, and how well it meets that."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli import options
from cluster.cli.console import err, out, progress_bar, show_line, staged_progress_bar
from cluster.cli.machineout import tell, write
from doseeng.cpu import cpu
from doseeng.errors import ConfigError, MachineError, Notice
from doseeng.machines.commission import commission_proton
from doseeng.machines.library import find_any_machine, find_photon_machine
from doseeng.machines.photoncommission import Residual, commission_photon, usable
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.machines.scans import Measurements, read_scans

app = typer.Typer(no_args_is_help=True, help="Fit a machine to what was measured in water.")

VERSION: Final = "1"
WITHIN_PERCENT: Final = (2.0, 5.0)
"""Dose relative to reference conditions: one of them changed, several changed (AAPM MPPG 5.a, Smilowitz et al., J Appl
Clin Med Phys 16 (2015) 14, table 5)."""
WITHIN_MM: Final = (2.0, 3.0)
"""Penumbra: Venselaar et al., Radiother Oncol 60 (2001) 191; AAPM MPPG 5.a, table 5."""
COLORS: Final = ("green", "yellow", "red")
"""Within the first limit, the second, and beyond."""


class FluenceMode(StrEnum):
    """With flattening filter or without."""

    STANDARD = "STANDARD"
    FFF = "FFF"


NewName = Annotated[str, typer.Option(help="Name of the new machine.")]


@app.command()
def proton(
    beam_data: Annotated[Path, typer.Argument(help="MCsquare beam data text (BDL): optics, spread, protons per MU.")],
    water_scans: Annotated[Path, typer.Argument(help=".npz with depth doses and lateral profiles in water.")],
    name: NewName,
    alias: options.Alias = None,
    output: options.MachineOut = None,
    as_json: options.Json = False,
) -> None:
    """Fit a scanned proton line to water scans and report how well it meets them.

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
    machine = replace(machine, aliases=tuple(alias or machine.aliases))
    told = [asdict(r) for r in residuals]
    tell(machine, write(machine, output), notices, as_json, residuals=told)


@app.command()
def photon(
    scans: Annotated[
        Path, typer.Argument(help="Folder of water scans and output factors: .csv and W2CAD .asc.", metavar="SCANS/")
    ],
    name: NewName,
    like: Annotated[
        str | None,
        typer.Option(
            help="Machine to start from: its head, collimators, reference, and whatever the scans do not decide. "
            "Without it the generic one of this energy and mode."
        ),
    ] = None,
    energy: Annotated[
        float | None, typer.Option(metavar="MV", min=1.0, max=50.0, help="Nominal energy; without it that of --like.")
    ] = None,
    mode: Annotated[FluenceMode | None, typer.Option(help="Without it that of --like, or else STANDARD.")] = None,
    reference_ssd: Annotated[
        float | None, typer.Option(metavar="MM", min=500.0, max=2000.0, help="SSD at which the dose per MU is stated.")
    ] = None,
    reference_depth: Annotated[
        float | None, typer.Option(metavar="MM", min=1.0, max=300.0, help="Depth in water at which it is stated.")
    ] = None,
    reference_field: Annotated[
        float | None, typer.Option(metavar="MM", min=10.0, max=400.0, help="Side of its square field at the isocentre.")
    ] = None,
    cgy_per_mu: Annotated[
        float | None,
        typer.Option(
            metavar="CGY",
            min=0.01,
            max=100.0,
            help="Dose to water per monitor unit there; all four without it as in --like.",
        ),
    ] = None,
    alias: options.Alias = None,
    folder: options.MachineFolder = None,
    output: options.MachineOut = None,
    plots: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Picture to write instead of one beside the machine.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Fit a photon beam to water scans, report how well it meets them, and draw both.

    Depth doses decide the spectrum and contaminant electrons, the widest profile the open beam, penumbras the focal
    spot, output factors the extra-focal source. What nothing decides stays as it is in the machine to start from, and
    a notice says so.
    """
    options.require_writable(output, plots)
    start = _starting_from(like, energy, mode, folder or [])
    given = {"ssd_mm": reference_ssd, "depth_mm": reference_depth, "field_mm": reference_field}
    given["gy_per_mu"] = None if cgy_per_mu is None else 0.01 * cgy_per_mu
    reference = replace(start.reference, **{key: value for key, value in given.items() if value is not None})
    start = replace(start, reference=reference)
    measured = usable(read_scans(scans))
    with staged_progress_bar(quiet=as_json) as progress:
        fitted, residuals, notices = commission_photon(measured, start, progress)
    machine = replace(
        fitted,
        name=name,
        version=VERSION,
        description=_description(measured, start),
        # The folder's own name: paths may tell more than a file that is passed on should.
        source=f"water scans in '{scans.resolve().name}'",
        aliases=tuple(alias or ()),
    )
    path = write(machine, output)
    picture = plots or path.with_name(f"{path.stem}-commissioning.png")
    with err.status("Drawing", spinner="dots"):
        _draw(machine, start, measured, picture)
    notices = (*notices, *_kept(start, cgy_per_mu))
    if not as_json:
        out.print(_table(residuals))
    told = [asdict(r) for r in residuals]
    tell(machine, path, notices, as_json, residuals=told, plots=str(picture))
    if not as_json:
        show_line(out, f"Measured and modelled curves: {escape(str(picture))}")


def _starting_from(
    like: str | None, energy_mv: float | None, mode: FluenceMode | None, folders: list[Path]
) -> PhotonMachine:
    """The machine to start from, of the energy and mode asked for."""
    if like is None:
        if energy_mv is None:
            raise ConfigError("say which beam it is: --energy MV (and --mode FFF), or --like MACHINE to start from one")
        return find_photon_machine("generic", energy_mv, mode or "", folders)
    if energy_mv is not None:
        # A linac is one machine per beam, under one alias: the beam's own where there is one.
        with suppress(MachineError):
            return find_photon_machine(like, energy_mv, mode or "", folders)
    start = find_any_machine(like, folders)
    if not isinstance(start, PhotonMachine):
        raise MachineError(f"--like {like}: '{start.name}' is a proton machine; a photon machine was expected")
    mode = mode or FluenceMode(start.fluence_mode)
    softening = start.softening if mode == start.fluence_mode else float(mode is FluenceMode.STANDARD)
    return replace(start, energy_mv=energy_mv or start.energy_mv, fluence_mode=mode.value, softening=softening)


def _description(measured: Measurements, start: PhotonMachine) -> str:
    found = f"{len(measured.scans)} scans and {len(measured.output_factors)} output factors"
    return f"Fitted to {found}; what they do not decide as in '{start.name}' {start.version}"


def _kept(start: PhotonMachine, cgy_per_mu: float | None) -> list[Notice]:
    """What water scans never decide."""
    kept = f"taken from '{start.name}'"
    text = f"open fields do not tell their transmission and gap; {kept}; `doseeng machine adjust --leaf-gap` sets one"
    notices = [Notice("kept-from-start", "jaws and leaves", text)]
    if cgy_per_mu is None:
        text = f"{100 * start.reference.gy_per_mu:g} cGy/MU {kept}; state yours with --cgy-per-mu"
        notices.append(Notice("kept-from-start", "dose per monitor unit", text))
    return notices


def _draw(machine: PhotonMachine, start: PhotonMachine, measured: Measurements, path: Path) -> None:
    # Here and not above: drawing takes a second to load, which other commands need not wait for.
    from cluster.report.commissioning import write_commissioning

    write_commissioning(path, machine, start, measured, cpu())


def _table(residuals: Sequence[Residual]) -> Table:
    percent, mm = (" and ".join(f"{limit:g} {unit}" for limit in limits) for limits, unit in
                   ((WITHIN_PERCENT, "%"), (WITHIN_MM, "mm")))  # fmt: skip
    table = Table(
        title="Model against measurement",
        title_justify="left",
        caption=f"Green and yellow: within {percent} (AAPM MPPG 5.a); penumbra 80-20 %, model less measured: "
        f"within {mm} (Venselaar et al. 2001; MPPG 5.a)",
        caption_justify="left",
    )
    table.add_column("measurement")
    for heading in ("worst %", "rms %", "penumbra mm"):
        table.add_column(heading, justify="right")
    for r in residuals:
        penumbra = "" if r.penumbra_mm is None else _colored(r.penumbra_mm, WITHIN_MM)
        table.add_row(r.what, _colored(r.worst_percent, WITHIN_PERCENT), f"{r.rms_percent:.2f}", penumbra)
    return table


def _colored(value: float, limits: tuple[float, float]) -> str:
    color = COLORS[sum(abs(value) > limit for limit in limits)]
    return f"[{color}]{value:+.2f}[/{color}]"

"""`doseeng machine adjust`: take a photon machine to one point of one plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli import options
from cluster.cli.console import err, out
from cluster.cli.machineout import tell, write
from doseeng.adjustment import Adjustment, Point, adjust_to_point, in_words, planned_dose_gy
from doseeng.engine import EngineSettings

VERSION: Final = "1"


def adjust(
    machine: Annotated[str, typer.Argument(help="Photon machine to start from; that of the plan's energy and mode.")],
    case_dir: options.CaseDir,
    name: Annotated[str, typer.Option(help="Name of the new machine.")],
    point: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="X Y Z", help="DICOM patient coordinates in mm; without it the first beam's isocentre."),
    ] = None,
    dose: Annotated[
        float | None,
        typer.Option(
            metavar="GY", min=0.01, help="Dose of the whole course there; without it the planning system's plan dose."
        ),
    ] = None,
    leaf_gap: Annotated[
        float | None,
        typer.Option(
            metavar="MM", min=0.0, max=10.0, help="Full gap between opposed closed leaves; without it as it is."
        ),
    ] = None,
    plan: options.PlanUid = None,
    folder: options.MachineFolder = None,
    hu_table: options.HuTableOption = options.DEFAULT_HU_TABLE,
    spacing: options.Spacing = 3.0,
    accept_patient_mismatch: options.AcceptMismatch = False,
    backend: options.BackendOption = "auto",
    output: options.MachineOut = None,
    as_json: options.Json = False,
) -> None:
    """Scale a photon machine's output so that a plan's dose at one point is as stated.

    First the leaf gap, where one is given, then dose per monitor unit, computed with the collapsed cone as `doseeng
    dose` does. The new machine stands for the machine that the plan names. It is no commissioning: depth doses,
    profiles and penumbras stay those of the machine it starts from.
    """
    options.require_writable(output)
    with err.status("Reading the case", spinner="dots"):
        case = options.load_case(case_dir, plan, accept_patient_mismatch, None)
        beams = case.plan.photon_beams
        x, y, z = point or beams[0].isocenter_mm[0].tolist()
        at: Point = (x, y, z)
        wanted_gy = planned_dose_gy(case, at) if dose is None else dose
        settings = EngineSettings(spacing_mm=spacing)
        prepared = options.prepare_case(case, machine, folder, hu_table, settings, backend)
    with err.status(f"Computing dose at {in_words(at)}", spinner="dots"):
        done = adjust_to_point(prepared, at, wanted_gy, leaf_gap)
    start = done.start
    made = replace(
        done.machine,
        name=name,
        version=VERSION,
        description=f"{start.description}; taken to one point of one plan",
        source=f"{start.source}; adjusted from '{start.name}' {start.version}",
        aliases=tuple(dict.fromkeys(beam.machine for beam in beams if beam.machine)),
    )
    path = write(made, output)
    if not as_json:
        out.print(_table(done, at))
    # That another machine than the plan's is computed with is what this command is for.
    notices = [n for n in (*prepared.notices, *done.notices) if n.code != "machine-replaced"]
    dose_gy = {"before_gy": done.before_gy, "with_leaf_gap_gy": done.gap_gy, "after_gy": done.wanted_gy}
    tell(made, path, notices, as_json, point_mm=list(at), dose=dose_gy, ratio=done.ratio)


def _table(done: Adjustment, at: Point) -> Table:
    """What each step changes: the leaf gap where it was set, then the output."""
    stages = [("before", done.start, done.start, done.before_gy)]
    if done.leaves:
        stages.append(("leaf gap set", done.machine, done.start, done.gap_gy))
    stages.append(("output set", done.machine, done.machine, done.wanted_gy))
    table = Table(title=f"Adjusted to {in_words(at)}", title_justify="left")
    table.add_column()
    for heading, *_ in stages:
        table.add_column(heading, justify="right")
    for leaf_id in done.leaves:
        gaps = [2.0 * leaf.tip_offset_mm for _, gap, _, _ in stages for leaf in gap.leaves if leaf.id == leaf_id]
        table.add_row(f"leaf gap of {escape(leaf_id)}, mm", *(f"{gap:.2f}" for gap in gaps))
    outputs = (f"{100 * output.reference.gy_per_mu:.4f}" for _, _, output, _ in stages)
    table.add_row("output at the reference, cGy/MU", *outputs)
    table.add_row("dose at the point, Gy", *(f"{dose_gy:.3f}" for *_, dose_gy in stages))
    return table

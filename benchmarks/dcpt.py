"""A real plan against its planning system: `python -m benchmarks.dcpt ZIP_OR_DIR [--json]`.

Two opposing sloped fields in a slab phantom, planned in RayStation for the Danish Centre for Particle Therapy
(APTG/2022_DCPT_LET, CC-BY-4.0); the reference is its Monte Carlo dose. The machine is the centre's published beam model
(optics, protons per MU) with the depth doses of the shipped generic machine: nothing is fitted to this plan, nothing is
normalised. The plan file says gantry 90/270 where the dose was computed at 0/180, so the latter is used.

Curves along the beam axis are means of 5 x 5 voxels (10 x 10 mm) around it, because the reference carries about 1 % of
noise per voxel.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from doseeng.comparison import Comparison, compare
from doseeng.dicom.case import read_case
from doseeng.dicom.files import opened_folder
from doseeng.dose import Dose
from doseeng.engine import Prepared, prepare, single_beam_dose
from doseeng.grid import Volume, resample
from doseeng.machines.file import write_machine
from doseeng.machines.importers import import_dcpt
from doseeng.machines.library import find_machine

Array = npt.NDArray[np.float64]

BEAM_MODEL = "DCPT_beam_model__v5.csv"
PLAN = "plan03"
SOURCE_DISTANCE_MM = (2000.0, 2560.0)
"""Virtual Source-Axis Distances (300A,030A) of the plan."""
GANTRY_DEG = {1: 0.0, 2: 180.0}
"""Where the dose was computed, by beam number."""
HALF_WIDTH = 2
"""Voxels on each side of the axis that a curve averages."""
PLATEAU_MM = (65.0, 95.0)
HIGH_DOSE_MM = 40.0
"""The entrances on both sides lie so far from the isocentre; the target reaches 50 mm."""
RAMP_LEVELS = (0.8, 0.5)
"""Shares of the maximum that a field passes on its slope, where 1 % of dose is 0.5 to 0.9 mm of depth."""
EDGE_LEVELS = (0.08, 0.05)
"""The slope ends at a tenth of the maximum; these are 80 % and 50 % of it, on the distal edge itself."""


@dataclass(frozen=True, slots=True)
class AxisFigures:
    """The sum of the fields along the axis, computed / reference: means of two regions and the worst single point."""

    plateau_ratio: float
    high_dose_ratio: float
    worst_percent: float


@dataclass(frozen=True, slots=True)
class EdgeFigures:
    """How much deeper the computed dose of a field falls to the same dose, mm: at RAMP_LEVELS and EDGE_LEVELS."""

    ramp_mm: tuple[float, float]
    edge_mm: tuple[float, float]


def main(arguments: list[str] | None = None) -> int:
    """Compute the plan and print how it compares."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dcpt", description=__doc__)
    parser.add_argument("data", type=Path, help="dcpt_proton_slab.zip, or the folder of its contents")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    options = parser.parse_args(arguments)
    with opened_folder(options.data) as folder, tempfile.TemporaryDirectory() as machines:
        prepared = prepared_plan(folder, Path(machines))
    comparisons, axis, edges = measure(prepared)
    if options.json:
        rows = [asdict(c) for c in comparisons]
        print(json.dumps({"doses": rows, "axis": asdict(axis), "fields": [asdict(e) for e in edges]}, indent=2))
    else:
        for table in _tables(comparisons, axis, edges):
            Console(width=110).print(table)
    return 0


def prepared_plan(folder: Path, machine_folder: Path) -> Prepared:
    """The plan at the gantry angles of its dose, with the centre's machine, which is written to `machine_folder`."""
    machine, _ = import_dcpt(
        next(folder.rglob(BEAM_MODEL)), base=find_machine("generic-pbs"), source_distance_mm=SOURCE_DISTANCE_MM
    )
    write_machine(replace(machine, aliases=("TR3",)), machine_folder / "dcpt.toml")
    case = read_case(folder / PLAN, accept_patient_mismatch=True)
    beams = tuple(replace(b, gantry_deg=GANTRY_DEG[b.number]) for b in case.plan.proton_beams)
    return prepare(replace(case, plan=replace(case.plan, beams=beams)), machine_folders=[machine_folder])


def measure(prepared: Prepared) -> tuple[list[Comparison], AxisFigures, list[EdgeFigures]]:
    """Gamma of plan and fields, the sum along the axis, and the distal edge of each field."""
    references = {d.beam_numbers: d for d in prepared.case.doses}
    fields = [single_beam_dose(prepared, i) for i in range(len(prepared.beams))]
    values = sum(f.volume.values for f in fields)
    total = replace(fields[0], volume=Volume(prepared.grid, values), beam_numbers=())
    comparisons, edges = [compare("plan", references[()], total)], []
    for field, beam in zip(fields, prepared.beams, strict=True):
        reference = references[(beam.number,)]
        comparisons.append(compare(f"field {beam.number}, gantry {beam.gantry_deg:g}", reference, field))
        edges.append(edge_figures(reference, field, beam.gantry_deg))
    return comparisons, axis_figures(references[()], total), edges


def axis_curve(dose: Dose, reference: Dose) -> tuple[Array, Array]:
    """(y in mm, Gy) through the isocentre at (0, 0, 0) along patient y, on the grid of `reference`."""
    grid = reference.volume.grid
    values = resample(dose.volume, grid, 0.0).values
    i, _, k = np.rint(grid.to_index((0.0, 0.0, 0.0))).astype(int)
    around = values[k - HALF_WIDTH : k + HALF_WIDTH + 1, :, i - HALF_WIDTH : i + HALF_WIDTH + 1]
    y_mm = grid.origin_mm[1] + grid.spacing_mm[1] * np.arange(grid.shape[1])
    return y_mm, around.mean(axis=(0, 2), dtype=np.float64)


def axis_figures(reference: Dose, computed: Dose) -> AxisFigures:
    """How the sum of the fields compares along the axis."""
    (y_mm, expected), (_, found) = axis_curve(reference, reference), axis_curve(computed, reference)
    plateau = (np.abs(y_mm) > PLATEAU_MM[0]) & (np.abs(y_mm) < PLATEAU_MM[1])
    high = np.abs(y_mm) < HIGH_DOSE_MM
    difference = 100.0 * (found / np.where(expected > 0, expected, np.inf) - 1.0)[plateau | high]
    return AxisFigures(
        float(found[plateau].sum() / expected[plateau].sum()),
        float(found[high].sum() / expected[high].sum()),
        float(difference[np.abs(difference).argmax()]),
    )


def edge_figures(reference: Dose, computed: Dose, gantry_deg: float) -> EdgeFigures:
    """How far apart the falls of two doses of one field lie; gantry 0 comes from -y, 180 from +y."""
    downstream = 1.0 if gantry_deg == 0.0 else -1.0
    y_mm, expected = axis_curve(reference, reference)
    _, found = axis_curve(computed, reference)
    order = np.argsort(downstream * y_mm)
    depth = downstream * y_mm[order]

    def deeper(level: float) -> float:
        gy = level * expected.max()
        return _fall_mm(depth, found[order], gy) - _fall_mm(depth, expected[order], gy)

    ramp, edge = ((deeper(a), deeper(b)) for a, b in (RAMP_LEVELS, EDGE_LEVELS))
    return EdgeFigures(ramp, edge)


def _fall_mm(depth_mm: Array, gy: Array, level_gy: float) -> float:
    """The last depth where a curve falls through a dose, linear between points."""
    last = int(np.flatnonzero(gy >= level_gy)[-1])
    rest = (gy[last] - level_gy) / (gy[last] - gy[last + 1])
    return float(depth_mm[last] + rest * (depth_mm[last + 1] - depth_mm[last]))


def _tables(comparisons: list[Comparison], axis: AxisFigures, edges: list[EdgeFigures]) -> list[Table]:
    doses = Table(title="DCPT slab, RayStation Monte Carlo (RBE 1.1) against doseeng, absolute")
    for heading in ("dose", "γ 3 %/3 mm %", "points", "mean ratio > 50 %", "max TPS Gy", "max doseeng Gy"):
        doses.add_column(heading, justify="left" if heading == "dose" else "right")
    for c in comparisons:
        maxima = (f"{c.reference_max_gy:.3f}", f"{c.computed_max_gy:.3f}")
        doses.add_row(c.what, f"{c.gamma_percent:.2f}", str(c.points), f"{c.mean_ratio:.4f}", *maxima)
    along = Table(title="Along the axis (mean of 10 x 10 mm)")
    along.add_column("what")
    along.add_column("doseeng against TPS", justify="right")
    along.add_row("plan, entrance plateaus", f"{100 * (axis.plateau_ratio - 1):+.2f} %")
    along.add_row("plan, high dose", f"{100 * (axis.high_dose_ratio - 1):+.2f} %")
    along.add_row("plan, worst single point of both", f"{axis.worst_percent:+.2f} %")
    for comparison, edge in zip(comparisons[1:], edges, strict=True):
        for name, (at_80, at_50) in (("slope", edge.ramp_mm), ("distal edge", edge.edge_mm)):
            along.add_row(f"{comparison.what}: {name} at 80 % / 50 %", f"{at_80:+.2f} / {at_50:+.2f} mm")
    return [doses, along]


if __name__ == "__main__":
    sys.exit(main())

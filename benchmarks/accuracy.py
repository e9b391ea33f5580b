"""Accuracy against Monte Carlo: `python -m benchmarks.accuracy proton|photon DIR [--json]`.

What is said of photons stands in `benchmarks.photon_accuracy`. Protons: gamma is global to the reference's maximum
above a 10 % threshold; every reference point is searched in the computed dose. Voxels below 0.1 g/cm3 (air) are left
out: the reference is noisy there. Nothing is normalised.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import photon_accuracy
from benchmarks.mc_case import McCase, find_tables, is_case_file, read_mc_case, reference_hu_table, reference_machine
from doseeng.gamma import gamma
from doseeng.grid import Grid, Volume, beam_frame, resample
from doseeng.machines.depthdose import distal_range_mm
from doseeng.machines.model import ProtonMachine
from doseeng.proton import beam_dose

AIR_GCM3 = 0.1
SIGMA_DEPTHS = (0.1, 0.5, 0.9)
"""Depths over range where the width of a single spot is compared."""


def main(arguments: list[str] | None = None) -> int:
    """Run every case file of a folder and print one row each, or the tables of photons."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("particle", choices=["proton", "photon"])
    parser.add_argument("folder", type=Path, help="folder of case files (.npz), such as ../shared/data/proton_mc")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    parser.add_argument("--peer", action="store_true", help="photons: beside pyRadPlan, which is installed if needed")
    options = parser.parse_args(arguments)
    if options.particle == "photon":
        return photon_accuracy.report(options.folder, options.json, options.peer)
    files = [p for p in sorted(options.folder.glob("*.npz")) if is_case_file(p)]
    if not files:
        print(f"no case file (.npz with dose_gy, hu, spots) in {options.folder}", file=sys.stderr)
        return 1
    tables = find_tables(options.folder)
    machine, hu_table = reference_machine(tables), reference_hu_table(tables)
    rows = [evaluate(read_mc_case(path, hu_table), machine) for path in files]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        Console(width=150).print(_as_table(rows))
    return 0


def evaluate(case: McCase, machine: ProtonMachine) -> dict[str, object]:
    """Figures of one case; the first computation compiles and warms up, the second is timed, the third is weighed."""
    grid = case.dose.grid
    beam_dose(case.beam, machine, case.maps, grid, "HFS")
    cpu, wall = time.process_time(), time.perf_counter()
    computed = Volume(grid, beam_dose(case.beam, machine, case.maps, grid, "HFS"))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    tracemalloc.start()
    beam_dose(case.beam, machine, case.maps, grid, "HFS")
    memory = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    body = case.density >= AIR_GCM3
    high = body & (case.dose.values > 0.5 * case.dose.values.max())
    row: dict[str, object] = {"case": case.name}
    for percent, distance in ((2, 2), (3, 3)):
        result = gamma(case.dose, computed, dose_percent=percent, distance_mm=distance, mask=body)
        row[f"gamma_{percent}_{distance}"] = round(result.pass_rate_percent, 2)
    row["mean_ratio"] = round(float(computed.values[high].sum() / case.dose.values[high].sum()), 4)
    row["noise_percent"] = round(100 * float(case.rel_unc[high].mean()), 2)
    row.update(single_spot(case, computed) if case.is_single_spot else {})
    row.update(cpu_s=round(cpu, 2), wall_s=round(wall, 2), memory_mb=round(memory, 1))
    return row


def single_spot(case: McCase, computed: Volume) -> dict[str, object]:
    """Range difference (mm, computed - reference) and the largest relative difference of the spot width (percent)."""
    ranges, widths = zip(*(_range_and_widths(case, dose) for dose in (case.dose, computed)), strict=True)
    sigma = 100.0 * (widths[1] / widths[0] - 1.0)
    return {"r80_mm": round(ranges[1] - ranges[0], 2), "sigma_percent": round(float(sigma[np.abs(sigma).argmax()]), 2)}


def _range_and_widths(case: McCase, dose: Volume) -> tuple[float, np.ndarray]:
    """R80 of the laterally integrated dose, and sigma in gantry X and Y at SIGMA_DEPTHS."""
    frame = beam_frame(case.beam.isocenter_mm, case.beam.gantry_deg, case.beam.couch_deg)
    spacing = dose.grid.spacing_mm[0]
    reach = np.abs(frame.from_patient(dose.grid.corners_mm())).max(axis=0)
    n = np.maximum((2 * reach / spacing).astype(int), 2)
    # Gantry X, -Y and -Z (downstream) make a right-handed set whose slices are planes of equal depth.
    corner = [-0.5 * spacing * (n[0] - 1), 0.5 * spacing * (n[1] - 1), reach[2] - 0.5 * spacing]
    axes = np.column_stack([frame.axes[0], -frame.axes[1], -frame.axes[2]])
    grid = Grid((int(n[2]), int(n[1]), int(n[0])), (spacing,) * 3, tuple(frame.to_patient(corner)), axes)
    along = resample(dose, grid, 0.0).values
    depth_dose = along.sum(axis=(1, 2), dtype=float)
    depth = spacing * np.arange(len(depth_dose))
    range_mm = distal_range_mm(depth, depth_dose)
    entrance = depth[np.argmax(depth_dose > 0.1 * depth_dose.max())]
    widths = []
    for fraction in SIGMA_DEPTHS:
        plane = along[round((entrance + fraction * (range_mm - entrance)) / spacing)]
        widths += [_sigma(plane.sum(axis=0, dtype=float), spacing), _sigma(plane.sum(axis=1, dtype=float), spacing)]
    return range_mm, np.array(widths)


def _sigma(profile: np.ndarray, spacing_mm: float) -> float:
    """Width of the Gaussian through the part of a profile above 20 % of its maximum, weighted by dose."""
    use = np.flatnonzero(profile > 0.2 * profile.max())
    curvature = np.polyfit(use * spacing_mm, np.log(profile[use]), 2, w=profile[use])[0]
    return float(np.sqrt(-0.5 / curvature))


def _as_table(rows: list[dict[str, object]]) -> Table:
    table = Table(title="Proton pencil beam against Monte Carlo (absolute dose)")
    headings = {
        "case": "case", "gamma_2_2": "γ 2%/2mm %", "gamma_3_3": "γ 3%/3mm %", "mean_ratio": "mean ratio > 50 %",
        "noise_percent": "MC noise %", "r80_mm": "ΔR80 mm", "sigma_percent": "Δσ %", "cpu_s": "CPU s",
        "wall_s": "wall s", "memory_mb": "peak MB",
    }  # fmt: skip
    for heading in headings.values():
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in headings))
    return table


if __name__ == "__main__":
    sys.exit(main())

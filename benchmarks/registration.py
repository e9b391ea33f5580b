"""Deformable registration against known answers: `python -m benchmarks.registration DIR [--json] [--no-peers]`.

DIR holds `*_known.npz` (CT and CBCT-like days with an exactly known deformation), `lung_pair_landmarks.zip` and
`synthetic_lung_phases.zip`; what is absent is left out. Errors are distances in mm at landmarks of the day taken to the
planning image, inside and outside the field of view; "core" is 10 mm inside it. "dose" is the error of the whole field
weighted by the neighbourhood of five targets. "folded" is the share of the body where the field folds, field of view or
not. Peers get the true field of view as a mask, doseeng finds it in the image. Each method runs in a process of its
own, one after the other; imports and files are not timed. At the end every target is set against what was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.peers.environment import PeerMissing
from benchmarks.peers.registration_env import OWN, PEERS, Method, run_method
from benchmarks.reference import DATA
from benchmarks.registration_case import RegistrationCase, read_known, read_pair, read_phases
from benchmarks.registration_score import scores
from doseeng.transforms import DisplacementField

Row = dict[str, Any]

LIMITS: Final[dict[str, dict[str, float]]] = {
    "CT": {"inside_mean_mm": 0.8, "inside_p95_mm": 2.0, "folded_percent": 0.0},
    "CBCT": {"inside_mean_mm": 1.2, "inside_p95_mm": 3.0, "inside_max_mm": 8.0, "folded_percent": 0.0},
    "pair": {"inside_mean_mm": 1.4, "folded_percent": 0.0},
    "phase": {
        "tumour_error_mm": 1.0,
        "dose_error_mm": 1.0,
        "energy_dose_mm": 1.0,
        "energy_error_percent": 1.0,
        "folded_percent": 0.0,
    },
}
"""What doseeng must reach, by the kind of case."""
WALL_LIMIT_S: Final = 90.0
NOTHING: Final = "none"
COLUMNS: Final = {
    "inside_mean_mm": "mean", "inside_p95_mm": "95 %", "inside_max_mm": "max", "core_max_mm": "core max",
    "outside_mean_mm": "out mean", "outside_max_mm": "out max", "field_mean_mm": "field", "field_p95_mm": "field 95 %",
    "field_outside_mean_mm": "field out",
    "dose_relevant_mm": "dose", "dose_relevant_worst_mm": "dose worst", "displacement_mm": "moved",
    "found_mm": "found", "tumour_error_mm": "tumour", "dose_error_mm": "carried dose",
    "energy_dose_mm": "by energy", "energy_error_percent": "energy lost %", "energy_there_percent": "energy there %",
    "folded_percent": "folded %",
    "smallest_jacobian": "min J", "wall_s": "wall s", "cpu_s": "CPU s", "peak_mb": "peak MB",
}  # fmt: skip
WHOLE: Final = ("displacement_mm", "peak_mb")


def main(arguments: list[str] | None = None) -> int:
    """Run every method on every case and print tables, or all numbers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registration", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=DATA / "registration", help="folder of the cases")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="run other programs too")
    parser.add_argument("--only", metavar="NAME", default="", help="only cases whose name contains this")
    parser.add_argument("--method", metavar="NAME", default="", help="only methods whose name contains this")
    options = parser.parse_args(arguments)
    cases = [case for case in read_cases(options.folder) if options.only in case.name]
    if not cases:
        print(f"no case named '{options.only}' in {options.folder}; give the folder of the cases", file=sys.stderr)
        return 1
    methods = [m for m in (OWN, *(PEERS if options.peers else ())) if options.method in m.name]
    rows, skipped = [], []
    for case in cases:
        found, missing = run_case(case, methods)
        rows += found
        skipped += missing
    verdicts = targets(rows)
    if options.json:
        sys.stdout.write(json.dumps({"results": rows, "skipped": skipped, "targets": verdicts}, indent=2) + "\n")
        return 0
    _print_tables(rows, skipped, verdicts)
    return 0


def read_cases(folder: Path) -> list[RegistrationCase]:
    """All cases of a folder: known deformations, the landmark pair, the phases."""
    cases = [case for path in sorted(folder.glob("*_known.npz")) for case in read_known(path)]
    pair, phases = folder / "lung_pair_landmarks.zip", folder / "synthetic_lung_phases.zip"
    if pair.is_file():
        cases.append(read_pair(pair))
    if phases.is_file():
        cases += read_phases(phases)
    return cases


def run_case(case: RegistrationCase, methods: Sequence[Method]) -> tuple[list[Row], list[Row]]:
    """One row for images as they lie and for each method; and which methods could not run, and why."""
    untouched = DisplacementField(case.day.grid, np.zeros((*case.day.grid.shape, 3), dtype=np.float32))
    rows: list[Row] = [{"case": case.name, "kind": case.kind, "method": NOTHING, **scores(case, untouched)}]
    skipped: list[Row] = []
    task = case.task()
    for method in methods:
        try:
            field, cost = run_method(method, task)
        except PeerMissing as missing:
            skipped.append({"case": case.name, "method": method.name, "reason": str(missing)})
            continue
        spent = {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "peak_mb": cost.peak_mb}
        rows.append({"case": case.name, "kind": case.kind, "method": method.name, **scores(case, field), **spent})
    return rows, skipped


def targets(rows: Sequence[Row]) -> list[Row]:
    """What doseeng is held to in each case, what was found, and whether that is met."""
    verdicts = []
    for ours in rows:
        if ours["method"] != OWN.name:
            continue
        limits = {**LIMITS[ours["kind"]], "wall_s": WALL_LIMIT_S}
        verdicts += [_verdict(ours["case"], key, ours[key], limit) for key, limit in limits.items()]
        elastix = [r for r in rows if r["case"] == ours["case"] and r["method"].startswith("elastix")]
        if elastix and "inside_mean_mm" in ours:
            best = min(elastix, key=lambda row: float(row["inside_mean_mm"]))
            for key in ("inside_mean_mm", "wall_s", "cpu_s"):
                verdicts.append(_verdict(ours["case"], key, ours[key], best[key], f" of {best['method']}"))
    return verdicts


def _verdict(case: str, key: str, found: float, limit: float, whose: str = "") -> Row:
    return {"case": case, "target": f"{key}{whose}", "found": found, "limit": limit, "met": bool(found <= limit)}


def _print_tables(rows: Sequence[Row], skipped: Sequence[Row], verdicts: Sequence[Row]) -> None:
    console = Console(width=150)
    for name in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == name]
        keys = [key for key in COLUMNS if any(key in row for row in of_case)]
        table = Table("method", title=f"Registration: {name} (mm)")
        for key in keys:
            table.add_column(COLUMNS[key], justify="right")
        for row in of_case:
            table.add_row(row["method"], *(_shown(key, row) for key in keys))
        console.print(table)
    if verdicts:
        table = Table("case", "target", "found", "limit", "", title="Targets")
        for v in verdicts:
            table.add_row(
                v["case"], v["target"], f"{v['found']:.2f}", f"{v['limit']:.2f}", "met" if v["met"] else "MISSED"
            )
        console.print(table)
    for row in skipped:
        console.print(f"skipped {row['method']} on {row['case']}: {row['reason']}", highlight=False, markup=False)


def _shown(key: str, row: Row) -> str:
    if key not in row:
        return ""
    if key in WHOLE:
        return f"{row[key]:.0f}"
    return f"{row[key]:.3f}" if key == "folded_percent" and row[key] else f"{row[key]:.2f}"


if __name__ == "__main__":
    sys.exit(main())

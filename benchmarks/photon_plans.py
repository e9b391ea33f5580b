"""Photon plans of commercial systems: `python -m benchmarks.photon_plans DATA [--json]`.

* arc: a VMAT arc of 10 MV on an Agility in an Alderson phantom, RayStation's collapsed cone, computed with the generic
  10 MV machine as it ships, absolute, nothing normalised; then with its output (and a leaf gap of 1.2 mm) taken to the
  isocentre alone, as `doseeng machine adjust` does.
* two fields: 6 MV, 10 x 10 cm, in water, Pinnacle: the dose of the deeper point when the generic 6 MV machine is scaled
  at the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.reference import DATA
from doseeng.adjustment import adjust_to_point, planned_dose_gy
from doseeng.cpu import cpu
from doseeng.dicom.case import read_case
from doseeng.dvh import sample_dose, sample_points
from doseeng.engine import EngineSettings, Prepared, prepare, scenario_dose
from doseeng.gamma import gamma
from doseeng.grid import Grid, Volume, resample
from doseeng.machines.library import find_photon_machine
from doseeng.metrics import evaluate_metric
from doseeng.photon import PhotonSettings
from doseeng.photonfield import open_field
from doseeng.photonlevels import Algorithm

LEAF_GAP_MM = 1.2
FIELDS = ((99.4, 900.6, 0.931874), (174.9, 825.1, 0.665421))
"""Depth and source to surface distance in mm, dose of one fraction in Gy at the isocentre, as the plan states them."""


def main(arguments: list[str] | None = None) -> int:
    """Compute both plans with both algorithms and print one row each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photon_plans", description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=DATA, help="folder of the reference data")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    options = parser.parse_args(arguments)
    archive = options.data / "dicom" / "alderson_vmat.zip"
    if not archive.is_file():
        print(f"no {archive}; give the folder of the reference data", file=sys.stderr)
        return 1
    arcs = [row for algorithm in Algorithm for row in arc(archive, algorithm)]
    points = [two_fields(algorithm) for algorithm in Algorithm]
    if options.json:
        print(json.dumps({"arc": arcs, "two fields": points}, indent=2))
        return 0
    for title, rows in (("VMAT arc, over the planning system", arcs), ("Two fields, scaled at 99.4 mm", points)):
        table = Table(title=title)
        for heading in rows[0]:
            table.add_column(heading, justify="left" if heading in ("algorithm", "machine") else "right")
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        Console(width=130).print(table)
    return 0


def arc(archive: Path, algorithm: Algorithm) -> list[dict[str, object]]:
    """The arc with the machine as it ships, and taken to the isocentre."""
    case = read_case(archive)
    prepared = prepare(case, machine="generic", settings=EngineSettings(photon=PhotonSettings(algorithm)))
    x, y, z = case.plan.photon_beams[0].isocenter_mm[0]
    point = (float(x), float(y), float(z))
    made = adjust_to_point(prepared, point, planned_dose_gy(case, point), LEAF_GAP_MM)
    taken = replace(prepared, machines=(made.machine,), _models={})
    return [_row(prepared, algorithm, "as shipped"), _row(taken, algorithm, f"output {made.ratio:.3f}, leaf gap")]


def _row(prepared: Prepared, algorithm: Algorithm, what: str) -> dict[str, object]:
    case = prepared.case
    reference, found = case.doses[0].volume, scenario_dose(prepared).volume
    target = case.structures.by_number(case.plan.prescriptions[0].roi_number)
    points = sample_points(target, reference.grid.spacing_mm)
    theirs, ours = (sample_dose(points, volume) for volume in (reference, found))
    isocenter = tuple(case.plan.photon_beams[0].isocenter_mm[0])
    row: dict[str, object] = {"algorithm": algorithm.value, "machine": what}
    row["isocentre"] = round(_at(found, isocenter) / _at(reference, isocenter), 4)
    for metric in ("D50%", "D98%", "D2%"):
        row[metric] = round(evaluate_metric(ours, metric) / evaluate_metric(theirs, metric), 4)
    for percent, distance in ((3, 3), (3, 2), (2, 2)):
        passed = gamma(reference, found, dose_percent=percent, distance_mm=distance).pass_rate_percent
        row[f"γ {percent} %/{distance} mm"] = round(passed, 2)
    return row


def two_fields(algorithm: Algorithm) -> dict[str, object]:
    """The deeper point over Pinnacle's when the shallower one agrees."""
    machine = find_photon_machine("generic", 6.0, "STANDARD")
    found = [
        float(open_field(machine, (100.0, 100.0), ssd_mm, algorithm, cpu()).at(depth_mm))
        for depth_mm, ssd_mm, _ in FIELDS
    ]
    ratio, wanted = found[1] / found[0], FIELDS[1][2] / FIELDS[0][2]
    return {
        "algorithm": algorithm.value,
        "deep over shallow": round(ratio, 4),
        "Pinnacle": round(wanted, 4),
        "deep point": round(ratio / wanted, 4),
    }


def _at(dose: Volume, point_mm: tuple[float, ...]) -> float:
    here = Grid((1, 1, 1), dose.grid.spacing_mm, point_mm)
    return float(resample(dose, here, 0.0).values[0, 0, 0])


if __name__ == "__main__":
    sys.exit(main())

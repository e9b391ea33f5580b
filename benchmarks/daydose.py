"""Dose on images made of a cone-beam CT: `python -m benchmarks.daydose [DIR] [--targets N] [--json]`.

DIR: a folder with `*_known.npz` (a planning CT, a day's image with an exactly known deformation, and the same day as a
cone-beam image). On spherical targets a proton and a photon plan are made on the planning CT. The dose on the virtual
CT and on the corrected cone-beam image is compared with that on the true image of the day: gamma 2 %/2 mm, the error of
V95% in the true target (the image's part), and in the propagated one (image and contours together).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.day_plans import TARGET, coverage, dose_on, photon_case, proton_case, spherical_target
from benchmarks.reference import DATA
from benchmarks.registration_case import RegistrationCase, read_known
from doseeng.case import Case
from doseeng.gamma import gamma
from doseeng.grid import Grid, Volume, crop_grid
from doseeng.structures import StructureSet
from doseeng.transforms import as_field, inverse_field, warped
from registration.contours import propagated
from registration.dayimage import corrected_image, virtual_ct
from registration.images import AIR_HU
from registration.pipeline import register_day
from registration.result import DayRegistration

RADIUS_MM = 20.0
DOSE_MARGIN_MM = 80.0
"""The dose is compared so far around the target."""


@dataclass(frozen=True, slots=True)
class Row:
    """coverage errors in percent of volume against the dose on the true image in the true target."""

    case: str
    target: int
    modality: str
    image: str
    planned_v95: float
    true_v95: float
    v95_error: float
    v95_error_with_contours: float
    gamma_2_2: float


def rows(case: RegistrationCase, targets: int) -> Iterator[Row]:
    """Register the day once, then all targets with both modalities on both images."""
    assert case.truth is not None
    planning = case.planning
    centres = case.truth.apply(case.targets_mm[:targets])
    registration = register_day(planning, case.day, centres.mean(axis=0))
    # The truth in the treatment frame: couch back to the day, and from there where the known deformation says.
    truth = as_field(planning.grid, registration.couch.inverse(), case.truth)
    true_image = warped(planning, truth, AIR_HU)
    images = {
        "virtual CT": virtual_ct(planning, registration),
        "corrected": corrected_image(planning, registration),
        "planning CT": planning,
    }
    back = inverse_field(truth, planning.grid)
    for number, centre in enumerate(centres, start=1):
        planned = spherical_target(centre, RADIUS_MM)
        structures = propagated(planned, back, truth), _propagated(planned, registration)
        grid = crop_grid(planning.grid, centre[None], DOSE_MARGIN_MM)
        plans = {
            "proton": proton_case(planning, planned, grid),
            "photon": photon_case(planning, planned, grid, RADIUS_MM),
        }
        for modality, plan in plans.items():
            yield from _compared(case.name, number, modality, plan, true_image, images, structures, grid)


def _propagated(planned: StructureSet, registration: DayRegistration) -> StructureSet:
    return propagated(planned, registration.pushforward, registration.pullback)


def _compared(
    name: str,
    number: int,
    modality: str,
    plan: Case,
    true_image: Volume,
    images: dict[str, Volume],
    structures: tuple[StructureSet, StructureSet],
    grid: Grid,
) -> Iterator[Row]:
    true_target, own_target = (s.by_name(TARGET) for s in structures)
    planned = coverage(dose_on(plan, plan.ct, plan.structures, grid), plan.structures.by_name(TARGET))
    reference = dose_on(plan, true_image, structures[0], grid)
    true_v95 = coverage(reference, true_target)
    for label, image in images.items():
        dose = dose_on(plan, image, structures[0], grid)
        target = plan.structures.by_name(TARGET) if label == "planning CT" else own_target
        passed = gamma(reference, dose, dose_percent=2.0, distance_mm=2.0).pass_rate_percent
        v95 = coverage(dose, true_target), coverage(dose, target)
        yield Row(name, number, modality, label, planned, true_v95, v95[0] - true_v95, v95[1] - true_v95, passed)


def main(arguments: list[str] | None = None) -> int:
    """Print one row per case, target, modality and image, and medians; 0 when the median V95 error is within 1 %."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.daydose", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=DATA / "registration", help="with *_known.npz")
    parser.add_argument("--targets", type=int, default=4, help="spherical targets per case")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    options = parser.parse_args(arguments)
    files = sorted(options.folder.glob("*_known.npz"))
    if not files:
        print(f"no *_known.npz in {options.folder}; give the folder of the reference data", file=sys.stderr)
        return 1
    found = [row for file in files for row in rows(read_known(file)[1], options.targets)]
    medians = {
        (modality, image): tuple(
            float(np.median([abs(getattr(r, key)) for r in found if (r.modality, r.image) == (modality, image)]))
            for key in ("v95_error", "v95_error_with_contours", "gamma_2_2")
        )
        for modality, image in dict.fromkeys((r.modality, r.image) for r in found)
    }
    if options.json:
        print(json.dumps({"rows": [asdict(r) for r in found], "medians": {" ".join(k): v for k, v in medians.items()}}))
    else:
        _show(found, medians)
    kept = [m for (_, image), m in medians.items() if image != "planning CT"]
    return int(max(max(m[:2]) for m in kept) > 1.0)


def _show(found: list[Row], medians: dict[tuple[str, str], tuple[float, ...]]) -> None:
    table = Table(title="Dose on images made of a cone-beam CT, against the true image of the day")
    for heading in ("case", "target", "plan", "image"):
        table.add_column(heading)
    for heading in ("V95 planned %", "V95 true %", "error (image)", "error (image and contours)", "gamma 2/2 %"):
        table.add_column(heading, justify="right")
    for r in found:
        numbers = (r.planned_v95, r.true_v95, r.v95_error, r.v95_error_with_contours, r.gamma_2_2)
        table.add_row(r.case, str(r.target), r.modality, r.image, *(f"{n:.2f}" for n in numbers))
    table.add_section()
    for (modality, image), (error, whole, passed) in medians.items():
        table.add_row("median", "", modality, image, "", "", f"{error:.2f}", f"{whole:.2f}", f"{passed:.2f}")
    Console(width=150).print(table)


if __name__ == "__main__":
    sys.exit(main())

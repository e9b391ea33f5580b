"""Dose on images made of a cone-beam CT: `python -m benchmarks.daydose [DIR] [--targets N] [--json]`.

DIR: a folder with `*_known.npz` (a planning CT, a day's CT with an exactly known deformation, and the same day as a
truncated cone-beam image). On spherical targets a proton and a photon plan are made on the planning CT, the protons
from the directions whose paths the cone-beam image shows best. The dose on the virtual CT and on the corrected image is
compared with that on the true image of the day: gamma 2 %/2 mm, the error of V95% in the true target (the image's
part), and in the propagated one (image and contours together). What an image does not show nobody can know: "path seen"
is the share of the way through the body that lies in the field of view. Medians are told apart for days with a CT, with
a cone-beam image, and for those of the latter where it is at least SEEN_ENOUGH.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.day_plans import TARGET, coverage, dose_on, photon_case, proton_case, spherical_target
from benchmarks.reference import DATA
from benchmarks.registration_case import RegistrationCase, read_known
from doseeng.case import Case
from doseeng.gamma import gamma
from doseeng.grid import Grid, Volume, beam_frame, crop_grid
from doseeng.structures import StructureSet
from doseeng.transforms import as_field, inverse_field, warped
from registration.contours import propagated
from registration.dayimage import virtual_and_corrected
from registration.images import AIR_HU
from registration.pipeline import register_day
from registration.result import DayRegistration

RADIUS_MM = 20.0
APART_DEG = 45.0
SEEN_ENOUGH = 0.9
DOSE_MARGIN_MM = 80.0
"""The dose is compared so far around the target."""


@dataclass(frozen=True, slots=True)
class Row:
    """coverage errors in percent of volume against the dose on the true image in the true target."""

    case: str
    target: int
    modality: str
    image: str
    path_seen: float
    planned_v95: float
    true_v95: float
    v95_error: float
    v95_error_with_contours: float
    gamma_2_2: float


GROUPS: Final[dict[str, Callable[[Row], bool]]] = {
    "days by CT": lambda row: not row.case.endswith("CBCT"),
    "days by CBCT": lambda row: row.case.endswith("CBCT"),
    f"days by CBCT, path seen >= {100 * SEEN_ENOUGH:.0f} %": lambda row: (
        row.case.endswith("CBCT") and row.path_seen >= SEEN_ENOUGH
    ),
}


def rows(ct: RegistrationCase, cone_beam: RegistrationCase, targets: int) -> Iterator[Row]:
    """Register the day's CT and its cone-beam image once each, then all targets with both modalities on all images."""
    assert ct.truth is not None
    planning = ct.planning
    days = cone_beam.targets_mm[:targets]
    centres = ct.truth.apply(days)
    plans = []
    for day, centre in zip(days, centres, strict=True):
        planned, grid = spherical_target(centre, RADIUS_MM), crop_grid(planning.grid, centre[None], DOSE_MARGIN_MM)
        gantries = directions(cone_beam, day)
        made = {
            "proton": proton_case(planning, planned, grid, gantries),
            "photon": photon_case(planning, planned, grid, RADIUS_MM),
        }
        plans.append((day, planned, grid, made))
    for case in (ct, cone_beam):
        registration = register_day(planning, case.day, centres.mean(axis=0))
        # The truth in the treatment frame: couch back to the day, and from there where the known deformation says.
        truth = as_field(planning.grid, registration.couch.inverse(), ct.truth)
        true_image = warped(planning, truth, AIR_HU)
        virtual, corrected = virtual_and_corrected(planning, registration)
        images = {"virtual CT": virtual}
        if case is cone_beam:
            images |= {"corrected": corrected, "planning CT": planning}
        back = inverse_field(truth, planning.grid)
        for number, (day, planned, grid, made) in enumerate(plans, start=1):
            structures = propagated(planned, back, truth), _propagated(planned, registration)
            for modality, plan in made.items():
                angles = [float(np.ravel(beam.gantry_deg)[0]) for beam in plan.plan.beams]
                share = float(np.mean([path_seen(case, day, angle) for angle in angles]))
                head = (case.name, number, modality, share)
                yield from _compared(head, plan, true_image, images, structures, grid)


def path_seen(case: RegistrationCase, target_mm: npt.NDArray[np.float64], gantry_deg: float) -> float:
    """Share (0..1) of the way from the target to the skin, towards the source, that the day's image shows."""
    frame = beam_frame(target_mm, gantry_deg)
    points = frame.to_patient(np.column_stack([np.zeros((2, 400)).T, np.arange(400.0)]))
    body, seen = (
        _in_mask(Volume(case.day.grid, values.astype(np.float32)), points) for values in (case.body, case.seen)
    )
    return float((body & seen).sum() / max(body.sum(), 1))


def _in_mask(volume: Volume, points_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether points lie in a mask."""
    i, j, k = np.rint(volume.grid.to_index(points_mm)).astype(int).T
    nz, ny, nx = volume.grid.shape
    inside = (i >= 0) & (j >= 0) & (k >= 0) & (i < nx) & (j < ny) & (k < nz)
    found = np.zeros(len(points_mm), dtype=bool)
    found[inside] = volume.values[k[inside], j[inside], i[inside]] > 0.5
    return found


def directions(case: RegistrationCase, target_mm: npt.NDArray[np.float64]) -> list[float]:
    """Gantry angles, those with the largest share of the path seen first, at least APART_DEG apart."""
    ranked = sorted(np.arange(0.0, 360.0, 15.0), key=lambda angle: -path_seen(case, target_mm, angle))
    chosen: list[float] = []
    for angle in ranked:
        if all(abs((angle - other + 180.0) % 360.0 - 180.0) >= APART_DEG for other in chosen):
            chosen.append(float(angle))
    return chosen


def _propagated(planned: StructureSet, registration: DayRegistration) -> StructureSet:
    return propagated(planned, registration.pushforward, registration.pullback)


def _compared(
    head: tuple[str, int, str, float],
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
        name, number, modality, share = head
        passed = gamma(reference, dose, dose_percent=2.0, distance_mm=2.0).pass_rate_percent
        v95 = coverage(dose, true_target), coverage(dose, target)
        yield Row(name, number, modality, label, share, planned, true_v95, v95[0] - true_v95, v95[1] - true_v95, passed)


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
    found = [row for file in files for row in rows(*read_known(file), options.targets)]
    medians = {
        (kind, modality, image): _medians(
            [r for r in found if belongs(r) and (r.modality, r.image) == (modality, image)]
        )
        for kind, belongs in GROUPS.items()
        for modality, image in dict.fromkeys((r.modality, r.image) for r in found if belongs(r))
    }
    if options.json:
        print(json.dumps({"rows": [asdict(r) for r in found], "medians": {" ".join(k): v for k, v in medians.items()}}))
    else:
        _show(found, medians)
    kept = [m for (_, _, image), m in medians.items() if image != "planning CT"]
    return int(max(m[0] for m in kept) > 1.0)


def _medians(of: list[Row]) -> tuple[float, ...]:
    columns = [[abs(r.v95_error) for r in of], [abs(r.v95_error_with_contours) for r in of], [r.gamma_2_2 for r in of]]
    return (*(float(np.median(column)) if of else float("nan") for column in columns), float(len(of)))


def _show(found: list[Row], medians: dict[tuple[str, str, str], tuple[float, ...]]) -> None:
    table = Table(title="Dose on images made of a cone-beam CT, against the true image of the day")
    for heading in ("case", "target", "plan", "image"):
        table.add_column(heading)
    for heading in (
        "path seen %",
        "V95 planned %",
        "V95 true %",
        "error (image)",
        "error (image and contours)",
        "gamma 2/2 %",
    ):
        table.add_column(heading, justify="right")
    for r in found:
        numbers = (100 * r.path_seen, r.planned_v95, r.true_v95, r.v95_error, r.v95_error_with_contours, r.gamma_2_2)
        table.add_row(r.case, str(r.target), r.modality, r.image, *(f"{n:.2f}" for n in numbers))
    table.add_section()
    for (kind, modality, image), (error, whole, passed, count) in medians.items():
        row = (f"median, {kind}", f"{count:.0f}", modality, image, "", "", "")
        table.add_row(*row, f"{error:.2f}", f"{whole:.2f}", f"{passed:.2f}")
    Console(width=150).print(table)


if __name__ == "__main__":
    sys.exit(main())

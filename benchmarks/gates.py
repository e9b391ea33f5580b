"""Do the quality gates stop what must not be trusted, and nothing else?

`python -m benchmarks.gates [--json] [--seeds N] [--only NAME]` registers and judges daily cone-beam images:

* plausible days of the demo patient (`benchmarks.daily`), the reference patients' own days and the demo's good days: no
  gate may fail. `--seeds N` adds N days that nobody has looked at when the limits were set;
* images that cannot be trusted, and right images with wrong deformations: bent by hand, and what SimpleITK's demons
  make of a cone-beam image. For each, a gate must fail or the registration must end in an error. Demons that are
  nowhere in the body more than 10 mm off are shown, but count neither as right nor as wrong.

The truth is known: "target" and "body" are errors of the deformation in mm (95th percentile in 20 mm around the target,
and in the body in view). "min J" is the smallest Jacobian in the body.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.daily import DailyImage, failing_images, plausible_days, wrong_fields
from benchmarks.peers.registration_env import PEERS, run_method
from benchmarks.reference import DATA
from benchmarks.registration_case import RegistrationCase, body_mask, read_known
from cluster.adaptation.gates import couch_shift_mm
from cluster.adaptation.settings import site_settings
from cluster.demo.anatomy import GTV_CENTRE
from cluster.demo.days import DAYS, demo_day, planning_ct
from cluster.demo.phantom import GRID, make_anatomy, make_structures
from cluster.demo.treatment import FIELDS
from doseeng.case import Case
from doseeng.errors import RegistrationError
from doseeng.grid import Volume
from doseeng.plan import Plan, ProtonBeam
from doseeng.structures import Structure, StructureSet
from doseeng.transforms import Transform, as_field, inverse_field, jacobian_determinant, voxel_centres
from registration import contours, gates
from registration.pipeline import register_day
from registration.result import DayRegistration, GateResult

Row = dict[str, Any]
Point = tuple[float, float, float]

PLAUSIBLE, FAILURE, PEER = "plausible", "failure", "peer"
WRONG_MM: Final = 10.0
"""A peer's deformation that is further off somewhere in the body is a failure."""
DAYS_LOOKED_AT: Final = 20
"""The limits were set with these plausible days in view."""
NEAR_MM: Final = 20.0
SPHERE_MM: Final = 15.0
SPHERE_ANGLES: Final = 36
DEMONS: Final = tuple(method for method in PEERS if method.name in ("SimpleITK demons", "SimpleITK diffeo."))


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One image with its deformation. register: makes it, RegistrationError when it cannot. truth: transforms from
    day points to planning points, none when the image is not of this patient."""

    name: str
    kind: str
    case: Case
    isocenter_mm: Point
    register: Callable[[], DayRegistration]
    truth: tuple[Transform, ...] = ()


def main(arguments: list[str] | None = None) -> int:
    """Run all trials and print a table, or all numbers as JSON; 1 when a gate fails or misses wrongly."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gates", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    parser.add_argument("--seeds", type=int, default=0, help="plausible days beyond the first twenty")
    parser.add_argument("--only", metavar="NAME", default="", help="only trials whose name contains this")
    options = parser.parse_args(arguments)
    rows = [run(trial) for trial in trials(options.seeds) if options.only in trial.name]
    rates = {
        "false_alarms": sum(r["kind"] == PLAUSIBLE and r["stopped"] for r in rows),
        "plausible": sum(r["kind"] == PLAUSIBLE for r in rows),
        "missed": sum(r["kind"] == FAILURE and not r["stopped"] for r in rows),
        "failures": sum(r["kind"] == FAILURE for r in rows),
    }
    if options.json:
        sys.stdout.write(json.dumps({"results": rows, "rates": rates}, indent=2) + "\n")
    else:
        _print(rows, rates)
    return int(rates["false_alarms"] + rates["missed"] > 0)


def trials(fresh: int) -> Iterator[Trial]:
    """All trials, made one at a time. fresh: plausible days beyond the first twenty."""
    case = demo_case()
    for number, day in enumerate(plausible_days(DAYS_LOOKED_AT + fresh)):
        name = f"{day.name}, fresh" if number >= DAYS_LOOKED_AT else day.name
        yield _demo_trial(replace(day, name=name), PLAUSIBLE, case)
    for spec in DAYS[:2]:
        truth = demo_day(spec.name)
        yield _demo_trial(DailyImage(f"demo: {spec.name}", truth.cbct, True, truth), PLAUSIBLE, case)
    yield from known_trials()
    for day in failing_images():
        yield _demo_trial(day, FAILURE, case)
    yield from _wrong_field_trials(case)


def known_trials() -> Iterator[Trial]:
    """The reference patients' own days, each with a sphere as its target; and what demons make of them."""
    for path in sorted((DATA / "registration").glob("*_known.npz")):
        for known in read_known(path):
            centre: Point = tuple(known.truth.apply(known.targets_mm[0])) if known.truth else (0.0, 0.0, 0.0)
            case = sphere_case(known.planning, centre)
            register = _Once(case, centre, known.day)
            truth = () if known.truth is None else (known.truth,)
            yield Trial(known.name, PLAUSIBLE, case, centre, register, truth)
            if known.kind == "CBCT":
                yield from _demons_trials(known.name, case, centre, register, truth)


def demo_case() -> Case:
    """The demo case with as much of a plan as gates look at: its fields."""
    structures = StructureSet("demo", "", "", make_structures(make_anatomy(), GRID))
    return Case("demo", planning_ct(), structures, _plan(FIELDS, GTV_CENTRE))


def sphere_case(planning: Volume, centre: Point) -> Case:
    """A case whose target is a sphere and whose fields come from the right and from behind."""
    z = planning.grid.origin_mm[2] + planning.grid.spacing_mm[2] * np.arange(planning.grid.shape[0])
    angle = np.linspace(0.0, 2.0 * np.pi, SPHERE_ANGLES, endpoint=False)
    rings = []
    for height in z[np.abs(z - centre[2]) < SPHERE_MM]:
        radius = np.sqrt(SPHERE_MM**2 - (height - centre[2]) ** 2)
        x, y = centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)
        rings.append(np.column_stack([x, y, np.full(SPHERE_ANGLES, height)]))
    structures = StructureSet("sphere", "", "", (Structure(1, "sphere", "CTV", tuple(rings)),))
    return Case("sphere", planning, structures, _plan((("R", 270.0), ("P", 180.0)), centre))


def run(trial: Trial) -> Row:
    """Register and judge one image."""
    row: Row = {"name": trial.name, "kind": trial.kind, "error": "", "failed": [], "gates": []}
    start = time.perf_counter()
    try:
        found = trial.register()
    except RegistrationError as error:
        return {**row, "stopped": True, "error": str(error), "register_s": time.perf_counter() - start}
    registered = time.perf_counter()
    slice_mm = trial.case.ct.grid.spacing_mm[2]
    today = contours.propagated(trial.case.structures, found.pushforward, found.pullback, slice_mm)
    judged = (*gates.evaluate(found, trial.case, today), _couch_gate(found, trial.isocenter_mm))
    row |= {"register_s": registered - start, "gates_s": time.perf_counter() - registered}
    failed = [gate for gate in judged if not gate.passed]
    row |= errors(trial, found)
    if trial.kind == PEER and row["body_max_mm"] > WRONG_MM:
        row["kind"] = FAILURE
    return {
        **row,
        "stopped": bool(failed),
        "failed": [f"{gate.name} {gate.where}".strip() for gate in failed],
        "gates": [{"name": g.name, "where": g.where, "value": _number(g.value), "limit": g.limit} for g in judged],
    }


def errors(trial: Trial, found: DayRegistration) -> Row:
    """How far the deformation is from the truth, and its smallest Jacobian in the body in view."""
    grid = found.pullback.grid
    points = voxel_centres(grid)
    inside = body_mask(found.day) & (found.seen.values > 0)
    row: Row = {"smallest_jacobian": float(jacobian_determinant(found.pullback).values[inside].min(initial=np.inf))}
    if not trial.truth:
        return row
    right = as_field(grid, found.couch.inverse(), *trial.truth)
    error = np.linalg.norm(found.pullback.vectors_mm - right.vectors_mm, axis=-1)
    planned = points + right.vectors_mm
    near = np.linalg.norm(planned - np.asarray(trial.isocenter_mm), axis=-1) < SPHERE_MM + NEAR_MM
    for name, where in (("target", near), ("body", inside)):
        if where.any():
            row |= {
                f"{name}_p95_mm": float(np.percentile(error[where], 95.0)),
                f"{name}_max_mm": float(error[where].max()),
            }
    return row


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if np.isfinite(value) else None


class _Once:
    """Registers an image when first asked, and remembers."""

    def __init__(self, case: Case, isocenter_mm: Point, image: Volume) -> None:
        self._arguments = (case.ct, image, isocenter_mm)
        self._found: DayRegistration | None = None

    def __call__(self) -> DayRegistration:
        if self._found is None:
            self._found = register_day(*self._arguments)
        return self._found


def _demo_trial(day: DailyImage, kind: str, case: Case) -> Trial:
    truth = () if day.truth is None else (day.truth.setup.inverse(), day.truth.pullback)
    return Trial(day.name, kind, case, GTV_CENTRE, _Once(case, GTV_CENTRE, day.image), truth)


def _wrong_field_trials(case: Case) -> Iterator[Trial]:
    """Right images, wrong deformations."""
    day = demo_day(DAYS[0].name)
    register = _Once(case, GTV_CENTRE, day.cbct)
    truth = (day.setup.inverse(), day.pullback)
    for wrong in wrong_fields():

        def bent(steps: tuple[Transform, ...] = (day.setup.inverse(), wrong.pullback)) -> DayRegistration:
            found = register()
            return _with_pullback(found, found.couch.inverse(), *steps)

        yield Trial(wrong.name, FAILURE, case, GTV_CENTRE, bent, truth)
    yield from _demons_trials("demo: good", case, GTV_CENTRE, register, truth)


def _demons_trials(
    name: str, case: Case, isocenter_mm: Point, register: Callable[[], DayRegistration], truth: tuple[Transform, ...]
) -> Iterator[Trial]:
    """What demons find, in the place of what our registration finds."""
    for method in DEMONS:

        def by_demons(method: Any = method) -> DayRegistration:
            found = register()
            seen = found.seen.values > 0
            task = RegistrationCase(name, "CBCT", found.planning, found.day, seen, body_mask(found.day)).task()
            return _with_pullback(found, run_method(method, task)[0])

        yield Trial(f"{name}: {method.name}", PEER, case, isocenter_mm, by_demons, truth)


def _with_pullback(found: DayRegistration, *steps: Transform) -> DayRegistration:
    """A registration with another deformation, treatment points -> planning points."""
    pullback = as_field(found.pullback.grid, *steps)
    return replace(found, pullback=pullback, pushforward=inverse_field(pullback, found.pushforward.grid))


def _plan(fields: tuple[tuple[str, float], ...], isocenter_mm: Point) -> Plan:
    spot = (np.zeros((1, 2)), np.full(1, 120.0), np.ones(1))
    beams = tuple(
        ProtonBeam(number, name, "generic", isocenter_mm, gantry, 0.0, *spot)
        for number, (name, gantry) in enumerate(fields, start=1)
    )
    return Plan("gates", "", "HFS", beams)


def _couch_gate(found: DayRegistration, isocenter_mm: Point) -> GateResult:
    """As the daily evaluation judges the couch (`cluster.adaptation.gates`)."""
    shift_mm = float(np.linalg.norm(couch_shift_mm(found, isocenter_mm)))
    limit_mm = site_settings().couch_shift_mm
    return GateResult("couch-shift", "", shift_mm, limit_mm, "mm", shift_mm <= limit_mm, "")


def _print(rows: list[Row], rates: Row) -> None:
    console = Console(width=170)
    table = Table("image", "failed gates, or the error", title="Quality gates on daily images")
    keys = {"target_p95_mm": "target 95 %", "target_max_mm": "max", "body_p95_mm": "body 95 %", "body_max_mm": "max",
            "smallest_jacobian": "min J", "register_s": "register s", "gates_s": "gates s"}  # fmt: skip
    for title in keys.values():
        table.add_column(title, justify="right")
    table.add_column("")
    for row in rows:
        why = row["error"] or "; ".join(row["failed"]) or "none"
        right = row["kind"] == PEER or row["stopped"] == (row["kind"] == FAILURE)
        shown = [f"{row[key]:.2f}" if key in row else "" for key in keys]
        table.add_row(row["name"], why, *shown, "" if right else "WRONG")
    console.print(table)
    console.print(
        f"false alarms {rates['false_alarms']} of {rates['plausible']} plausible images; "
        f"missed {rates['missed']} of {rates['failures']} failures"
    )


if __name__ == "__main__":
    sys.exit(main())

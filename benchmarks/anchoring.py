"""Anchored scenario doses against Monte Carlo, and where anchoring ends: `python -m benchmarks.anchoring DIR [--json]`.

An anchored dose is `reference + (own scenario - own nominal)`, with range errors carried along the beams (see
`robust.anchor`, `robust.carry`). Error: root mean square of (dose - truth) / truth over the voxels above half of the
truth's maximum. Noise: 1 sigma of reference and truth together, relative to the truth, over the same voxels; no
anchored dose can be nearer to the truth than that. Gamma 2 %/2 mm and 3 %/3 mm as in `benchmarks.accuracy`: global,
10 % threshold, voxels below 0.1 g/cm3 left out, nothing normalised. Tables:

* pairs: Monte Carlo of one setup as reference, Monte Carlo of another setup as truth.
* forms: the same pairs with other ways to apply the same error.
* moved: phantoms that are the same along z; there a setup error along z moves the Monte Carlo dose by whole voxels and
  changes nothing else, so the moved dose is the truth, with its noise.
* deeper: pure water; there a range error stretches the Monte Carlo dose along the beam. That is exact in depth, but not
  for the width of the field's edge, which it stretches too (3.5 % of a few millimetres), and the interpolation smooths
  the noise of the truth.
* stand-ins: no Monte Carlo exists for larger errors in lung, so one engine configuration plays the truth and another
  the own engine. "soft edge": the truth is the mean of three doses with stopping powers of 0.97, 1 and 1.03, a distal
  edge softer than the engine's own, which is how Monte Carlo differs in lung. "2 % denser": the own engine's stopping
  powers are all 2 % too high. "lung 10 % denser": only those of lung are, by 10 %: an error that belongs to places.
  These rows tell how an error of such a kind behaves, not how large ours is; the first two belong to a depth by
  construction. "in place" leaves the error where it is nominally, as the plain formula would.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy import AIR_GCM3
from benchmarks.mc_case import McCase, find_tables, is_case_file, read_mc_case, reference_hu_table, reference_machine
from doseeng.dose import Dose
from doseeng.gamma import gamma
from doseeng.grid import Grid, Volume, beam_frame, resample
from doseeng.machines.model import ProtonMachine
from doseeng.proton import beam_dose
from doseeng.scenario import NOMINAL, Scenario
from robust.anchor import anchored
from robust.carry import BeamDose, error_carrier

Array = np.ndarray
Row = dict[str, Any]

MOVED_VOXELS: Final = (1, 2, 3, 5, 10)
DEEPER: Final = (0.95, 0.965, 0.98, 1.02, 1.035, 1.05)
SHIFTS_MM: Final = (5.0, 10.0, 20.0, 40.0)
SHIFT_DIRECTION: Final = np.array([1.0, 0.0, -1.0]) / np.sqrt(2.0)
"""Across and along a beam from 45 degrees, as the first setup case of the Monte Carlo data."""
SCALES: Final = (0.9, 0.95, 0.965, 0.98, 1.02, 1.035, 1.05, 1.1)
CLINICAL: Final = (0.965, 1.035)
EDGE: Final = (0.97, 1.0, 1.03)
DENSER: Final = 1.02
LUNG_RSP: Final = (0.1, 0.6)
LUNG_DENSER: Final = 1.1
STAND_IN_CASES: Final = ("lung_g45", "water_sobp")


@dataclass(frozen=True, slots=True)
class Engine:
    """Own doses of one Monte Carlo case."""

    case: McCase
    machine: ProtonMachine

    def dose(self, scenario: Scenario = NOMINAL, gantry_deg: float | None = None) -> Array:
        """Physical dose, (z, y, x) Gy."""
        beam = self.case.beam if gantry_deg is None else replace(self.case.beam, gantry_deg=gantry_deg)
        return beam_dose(beam, self.machine, self.case.maps, self.case.dose.grid, "HFS", scenario)

    def anchored(self, reference: Array, own: dict[float, Array]) -> Callable[[Scenario, Array], Array]:
        """A function of a scenario and its own dose; own: gantry angle -> nominal own dose of that beam."""
        grid, beam = self.case.dose.grid, self.case.beam
        beams = [
            BeamDose(beam_frame(beam.isocenter_mm, angle, beam.couch_deg), Volume(grid, values))
            for angle, values in own.items()
        ]
        error = error_carrier(Volume(grid, reference - sum(own.values())), beams, self.case.maps.rsp)

        def dose(scenario: Scenario, scenario_dose: Array) -> Array:
            given = anchored(Dose(Volume(grid, reference)), lambda _: Dose(Volume(grid, scenario_dose)), error)
            return given(scenario).volume.values

        return dose


def main(arguments: list[str] | None = None) -> int:
    """Print all tables; the exit code is 1 when there is no case to anchor."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.anchoring", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of case files (.npz), such as ../shared/data/proton_mc")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    options = parser.parse_args(arguments)
    tables = find_tables(options.folder)
    machine, hu_table = reference_machine(tables), reference_hu_table(tables)
    cases = {p.stem: read_mc_case(p, hu_table) for p in sorted(options.folder.glob("*.npz")) if is_case_file(p)}
    cases = {name: case for name, case in cases.items() if not case.is_single_spot}
    if not cases:
        print(f"no case file of a field (.npz with dose_gy, hu, spots) in {options.folder}", file=sys.stderr)
        return 1
    engines = {name: Engine(case, machine) for name, case in cases.items()}
    pairs = list(_pairs(engines))
    results: dict[str, list[Row]] = {
        "pairs": [row for pair in pairs for row in compare_pair(*pair)],
        "forms": [row for pair in pairs for row in _compare_forms(*pair)],
        "moved": [row for engine in engines.values() for row in _compare_moved(engine)],
        "deeper": [row for engine in engines.values() for row in _compare_deeper(engine)],
        "stand-ins": [row for name in STAND_IN_CASES if name in engines for row in _compare_stand_ins(engines[name])],
    }
    if options.json:
        print(json.dumps(results, indent=2))
        return 0
    for title, rows in results.items():
        if rows:
            Console(width=150).print(_as_table(title, rows))
    return 0


def _pairs(engines: dict[str, Engine]) -> Iterator[tuple[Engine, Engine]]:
    """Setups of one plan: (reference, truth), each way; files NAME and NAME_setup_N hold the same spots."""
    for one, other in permutations(engines, 2):
        if one.split("_setup_")[0] == other.split("_setup_")[0]:
            yield engines[one], engines[other]


def _between(reference: Engine, truth: Engine) -> Scenario:
    shift = np.subtract(truth.case.beam.isocenter_mm, reference.case.beam.isocenter_mm)
    return Scenario("setup", tuple(float(v) for v in shift))


def compare_pair(reference: Engine, truth: Engine) -> Iterator[Row]:
    """Figures of the plain and of the anchored dose, two setups of one plan."""
    scenario = _between(reference, truth)
    shift_mm = float(np.linalg.norm(scenario.isocenter_shift_mm))
    values = reference.case.dose.values
    nominal, own = reference.dose(), reference.dose(scenario)
    doses = {"plain": own, "anchored": reference.anchored(values, {_angle(reference): nominal})(scenario, own)}
    noise = _noise(values, reference.case.rel_unc, truth.case.dose.values, truth.case.rel_unc, _body(truth.case))
    for dose, computed in doses.items():
        yield {
            "reference": reference.case.name,
            "truth": truth.case.name,
            "shift mm": round(shift_mm, 1),
            "dose": dose,
            **_figures(truth.case.dose, computed, _body(truth.case), noise),
        }


def _compare_forms(reference: Engine, truth: Engine) -> Iterator[Row]:
    """Other ways to apply the same error."""
    scenario, grid = _between(reference, truth), reference.case.dose.grid
    values, nominal, own = reference.case.dose.values, reference.dose(), reference.dose(scenario)
    error = values - nominal
    origin = tuple(float(v) for v in np.subtract(grid.origin_mm, scenario.isocenter_shift_mm))
    with_beam = resample(Volume(grid, error), Grid(grid.shape, grid.spacing_mm, origin, grid.direction), 0.0).values
    ratio = values / np.maximum(nominal, 1e-6)
    forms = {
        "error in the patient (used)": own + error,
        "error with the beam": own + with_beam,
        "half and half": own + 0.5 * (error + with_beam),
        "in proportion above 10 %": np.where(nominal > 0.1 * values.max(), own * ratio, own + error),
        "error fades with lost dose": own + error * np.where(own < nominal, own / np.maximum(nominal, 1e-6), 1.0),
    }
    noise = _noise(values, reference.case.rel_unc, truth.case.dose.values, truth.case.rel_unc, _body(truth.case))
    for form, computed in forms.items():
        figures = _figures(truth.case.dose, np.maximum(computed, 0.0), _body(truth.case), noise)
        yield {"reference": reference.case.name, "truth": truth.case.name, "form": form, **figures}


def _compare_moved(engine: Engine) -> Iterator[Row]:
    case, grid = engine.case, engine.case.dose.grid
    if np.ptp(case.maps.rsp.values, axis=0).any() or case.beam.couch_deg != 0.0:
        return
    values, nominal = case.dose.values, engine.dose()
    anchor = engine.anchored(values, {_angle(engine): nominal})
    for count in MOVED_VOXELS:
        scenario = Scenario("moved", (0.0, 0.0, count * grid.spacing_mm[2]))
        truth, unc, body = (np.zeros_like(a) for a in (values, case.rel_unc, _body(case)))
        truth[count:], unc[count:], body[count:] = values[:-count], case.rel_unc[:-count], _body(case)[count:]
        own = engine.dose(scenario)
        noise = _noise(values, case.rel_unc, truth, unc, body)
        for dose, computed in {"plain": own, "anchored": anchor(scenario, own)}.items():
            row: Row = {"case": case.name, "shift mm": round(count * grid.spacing_mm[2], 1), "dose": dose}
            yield {**row, **_figures(Volume(grid, truth), computed, body, noise)}


def _compare_deeper(engine: Engine) -> Iterator[Row]:
    case, grid = engine.case, engine.case.dose.grid
    if np.ptp(case.maps.rsp.values) or case.beam.gantry_deg != 0.0 or case.beam.range_shifter is not None:
        return
    values, nominal = case.dose.values, engine.dose()
    anchor = engine.anchored(values, {_angle(engine): nominal})
    error = values - nominal
    surface = grid.origin_mm[1] - 0.5 * grid.spacing_mm[1]
    for scale in DEEPER:
        step = scale * grid.spacing_mm[1]
        stretched = Grid(
            grid.shape,
            (grid.spacing_mm[0], step, grid.spacing_mm[2]),
            (grid.origin_mm[0], surface + 0.5 * step, grid.origin_mm[2]),
        )
        truth = resample(case.dose, stretched, 0.0).values
        scenario = Scenario("range", rsp_scale=scale)
        own = engine.dose(scenario)
        doses = {"plain": own, "error in place": np.maximum(own + error, 0.0), "anchored": anchor(scenario, own)}
        noise = _noise(values, case.rel_unc, truth, np.zeros_like(truth), _body(case))
        for dose, computed in doses.items():
            row: Row = {"case": case.name, "range %": _percent(scale), "dose": dose}
            yield {**row, **_figures(Volume(grid, truth), computed, _body(case), noise)}


def _compare_stand_ins(engine: Engine) -> Iterator[Row]:
    """One beam, and in water two opposed ones, whose errors have to be shared."""
    angle = _angle(engine)
    sweep = [
        *(Scenario(f"{s:g} mm", tuple(float(v) for v in s * SHIFT_DIRECTION)) for s in SHIFTS_MM),
        *(Scenario(f"{_percent(r):+g} %", rsp_scale=r) for r in SCALES),
        *(Scenario(f"5 mm, {_percent(r):+g} %", tuple(float(v) for v in 5.0 * SHIFT_DIRECTION), r) for r in CLINICAL),
    ]
    yield from _stand_in_rows(engine, (angle,), sweep)
    if not np.ptp(engine.case.maps.rsp.values):
        yield from _stand_in_rows(engine, (angle, angle + 180.0), [s for s in sweep if s.rsp_scale in CLINICAL])


def _stand_in_rows(engine: Engine, angles: tuple[float, ...], sweep: list[Scenario]) -> Iterator[Row]:
    def exact(scenario: Scenario, angle: float) -> Array:
        return engine.dose(scenario, angle)

    def soft_edge(scenario: Scenario, angle: float) -> Array:
        scaled = [replace(scenario, rsp_scale=scenario.rsp_scale * s) for s in EDGE]
        return np.mean([engine.dose(s, angle) for s in scaled], axis=0, dtype=np.float32)

    def denser(scenario: Scenario, angle: float) -> Array:
        return engine.dose(replace(scenario, rsp_scale=DENSER * scenario.rsp_scale), angle)

    kinds = {"soft edge": (soft_edge, exact), "2 % denser": (exact, denser)}
    rsp = engine.case.maps.rsp
    lung = (rsp.values > LUNG_RSP[0]) & (rsp.values < LUNG_RSP[1])
    if lung.any():
        wrong = np.where(lung, np.float32(LUNG_DENSER) * rsp.values, rsp.values)
        maps = replace(engine.case.maps, rsp=Volume(rsp.grid, wrong))
        other = replace(engine, case=replace(engine.case, maps=maps))
        kinds["lung 10 % denser"] = (exact, other.dose)
    grid, body = engine.case.dose.grid, _body(engine.case)
    for kind, (truth_of, own_of) in kinds.items():
        reference = sum(truth_of(NOMINAL, angle) for angle in angles)
        nominal = {angle: own_of(NOMINAL, angle) for angle in angles}
        anchor = engine.anchored(reference, nominal)
        error = reference - sum(nominal.values())
        for scenario in sweep:
            truth = Volume(grid, sum(truth_of(scenario, angle) for angle in angles))
            own = sum(own_of(scenario, angle) for angle in angles)
            doses = {"plain": own, "in place": np.maximum(own + error, 0.0), "anchored": anchor(scenario, own)}
            figures = {dose: _figures(truth, computed, body) for dose, computed in doses.items()}
            yield {
                "case": engine.case.name,
                "fields": len(angles),
                "stand-in": kind,
                "scenario": scenario.name,
                **{f"γ {dose}": found["γ 2/2 %"] for dose, found in figures.items()},
                **{f"error {dose}": found["error %"] for dose, found in figures.items()},
                "helps": figures["anchored"]["error %"] < figures["plain"]["error %"],
            }


def _figures(truth: Volume, computed: Array, body: Array, noise_percent: float | None = None) -> Row:
    """Gamma, root mean square error above half of the truth's maximum, and how many times the noise that is."""
    volume = Volume(truth.grid, computed)
    row: Row = {
        f"γ {percent}/{percent} %": round(
            gamma(truth, volume, dose_percent=percent, distance_mm=percent, mask=body).pass_rate_percent, 2
        )
        for percent in (2, 3)
    }
    high = body & (truth.values > 0.5 * truth.values.max())
    relative = (volume.values[high].astype(float) - truth.values[high]) / truth.values[high]
    error = 100.0 * float(np.sqrt(np.mean(relative**2)))
    row["error %"] = round(error, 2)
    if noise_percent is not None:
        row.update({"noise %": round(noise_percent, 2), "error / noise": round(error / noise_percent, 2)})
    return row


def _noise(reference: Array, reference_unc: Array, truth: Array, truth_unc: Array, body: Array) -> float:
    """Percent: absolute noise of the reference and of the truth, in quadrature, over the truth."""
    high = body & (truth > 0.5 * truth.max())
    absolute2 = (reference_unc * reference)[high].astype(float) ** 2 + (truth_unc * truth)[high].astype(float) ** 2
    return 100.0 * float(np.sqrt(np.mean(absolute2 / truth[high].astype(float) ** 2)))


def _body(case: McCase) -> Array:
    return case.density >= AIR_GCM3


def _angle(engine: Engine) -> float:
    return engine.case.beam.gantry_deg


def _percent(scale: float) -> float:
    return round(100.0 * (scale - 1.0), 2)


def _as_table(title: str, rows: list[Row]) -> Table:
    table = Table(title=title)
    for heading, value in rows[0].items():
        table.add_column(heading, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(("yes" if v else "no") if isinstance(v, bool) else str(v) for v in row.values()))
    return table


if __name__ == "__main__":
    sys.exit(main())

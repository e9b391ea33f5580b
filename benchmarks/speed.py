"""Speed beside peers: `python -m benchmarks.speed proton [--json]`.

The same plan, phantom, stopping powers, machine data and dose grid for both engines, on the same machine, one after the
other. Only dose computation is timed: no imports, no file reading; both engines first compute something small, so that
neither pays for compiling. CPU seconds (user + system, all threads) compare work; wall seconds compare waiting.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.peers.pyradplan_env import proton_machine_file, run_plan
from benchmarks.reference import DATA
from benchmarks.tg119 import PeerPlan, read_peer_plan
from doseeng.proton import beam_dose
from doseeng.scenario import NOMINAL, Scenario
from robust.scenarios import scenario_set

Result = TypeVar("Result")
SCENARIOS = "9-worst-case"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one computation took. peak_mb: largest resident memory of its process until then."""

    name: str
    wall_s: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class SpeedResult:
    """Costs, and how far the two nominal doses are apart where the peer's exceeds 10 % of its maximum."""

    spots: int
    scenarios: int
    costs: tuple[Cost, ...]
    mean_difference_percent: float
    total_dose_ratio: float


def proton(data_dir: Path) -> SpeedResult:
    """pyRadPlan once, doseeng nominal, doseeng with nine scenarios, on the TG-119 proton plan of the reference data."""
    phantom = data_dir / "phantoms" / "TG119.npz"
    plan_file = data_dir / "peers" / "tg119_protons_matRad_HongPB.npz"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pyradplan.npz"
        peer = run_plan(phantom, plan_file, out)
        plan = read_peer_plan(phantom, out, proton_machine_file())
    _doseeng_plan(plan, NOMINAL)  # compiles kernels, or loads them from the cache
    dose, nominal = measured("doseeng, nominal", lambda: _doseeng_plan(plan, NOMINAL))
    scenarios = scenario_set(SCENARIOS)
    _, robust = measured(
        f"doseeng, {len(scenarios)} scenarios", lambda: [_doseeng_plan(plan, scenario) for scenario in scenarios]
    )
    reference = plan.peer_dose_gy.values
    inside = reference > 0.1 * reference.max()
    return SpeedResult(
        spots=plan.spots,
        scenarios=len(scenarios),
        costs=(Cost("pyRadPlan, nominal", peer["wall_s"], peer["cpu_s"], peer["peak_mb"]), nominal, robust),
        mean_difference_percent=float(100.0 * np.mean(np.abs(dose - reference)[inside]) / reference.max()),
        total_dose_ratio=float(dose.sum() / reference.sum()),
    )


def _doseeng_plan(plan: PeerPlan, scenario: Scenario) -> npt.NDArray[np.float32]:
    """Dose of all beams of the plan on its CT grid, Gy of one fraction."""
    grid = plan.maps.rsp.grid
    dose = np.zeros(grid.shape, dtype=np.float32)
    for beam in plan.beams:
        dose += beam_dose(beam, plan.machine, plan.maps, grid, "HFS", scenario)
    return dose


def measured(name: str, work: Callable[[], Result]) -> tuple[Result, Cost]:
    """What `work` returns, and what it cost."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    result = work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result, Cost(name, wall, cpu, after.ru_maxrss / 1024.0)


def table(result: SpeedResult) -> str:
    """The costs as text, each beside the peer's."""
    peer = result.costs[0]
    lines = [
        f"TG-119 protons, {result.spots} spots, {os.cpu_count()} CPU cores",
        f"{'':24} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'wall ratio':>11} {'CPU ratio':>10}",
    ]
    lines += [
        f"{cost.name:24} {cost.wall_s:8.2f} {cost.cpu_s:8.2f} {cost.peak_mb:8.0f}"
        f" {peer.wall_s / cost.wall_s:11.1f} {peer.cpu_s / cost.cpu_s:10.1f}"
        for cost in result.costs
    ]
    lines.append(
        f"mean dose difference {result.mean_difference_percent:.2f} % of maximum, total dose ratio"
        f" {result.total_dose_ratio:.4f} (pyRadPlan's engine has no nuclear halo and scatters as in water)"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("what", choices=("proton",))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the reference data")
    options = parser.parse_args(arguments)
    result = proton(options.data)
    sys.stdout.write((json.dumps(asdict(result), indent=2) if options.json else table(result)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Speed: `python -m benchmarks.speed proton|photon|first|demo CASE_DIR [--json]`.

proton: beside a peer. The same plan, phantom, stopping powers, machine data and dose grid for both engines, on the same
machine, one after the other. Only dose computation is timed: no imports, no file reading; both engines first compute
something, so that neither pays for compiling. CPU seconds (user + system, all threads) compare work; wall seconds
compare waiting. first: what the first dose of a fresh process costs, with and without compiled kernels on disk. demo:
scenario doses and statistics of a DICOM case, such as the one that `doseeng demo` makes. photon: see
`benchmarks.photon_speed`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import photon_speed
from benchmarks.cost import Cost, measured
from benchmarks.peers.pyradplan_env import proton_machine_file, run_plan
from benchmarks.reference import DATA
from benchmarks.tg119 import PeerPlan, read_peer_plan
from doseeng.cpu import cpu
from doseeng.dicom.case import read_case
from doseeng.engine import prepare, scenario_dose
from doseeng.proton import prepare_beam
from doseeng.scenario import NOMINAL, Scenario
from robust.scenarios import scenario_set
from robust.statistics import VoxelStatistics

SCENARIOS = "9-worst-case"
CHECKOUT = Path(__file__).resolve().parents[1]
FIRST_DOSE = """
import numpy as np
from doseeng.grid import Grid, Volume
from doseeng.machines.library import find_machine
from doseeng.materials import MaterialMaps
from doseeng.plan import ProtonBeam
from doseeng.proton import beam_dose
grid = Grid((60, 60, 60), (3.0, 3.0, 3.0), (-88.5, -88.5, -88.5))
rsp = np.ones(grid.shape, dtype=np.float32)
rsp[:, 10:20, :30] = 0.3
maps = MaterialMaps(Volume(grid, rsp), Volume(grid, rsp))
uv = np.array([(u, v) for u in range(-20, 21, 5) for v in range(-20, 21, 5)], dtype=float)
beam = ProtonBeam(1, "G0", "generic", (0.0, 0.0, 0.0), 0.0, 0.0, uv, np.full(len(uv), 120.0), np.ones(len(uv)))
beam_dose(beam, find_machine("generic"), maps, grid, "HFS")
"""
"""A field across a step of density, so that every kernel is used."""


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
    _doseeng_plan(plan, (NOMINAL,))  # compiles kernels, or loads them from the cache
    (dose,), nominal = measured("doseeng, nominal", lambda: _doseeng_plan(plan, (NOMINAL,)))
    scenarios = scenario_set(SCENARIOS)
    _, robust = measured(f"doseeng, {len(scenarios)} scenarios", lambda: _doseeng_plan(plan, scenarios))
    reference = plan.peer_dose_gy.values
    inside = reference > 0.1 * reference.max()
    return SpeedResult(
        spots=plan.spots,
        scenarios=len(scenarios),
        costs=(Cost("pyRadPlan, nominal", peer["wall_s"], peer["cpu_s"], peer["peak_mb"]), nominal, robust),
        mean_difference_percent=float(100.0 * np.mean(np.abs(dose - reference)[inside]) / reference.max()),
        total_dose_ratio=float(dose.sum() / reference.sum()),
    )


def _doseeng_plan(plan: PeerPlan, scenarios: tuple[Scenario, ...]) -> list[npt.NDArray[np.float32]]:
    """Doses of all beams of the plan on its CT grid, Gy of one fraction, from the plan on."""
    grid, backend = plan.maps.rsp.grid, cpu()
    prepare = [partial(prepare_beam, beam, plan.machine, plan.maps, grid, "HFS") for beam in plan.beams]
    models = backend.together(prepare)
    doses = []
    for scenario in scenarios:
        beams = backend.together([partial(model.dose, scenario) for model in models])
        for beam in beams[1:]:
            beams[0] += beam
        doses.append(beams[0])
    return doses


def first_dose() -> dict[str, float]:
    """Wall seconds of the first dose of a fresh process: interpreter, imports and kernels included."""
    seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        for name in ("kernels not compiled yet", "kernels on disk"):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", FIRST_DOSE], check=True, env=environment, cwd=CHECKOUT)
            seconds[name] = time.perf_counter() - start
    return seconds


def demo(case_dir: Path) -> tuple[int, tuple[Cost, ...]]:
    """The clinical 28 scenarios and nominal of a case: preparation, then doses with voxel statistics."""
    case = read_case(case_dir)
    scenario_dose(prepare(case))  # compiles kernels, or loads them from the cache
    prepared, preparation = measured("preparation", lambda: prepare(case))
    scenarios = scenario_set("28")

    def doses() -> None:
        statistics = VoxelStatistics(prepared.grid)
        for scenario in scenarios:
            statistics.add(scenario_dose(prepared, scenario).volume)

    _, robust = measured(f"{len(scenarios)} scenarios with statistics", doses)
    return len(scenarios), (preparation, robust)


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
    parser.add_argument("what", choices=("proton", "photon", "first", "demo"))
    parser.add_argument("case", nargs="?", type=Path, default=Path("demo-case"), help="DICOM case for `demo`")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--bixels", action="store_true", help="photon: pyRadPlan as bixels of 5 mm, too")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the reference data")
    options = parser.parse_args(arguments)
    if options.what == "photon":
        return photon_speed.report(options.data, options.json, options.bixels)
    if options.what == "first":
        seconds = first_dose()
        text = "\n".join(f"first dose, {name}: {value:.1f} s" for name, value in seconds.items())
        sys.stdout.write((json.dumps(seconds) if options.json else text) + "\n")
    elif options.what == "demo":
        _, costs = demo(options.case)
        lines = [f"{c.name:32} {c.wall_s:8.2f} s wall {c.cpu_s:8.2f} s CPU {c.peak_mb:8.0f} MB peak" for c in costs]
        sys.stdout.write((json.dumps([asdict(c) for c in costs]) if options.json else "\n".join(lines)) + "\n")
    else:
        result = proton(options.data)
        sys.stdout.write((json.dumps(asdict(result), indent=2) if options.json else table(result)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The GPU: `python -m benchmarks.gpu [proton|photon] [--dosecuda CHECKOUT]`.

proton: compiles every CUDA kernel, counts what each must move and compute, and on a GPU checks the dose against the
CPU's, measures the roofline, and times nominal dose and 9, 29 and 101 scenarios with all statistics. Without a GPU it
says what is missing, and verifies and counts the rest. With a checkout of DoseCUDA (Bhattacharya et al., J Appl Clin
Med Phys 26 (2025) e70093) it builds that and runs it on the same spots. photon: compiles every CUDA kernel, times a
VMAT arc with both algorithms on the CPU and on the GPU, and compares their doses.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_photon import photon_arc
from benchmarks.gpu_plan import GpuPlan, read_plan, resampled
from benchmarks.gpu_ptx import ptx_table
from benchmarks.gpu_roofline import H100, TimedDevice, measured_ceilings, roofline_table
from benchmarks.gpu_work import work_of
from benchmarks.peers.dosecuda_env import PeerMissing, run_dosecuda
from benchmarks.reference import DATA
from doseeng.backend import Materials
from doseeng.cpu import cpu
from doseeng.cuda import cuda
from doseeng.cuda_backend import CudaBackend
from doseeng.cuda_statistics import DeviceStatistics
from doseeng.errors import BackendUnavailable
from doseeng.proton import BeamModel, prepare_beam
from doseeng.scenario import NOMINAL, Scenario
from robust.scenarios import scenario_set

LARGEST_DIFFERENCE_PERCENT = 0.1
TARGETS_S = {"nominal": 0.030, "9 scenarios": None, "29 scenarios": 1.0, "101 scenarios": 3.0}
"""On an H100; memory below MEMORY_GB."""
MEMORY_GB = 8.0
REPEATS = 10
DVH_STEPS = 400
PEER_SPACING_MM = 3.0


def prepared(plan: GpuPlan, backend: Any) -> list[BeamModel]:
    """The beams of the plan, ready for scenarios."""
    materials = Materials(backend.put(plan.maps.rsp.values), backend.put(plan.maps.scattering.values))
    return [
        prepare_beam(beam, plan.machine, plan.maps, plan.grid, "HFS", backend=backend, materials=materials)
        for beam in plan.beams
    ]


def plan_dose(models: Sequence[BeamModel], scenario: Scenario = NOMINAL, retrace: bool = False) -> Any:
    """Dose of all beams in one array of the backend. retrace: also what rays meet, which models keep otherwise."""
    out = models[0].backend.zeros(models[0].grid.shape)
    if retrace:
        for model in models:
            model._traced.clear()
    for model in models:
        model.dose(scenario, out=out)
    return out


def with_statistics(models: Sequence[BeamModel], plan: GpuPlan, scenarios: Sequence[Scenario], top_gy: float) -> None:
    """All scenarios, minimum, maximum, mean and standard deviation per voxel, DVHs: from the materials to the host."""
    backend = models[0].backend
    assert isinstance(backend, CudaBackend)
    step = top_gy / DVH_STEPS
    statistics = DeviceStatistics(backend, plan.grid, plan.points, len(scenarios), step, DVH_STEPS)
    for scenario in scenarios:
        statistics.add(plan_dose(models, scenario))
    for volume in (statistics.minimum, statistics.maximum, statistics.mean, statistics.std, statistics.dvh_percent):
        volume()


def scenario_sets() -> dict[str, tuple[Scenario, ...]]:
    """9, 29 and 101 scenarios."""
    return {
        "9 scenarios": scenario_set("9-worst-case"),
        "29 scenarios": scenario_set("28"),
        "101 scenarios": scenario_set("random:100", rng=np.random.default_rng(1)),
    }


def seconds(work: Callable[[], Any], repeats: int = 1) -> float:
    """Median time of `work`, which must wait for the device itself."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def on_gpu(plan: GpuPlan, cpu_models: Sequence[BeamModel], backend: CudaBackend) -> bool:
    """Accuracy, roofline, times; True when the dose agrees."""
    cupy = backend.device.xp
    models = prepared(plan, backend)
    agrees = True
    for scenario in (NOMINAL, Scenario("shifted, overshoot", (3.0, -2.0, 4.0), 0.965)):
        found = backend.get(plan_dose(models, scenario))
        expected = np.asarray(plan_dose(cpu_models, scenario))
        percent = 100.0 * float(np.abs(found - expected).max() / expected.max())
        good = percent < LARGEST_DIFFERENCE_PERCENT
        agrees &= good
        print(f"GPU against CPU, {scenario.name}: {percent:.4f} % of maximum at most ({'ok' if good else 'NOT OK'})")
    timed = TimedDevice(cupy)
    plan_dose(prepared(plan, CudaBackend(timed)))
    slow = prepared(plan, CudaBackend(timed))
    timed.clear()
    plan_dose(slow, retrace=True)
    print(roofline_table(work_of(cpu_models, cpu()), measured_ceilings(cupy), timed.seconds()))

    def wait(work: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            work()
            cupy.cuda.Device().synchronize()

        return run

    print(f"\n{'':16} {'seconds':>9} {'target':>8}")
    rows = {"nominal": seconds(wait(lambda: plan_dose(models, retrace=True)), REPEATS)}
    top = 1.3 * float(expected.max())
    for name, scenarios in scenario_sets().items():
        rows[name] = seconds(lambda scenarios=scenarios: with_statistics(models, plan, scenarios, top))  # type: ignore[misc]
    for name, taken in rows.items():
        target = TARGETS_S[name]
        print(f"{name:16} {taken:9.4f} {'' if target is None else f'{target:.3f}':>8}")
    print(f"prepare {seconds(wait(lambda: prepared(plan, backend))):.3f} s")
    used = cupy.get_default_memory_pool().total_bytes() / 1e9
    print(f"memory {used:.2f} GB of {MEMORY_GB:.0f} GB allowed")
    return agrees


def beside_dosecuda(plan: GpuPlan, checkout: Path, backend: CudaBackend | None) -> None:
    """Both engines on the same spots and cubic voxels."""
    same = resampled(plan, PEER_SPACING_MM)
    try:
        peer = run_dosecuda(checkout, same)
    except PeerMissing as reason:
        print(f"\nDoseCUDA: not run: {reason}")
        return
    print(f"\nDoseCUDA, {same.spots} spots on {same.grid.shape} voxels of {PEER_SPACING_MM:g} mm, its own machine:")
    print(f"  plan {peer['plan_s']:.3f} s, of which ray tracing and spots {peer['kernels_s']:.3f} s")
    if backend is not None:
        models = prepared(same, backend)
        plan_dose(models)
        ours = seconds(lambda: backend.get(plan_dose(models, retrace=True)), REPEATS)
        print(f"  doseeng {ours:.3f} s, dose copied to the host")


def main(arguments: list[str] | None = None) -> int:
    """Run it all; the exit code is 1 when a kernel uses float64 or the GPU's dose differs from the CPU's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("particle", nargs="?", choices=["proton", "photon"], default="proton")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the reference data")
    parser.add_argument("--dosecuda", type=Path, help="a checkout of DoseCUDA to build and run on the same plan")
    options = parser.parse_args(arguments)
    if options.particle == "photon":
        table, good = ptx_table()
        print(table)
        return 0 if photon_arc(options.data) and good else 1
    plan = read_plan(options.data)
    print(
        f"{plan.name}: {plan.spots} spots, {len(plan.beams)} fields, {plan.grid.shape} voxels, {os.cpu_count()} cores"
    )
    table, good = ptx_table()
    print(table)
    cpu_models = prepared(plan, cpu())
    plan_dose(cpu_models)
    cpu_s = seconds(lambda: plan_dose(cpu_models, retrace=True), 3)
    print(f"\nCPU nominal: {cpu_s:.3f} s ({cpu().description})")
    backend = None
    try:
        backend = cuda()
        print(backend.description)
    except BackendUnavailable as reason:
        print(roofline_table(work_of(cpu_models, cpu()), H100))
        print(f"\n{reason}\nVerified here: every kernel to PTX, and its work. Not measured: dose on a GPU, times.")
    if backend is not None:
        good &= on_gpu(plan, cpu_models, backend)
    if options.dosecuda:
        beside_dosecuda(plan, options.dosecuda, backend)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

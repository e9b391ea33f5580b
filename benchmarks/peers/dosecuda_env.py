"""The peer DoseCUDA, built from a checkout into an environment of its own under `.peers/`.

It is GPL software and no dependency: it runs in its own process and exchanges arrays in files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.gpu_plan import GpuPlan
from benchmarks.peers.environment import PeerMissing, ensure_environment, run_script

__all__ = ["PeerMissing", "run_dosecuda"]

SCRIPT = Path(__file__).with_name("run_dosecuda.py")


def ensure_env(checkout: Path) -> Path:
    """The Python of DoseCUDA's environment; builds it first, which needs CMake, a compiler and the CUDA toolkit."""
    if not (checkout / "pyproject.toml").is_file():
        raise PeerMissing(f"{checkout} is no checkout of DoseCUDA: it has no pyproject.toml")
    return ensure_environment("dosecuda", str(checkout.resolve()), with_system_packages=True)


def run_dosecuda(checkout: Path, plan: GpuPlan) -> dict[str, float]:
    """Seconds of the plan (`plan_s`) and of its GPU calls alone (`kernels_s`); PeerMissing when it cannot run."""
    python = ensure_env(checkout)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.npz"
        arrays = {"hu": plan.hu.values, "origin_mm": plan.grid.origin_mm, "spacing_mm": plan.grid.spacing_mm}
        for n, beam in enumerate(plan.beams):
            arrays[f"angles_{n}"] = np.array([beam.gantry_deg, beam.couch_deg])
            arrays[f"isocenter_mm_{n}"] = np.array(beam.isocenter_mm)
            arrays[f"spots_{n}"] = np.column_stack([beam.spot_uv_mm, beam.spot_mu, beam.spot_energy_mev])
        np.savez(file, **arrays)
        return run_script(python, SCRIPT, file)

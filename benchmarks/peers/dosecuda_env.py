"""The peer DoseCUDA, built from a checkout into an environment of its own under `.peers/`.

It is GPL software and no dependency: it runs in its own process and exchanges arrays in files.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import venv
from pathlib import Path

import numpy as np

from benchmarks.gpu_plan import GpuPlan

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".peers" / "dosecuda"
SCRIPT = Path(__file__).with_name("run_dosecuda.py")


class PeerMissing(Exception):
    """The peer cannot be built or run here; the message says why."""


def ensure_env(checkout: Path) -> Path:
    """The Python of DoseCUDA's environment; builds it first, which needs CMake, a compiler and the CUDA toolkit."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "installed.txt"
    if not (stamp.is_file() and stamp.read_text() == str(checkout.resolve())):
        if not (checkout / "pyproject.toml").is_file():
            raise PeerMissing(f"{checkout} is no checkout of DoseCUDA: it has no pyproject.toml")
        venv.create(ENVIRONMENT, with_pip=True, clear=True, system_site_packages=True)
        command = [python, "-m", "pip", "install", "--quiet", str(checkout.resolve())]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise PeerMissing(f"the build failed:\n{done.stderr[-2000:]}")
        stamp.write_text(str(checkout.resolve()))
    return python


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
        done = subprocess.run([python, SCRIPT, file], capture_output=True, text=True)
    if done.returncode:
        raise PeerMissing(f"it failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost

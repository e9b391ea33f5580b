"""The peer PyDoseRT in its own environment under `.peers/`. It needs torch, whose wheels take some 6 GB of disk."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environment import ensure_environment, run_script
from doseeng.grid import Grid, Volume

SCRIPT = Path(__file__).with_name("run_pydosert.py")
REQUIREMENTS = ("pydosert==1.5.0",)


def ensure_env() -> Path:
    """The Python of PyDoseRT's environment, which is made first if it is absent or of another version."""
    return ensure_environment("pydosert", *REQUIREMENTS)


def run_case(case_dir: Path, preset: str, engine: str, spacing_mm: float) -> tuple[Volume, Any]:
    """Dose of one fraction of the plan in a folder of DICOM files, and what it cost.

    preset: a machine that PyDoseRT ships. engine: "DoseEngine" (depths of the central axis for all of a plane) or
    "PencilDepthEngine" (depths of each ray). spacing_mm: of its cubic voxels.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dose.npz"
        cost = run_script(ensure_env(), SCRIPT, case_dir, out, preset, engine, spacing_mm)
        with np.load(out) as data:
            dose = data["dose_gy"]
            return Volume(Grid(dose.shape, tuple(data["spacing_mm"]), tuple(data["origin_mm"])), dose), cost


if __name__ == "__main__":
    sys.stdout.write(f"{ensure_env()}\n")

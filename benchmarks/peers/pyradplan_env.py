"""The peer pyRadPlan in its own environment: `python -m benchmarks.peers.pyradplan_env` makes it under `.peers/`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environment import FOLDER, ensure_environment, run_script
from doseeng.grid import Volume

PROTONS = Path(__file__).with_name("run_pyradplan.py")
PHOTONS = Path(__file__).with_name("run_pyradplan_photons.py")
# 0.5.0 breaks with newer pydantic and numpydantic.
REQUIREMENTS = ("pyRadPlan==0.5.0", "pydantic<2.14", "numpydantic<2")


def ensure_env() -> Path:
    """The Python of pyRadPlan's environment, which is made first if it is absent or of other versions."""
    return ensure_environment("pyradplan", *REQUIREMENTS)


def proton_machine_file() -> Path:
    """matRad's generic proton machine, as pyRadPlan ships it."""
    found = list(FOLDER.glob("pyradplan/lib/python3*/site-packages/pyRadPlan/data/machines/protons_Generic.mat"))
    if len(found) != 1:
        raise FileNotFoundError(f"protons_Generic.mat not found in {FOLDER / 'pyradplan'}; delete it and try again")
    return found[0]


def run_plan(phantom: Path, plan: Path, out: Path) -> dict[str, float]:
    """Dose of `plan` (npz in the convention of the reference data) with pyRadPlan, into `out`; returns what it cost."""
    return run_script(ensure_env(), PROTONS, phantom, plan, out)


def run_open_fields(hu: Volume, sides_mm: tuple[float, ...], bixel_mm: float = 0.0) -> tuple[list[Volume], Any]:
    """Doses of square fields of the generic 6 MV machine from gantry 0, isocentre at the origin, and what they cost.

    bixel_mm: width of the bixels that a field is made of; 0 computes each field as one.
    """
    with tempfile.TemporaryDirectory() as folder:
        phantom, out = Path(folder) / "phantom.npz", Path(folder) / "dose.npz"
        np.savez(phantom, hu=hu.values, spacing_mm=hu.grid.spacing_mm, origin_mm=hu.grid.origin_mm)
        cost = run_script(ensure_env(), PHOTONS, phantom, out, bixel_mm, *sides_mm)
        with np.load(out) as doses:
            return [Volume(hu.grid, doses[f"dose_{n}"]) for n in range(len(sides_mm))], cost


if __name__ == "__main__":
    sys.stdout.write(f"{ensure_env()}\n")

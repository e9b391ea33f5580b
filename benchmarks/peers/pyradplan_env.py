"""The environment of the peer pyRadPlan: `python -m benchmarks.peers.pyradplan_env` makes it under `.peers/`.

pyRadPlan is a peer, not a dependency: it lives apart, so that its needs never mix with those of doseeng.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
ENVIRONMENT = CHECKOUT / ".peers" / "pyradplan"
SCRIPT = Path(__file__).with_name("run_pyradplan.py")
# 0.5.0 breaks with newer pydantic and numpydantic.
REQUIREMENTS = ("pyRadPlan==0.5.0", "pydantic<2.14", "numpydantic<2")
_STAMP = ENVIRONMENT / "installed.txt"


def ensure_env() -> Path:
    """The Python of pyRadPlan's environment, which is made first if it is absent or of other versions."""
    python = ENVIRONMENT / "bin" / "python"
    wanted = "\n".join(REQUIREMENTS)
    if not (python.exists() and _STAMP.exists() and _STAMP.read_text() == wanted):
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        _STAMP.write_text(wanted)
    return python


def proton_machine_file() -> Path:
    """matRad's generic proton machine, as pyRadPlan ships it."""
    found = list(ENVIRONMENT.glob("lib/python3*/site-packages/pyRadPlan/data/machines/protons_Generic.mat"))
    if len(found) != 1:
        raise FileNotFoundError(f"protons_Generic.mat not found in {ENVIRONMENT}; delete that folder and try again")
    return found[0]


def run_plan(phantom: Path, plan: Path, out: Path) -> dict[str, float]:
    """Dose of `plan` (npz in the convention of the reference data) with pyRadPlan, into `out`; returns what it cost."""
    command = [ensure_env(), SCRIPT, phantom, plan, out]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pyRadPlan failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost


if __name__ == "__main__":
    sys.stdout.write(f"{ensure_env()}\n")

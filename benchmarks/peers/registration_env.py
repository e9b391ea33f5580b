"""Registration by peers and by doseeng, each method in a process of its own.

`python -m benchmarks.peers.registration_env` makes the environments of elastix and plastimatch under `.peers/`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.cost import Cost
from benchmarks.peers.environment import PeerMissing, ensure_environment, run_script
from benchmarks.peers.exchange import Task, write_task
from doseeng.grid import Grid
from doseeng.transforms import DisplacementField

HERE = Path(__file__).parent
ELASTIX = ("itk-elastix==0.25.4",)
# The wheel carries the program that Debian packages as plastimatch; SimpleITK writes its files.
PLASTIMATCH = ("plastimatch==1.10.0", "numpy>=2,<3", "simpleitk>=2.5,<3")


def elastix_python() -> Path:
    """The Python of elastix's environment, which is made first if it is absent."""
    return ensure_environment("elastix", *ELASTIX)


def plastimatch_python() -> Path:
    """The Python of plastimatch's environment, which is made first if it is absent."""
    return ensure_environment("plastimatch", *PLASTIMATCH)


def own_python() -> Path:
    """The Python that runs now."""
    return Path(sys.executable)


@dataclass(frozen=True, slots=True)
class Method:
    """One way to register. python: finds or makes its Python, PeerMissing where it cannot. option: of its script."""

    name: str
    python: Callable[[], Path]
    script: str
    option: str = ""


OWN = Method("doseeng", own_python, "run_doseeng_registration.py")
PEERS = (
    Method("elastix 16 mm", elastix_python, "run_elastix.py", "16"),
    Method("elastix 10 mm", elastix_python, "run_elastix.py", "10"),
    Method("plastimatch", plastimatch_python, "run_plastimatch.py"),
    Method("SimpleITK B-spline", own_python, "run_sitk.py", "bspline"),
    Method("SimpleITK demons", own_python, "run_sitk.py", "demons"),
    Method("SimpleITK diffeo.", own_python, "run_sitk.py", "diffeomorphic"),
)


def run_method(method: Method, task: Task) -> tuple[DisplacementField, Cost]:
    """The pullback that a method finds, and what it cost; PeerMissing when it cannot be installed or fails."""
    python = method.python()
    with tempfile.TemporaryDirectory() as name:
        task_file, out = Path(name) / "task.npz", Path(name) / "field.npz"
        write_task(task_file, task)
        options = [method.option] if method.option else []
        cost = run_script(python, HERE / method.script, task_file, out, *options)
        with np.load(out) as found:
            vectors, spacing, origin = (found[key] for key in ("vectors_mm", "spacing_mm", "origin_mm"))
    if not np.isfinite(vectors).all():
        raise PeerMissing(f"{method.name} gave a field with NaN or infinity")
    nz, ny, nx = vectors.shape[:3]
    return DisplacementField(Grid((nz, ny, nx), tuple(spacing), tuple(origin)), vectors), Cost(method.name, **cost)


if __name__ == "__main__":
    for python in (elastix_python, plastimatch_python):
        sys.stdout.write(f"{python()}\n")

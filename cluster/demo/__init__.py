"""A complete synthetic case, made on the spot: what `doseeng demo` evaluates. No patient data anywhere."""

from pathlib import Path
from typing import Final

from cluster.demo.case import write_demo_case

GOALS: Final = Path(__file__).parent / "goals.toml"
"""Clinical goals of the case."""

__all__ = ["GOALS", "write_demo_case"]

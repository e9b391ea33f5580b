"""Planning objectives: quadratic penalties on the dose of chosen voxels, with their gradients.

Every penalty is the mean over the voxels of an objective, so that weights mean the same for small and large structures:

    minimum   weight mean(max(dose_gy - d, 0)^2)      targets
    maximum   weight mean(max(d - dose_gy, 0)^2)      targets and organs
    uniform   weight mean((d - dose_gy)^2)            targets
    mean      weight max(mean(d) - dose_gy, 0)^2      organs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from doseeng.errors import PlanError

Array = npt.NDArray[np.float64]
Kind = Literal["minimum", "maximum", "uniform", "mean"]


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """One penalty. voxels: (n,) rows of the influence matrix. dose_gy: level, in the same dose as matrix @ spot_mu.

    robust: counts in every scenario of the optimisation; otherwise in the first (nominal) alone.
    """

    structure: str
    kind: Kind
    voxels: npt.NDArray[np.intp]
    dose_gy: float
    weight: float = 1.0
    robust: bool = True

    def __post_init__(self) -> None:
        where = f"objective {self.kind} for '{self.structure}'"
        if self.kind not in get_args(Kind):
            raise PlanError(f"{where}: unknown kind; expected one of {', '.join(get_args(Kind))}")
        if len(self.voxels) == 0:
            raise PlanError(f"{where}: holds no voxel; the structure lies outside the planning points")
        if self.weight < 0 or self.dose_gy < 0:
            raise PlanError(f"{where}: weight {self.weight:g} and dose {self.dose_gy:g} Gy must not be negative")


def value_and_gradient(objectives: Sequence[Objective], dose_gy: Array) -> tuple[float, Array]:
    """Sum of the penalties and its gradient (n_points,) with respect to dose_gy (n_points,)."""
    total, gradient = 0.0, np.zeros(len(dose_gy), dtype=np.float64)
    for objective in objectives:
        excess = np.asarray(dose_gy[objective.voxels], dtype=np.float64) - objective.dose_gy
        if objective.kind == "minimum":
            excess = np.minimum(excess, 0.0)
        elif objective.kind == "maximum":
            excess = np.maximum(excess, 0.0)
        elif objective.kind == "mean":
            excess = np.full(len(excess), max(float(excess.mean()), 0.0))
        total += objective.weight * float(np.mean(excess**2))
        np.add.at(gradient, objective.voxels, 2.0 * objective.weight * excess / len(excess))
    return total, gradient

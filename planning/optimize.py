"""Spot weights from objectives: bounded quasi-Newton descent over one or several scenarios, with deliverable spots.

Several scenarios combine as their mean ("stochastic": Unkelbach et al., Med Phys 36 (2009) 149) or as a smooth worst
case (minimax: Fredriksson et al., Med Phys 38 (2011) 1672; here the p-norm of the scenario penalties).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from doseeng.errors import PlanError
from planning.objectives import Objective, value_and_gradient

Array = npt.NDArray[np.float64]
Matrix = Any
"""A scipy sparse matrix (n_points, n_spots)."""

WORST_NORM: Final = 8
"""Exponent of the smooth worst case: with nine scenarios it stays within a quarter of the largest penalty."""

MEMORY: Final = 20
"""Corrections L-BFGS-B keeps; spot weights overlap strongly, so more than the usual ten pay."""


@dataclass(frozen=True, slots=True)
class OptimizeSettings:
    """scenarios: how penalties of several scenarios combine. iterations: at most, per pass.

    min_spot_mu: least deliverable MU; spots below it after the first pass are dropped and the rest stays above it.
    tolerance: stop when a step lowers the penalty by less than this share.
    """

    scenarios: Literal["mean", "worst"] = "mean"
    iterations: int = 100
    min_spot_mu: float = 0.0
    tolerance: float = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class OptimizedWeights:
    """spot_mu: (n_spots,), 0 where dropped, else at least the minimum. penalty: there. iterations: of all passes."""

    spot_mu: Array
    penalty: float
    iterations: int


def optimize_weights(
    matrices: Sequence[Matrix],
    objectives: Sequence[Objective],
    start_mu: npt.ArrayLike,
    settings: OptimizeSettings = OptimizeSettings(),
    progress: Callable[[str, int, int], None] | None = None,
    backgrounds: Sequence[Array] | None = None,
) -> OptimizedWeights:
    """The spot MU that minimise `objectives` over one influence matrix per scenario, nominal first.

    start_mu: (n_spots,) first guess, not negative. progress: called with (stage, iterations done, at most).
    backgrounds: per scenario a dose (n_points,) that is there whatever the weights are: of earlier fractions, or what a
    better engine finds beyond the matrix. PlanError for matrices or weights that do not fit, and when no spot is left.
    """
    start = np.asarray(start_mu, dtype=np.float64)
    if not matrices or any(m.shape != (matrices[0].shape[0], len(start)) for m in matrices):
        shapes = [m.shape for m in matrices]
        raise PlanError(f"influence matrices {shapes} do not fit {len(start)} spots; make them for one set of points")
    if np.any(start < 0) or not np.all(np.isfinite(start)) or not start.any():
        raise PlanError("the first guess of the optimisation must be finite, not negative and not zero everywhere")
    fixed = [np.zeros(m.shape[0]) for m in matrices] if backgrounds is None else backgrounds
    if [len(b) for b in fixed] != [m.shape[0] for m in matrices]:
        raise PlanError(f"backgrounds {[len(b) for b in fixed]} do not fit {len(matrices)} matrices; give one each")
    first = _pass(matrices, fixed, objectives, start, 0.0, settings, _stage(progress, "optimise", settings))
    if settings.min_spot_mu <= 0.0:
        return first
    kept = np.flatnonzero(first.spot_mu >= settings.min_spot_mu)
    if not len(kept):
        raise PlanError(
            f"every optimised spot lies below the minimum of {settings.min_spot_mu:g} MU; place fewer spots or lower it"
        )
    reduced = [m[:, kept] for m in matrices]
    stage = _stage(progress, "optimise deliverable spots", settings)
    second = _pass(reduced, fixed, objectives, first.spot_mu[kept], settings.min_spot_mu, settings, stage)
    spot_mu = np.zeros(len(start))
    spot_mu[kept] = second.spot_mu
    return OptimizedWeights(spot_mu, second.penalty, first.iterations + second.iterations)


def penalty_and_gradient(
    matrices: Sequence[Matrix],
    backgrounds: Sequence[Array],
    objectives: Sequence[Objective],
    spot_mu: Array,
    scenarios: str,
) -> tuple[float, Array]:
    """Penalty over the scenarios and its gradient (n_spots,) with respect to spot_mu (n_spots,)."""
    robust = [o for o in objectives if o.robust]
    nominal_only = [o for o in objectives if not o.robust]
    doses = [m @ spot_mu.astype(m.dtype) + b for m, b in zip(matrices, backgrounds, strict=True)]
    extra, extra_gradient = value_and_gradient(nominal_only, doses[0])
    parts = [value_and_gradient(robust, dose) for dose in doses]
    total, factors = _combined(np.array([value for value, _ in parts]), scenarios)
    by_dose = [factor * gradient for factor, (_, gradient) in zip(factors, parts, strict=True)]
    by_dose[0] += extra_gradient
    gradient = np.zeros(len(spot_mu))
    for matrix, g in zip(matrices, by_dose, strict=True):
        gradient += matrix.T @ g.astype(matrix.dtype)
    return total + extra, gradient


def _combined(values: Array, scenarios: str) -> tuple[float, Array]:
    """The scenarios' penalties as one, and its derivatives."""
    n = len(values)
    largest = values.max()
    if scenarios == "mean" or largest <= 0.0:
        return float(values.mean()), np.full(n, 1.0 / n)
    ratio = values / largest
    norm = float(np.mean(ratio**WORST_NORM) ** (1.0 / WORST_NORM))
    return float(largest) * norm, (ratio / norm) ** (WORST_NORM - 1) / n


def _pass(
    matrices: Sequence[Matrix],
    backgrounds: Sequence[Array],
    objectives: Sequence[Objective],
    start_mu: Array,
    lowest_mu: float,
    settings: OptimizeSettings,
    stage: Callable[[int], None],
) -> OptimizedWeights:
    """One L-BFGS-B run, in units of the mean weight of the first guess."""
    scale = float(start_mu.mean())
    done = 0

    def function(x: Array) -> tuple[float, Array]:
        penalty, gradient = penalty_and_gradient(matrices, backgrounds, objectives, x * scale, settings.scenarios)
        return penalty, gradient * scale

    def count(_: Array) -> None:
        nonlocal done
        done += 1
        stage(done)

    found = minimize(
        function,
        np.maximum(start_mu, lowest_mu) / scale,
        jac=True,
        method="L-BFGS-B",
        bounds=[(lowest_mu / scale, None)] * len(start_mu),
        callback=count,
        options={"maxiter": settings.iterations, "maxcor": MEMORY, "ftol": settings.tolerance, "gtol": 0.0},
    )
    # The division and multiplication by the scale may leave a bound by one rounding.
    return OptimizedWeights(np.maximum(found.x * scale, lowest_mu), float(found.fun), int(found.nit))


def _stage(
    progress: Callable[[str, int, int], None] | None, name: str, settings: OptimizeSettings
) -> Callable[[int], None]:
    return lambda done: progress(name, done, settings.iterations) if progress is not None else None

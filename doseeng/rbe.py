"""Relative biological effectiveness (RBE) of protons: constant, or by dose, LETd and tissue.

The variable models share one formula. With the linear-quadratic model for photons (alpha/beta of the tissue) and for
protons (alpha larger by RBE_max, beta by RBE_min^2) the photon dose of equal effect is RBE times the proton dose, with

    RBE = (sqrt(ab^2 + 4 D ab RBE_max + 4 D^2 RBE_min^2) - ab) / (2 D)

for a dose D per fraction and ab = alpha/beta: RBE_max at vanishing, RBE_min at very large doses (Carabe-Fernandez, Dale
and Jones, Int J Radiat Biol 83 (2007) 27). Both are fitted to cells in culture; LETd is that of protons in water, as
`doseeng.let` gives it. Nothing here replaces the constant 1.1 in a prescription.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from doseeng.errors import MetricError

Floats = npt.NDArray[np.floating[Any]]
Values = Floats | float

CONSTANT_RBE: Final = 1.1
"""ICRU Report 78 (2007)."""
MCNAMARA: Final = (0.99064, 0.35605, 1.1012, -0.0038703)
"""p0 to p3 of McNamara, Schuemann and Paganetti, Phys Med Biol 60 (2015) 8399: 285 published cell survival data.
(Some programs have p0 = 0.999064, a slip of a digit.)"""
WEDENBERG: Final = 0.434
"""Gy um/keV, of Wedenberg, Lind and Hårdemark, Acta Oncol 52 (2013) 580: ten cell lines."""


class RbeModel(StrEnum):
    """How RBE is found; the values are the names in configuration and results."""

    CONSTANT = "constant"
    MCNAMARA = "mcnamara"
    WEDENBERG = "wedenberg"


class RbeFunction(Protocol):
    """RBE, broadcast over its arguments: dose per fraction in Gy, LETd in keV/um, alpha/beta of the tissue in Gy.

    float32 arguments give float32. At zero dose it is RBE_max. MetricError when alpha/beta is not positive or dose or
    LETd is negative or not finite.
    """

    def __call__(self, dose_per_fraction_gy: Values, let_kev_um: Values, alpha_beta_gy: Values) -> Floats: ...


def constant_rbe(dose_per_fraction_gy: Values, let_kev_um: Values, alpha_beta_gy: Values) -> Floats:
    """1.1 everywhere (ICRU Report 78); arguments as `RbeFunction`."""
    dose, let, alpha_beta = _checked(dose_per_fraction_gy, let_kev_um, alpha_beta_gy)
    return np.full(np.broadcast_shapes(dose.shape, let.shape, alpha_beta.shape), CONSTANT_RBE, dtype=dose.dtype)


def mcnamara_rbe(dose_per_fraction_gy: Values, let_kev_um: Values, alpha_beta_gy: Values) -> Floats:
    """McNamara et al. (2015): RBE_max = p0 + p1 L / ab, RBE_min = p2 + p3 sqrt(ab) L; arguments as `RbeFunction`.

    RBE_min is held at zero where the fit makes it negative, far beyond the LETd of protons.
    """
    dose, let, alpha_beta = _checked(dose_per_fraction_gy, let_kev_um, alpha_beta_gy)
    p0, p1, p2, p3 = MCNAMARA
    rbe_min = np.maximum(p2 + p3 * np.sqrt(alpha_beta) * let, 0.0)
    return _equal_effect(dose, alpha_beta, p0 + p1 * let / alpha_beta, rbe_min)


def wedenberg_rbe(dose_per_fraction_gy: Values, let_kev_um: Values, alpha_beta_gy: Values) -> Floats:
    """Wedenberg et al. (2013): RBE_max = 1 + 0.434 L / ab, RBE_min = 1; arguments as `RbeFunction`."""
    dose, let, alpha_beta = _checked(dose_per_fraction_gy, let_kev_um, alpha_beta_gy)
    return _equal_effect(dose, alpha_beta, 1.0 + WEDENBERG * let / alpha_beta, 1.0)


MODELS: Final[Mapping[RbeModel, RbeFunction]] = {
    RbeModel.CONSTANT: constant_rbe,
    RbeModel.MCNAMARA: mcnamara_rbe,
    RbeModel.WEDENBERG: wedenberg_rbe,
}


def rbe_weighted_course(
    model: RbeModel,
    dose_per_fraction_gy: npt.NDArray[np.float32],
    let_kev_um: npt.NDArray[np.float32],
    alpha_beta_gy: npt.NDArray[np.float32] | float,
    fractions: int,
) -> npt.NDArray[np.float32]:
    """RBE-weighted dose of the whole course, Gy, float32, from physical dose of one fraction and its LETd.

    dose_per_fraction_gy, let_kev_um: (z, y, x), all beams of that fraction together; LETd is zero, not NaN, where there
    is no dose. alpha_beta_gy: of every voxel, or one for all. fractions: how often this fraction is given; a course of
    different fractions is the sum of their results. Works slice by slice: beside the result it needs a few slices of
    memory. MetricError as `RbeFunction`, and when shapes or fractions make no sense.
    """
    if let_kev_um.shape != dose_per_fraction_gy.shape:
        raise MetricError(f"LETd has shape {let_kev_um.shape}, dose {dose_per_fraction_gy.shape}; expected one grid")
    if fractions < 1:
        raise MetricError(f"a course of {fractions} fractions was asked for; expected at least one")
    tissue = np.broadcast_to(np.asarray(alpha_beta_gy, dtype=np.float32), dose_per_fraction_gy.shape)
    out = np.empty(dose_per_fraction_gy.shape, dtype=np.float32)
    for k, dose in enumerate(dose_per_fraction_gy):
        np.multiply(MODELS[model](dose, let_kev_um[k], tissue[k]), dose, out=out[k])
        out[k] *= np.float32(fractions)
    return out


def _equal_effect(dose: Floats, alpha_beta: Floats, rbe_max: Floats, rbe_min: Values) -> Floats:
    """The formula above with numerator and denominator times (sqrt + ab): no difference, no division by the dose."""
    linear = alpha_beta * rbe_max
    quadratic = dose * rbe_min**2
    root = np.sqrt(alpha_beta**2 + 4.0 * dose * (linear + quadratic))
    return np.asarray(2.0 * (linear + quadratic) / (root + alpha_beta))


def _checked(dose: Values, let: Values, alpha_beta: Values) -> tuple[Floats, Floats, Floats]:
    """The arguments in the floating type of their arrays, which plain numbers do not change."""
    arrays = [v.dtype for v in (dose, let, alpha_beta) if isinstance(v, np.ndarray | np.generic)]
    kind: np.dtype[Any] = np.result_type(np.float32, *arrays) if arrays else np.dtype(np.float64)
    for values, name in ((dose, "dose per fraction (Gy)"), (let, "LETd (keV/um)")):
        _require(values, np.greater_equal(values, 0.0), f"{name} must be finite and not negative")
    _require(alpha_beta, np.greater(alpha_beta, 0.0), "alpha/beta (Gy) of a tissue must be finite and positive")
    return np.asarray(dose, dtype=kind), np.asarray(let, dtype=kind), np.asarray(alpha_beta, dtype=kind)


def _require(values: Values, valid: npt.NDArray[np.bool_], rule: str) -> None:
    bad = np.asarray(values)[~(np.asarray(valid) & np.isfinite(values))]
    if bad.size:
        raise MetricError(f"{rule}; found {float(bad.flat[0]):g} in {bad.size} of {np.size(values)} values")

"""The analytic Bragg curve of Bortfeld (1997), Med Phys 24:2024: shape and broadening of a proton peak in water."""

from __future__ import annotations

import numpy as np
from scipy.special import gamma, pbdv

from doseeng.machines.depthdose import GY_MM2_PER_1E9_PROTONS
from doseeng.machines.model import Array

# Bragg-Kleeman range R0 = ALPHA E^P (cm, MeV) and the nuclear fluence loss of the paper, in water.
ALPHA_CM = 0.0022
P = 1.77
BETA_PER_CM = 0.012
LOCAL_NUCLEAR_SHARE = 0.6
# Beyond 10 sigma above the end of range straggling no longer shows and the parabolic cylinder function overflows.
_NO_STRAGGLING_SIGMA = 10.0


def bragg_range_mm(energy_mev: float | Array) -> float | Array:
    """CSDA-like range in water, mm, of the Bragg-Kleeman rule."""
    return 10.0 * ALPHA_CM * energy_mev**P


def range_sigma_mm(range_mm: float | Array, energy_mev: float | Array, energy_spread_mev: float | Array) -> Array:
    """Total range spread, 1 sigma in mm: straggling in water 0.012 R^0.935 (cm) plus energy_spread dR/dE (eq. 19)."""
    straggling = 10.0 * 0.012 * (np.asarray(range_mm) / 10.0) ** 0.935
    spread = np.asarray(energy_spread_mev) * P * np.asarray(range_mm) / energy_mev
    return np.hypot(straggling, spread)


def bragg_curve(depth_mm: Array, range_mm: float, sigma_mm: float, tail: float = 0.0) -> Array:
    """Integrated depth dose in Gy mm2 per 1e9 protons at `depth_mm` (n,) (eq. 26, with eq. 20 far above the peak).

    range_mm: mean range R0. sigma_mm: total range spread. tail: share of protons in the low-energy tail.
    """
    z, r0, sigma = np.asarray(depth_mm) / 10.0, range_mm / 10.0, sigma_mm / 10.0
    zeta = (r0 - z) / sigma
    scale = 1.0 / (P * ALPHA_CM ** (1.0 / P) * (1.0 + BETA_PER_CM * r0))
    reaction = BETA_PER_CM / P + LOCAL_NUCLEAR_SHARE * BETA_PER_CM + tail / r0

    residual = np.maximum(r0 - z, _NO_STRAGGLING_SIGMA * sigma)
    above = residual ** (1.0 / P - 1.0) + P * reaction * residual ** (1.0 / P)

    near = np.clip(zeta, -30.0, _NO_STRAGGLING_SIGMA)
    front = np.exp(-(near**2) / 4.0) * sigma ** (1.0 / P) * gamma(1.0 / P) / np.sqrt(2.0 * np.pi)
    peak = front * (pbdv(-1.0 / P, -near)[0] / sigma + reaction * pbdv(-1.0 / P - 1.0, -near)[0])
    return GY_MM2_PER_1E9_PROTONS * scale * np.where(zeta > _NO_STRAGGLING_SIGMA, above, peak)

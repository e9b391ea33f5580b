"""The nuclear halo where a machine's data do not show it."""

from __future__ import annotations

import numpy as np

from doseeng.machines.interpolation import rows_between
from doseeng.machines.model import Array, Halo

HALO_FRACTION: Array = np.round(np.arange(0.0, 1.1001, 0.05), 4)
HALO_FRACTION.flags.writeable = False


def analytic_halo(range_mm: Array) -> Halo:
    """Halo of proton pencil beams in water of ranges (n,), by the fit to Monte Carlo of Soukup, Fippel and Alber.

    Phys Med Biol 50 (2005) 5089, nuclear correction: weight and width as functions of depth z and range R, both in cm,
    width in cm. Weights that the fit makes negative (low energies, shallow depths) are zero.
    """
    r = (range_mm / 10.0)[:, None]
    z = r * HALO_FRACTION
    sigma_cm = 2.85 + 0.0014 * r * np.log(z + 3.0) + 0.06 * z - 7.4e-5 * z**2 - 0.22 * r / (z - r - 5.0) ** 2
    weight = (
        0.052 * np.log(1.13 + z / (11.2 - 0.023 * r))
        + 0.35 * (0.0017 * r**2 - r) / ((r + 3.0) ** 2 - z**2)
        - 1.61e-9 * z * (r + 3.0) ** 2
    )
    return Halo(HALO_FRACTION, np.clip(weight, 0.0, 1.0), 10.0 * sigma_cm)


def interpolate_halo(halo: Halo, energy_mev: Array, at_mev: Array) -> Halo:
    """`halo` of energies (n,) at energies (k,), linear in energy at equal depth over range, constant outside."""
    fraction, sigma = (rows_between(energy_mev, rows, at_mev) for rows in (halo.fraction, halo.sigma_mm))
    return Halo(halo.depth_fraction, fraction, sigma)

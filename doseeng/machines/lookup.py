"""What a proton machine delivers at any energy: pure functions of the model, interpolating its tables.

Rows of the tables are linear in nominal energy; depths are per range, so that neighbouring Bragg peaks line up.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from doseeng import protonphysics
from doseeng.machines.interpolation import rows_between
from doseeng.machines.model import Array, ProtonMachine
from doseeng.plan import RangeShifter

MIN_RESIDUAL_MM: Final = 0.5
"""Scattering power is not followed beyond this residual range, where protons are stopping."""


def rows_at(machine: ProtonMachine, values: Array, energy_mev: Array) -> Array:
    """Rows (k, ...) of a machine table (n_energy, ...) at nominal energies (k,), held constant beyond the ends."""
    return rows_between(machine.energy_mev, values, energy_mev)


def range_at(machine: ProtonMachine, energy_mev: Array) -> Array:
    """Distal 80 % depth in water, mm; log-log between tabulated energies (range against energy is a power law)."""
    return np.exp(np.interp(np.log(energy_mev), np.log(machine.energy_mev), np.log(machine.range_mm)))


def depth_dose_at(machine: ProtonMachine, energy_mev: float, depth_mm: Array) -> Array:
    """Integrated depth dose at depths in water, Gy mm2 per 1e9 protons."""
    energy = np.atleast_1d(float(energy_mev))
    idd = rows_at(machine, machine.idd, energy)[0]
    return np.interp(depth_mm / range_at(machine, energy)[0], machine.depth_fraction, idd, right=0.0)


def halo_at(machine: ProtonMachine, energy_mev: float, depth_mm: Array) -> tuple[Array, Array]:
    """Share of the depth dose in the nuclear halo and its width (sigma, mm) at depths in water."""
    energy = np.atleast_1d(float(energy_mev))
    fraction = depth_mm / range_at(machine, energy)[0]
    share = np.interp(fraction, machine.halo.depth_fraction, rows_at(machine, machine.halo.fraction, energy)[0])
    sigma = np.interp(fraction, machine.halo.depth_fraction, rows_at(machine, machine.halo.sigma_mm, energy)[0])
    return share, sigma


def mean_energy_at(machine: ProtonMachine, energy_mev: Array) -> Array:
    """Mean energy at the nozzle exit, MeV."""
    return rows_at(machine, machine.mean_energy_mev, energy_mev)


def scattering_power_at(machine: ProtonMachine, energy_mev: Array, depth_mm: Array) -> Array:
    """(n_energy, n_depth) scattering power of water at depths in water, rad2/mm."""
    mean = mean_energy_at(machine, np.asarray(energy_mev, dtype=np.float64))[:, None]
    residual = np.maximum(protonphysics.water_range_mm(mean) - depth_mm, MIN_RESIDUAL_MM)
    return protonphysics.scattering_power_water(residual, mean)


def optics_variance(
    machine: ProtonMachine,
    energy_mev: Array,
    gaussian: int,
    z_mm: Array,
    shifter: RangeShifter | None = None,
    scatter: float = 1.0,
) -> Array:
    """(n_z, n_energy, 2) lateral variance in mm2 (x, y) at gantry heights z_mm, without patient scatter.

    Drift of the machine's Gaussian from its reference plane, plus the range shifter's scatter drifting from its face,
    times `scatter`.
    """
    optics = machine.optics
    sigma = rows_at(machine, optics.sigma_mm[:, gaussian], energy_mev)
    divergence = rows_at(machine, optics.divergence_rad[:, gaussian], energy_mev)
    correlation = rows_at(machine, optics.correlation[:, gaussian], energy_mev)
    drift = (optics.plane_mm - z_mm)[:, None, None]
    variance = sigma**2 + 2.0 * correlation * sigma * divergence * drift + (divergence * drift) ** 2
    if shifter is not None:
        a0, a1, a2 = _shifter_moments(machine, energy_mev, shifter)
        behind = np.maximum(shifter.downstream_face_mm - z_mm, 0.0)[:, None]
        variance = variance + scatter * (a2 + 2.0 * a1 * behind + a0 * behind**2)[..., None]
    return variance


def _shifter_moments(machine: ProtonMachine, energy_mev: Array, shifter: RangeShifter) -> tuple[Array, Array, Array]:
    """Fermi-Eyges moments A0, A1, A2 (each (n_energy,)) at the downstream face of a PMMA slab."""
    rsp = protonphysics.relative_stopping_power(shifter.density_gcm3, protonphysics.PMMA)
    scattering = protonphysics.relative_scattering_power(shifter.density_gcm3, protonphysics.PMMA)
    steps = 100
    passed = (np.arange(steps) + 0.5) / steps
    thickness = shifter.wet_mm / rsp
    to_face = thickness * (1.0 - passed)
    power = scattering_power_at(machine, energy_mev, shifter.wet_mm * passed)
    power *= scattering * thickness / steps
    return power.sum(axis=1), (power * to_face).sum(axis=1), (power * to_face**2).sum(axis=1)


def water_scatter_variance(machine: ProtonMachine, energy_mev: float, depth_mm: Array) -> Array:
    """Lateral variance in mm2 that multiple scattering in water has built up at ascending depths (d,), mm."""
    step = 0.5
    inner = np.arange(0.5 * step, float(depth_mm[-1]) + step, step)
    power = scattering_power_at(machine, np.array([float(energy_mev)]), inner)[0] * step
    sums = [np.concatenate([[0.0], np.cumsum(power * inner**n)]) for n in range(3)]
    edges = np.concatenate([[0.0], inner + 0.5 * step])
    s0, s1, s2 = (np.interp(depth_mm, edges, s) for s in sums)
    return np.maximum(depth_mm**2 * s0 - 2.0 * depth_mm * s1 + s2, 0.0)

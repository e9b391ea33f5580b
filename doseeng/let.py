"""Dose-averaged linear energy transfer (LETd) of proton layers: unrestricted, electronic, in water, of all protons.

LETd = (sum of L^2 over proton tracks) / (sum of L over them) is a mean weighted with dose, so that of several layers,
rays or fields is the sum of dose times LETd over the sum of dose. It counts primary and secondary protons, not heavier
fragments: what variable RBE models for protons usually take (Wilkens and Oelfke, Med Phys 30 (2003) 806; Kalholm et
al., Radiother Oncol 161 (2021) 211).

Primaries: Gaussian residual ranges at a depth, each with the LET of its range. Histograms of residual range with exact
integrals of LET over a bin take the place of the regularised closed form of Wilkens and Oelfke, which a power law of
range and energy needs at zero range.

Secondaries: protons born in nonelastic reactions with oxygen and in elastic collisions with hydrogen slow down on
straight lines at the angle of quasi-elastic kinematics. Their spectrum is a two-term description of the evaluated data
of ICRU Report 63 (2000); nothing here is fitted to doses or LET. They are 3 to 15 % of the dose, and up to half of dose
times LETd in front of the target, where primaries alone would say far too little (Grassberger and Paganetti, Phys Med
Biol 56 (2011) 6677).

The engine carries a core and a wide halo. Secondaries that travel far enough to leave a spot are the halo's; see
`let_parts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.special import ndtr

from doseeng.machines import lookup
from doseeng.machines.depthdose import DEPTH_FRACTION, distal_range_mm
from doseeng.machines.model import Array, ProtonMachine
from doseeng.protonphysics import water_let_kev_um

# Primaries
FALLOFF_SIGMAS: Final = 1.318
"""Distal 80 to 20 % of Bortfeld's Bragg curve over its range spread (Med Phys 24 (1997) 2024), the same for all
ranges within 0.2 %."""
SPREAD_SIGMAS: Final = 4.5
RANGE_BINS: Final = 90
"""Bins of residual range at each depth, over SPREAD_SIGMAS on both sides of the mean where protons are left."""
LAST_SIGMAS: Final = 3.0
"""LETd is held from here beyond the mean range, where a thousandth of the primaries' dose is left."""

# Secondaries
OXYGEN_PER_MM_BARN: Final = 3.343e-3
"""Oxygen nuclei in 1 mm of water per barn; hydrogen has twice as many."""
NONELASTIC_MEV: Final = (7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 400.0)
NONELASTIC_BARN: Final = (0.208, 0.308, 0.425, 0.479, 0.518, 0.535, 0.501, 0.449, 0.401, 0.362, 0.313, 0.297, 0.295)
"""Nonelastic cross section of protons on oxygen-16, ICRU Report 63; none below."""
SEPARATION_MEV: Final = 12.1
"""What it costs to free a proton from oxygen-16."""
CASCADE_PROTONS: Final = 0.87
"""Protons per reaction and unit of energy over incident energy, evenly up to incident energy less separation energy."""
SLOW_PROTONS_PER_MEV: Final = 0.15
SLOW_MEV: Final = 0.73
"""More protons, falling as exp(-T / t) with t = SLOW_MEV sqrt(E / MeV): pre-equilibrium and evaporation. With these
three numbers the number of protons and the energy they carry are those of ICRU Report 63 within 8 % from 70 to 250 MeV;
at 50 MeV, where few are made, the energy is 15 % less."""
BARRIER_MEV: Final = (2.2, 0.5)
"""The Coulomb barrier of the residual nucleus: where the slow protons begin, and over what width."""
ELASTIC_FROM_MEV: Final = 10.0
"""Below this Coulomb scattering, not nuclear, deflects protons off hydrogen."""
SMALLEST_SHARE: Final = 2e-3
"""Births below this share of the incident energy carry no dose."""
BIRTH_BINS: Final = 60
CORE_REACH_MM: Final = 5.0
"""Secondaries born with less range stay inside a spot, whose sigma is 3 to 6 mm. With 2 or 10 mm the halo's LETd would
be 10 to 25 % higher or lower from 100 MeV on, the total the same."""
FEWEST_FAR: Final = 1e-9
"""Share of the dose below which far-reaching secondaries have no LETd of their own."""
SMALLEST_CORE: Final = 1e-9
"""Guards the division where a machine's halo is all of the dose."""
SURFACE_NODES_MM: Final = (0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0)
"""Secondaries build up over these depths, where nodes in depth over range are sparse."""
FIRST_DEPTH_MM: Final = 0.05
"""No secondaries are there above it; LETd at the surface is that of this depth."""
TABLE_END_MM: Final = 400.0


@dataclass(frozen=True, slots=True, eq=False)
class LetParts:
    """LETd in keV/um at depths (n,) of one layer.

    total: of the laterally integrated layer. core, halo: of the two components whose shares of the depth dose
    `machines.lookup.halo_at` gives; weighted with these shares they make the total.
    """

    total: Array
    core: Array
    halo: Array


def dose_averaged_let(machine: ProtonMachine, energy_mev: float, depth_mm: Array) -> Array:
    """LETd (n,) in keV/um of a layer of nominal energy_mev at depths (n,) in water, mm, laterally integrated."""
    return let_parts(machine, energy_mev, depth_mm).total


def let_core(machine: ProtonMachine, energy_mev: float, depth_mm: Array) -> Array:
    """LETd (n,) in keV/um of the core: primaries and secondaries that stay in the spot."""
    return let_parts(machine, energy_mev, depth_mm).core


def let_halo(machine: ProtonMachine, energy_mev: float, depth_mm: Array) -> Array:
    """LETd (n,) in keV/um of the halo: far-reaching secondaries and primaries deflected into it."""
    return let_parts(machine, energy_mev, depth_mm).halo


def let_parts(machine: ProtonMachine, energy_mev: float, depth_mm: Array) -> LetParts:
    """LETd of a layer and of its core and halo at depths (n,) in water from where the beam enters matter, mm.

    The halo is made of the secondaries that travel farther than CORE_REACH_MM, first. Where the machine's halo is
    larger than these, the rest are primaries scattered by large angles, with the primaries' LETd; where it is smaller,
    the other secondaries belong to the core. Either way core and halo, weighted with the machine's shares, make the
    total. Depths beyond the range by more than LAST_SIGMAS range spreads have the LETd there.
    """
    depth = np.asarray(depth_mm, dtype=np.float64)
    layer = _layer(machine, float(energy_mev))
    total, primary, far_share, far = (np.interp(depth, layer.depth_mm, column) for column in layer.columns)
    share, _ = lookup.halo_at(machine, energy_mev, depth)
    born = np.divide(np.minimum(far_share, share), share, out=np.ones_like(share), where=share > 0)
    halo = born * far + (1.0 - born) * primary
    core = (total - share * halo) / np.maximum(1.0 - share, SMALLEST_CORE)
    return LetParts(total, core, halo)


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A layer at depth_mm (n,). columns (4, n): LETd of all, LETd of primaries, share of the dose and LETd of
    far-reaching secondaries."""

    depth_mm: Array
    columns: Array


@lru_cache(maxsize=512)
def _layer(machine: ProtonMachine, energy_mev: float) -> _Layer:
    """LETd does not change from beam to beam or scenario to scenario: kept for the layers last asked for."""
    range_mm = float(lookup.range_at(machine, np.atleast_1d(energy_mev))[0])
    spread = range_spread_mm(machine, energy_mev)
    depth = np.unique(np.concatenate([SURFACE_NODES_MM, DEPTH_FRACTION * range_mm]))
    held = np.minimum(depth, range_mm + LAST_SIGMAS * spread)
    residual, weight = _residual_ranges(range_mm - held, spread)
    primary, primary_square = ((weight * m).sum(axis=1) for m in _bin_means(residual))
    middle = 0.5 * (residual[:, 1:] + residual[:, :-1])
    secondary = (weight[..., None] * _secondaries_at(middle, np.maximum(held, FIRST_DEPTH_MM))).sum(axis=1)
    near, far, near_square, far_square = secondary.T
    dose = primary + near + far
    total = (primary_square + near_square + far_square) / dose
    far_let = np.divide(far_square, far, out=primary_square / primary, where=far > FEWEST_FAR * dose)
    return _Layer(depth, np.stack([total, primary_square / primary, far / dose, far_let]))


def primary_let(residual_mm: Array, spread_mm: float) -> Array:
    """LETd (n,) in keV/um of primaries alone with mean residual ranges (n,), negative behind the range, and spread."""
    residual, weight = _residual_ranges(np.maximum(residual_mm, -LAST_SIGMAS * spread_mm), spread_mm)
    energy, square = ((weight * m).sum(axis=1) for m in _bin_means(residual))
    return square / energy


def range_spread_mm(machine: ProtonMachine, energy_mev: float) -> float:
    """Range spread (1 sigma, mm) that the distal edge of the machine's own depth dose shows.

    Energy spread and straggling together; machines that do not tell their energy spread need no assumption.
    """
    range_mm = float(lookup.range_at(machine, np.atleast_1d(float(energy_mev)))[0])
    depth = np.linspace(0.5 * range_mm, float(machine.depth_fraction[-1]) * range_mm, 4001)
    dose = lookup.depth_dose_at(machine, energy_mev, depth)
    return (distal_range_mm(depth, dose, 0.2) - distal_range_mm(depth, dose, 0.8)) / FALLOFF_SIGMAS


def _residual_ranges(mean_mm: Array, spread_mm: float) -> tuple[Array, Array]:
    """Bin edges (n, RANGE_BINS + 1), none below zero, and share of primaries in each bin (n, RANGE_BINS)."""
    low = np.maximum(mean_mm - SPREAD_SIGMAS * spread_mm, 0.0)[:, None]
    high = (mean_mm + SPREAD_SIGMAS * spread_mm)[:, None]
    edges = low + (high - low) * np.linspace(0.0, 1.0, RANGE_BINS + 1)
    return edges, -np.diff(ndtr((mean_mm[:, None] - edges) / spread_mm), axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _SlowingDown:
    """One proton in water by residual range (n,) mm: energy, integral of LET over energy, nuclear optical path."""

    range_mm: Array
    energy_mev: Array
    square: Array
    path: Array


@cache
def _slowing_down() -> _SlowingDown:
    energy = np.geomspace(0.01, 400.0, 4001)
    let = water_let_kev_um(energy)

    def integral(values: Array) -> Array:
        return np.concatenate([[0.0], np.cumsum(np.diff(energy) * 0.5 * (values[1:] + values[:-1]))])

    # 0.36 um is the range at 0.01 MeV; keV/um is MeV/mm.
    columns = (3.6e-4 + integral(1.0 / let), energy, integral(let), integral(_nonelastic_per_mm(energy) / let))
    return _SlowingDown(*(np.concatenate([[0.0], column]) for column in columns))


def _energy(residual_mm: Array) -> Array:
    table = _slowing_down()
    return np.interp(residual_mm, table.range_mm, table.energy_mev)


def _square(residual_mm: Array) -> Array:
    """Integral of LET^2 over the residual range, MeV keV/um."""
    table = _slowing_down()
    return np.interp(residual_mm, table.range_mm, table.square)


def _bin_means(edges_mm: Array) -> tuple[Array, Array]:
    """Means of LET and LET^2 over bins of residual range."""
    width = np.diff(edges_mm, axis=1)
    return np.diff(_energy(edges_mm), axis=1) / width, np.diff(_square(edges_mm), axis=1) / width


def _nonelastic_per_mm(energy_mev: Array) -> Array:
    return OXYGEN_PER_MM_BARN * np.interp(energy_mev, NONELASTIC_MEV, NONELASTIC_BARN, left=0.0)


def _elastic_per_mm(energy_mev: Array) -> Array:
    """Elastic collisions with hydrogen in water: Fippel and Soukup, Med Phys 31 (2004) 2263."""
    energy = np.maximum(energy_mev, ELASTIC_FROM_MEV)
    return np.where(energy_mev > ELASTIC_FROM_MEV, 0.1 * (0.315 * energy**-1.126 + 3.78e-6 * energy), 0.0)


def emitted_per_mev(born_mev: Array, incident_mev: Array) -> Array:
    """Secondary protons per MeV of their energy and nonelastic reaction with oxygen."""
    cascade = CASCADE_PROTONS / incident_mev
    onset, width = BARRIER_MEV
    slow = SLOW_PROTONS_PER_MEV * np.exp(-born_mev / (SLOW_MEV * np.sqrt(incident_mev)))
    slow = slow / (1.0 + np.exp((onset - born_mev) / width))
    return np.where(born_mev < incident_mev - SEPARATION_MEV, cascade + slow, 0.0)


@cache
def _secondaries() -> RegularGridInterpolator:
    """Per primary: what secondaries born within a depth upstream add, by (log residual range, depth).

    Values: dose of those that stay near and that reach far, then both times LET, in MeV/mm and MeV keV/um/mm.
    """
    residual = np.concatenate([np.geomspace(0.02, 20.0, 40), np.arange(22.0, 60.0, 3.0), np.arange(60.0, 400.0, 8.0)])
    steps = (
        [0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75],
        np.arange(1.0, 4.0, 0.5),
        np.arange(4.0, 10.0),
        np.arange(10.0, 40.0, 4.0),
    )
    depth = np.concatenate([*steps, np.arange(40.0, 120.0, 8.0), np.arange(120.0, TABLE_END_MM + 1.0, 20.0)])
    born = [_born_within(residual, first, last) for first, last in pairwise(depth)]
    values = np.concatenate([np.zeros((len(residual), 1, 4)), np.cumsum(np.stack(born, axis=1), axis=1)], axis=1)
    return RegularGridInterpolator((np.log(residual), depth), values)


def _born_within(residual_mm: Array, first_mm: float, last_mm: float) -> Array:
    """(n, 4) as `_secondaries`, of protons born between two distances upstream of primaries with residual_mm (n,)."""
    table = _slowing_down()
    source_mm = residual_mm + 0.5 * (first_mm + last_mm)
    incident = _energy(source_mm)[:, None]
    edges = incident * np.geomspace(SMALLEST_SHARE, 1.0, BIRTH_BINS + 1)
    born = np.sqrt(edges[:, 1:] * edges[:, :-1])
    # Elastic: recoil and scattered proton share the energy evenly.
    rate = _nonelastic_per_mm(incident) * emitted_per_mev(born, incident) + _elastic_per_mm(incident) * 2.0 / incident
    upstream = np.diff(np.interp(np.stack([residual_mm, source_mm]), table.range_mm, table.path), axis=0)[0]
    protons = rate * np.diff(edges, axis=1) * np.exp(upstream)[:, None]
    # Quasi-elastic kinematics: cos^2 of the angle is the share of the energy.
    cosine = np.sqrt(born / incident)
    range_mm = np.interp(born, table.energy_mev, table.range_mm)
    here, there = (np.maximum(range_mm - d / cosine, 0.0) for d in (first_mm, last_mm))
    dose, square = protons * (_energy(here) - _energy(there)), protons * (_square(here) - _square(there))
    near = (range_mm <= CORE_REACH_MM).astype(np.float64)
    return np.stack([(values * part).sum(axis=1) for values in (dose, square) for part in (near, 1.0 - near)], axis=1)


def _secondaries_at(residual_mm: Array, depth_mm: Array) -> Array:
    """(n, k, 4) as `_secondaries` at residual ranges (n, k) and depths (n,), held at the ends of its table."""
    table = _secondaries()
    low, high = table.grid[0][[0, -1]]
    logs = np.clip(np.log(np.maximum(residual_mm, 1e-6)), low, high)
    depth = np.broadcast_to(np.clip(depth_mm, 0.0, TABLE_END_MM)[:, None], logs.shape)
    return np.asarray(table(np.stack([logs, depth], axis=-1)))

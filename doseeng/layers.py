"""The layers of a proton beam: which march together, how wide the optics make them, what they do at each depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.errors import MachineError
from doseeng.machines import lookup
from doseeng.machines.model import ProtonMachine
from doseeng.plan import ProtonBeam, RangeShifter

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

PROTONS_PER_UNIT: Final = 1e9
"""Depth doses are tabulated per this many protons."""
TABLE_STEP_MM: Final = 0.25
"""Depth step of the layer tables; the sharpest Bragg peak (70 MeV) is about 1.5 mm wide."""
TABLE_END: Final = 1.25
"""Tables reach this far beyond the deepest range; nothing is left there."""
GAP_GROWTH: Final = 1.5
"""Secondaries born evenly along a path d with one angle have width sigma = angle d / sqrt(3) behind it; where none are
born (gaps, nearly so in lung) they spread on with d(sigma)/dz = angle sqrt(3) / 2 = 1.5 sigma / d."""
MIN_BIRTH_PATH_MM: Final = 20.0
"""Near the surface the halo's few secondaries have no path yet that tells their angle."""


@dataclass(frozen=True, slots=True, eq=False)
class BeamPart:
    """Layers that march together. Arrays are (n_layer,) unless said.

    energy_mev; gaussian: which optical Gaussian; spots: indices of the spots per layer; protons: 1e9 protons per
    fraction of each of these spots. wide: halo of Gaussian 0 and all of Gaussian 1; otherwise the core of Gaussian 0.
    """

    energy_mev: Array
    gaussian: npt.NDArray[np.intp]
    spots: tuple[npt.NDArray[np.intp], ...]
    protons: tuple[Array, ...]
    wide: bool


@dataclass(frozen=True, slots=True, eq=False)
class LayerTables:
    """By water-equivalent depth behind the range shifter, each (n_wet, n_layer) float32.

    cumulative: dose up to a depth; share: part of it that belongs to this layer. Core: power, scattering power of
    water. Wide: slope, growth of the halo's width per mm of water; angle, per mm beyond that; extra: further variance;
    first_sigma (n_layer,): width on entering, empty for the core.
    """

    cumulative: Float32
    share: Float32
    power: Float32
    slope: Float32
    angle: Float32
    extra: Float32
    first_sigma: Float32


def beam_parts(beam: ProtonBeam, machine: ProtonMachine) -> tuple[BeamPart, BeamPart]:
    """The core and the wide part of a beam; MachineError when an energy lies outside the model."""
    energy, layer = np.unique(beam.spot_energy_mev, return_inverse=True)
    low, high = machine.energy_mev[0], machine.energy_mev[-1]
    outside = energy[(energy < low - 1e-3) | (energy > high + 1e-3)]
    if len(outside):
        raise MachineError(
            f"beam {beam.number} '{beam.name}': energy {outside[0]:g} MeV is outside machine '{machine.name}' "
            f"({low:g} to {high:g} MeV); choose another machine with --machine"
        )
    protons = beam.spot_mu * lookup.rows_at(machine, machine.protons_per_mu, energy)[layer] / PROTONS_PER_UNIT
    second = lookup.rows_at(machine, machine.optics.weight, energy)
    spots = tuple(np.flatnonzero(layer == i) for i in range(len(energy)))
    first = tuple(protons[s] * (1.0 - w) for s, w in zip(spots, second, strict=True))
    wide = tuple(protons[s] * w for s, w in zip(spots, second, strict=True))
    n = len(energy)
    core = BeamPart(energy, np.zeros(n, dtype=np.intp), spots, first, wide=False)
    return core, BeamPart(np.tile(energy, 2), np.repeat([0, 1], n), spots + spots, first + wide, wide=True)


def part_variance(part: BeamPart, machine: ProtonMachine, z_mm: Array, shifter: RangeShifter | None) -> Array:
    """(n_z, n_layer, 2) optical variance of every layer of the part."""
    out = np.empty((len(z_mm), len(part.energy_mev), 2))
    for gaussian in np.unique(part.gaussian):
        of = part.gaussian == gaussian
        out[:, of] = lookup.optics_variance(machine, part.energy_mev[of], int(gaussian), z_mm, shifter)
    return out


def layer_tables(
    part: BeamPart, machine: ProtonMachine, shifter: RangeShifter | None, entrance_mm: float
) -> LayerTables:
    """Layer tables; entrance_mm is the gantry z where the beam enters the patient."""
    before = shifter.wet_mm if shifter else 0.0
    gap = max(shifter.downstream_face_mm - entrance_mm, 0.0) if shifter else 0.0
    deepest = max(lookup.range_at(machine, part.energy_mev).max() * TABLE_END - before, 1.0)
    edges = before + np.arange(0.0, deepest + TABLE_STEP_MM, TABLE_STEP_MM)
    middle = edges + 0.5 * TABLE_STEP_MM
    columns, first_sigma = [], []
    for energy, gaussian in zip(part.energy_mev, part.gaussian, strict=True):
        dose = lookup.depth_dose_at(machine, energy, middle) * TABLE_STEP_MM
        cumulative = np.concatenate([[0.0], np.cumsum(dose)[:-1]])
        share, sigma = lookup.halo_at(machine, energy, middle)
        zero = np.zeros_like(share)
        if not part.wide:
            power = lookup.scattering_power_at(machine, energy, middle)
            columns.append((cumulative, 1.0 - share, power, zero, zero, zero))
        elif gaussian == 0:
            extra = _gap_variance(machine, energy, share, before, gap)
            angle = GAP_GROWTH * sigma / np.maximum(middle, MIN_BIRTH_PATH_MM)
            columns.append((cumulative, share, zero, np.gradient(sigma, TABLE_STEP_MM), angle, extra))
            first_sigma.append(sigma[0])
        else:
            scattered = (1.0 - share) * lookup.water_scatter_variance(machine, energy, middle) + share * sigma**2
            columns.append((cumulative, np.ones_like(share), zero, zero, zero, scattered))
            first_sigma.append(0.0)
    by_table = np.ascontiguousarray(np.array(columns, dtype=np.float32).transpose(1, 2, 0))
    names = ("cumulative", "share", "power", "slope", "angle", "extra")
    named = dict(zip(names, by_table, strict=True))
    return LayerTables(**named, first_sigma=np.array(first_sigma, dtype=np.float32))


def _gap_variance(machine: ProtonMachine, energy_mev: float, share: Array, before_mm: float, gap_mm: float) -> Array:
    """Variance that halo born in the range shifter gains in the gap behind it, times its part of the halo."""
    if before_mm <= 0.0:
        return np.zeros_like(share)
    born, sigma = lookup.halo_at(machine, energy_mev, np.array([before_mm]))
    part = np.minimum(born / np.maximum(share, 1e-9), 1.0)
    return part * ((sigma + GAP_GROWTH * sigma / before_mm * gap_mm) ** 2 - sigma**2)

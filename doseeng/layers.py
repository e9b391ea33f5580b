"""The layers of a proton beam as tables: which march together, what they release at each depth, how they widen.

A beam is a sum of components that differ in how they spread. Layers of neighbouring energies form groups of `LANES`
that share their march: their Fermi-Eyges moments are linear in scattering power, and the scattering power of layer l
is P + x_l Q, so two marches give the moments of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

from doseeng._kernels.scalar import LANES
from doseeng.errors import MachineError
from doseeng.let import let_parts
from doseeng.machines import lookup
from doseeng.machines.model import ProtonMachine
from doseeng.plan import ProtonBeam, RangeShifter

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

PROTONS_PER_UNIT: Final = 1e9
"""Depth doses are tabulated per this many protons."""
TABLE_STEP_MM: Final = 0.25
"""Depth step of the layer tables; the sharpest Bragg peak (70 MeV) is about 1.5 mm wide."""
TABLE_END: Final = 1.1
TABLE_BLURS: Final = 2.0
"""Tables reach a tenth and twice the widest blur beyond the deepest range; nothing is left there."""
MIXING_LEVELS_MM: Final = (0.0, 1.5, 3.0, 6.0, 12.0, 24.0)
"""Standard deviations of depth for which blurred depth doses are tabulated."""

TAIL_SHARE: Final = 0.08
TAIL_WIDTH: Final = 3.0
"""Multiple scattering is no Gaussian: this share of the primaries spreads this much wider than T_dM says. From profiles
in water of 80 to 200 MeV, where a Gaussian core beside one Gaussian halo leaves the axis 3 % too high."""
SECONDARY_ANGLE_RAD: Final = 0.8
"""Projected angle of the secondaries that the patient's halo is made of. It decides what gaps and lung do to the halo,
not its width in water, which is the machine's. Quasi-elastic scattering shares 90 degrees between two protons."""
GAP_GROWTH: Final = 1.5
"""Secondaries born evenly along a path d with one angle have width sigma = angle d / sqrt(3) behind it, and spread on
with d(sigma)/dz = angle sqrt(3) / 2 = 1.5 sigma / d."""
MIN_BIRTH_PATH_MM: Final = 20.0
"""Thin slabs hold too few secondaries to tell their angle."""
RECOIL_SHARE: Final = 0.05
RECOIL_RANGE_MM: Final = 8.0
"""Short-ranged secondaries, part of the core in water, leave a range shifter at wide angles and build up again in the
patient: in water doses build up by 3 to 5 % over the first centimetre in the same way."""
RENEWAL_STEP_MM: Final = 1.0
RENEWAL_LIMITS_PER_MM: Final = (1.0 / 400.0, 1.0 / 2.0)
"""Secondaries travel 2 to 400 mm of water before new ones replace them."""

NEAR_END_MM: Final = 10.0
"""Scattering powers of a group are matched where its layers have at least this range left; what stops next door no
longer matters."""


class Kind(StrEnum):
    """What a component is made of.

    CORE: primaries of the first optical Gaussian. TAIL: those that scattered by a large angle. HALO: their nuclear
    secondaries, born in the patient. SHIFTER_HALO and RECOIL: long- and short-ranged secondaries born in a range
    shifter. WIDE: all of the second optical Gaussian.
    """

    CORE = "core"
    TAIL = "tail"
    HALO = "halo"
    SHIFTER_HALO = "shifter_halo"
    RECOIL = "recoil"
    WIDE = "wide"

    @property
    def scatters(self) -> bool:
        """True where widths follow Fermi-Eyges moments, False where they follow secondaries."""
        return self in (Kind.CORE, Kind.TAIL, Kind.WIDE)


class Deposit(StrEnum):
    """What the tables hold: dose, or dose times dose-averaged LET (keV/um)."""

    DOSE = "dose"
    DOSE_LET = "dose_let"


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """The layers of a beam by ascending energy. energy_mev, wide_share: (n,), wide_share: of the second Gaussian.

    spot_layer: (n_spot,) layer of each spot; protons_per_mu: (n_spot,) in 1e9.
    """

    energy_mev: Array
    wide_share: Array
    spot_layer: npt.NDArray[np.intp]
    protons_per_mu: Array

    @property
    def groups(self) -> int:
        """Number of groups of LANES layers; the last is padded with empty lanes."""
        return -(-len(self.energy_mev) // LANES)


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Tables of one component by water-equivalent depth behind the range shifter, float32.

    dose: (group, level, n_wet, LANES) released up to a depth, blurred over MIXING_LEVELS_MM. lanes: (group, LANES) the
    x of each layer; lane_mean: (group, n_wet) mean x of what deposits at a depth. Scattering components: power_p,
    power_q (group, n_wet), rad2/mm of water. Secondaries: renewal (group, n_wet) per mm, angle_square, and start
    (group, 2), their lateral variance and its covariance with the angle at the range shifter's face or the skin.
    """

    dose: Float32
    lanes: Float32
    lane_mean: Float32
    power_p: Float32
    power_q: Float32
    renewal: Float32
    start: Float32
    angle_square: float


def beam_layers(beam: ProtonBeam, machine: ProtonMachine) -> Layers:
    """The layers of a beam; MachineError when an energy lies outside the model."""
    energy, layer = np.unique(beam.spot_energy_mev, return_inverse=True)
    low, high = machine.energy_mev[0], machine.energy_mev[-1]
    outside = energy[(energy < low - 1e-3) | (energy > high + 1e-3)]
    if len(outside):
        raise MachineError(
            f"beam {beam.number} '{beam.name}': energy {outside[0]:g} MeV is outside machine '{machine.name}' "
            f"({low:g} to {high:g} MeV); choose another machine with --machine"
        )
    protons = lookup.rows_at(machine, machine.protons_per_mu, energy)[layer] / PROTONS_PER_UNIT
    return Layers(energy, lookup.rows_at(machine, machine.optics.weight, energy), layer, protons)


def kinds(layers: Layers, shifter: RangeShifter | None) -> tuple[Kind, ...]:
    """The components that a beam has."""
    behind = (Kind.SHIFTER_HALO, Kind.RECOIL) if shifter else ()
    return (Kind.CORE, Kind.TAIL, Kind.HALO, *behind, *((Kind.WIDE,) if layers.wide_share.any() else ()))


def component_tables(
    kind: Kind,
    layers: Layers,
    machine: ProtonMachine,
    shifter: RangeShifter | None,
    deposit: Deposit = Deposit.DOSE,
) -> Tables:
    """The tables of one component of a beam."""
    before = shifter.wet_mm if shifter else 0.0
    levels = MIXING_LEVELS_MM if kind is Kind.CORE else MIXING_LEVELS_MM[:2]
    deepest = float(lookup.range_at(machine, layers.energy_mev).max()) * TABLE_END + TABLE_BLURS * levels[-1]
    deepest = max(deepest - before, 1.0)
    middle = before + np.arange(0.0, deepest + TABLE_STEP_MM, TABLE_STEP_MM) + 0.5 * TABLE_STEP_MM
    released = np.array([_released(kind, machine, e, middle, before, deposit) for e in layers.energy_mev])
    dose = np.zeros((layers.groups * LANES, len(levels), len(middle)), dtype=np.float32)
    dose[: len(released)] = _cumulated(released, levels)
    dose = np.ascontiguousarray(dose.reshape(layers.groups, LANES, *dose.shape[1:]).transpose(0, 2, 3, 1))
    n = (layers.groups, len(middle))
    lanes = np.zeros((layers.groups, LANES), dtype=np.float32)
    lane_mean, power_p, power_q, renewal = (np.zeros(n, dtype=np.float32) for _ in range(4))
    start, angle = np.zeros((layers.groups, 2), dtype=np.float32), 0.0
    groups = [slice(g * LANES, min((g + 1) * LANES, len(released))) for g in range(layers.groups)]
    weights = [_normalized(released[of] + max(1e-12 * released[of].max(), 1e-30)) for of in groups]
    if kind.scatters:
        power = lookup.scattering_power_at(machine, layers.energy_mev, middle)
        power *= TAIL_WIDTH**2 if kind is Kind.TAIL else 1.0
        left = lookup.range_at(machine, layers.energy_mev)[:, None] - middle
        for g, (of, weight) in enumerate(zip(groups, weights, strict=True)):
            x, power_p[g], power_q[g] = _linear_power(power[of], np.clip(left[of] / NEAR_END_MM, 0.0, 1.0))
            lanes[g, : len(x)], lane_mean[g] = x, (weight * x[:, None]).sum(axis=0)
    else:
        angle, starts, renewals = _secondaries(kind, machine, layers.energy_mev, middle, before)
        for g, (of, weight) in enumerate(zip(groups, weights, strict=True)):
            start[g], renewal[g] = starts[of].mean(axis=0), (weight * renewals[of]).sum(axis=0)
    return Tables(dose, lanes, lane_mean, power_p, power_q, renewal, start, angle**2)


def _normalized(weight: Array) -> Array:
    normalized: Array = weight / weight.sum(axis=0)
    return normalized


def _released(
    kind: Kind, machine: ProtonMachine, energy_mev: float, middle: Array, before_mm: float, deposit: Deposit
) -> Array:
    """Dose of one layer released in each table step by one component, Gy mm3 per 1e9 protons."""
    dose = lookup.depth_dose_at(machine, energy_mev, middle) * TABLE_STEP_MM
    if kind is Kind.WIDE:
        part = np.ones_like(dose)
    else:
        share, _ = lookup.halo_at(machine, energy_mev, middle)
        recoil = np.zeros_like(share)
        born = np.zeros_like(share)
        if before_mm > 0.0:
            recoil = RECOIL_SHARE * np.exp(-(middle - before_mm) / RECOIL_RANGE_MM)
            at_face, _ = lookup.halo_at(machine, energy_mev, np.array([before_mm]))
            born = np.minimum(at_face / np.maximum(share, 1e-9), 1.0)
        primary = (1.0 - share) * (1.0 - recoil)
        part = {
            Kind.CORE: (1.0 - TAIL_SHARE) * primary,
            Kind.TAIL: TAIL_SHARE * primary,
            Kind.HALO: share * (1.0 - born) * (1.0 - recoil),
            Kind.SHIFTER_HALO: share * born * (1.0 - recoil),
            Kind.RECOIL: recoil,
        }[kind]
    if deposit is Deposit.DOSE_LET:
        let = let_parts(machine, energy_mev, middle)
        part = part * (let.core if kind in (Kind.CORE, Kind.TAIL) else let.total if kind is Kind.WIDE else let.halo)
    return dose * part


def _cumulated(released: Array, levels_mm: tuple[float, ...]) -> Array:
    """(layer, level, n_wet) released up to each table row; before the first row a curve goes on as it starts."""
    n = released.shape[1]
    pad = int(4.0 * levels_mm[-1] / TABLE_STEP_MM) + 1
    padded = np.concatenate([np.repeat(released[:, :1], pad, axis=1), released], axis=1)
    length = next_fast_len(n + 2 * pad, real=True)
    spectrum = rfft(padded, length, axis=1)
    frequency = rfftfreq(length, TABLE_STEP_MM)
    out = np.empty((len(released), len(levels_mm), n))
    for level, sigma in enumerate(levels_mm):
        blurred = released
        if sigma > 0.0:
            filtered = spectrum * np.exp(-2.0 * (np.pi * frequency * sigma) ** 2)
            blurred = irfft(filtered, length, axis=1)[:, pad : pad + n]
        out[:, level, 0] = 0.0
        np.cumsum(blurred[:, :-1], axis=1, out=out[:, level, 1:])
    return out


def _linear_power(power: Array, alive: Array) -> tuple[Array, Array, Array]:
    """x (layer,), P and Q (n_wet,) of the relative least-squares fit power = P + x Q over the layers still alive."""
    first = power[:, 0]
    span = first[0] - first[-1]
    x = (first - first[-1]) / span if span > 0.0 else np.zeros(len(first))
    # The deepest layer decides where all have stopped.
    weight = _normalized((alive + 1e-9 * np.arange(1, len(x) + 1)[:, None] ** 4) / power**2)
    mean_x, mean_power = (weight * x[:, None]).sum(axis=0), (weight * power).sum(axis=0)
    apart = x[:, None] - mean_x
    variance = (weight * apart**2).sum(axis=0)
    slope = (weight * apart * (power - mean_power)).sum(axis=0) / np.maximum(variance, 1e-6)
    slope[variance < 1e-6] = 0.0
    return x, mean_power - mean_x * slope, slope


def _secondaries(
    kind: Kind, machine: ProtonMachine, energy_mev: Array, middle: Array, before_mm: float
) -> tuple[float, Array, Array]:
    """Angle (rad), start moments (layer, 2) and renewal (layer, n_wet) per mm of the secondaries of some layers."""
    none = np.zeros((len(energy_mev), len(middle)))
    resting = np.zeros((len(energy_mev), 2))
    angle = SECONDARY_ANGLE_RAD
    if kind is Kind.RECOIL:
        return angle, resting, none
    if kind is Kind.HALO:
        depth = np.arange(0.0, middle[-1] + RENEWAL_STEP_MM, RENEWAL_STEP_MM)
        width = np.array([lookup.halo_at(machine, e, depth)[1] for e in energy_mev])
        rows = _renewal(width**2)
        renewal = np.array([np.interp(middle, depth + 0.5 * RENEWAL_STEP_MM, row) for row in rows])
        # Behind a range shifter the secondaries born in it are another component.
        at_skin = np.column_stack([width[:, 0] ** 2, angle * width[:, 0] / np.sqrt(2.0)])
        return angle, resting if before_mm > 0.0 else at_skin, renewal
    width = np.array([lookup.halo_at(machine, e, np.array([before_mm]))[1][0] for e in energy_mev])
    angle = float(GAP_GROWTH * width.mean() / max(before_mm, MIN_BIRTH_PATH_MM))
    return angle, np.column_stack([width**2, angle * width]), none


def _renewal(variance: Array) -> Array:
    """(layer, depth) renewal per mm that gives secondaries this variance in water, by depths RENEWAL_STEP_MM apart.

    Inverts one step of `_kernels.rays.secondaries_interval`; a steady state has variance 2 (angle / renewal)^2.
    """
    h, square = RENEWAL_STEP_MM, SECONDARY_ANGLE_RAD**2
    most, least = np.exp(-h * RENEWAL_LIMITS_PER_MM[0]), np.exp(-h * RENEWAL_LIMITS_PER_MM[1])
    v = variance[:, 0].copy()
    c = SECONDARY_ANGLE_RAD * np.sqrt(0.5 * v)
    out = np.empty_like(variance)
    for i in range(variance.shape[1]):
        wanted = variance[:, min(i + 1, variance.shape[1] - 1)]
        drifted, fresh = v + h * (2.0 * c + h * square), square * h * h / 3.0
        keep = np.clip((wanted - fresh) / (drifted - fresh), least, most)
        out[:, i] = -np.log(keep) / h
        v = keep * drifted + (1.0 - keep) * fresh
        c = keep * (c + h * square) + (1.0 - keep) * square * h * 0.5
    return out

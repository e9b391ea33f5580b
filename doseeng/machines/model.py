"""The proton beam model as plain data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from doseeng.errors import MachineError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RangeShifterModel:
    """A range shifter the machine owns. id: as plans name it. wet_mm: water-equivalent thickness."""

    id: str
    wet_mm: float
    density_gcm3: float


@dataclass(frozen=True, slots=True, eq=False)
class Optics:
    """Two bivariate Gaussians per energy and axis at one plane, drifting in vacuum.

    plane_mm: distance of the plane upstream of the isocentre. weight: (n_energy,) share of the second, wide Gaussian.
    sigma_mm, divergence_rad, correlation: (n_energy, 2 gaussians, 2 axes x and y). Downstream by z the variance is
    sigma^2 + 2 correlation sigma divergence z + divergence^2 z^2 (Courant-Snyder drift).
    """

    plane_mm: float
    weight: Array
    sigma_mm: Array
    divergence_rad: Array
    correlation: Array


@dataclass(frozen=True, slots=True, eq=False)
class Halo:
    """The nuclear halo: the share of the depth dose carried by secondaries, and how wide they spread.

    depth_fraction: (n_halo,) depth in water over the nominal range. fraction: (n_energy, n_halo), of the integrated
    depth dose at that depth. sigma_mm: (n_energy, n_halo), 1 sigma that the halo adds to the optics.
    """

    depth_fraction: Array
    fraction: Array
    sigma_mm: Array


@dataclass(frozen=True, slots=True, eq=False)
class ProtonMachine:
    """A scanned proton beam line.

    energy_mev: (n,) nominal, ascending. mean_energy_mev, energy_spread_mev: (n,) of the beam at the nozzle exit.
    range_mm: (n,) depth in water of the distal 80 % of the depth dose. protons_per_mu: (n,).
    depth_fraction: (m,) depth in water over `range_mm`. idd: (n, m) depth dose in Gy mm2 per 1e9 protons, physical
    dose to water integrated over the infinite lateral plane. source_distance_mm: (x, y) virtual scanning source to
    isocentre.
    """

    name: str
    version: str
    description: str
    source: str
    energy_mev: Array
    mean_energy_mev: Array
    energy_spread_mev: Array
    range_mm: Array
    protons_per_mu: Array
    depth_fraction: Array
    idd: Array
    halo: Halo
    optics: Optics
    source_distance_mm: tuple[float, float]
    range_shifters: tuple[RangeShifterModel, ...] = ()
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.energy_mev)
        m = len(self.depth_fraction)
        h = len(self.halo.depth_fraction)
        expected = {
            "mean_energy_mev": (self.mean_energy_mev, (n,)),
            "energy_spread_mev": (self.energy_spread_mev, (n,)),
            "range_mm": (self.range_mm, (n,)),
            "protons_per_mu": (self.protons_per_mu, (n,)),
            "idd": (self.idd, (n, m)),
            "halo.fraction": (self.halo.fraction, (n, h)),
            "halo.sigma_mm": (self.halo.sigma_mm, (n, h)),
            "optics.weight": (self.optics.weight, (n,)),
            "optics.sigma_mm": (self.optics.sigma_mm, (n, 2, 2)),
            "optics.divergence_rad": (self.optics.divergence_rad, (n, 2, 2)),
            "optics.correlation": (self.optics.correlation, (n, 2, 2)),
        }
        for key, (values, shape) in expected.items():
            if values.shape != shape:
                raise MachineError(f"machine '{self.name}': {key} has shape {values.shape}, expected {shape}")
            if not np.all(np.isfinite(values)):
                raise MachineError(f"machine '{self.name}': {key} holds NaN or infinity")
        if n < 1 or np.any(np.diff(self.energy_mev) <= 0) or np.any(np.diff(self.range_mm) <= 0):
            raise MachineError(f"machine '{self.name}': energies and ranges must ascend")
        for key, positive in (("range_mm", self.range_mm), ("protons_per_mu", self.protons_per_mu)):
            if np.any(positive <= 0):
                raise MachineError(f"machine '{self.name}': {key} must be positive")
        if min(self.source_distance_mm) <= 0:
            raise MachineError(f"machine '{self.name}': source_distance_mm must be positive")

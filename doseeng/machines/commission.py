"""Commissioning: turn what a clinic measures in water into a proton machine model, and say how well it fits.

Input: a machine with optics and depth doses (an importer's), and per energy the lateral profiles in water at several
depths. The core is fixed beforehand (optics drift plus Fermi-Eyges scatter), so the profiles decide the nuclear halo
alone: its share of the depth dose and its width, as functions of energy and depth over range. Secondaries stop before
primaries do, so the share ends at zero at the range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.special import erf

from doseeng.errors import MachineError, Notice
from doseeng.layers import TAIL_SHARE, TAIL_WIDTH
from doseeng.machines.importers import import_mcsquare
from doseeng.machines.interpolation import rows_between
from doseeng.machines.lookup import depth_dose_at, optics_variance, water_scatter_variance
from doseeng.machines.model import Array, Halo, ProtonMachine

HALO_NODES: Final = np.array([0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97])
"""Depth over range where the halo is fitted; denser where protons stop and the share falls."""
HALO_END: Final = 0.99
"""Depth over range where secondaries have stopped."""
MAX_SHARE: Final = 0.6
SIGMA_BOUNDS_MM: Final = (3.0, 80.0)
SMOOTHNESS: Final = 0.02
"""Weight of the second differences over depth; keeps nodes that the noise cannot decide near their neighbours."""


@dataclass(frozen=True, slots=True, eq=False)
class WaterProfiles:
    """Scans of single spots on the axis, isocentre at the water surface.

    energy_mev: (n,). depth_mm: (d,). lateral_mm: (l,) bin centres, equally spaced, symmetric about 0. x, y: (n, d, l)
    dose integrated over the other axis within the scanned box, Gy mm per 1e9 protons. depth_half_mm: half-width of the
    depth bins.
    """

    energy_mev: Array
    depth_mm: Array
    lateral_mm: Array
    x: Array
    y: Array
    depth_half_mm: float

    @property
    def bin_mm(self) -> float:
        """Width of a lateral bin."""
        return float(self.lateral_mm[1] - self.lateral_mm[0])

    @property
    def half_width_mm(self) -> float:
        """Half-width of the scanned box."""
        return float(self.lateral_mm[-1] + 0.5 * self.bin_mm)


@dataclass(frozen=True, slots=True)
class Residual:
    """How the fitted model meets one energy's data.

    profile_percent: root mean square difference of the profiles, of each profile's maximum. depth_dose_percent: largest
    difference of the laterally integrated dose, of its maximum. range_mm: the model's range.
    """

    energy_mev: float
    range_mm: float
    profile_percent: float
    depth_dose_percent: float


def read_water_profiles(path: Path) -> WaterProfiles:
    """Profiles from an .npz with energy_mev, profile_depth_mm, lateral_mm, x_profile, y_profile (units as the class).

    Raises MachineError naming the file and the missing array.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {key: np.asarray(data[key], dtype=np.float64) for key in data.files if data[key].dtype.kind == "f"}
    except (OSError, ValueError) as error:
        raise MachineError(f"{path.name}: not a readable .npz file of water scans: {error}") from error
    needed = ("energy_mev", "profile_depth_mm", "lateral_mm", "x_profile", "y_profile")
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise MachineError(f"{path.name}: water scans need the array '{missing[0]}'; it holds {', '.join(arrays)}")
    energy, depth, lateral, x, y = (arrays[key] for key in needed)
    shape = (len(energy), len(depth), len(lateral))
    if x.shape != shape or y.shape != shape:
        raise MachineError(f"{path.name}: profiles have shapes {x.shape} and {y.shape}, expected {shape}")
    return WaterProfiles(energy, depth, lateral, x, y, 0.5 * float(depth[1] - depth[0]))


def commission_proton(
    beam_data: Path, water_scans: Path, name: str, progress: Callable[[int, int], None] | None = None
) -> tuple[ProtonMachine, tuple[Residual, ...], tuple[Notice, ...]]:
    """A machine from MCsquare beam data text and water scans (.npz: depth doses, profiles), residuals, notices."""
    profiles = read_water_profiles(water_scans)
    imported, notices = import_mcsquare(beam_data, water_scans, name=name)
    machine, residuals = fit_halo(imported, profiles, progress)
    described = replace(
        machine,
        description="Commissioned from beam data and depth doses and profiles in water; the halo is fitted.",
        source=f"{beam_data.name} + {water_scans.name}",
    )
    return described, residuals, tuple(n for n in notices if n.code != "analytic-halo")


def fit_halo(
    machine: ProtonMachine, profiles: WaterProfiles, progress: Callable[[int, int], None] | None = None
) -> tuple[ProtonMachine, tuple[Residual, ...]]:
    """The machine with its halo fitted and its depth doses completed by what the scanned box missed; residuals.

    Energies without profiles take the halo of their neighbours, linear in energy.
    """
    shares, sigmas, captures, residuals = [], [], [], []
    for i in range(len(profiles.energy_mev)):
        share, sigma, captured, residual = _fit_energy(machine, profiles, i)
        shares.append(share)
        sigmas.append(sigma)
        captures.append(captured)
        residuals.append(residual)
        if progress:
            progress(i + 1, len(profiles.energy_mev))
    share_at, sigma_at, captured_at = (
        rows_between(profiles.energy_mev, np.array(rows), machine.energy_mev) for rows in (shares, sigmas, captures)
    )
    ended = np.pad(share_at, ((0, 0), (0, 1)))
    halo = Halo(np.append(HALO_NODES, HALO_END), ended, np.pad(sigma_at, ((0, 0), (0, 1)), mode="edge"))
    completed = machine.idd / np.array([np.interp(machine.depth_fraction, HALO_NODES, row) for row in captured_at])
    return replace(machine, halo=halo, idd=completed), tuple(residuals)


def _fit_energy(machine: ProtonMachine, profiles: WaterProfiles, index: int) -> tuple[Array, Array, Array, Residual]:
    energy = float(profiles.energy_mev[index])
    range_mm = float(np.interp(energy, machine.energy_mev, machine.range_mm))
    use = profiles.depth_mm + profiles.depth_half_mm < range_mm
    depth = profiles.depth_mm[use]
    measured = np.stack([profiles.x[index][use], profiles.y[index][use]])
    weight = float(np.interp(energy, machine.energy_mev, machine.optics.weight))
    beams = []
    for gaussian, share in ((0, 1.0 - weight), (1, weight)):
        if share > 0.0:
            optics = optics_variance(machine, np.array([energy]), gaussian, -depth)[:, 0]
            beams.append((share, optics, water_scatter_variance(machine, energy, depth)))
    peak = measured.max(axis=2, keepdims=True)
    noise = 0.01 * np.sqrt(np.maximum(measured, 1e-3 * peak) * peak)
    total = measured.sum(axis=(0, 2)) * profiles.bin_mm / 2.0
    n = len(HALO_NODES)

    def model(parameters: Array) -> tuple[Array, Array]:
        share = np.interp(depth / range_mm, np.append(HALO_NODES, HALO_END), np.append(parameters[:n], 0.0))
        sigma = np.interp(depth / range_mm, HALO_NODES, np.exp(parameters[n:]))
        shape = np.zeros_like(measured)
        captured = np.zeros(len(depth))
        for beam_share, optics, scatter in beams:
            primary = beam_share * (1.0 - share)
            for part, extra in (
                (primary * (1.0 - TAIL_SHARE), scatter),
                (primary * TAIL_SHARE, scatter * TAIL_WIDTH**2),
                (beam_share * share, sigma**2),
            ):
                bins_x, inside_x = _binned(profiles, optics[:, 0] + extra)
                bins_y, inside_y = _binned(profiles, optics[:, 1] + extra)
                shape += part[:, None] * np.stack([bins_x * inside_y[:, None], bins_y * inside_x[:, None]])
                captured += part * inside_x * inside_y
        return shape * (total / captured)[:, None], captured

    def difference(parameters: Array) -> Array:
        curvature = np.concatenate([np.diff(parameters[:n], 2) * 10.0, np.diff(parameters[n:], 2)])
        mismatch = ((model(parameters)[0] - measured) / noise).ravel() / np.sqrt(measured.size)
        return np.concatenate([mismatch, SMOOTHNESS * curvature])

    start = np.concatenate([0.02 + 0.08 * HALO_NODES, np.log(8.0 + 12.0 * HALO_NODES)])
    low = np.concatenate([np.zeros(n), np.full(n, np.log(SIGMA_BOUNDS_MM[0]))])
    high = np.concatenate([np.full(n, MAX_SHARE), np.full(n, np.log(SIGMA_BOUNDS_MM[1]))])
    best = least_squares(difference, start, bounds=(low, high)).x
    fitted, captured = model(best)
    inside = profiles.depth_half_mm * (np.arange(10) + 0.5 - 5.0) / 5.0
    curve = depth_dose_at(machine, energy, depth[:, None] + inside).mean(axis=1)
    rms = 100.0 * float(np.sqrt(np.mean(((fitted - measured) / peak) ** 2)))
    worst = 100.0 * float(np.abs(curve - total).max() / curve.max())
    captured_at_nodes = np.interp(HALO_NODES, depth / range_mm, captured)
    return best[:n], np.exp(best[n:]), captured_at_nodes, Residual(energy, range_mm, rms, worst)


def _binned(profiles: WaterProfiles, variance: npt.NDArray[np.float64]) -> tuple[Array, Array]:
    """Gaussians of `variance` (d,) averaged over the lateral bins (d, l), per mm; and what lies in the box (d,)."""
    scale = np.sqrt(2.0 * variance)[:, None]
    half = 0.5 * profiles.bin_mm
    upper, lower = erf((profiles.lateral_mm + half) / scale), erf((profiles.lateral_mm - half) / scale)
    return 0.5 * (upper - lower) / profiles.bin_mm, erf(profiles.half_width_mm / scale[:, 0])

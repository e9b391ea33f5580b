"""From a photon machine to what the kernels need: energy set free per depth, directions of cones, modes.

Primary energy goes to the electrons of the first interaction, scatter energy to everything the scattered photons do
later; they are released in proportion to the mass energy absorption coefficient and to the rest of the attenuation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from doseeng.backend import Cones
from doseeng.beamseye import Frustum
from doseeng.machines.photonmodel import Array, PhotonMachine
from doseeng.machines.photonmodel import Cones as Kernel
from doseeng.photonphysics import water_absorption_cm2_g, water_attenuation_cm2_g

Float32 = npt.NDArray[np.float32]

MM_PER_CM: Final = 10.0
DEPTH_STEP_MM: Final = 1.0
DEEPEST_MM: Final = 1000.0
"""Depths of the tables; beyond, nothing is left to be set free."""
AZIMUTHS: Final = 8
"""Directions around each ring of cones."""


@dataclass(frozen=True, slots=True, eq=False)
class TransportTables:
    """What transport needs of a machine. primary, scatter (n,): energy set free per mm of water and unit energy
    fluence, per_mm depths per mm; electrons (n,): the same for contaminant electrons. modes (m, 3): share, per_mm of
    water, spread."""

    per_mm: float
    primary: Float32
    scatter: Float32
    electrons: Float32
    primary_modes: Float32
    scatter_modes: Float32
    cones: Kernel


def transport_tables(machine: PhotonMachine) -> TransportTables:
    """The tables of a machine; per_gcm2 of its kernels become per mm of water."""
    depth_mm = np.arange(0.0, DEEPEST_MM + DEPTH_STEP_MM, DEPTH_STEP_MM)
    attenuation = water_attenuation_cm2_g(machine.spectrum_mev) / MM_PER_CM
    absorption = water_absorption_cm2_g(machine.spectrum_mev) / MM_PER_CM
    left = np.exp(-np.outer(depth_mm, attenuation)) * (machine.spectrum_weight / machine.spectrum_weight.sum())
    primary, scatter = left @ absorption, left @ (attenuation - absorption)
    electrons = machine.electrons.share * primary.max() * np.exp(-depth_mm / machine.electrons.depth_mm)
    per_mm = np.array([1.0, 1.0 / MM_PER_CM, 1.0])

    def single(values: Array) -> Float32:
        return np.asarray(values, dtype=np.float32)

    return TransportTables(
        1.0 / DEPTH_STEP_MM, single(primary), single(scatter), single(electrons),
        single(machine.modes.primary * per_mm), single(machine.modes.scatter * per_mm), machine.cones,
    )  # fmt: skip


def softening_factor(machine: PhotonMachine, frustum: Frustum) -> Float32:
    """(n_v, n_u) attenuation of each ray's photons over those on the axis.

    A flattening filter is thinner off the axis and hardens less: polynomial in degrees of Tailor et al., Med Phys 25
    (1998) 662.
    """
    radius = np.hypot(frustum.u_mm, frustum.v_mm[:, None]) / machine.source_axis_mm
    angle = np.minimum(np.degrees(np.arctan(radius)), 15.0)
    factor = 1.0 + 0.00181 * angle + 0.00202 * angle**2 - 0.0000942 * angle**3
    return (1.0 + machine.softening * (factor - 1.0)).astype(np.float32)


def electron_fluence(machine: PhotonMachine, frustum: Frustum, fluence: Float32) -> Float32:
    """(n_v, n_u) fluence of contaminant electrons: that of the photons, spread far."""
    sigma = machine.electrons.sigma_mm / frustum.pitch_mm
    spread: Float32 = gaussian_filter(fluence, sigma, mode="constant")
    return spread


def cone_sets(edge_deg: Array, rows: Array, frustum: Frustum) -> tuple[Cones, ...]:
    """The downstream and the upstream directions of a kernel (rows: share, per_gcm2 of each cone) on some rays."""
    angle = ring_angle(edge_deg)
    sets = ((rows[:, 0] > 0.0) & ((angle > 90.0) == upstream) for upstream in (False, True))
    return tuple(
        _directions(np.flatnonzero(wanted), angle, rows, frustum, upstream)
        for wanted, upstream in zip(sets, (False, True), strict=True)
        if wanted.any()
    )


def _directions(ring: npt.NDArray[np.intp], angle_deg: Array, rows: Array, frustum: Frustum, upstream: bool) -> Cones:
    """AZIMUTHS directions around every ring, those of neighbouring rings between each other."""
    ring = np.repeat(ring, AZIMUTHS)
    tangent = np.abs(np.tan(np.radians(angle_deg[ring])))
    azimuth = 2.0 * np.pi * (np.arange(len(ring)) % AZIMUTHS + 0.5 * (ring % 2) + 0.25) / AZIMUTHS
    across = tangent[:, None] * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1)
    step = frustum.slice_mm / (frustum.pitch_mm * frustum.magnification[:, ::-1])
    marched = step[::-1] if upstream else step
    at = np.rint(across[:, None] * np.cumsum(marched, axis=0)).astype(np.int64)
    offsets = np.diff(at, axis=1, prepend=0)
    directions = np.stack([rows[ring, 0] / AZIMUTHS, rows[ring, 1] / MM_PER_CM, np.hypot(1.0, tangent)], axis=1)
    by_slice = np.ascontiguousarray(offsets[:, ::-1] if upstream else offsets)
    return Cones(directions.astype(np.float32), by_slice, upstream)


def ring_angle(edge_deg: Array) -> Array:
    """(n,) polar angles that halve the solid angle of cones between edges (n + 1,), degrees."""
    cosine = np.cos(np.radians(edge_deg))
    return np.asarray(np.degrees(np.arccos(0.5 * (cosine[:-1] + cosine[1:]))))

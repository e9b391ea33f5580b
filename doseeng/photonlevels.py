"""The rays of a stretch of delivery, what they start with, and the dose that energy on them becomes.

Energy set free along a ray is split into what the electrons of the first interaction carry, on fine rays near the
field, and what scattered photons carry, on coarse rays far around it. *Pencil* moves energy along its ray as a few
modes that spread across it, *collapsed cone* follows it in discrete directions through the density it meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from doseeng.backend import Backend, Rays
from doseeng.beamseye import Frustum, rays_across
from doseeng.fluence import Exposure, fluence_maps, opening_box
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.photonkernels import TransportTables, cone_sets, electron_fluence, softening_factor
from doseeng.plan import PhotonBeam

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

PRIMARY_MARGIN_MM: Final = 25.0
"""Fine rays reach so far beyond the open field: electrons and penumbra end here, in lung too."""
SCATTER_MARGIN_MM: Final = 100.0
"""Coarse rays reach so far: less than 1 % of the dose of a 10 cm field is scattered farther."""
COARSE_SLICES: Final = 2.0
"""Slices of coarse rays over those of the fine ones."""


class Algorithm(StrEnum):
    """How energy moves from where it is set free to where it is deposited."""

    PENCIL = "pencil"
    COLLAPSED_CONE = "collapsed-cone"


COARSE_PITCH_MM: Final = {Algorithm.PENCIL: 7.5, Algorithm.COLLAPSED_CONE: 5.0}
"""Coarse rays. Scattered photons reach 10 cm: Gaussians as wide as that must fit the taps of a convolution; of cones a
coarser pitch would cost 0.2 % of the dose of narrow fields."""


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One set of rays of an exposure and what they start with, arrays of the backend (n_v, n_u), MU times relative
    energy fluence.

    fluence: of photons. outside: of photons whose primary energy no fine ray carries. electrons: contaminant ones. Fine
    rays have neither of the last two.
    """

    frustum: Frustum
    softening: Any
    fluence: Any
    outside: Any = None
    electrons: Any = None

    @property
    def is_fine(self) -> bool:
        return self.outside is None


def exposure_levels(
    beam: PhotonBeam,
    exposure: Exposure,
    machine: PhotonMachine,
    algorithm: Algorithm,
    backend: Backend,
    pitch_mm: float,
    slice_mm: float,
) -> tuple[Level, Level]:
    """The fine and the coarse rays of an exposure, across the beam only: slices come with the image."""
    box = opening_box(beam, exposure)
    fine = _rays_around(box, PRIMARY_MARGIN_MM, machine, pitch_mm, slice_mm)
    coarse_mm = max(COARSE_PITCH_MM[algorithm], 2.0 * pitch_mm)
    coarse = _rays_around(box, SCATTER_MARGIN_MM, machine, coarse_mm, COARSE_SLICES * slice_mm)
    near, far = (_fluence(beam, exposure, machine, frustum) for frustum in (fine, coarse))
    near *= _nearness(coarse, fine, fine)
    outside, electrons = far * (1.0 - _nearness(coarse, fine, coarse)), electron_fluence(machine, coarse, far)
    put = backend.put
    return (
        Level(fine, put(softening_factor(machine, fine)), put(near)),
        Level(coarse, put(softening_factor(machine, coarse)), put(far), put(outside), put(electrons)),
    )


def transport(backend: Backend, rays: Rays, level: Level, tables: TransportTables, algorithm: Algorithm) -> Any:
    """(n_slice, n_v, n_u) dose to water per calibration, in the isocentre plane, of one set of rays."""
    out = backend.zeros(rays.frustum.shape)

    def freed(fluence: Any, table: Float32) -> Any:
        return backend.release(rays, fluence, level.softening, table, tables.per_mm)

    released = freed(level.fluence, tables.primary if level.is_fine else tables.scatter)
    if algorithm is Algorithm.PENCIL:
        backend.carry(rays, released, tables.primary_modes if level.is_fine else tables.scatter_modes, out)
    else:
        rows = tables.cones.primary if level.is_fine else tables.cones.scatter
        backend.cones(rays, released, cone_sets(tables.cones.edge_deg, rows, rays.frustum), out)
    if not level.is_fine:
        backend.settle(rays, freed(level.outside, tables.primary), out)
        backend.settle(rays, freed(level.electrons, tables.electrons), out)
    return out


def _rays_around(
    box: Sequence[float], margin_mm: float, machine: PhotonMachine, pitch_mm: float, slice_mm: float
) -> Frustum:
    u0, u1, v0, v1 = box
    wider = (u0 - margin_mm, u1 + margin_mm, v0 - margin_mm, v1 + margin_mm)
    return rays_across(wider, (machine.source_axis_mm, machine.source_axis_mm), pitch_mm, slice_mm)


def _fluence(beam: PhotonBeam, exposure: Exposure, machine: PhotonMachine, frustum: Frustum) -> Float32:
    maps = fluence_maps(beam, exposure, machine, frustum.u_mm, frustum.v_mm)
    total: Float32 = maps.focal + maps.extrafocal
    return total


def _nearness(coarse: Frustum, fine: Frustum, rays: Frustum) -> Float32:
    """(n_v, n_u) share of the photons of `rays` that fine rays carry: 1 within them, falling to 0 at their edges.

    Linear between coarse rays, so that what coarse ones carry, interpolated, is the rest everywhere.
    """

    def along(nodes: Array, edges: Array, at: Array) -> Array:
        within = (nodes - coarse.pitch_mm >= edges[0]) & (nodes + coarse.pitch_mm <= edges[-1])
        return np.asarray(np.interp(at, nodes, within.astype(np.float64)))

    across = along(coarse.v_mm, fine.v_mm, rays.v_mm), along(coarse.u_mm, fine.u_mm, rays.u_mm)
    return np.outer(*across).astype(np.float32)

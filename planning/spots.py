"""Where to put the spots of a field: a square grid per energy layer, wherever its Bragg peak falls into the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from doseeng.backend import Materials
from doseeng.beamseye import frustum_around, gantry_to_index
from doseeng.cpu import cpu
from doseeng.errors import GeometryError, PlanError
from doseeng.grid import BeamFrame, Volume
from doseeng.machines import lookup
from doseeng.machines.model import ProtonMachine
from doseeng.materials import MaterialMaps
from doseeng.plan import RangeShifter

Array = npt.NDArray[np.float64]

INSIDE: Final = 0.5
"""A voxel or a point on a ray belongs to the target when at least half of it does."""

PEAK_LEVEL: Final = 0.8
"""Layers lie one width of the Bragg peak at this level apart, which keeps a spread-out peak flat."""

SLICE_MM: Final = 1.0
"""Step along the rays: small against a Bragg peak."""

DEPTH_STEP_MM: Final = 0.1


@dataclass(frozen=True, slots=True)
class SpotSettings:
    """spacing_mm: between spots in the isocentre plane, about 0.8 to 1 sigma of the spots in the target.

    range_margin_percent, range_margin_mm: water-equivalent depth added behind and before the target (their sum).
    """

    spacing_mm: float = 5.0
    range_margin_percent: float = 0.0
    range_margin_mm: float = 0.0


def grown(target: Volume, margin_mm: float) -> Volume:
    """1 in every voxel within margin_mm of a voxel of `target` (a mask, 0..1), else 0."""
    outside = target.values < INSIDE
    if outside.all():
        raise GeometryError("the target holds no voxel of the image; it may lie outside or be smaller than a voxel")
    sampling = target.grid.spacing_mm[::-1]
    return Volume(target.grid, (distance_transform_edt(outside, sampling=sampling) <= margin_mm).astype(np.float32))


def place_spots(
    target: Volume,
    frame: BeamFrame,
    machine: ProtonMachine,
    maps: MaterialMaps,
    settings: SpotSettings = SpotSettings(),
    range_shifter: RangeShifter | None = None,
) -> tuple[Array, Array]:
    """Spot positions (n, 2) in mm and energies (n,) in MeV of one field: deepest layer first, each in serpentine order.

    target: mask (0..1) on the grid of `maps`, with its lateral margin (see `grown`). PlanError when the target reaches
    deeper than the machine, or lies so shallow that a range shifter is needed.
    """
    if not target.grid.is_same(maps.rsp.grid):
        raise GeometryError("the target mask must lie on the grid of the image")
    before = range_shifter.wet_mm if range_shifter else 0.0
    uv, near, far = _reached(target, frame, machine, maps, settings.spacing_mm)
    share = settings.range_margin_percent / 100.0
    near = before + near * (1.0 - share) - settings.range_margin_mm
    far = before + far * (1.0 + share) + settings.range_margin_mm
    positions, energies = [], []
    for depth, energy, width in _layers(machine, float(near.min()), float(far.max())):
        chosen = uv[(near <= depth + 0.5 * width) & (far >= depth - 0.5 * width)]
        positions.append(_serpentine(chosen))
        energies.append(np.full(len(chosen), energy))
    return np.concatenate(positions), np.concatenate(energies)


def peak_width_mm(machine: ProtonMachine, energy_mev: float) -> float:
    """Width of the Bragg peak in water at PEAK_LEVEL of its dose."""
    depth = np.arange(0.0, 1.1 * float(lookup.range_at(machine, np.array([energy_mev]))[0]), DEPTH_STEP_MM)
    dose = lookup.depth_dose_at(machine, energy_mev, depth)
    above = depth[dose >= PEAK_LEVEL * dose.max()]
    return float(above[-1] - above[0])


def energy_of_range(machine: ProtonMachine, range_mm: float) -> float:
    """Nominal energy whose distal 80 % lies at range_mm in water: the inverse of `lookup.range_at`."""
    return float(np.exp(np.interp(np.log(range_mm), np.log(machine.range_mm), np.log(machine.energy_mev))))


def _reached(
    target: Volume, frame: BeamFrame, machine: ProtonMachine, maps: MaterialMaps, spacing_mm: float
) -> tuple[Array, Array, Array]:
    """(u, v) of the rays that cross the target, and the water-equivalent depths where they enter and leave it."""
    k, j, i = np.nonzero(target.values >= INSIDE)
    if not len(k):
        raise GeometryError("the target holds no voxel of the image; it may lie outside or be smaller than a voxel")
    gantry = frame.from_patient(target.grid.to_patient(np.column_stack([i, j, k])))
    uv = gantry[:, :2] / (1.0 - gantry[:, 2:] / np.asarray(machine.source_distance_mm))
    (u0, v0), (u1, v1) = uv.min(axis=0), uv.max(axis=0)
    frustum = frustum_around(frame, target.grid, (u0, u1, v0, v1), machine.source_distance_mm, spacing_mm, SLICE_MM)
    # The tracer samples a second volume along the rays; here it is the target instead of the scattering power.
    backend = cpu()
    both = Materials(backend.put(maps.rsp.values), backend.put(target.values))
    everywhere = np.ones(frustum.shape[1:], dtype=np.bool_)
    rays = backend.trace(both, gantry_to_index(frame, target.grid), frustum, 1, everywhere)
    inside = rays.spreading >= INSIDE
    hit = inside.any(axis=0)
    first = inside.argmax(axis=0)
    last = inside.shape[0] - 1 - inside[::-1].argmax(axis=0)
    water = rays.stopping * frustum.step_mm
    behind = np.cumsum(water, axis=0, dtype=np.float64)
    near = np.take_along_axis(behind - water, first[None], axis=0)[0][hit]
    far = np.take_along_axis(behind, last[None], axis=0)[0][hit]
    row, column = np.nonzero(hit)
    positions = np.column_stack([frustum.u_mm[column], frustum.v_mm[row]])
    return positions, near, far


def _layers(machine: ProtonMachine, near_mm: float, far_mm: float) -> list[tuple[float, float, float]]:
    """(range, energy, distance to the next layer) of every layer, deepest first."""
    if far_mm > machine.range_mm[-1]:
        raise PlanError(
            f"the target reaches {far_mm:.0f} mm of water, beyond the {machine.range_mm[-1]:.0f} mm of machine "
            f"'{machine.name}'; choose other beam angles"
        )
    layers: list[tuple[float, float, float]] = []
    depth = far_mm
    while not layers or depth > near_mm - 0.5 * layers[-1][2]:
        if depth < machine.range_mm[0]:
            if depth - near_mm > 0.0:
                raise PlanError(
                    f"the target begins at {near_mm:.0f} mm of water, before the shortest range of machine "
                    f"'{machine.name}' ({machine.range_mm[0]:.0f} mm); add a range shifter"
                )
            break
        energy = energy_of_range(machine, depth)
        width = peak_width_mm(machine, energy)
        layers.append((depth, energy, width))
        depth -= width
    return layers


def _serpentine(uv_mm: Array) -> Array:
    """Positions row by row along u, every other row backwards."""
    rows, row = np.unique(uv_mm[:, 1], return_inverse=True)
    direction = np.where(row % 2 == 0, 1.0, -1.0)
    return uv_mm[np.lexsort((uv_mm[:, 0] * direction, row))] if len(rows) else uv_mm

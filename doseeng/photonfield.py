"""Open fields in a water phantom, computed on rays alone: the reference dose of a machine, and what it is fitted to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from doseeng.backend import Backend, Rays
from doseeng.beamseye import Frustum
from doseeng.fluence import exposures
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.photonkernels import transport_tables
from doseeng.photonlevels import Algorithm, exposure_levels, transport
from doseeng.plan import PhotonBeam

Array = npt.NDArray[np.float64]

PHANTOM_MM = 350.0
"""Depth of the phantom: what scatters back from below the deepest scan is there."""
PITCH_MM = 2.5
SLICE_MM = 2.5


@dataclass(frozen=True, slots=True, eq=False)
class FieldDose:
    """Dose in water under one open field, sum of what its two sets of rays say at any point.

    ssd_mm: source to surface. parts: frustum and dose (n_slice, n_v, n_u) of the isocentre plane's fluence.
    """

    ssd_mm: float
    source_mm: float
    parts: tuple[tuple[Frustum, npt.NDArray[np.float32]], ...]

    def at(self, depth_mm: npt.ArrayLike, x_mm: npt.ArrayLike = 0.0, y_mm: npt.ArrayLike = 0.0) -> Array:
        """Dose at points: depth below the surface, x and y across the beam at that depth (arrays that broadcast)."""
        depth, x, y = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (depth_mm, x_mm, y_mm)))
        magnification = (self.ssd_mm + depth) / self.source_mm
        total = np.zeros(depth.shape)
        for frustum, dose in self.parts:
            index = (
                depth / frustum.slice_mm - 0.5,
                (y / magnification - frustum.v_mm[0]) / frustum.pitch_mm,
                (x / magnification - frustum.u_mm[0]) / frustum.pitch_mm,
            )
            total += _trilinear(dose, index)
        return np.asarray(total / magnification**2)


def open_field(
    machine: PhotonMachine,
    field_mm: tuple[float, float],
    ssd_mm: float,
    algorithm: Algorithm,
    backend: Backend,
    pitch_mm: float = PITCH_MM,
    slice_mm: float = SLICE_MM,
) -> FieldDose:
    """Dose per monitor unit over `gy_per_fluence` in water under jaws. field_mm: (x, y) in the isocentre plane."""
    beam = field_of_jaws(machine, field_mm)
    (exposure,) = exposures(beam)
    tables = transport_tables(machine)
    parts = []
    for level in exposure_levels(beam, exposure, machine, algorithm, backend, pitch_mm, slice_mm):
        frustum = level.frustum
        n_slice = int(np.ceil(PHANTOM_MM / frustum.slice_mm))
        frustum = replace(frustum, shape=(n_slice, *frustum.shape[1:]), top_mm=machine.source_axis_mm - ssd_mm)
        water = backend.put(np.ones(frustum.shape, dtype=np.float32))
        values = transport(backend, Rays(frustum, water, water), level, tables, algorithm)
        parts.append((frustum, backend.get(values)))
    return FieldDose(ssd_mm, machine.source_axis_mm, tuple(parts))


def field_of_jaws(machine: PhotonMachine, field_mm: tuple[float, float]) -> PhotonBeam:
    """One monitor unit of an open field along gantry 0."""
    still = np.zeros(2)
    half_x, half_y = 0.5 * field_mm[0], 0.5 * field_mm[1]
    return PhotonBeam(
        1, "open field", machine.name, machine.energy_mv, machine.fluence_mode, "STATIC", machine.source_axis_mm, 1.0,
        np.array([0.0, 1.0]), np.zeros((2, 3)), still, still, still, np.tile([-half_x, half_x], (2, 1)),
        np.tile([-half_y, half_y], (2, 1)),
    )  # fmt: skip


def gy_per_fluence(machine: PhotonMachine, algorithm: Algorithm, backend: Backend) -> float:
    """What makes an algorithm meet the machine's reference: Gy per MU and unit fluence."""
    reference = machine.reference
    field = open_field(machine, (reference.field_mm, reference.field_mm), reference.ssd_mm, algorithm, backend)
    return reference.gy_per_mu / float(field.at(reference.depth_mm))


def _trilinear(values: npt.NDArray[np.float32], index: tuple[Array, Array, Array]) -> Array:
    """Values between nodes; constant beyond the first and last slice, zero beyond the rays."""
    limits = np.array(values.shape) - 1
    low, share = [], []
    inside = np.ones(index[0].shape, dtype=np.bool_)
    for axis, at in enumerate(index):
        if axis:
            inside &= (at >= 0) & (at <= limits[axis])
        at = np.clip(at, 0, limits[axis])
        low.append(np.minimum(at.astype(np.intp), limits[axis] - 1))
        share.append(at - low[-1])
    total = np.zeros(index[0].shape)
    for corner in range(8):
        bits = (corner >> 2 & 1, corner >> 1 & 1, corner & 1)
        weight = np.prod([s if bit else 1.0 - s for s, bit in zip(share, bits, strict=True)], axis=0)
        total += weight * values[tuple(a + bit for a, bit in zip(low, bits, strict=True))]
    return np.where(inside, total, 0.0)

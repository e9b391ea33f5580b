"""From spots to the fluence on a beam's rays, and the transpose of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng._kernels.scalar import LANES
from doseeng.beamseye import Frustum
from doseeng.layers import Kind, Layers

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

CUT_SIGMAS: Final = 4.0
"""A spot's fluence ends here, where 3e-4 of its peak is left."""


def _profiles(
    frustum: Frustum, narrowest_mm2: Array, layers: Layers, spot_uv_mm: Array
) -> Iterator[tuple[int, npt.NDArray[np.intp], Array, Array]]:
    """Per layer: its index, its spots, and their Gaussians (spot, n_u) along u and (spot, n_v) along v, per mm."""
    for layer in range(len(layers.energy_mev)):
        spots = np.flatnonzero(layers.spot_layer == layer)
        u, v = spot_uv_mm[spots].T
        var_u, var_v = narrowest_mm2[layer]
        yield layer, spots, _gaussian(frustum.u_mm, u, var_u), _gaussian(frustum.v_mm, v, var_v)


def _gaussian(x_mm: Array, center_mm: Array, variance: float) -> Array:
    square = (x_mm - center_mm[:, None]) ** 2 / variance
    return np.where(square < CUT_SIGMAS**2, np.exp(-0.5 * square), 0.0) / np.sqrt(2.0 * np.pi * variance)


def _protons_per_mu(kind: Kind, layers: Layers, layer: int, spots: npt.NDArray[np.intp]) -> Array:
    wide = float(layers.wide_share[layer])
    return layers.protons_per_mu[spots] * (wide if kind is Kind.WIDE else 1.0 - wide)


def fluence_of(
    kind: Kind, frustum: Frustum, narrowest_mm2: Array, layers: Layers, spot_uv_mm: Array, spot_mu: Array
) -> Float32:
    """(group, n_v, n_u, LANES) 1e9 protons per mm2 of the isocentre plane.

    narrowest_mm2: (n_layer, 2) variance of the spots there, along u and v. spot_uv_mm: (n_spot, 2). spot_mu: (n_spot,).
    """
    out = np.zeros((layers.groups, *frustum.shape[1:], LANES), dtype=np.float32)
    for layer, spots, along_u, along_v in _profiles(frustum, narrowest_mm2, layers, spot_uv_mm):
        protons = spot_mu[spots] * _protons_per_mu(kind, layers, layer, spots)
        out[layer // LANES, :, :, layer % LANES] = (along_v * protons[:, None]).T @ along_u
    return out


def spots_of(
    kind: Kind, frustum: Frustum, narrowest_mm2: Array, layers: Layers, spot_uv_mm: Array, fluence: Float32
) -> Array:
    """(n_spot,) the transpose of `fluence_of`."""
    out = np.zeros(len(layers.spot_layer))
    for layer, spots, along_u, along_v in _profiles(frustum, narrowest_mm2, layers, spot_uv_mm):
        plane = fluence[layer // LANES, :, :, layer % LANES].astype(np.float64)
        protons = _protons_per_mu(kind, layers, layer, spots)
        out[spots] = ((along_v @ plane) * along_u).sum(axis=1) * protons
    return out

"""Pencil modes from collapsed cones: what a ring of straight cones does, as a few Gaussians that widen along the ray.

Dose of a pencil beam in water within a radius, at all depths, is computed from the cones; shares, attenuations and
spreads of the modes are fitted to it. Cones that point upstream are part of it, so backscatter is deposited where it
ends although modes only march downstream.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
from scipy.optimize import least_squares

from doseeng.machines.photonmodel import Array, Cones, Modes

RADIUS_MM: Final = np.array([2, 4, 6, 8, 10, 12.5, 15, 20, 25, 30, 40, 50, 60, 75, 90, 112, 140, 170, 200, 250.0])
"""Where dose within a radius is compared: fields from 5 mm to 45 cm."""
DEPTH_MM: Final = np.arange(0.5, 320.0)
FITTED: Final = np.concatenate([np.arange(5, 40, 5), np.arange(40, 320, 20)])
"""Depths that count, as indices."""
DIRECTIONS: Final = 4
"""Polar angles within each cone."""
NO_LAG_RADIUS: Final = 1.0 / 3.0
"""Mean distance between two points of a slice, in slices."""
PRIMARY_START: Final = ((0.3, 6.0, 0.5), (0.4, 3.5, 0.2), (0.3, 2.5, 0.05))
SCATTER_START: Final = (
    (0.1, 2.0, 300.0), (0.1, 0.2, 5.0), (0.3, 0.04, 0.4), (0.1, 0.03, 0.1), (0.2, 0.03, 0.02), (0.1, 0.04, 0.001),
)  # fmt: skip
"""Share, per_gcm2 and spread that the fits start from."""
LOWEST: Final = (1e-3, 0.01, 1e-4)
HIGHEST: Final = (1.0, 10.0, 1000.0)
"""Bounds of share, per_gcm2 and spread: beyond them modes fit noise against each other."""
MM_PER_CM: Final = 10.0


def modes_of(cones: Cones, primary: Array, scatter: Array) -> Modes:
    """Modes of a kernel; primary, scatter (n,): energy set free per mm of water at every mm of depth."""
    released = [np.interp(DEPTH_MM, np.arange(len(table)), table) for table in (primary, scatter)]
    wanted = [
        _within(cones.edge_deg, rows, freed)
        for rows, freed in zip((cones.primary, cones.scatter), released, strict=True)
    ]
    total = wanted[0] + wanted[1]
    return Modes(*(
        _fit(freed, dose, total, start)
        for freed, dose, start in zip(released, wanted, (PRIMARY_START, SCATTER_START), strict=True)
    ))  # fmt: skip


def _within(edge_deg: Array, rows: Array, released: Array) -> Array:
    """(depth, radius) dose within each radius of a pencil beam."""
    lag = np.arange(len(DEPTH_MM), dtype=np.float64)
    out = np.zeros((len(DEPTH_MM), len(RADIUS_MM)))
    for (low, high), (share, per_gcm2) in zip(pairwise(np.cos(np.radians(edge_deg))), rows, strict=True):
        for n in range(DIRECTIONS):
            cosine = low + (high - low) * (n + 0.5) / DIRECTIONS
            tangent = np.sqrt(1.0 - cosine**2) / abs(cosine)
            deposited = _deposited(per_gcm2 / MM_PER_CM / abs(cosine), lag)
            distance = tangent * np.maximum(lag, NO_LAG_RADIUS)
            inside = np.clip((RADIUS_MM - distance[:, None]) / tangent + 0.5, 0.0, 1.0) * deposited[:, None]
            for r in range(len(RADIUS_MM)):
                out[:, r] += share / DIRECTIONS * _carried(released, inside[:, r], cosine > 0)
    return out


def _deposited(x: float, lag: Array) -> Array:
    """Share of energy set free evenly in a slice that is deposited so many slices on; x: attenuation of a slice."""
    kept = (1.0 - np.exp(-x)) / x
    return np.where(lag == 0, 1.0 - kept, kept * (1.0 - np.exp(-x)) * np.exp(-x * (lag - 1.0)))


def _carried(released: Array, deposited: Array, downstream: bool) -> Array:
    n = len(released)
    if downstream:
        return np.convolve(released, deposited)[:n]
    return np.convolve(released[::-1], deposited)[:n][::-1]


def _of_modes(modes: Array, released: Array) -> Array:
    """(depth, radius) as `_within`, of modes (m, 3)."""
    lag = np.arange(len(DEPTH_MM), dtype=np.float64)
    square = np.where(lag == 0, 1.0 / 6.0, lag**2 + 1.0 / 6.0)
    out = np.zeros((len(DEPTH_MM), len(RADIUS_MM)))
    for share, per_gcm2, spread in modes:
        deposited = _deposited(per_gcm2 / MM_PER_CM, lag)
        dose = _carried(released, deposited, True)
        variance = spread * _carried(released, deposited * square, True) / dose
        out += share * dose[:, None] * (1.0 - np.exp(-(RADIUS_MM**2) / (2.0 * variance[:, None])))
    return out


def _fit(released: Array, dose: Array, total: Array, start: tuple[tuple[float, float, float], ...]) -> Array:
    """(m, 3) modes nearest to `dose` in terms of the whole dose of a round field."""

    def error(logs: Array) -> Array:
        return ((_of_modes(np.exp(logs.reshape(-1, 3)), released) - dose) / total)[FITTED].ravel()

    bounds = [np.tile(np.log(limit), len(start)) for limit in (LOWEST, HIGHEST)]
    modes = np.exp(least_squares(error, np.log(start).ravel(), bounds=bounds).x.reshape(-1, 3))
    ordered: Array = modes[np.argsort(-modes[:, 1])]
    return ordered

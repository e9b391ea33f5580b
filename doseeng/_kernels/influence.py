"""The influence matrix: what the march says at a voxel, and the sparse columns of the spots of a layer."""

import numpy as np
from numba import njit

from doseeng._kernels.scalar import (
    F32,
    HALF,
    MIN_STEP_WET_MM,
    ZERO,
    depth_rows,
    mixing_level,
    released_up_to,
    trilinear,
)

EXPONENT_LIMIT = F32(14.0)
"""A Gaussian is not followed beyond exp(-14), a millionth of its peak."""


NODES = np.array([-np.sqrt(3.0), 0.0, np.sqrt(3.0)], dtype=np.float32)
WEIGHTS = np.array([1.0 / 6.0, 2.0 / 3.0, 1.0 / 6.0], dtype=np.float32)
"""Gauss-Hermite rule of three points for a normal distribution."""


@njit(cache=True, inline="always")
def _add_dose(tables, level_variance, per_mm, wet, passed, mixed, weight, dose):
    """dose (LANES,) += weight times what each layer releases per mm in `passed` mm of water around a depth `wet`."""
    i0, f0, i1, f1 = depth_rows(wet - HALF * passed, passed, per_mm, tables.shape[1])
    if i0 < 0:
        return
    level, above = mixing_level(mixed, level_variance)
    for l in range(dose.shape[0]):
        value = released_up_to(tables, level, i1, f1, l) - released_up_to(tables, level, i0, f0, l)
        if above > ZERO:
            blurred = released_up_to(tables, level + 1, i1, f1, l) - released_up_to(tables, level + 1, i0, f0, l)
            value += (blurred - value) * above
        dose[l] += weight / passed * value


@njit(cache=True, nogil=True)
def dose_and_spread(
    position, deep, pixel_mm, averaged, optics, tables, level_variance, per_mm, water, centre, mixed, moved, spread,
    lanes, dose, variance,
):  # fmt: skip
    """What one group of layers releases at each point per fluence, and the variance that the patient adds there.

    position: (n, 3) float32, fractional column, row and slice. deep: slices that a voxel spans. pixel_mm: (n, 2) rays
    apart. averaged: (2,) variance of positions in a voxel, optics: (n, 2) of the spots, mm2. tables: (level, n_wet,
    LANES) dose up to a depth, depths blurred by level_variance (level,) mm2. At slice centres: water (m, v, u) in a
    slice; centre, mixed (m, v, u) mean and variance of depth; moved, spread (2, m, v, u) P and Q of the scatter that
    the fluence holds, and of the rest. lanes: (layer,) x of the layers. Out: dose, variance (n, LANES).
    Protons at a point deposit their dose on rays around it: with variance a of the fluence and b of the rest, these
    have variance a b / (a + b). The mean over them is a Gauss-Hermite rule of 3 x 3 rays.
    """
    middle = lanes.mean()
    for n in range(position.shape[0]):
        i, j, k = position[n, 0], position[n, 1], position[n, 2]
        held_p, held_q = trilinear(moved[0], i, j, k, ZERO), trilinear(moved[1], i, j, k, ZERO)
        p, q = trilinear(spread[0], i, j, k, ZERO), trilinear(spread[1], i, j, k, ZERO)
        for l in range(lanes.shape[0]):
            variance[n, l] = max(held_p + p + lanes[l] * (held_q + q), ZERO)
        held, rest = max(held_p + middle * held_q, ZERO), max(p + middle * q, ZERO)
        a, b = held + optics[n, 0], rest + averaged[0]
        across = np.sqrt(a * b / (a + b)) / pixel_mm[n, 0]
        a, b = held + optics[n, 1], rest + averaged[1]
        along = np.sqrt(a * b / (a + b)) / pixel_mm[n, 1]
        dose[n] = ZERO
        for y in range(3):
            v = min(max(j + NODES[y] * along, ZERO), F32(water.shape[1] - 1))
            for x in range(3):
                u = min(max(i + NODES[x] * across, ZERO), F32(water.shape[2] - 1))
                passed = max(trilinear(water, u, v, k, ZERO) * deep, MIN_STEP_WET_MM)
                wet, blur = trilinear(centre, u, v, k, ZERO), trilinear(mixed, u, v, k, ZERO)
                _add_dose(tables, level_variance, per_mm, wet, passed, blur, WEIGHTS[x] * WEIGHTS[y], dose[n])


@njit(cache=True, inline="always")
def _fill_gaussian(across, magnification, spot_mm, curvature, out):
    """out (n,): the Gaussian of a spot coordinate at positions across the axis, not normalised."""
    for n in range(out.shape[0]):
        d = across[n] - spot_mm * magnification[n]
        exponent = d * d * curvature[n]
        out[n] = np.exp(-exponent) if exponent < EXPONENT_LIMIT else ZERO


@njit(cache=True, nogil=True)
def layer_columns(across, magnification, u, v, at_u, at_v, amplitude, curvature, cutoff):
    """The columns of the spots of one layer: entries per spot (spot,), their rows and their values, spot by spot.

    across, magnification: (2, n) position across the axis, and millimetres there per millimetre in the isocentre plane.
    u (a,), v (b,): coordinates that spots have; at_u, at_v: (spot,) which of them. A scanned layer is a raster, so its
    Gaussians are products of few along u and few along v. amplitude: (component, n) peaks; curvature: (component, 2, n)
    1 / (2 variance). cutoff: entries are above this share of the column's largest. Everything float32.
    """
    n_point, n_spot = across.shape[1], at_u.shape[0]
    along_u = np.empty((u.shape[0], n_point), dtype=np.float32)
    along_v = np.empty((v.shape[0], n_point), dtype=np.float32)
    values = np.zeros((n_spot, n_point), dtype=np.float32)
    for c in range(amplitude.shape[0]):
        for a in range(u.shape[0]):
            _fill_gaussian(across[0], magnification[0], u[a], curvature[c, 0], along_u[a])
            along_u[a] *= amplitude[c]
        for b in range(v.shape[0]):
            _fill_gaussian(across[1], magnification[1], v[b], curvature[c, 1], along_v[b])
        for s in range(n_spot):
            value, x, y = values[s], along_u[at_u[s]], along_v[at_v[s]]
            for n in range(n_point):
                value[n] += x[n] * y[n]
    counts = np.zeros(n_spot, dtype=np.int64)
    for s in range(n_spot):
        value = values[s]
        threshold = cutoff * value.max()
        kept = 0
        for n in range(n_point):
            kept += value[n] > threshold
        counts[s] = kept
    rows = np.empty(counts.sum(), dtype=np.int32)
    data = np.empty(counts.sum(), dtype=np.float32)
    at = 0
    for s in range(n_spot):
        value = values[s]
        threshold = cutoff * value.max()
        for n in range(n_point):
            if value[n] > threshold:
                rows[at] = n
                data[at] = value[n]
                at += 1
    return counts, rows, data

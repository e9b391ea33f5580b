"""The influence matrix: what a voxel's ray tells it, and the sparse columns of the spots."""

import numpy as np
from numba import njit, prange

from doseeng._kernels.interp import trilinear
from doseeng._kernels.proton import MIN_STEP_WET_MM, dose_up_to

EXPONENT_LIMIT = np.float32(14.0)
"""A Gaussian is not followed beyond exp(-14), a millionth of its peak."""

NODES = np.array([-np.sqrt(3.0), 0.0, np.sqrt(3.0)], dtype=np.float32)
WEIGHTS = np.array([1.0 / 6.0, 2.0 / 3.0, 1.0 / 6.0], dtype=np.float32)
"""Gauss-Hermite rule of three points for a normal distribution."""

HALF, ZERO = np.float32(0.5), np.float32(0.0)


@njit(cache=True, inline="always")
def _depth(wet, u, v, face):
    """Water-equivalent depth at a fractional index, held constant beyond the outermost rays."""
    u = min(max(u, ZERO), np.float32(wet.shape[2] - 1))
    v = min(max(v, ZERO), np.float32(wet.shape[1] - 1))
    return trilinear(wet, u, v, face, ZERO)


@njit(cache=True, parallel=True)
def gather_slice(width, position, share, points, out):
    """out[column, point] += share[point] * width there, bilinear between rays.

    width: (v, u, column) of one slice. position: (n, 3) float32, fractional index of the ray along u, along v, and of
    the slice face. share: (m,) of each of `points` (m,).
    """
    n_v, n_u, n_column = width.shape
    for m in prange(len(points)):
        n = points[m]
        a, b = position[n, 0], position[n, 1]
        i = min(max(int(a), 0), n_u - 2)
        j = min(max(int(b), 0), n_v - 2)
        f, g = a - np.float32(i), b - np.float32(j)
        for c in range(n_column):
            upper = width[j, i, c] + (width[j, i + 1, c] - width[j, i, c]) * f
            lower = width[j + 1, i, c] + (width[j + 1, i + 1, c] - width[j + 1, i, c]) * f
            out[c, n] += share[m] * (upper + (lower - upper) * g)


@njit(cache=True, parallel=True)
def depth_dose(cumulative, share, table_step, wet, position, blur, out):
    """out (column, n) = dose per fluence at each point: mean over a slice and the rays whose protons scatter there.

    cumulative, share: (n_wet, column) as in `_kernels.proton.deposit_slice`. wet: (face, v, u). position: as in
    `gather_slice`. blur: (column, n, 2) standard deviation along u and v, in rays, of where those protons came from.
    The mean over rays is a Gauss-Hermite rule of 3 x 3 rays: exact where depth dose is a polynomial of degree 5 across.
    """
    n_wet, n_column = cumulative.shape
    last_face = np.float32(wet.shape[0] - 1)
    for n in prange(len(position)):
        above = min(max(position[n, 2] - HALF, ZERO), last_face)
        below = min(max(position[n, 2] + HALF, ZERO), last_face)
        for c in range(n_column):
            total = ZERO
            for q in range(3):
                v = position[n, 1] + NODES[q] * blur[c, n, 1]
                for p in range(3):
                    u = position[n, 0] + NODES[p] * blur[c, n, 0]
                    top = _depth(wet, u, v, above)
                    length = max(_depth(wet, u, v, below) - top, MIN_STEP_WET_MM)
                    first, last = top / table_step, (top + length) / table_step
                    index = min(int(HALF * (first + last)), n_wet - 1)
                    released = dose_up_to(cumulative, last, c) - dose_up_to(cumulative, first, c)
                    total += WEIGHTS[p] * WEIGHTS[q] * share[index, c] * released / length
            out[c, n] = total


@njit(cache=True, inline="always")
def _value(amplitude, curvature, layer, n, dx2, dy2):
    total = ZERO
    for c in range(amplitude.shape[1]):
        exponent = dx2 * curvature[layer, c, 0, n] + dy2 * curvature[layer, c, 1, n]
        if exponent < EXPONENT_LIMIT:
            total += amplitude[layer, c, n] * np.exp(-exponent)
    return total


@njit(cache=True, parallel=True)
def count_entries(lateral, magnification, spots, layers, amplitude, curvature, relative_cutoff, threshold, counts):
    """threshold (spot,) out: smallest entry kept, `relative_cutoff` of the column's largest; counts (spot,) out.

    lateral, magnification: (n, 2) position across the axis, and millimetres there per millimetre of spot position.
    spots: (spot, 2) in the isocentre plane. amplitude: (layer, component, n) peak of each Gaussian at each point.
    curvature: (layer, component, 2, n) = 1 / (2 variance). Everything float32.
    """
    n_point = len(lateral)
    for s in prange(len(spots)):
        values = np.empty(n_point, dtype=np.float32)
        largest = ZERO
        for n in range(n_point):
            dx = lateral[n, 0] - spots[s, 0] * magnification[n, 0]
            dy = lateral[n, 1] - spots[s, 1] * magnification[n, 1]
            values[n] = _value(amplitude, curvature, layers[s], n, dx * dx, dy * dy)
            largest = max(largest, values[n])
        threshold[s] = relative_cutoff * largest
        kept = 0
        for n in range(n_point):
            if values[n] > threshold[s]:
                kept += 1
        counts[s] = kept


@njit(cache=True, parallel=True)
def fill_entries(lateral, magnification, spots, layers, amplitude, curvature, threshold, first, rows, data):
    """The entries that `count_entries` counted: column s fills rows and data from first[s] on, rows ascending."""
    n_point = len(lateral)
    for s in prange(len(spots)):
        at = first[s]
        for n in range(n_point):
            dx = lateral[n, 0] - spots[s, 0] * magnification[n, 0]
            dy = lateral[n, 1] - spots[s, 1] * magnification[n, 1]
            value = _value(amplitude, curvature, layers[s], n, dx * dx, dy * dy)
            if value > threshold[s] and at < first[s + 1]:
                rows[at] = n
                data[at] = value
                at += 1

"""The influence matrix: what a voxel's ray tells it, and the sparse columns of the spots."""

import numpy as np
from numba import njit, prange

from doseeng._kernels.interp import trilinear
from doseeng._kernels.proton import MIN_STEP_WET_MM, _at

EXPONENT_LIMIT = np.float32(14.0)
"""A Gaussian is not followed beyond exp(-14), a millionth of its peak."""

HALF, ONE, ZERO = np.float32(0.5), np.float32(1.0), np.float32(0.0)


@njit(cache=True, parallel=True)
def sample_wet(wet, position, reach, out):
    """out (n, 2) = water-equivalent depth `reach` slices above and below each point.

    wet: (face, v, u). position: (n, 3) float32, fractional index of the ray along u, along v, and of the slice face.
    """
    last = np.float32(wet.shape[0] - 1)
    for n in prange(len(position)):
        a, b, face = position[n, 0], position[n, 1], position[n, 2]
        out[n, 0] = trilinear(wet, a, b, min(max(face - reach, ZERO), last), ZERO)
        out[n, 1] = trilinear(wet, a, b, min(max(face + reach, ZERO), last), ZERO)


@njit(cache=True, parallel=True)
def gather_slice(width, position, share, points, out):
    """out[column, point] += share[point] * width there, bilinear between rays.

    width: (v, u, column) of one slice. position: (n, 3) as in `sample_wet`. share: (m,) of each of `points` (m,).
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
def depth_dose(cumulative, share, table_step, wet, out):
    """out (column, n) = dose per fluence at each point: mean over the depths wet (n, 2) it stands for, times its share.

    cumulative, share: (n_wet, column) as in `_kernels.proton.deposit_slice`.
    """
    n_wet, n_column = cumulative.shape
    for n in prange(len(wet)):
        length = max(wet[n, 1] - wet[n, 0], MIN_STEP_WET_MM)
        first, last = wet[n, 0] / table_step, (wet[n, 0] + length) / table_step
        index = min(int(HALF * (first + last)), n_wet - 1)
        for c in range(n_column):
            released = _at(cumulative, last, c) - _at(cumulative, first, c)
            out[c, n] = share[index, c] * released / length


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

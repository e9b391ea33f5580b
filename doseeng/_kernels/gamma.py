"""The gamma search: for each reference point the least gamma over the trilinear cells of the evaluated dose.

A cell is the box between eight neighbouring voxel centres of the evaluated dose. Along x the trilinear dose of a cell
is linear, so the least gamma of a whole line of it has a closed form; only y and z are stepped. A cell is skipped when
its nearest point and its range of dose already rule out a smaller gamma than the best one found.
"""

import numpy as np
from numba import njit, prange

BLOCKS = 64


@njit(cache=True, parallel=True)
def cell_ranges(values):
    """Least and largest corner value of every cell, each (nz - 1, ny - 1, nx - 1) float32."""
    nz, ny, nx = values.shape
    low = np.empty((nz - 1, ny - 1, nx - 1), dtype=np.float32)
    high = np.empty_like(low)
    for k in prange(nz - 1):
        for j in range(ny - 1):
            for i in range(nx - 1):
                a = values[k, j, i]
                b = a
                for c in range(1, 8):
                    v = values[k + (c >> 2), j + ((c >> 1) & 1), i + (c & 1)]
                    a = min(a, v)
                    b = max(b, v)
                low[k, j, i] = a
                high[k, j, i] = b
    return low, high


@njit(cache=True, inline="always")
def _cell_gamma2(values, i, j, k, x, y, z, dose, per_gy, unit, steps, best):
    """Least squared gamma of cell (i, j, k) for the point (x, y, z), all in index units; `best` if none is smaller."""
    one = np.float32(1.0)
    v000, v001 = values[k, j, i], values[k, j, i + 1]
    v010, v011 = values[k, j + 1, i], values[k, j + 1, i + 1]
    v100, v101 = values[k + 1, j, i], values[k + 1, j, i + 1]
    v110, v111 = values[k + 1, j + 1, i], values[k + 1, j + 1, i + 1]
    ux2 = unit[0] * unit[0]
    before_x = np.float32(i) - x
    step_y, step_z = one / np.float32(steps[1]), one / np.float32(steps[2])
    for c in range(steps[2] + 1):
        tz = np.float32(c) * step_z
        dz = (np.float32(k) + tz - z) * unit[2]
        dz2 = dz * dz
        if dz2 >= best:
            continue
        v00, v01 = v000 + (v100 - v000) * tz, v001 + (v101 - v001) * tz
        v10, v11 = v010 + (v110 - v010) * tz, v011 + (v111 - v011) * tz
        for b in range(steps[1] + 1):
            ty = np.float32(b) * step_y
            dy = (np.float32(j) + ty - y) * unit[1]
            d2 = dz2 + dy * dy
            if d2 >= best:
                continue
            start = v00 + (v10 - v00) * ty
            error = (start - dose) * per_gy
            slope = (v01 + (v11 - v01) * ty - start) * per_gy
            t = -(before_x * ux2 + slope * error) / (ux2 + slope * slope)
            t = min(max(t, np.float32(0.0)), one)
            dx, dd = before_x + t, error + slope * t
            best = min(best, d2 + dx * dx * ux2 + dd * dd)
    return best


@njit(cache=True)
def _point_gamma2(values, low, high, x, y, z, dose, per_gy, unit, steps, offsets, nearest2, limit2):
    zero, one = np.float32(0.0), np.float32(1.0)
    nz, ny, nx = low.shape
    i0, j0, k0 = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    best = limit2
    for m in range(len(nearest2)):
        if nearest2[m] >= best:
            break
        i, j, k = i0 + offsets[m, 0], j0 + offsets[m, 1], k0 + offsets[m, 2]
        if i < 0 or j < 0 or k < 0 or i >= nx or j >= ny or k >= nz:
            continue
        dx = max(np.float32(i) - x, x - np.float32(i) - one, zero) * unit[0]
        dy = max(np.float32(j) - y, y - np.float32(j) - one, zero) * unit[1]
        dz = max(np.float32(k) - z, z - np.float32(k) - one, zero) * unit[2]
        dd = max(low[k, j, i] - dose, dose - high[k, j, i], zero) * per_gy
        if dx * dx + dy * dy + dz * dz + dd * dd < best:
            best = _cell_gamma2(values, i, j, k, x, y, z, dose, per_gy, unit, steps, best)
    return best


@njit(cache=True, parallel=True)
def gamma_of_points(values, low, high, points, dose, per_gy, unit, steps, offsets, nearest2, limit):
    """Gamma (n,) float32 of reference points, `limit` where nothing smaller lies in reach.

    values (nz, ny, nx) float32: evaluated dose, at least two voxels along each axis; low, high: its `cell_ranges`.
    points (n, 3) float32: fractional indices (i, j, k) in it. dose (n,): reference dose. per_gy (n,): one over the dose
    criterion. unit (3,): voxel spacing over the distance criterion. steps (3,) int: sub-steps of a cell along y and z.
    offsets (m, 3) int: cells to visit, relative to the point's own; nearest2 (m,): least squared distance that a point
    of the own cell can have to each, in units of the distance criterion, ascending.
    """
    n = len(dose)
    gamma = np.empty(n, dtype=np.float32)
    limit2 = np.float32(limit * limit)
    # Strided blocks: neighbouring points cost alike, so every thread gets its share of the hard ones.
    for block in prange(BLOCKS):
        for p in range(block, n, BLOCKS):
            x, y, z = points[p, 0], points[p, 1], points[p, 2]
            gamma[p] = np.sqrt(
                _point_gamma2(values, low, high, x, y, z, dose[p], per_gy[p], unit, steps, offsets, nearest2, limit2)
            )
    return gamma

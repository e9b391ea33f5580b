"""The gamma search: for each reference point the least gamma over the trilinear cells of the evaluated dose.

A cell is the box between eight neighbouring voxel centres of the evaluated dose. Along each axis the trilinear dose of
a cell is linear, so the least gamma on a line has a closed form. Lines along x, stepped in y and z, find the best place
in a cell; lines along y, z and x through that place then take it off the steps. A cell is skipped when its nearest
point and its range of dose already rule out a smaller gamma than the best one found.
"""

import numpy as np
from numba import njit, prange

from doseeng._kernels.scalar import trilinear

BLOCKS = 64
# Fused multiply-add and reciprocals; no step relies on how infinities or NaN behave.
FAST = {"contract", "nsz", "arcp"}
SWEEPS = 2


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


@njit(cache=True, fastmath=FAST, inline="always")
def _least_on_line(gap, unit2, error, slope):
    """Where in 0..1 on a cell's line gamma is least: (gap + t) away, dose error (error + slope t) of its criterion."""
    t = -(gap * unit2 + slope * error) / (unit2 + slope * slope)
    return min(max(t, np.float32(0.0)), np.float32(1.0))


@njit(cache=True, fastmath=FAST, inline="always")
def _mix(a, b, t):
    return a + (b - a) * t


@njit(cache=True, fastmath=FAST, inline="always")
def _corner_errors(values, i, j, k, dose, per_gy):
    """Dose errors at the corners of a cell in units of the dose criterion, in the order z, y, x of their digits."""
    e000, e001 = (values[k, j, i] - dose) * per_gy, (values[k, j, i + 1] - dose) * per_gy
    e010, e011 = (values[k, j + 1, i] - dose) * per_gy, (values[k, j + 1, i + 1] - dose) * per_gy
    e100, e101 = (values[k + 1, j, i] - dose) * per_gy, (values[k + 1, j, i + 1] - dose) * per_gy
    e110, e111 = (values[k + 1, j + 1, i] - dose) * per_gy, (values[k + 1, j + 1, i + 1] - dose) * per_gy
    return e000, e001, e010, e011, e100, e101, e110, e111


@njit(cache=True, fastmath=FAST, inline="always")
def _steps_within(gap, unit, radius, steps, last):
    """First and last step of a cell's axis, up to `last`, that lie less than `radius` from the point."""
    reach = radius / unit
    first = int(np.ceil((-gap - reach) * np.float32(steps)))
    within = int(np.floor((-gap + reach) * np.float32(steps)))
    return max(first, 0), min(within, last)


@njit(cache=True, fastmath=FAST, inline="always")
def _search_cell(errors, gx, gy, gz, unit, steps, last_y, last_z, best):
    """Least squared gamma below `best` on the stepped lines of a cell, and where in the cell (0..1); tx < 0 if none.

    gx, gy, gz: from the point to the cell's first corner, in voxels. last_y, last_z: the last steps to try.
    """
    e000, e001, e010, e011, e100, e101, e110, e111 = errors
    ux2 = unit[0] * unit[0]
    step_y, step_z = np.float32(1.0) / np.float32(steps[1]), np.float32(1.0) / np.float32(steps[2])
    radius = np.sqrt(best)
    tx, ty, tz = np.float32(-1.0), np.float32(0.0), np.float32(0.0)
    first_z, last_z = _steps_within(gz, unit[2], radius, steps[2], last_z)
    first_y, last_y = _steps_within(gy, unit[1], radius, steps[1], last_y)
    for c in range(first_z, last_z + 1):
        w = np.float32(c) * step_z
        dz = (gz + w) * unit[2]
        e00, e01, e10, e11 = _mix(e000, e100, w), _mix(e001, e101, w), _mix(e010, e110, w), _mix(e011, e111, w)
        for b in range(first_y, last_y + 1):
            v = np.float32(b) * step_y
            dy = (gy + v) * unit[1]
            d2 = dz * dz + dy * dy
            if d2 >= best:
                continue
            error = _mix(e00, e10, v)
            slope = _mix(e01, e11, v) - error
            u = _least_on_line(gx, ux2, error, slope)
            error += slope * u
            gamma2 = d2 + (gx + u) * (gx + u) * ux2 + error * error
            if gamma2 < best:
                best, tx, ty, tz = gamma2, u, v, w
    return best, tx, ty, tz


@njit(cache=True, fastmath=FAST, inline="always")
def _refined(errors, gx, gy, gz, unit, tx, ty, tz):
    """Squared gamma after sweeps of exact line searches along y, z and x from (tx, ty, tz) in a cell."""
    e000, e001, e010, e011, e100, e101, e110, e111 = errors
    ux2, uy2, uz2 = unit[0] * unit[0], unit[1] * unit[1], unit[2] * unit[2]
    error = np.float32(0.0)
    for _ in range(SWEEPS):
        low = _mix(_mix(e000, e001, tx), _mix(e100, e101, tx), tz)
        ty = _least_on_line(gy, uy2, low, _mix(_mix(e010, e011, tx), _mix(e110, e111, tx), tz) - low)
        low = _mix(_mix(e000, e001, tx), _mix(e010, e011, tx), ty)
        tz = _least_on_line(gz, uz2, low, _mix(_mix(e100, e101, tx), _mix(e110, e111, tx), ty) - low)
        low = _mix(_mix(e000, e010, ty), _mix(e100, e110, ty), tz)
        slope = _mix(_mix(e001, e011, ty), _mix(e101, e111, ty), tz) - low
        tx = _least_on_line(gx, ux2, low, slope)
        error = low + slope * tx
    return (gx + tx) * (gx + tx) * ux2 + (gy + ty) * (gy + ty) * uy2 + (gz + tz) * (gz + tz) * uz2 + error * error


@njit(cache=True, fastmath=FAST)
def _point_gamma2(values, low, high, x, y, z, dose, per_gy, unit, steps, offsets, nearest2, limit2):
    zero, one = np.float32(0.0), np.float32(1.0)
    nz, ny, nx = low.shape
    i0, j0, k0 = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    best = limit2
    if x >= zero and y >= zero and z >= zero and x <= nx and y <= ny and z <= nz:
        # The dose difference on the spot bounds the search from the start.
        error = (trilinear(values, x, y, z, zero) - dose) * per_gy
        best = min(best, error * error)
    bi, bj, bk = -1, -1, -1
    bx, by, bz = zero, zero, zero
    for m in range(len(nearest2)):
        if nearest2[m] >= best:
            break
        i, j, k = i0 + offsets[m, 0], j0 + offsets[m, 1], k0 + offsets[m, 2]
        if i < 0 or j < 0 or k < 0 or i >= nx or j >= ny or k >= nz:
            continue
        gx, gy, gz = np.float32(i) - x, np.float32(j) - y, np.float32(k) - z
        dx, dy, dz = max(gx, -gx - one, zero), max(gy, -gy - one, zero), max(gz, -gz - one, zero)
        dx, dy, dz = dx * unit[0], dy * unit[1], dz * unit[2]
        dd = max(low[k, j, i] - dose, dose - high[k, j, i], zero) * per_gy
        if dx * dx + dy * dy + dz * dz + dd * dd >= best:
            continue
        errors = _corner_errors(values, i, j, k, dose, per_gy)
        # The upper face of a cell is the lower face of the next, if there is one.
        last_y, last_z = steps[1] - (j < ny - 1), steps[2] - (k < nz - 1)
        least, tx, ty, tz = _search_cell(errors, gx, gy, gz, unit, steps, last_y, last_z, best)
        if tx >= zero:
            best, bi, bj, bk, bx, by, bz = least, i, j, k, tx, ty, tz
    if bi >= 0:
        gx, gy, gz = np.float32(bi) - x, np.float32(bj) - y, np.float32(bk) - z
        best = min(best, _refined(_corner_errors(values, bi, bj, bk, dose, per_gy), gx, gy, gz, unit, bx, by, bz))
    return best


@njit(cache=True, fastmath=FAST, parallel=True)
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

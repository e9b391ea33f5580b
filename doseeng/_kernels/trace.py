"""What beam's-eye rays meet, and the way between the frustum and the dose grid."""

import numpy as np
from numba import njit

from doseeng._kernels.scalar import F32, HALF, ONE, TWO, ZERO, catmull_rom, place, trilinear


@njit(cache=True, nogil=True)
def trace(
    rsp, scattering, m, u0, v0, pitch, top, dz, source_x, source_y, samples, wanted, first_row, last_row, out_rsp,
    out_scatter,
):  # fmt: skip
    """Fill rows of out_rsp, out_scatter (slice, v, u) with means over `samples` points per slice; vacuum outside.

    m: (3, 4) affine from gantry millimetres to the image index. wanted: (v, u) rays to trace. A ray starts in float64,
    because millimetre offsets of large images cost float32 too many digits; along it the index is linear.
    """
    n_slice, _, n_u = out_rsp.shape
    share = ONE / F32(samples)
    nz, ny, nx = rsp.shape
    at, step = np.empty(3, dtype=np.float32), np.empty(3, dtype=np.float32)
    for iv in range(first_row, last_row):
        v = v0 + iv * pitch
        for iu in range(n_u):
            if not wanted[iv, iu]:
                continue
            u = u0 + iu * pitch
            h = dz / samples
            z = top - 0.5 * h
            x, y = u * (1.0 - z / source_x), v * (1.0 - z / source_y)
            for c in range(3):
                at[c] = m[c, 0] * x + m[c, 1] * y + m[c, 2] * z + m[c, 3]
                step[c] = (m[c, 0] * u / source_x + m[c, 1] * v / source_y - m[c, 2]) * h
            n = ZERO
            for k in range(n_slice):
                stop, scatter = ZERO, ZERO
                for _ in range(samples):
                    i, j, l = at[0] + n * step[0], at[1] + n * step[1], at[2] + n * step[2]
                    n += ONE
                    if i < -HALF or j < -HALF or l < -HALF or i > nx - HALF or j > ny - HALF or l > nz - HALF:
                        continue
                    stop += trilinear(rsp, i, j, l, ZERO)
                    scatter += trilinear(scattering, i, j, l, ZERO)
                out_rsp[k, iv, iu] = stop * share
                out_scatter[k, iv, iu] = scatter * share


PADDING = 2
"""Faces repeated at both ends of a column, so that a cubic finds its four points everywhere."""


@njit(cache=True, nogil=True)
def add_to_grid(columns, m, u0, v0, pitch, top, dz, source_x, source_y, half_depth, box, first, last, out):
    """Voxels out[first:last] inside `box` += mean over 2 half_depth mm along the axis around each voxel centre.

    columns: (v, u, slice + 1 + 2 PADDING) dose integrated along the axis from the top to each face, a cubic in between,
    so that Bragg peaks keep their height; bilinear across. m: (12,) affine from voxel index to gantry mm. Lengths are
    float32. box: (4,) first and one past the last i, first and one past the last j.
    """
    n_v, n_u, n = columns.shape
    end = F32(n - 1 - 2 * PADDING)
    half = half_depth / dz
    share = ONE / (TWO * half_depth)
    weight = np.empty((2, 4), dtype=np.float32)
    for k in range(first, last):
        for j in range(box[2], box[3]):
            for i in range(box[0], box[1]):
                s, b, a = place(m, i, j, k, u0, v0, pitch, top, dz, source_x, source_y)
                if s + half <= ZERO or s - half >= end or a < ZERO or b < ZERO or a > F32(n_u - 1) or b > F32(n_v - 1):
                    continue
                ia, ib = min(int(a), n_u - 2), min(int(b), n_v - 2)
                fa, fb = a - F32(ia), b - F32(ib)
                low, high = min(max(s - half, ZERO), end), min(max(s + half, ZERO), end)
                r0, r1 = int(low), int(high)
                for d in range(4):
                    weight[0, d] = catmull_rom(d, low - F32(r0))
                    weight[1, d] = catmull_rom(d, high - F32(r1))
                r0 += PADDING - 1
                r1 += PADDING - 1
                total = ZERO
                for corner in range(4):
                    column = columns[ib + corner // 2, ia + corner % 2]
                    value = ZERO
                    for d in range(4):
                        value += weight[1, d] * column[r1 + d] - weight[0, d] * column[r0 + d]
                    total += value * (fb if corner // 2 else ONE - fb) * (fa if corner % 2 else ONE - fa)
                out[k, j, i] += total * share


@njit(cache=True, nogil=True)
def add_to_columns(dose, m, u0, v0, pitch, top, dz, source_x, source_y, half_depth, box, first, last, columns):
    """The transpose of `add_to_grid`: columns += what each voxel of dose[first:last] took from them."""
    n_v, n_u, n = columns.shape
    end = F32(n - 1 - 2 * PADDING)
    half = half_depth / dz
    share = ONE / (TWO * half_depth)
    for k in range(first, last):
        for j in range(box[2], box[3]):
            for i in range(box[0], box[1]):
                s, b, a = place(m, i, j, k, u0, v0, pitch, top, dz, source_x, source_y)
                if s + half <= ZERO or s - half >= end or a < ZERO or b < ZERO or a > F32(n_u - 1) or b > F32(n_v - 1):
                    continue
                ia, ib = min(int(a), n_u - 2), min(int(b), n_v - 2)
                fa, fb = a - F32(ia), b - F32(ib)
                low, high = min(max(s - half, ZERO), end), min(max(s + half, ZERO), end)
                r0, r1 = int(low), int(high)
                value = dose[k, j, i] * share
                for corner in range(4):
                    column = columns[ib + corner // 2, ia + corner % 2]
                    given = value * (fb if corner // 2 else ONE - fb) * (fa if corner % 2 else ONE - fa)
                    for d in range(4):
                        column[r1 + PADDING - 1 + d] += given * catmull_rom(d, high - F32(r1))
                        column[r0 + PADDING - 1 + d] -= given * catmull_rom(d, low - F32(r0))

"""Interpolation on voxel arrays."""

import numpy as np
from numba import njit, prange


@njit(cache=True, inline="always")
def trilinear(values, i, j, k, outside):
    """Value of `values[k, j, i]` (float32) at a fractional index; edge value up to half a voxel out, then `outside`."""
    nz, ny, nx = values.shape
    if i < -0.5 or j < -0.5 or k < -0.5 or i > nx - 0.5 or j > ny - 0.5 or k > nz - 0.5:
        return outside
    i = min(max(i, np.float32(0.0)), np.float32(nx - 1))
    j = min(max(j, np.float32(0.0)), np.float32(ny - 1))
    k = min(max(k, np.float32(0.0)), np.float32(nz - 1))
    i0, j0, k0 = int(i), int(j), int(k)
    i1, j1, k1 = min(i0 + 1, nx - 1), min(j0 + 1, ny - 1), min(k0 + 1, nz - 1)
    fi, fj, fk = i - np.float32(i0), j - np.float32(j0), k - np.float32(k0)
    a = values[k0, j0, i0] + (values[k0, j0, i1] - values[k0, j0, i0]) * fi
    b = values[k0, j1, i0] + (values[k0, j1, i1] - values[k0, j1, i0]) * fi
    c = values[k1, j0, i0] + (values[k1, j0, i1] - values[k1, j0, i0]) * fi
    d = values[k1, j1, i0] + (values[k1, j1, i1] - values[k1, j1, i0]) * fi
    a = a + (b - a) * fj
    c = c + (d - c) * fj
    return a + (c - a) * fk


@njit(cache=True, parallel=True)
def _trilinear_affine(values, m, out, outside):
    nz, ny, nx = out.shape
    for k in prange(nz):
        for j in range(ny):
            # The row start in float64: millimetre offsets of large grids cost float32 too many digits.
            i0 = m[0, 1] * j + m[0, 2] * k + m[0, 3]
            j0 = m[1, 1] * j + m[1, 2] * k + m[1, 3]
            k0 = m[2, 1] * j + m[2, 2] * k + m[2, 3]
            for i in range(nx):
                out[k, j, i] = trilinear(
                    values,
                    np.float32(i0 + m[0, 0] * i),
                    np.float32(j0 + m[1, 0] * i),
                    np.float32(k0 + m[2, 0] * i),
                    outside,
                )


def trilinear_affine(values, index_affine, shape, outside):
    """Sample `values` (nz, ny, nx) float32 at index_affine @ (i, j, k, 1) for every voxel of an array of `shape`."""
    out = np.empty(shape, dtype=np.float32)
    _trilinear_affine(values, np.ascontiguousarray(index_affine, dtype=np.float64), out, np.float32(outside))
    return out

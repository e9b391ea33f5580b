"""Interpolation on voxel arrays."""

import numpy as np
from numba import njit, prange

from doseeng._kernels.scalar import trilinear


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

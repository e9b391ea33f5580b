"""Dose at scattered points."""

import numpy as np
from numba import njit, prange

from doseeng._kernels.scalar import trilinear


@njit(cache=True, parallel=True)
def _at_points(values, m, points, out, outside):
    for p in prange(len(points)):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        i = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]
        j = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]
        k = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
        out[p] = trilinear(values, np.float32(i), np.float32(j), np.float32(k), outside)


def trilinear_at_points(values, index_affine, points, outside):
    """Sample `values` (nz, ny, nx) float32 at index_affine @ (x, y, z, 1) for points (n, 3) float32; (n,) float32."""
    out = np.empty(len(points), dtype=np.float32)
    _at_points(values, np.ascontiguousarray(index_affine, dtype=np.float64), points, out, np.float32(outside))
    return out

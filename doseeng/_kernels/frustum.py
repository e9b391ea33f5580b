"""Tracing the image into a beam's-eye frustum and resampling the frustum to a dose grid."""

import numpy as np
from numba import njit, prange

from doseeng._kernels.interp import trilinear


@njit(cache=True, parallel=True)
def trace(rsp, scattering, m, u0, v0, pitch, top, dz, source_x, source_y, rsp_scale, wet, scatter):
    """Fill wet (n+1, v, u) and scatter (n, v, u); m: (3, 4) affine from gantry millimetres to the image index."""
    n_slice, n_v, n_u = scatter.shape
    for iv in prange(n_v):
        v = v0 + iv * pitch
        for iu in range(n_u):
            u = u0 + iu * pitch
            step = np.float32(dz * np.sqrt(1.0 + (u / source_x) ** 2 + (v / source_y) ** 2))
            depth = 0.0
            wet[0, iv, iu] = 0.0
            for k in range(n_slice):
                z = top - (k + 0.5) * dz
                x = u * (1.0 - z / source_x)
                y = v * (1.0 - z / source_y)
                i = np.float32(m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3])
                j = np.float32(m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3])
                l = np.float32(m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3])
                depth += trilinear(rsp, i, j, l, np.float32(0.0)) * rsp_scale * step
                wet[k + 1, iv, iu] = depth
                scatter[k, iv, iu] = trilinear(scattering, i, j, l, np.float32(0.0))


@njit(cache=True, parallel=True)
def accumulate_from_frustum(values, m, u0, v0, pitch, top, dz, source_x, source_y, out):
    """out (z, y, x) += values (slice, v, u) at each voxel centre; m: (3, 4) affine from voxel index to gantry mm."""
    n_slice, n_v, n_u = values.shape
    nz, ny, nx = out.shape
    for k in prange(nz):
        for j in range(ny):
            for i in range(nx):
                z = m[2, 0] * i + m[2, 1] * j + m[2, 2] * k + m[2, 3]
                slice_index = (top - z) / dz - 0.5
                if slice_index < -0.5 or slice_index > n_slice - 0.5:
                    continue
                x = m[0, 0] * i + m[0, 1] * j + m[0, 2] * k + m[0, 3]
                y = m[1, 0] * i + m[1, 1] * j + m[1, 2] * k + m[1, 3]
                a = (x / (1.0 - z / source_x) - u0) / pitch
                b = (y / (1.0 - z / source_y) - v0) / pitch
                if a < 0.0 or b < 0.0 or a > n_u - 1 or b > n_v - 1:
                    continue
                out[k, j, i] += trilinear(
                    values, np.float32(a), np.float32(b), np.float32(slice_index), np.float32(0.0)
                )

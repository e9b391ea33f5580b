"""Images and vector fields seen through a displacement field."""

import numpy as np
from numba import njit, prange

from doseeng._kernels.scalar import trilinear


@njit(cache=True, parallel=True)
def vectors_at(vectors, index, out):
    """Trilinear values of vectors (nz, ny, nx, 3) at fractional indices (n, 3) ordered (i, j, k); the edge beyond."""
    nz, ny, nx, _ = vectors.shape
    for n in prange(len(index)):
        i = min(max(index[n, 0], 0.0), nx - 1.0)
        j = min(max(index[n, 1], 0.0), ny - 1.0)
        k = min(max(index[n, 2], 0.0), nz - 1.0)
        i0, j0, k0 = min(int(i), max(nx - 2, 0)), min(int(j), max(ny - 2, 0)), min(int(k), max(nz - 2, 0))
        i1, j1, k1 = min(i0 + 1, nx - 1), min(j0 + 1, ny - 1), min(k0 + 1, nz - 1)
        fi, fj, fk = np.float32(i - i0), np.float32(j - j0), np.float32(k - k0)
        for c in range(3):
            low = vectors[k0, j0, i0, c] + fi * (vectors[k0, j0, i1, c] - vectors[k0, j0, i0, c])
            high = vectors[k0, j1, i0, c] + fi * (vectors[k0, j1, i1, c] - vectors[k0, j1, i0, c])
            front = low + fj * (high - low)
            low = vectors[k1, j0, i0, c] + fi * (vectors[k1, j0, i1, c] - vectors[k1, j0, i0, c])
            high = vectors[k1, j1, i0, c] + fi * (vectors[k1, j1, i1, c] - vectors[k1, j1, i0, c])
            back = low + fj * (high - low)
            out[n, c] = front + fk * (back - front)


@njit(cache=True, parallel=True)
def warp(values, vectors, to_index, along, out, outside):
    """Values (image array) at every voxel of a field displaced by its vectors.

    to_index: (3, 4) from the field's voxel (i, j, k, 1) to the image's index. along: (3, 3) from a displacement in mm
    to the image's index.
    """
    nz, ny, nx = out.shape
    for k in prange(nz):
        for j in range(ny):
            for i in range(nx):
                x, y, z = vectors[k, j, i, 0], vectors[k, j, i, 1], vectors[k, j, i, 2]
                at_i = to_index[0, 0] * i + to_index[0, 1] * j + to_index[0, 2] * k + to_index[0, 3]
                at_j = to_index[1, 0] * i + to_index[1, 1] * j + to_index[1, 2] * k + to_index[1, 3]
                at_k = to_index[2, 0] * i + to_index[2, 1] * j + to_index[2, 2] * k + to_index[2, 3]
                at_i += along[0, 0] * x + along[0, 1] * y + along[0, 2] * z
                at_j += along[1, 0] * x + along[1, 1] * y + along[1, 2] * z
                at_k += along[2, 0] * x + along[2, 1] * y + along[2, 2] * z
                out[k, j, i] = trilinear(values, np.float32(at_i), np.float32(at_j), np.float32(at_k), outside)

"""Gauss-Newton steps of a displacement that makes two images of channels alike, and their smoothing."""

import numpy as np
from numba import njit, prange

ZERO, HALF, QUARTER, ONE = np.float32(0.0), np.float32(0.5), np.float32(0.25), np.float32(1.0)


@njit(cache=True, fastmath=True)
def _displacement(field, k, j, i, stride, out):
    """Trilinear displacement at voxel (k, j, i) of a field whose node (0, 0, 0) is the middle of the first block."""
    nz, ny, nx, _ = field.shape
    middle, inverse = (stride - 1) * HALF, ONE / np.float32(stride)
    z = min(max((k - middle) * inverse, ZERO), np.float32(nz - 1))
    y = min(max((j - middle) * inverse, ZERO), np.float32(ny - 1))
    x = min(max((i - middle) * inverse, ZERO), np.float32(nx - 1))
    k0, j0, i0 = int(z), int(y), int(x)
    k1, j1, i1 = min(k0 + 1, nz - 1), min(j0 + 1, ny - 1), min(i0 + 1, nx - 1)
    c, b, a = z - k0, y - j0, x - i0
    for d in range(3):
        p = field[k0, j0, i0, d] + a * (field[k0, j0, i1, d] - field[k0, j0, i0, d])
        q = field[k0, j1, i0, d] + a * (field[k0, j1, i1, d] - field[k0, j1, i0, d])
        r = field[k1, j0, i0, d] + a * (field[k1, j0, i1, d] - field[k1, j0, i0, d])
        s = field[k1, j1, i0, d] + a * (field[k1, j1, i1, d] - field[k1, j1, i0, d])
        p += b * (q - p)
        r += b * (s - r)
        out[d] = p + c * (r - p)


@njit(cache=True, fastmath=True)
def _value_and_gradient(channels, z, y, x, value, gradient):
    """Trilinear values (c,) and gradients (3, c), x first, of all channels at a point within the image."""
    nz, ny, nx, count = channels.shape
    k, j, i = min(int(z), nz - 2), min(int(y), ny - 2), min(int(x), nx - 2)
    c, b, a = np.float32(z - k), np.float32(y - j), np.float32(x - i)
    for n in range(count):
        v000, v001 = channels[k, j, i, n], channels[k, j, i + 1, n]
        v010, v011 = channels[k, j + 1, i, n], channels[k, j + 1, i + 1, n]
        v100, v101 = channels[k + 1, j, i, n], channels[k + 1, j, i + 1, n]
        v110, v111 = channels[k + 1, j + 1, i, n], channels[k + 1, j + 1, i + 1, n]
        p, q = v000 + a * (v001 - v000), v010 + a * (v011 - v010)
        r, s = v100 + a * (v101 - v100), v110 + a * (v111 - v110)
        low, high = p + b * (q - p), r + b * (s - r)
        value[n] = low + c * (high - low)
        gradient[2, n] = high - low
        gradient[1, n] = (q - p) + c * ((s - r) - (q - p))
        d0 = (v001 - v000) + b * ((v011 - v010) - (v001 - v000))
        d1 = (v101 - v100) + b * ((v111 - v110) - (v101 - v100))
        gradient[0, n] = d0 + c * (d1 - d0)


@njit(cache=True, fastmath=True)
def _mixed(moving, before, after):
    """Mean of the moving image's slope and the fixed image's, where the latter is known (values >= 0)."""
    return HALF * moving + QUARTER * (after - before) if before >= 0.0 and after >= 0.0 else moving


@njit(cache=True, parallel=True, fastmath=True)
def normal_equations(fixed, moving, field, stride, tolerance, curvature, force, cost, weight):
    """Sum over the voxels of each block what pulls its node: sum J J^T and sum J r with robust weights.

    fixed, moving: (nz, ny, nx, c) channels, fixed < 0 where unknown. field: (lz, ly, lx, 3) displacement in voxels on
    nodes that stand for blocks of stride^3 voxels. J is the mean of both images' gradients (symmetric forces,
    Vercauteren et al., NeuroImage 45 (2009) S61). The cost of a voxel is the pseudo-Huber function of its mean squared
    residual with scale `tolerance`. Added to: curvature (lz, ly, lx, 6: xx xy xz yy yz zz), force (.., 3), cost and
    weight (lz, ly, lx), the number of voxels.
    """
    nz, ny, nx, count = fixed.shape
    scale = ONE / (tolerance * tolerance)
    for block in prange(field.shape[0]):
        at, value, gradient = np.empty(3, np.float32), np.empty(count, np.float32), np.empty((3, count), np.float32)
        for k in range(block * stride, min((block + 1) * stride, nz)):
            for j in range(ny):
                for i in range(nx):
                    _displacement(field, k, j, i, stride, at)
                    x, y, z = i + at[0], j + at[1], k + at[2]
                    if x < 0 or y < 0 or z < 0 or x > nx - 1 or y > ny - 1 or z > nz - 1:
                        continue
                    _value_and_gradient(moving, z, y, x, value, gradient)
                    ip, im, jp, jm = min(i + 1, nx - 1), max(i - 1, 0), min(j + 1, ny - 1), max(j - 1, 0)
                    kp, km = min(k + 1, nz - 1), max(k - 1, 0)
                    known, squared = ZERO, ZERO
                    xx, xy, xz, yy, yz, zz, fx, fy, fz = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
                    for n in range(count):
                        here = fixed[k, j, i, n]
                        if here < 0.0:
                            continue
                        known += ONE
                        residual = here - value[n]
                        gx = _mixed(gradient[0, n], fixed[k, j, im, n], fixed[k, j, ip, n])
                        gy = _mixed(gradient[1, n], fixed[k, jm, i, n], fixed[k, jp, i, n])
                        gz = _mixed(gradient[2, n], fixed[km, j, i, n], fixed[kp, j, i, n])
                        squared += residual * residual
                        xx, xy, xz = xx + gx * gx, xy + gx * gy, xz + gx * gz
                        yy, yz, zz = yy + gy * gy, yz + gy * gz, zz + gz * gz
                        fx, fy, fz = fx + gx * residual, fy + gy * residual, fz + gz * residual
                    if known == 0.0:
                        continue
                    root = np.sqrt(squared / known * scale + ONE)
                    share = ONE / (root * count)
                    jn, in_ = j // stride, i // stride
                    for n, part in enumerate((xx, xy, xz, yy, yz, zz)):
                        curvature[block, jn, in_, n] += share * part
                    for n, part in enumerate((fx, fy, fz)):
                        force[block, jn, in_, n] += share * part
                    cost[block, jn, in_] += root - ONE
                    weight[block, jn, in_] += ONE


@njit(cache=True, parallel=True, fastmath=True)
def laplacian(field, out):
    """Sum over the six neighbours of their difference to every node; no flux through the faces."""
    nz, ny, nx, _ = field.shape
    for k in prange(nz):
        for j in range(ny):
            for i in range(nx):
                for c in range(3):
                    here, total = field[k, j, i, c], ZERO
                    if i > 0:
                        total += field[k, j, i - 1, c] - here
                    if i < nx - 1:
                        total += field[k, j, i + 1, c] - here
                    if j > 0:
                        total += field[k, j - 1, i, c] - here
                    if j < ny - 1:
                        total += field[k, j + 1, i, c] - here
                    if k > 0:
                        total += field[k - 1, j, i, c] - here
                    if k < nz - 1:
                        total += field[k + 1, j, i, c] - here
                    out[k, j, i, c] = total


@njit(cache=True, parallel=True, fastmath=True)
def apply_curvature(curvature, field, out):
    """out = curvature @ field at every node; out may be `field` itself."""
    nz, ny, nx, _ = field.shape
    for k in prange(nz):
        for j in range(ny):
            for i in range(nx):
                x, y, z = field[k, j, i, 0], field[k, j, i, 1], field[k, j, i, 2]
                m = curvature[k, j, i]
                out[k, j, i, 0] = m[0] * x + m[1] * y + m[2] * z
                out[k, j, i, 1] = m[1] * x + m[3] * y + m[4] * z
                out[k, j, i, 2] = m[2] * x + m[4] * y + m[5] * z

"""What is kept of every scenario: voxel statistics and dose-volume histograms."""

from numba import cuda

from doseeng._kernels.cuda.device import DEVICE, F1, F2, F3, I1, F, I, kernel, larger, smaller
from doseeng._kernels.scalar import F32, ONE, ZERO

trilinear = DEVICE["trilinear"]

OUTSIDE = F32(-1.0)
ROUNDING = F32(1e-6)
"""A dose that equals a step of the histogram but for rounding reaches it."""


@kernel(F3, F, F, F3, F3, F3, F3)
def accumulate(dose, scale, count, minimum, maximum, mean, squares):
    """Take scale x dose in as number `count`: minimum, maximum, mean, squared differences (Welford 1962)."""
    i, j, k = cuda.grid(3)
    if i < dose.shape[2] and j < dose.shape[1] and k < dose.shape[0]:
        value = dose[k, j, i] * scale
        if count == ONE:
            minimum[k, j, i] = value
            maximum[k, j, i] = value
            mean[k, j, i] = value
            squares[k, j, i] = ZERO
        else:
            minimum[k, j, i] = smaller(minimum[k, j, i], value)
            maximum[k, j, i] = larger(maximum[k, j, i], value)
            before = value - mean[k, j, i]
            mean[k, j, i] += before / count
            squares[k, j, i] += before * (value - mean[k, j, i])


@kernel(F3, F, F2, F1, I1, F, I, F3)
def histogram(dose, scale, points, weight, structure, step, scenario, out):
    """out (scenario, structure, bin) += weight of every point in the bin of its trilinear dose; the last bin is open.

    points: (n, 3) fractional index x, y, z; structure: (n,). Points outside the grid are left out, and threads
    beyond the first row: blocks are two-dimensional.
    """
    p, row, _ = cuda.grid(3)
    if p < points.shape[0] and row == 0:
        value = trilinear(dose, points[p, 0], points[p, 1], points[p, 2], OUTSIDE) * scale
        if value >= ZERO:
            b = smaller(int(value * (ONE + ROUNDING) / step), out.shape[2] - 1)
            cuda.atomic.add(out, (scenario, structure[p], b), weight[p])

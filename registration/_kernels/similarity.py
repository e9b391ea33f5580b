"""Local self-similarity of an image, which survives the false intensities of a cone-beam image."""

import numpy as np
from numba import njit, prange

CHANNELS = 12
UNKNOWN = np.float32(-1.0)


def _pairs():
    """The twelve pairs of the six neighbours of a voxel that are not opposite: (first, second) offsets (z, y, x)."""
    around = [(0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0), (-1, 0, 0), (1, 0, 0)]
    pairs = [
        (a, b) for n, a in enumerate(around) for b in around[n + 1 :] if any(p + q for p, q in zip(a, b, strict=True))
    ]
    return np.array(pairs, dtype=np.int64)


PAIRS = _pairs()


@njit(cache=True, inline="always")
def _held(index, size):
    return min(max(index, 0), size - 1)


@njit(cache=True)
def _box_sums(sums, scratch):
    """Sums over 3 x 3 pixels of (ny, nx), the edge pixels repeated, in place."""
    ny, nx = sums.shape
    for j in range(ny):
        for i in range(nx):
            scratch[j, i] = sums[j, _held(i - 1, nx)] + sums[j, i] + sums[j, _held(i + 1, nx)]
    for j in range(ny):
        for i in range(nx):
            sums[j, i] = scratch[_held(j - 1, ny), i] + scratch[j, i] + scratch[_held(j + 1, ny), i]


@njit(cache=True, parallel=True, fastmath=True)
def self_distances(image, known, pairs, least_share, out):
    """Mean squared differences between 3 x 3 x 3 patches around the neighbours of every voxel.

    image, known (1 where the image is known, else 0): (nz, ny, nx) float32. pairs: see PAIRS. least_share: of the 27
    differences that must be known. out: (nz, ny, nx, 12), UNKNOWN where too few are.
    """
    nz, ny, nx = image.shape
    for k in prange(nz):
        scratch = np.empty((ny, nx), np.float32)
        for c in range(CHANNELS):
            sums, counts = np.zeros((ny, nx), np.float32), np.zeros((ny, nx), np.float32)
            for near in range(k - 1, k + 2):
                ka, kb = _held(near + pairs[c, 0, 0], nz), _held(near + pairs[c, 1, 0], nz)
                for j in range(ny):
                    ja, jb = _held(j + pairs[c, 0, 1], ny), _held(j + pairs[c, 1, 1], ny)
                    for i in range(nx):
                        ia, ib = _held(i + pairs[c, 0, 2], nx), _held(i + pairs[c, 1, 2], nx)
                        both = known[ka, ja, ia] * known[kb, jb, ib]
                        difference = image[ka, ja, ia] - image[kb, jb, ib]
                        sums[j, i] += both * difference * difference
                        counts[j, i] += both
            _box_sums(sums, scratch)
            _box_sums(counts, scratch)
            for j in range(ny):
                for i in range(nx):
                    enough = counts[j, i] >= least_share * np.float32(27.0)
                    out[k, j, i, c] = sums[j, i] / counts[j, i] if enough else UNKNOWN


@njit(cache=True, parallel=True, fastmath=True)
def to_similarities(distances, least_variance):
    """exp(-distance / mean distance of the voxel's channels), in place; the mean is at least least_variance (HU^2)."""
    nz, ny, nx, _ = distances.shape
    for k in prange(nz):
        for j in range(ny):
            for i in range(nx):
                total, count = np.float32(0.0), np.float32(0.0)
                for c in range(CHANNELS):
                    if distances[k, j, i, c] >= 0.0:
                        total += distances[k, j, i, c]
                        count += np.float32(1.0)
                scale = np.float32(1.0) / max(total / max(count, np.float32(1.0)), least_variance)
                for c in range(CHANNELS):
                    if distances[k, j, i, c] >= 0.0:
                        distances[k, j, i, c] = np.exp(-distances[k, j, i, c] * scale)

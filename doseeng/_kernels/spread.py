"""Separable Gaussian spreading of width bins."""

import numpy as np
from numba import njit, prange

NARROW = 0.5
"""Below this variance (pixels squared) a sampled Gaussian has the wrong variance; three taps have the right one."""
TAIL_SIGMAS = 4.0


@njit(cache=True)
def gaussian_taps(variance_px):
    """Half of a symmetric kernel (centre first) with unit sum and variance `variance_px` in pixels squared."""
    if variance_px <= 1e-9:
        return np.ones(1, dtype=np.float32)
    if variance_px < NARROW:
        taps = np.empty(2, dtype=np.float32)
        taps[0] = 1.0 - variance_px
        taps[1] = 0.5 * variance_px
        return taps
    radius = int(np.ceil(TAIL_SIGMAS * np.sqrt(variance_px)))
    taps = np.empty(radius + 1, dtype=np.float32)
    total = 0.0
    for i in range(radius + 1):
        value = np.exp(-0.5 * i * i / variance_px)
        taps[i] = value
        total += value if i == 0 else 2.0 * value
    for i in range(radius + 1):
        taps[i] /= total
    return taps


@njit(cache=True, parallel=True)
def _convolve(bins, taps, radius, work, out):
    """Convolve every bin along u into work, then along v into out; taps: (bin, 2, tap), radius: (bin, 2), -1: empty.

    One parallel region for all bins of a step: starting threads costs as much as convolving one bin.
    """
    n_bin, n_v, n_u = bins.shape
    for job in prange(n_bin * n_v):
        b, iv = job // n_v, job % n_v
        for iu in range(n_u if radius[b, 0] >= 0 else 0):
            work[b, iv, iu] = taps[b, 0, 0] * bins[b, iv, iu]
        for t in range(1, radius[b, 0] + 1):
            w = taps[b, 0, t]
            for iu in range(t, n_u):
                work[b, iv, iu] += w * bins[b, iv, iu - t]
            for iu in range(n_u - t):
                work[b, iv, iu] += w * bins[b, iv, iu + t]
    for iv in prange(n_v):
        for b in range(n_bin):
            for iu in range(n_u if radius[b, 1] >= 0 else 0):
                out[iv, iu] += taps[b, 1, 0] * work[b, iv, iu]
            for t in range(1, radius[b, 1] + 1):
                w = taps[b, 1, t]
                if iv - t >= 0:
                    for iu in range(n_u):
                        out[iv, iu] += w * work[b, iv - t, iu]
                if iv + t < n_v:
                    for iu in range(n_u):
                        out[iv, iu] += w * work[b, iv + t, iu]


def spread_bins(bins, moments, sigma_step_mm, pixel_mm, work, out):
    """Add every width bin (bin, v, u), convolved with its Gaussian, to out (v, u).

    Bin b has mean variance (b sigma_step_mm)^2; moments: (row, bin, 2) sums of weight and weight x half the x-y
    variance difference. pixel_mm: (x, y) lateral size of a pixel in this slice. work: (bin, v, u) scratch.
    """
    totals = moments.sum(axis=0, dtype=np.float64)
    kernels = {}
    for b in np.flatnonzero(totals[:, 0] > 0.0):
        variance = (b * float(sigma_step_mm)) ** 2
        excess = totals[b, 1] / totals[b, 0]
        kernels[b, 0] = gaussian_taps(max(variance + excess, 0.0) / pixel_mm[0] ** 2)
        kernels[b, 1] = gaussian_taps(max(variance - excess, 0.0) / pixel_mm[1] ** 2)
    if not kernels:
        return
    taps = np.zeros((len(bins), 2, max(len(k) for k in kernels.values())), dtype=np.float32)
    radius = np.full((len(bins), 2), -1, dtype=np.int64)
    for (b, axis), kernel in kernels.items():
        taps[b, axis, : len(kernel)] = kernel
        radius[b, axis] = len(kernel) - 1
    _convolve(bins, taps, radius, work, out)

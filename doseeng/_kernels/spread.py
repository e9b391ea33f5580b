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
def _rows(values, taps, out):
    # Convolve along the last axis.
    n_v, n_u = values.shape
    radius = taps.size - 1
    for iv in prange(n_v):
        for iu in range(n_u):
            out[iv, iu] = taps[0] * values[iv, iu]
        for t in range(1, radius + 1):
            w = taps[t]
            for iu in range(t, n_u):
                out[iv, iu] += w * values[iv, iu - t]
            for iu in range(n_u - t):
                out[iv, iu] += w * values[iv, iu + t]


@njit(cache=True, parallel=True)
def _columns_added(values, taps, out):
    # Convolve along the first axis and add to out.
    n_v, n_u = values.shape
    radius = taps.size - 1
    for iv in prange(n_v):
        for iu in range(n_u):
            out[iv, iu] += taps[0] * values[iv, iu]
        for t in range(1, radius + 1):
            w = taps[t]
            if iv - t >= 0:
                for iu in range(n_u):
                    out[iv, iu] += w * values[iv - t, iu]
            if iv + t < n_v:
                for iu in range(n_u):
                    out[iv, iu] += w * values[iv + t, iu]


def spread_bins(bins, moments, sigma_step_mm, pixel_mm, work, out):
    """Add every width bin (bin, v, u), convolved with its Gaussian, to out (v, u).

    Bin b has mean variance (b sigma_step_mm)^2; moments: (row, bin, 2) sums of weight and weight x half the x-y
    variance difference. pixel_mm: (x, y) lateral size of a pixel in this slice. work: (v, u) scratch.
    """
    totals = moments.sum(axis=0, dtype=np.float64)
    for b in range(bins.shape[0]):
        weight, excess = totals[b]
        if weight <= 0.0:
            continue
        variance = (b * float(sigma_step_mm)) ** 2
        excess /= weight
        taps_x = gaussian_taps(max(variance + excess, 0.0) / pixel_mm[0] ** 2)
        taps_y = gaussian_taps(max(variance - excess, 0.0) / pixel_mm[1] ** 2)
        _rows(bins[b], taps_x, work)
        _columns_added(work, taps_y, out)

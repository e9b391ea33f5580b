"""One slice of the proton march: scattering moments, deposit, and sharing by lateral width."""

import numpy as np
from numba import njit, prange

MIN_STEP_WET_MM = np.float32(0.1)
"""Depth dose is averaged over at least this much water, so that thin air steps do not divide rounding by rounding."""

MIN_FLUENCE = np.float32(1e-7)
"""Rays below this share of the peak fluence carry nothing."""

ENTERED_WET_MM = np.float32(1.0)
"""A ray has met the patient after this much water; the air before it bears no secondaries that could spread."""

HALF, THIRD, TWO, ONE, ZERO = np.float32(0.5), np.float32(1.0 / 3.0), np.float32(2.0), np.float32(1.0), np.float32(0.0)


@njit(cache=True, parallel=True)
def scatter_step(power, table_step, wet_top, wet_bottom, scattering, fluence, step_mm, moments, width_variance):
    """Advance the Fermi-Eyges moments of every (ray, layer) through one slice, noting the variance at its centre.

    power: (n_wet, layer) scattering power of water, rad2/mm. scattering: (v, u) relative to water. moments: (v, u,
    layer, 3) = A0, A1, A2 at the slice's upper face, updated to its lower face. width_variance: (v, u, layer) out, A2
    at the centre. Constant scattering power inside the slice; Gottschalk, Med Phys 39 (2012) 2281, Eqs. 4-9.
    """
    n_wet, n_layer = power.shape
    n_v, n_u = wet_top.shape
    for iv in prange(n_v):
        for iu in range(n_u):
            index = min(int(HALF * (wet_top[iv, iu] + wet_bottom[iv, iu]) / table_step), n_wet - 1)
            h = step_mm[iv, iu]
            half = HALF * h
            for l in range(n_layer):
                if fluence[iv, iu, l] < MIN_FLUENCE:
                    continue
                t = power[index, l] * scattering[iv, iu]
                a0, a1, a2 = moments[iv, iu, l, 0], moments[iv, iu, l, 1], moments[iv, iu, l, 2]
                width_variance[iv, iu, l] = a2 + half * (TWO * a1 + half * (a0 + t * half * THIRD))
                moments[iv, iu, l, 2] = a2 + h * (TWO * a1 + h * (a0 + t * h * THIRD))
                moments[iv, iu, l, 1] = a1 + h * (a0 + t * half)
                moments[iv, iu, l, 0] = a0 + t * h


@njit(cache=True, parallel=True)
def halo_step(slope, angle, extra, table_step, wet_top, wet_bottom, fluence, step_mm, sigma, width_variance):
    """Advance the halo's width through one slice.

    It grows as in water per water-equivalent millimetre, but never over more than the slice's length (dense matter is
    water scaled down); where the slice is longer than that (lung, gaps), secondaries fly on at their angle, once the
    ray has entered the patient.

    slope: (n_wet, layer) growth in water per mm. angle: (n_wet, layer) growth per mm without new secondaries. extra:
    (n_wet, layer) variance added at each depth. sigma: (v, u, layer) at the slice's upper face, updated to the lower.
    width_variance: (v, u, layer) out, at the centre.
    """
    n_wet, n_layer = slope.shape
    n_v, n_u = wet_top.shape
    for iv in prange(n_v):
        for iu in range(n_u):
            wet = wet_bottom[iv, iu] - wet_top[iv, iu]
            longer = max(step_mm[iv, iu] - wet, ZERO) if wet_top[iv, iu] > ENTERED_WET_MM else ZERO
            index = min(int(HALF * (wet_top[iv, iu] + wet_bottom[iv, iu]) / table_step), n_wet - 1)
            for l in range(n_layer):
                if fluence[iv, iu, l] < MIN_FLUENCE:
                    continue
                growth = slope[index, l] * min(wet, step_mm[iv, iu]) + angle[index, l] * longer
                centre = max(sigma[iv, iu, l] + HALF * growth, ZERO)
                sigma[iv, iu, l] = max(sigma[iv, iu, l] + growth, ZERO)
                width_variance[iv, iu, l] = centre * centre + extra[index, l]


@njit(cache=True, parallel=True)
def largest_variance(cumulative, table_step, wet_top, fluence, width_variance, rows):
    """rows: (v,) out, the largest width variance of each row among rays that still have dose to give."""
    n_wet, n_layer = cumulative.shape
    n_v, n_u = wet_top.shape
    for iv in prange(n_v):
        found = ZERO
        for iu in range(n_u):
            index = min(int(wet_top[iv, iu] / table_step), n_wet - 1)
            for l in range(n_layer):
                alive = fluence[iv, iu, l] >= MIN_FLUENCE and cumulative[index, l] < cumulative[n_wet - 1, l]
                if alive and width_variance[iv, iu, l] > found:
                    found = width_variance[iv, iu, l]
        rows[iv] = found


@njit(cache=True, inline="always")
def dose_up_to(cumulative, position, layer):
    last = cumulative.shape[0] - 1
    if position >= last:
        return cumulative[last, layer]
    i = int(position)
    a = cumulative[i, layer]
    return a + (cumulative[i + 1, layer] - a) * (position - np.float32(i))


@njit(cache=True, parallel=True)
def deposit_slice(
    cumulative, share, table_step, wet_top, wet_bottom, fluence, width_variance, residual, sigma_step, bins, moments
):
    """Share one slice's deposits among width bins, linearly in variance, so that the mean variance stays exact.

    cumulative, share: (n_wet, layer) dose up to a depth, and the part of it that belongs here. fluence, width_variance:
    (v, u, layer). residual: (layer, 2) optical variance in x and y that the fluence does not hold, mm2. bins: (bin, v,
    u) out, added to; bin b has width b * sigma_step. moments: (v, bin, 2) added to: sum of weight, and of weight times
    half the difference of the x and y variances.
    """
    n_wet, n_layer = cumulative.shape
    n_v, n_u = wet_top.shape
    n_bin = bins.shape[0]
    square = sigma_step * sigma_step
    for iv in prange(n_v):
        for iu in range(n_u):
            start = wet_top[iv, iu]
            length = max(wet_bottom[iv, iu] - start, MIN_STEP_WET_MM)
            first, last = start / table_step, (start + length) / table_step
            index = min(int(HALF * (first + last)), n_wet - 1)
            for l in range(n_layer):
                if fluence[iv, iu, l] < MIN_FLUENCE:
                    continue
                released = dose_up_to(cumulative, last, l) - dose_up_to(cumulative, first, l)
                if released <= ZERO:
                    continue
                weight = fluence[iv, iu, l] * share[index, l] * released / length
                variance = width_variance[iv, iu, l] + HALF * (residual[l, 0] + residual[l, 1])
                b = int(np.sqrt(variance) / sigma_step)
                if b >= n_bin - 1:
                    b, above = n_bin - 2, ONE
                else:
                    above = (variance - np.float32(b * b) * square) / (np.float32(2 * b + 1) * square)
                upper = weight * above
                lower = weight - upper
                excess = HALF * (residual[l, 0] - residual[l, 1])
                bins[b, iv, iu] += lower
                bins[b + 1, iv, iu] += upper
                moments[iv, b, 0] += lower
                moments[iv, b, 1] += lower * excess
                moments[iv, b + 1, 0] += upper
                moments[iv, b + 1, 1] += upper * excess

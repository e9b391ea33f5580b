"""The march: deposit the layers' dose slice by slice, spread it, and move fluence on to the rays it has scattered to.

Fluence is (group, v, u, LANES). Nothing but the fluence decides what is linear in it: bins, widths and depths come from
geometry alone, so each function here has an exact transpose.
"""

import numpy as np
from numba import njit

from doseeng._kernels.scalar import (
    F32,
    LANES,
    MIN_STEP_WET_MM,
    ONE,
    ZERO,
    depth_rows,
    gaussian_taps,
    mixing_level,
    released_up_to,
    width_bin,
)

MAX_RADIUS = 47
SAME_FRACTION = F32(1e-3)
"""Two places in a table that lie closer than this share of a row are one."""
LINEAR = {"contract", "nsz", "arcp", "reassoc"}
"""Fused multiply-add, reciprocals and sums in any order; NaN and infinity keep their meaning."""


@njit(cache=True, inline="always")
def _up_to(table, level, above, i, f, out):
    """out (LANES,) = released up to row i + f of a table (level, n_wet, LANES), between two levels."""
    for l in range(LANES):
        out[l] = released_up_to(table, level, i, f, l)
    if above > ZERO:
        for l in range(LANES):
            out[l] += (released_up_to(table, level + 1, i, f, l) - out[l]) * above


@njit(cache=True, nogil=True, fastmath=LINEAR)
def deposit(
    fluence, tables, level_variance, per_mm, rsp, scale, step_mm, wet, mixed, spread, lane_mean, residual, bin_step,
    bins, used,
):  # fmt: skip
    """Add the deposits of all groups in some neighbouring slices of one interval to width bins.

    fluence: (group, v, u, LANES). tables: (group, level, n_wet, LANES) dose up to a depth, depths blurred by
    level_variance (level,) mm2. rsp: (m, v, u). wet, mixed: (group, m, v, u), mixed the same in all slices; spread:
    (group, 2, m, v, u). lane_mean: (group, n_wet). residual: (m, group) variance that the fluence does not hold, mm2.
    bins: (n, bin, v, u), used: (n, bin, v). A slice begins where the one before it ended, so that is looked up once.
    With n = m - 1 the first slice is only looked at: what comes out does not depend on where an interval was cut.
    """
    n_group, n_v, n_u, _ = fluence.shape
    n_wet, n_bin = tables.shape[2], bins.shape[1]
    lead = rsp.shape[0] - bins.shape[0]
    before, after = np.empty(LANES, dtype=np.float32), np.empty(LANES, dtype=np.float32)
    for g in range(n_group):
        table = tables[g]
        for iv in range(n_v):
            for iu in range(n_u):
                here = fluence[g, iv, iu]
                most = ZERO
                for l in range(LANES):
                    most = max(most, abs(here[l]))
                if most == ZERO:
                    continue
                level, above = mixing_level(mixed[g, 0, iv, iu], level_variance)
                row, fraction = -1, ZERO
                for k in range(rsp.shape[0]):
                    water = max(rsp[k, iv, iu] * scale * step_mm[iv, iu], MIN_STEP_WET_MM)
                    i0, f0, i1, f1 = depth_rows(wet[g, k, iv, iu], water, per_mm, n_wet)
                    if i0 < 0:
                        break
                    if k >= lead and (i0 != row or abs(f0 - fraction) > SAME_FRACTION):
                        _up_to(table, level, above, i0, f0, before)
                    _up_to(table, level, above, i1, f1, after)
                    row, fraction = i1, f1
                    total = ZERO
                    for l in range(LANES):
                        total += here[l] * (after[l] - before[l])
                        before[l] = after[l]
                    if total == ZERO or k < lead:
                        continue
                    total /= water
                    variance = spread[g, 0, k, iv, iu] + lane_mean[g, i0] * spread[g, 1, k, iv, iu]
                    b, up = width_bin(max(variance, ZERO) + residual[k, g], bin_step, n_bin)
                    upper = total * up
                    bins[k - lead, b, iv, iu] += total - upper
                    bins[k - lead, b + 1, iv, iu] += upper
                    used[k - lead, b, iv] = True
                    used[k - lead, b + 1, iv] = True


@njit(cache=True, nogil=True, fastmath=LINEAR)
def collect(
    bins, tables, level_variance, per_mm, rsp, scale, step_mm, wet, mixed, spread, lane_mean, residual, bin_step,
    active, fluence,
):  # fmt: skip
    """The transpose of `deposit`: fluence += what the bins say each layer of each active ray would have given them."""
    n_group, n_v, n_u, _ = fluence.shape
    n_wet, n_bin = tables.shape[2], bins.shape[1]
    before, after = np.empty(LANES, dtype=np.float32), np.empty(LANES, dtype=np.float32)
    for g in range(n_group):
        table = tables[g]
        for iv in range(n_v):
            for iu in range(n_u):
                if not active[g, iv, iu]:
                    continue
                here = fluence[g, iv, iu]
                level, above = mixing_level(mixed[g, 0, iv, iu], level_variance)
                for k in range(rsp.shape[0]):
                    water = max(rsp[k, iv, iu] * scale * step_mm[iv, iu], MIN_STEP_WET_MM)
                    i0, f0, i1, f1 = depth_rows(wet[g, k, iv, iu], water, per_mm, n_wet)
                    if i0 < 0:
                        break
                    _up_to(table, level, above, i0, f0, before)
                    _up_to(table, level, above, i1, f1, after)
                    variance = spread[g, 0, k, iv, iu] + lane_mean[g, i0] * spread[g, 1, k, iv, iu]
                    n, up = width_bin(max(variance, ZERO) + residual[k, g], bin_step, n_bin)
                    value = (bins[k, n, iv, iu] + (bins[k, n + 1, iv, iu] - bins[k, n, iv, iu]) * up) / water
                    for l in range(LANES):
                        here[l] += value * (after[l] - before[l])


@njit(cache=True, nogil=True, fastmath=LINEAR)
def _add_taps(source, stride, taps, first, out):
    """out (n,) += four symmetric pairs of taps, first..first + 3, of a row padded by MAX_RADIUS strides at both ends.

    Four at a time: one load and one store of `out` for eight products. Rows of equal length from slices, so that the
    compiler needs no bounds and can use vectors.
    """
    n = out.shape[0]
    w0, w1, w2, w3 = taps[first], taps[first + 1], taps[first + 2], taps[first + 3]
    c = MAX_RADIUS * stride
    s0, s1, s2, s3 = first * stride, (first + 1) * stride, (first + 2) * stride, (first + 3) * stride
    a0, b0 = source[c - s0 : c - s0 + n], source[c + s0 : c + s0 + n]
    a1, b1 = source[c - s1 : c - s1 + n], source[c + s1 : c + s1 + n]
    a2, b2 = source[c - s2 : c - s2 + n], source[c + s2 : c + s2 + n]
    a3, b3 = source[c - s3 : c - s3 + n], source[c + s3 : c + s3 + n]
    for i in range(n):
        out[i] += w0 * (a0[i] + b0[i]) + w1 * (a1[i] + b1[i]) + w2 * (a2[i] + b2[i]) + w3 * (a3[i] + b3[i])


@njit(cache=True, nogil=True, fastmath=LINEAR)
def convolve(plane, used, taps_x, radius_x, taps_y, radius_y, stride, work, out):
    """out (v, n) += plane (v, n) convolved along both axes; n holds `stride` interleaved images; used: (v,).

    taps: (MAX_RADIUS + 5,), zero beyond their radius. work: scratch of `scratch`'s shape.
    """
    n_v, n = plane.shape
    padded, rows = work[0], work[1:]
    pad = MAX_RADIUS * stride
    padded[:pad] = ZERO
    padded[pad + n : 2 * pad + n] = ZERO
    for iv in range(n_v):
        row = rows[iv, :n]
        row[:] = ZERO
        if not used[iv]:
            continue
        padded[pad : pad + n] = plane[iv]
        weight = taps_x[0]
        centre = padded[pad : pad + n]
        for i in range(n):
            row[i] = weight * centre[i]
        for t in range(1, radius_x + 1, 4):
            _add_taps(padded, stride, taps_x, t, row)
    zeros = rows[n_v, :n]
    zeros[:] = ZERO
    for iv in range(n_v):
        target = out[iv]
        weight = taps_y[0]
        if used[iv]:
            row = rows[iv, :n]
            for i in range(n):
                target[i] += weight * row[i]
        for t in range(1, radius_y + 1, 2):
            above, below = iv - t, iv + t
            above1, below1 = iv - t - 1, iv + t + 1
            a = rows[above, :n] if above >= 0 and used[above] else zeros
            b = rows[below, :n] if below < n_v and used[below] else zeros
            c = rows[above1, :n] if above1 >= 0 and used[above1] else zeros
            d = rows[below1, :n] if below1 < n_v and used[below1] else zeros
            w0, w1 = taps_y[t], taps_y[t + 1]
            for i in range(n):
                target[i] += w0 * (a[i] + b[i]) + w1 * (c[i] + d[i])


@njit(cache=True, nogil=True)
def scratch(n_v, n, stride):
    """Work for `convolve`: a padded row, the rows convolved along u, and a row of zeros."""
    return np.empty((n_v + 2, n + 2 * MAX_RADIUS * stride), dtype=np.float32)


@njit(cache=True, nogil=True)
def fill_taps(variance_px, taps):
    """Fill taps (MAX_RADIUS + 5,), zero beyond their radius, which is returned."""
    taps[:] = ZERO
    return gaussian_taps(max(variance_px, ZERO), taps[: MAX_RADIUS + 1])


@njit(cache=True, nogil=True)
def spread_bins(bins, used, bin_step, excess, px_mm, stride, out):
    """Add every width bin (bin, v, n), convolved with its Gaussian, to out (v, n); used: (bin, v).

    Bin b has variance (b bin_step)^2 + excess along u, - excess along v, mm2. px_mm: (2,) size of a pixel. Symmetric
    kernels cut at the edges: its own transpose, bin by bin.
    """
    taps_x, taps_y = np.empty(MAX_RADIUS + 5, dtype=np.float32), np.empty(MAX_RADIUS + 5, dtype=np.float32)
    work = scratch(bins.shape[1], bins.shape[2], stride)
    for b in range(bins.shape[0]):
        if not used[b].any():
            continue
        variance = F32(b) * F32(b) * bin_step * bin_step
        radius_x = fill_taps((variance + excess) / (px_mm[0] * px_mm[0]), taps_x)
        radius_y = fill_taps((variance - excess) / (px_mm[1] * px_mm[1]), taps_y)
        convolve(bins[b], used[b], taps_x, radius_x, taps_y, radius_y, stride, work, out)


@njit(cache=True, nogil=True)
def clear(bins, used):
    """Zero the rows of bins (bin, v, n) that were written, and used (bin, v)."""
    for b in range(bins.shape[0]):
        for iv in range(bins.shape[1]):
            if used[b, iv]:
                bins[b, iv] = ZERO
                used[b, iv] = False


@njit(cache=True, nogil=True)
def slab_dose(
    fluence, tables, level_variance, per_mm, rsp, scale, step_mm, wet, mixed, spread, lane_mean, residual, excess,
    px_mm, bin_step, bins, used, out,
):  # fmt: skip
    """Add the dose of some neighbouring slices of one interval to out (n, v, u): `deposit`, then `spread_bins`.

    excess: (m,), px_mm: (m, 2); the rest as in `deposit`. bins, used: scratch of at least n slices, all zero before and
    after: fresh memory would cost as much as the work.
    """
    n = out.shape[0]
    lead = rsp.shape[0] - n
    deposit(
        fluence, tables, level_variance, per_mm, rsp, scale, step_mm, wet, mixed, spread, lane_mean, residual, bin_step,
        bins[:n], used[:n],
    )  # fmt: skip
    for k in range(n):
        spread_bins(bins[k], used[k], bin_step, excess[lead + k], px_mm[lead + k], 1, out[k])
        clear(bins[k], used[k])


@njit(cache=True, nogil=True)
def slab_fluence(
    dose, tables, level_variance, per_mm, rsp, scale, step_mm, wet, mixed, spread, lane_mean, residual, excess, px_mm,
    bin_step, n_bin, active, fluence,
):  # fmt: skip
    """The transpose of `slab_dose`: fluence += what dose (m, v, u) says of it."""
    n, n_v, n_u = dose.shape
    bins = np.zeros((n, n_bin, n_v, n_u), dtype=np.float32)
    work = scratch(n_v, n_u, 1)
    everywhere = np.ones(n_v, dtype=np.bool_)
    taps_x, taps_y = np.empty(MAX_RADIUS + 5, dtype=np.float32), np.empty(MAX_RADIUS + 5, dtype=np.float32)
    for k in range(n):
        for b in range(n_bin):
            variance = F32(b) * F32(b) * bin_step * bin_step
            radius_x = fill_taps((variance + excess[k]) / (px_mm[k, 0] * px_mm[k, 0]), taps_x)
            radius_y = fill_taps((variance - excess[k]) / (px_mm[k, 1] * px_mm[k, 1]), taps_y)
            convolve(dose[k], everywhere, taps_x, radius_x, taps_y, radius_y, 1, work, bins[k, b])
    collect(
        bins, tables, level_variance, per_mm, rsp, scale, step_mm, wet, mixed, spread, lane_mean, residual, bin_step,
        active, fluence,
    )  # fmt: skip


@njit(cache=True, nogil=True, fastmath=LINEAR)
def _hat_weights(b, bin_step, n_bin, p, q, lanes, values, out):
    """out (LANES,) = values times the share of bin b in variances p + lanes q, as `width_bin` shares them."""
    square = bin_step * bin_step
    here, below, above = F32(b * b) * square, F32((b - 1) * (b - 1)) * square, F32((b + 1) * (b + 1)) * square
    rise = ONE / (here - below) if b > 0 else ZERO
    fall = ONE / (above - here) if b < n_bin - 1 else ZERO
    for l in range(LANES):
        variance = max(p + lanes[l] * q, ZERO)
        up = min((variance - below) * rise, ONE) if b > 0 else ONE
        out[l] = values[l] * max(min(up, ONE - (variance - here) * fall), ZERO)


@njit(cache=True, nogil=True, fastmath=LINEAR)
def move_fluence(fluence, jump, lanes, bin_step, px_mm, bins, used):
    """Move one group's fluence (v, u, LANES) on to the rays it has scattered to; in place.

    jump: (2, v, u) P and Q of the variance since it was last moved; that of lane l is P + lanes[l] Q. bins: (bin, v, u
    LANES) and used (bin, v): scratch, all zero before and after.
    """
    n_v, n_u, _ = fluence.shape
    n_bin = bins.shape[0]
    for iv in range(n_v):
        for iu in range(n_u):
            p, q = jump[0, iv, iu], jump[1, iv, iu]
            least, most = p, p
            for l in range(LANES):
                least, most = min(least, p + lanes[l] * q), max(most, p + lanes[l] * q)
            first, _ = width_bin(max(least, ZERO), bin_step, n_bin)
            last, _ = width_bin(max(most, ZERO), bin_step, n_bin)
            cell = bins[first : last + 2, iv, iu * LANES : iu * LANES + LANES]
            here = fluence[iv, iu]
            for b in range(first, last + 2):
                used[b, iv] = True
                _hat_weights(b, bin_step, n_bin, p, q, lanes, here, cell[b - first])
    fluence[:] = ZERO
    spread_bins(bins, used, bin_step, ZERO, px_mm, LANES, fluence.reshape(n_v, n_u * LANES))
    clear(bins, used)


@njit(cache=True, nogil=True, fastmath=LINEAR)
def move_back(fluence, jump, lanes, bin_step, px_mm, n_bin):
    """The transpose of `move_fluence`, in place."""
    n_v, n_u, _ = fluence.shape
    work = scratch(n_v, n_u * LANES, LANES)
    one_bin = np.empty((n_v, n_u * LANES), dtype=np.float32)
    source = fluence.copy().reshape(n_v, n_u * LANES)
    fluence[:] = ZERO
    everywhere = np.ones(n_v, dtype=np.bool_)
    wanted = np.zeros(n_bin, dtype=np.bool_)
    for iv in range(n_v):
        for iu in range(n_u):
            for l in range(LANES):
                b, _ = width_bin(max(jump[0, iv, iu] + lanes[l] * jump[1, iv, iu], ZERO), bin_step, n_bin)
                wanted[b] = True
                wanted[b + 1] = True
    taps_x, taps_y = np.empty(MAX_RADIUS + 5, dtype=np.float32), np.empty(MAX_RADIUS + 5, dtype=np.float32)
    for n in range(n_bin):
        if not wanted[n]:
            continue
        variance = F32(n) * F32(n) * bin_step * bin_step
        radius_x = fill_taps(variance / (px_mm[0] * px_mm[0]), taps_x)
        radius_y = fill_taps(variance / (px_mm[1] * px_mm[1]), taps_y)
        one_bin[:] = ZERO
        convolve(source, everywhere, taps_x, radius_x, taps_y, radius_y, LANES, work, one_bin)
        for iv in range(n_v):
            for iu in range(n_u):
                for l in range(LANES):
                    b, up = width_bin(max(jump[0, iv, iu] + lanes[l] * jump[1, iv, iu], ZERO), bin_step, n_bin)
                    if b == n:
                        fluence[iv, iu, l] += (ONE - up) * one_bin[iv, iu * LANES + l]
                    elif b + 1 == n:
                        fluence[iv, iu, l] += up * one_bin[iv, iu * LANES + l]

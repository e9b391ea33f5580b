"""Deposit, spread and move; the GPU's side of `_kernels.march`.

All slices are deposited and spread in the same few launches: the fluence of every interval is kept (slot, group, v, u,
LANES). Each thread writes its own place, so that results do not depend on the order in which threads run. Half kernels
of the Gaussians are made beforehand: taps (row, bin, axis, MAX_RADIUS + 1) and radius (row, bin, axis), axis 0 along u.
"""

from numba import cuda

from doseeng._kernels.cuda.device import B3, DEVICE, F1, F2, F3, F4, F5, I1, I2, I3, F, I, kernel, larger, smaller
from doseeng._kernels.scalar import F32, LANES, MIN_STEP_WET_MM, ONE, ZERO

depth_rows, mixing_level, released_up_to = (DEVICE[n] for n in ("depth_rows", "mixing_level", "released_up_to"))
gaussian_taps, width_bin = DEVICE["gaussian_taps"], DEVICE["width_bin"]


@cuda.jit(device=True)
def lane_dose(table, level, above, i0, f0, i1, f1, l):
    """Dose of lane l between two depths, from a table (level, n_wet, LANES), between two levels."""
    given = released_up_to(table, level, i1, f1, l) - released_up_to(table, level, i0, f0, l)
    if above > ZERO:
        blurred = released_up_to(table, level + 1, i1, f1, l) - released_up_to(table, level + 1, i0, f0, l)
        given += (blurred - given) * above
    return given


@cuda.jit(device=True)
def bin_share(p, q, lane, bin_step, n_bin, b):
    """Share of bin b in the variance p + lane q."""
    lower, up = width_bin(larger(p + lane * q, ZERO), bin_step, n_bin)
    if b == lower:
        return ONE - up
    return up if b == lower + 1 else ZERO


@kernel(F, F1, F2, F4, I3)
def make_taps(bin_step, excess, px_mm, taps, radius):
    """Half kernels of every bin, of variance (b bin_step)^2 + excess along u and - excess along v, in pixels px_mm."""
    b, axis, row = cuda.grid(3)
    if b < taps.shape[1] and axis < 2 and row < taps.shape[0]:
        more = excess[row] if axis == 0 else -excess[row]
        variance = larger(F32(b) * F32(b) * bin_step * bin_step + more, ZERO)
        radius[row, b, axis] = gaussian_taps(variance / (px_mm[row, axis] * px_mm[row, axis]), taps[row, b, axis])


@kernel(I, I, I1, F5, F4, F1, F, F3, F, F2, F2, F3, F4, F4, F4, F2, F, F4, I2)
def deposit(
    chunk, first, slot, fluence, tables, level_variance, per_mm, rsp, scale, step_mm, lane_mean, tops, offset, mixing,
    variance, residual, bin_step, bins, used,
):  # fmt: skip
    """Deposits of all groups in slices chunk..chunk + m - 1 of the march, into bins (m, bin, v, u), used (m, bin).

    slot: (slice,) the interval that a slice lies in; residual: (slice, group).
    """
    u, v, at = cuda.grid(3)
    n, n_bin, n_v, n_u = bins.shape
    if u >= n_u or v >= n_v or at >= n:
        return
    s = chunk + at
    j = slot[s]
    water = larger(rsp[first + s, v, u] * scale * step_mm[v, u], MIN_STEP_WET_MM)
    for g in range(tables.shape[0]):
        i0, f0, i1, f1 = depth_rows(tops[s, v, u] + offset[j, g, v, u], water, per_mm, tables.shape[2])
        if i0 >= 0:
            level, above = mixing_level(mixing[j, g, v, u], level_variance)
            total = ZERO
            for l in range(LANES):
                total += fluence[j, g, v, u, l] * lane_dose(tables[g], level, above, i0, f0, i1, f1, l)
            if total != ZERO:
                total /= water
                b, up = width_bin(variance[s, g, v, u] + residual[s, g], bin_step, n_bin)
                bins[at, b, v, u] += total - total * up
                bins[at, b + 1, v, u] += total * up
                used[at, b] = 1
                used[at, b + 1] = 1


@kernel(I, F4, I2, F4, I3, F4)
def spread_u(chunk, bins, used, taps, radius, work):
    """work (m, bin, v, u) = bins convolved along u; slices chunk.. of the march."""
    u, v, at = cuda.grid(3)
    n, n_bin, n_v, n_u = bins.shape
    if u >= n_u or v >= n_v or at >= n:
        return
    for b in range(n_bin):
        if used[at, b]:
            reach = radius[chunk + at, b, 0]
            total = ZERO
            for i in range(larger(u - reach, 0), smaller(u + reach + 1, n_u)):
                total += taps[chunk + at, b, 0, abs(i - u)] * bins[at, b, v, i]
            work[at, b, v, u] = total


@kernel(I, I, F4, I2, F4, I3, F3)
def spread_v(chunk, first, work, used, taps, radius, out):
    """out (slice of the frustum, v, u) += the sum of work's bins, convolved along v."""
    u, v, at = cuda.grid(3)
    n, n_bin, n_v, n_u = work.shape
    if u >= n_u or v >= n_v or at >= n:
        return
    total = ZERO
    for b in range(n_bin):
        if used[at, b]:
            reach = radius[chunk + at, b, 1]
            for i in range(larger(v - reach, 0), smaller(v + reach + 1, n_v)):
                total += taps[chunk + at, b, 1, abs(i - v)] * work[at, b, i, u]
    out[first + chunk + at, v, u] += total


@kernel(I, I, F3, F4, I3, F4)
def gather_v(chunk, first, dose, taps, radius, work):
    """work (m, bin, v, u) = dose convolved along v with every bin's kernel: the transpose of `spread_v`."""
    u, v, at = cuda.grid(3)
    n, n_bin, n_v, n_u = work.shape
    if u >= n_u or v >= n_v or at >= n:
        return
    for b in range(n_bin):
        reach = radius[chunk + at, b, 1]
        total = ZERO
        for i in range(larger(v - reach, 0), smaller(v + reach + 1, n_v)):
            total += taps[chunk + at, b, 1, abs(i - v)] * dose[first + chunk + at, i, u]
        work[at, b, v, u] = total


@kernel(I, I, I1, F4, F4, F1, F, F3, F, F2, F3, F4, F4, F4, F2, F, F5)
def collect(
    chunk, first, bounds, bins, tables, level_variance, per_mm, rsp, scale, step_mm, tops, offset, mixing, variance,
    residual, bin_step, fluence,
):  # fmt: skip
    """The transpose of `deposit`: fluence (slot, group, v, u, LANES) += what the bins of slices chunk.. say."""
    u, v, z = cuda.grid(3)
    n, n_bin, n_v, n_u = bins.shape
    n_group = tables.shape[0]
    j, g = z // n_group, z % n_group
    if u >= n_u or v >= n_v or j >= fluence.shape[0]:
        return
    level, above = mixing_level(mixing[j, g, v, u], level_variance)
    for s in range(larger(bounds[j] - first, chunk), smaller(bounds[j + 1] - first, chunk + n)):
        water = larger(rsp[first + s, v, u] * scale * step_mm[v, u], MIN_STEP_WET_MM)
        i0, f0, i1, f1 = depth_rows(tops[s, v, u] + offset[j, g, v, u], water, per_mm, tables.shape[2])
        if i0 >= 0:
            b, up = width_bin(variance[s, g, v, u] + residual[s, g], bin_step, n_bin)
            low, high = bins[s - chunk, b, v, u], bins[s - chunk, b + 1, v, u]
            value = (low + (high - low) * up) / water
            for l in range(LANES):
                fluence[j, g, v, u, l] += value * lane_dose(tables[g], level, above, i0, f0, i1, f1, l)


@kernel(I, F2, F, F5, I2, I3, F4, I3, F5, F5)
def move_u(j, lanes, bin_step, jump, moved, used, taps, radius, fluence, work):
    """work (group, bin, v, u, LANES) = shares of interval j's fluence in each bin of its jump, convolved along u."""
    x, v, g = cuda.grid(3)
    n_group, n_bin, n_v, n_u = work.shape[:4]
    u, l = x // LANES, x % LANES
    if u >= n_u or v >= n_v or g >= n_group or moved[j, g] == 0:
        return
    for b in range(n_bin):
        if used[j, g, b]:
            reach = radius[j, b, 0]
            total = ZERO
            for i in range(larger(u - reach, 0), smaller(u + reach + 1, n_u)):
                share = bin_share(jump[j, 0, g, v, i], jump[j, 1, g, v, i], lanes[g, l], bin_step, n_bin, b)
                total += taps[j, b, 0, abs(i - u)] * share * fluence[j, g, v, i, l]
            work[g, b, v, u, l] = total


@kernel(I, I2, I3, F4, I3, F5, F5)
def move_v(j, moved, used, taps, radius, work, fluence):
    """fluence of interval j + 1 = the sum of work's bins, convolved along v; that of interval j where it stays."""
    x, v, g = cuda.grid(3)
    n_group, n_bin, n_v, n_u = work.shape[:4]
    u, l = x // LANES, x % LANES
    if u >= n_u or v >= n_v or g >= n_group:
        return
    total = ZERO
    if moved[j, g] == 0:
        total = fluence[j, g, v, u, l]
    else:
        for b in range(n_bin):
            if used[j, g, b]:
                reach = radius[j, b, 1]
                for i in range(larger(v - reach, 0), smaller(v + reach + 1, n_v)):
                    total += taps[j, b, 1, abs(i - v)] * work[g, b, i, u, l]
    fluence[j + 1, g, v, u, l] = total


@kernel(I, I2, I3, F4, I3, F5, F5)
def back_v(j, moved, used, taps, radius, fluence, work):
    """work (group, bin, v, u, LANES) = fluence of interval j + 1 convolved along v: the transpose of `move_v`."""
    x, v, g = cuda.grid(3)
    n_group, n_bin, n_v, n_u = work.shape[:4]
    u, l = x // LANES, x % LANES
    if u >= n_u or v >= n_v or g >= n_group or moved[j, g] == 0:
        return
    for b in range(n_bin):
        if used[j, g, b]:
            reach = radius[j, b, 1]
            total = ZERO
            for i in range(larger(v - reach, 0), smaller(v + reach + 1, n_v)):
                total += taps[j, b, 1, abs(i - v)] * fluence[j + 1, g, i, u, l]
            work[g, b, v, u, l] = total


@kernel(I, F2, F, F5, I2, I3, F4, I3, F5, F5)
def back_u(j, lanes, bin_step, jump, moved, used, taps, radius, work, fluence):
    """fluence of interval j += shares of work convolved along u: the transpose of `move_u`."""
    x, v, g = cuda.grid(3)
    n_group, n_bin, n_v, n_u = work.shape[:4]
    u, l = x // LANES, x % LANES
    if u >= n_u or v >= n_v or g >= n_group:
        return
    total = ZERO
    if moved[j, g] == 0:
        total = fluence[j + 1, g, v, u, l]
    else:
        for b in range(n_bin):
            if used[j, g, b]:
                share = bin_share(jump[j, 0, g, v, u], jump[j, 1, g, v, u], lanes[g, l], bin_step, n_bin, b)
                reach = radius[j, b, 0]
                for i in range(larger(u - reach, 0), smaller(u + reach + 1, n_u)):
                    total += share * taps[j, b, 0, abs(i - u)] * work[g, b, v, i, l]
    fluence[j, g, v, u, l] += total


@kernel(F5, B3, F4)
def on_active(fluence, active, out):
    """out (group, v, u, LANES) = the first interval's fluence on active rays."""
    x, v, g = cuda.grid(3)
    n_group, n_v, n_u = active.shape
    u, l = x // LANES, x % LANES
    if u < n_u and v < n_v and g < n_group:
        out[g, v, u, l] = fluence[0, g, v, u, l] if active[g, v, u] else ZERO

"""What the march needs to know along every ray; the GPU's side of `_kernels.rays`.

A march has `slot` intervals of slices; offset and mixing (slot, group, v, u) hold for one interval each. Water above
the slices, tops (slice + 1, v, u), is the same for all groups. moments (8, group, v, u) are those of `_kernels.rays`.
"""

import math

from numba import cuda

from doseeng._kernels.cuda.device import B2, B3, DEVICE, F2, F3, F4, F5, I1, I2, I3, F, I, kernel, larger, smaller
from doseeng._kernels.rays import A2_P, A2_Q, TOTAL_P, TOTAL_Q
from doseeng._kernels.scalar import F32, HALF, LANES, ZERO

bilinear, drifted, scattered, renewed = (DEVICE[n] for n in ("bilinear", "drifted", "scattered", "renewed"))
table_row, arriving, width_bin = (DEVICE[n] for n in ("table_row", "arriving", "width_bin"))

INFINITE = F32(float("inf"))


@kernel(F3, F2, F, I, F3)
def depths(rsp, step_mm, scale, first, tops):
    """tops (m + 1, v, u) = water-equivalent depth at the faces of m slices from `first` on."""
    u, v, _ = cuda.grid(3)
    n_face, n_v, n_u = tops.shape
    if u < n_u and v < n_v:
        depth = ZERO
        for s in range(first):
            depth += rsp[s, v, u] * scale * step_mm[v, u]
        tops[0, v, u] = depth
        for s in range(n_face - 1):
            depth += rsp[first + s, v, u] * scale * step_mm[v, u]
            tops[s + 1, v, u] = depth


@kernel(F3, B2, F3)
def row_ranges(tops, wanted, out):
    """out (face, v, 2) = lowest and highest depth of the wanted rays of each row."""
    v, face, _ = cuda.grid(3)
    if v < tops.shape[1] and face < tops.shape[0]:
        low, high = INFINITE, -INFINITE
        for u in range(tops.shape[2]):
            if wanted[v, u]:
                low, high = smaller(low, tops[face, v, u]), larger(high, tops[face, v, u])
        out[face, v, 0] = low
        out[face, v, 1] = high


@kernel(F3, F2)
def face_ranges(rows, out):
    """out (face, 2) = lowest and highest of all rows (face, v, 2)."""
    face, _, _ = cuda.grid(3)
    if face < rows.shape[0]:
        low, high = INFINITE, -INFINITE
        for v in range(rows.shape[1]):
            low, high = smaller(low, rows[face, v, 0]), larger(high, rows[face, v, 1])
        out[face, 0] = low
        out[face, 1] = high


@kernel(I, I1, I, F3, F3, F2, F2, F2, F2, F, F2, F2, B3, F, F4, F4, F4, F4, F4, I2)
def advance(
    j, bounds, first, tops, scattering, step_mm, power_p, power_q, lane_mean, per_mm, nodes, px_mm, active, tolerance,
    offset, moments, paths, at_move, variance, moved,
):  # fmt: skip
    """Interval j of scattering components: `core_interval`, then `follow_paths`.

    Out: variance (slice, group, v, u) of what deposits at each slice's centre, since the fluence moved. nodes has no
    rows where depths do not mix. moved[j, g] becomes 1 when a path of an active ray has changed by over `tolerance`.
    """
    u, v, g = cuda.grid(3)
    n_group, n_v, n_u = offset.shape[1:]
    if u >= n_u or v >= n_v or g >= n_group:
        return
    end = power_p.shape[1] - 1
    h, lag = step_mm[v, u], offset[j, g, v, u]
    p0, p1, p2, p3 = moments[0, g, v, u], moments[1, g, v, u], moments[2, g, v, u], moments[3, g, v, u]
    q0, q1, q2, q3 = moments[4, g, v, u], moments[5, g, v, u], moments[6, g, v, u], moments[7, g, v, u]
    for k in range(bounds[j], bounds[j + 1]):
        s = k - first
        top, water = tops[s, v, u] + lag, tops[s + 1, v, u] - tops[s, v, u]
        if top * per_mm > F32(end):
            variance[s, g, v, u] = ZERO
            continue
        row = table_row(top + HALF * water, per_mm, end)
        power = power_p[g, row] * scattering[k, v, u]
        centre_p = p2 + drifted(p0, p1, power, HALF * h)
        p0, p1, growth = scattered(p0, p1, power, h)
        p2, p3 = p2 + growth, p3 + growth
        power = power_q[g, row] * scattering[k, v, u]
        centre_q = q2 + drifted(q0, q1, power, HALF * h)
        q0, q1, growth = scattered(q0, q1, power, h)
        q2, q3 = q2 + growth, q3 + growth
        variance[s, g, v, u] = larger(centre_p + lane_mean[g, table_row(top, per_mm, end)] * centre_q, ZERO)
    moments[0, g, v, u], moments[1, g, v, u], moments[2, g, v, u], moments[3, g, v, u] = p0, p1, p2, p3
    moments[4, g, v, u], moments[5, g, v, u], moments[6, g, v, u], moments[7, g, v, u] = q0, q1, q2, q3
    before, after = tops[bounds[j] - first], tops[bounds[j + 1] - first]
    if after[v, u] * per_mm > F32(end):
        return
    total = p3 + lane_mean[g, table_row(after[v, u] + lag, per_mm, end)] * q3
    sigma = math.sqrt(larger(total, ZERO))
    own = after[v, u] - before[v, u]
    for n in range(nodes.shape[0]):
        y, x = F32(v) + nodes[n, 1] * sigma / px_mm[j, 1], F32(u) + nodes[n, 0] * sigma / px_mm[j, 0]
        path = paths[g, n, v, u] + (bilinear(after, y, x) - bilinear(before, y, x) - own)
        paths[g, n, v, u] = path
        if active[g, v, u] and abs(path - at_move[g, n, v, u]) > tolerance:
            moved[j, g] = 1


@kernel(I, I1, I, F3, F2, F, F2, F2, F2, F, I, I2, F4, F4, F4, F4, F4, F5, I3)
def mix(
    j, bounds, first, tops, lane_mean, per_mm, nodes, px_mm, lanes, bin_step, n_bin, moved, offset, mixing, moments,
    paths, at_move, jump, used,
):  # fmt: skip
    """After interval j: where the fluence moves, `mix_depths` and the jump (slot, 2, group, v, u) that moves it.

    used[j, g, b] becomes 1 where the jump uses a width bin. Where fluence stays, so do offset and mixing.
    """
    u, v, g = cuda.grid(3)
    n_group, n_v, n_u = offset.shape[1:]
    if u >= n_u or v >= n_v or g >= n_group:
        return
    if moved[j, g] == 0:
        offset[j + 1, g, v, u] = offset[j, g, v, u]
        mixing[j + 1, g, v, u] = mixing[j, g, v, u]
        return
    straight = tops[bounds[j + 1] - first]
    row = table_row(straight[v, u] + offset[j, g, v, u], per_mm, lane_mean.shape[1] - 1)
    total = moments[TOTAL_P, g, v, u] + lane_mean[g, row] * moments[TOTAL_Q, g, v, u]
    sigma = math.sqrt(larger(total, ZERO))
    mean, square = arriving(straight, paths[g], nodes, sigma, px_mm[j], v, u)
    offset[j + 1, g, v, u] = mean
    mixing[j + 1, g, v, u] = square
    for n in range(nodes.shape[0]):
        at_move[g, n, v, u] = paths[g, n, v, u]
    p, q = moments[A2_P, g, v, u], moments[A2_Q, g, v, u]
    moments[A2_P, g, v, u] = ZERO
    moments[A2_Q, g, v, u] = ZERO
    jump[j, 0, g, v, u] = p
    jump[j, 1, g, v, u] = q
    for l in range(LANES):
        b, _ = width_bin(larger(p + lanes[g, l] * q, ZERO), bin_step, n_bin)
        used[j, g, b] = 1
        used[j, g, b + 1] = 1


@kernel(F3, F2, F2, F, F, F, F2, F4)
def secondaries(tops, step_mm, renewal, angle_square, start_wet_mm, per_mm, start, variance):
    """variance (slice, group, v, u) of secondaries at the centre of each slice: `secondaries_interval`."""
    u, v, g = cuda.grid(3)
    n_slice, n_group, n_v, n_u = variance.shape
    if u >= n_u or v >= n_v or g >= n_group:
        return
    end = renewal.shape[1] - 1
    h, square, c = step_mm[v, u], start[g, 0], start[g, 1]
    for s in range(n_slice):
        top, below = tops[s, v, u], tops[s + 1, v, u]
        before = square
        if below > start_wet_mm:
            row = table_row(top + HALF * (below - top), per_mm, end)
            square, c = renewed(square, c, below - top, h, renewal[g, row], angle_square)
        variance[s, g, v, u] = HALF * (before + square)

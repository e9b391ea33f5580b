"""What the march needs to know along every ray: how deep, how mixed, how wide. One function call is one interval.

Arrays of one group of layers. Slices first..last-1 of the frustum are an interval; its fields are (slice of the
interval, v, u). At the end of an interval the core's fluence moves on to new rays (`march.move_fluence`).
"""

import numpy as np
from numba import njit

from doseeng._kernels.scalar import F32, HALF, ZERO, arriving, bilinear, drifted, renewed, scattered, table_row

A2_P, TOTAL_P, A2_Q, TOTAL_Q = 2, 3, 6, 7
"""Places of moments, which are A0, A1, A2 and the whole A2, for P and for Q: those of layer l are P + x_l Q, because
moments are linear in scattering power. A2 counts since the fluence last moved, TOTAL since the start of the ray.
"""


@njit(cache=True, nogil=True)
def core_interval(
    rsp, scattering, scale, step_mm, power_p, power_q, per_mm, first, last, rows, wanted, straight, offset, mixing,
    moments, wet, mixed, spread,
):  # fmt: skip
    """Advance rows[0]..rows[1]-1 of the core's rays through one interval of slices.

    rsp, scattering: (slice, v, u) of the whole frustum. scale: of all stopping powers. power_p, power_q: (n_wet,)
    scattering power P + x Q of water; per_mm: table rows per mm. offset, mixing: (v, u) mean and variance of the depths
    of all paths about that of the ray itself. wanted: (v, u) rays to march, the others stay as they are.
    State: straight (v, u) depth of the ray; moments (v, u, 8).
    Out: wet, mixed: (m, v, u) mean depth at the upper face, and variance; spread: (2, m, v, u) A2 at the centre, P, Q.
    """
    n_u = straight.shape[1]
    end = power_p.shape[0] - 1
    for k in range(first, last):
        at = k - first
        for iv in range(rows[0], rows[1]):
            for iu in range(n_u):
                if not wanted[iv, iu]:
                    continue
                h = step_mm[iv, iu]
                water = rsp[k, iv, iu] * scale * h
                top = straight[iv, iu] + offset[iv, iu]
                wet[at, iv, iu] = top
                mixed[at, iv, iu] = mixing[iv, iu]
                straight[iv, iu] += water
                if top * per_mm > F32(end):
                    continue
                row = table_row(top + HALF * water, per_mm, end)
                for part in range(2):
                    power = (power_p[row] if part == 0 else power_q[row]) * scattering[k, iv, iu]
                    o = 4 * part
                    a0, a1 = moments[iv, iu, o], moments[iv, iu, o + 1]
                    spread[part, at, iv, iu] = moments[iv, iu, o + 2] + drifted(a0, a1, power, HALF * h)
                    moments[iv, iu, o], moments[iv, iu, o + 1], growth = scattered(a0, a1, power, h)
                    moments[iv, iu, o + 2] += growth
                    moments[iv, iu, o + 3] += growth


@njit(cache=True, nogil=True)
def follow_paths(
    slab, uniform, lane_mean, per_mm, px_mm, nodes, rows, active, straight, offset, moments, paths, at_move
):
    """Add an interval's water `slab` (v, u), mm, to the paths that leave rows[0]..rows[1]-1 by nodes x sigma.

    uniform: True where the slab is the same everywhere. lane_mean: (n_wet,) mean x of what deposits at a depth. px_mm:
    (2,). nodes: (n_node, 3) x, y, weight. paths, at_move: (n_node, v, u) how much deeper each path is than its ray, now
    and when the fluence last moved. Returns the largest change since then on active rays (v, u): as long as it is
    small, protons on a ray have come through what the ray has come through, wherever they arrive.
    """
    n_u = straight.shape[1]
    end = lane_mean.shape[0] - 1
    largest = ZERO
    if uniform:
        return largest
    for iv in range(rows[0], rows[1]):
        for iu in range(n_u):
            if straight[iv, iu] * per_mm > F32(end):
                continue
            row = table_row(straight[iv, iu] + offset[iv, iu], per_mm, end)
            total = moments[iv, iu, TOTAL_P] + lane_mean[row] * moments[iv, iu, TOTAL_Q]
            sigma = np.sqrt(max(total, ZERO))
            for n in range(nodes.shape[0]):
                y, x = F32(iv) + nodes[n, 1] * sigma / px_mm[1], F32(iu) + nodes[n, 0] * sigma / px_mm[0]
                paths[n, iv, iu] += bilinear(slab, y, x) - slab[iv, iu]
                if active[iv, iu]:
                    largest = max(largest, abs(paths[n, iv, iu] - at_move[n, iv, iu]))
    return largest


@njit(cache=True, nogil=True)
def mix_depths(lane_mean, per_mm, px_mm, nodes, rows, straight, offset, moments, paths, new_offset, new_mixing):
    """What protons that arrive at rows[0]..rows[1]-1 have come through.

    A proton that arrives displaced by x sigma has been displaced by x times the width all along its way, so protons at
    a ray came along the paths of rays x sigma away. Arguments as in `follow_paths`. Out: new_offset, new_mixing (v, u),
    mean and variance of depths about the ray's own.
    """
    n_u = straight.shape[1]
    end = lane_mean.shape[0] - 1
    for iv in range(rows[0], rows[1]):
        for iu in range(n_u):
            row = table_row(straight[iv, iu] + offset[iv, iu], per_mm, end)
            total = moments[iv, iu, TOTAL_P] + lane_mean[row] * moments[iv, iu, TOTAL_Q]
            sigma = np.sqrt(max(total, ZERO))
            new_offset[iv, iu], new_mixing[iv, iu] = arriving(straight, paths, nodes, sigma, px_mm, iv, iu)


@njit(cache=True, nogil=True)
def secondaries_interval(
    rsp, scale, step_mm, renewal, angle_square, start_wet_mm, per_mm, first, last, rows, wanted, straight, moments,
    wet, spread,
):  # fmt: skip
    """Advance rows[0]..rows[1]-1 of the secondaries' wanted rays: they fly straight and are renewed on their way.

    Secondaries born with a projected angle of variance angle_square drift; in each millimetre of water the share
    `renewal` (n_wet,) of them stops and is born anew on the ray. Their lateral variance V and its covariance C with the
    angle obey dV/dz = 2 C - V r, dC/dz = angle_square - C r with r the renewal per millimetre of path: gaps and lung
    widen them, bone narrows them. Nothing happens before start_wet_mm, where no secondaries are.
    straight: (v, u) depth. moments: (v, u, 2) V and C. Out: wet (m, v, u), spread (m, v, u) V at the centre.
    """
    n_u = straight.shape[1]
    end = renewal.shape[0] - 1
    for k in range(first, last):
        at = k - first
        for iv in range(rows[0], rows[1]):
            for iu in range(n_u):
                if not wanted[iv, iu]:
                    continue
                h = step_mm[iv, iu]
                water = rsp[k, iv, iu] * scale * h
                top = straight[iv, iu]
                v, c = moments[iv, iu, 0], moments[iv, iu, 1]
                after = v
                if top + water > start_wet_mm:
                    row = table_row(top + HALF * water, per_mm, end)
                    after, moments[iv, iu, 1] = renewed(v, c, water, h, renewal[row], angle_square)
                    moments[iv, iu, 0] = after
                wet[at, iv, iu] = top
                spread[at, iv, iu] = HALF * (v + after)
                straight[iv, iu] = top + water

"""What leaves and jaws let through, averaged over pixels and over the time in which they move.

Lengths are in pixels of the map: pixel c spans c to c + 1. An edge that moves evenly is a pair of its positions at the
start and at the end.
"""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _passed(x, start, stop):
    """Length of (-inf, x) beyond a moving edge, averaged over its way."""
    low, high = min(start, stop), max(start, stop)
    if x <= low:
        return 0.0
    if x >= high:
        return x - 0.5 * (low + high)
    return 0.5 * (x - low) * (x - low) / (high - low)


@njit(cache=True, nogil=True)
def _between(x0, x1, lower, upper):
    """Length of x0..x1 between two moving edges of which `lower` never lies beyond `upper`."""
    opened = _passed(x1, lower[0], lower[1]) - _passed(x0, lower[0], lower[1])
    return opened - (_passed(x1, upper[0], upper[1]) - _passed(x0, upper[0], upper[1]))


@njit(cache=True, nogil=True)
def _add_crossing(times, count, a, b):
    """Note when two edges cross; returns how many times there are now."""
    before, after = a[0] - b[0], a[1] - b[1]
    if before * after < 0.0:
        times[count] = before / (before - after)
        return count + 1
    return count


@njit(cache=True, nogil=True)
def _add_opening(lower, upper, n, weight, row):
    """row += weight times the share of each pixel between the n lower (n, 2) and all n upper (n, 2) moving edges.

    Between crossings one lower and one upper edge bound the opening, and the average over time is that of two ramps.
    """
    times = np.empty(2 + n * (2 * n - 1))
    times[0] = 0.0
    count = 1
    for a in range(n):
        for b in range(n):
            count = _add_crossing(times, count, lower[a], upper[b])
            if a < b:
                count = _add_crossing(times, count, lower[a], lower[b])
                count = _add_crossing(times, count, upper[a], upper[b])
    times[count] = 1.0
    moments = np.sort(times[: count + 1])
    low, high = np.empty(2), np.empty(2)
    for k in range(count):
        t0, t1 = moments[k], moments[k + 1]
        middle = 0.5 * (t0 + t1)
        a, b = 0, 0
        for m in range(1, n):
            if lower[m, 0] + middle * (lower[m, 1] - lower[m, 0]) > lower[a, 0] + middle * (lower[a, 1] - lower[a, 0]):
                a = m
            if upper[m, 0] + middle * (upper[m, 1] - upper[m, 0]) < upper[b, 0] + middle * (upper[b, 1] - upper[b, 0]):
                b = m
        low[0], low[1] = lower[a, 0] + t0 * (lower[a, 1] - lower[a, 0]), lower[a, 0] + t1 * (lower[a, 1] - lower[a, 0])
        high[0], high[1] = (
            upper[b, 0] + t0 * (upper[b, 1] - upper[b, 0]),
            upper[b, 0] + t1 * (upper[b, 1] - upper[b, 0]),
        )
        if low[0] + low[1] >= high[0] + high[1]:
            continue
        first, last = max(np.floor(low.min()), 0.0), min(np.ceil(high.max()), float(len(row)))
        for c in range(int(first), int(last)):
            row[c] += weight * (t1 - t0) * _between(float(c), c + 1.0, low, high)


@njit(cache=True, nogil=True)
def _strip_row(row, along, jaw_transmission, leaves, neighbours, closed, lower, upper):
    """row = what a strip lets through along the leaves: the product of the jaws and of every layer.

    neighbours (n_layer, 2): the one or two leaf pairs that both must be open, -1 for none. closed (n_layer, 2): what
    passes when all are closed, and when one of two is. The product is written out as a sum over sets of jaws and
    leaf pairs that are all open, because the pixel and time average of such a set is known exactly.
    """
    n_layer = neighbours.shape[0]
    row[:] = 0.0
    for term in range(2 * 4**n_layer):
        n, rest = 0, term // 2
        weight = jaw_transmission
        if term % 2:
            weight = 1.0 - jaw_transmission
            lower[n], upper[n] = along[:, 0], along[:, 1]
            n += 1
        for layer in range(n_layer):
            first, second = neighbours[layer, 0], neighbours[layer, 1]
            none, one = closed[layer, 0], closed[layer, 1]
            chosen = rest % 4
            rest //= 4
            if chosen == 0:
                weight *= none
            elif first < 0 or (chosen > 1 and second < 0):
                weight = 0.0
            elif chosen == 3:
                weight *= 1.0 - 2.0 * one + none
            else:
                weight *= (one if second >= 0 else 1.0) - none
            for pair, taken in ((first, chosen == 1 or chosen == 3), (second, chosen > 1)):
                if taken and pair >= 0:
                    lower[n], upper[n] = leaves[:, 0, pair], leaves[:, 1, pair]
                    n += 1
        if weight == 0.0:
            continue
        if n == 0:
            row += weight
        else:
            _add_opening(lower, upper, n, weight, row)


@njit(cache=True, nogil=True)
def add_transmission(out, weight, across, along, jaw_transmission, leaves, strip_edge, neighbours, closed):
    """out (n_row, n_col) += weight times what collimators let through, averaged over pixels and time.

    Leaves move along the columns. across, along (2, 2): lower and upper jaw [:, 0 and 1] at start and end, in rows and
    in columns. leaves (2, 2, n_pair): start and end, lower and upper bank, all layers
    one after the other, in columns. strip_edge (n_strip + 1,): strips of rows in which one set of leaves counts, with
    neighbours and closed (n_strip, n_layer, 2) as in `_strip_row`.

    Exact as long as the jaws across stand still or nothing else moves.
    """
    n_row, n_col = out.shape
    row = np.empty(n_col)
    most = 1 + 2 * neighbours.shape[1]
    lower, upper = np.empty((most, 2)), np.empty((most, 2))
    for strip in range(len(strip_edge) - 1):
        first, last = max(strip_edge[strip], 0.0), min(strip_edge[strip + 1], float(n_row))
        if last <= first:
            continue
        _strip_row(row, along, jaw_transmission, leaves, neighbours[strip], closed[strip], lower, upper)
        for r in range(int(first), int(np.ceil(last))):
            low, high = max(first, float(r)), min(last, r + 1.0)
            opened = (1.0 - jaw_transmission) * _between(low, high, across[:, 0], across[:, 1])
            share = weight * (jaw_transmission * (high - low) + opened)
            for c in range(n_col):
                out[r, c] += share * row[c]


@njit(cache=True, nogil=True)
def product(a, b):
    """a (n, m) @ b (m, k) on one thread: threads of BLAS would cost small matrices more than they save."""
    out = np.zeros((a.shape[0], b.shape[1]))
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            weight = a[i, j]
            if weight != 0.0:
                for c in range(b.shape[1]):
                    out[i, c] += weight * b[j, c]
    return out

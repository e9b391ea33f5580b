"""Exact area coverage of pixels by polygons, by accumulation of signed areas."""

import numpy as np
from numba import njit

ROUNDING = 1e-9


@njit(cache=True, inline="always")
def _spread(row, nu, left, right, area):
    """Add one edge piece inside a pixel row: `area` (signed height) spread evenly over u = left..right.

    row[c] holds the change of coverage from pixel c - 1 to pixel c, so a running sum along the row is the coverage.
    """
    if right <= 0.0:
        row[0] += area
        return
    if left >= nu:
        return
    width = right - left
    if width < 1e-12:
        c = int(left)
        fraction = left - c
        row[c] += area * (1.0 - fraction)
        row[c + 1] += area * fraction
        return
    if left < 0.0:
        row[0] += area * (-left / width)
    for c in range(max(int(left), 0), min(int(right), nu - 1) + 1):
        low, high = max(left, float(c)), min(right, c + 1.0)
        share = area * max(high - low, 0.0) / width
        fraction = 0.5 * (low + high) - c
        row[c] += share * (1.0 - fraction)
        row[c + 1] += share * fraction


@njit(cache=True)
def coverage(points, starts, nv, nu):
    """Share of each pixel inside a set of closed polygons, (nv, nu) float32 in 0..1.

    points (m, 2) float64: (u, v) in pixels, pixel c spans c..c + 1. starts (n + 1,) int: first point of each polygon,
    and m. Windings add up and fold to even-odd: |w| = 1 is inside, |w| = 2 outside again. With each hole turned against
    its outer polygon this is exact, also where both cross one pixel.
    """
    change = np.zeros((nv, nu + 1))
    for p in range(len(starts) - 1):
        first, last = starts[p], starts[p + 1] - 1
        for q in range(first, last + 1):
            follower = first if q == last else q + 1
            u0, v0 = points[q, 0], points[q, 1]
            u1, v1 = points[follower, 0], points[follower, 1]
            if v0 == v1:
                continue
            sign = 1.0
            if v0 > v1:
                u0, v0, u1, v1 = u1, v1, u0, v0
                sign = -1.0
            slope = (u1 - u0) / (v1 - v0)
            for row in range(max(int(np.floor(v0)), 0), min(int(np.ceil(v1)), nv)):
                low, high = max(v0, float(row)), min(v1, row + 1.0)
                if high > low:
                    a, b = u0 + (low - v0) * slope, u0 + (high - v0) * slope
                    _spread(change[row], nu, min(a, b), max(a, b), sign * (high - low))
    out = np.empty((nv, nu), dtype=np.float32)
    for row in range(nv):
        winding = 0.0
        for c in range(nu):
            winding += change[row, c]
            folded = abs(winding) % 2.0
            if folded > 1.0:
                folded = 2.0 - folded
            # What rounding of the running sum leaves behind a polygon is no coverage.
            out[row, c] = folded if folded > ROUNDING else 0.0
    return out

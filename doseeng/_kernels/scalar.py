"""Scalar physics and geometry, written once: compiled here for the CPU, and by `_kernels.cuda` for the GPU.

Each function is plain Python on float32 scalars and arrays; `_kernels.cuda` takes it as it is (`f.py_func`), in the
order of this file: a function calls only those above it. Constants are float32 and integers become float32 before they
meet one: a literal, or an integer times a float32, would lift the arithmetic to float64.
"""

import numpy as np
from numba import njit

F32 = np.float32
ZERO, HALF, THIRD, ONE, TWO = F32(0.0), F32(0.5), F32(1.0 / 3.0), F32(1.0), F32(2.0)

LANES = 8
"""Layers of neighbouring energies march as one group: as many as fit a vector register."""

MIN_STEP_WET_MM = F32(0.1)
"""Depth dose is averaged over at least this much water, so that thin air steps do not divide rounding by rounding."""
SHARP = F32(0.02)
"""Depths that vary by less than this share of the first blurred level's variance are one depth."""

SAME_DEPTH = F32(1e-4)
"""Variances of depth below this share of the depth (mm2 per mm) are rounding."""
TABLE_MARGIN = F32(1.001)
"""Depths stay so many rows before the end of a table, so that the row below exists after rounding."""

LEAST_DENSITY = F32(1e-5)
"""Photons deposit nothing where there is less than a hundredth of the density of air."""
NO_SPREAD_DENSITY = F32(0.02)
"""Air has 0.001 of the density of water, lung 0.2."""
MODE_GROWTH = F32(0.08)
"""Width bins of pencil modes: each next step is longer by twice this share of the first."""


@njit(cache=True, inline="always")
def trilinear(values, i, j, k, outside):
    """Value of `values[k, j, i]` (float32) at a fractional index; edge value up to half a voxel out, then `outside`."""
    nz, ny, nx = values.shape
    if i < -HALF or j < -HALF or k < -HALF or i > F32(nx) - HALF or j > F32(ny) - HALF or k > F32(nz) - HALF:
        return outside
    i = min(max(i, ZERO), F32(nx - 1))
    j = min(max(j, ZERO), F32(ny - 1))
    k = min(max(k, ZERO), F32(nz - 1))
    i0, j0, k0 = int(i), int(j), int(k)
    i1, j1, k1 = min(i0 + 1, nx - 1), min(j0 + 1, ny - 1), min(k0 + 1, nz - 1)
    fi, fj, fk = i - F32(i0), j - F32(j0), k - F32(k0)
    a = values[k0, j0, i0] + (values[k0, j0, i1] - values[k0, j0, i0]) * fi
    b = values[k0, j1, i0] + (values[k0, j1, i1] - values[k0, j1, i0]) * fi
    c = values[k1, j0, i0] + (values[k1, j0, i1] - values[k1, j0, i0]) * fi
    d = values[k1, j1, i0] + (values[k1, j1, i1] - values[k1, j1, i0]) * fi
    a = a + (b - a) * fj
    c = c + (d - c) * fj
    return a + (c - a) * fk


@njit(cache=True, inline="always")
def bilinear(plane, y, x):
    """Value of `plane[y, x]` (float32) at a fractional index, held constant beyond the edge."""
    ny, nx = plane.shape
    x = min(max(x, ZERO), F32(nx - 1))
    y = min(max(y, ZERO), F32(ny - 1))
    i, j = int(x), int(y)
    i1, j1 = min(i + 1, nx - 1), min(j + 1, ny - 1)
    f, g = x - F32(i), y - F32(j)
    a = plane[j, i] + (plane[j, i1] - plane[j, i]) * f
    b = plane[j1, i] + (plane[j1, i1] - plane[j1, i]) * f
    return a + (b - a) * g


@njit(cache=True, inline="always")
def drifted(a0, a1, power, h):
    """Growth of the Fermi-Eyges moment A2 over a path h with constant scattering power; A0, A1 at its start.

    Gottschalk, Med Phys 39 (2012) 2281, Eqs. 4-9.
    """
    return h * (TWO * a1 + h * (a0 + power * h * THIRD))


@njit(cache=True, inline="always")
def scattered(a0, a1, power, h):
    """Moments A0, A1 behind a path h, and the growth of A2 on it; as `drifted`."""
    return a0 + power * h, a1 + h * (a0 + power * h * HALF), drifted(a0, a1, power, h)


@njit(cache=True, inline="always")
def renewed(v, c, water, h, renewal, angle_square):
    """Lateral variance and covariance of secondaries behind a path h through `water` mm (`secondaries_interval`)."""
    keep = np.exp(-water * renewal)
    fresh = (ONE - keep) * angle_square * h
    after = keep * (v + h * (TWO * c + h * angle_square)) + fresh * h * THIRD
    return after, keep * (c + h * angle_square) + fresh * HALF


@njit(cache=True, inline="always")
def table_row(depth_mm, per_mm, end):
    """Row 0..end of a table with per_mm rows per mm that holds a depth."""
    return max(min(int(depth_mm * per_mm), end), 0)


@njit(cache=True, inline="always")
def depth_rows(wet, water, per_mm, n_wet):
    """Lower table rows and fractions of the depths at both faces of a slice: i0, f0, i1, f1; i0 < 0: beyond the end."""
    limit = F32(n_wet) - TABLE_MARGIN
    p0 = max(wet, ZERO) * per_mm
    if p0 >= limit:
        return -1, ZERO, 0, ZERO
    p1 = min(p0 + water * per_mm, limit)
    i0, i1 = int(p0), int(p1)
    return i0, p0 - F32(i0), i1, p1 - F32(i1)


@njit(cache=True, inline="always")
def released_up_to(table, level, i, f, l):
    """Dose of lane l up to row i + f of a table (level, n_wet, LANES)."""
    return table[level, i, l] + (table[level, i + 1, l] - table[level, i, l]) * f


@njit(cache=True, inline="always")
def arriving(straight, paths, nodes, sigma, px_mm, iv, iu):
    """Mean and variance of the depths that protons arriving at ray (iv, iu) came through, about the ray's own.

    straight: (v, u) depth of each ray; paths: (node, v, u) how much deeper the paths are that leave each ray by a node
    (x, y, weight) times sigma; px_mm: (x, y).
    """
    own = straight[iv, iu]
    mean, square = ZERO, ZERO
    for n in range(nodes.shape[0]):
        y, x = F32(iv) - nodes[n, 1] * sigma / px_mm[1], F32(iu) - nodes[n, 0] * sigma / px_mm[0]
        excess = bilinear(straight, y, x) + bilinear(paths[n], y, x) - own
        mean += nodes[n, 2] * excess
        square += nodes[n, 2] * excess * excess
    variance = square - mean * mean
    return mean, variance if variance > SAME_DEPTH * own else ZERO


@njit(cache=True, inline="always")
def place(m, i, j, k, u0, v0, pitch, top, dz, source_x, source_y):
    """Fractional (face, row, column) of voxel (i, j, k) in a frustum; m: (12,) rows of a (3, 4) affine to gantry mm.

    In float32, positions within half a metre of the isocentre are good to 1e-4 mm.
    """
    x = m[0] * F32(i) + m[1] * F32(j) + m[2] * F32(k) + m[3]
    y = m[4] * F32(i) + m[5] * F32(j) + m[6] * F32(k) + m[7]
    z = m[8] * F32(i) + m[9] * F32(j) + m[10] * F32(k) + m[11]
    return (top - z) / dz, (y / (ONE - z / source_y) - v0) / pitch, (x / (ONE - z / source_x) - u0) / pitch


@njit(cache=True, inline="always")
def catmull_rom(d, f):
    """Weight of point d (0..3) of four equally spaced ones for a cubic between the middle two, f from the second."""
    if d == 0:
        return HALF * f * (f * (TWO - f) - ONE)
    if d == 1:
        return HALF * (f * f * (F32(3.0) * f - F32(5.0)) + TWO)
    if d == 2:
        return HALF * f * (f * (F32(4.0) - F32(3.0) * f) + ONE)
    return HALF * f * f * (f - ONE)


@njit(cache=True, inline="always")
def width_bin(variance, step, n_bin):
    """(lower bin, share of the bin above it) of a variance; bin b holds (b step)^2, shares are linear in variance."""
    b = int(np.sqrt(variance) / step)
    if b >= n_bin - 1:
        return n_bin - 2, ONE
    square = F32(b) * F32(b) * step * step
    return b, min((variance - square) / ((TWO * F32(b) + ONE) * step * step), ONE)


@njit(cache=True, inline="always")
def mixing_level(variance, level_variance):
    """(lower level, share of the level above it) of a variance of depths; shares are linear in variance.

    Below a small share of the first blurred level nothing is blurred.
    """
    if variance <= SHARP * level_variance[1]:
        return 0, ZERO
    last = level_variance.shape[0] - 2
    j = 0
    while j < last and variance > level_variance[j + 1]:
        j += 1
    return j, min((variance - level_variance[j]) / (level_variance[j + 1] - level_variance[j]), ONE)


@njit(cache=True)
def gaussian_taps(variance_px, taps):
    """Fill half of a symmetric kernel (centre first) of unit sum and variance `variance_px` (pixels squared).

    Returns its radius. Below half a pixel squared a sampled Gaussian has the wrong variance; three taps have the right
    one. The Gaussian is cut at 3.5 standard deviations or where `taps` ends.
    """
    if variance_px <= F32(1e-6):
        taps[0] = ONE
        return 0
    if variance_px < HALF:
        taps[0] = ONE - variance_px
        taps[1] = HALF * variance_px
        return 1
    radius = min(int(np.ceil(F32(3.5) * np.sqrt(variance_px))), taps.shape[0] - 1)
    total = ZERO
    for i in range(radius + 1):
        value = np.exp(-HALF * F32(i * i) / variance_px)
        taps[i] = value
        total += value if i == 0 else TWO * value
    for i in range(radius + 1):
        taps[i] = taps[i] / total
    return radius


@njit(cache=True, inline="always")
def decay(x):
    """exp(-x) and (1 - exp(-x)) / x: what is left of energy that came in and of energy set free evenly on the way."""
    keep = np.exp(-x)
    if x < F32(0.01):
        return keep, ONE - x * (HALF - x * F32(1.0 / 6.0))
    return keep, (ONE - keep) / x


@njit(cache=True, inline="always")
def freed_per_mm(table, depth, water, per_mm):
    """Energy that unit fluence sets free per mm of water, halfway through `water` mm that begin at a depth, from a
    table with per_mm rows per mm."""
    at = (depth + HALF * water) * per_mm
    row = table_row(at, ONE, table.shape[0] - 2)
    return table[row] + (table[row + 1] - table[row]) * min(at - F32(row), ONE)


@njit(cache=True, inline="always")
def mode_deposit(m0, m1, m2, fresh, h, keep, kept):
    """What a pencil mode deposits in a slice of h mm: energy, and energy times the square of the distance it has come.

    m0, m1, m2: energy in flight and its moments of that distance, mm; fresh: set free evenly in the slice; keep, kept:
    `decay`. A deposit comes from the middle of the slice on the mean, whatever the attenuation.
    """
    lost, stays = m0 * (ONE - keep), fresh * (ONE - kept)
    return lost + stays, (m2 + h * (m1 + THIRD * h * m0)) * (ONE - keep) + stays * h * h * F32(1.0 / 6.0)


@njit(cache=True, inline="always")
def mode_moments(m0, m1, m2, fresh, h, keep, kept):
    """Energy in flight and its moments behind the slice; as `mode_deposit`."""
    flying = fresh * kept
    after1, after2 = (m1 + h * m0) * keep + flying * h * HALF, (m2 + h * (m1 + m1 + h * m0)) * keep
    return m0 * keep + flying, after1, after2 + flying * h * h * THIRD


@njit(cache=True, inline="always")
def mode_width(b, step):
    """Standard deviation of width bin b of pencil modes; bins grow with their width, by `step` at first."""
    return step * F32(b) * (ONE + MODE_GROWTH * F32(b))


@njit(cache=True, inline="always")
def mode_bin(given, square, spread, density, step, n_bin):
    """(lower width bin, share of the bin above it) of a deposit as `mode_deposit` tells it; linear in variance.

    What is deposited in air stays on its ray: its width grows without end there and matters to no one.
    """
    if density < NO_SPREAD_DENSITY:
        return 0, ZERO
    variance = spread * square / given
    width = np.sqrt(variance)
    b = int((np.sqrt(ONE + F32(4.0) * MODE_GROWTH * width / step) - ONE) / (TWO * MODE_GROWTH))
    if b >= n_bin - 1:
        return n_bin - 2, ONE
    low, high = mode_width(b, step), mode_width(b + 1, step)
    return b, min(max((variance - low * low) / (high * high - low * low), ZERO), ONE)


@njit(cache=True, inline="always")
def cone_step(flying, fresh, x):
    """Energy deposited on, and leaving, a path of attenuation x; fresh: set free evenly on it.

    exp(-x) is one over its series to x^4: a division instead of an exponential, and so vectors on a CPU. The other half
    of `decay` follows from it, so that energy is kept.
    """
    numerator = ONE + x * (HALF + x * (F32(1.0 / 6.0) + x * F32(1.0 / 24.0)))
    keep = ONE / (ONE + x * numerator)
    kept = numerator * keep
    return flying * x * kept + (fresh - fresh * kept), flying * keep + fresh * kept


@njit(cache=True, inline="always")
def dose_of(energy, density, slice_mm):
    """Dose of energy per area that is deposited in a slice."""
    return energy / (max(density, LEAST_DENSITY) * slice_mm)

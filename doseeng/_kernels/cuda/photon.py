"""Photon energy along rays: set free, carried, deposited; the GPU's side of `_kernels.photon`.

Modes and cones meet in the same places, so they add atomically: the last digit depends on the order of threads.
"""

from numba import cuda

from doseeng._kernels.cuda.device import DEVICE, F1, F2, F3, F4, I2, I3, F, I, kernel, larger, smaller
from doseeng._kernels.scalar import LEAST_DENSITY, ZERO

decay, freed_per_mm, dose_of = (DEVICE[n] for n in ("decay", "freed_per_mm", "dose_of"))
mode_deposit, mode_moments, cone_step = (DEVICE[n] for n in ("mode_deposit", "mode_moments", "cone_step"))
mode_bin, mode_width, gaussian_taps = (DEVICE[n] for n in ("mode_bin", "mode_width", "gaussian_taps"))


@kernel(F2, F3, F2, F2, F1, F, F3)
def release(fluence, attenuation, step_mm, depth_scale, table, per_mm, out):
    """out (slice, v, u) = energy that photons of fluence (v, u) set free in each slice."""
    u, v, _ = cuda.grid(3)
    n_slice, n_v, n_u = out.shape
    if u >= n_u or v >= n_v:
        return
    here, scale = fluence[v, u], step_mm[v, u] * depth_scale[v, u]
    depth = ZERO
    for k in range(n_slice):
        water = attenuation[k, v, u] * scale
        out[k, v, u] = here * freed_per_mm(table, depth, water, per_mm) * water
        depth += water


@kernel(I, F3, F3, F2, F, F2, F, F4, F4, I2)
def carry_modes(first, released, density, step_mm, slice_mm, modes, bin_step, state, bins, used):
    """Slices first.. of the march of every mode along every ray, into bins (m, bin, v, u), used (m, bin).

    state (3, mode, v, u): energy in flight and its moments of the distance it has come, updated.
    """
    u, v, n = cuda.grid(3)
    n_slice, n_bin, n_v, n_u = bins.shape
    if u >= n_u or v >= n_v or n >= modes.shape[0]:
        return
    h, share, per_mm, spread = step_mm[v, u], modes[n, 0], modes[n, 1], modes[n, 2]
    m0, m1, m2 = state[0, n, v, u], state[1, n, v, u], state[2, n, v, u]
    for at in range(n_slice):
        k = first + at
        fresh = share * released[k, v, u]
        if fresh == ZERO and m0 == ZERO:
            continue
        rho = larger(density[k, v, u], LEAST_DENSITY)
        keep, kept = decay(per_mm * rho * h)
        given, square = mode_deposit(m0, m1, m2, fresh, h, keep, kept)
        if given > ZERO:
            b, up = mode_bin(given, square, spread, rho, bin_step, n_bin)
            dose = dose_of(given, rho, slice_mm)
            cuda.atomic.add(bins, (at, b, v, u), dose - dose * up)
            cuda.atomic.add(bins, (at, b + 1, v, u), dose * up)
            used[at, b] = 1
            used[at, b + 1] = 1
        m0, m1, m2 = mode_moments(m0, m1, m2, fresh, h, keep, kept)
    state[0, n, v, u] = m0
    state[1, n, v, u] = m1
    state[2, n, v, u] = m2


@kernel(F, F2, F4, I3)
def make_mode_taps(bin_step, px_mm, taps, radius):
    """Half kernels (row, bin, axis, tap) of every width bin of modes in pixels px_mm (row, axis), and their radii."""
    b, axis, row = cuda.grid(3)
    if b < taps.shape[1] and axis < 2 and row < taps.shape[0]:
        pixels = mode_width(b, bin_step) / px_mm[row, axis]
        radius[row, b, axis] = gaussian_taps(pixels * pixels, taps[row, b, axis])


@cuda.jit(device=True)
def entrance(place, dv, du, n_v, n_u):
    """Row and column of a place, counted from 0, among those that rays which move by (dv, du) enter from outside.

    Whole rows come first, then what is left of the columns; the row is n_v where there are no more.
    """
    rows, columns = smaller(abs(dv), n_v), smaller(abs(du), n_u)
    if place < rows * n_u:
        v, u = place // n_u, place % n_u
        return (v if dv > 0 else n_v - 1 - v), u
    place -= rows * n_u
    if columns == 0 or place >= (n_v - rows) * columns:
        return n_v, 0
    v, u = place // columns, place % columns
    return (rows + v if dv > 0 else v), (u if du > 0 else n_u - 1 - u)


@kernel(I, I, F3, F3, F2, I3, F, I, F3)
def collapsed_cones(first, last, released, density, directions, offsets, slice_mm, upstream, energy):
    """energy (slice, v, u) += what rays of the directions that enter at steps first..last-1 deposit until they leave.

    A thread is a ray of one direction: it enters anywhere at the first step of the march, later from the sides, and is
    at one node of every slice until it leaves at a side or at the end. So every node of a direction is on one ray.
    Threads along the axes: place where the ray enters, step, direction.
    """
    place, step, d = cuda.grid(3)
    n_slice, n_v, n_u = energy.shape
    step += first
    if d >= directions.shape[0] or step >= last:
        return
    k = n_slice - 1 - step if upstream else step
    v, u = entrance(place, n_v if step == 0 else offsets[d, k, 0], offsets[d, k, 1], n_v, n_u)
    share, water = directions[d, 0], directions[d, 1] * directions[d, 2] * slice_mm
    flying = ZERO
    while 0 <= v < n_v and 0 <= u < n_u:
        given, flying = cone_step(flying, share * released[k, v, u], water * density[k, v, u])
        if given > ZERO:
            cuda.atomic.add(energy, (k, v, u), given)
        step += 1
        if step == n_slice:
            return
        k = n_slice - 1 - step if upstream else step
        v += offsets[d, k, 0]
        u += offsets[d, k, 1]


@kernel(F3, F3, F, F3)
def settle(released, density, slice_mm, out):
    """out (slice, v, u) += dose of energy that stays in the slice it is in."""
    u, v, k = cuda.grid(3)
    if u < out.shape[2] and v < out.shape[1] and k < out.shape[0]:
        out[k, v, u] += dose_of(released[k, v, u], density[k, v, u], slice_mm)

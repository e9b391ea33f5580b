"""Photon energy along the rays of a frustum: set free, carried on by pencil modes or along collapsed cones, deposited.

Energies are per mm2 of the isocentre plane; distances of slices are mm along a ray, `density` is electron density
relative to water, so density times mm is mm of water.
"""

import numpy as np
from numba import njit

from doseeng._kernels.march import LINEAR, MAX_RADIUS, clear, convolve, fill_taps, scratch
from doseeng._kernels.scalar import (
    LEAST_DENSITY,
    ZERO,
    cone_step,
    decay,
    dose_of,
    freed_per_mm,
    mode_bin,
    mode_deposit,
    mode_moments,
    mode_width,
)


@njit(cache=True, nogil=True)
def release(fluence, attenuation, step_mm, depth_scale, table, per_mm, first_row, last_row, out):
    """Rows of out (slice, v, u) = energy that photons set free in each slice.

    fluence (v, u): energy fluence in the isocentre plane. attenuation (slice, v, u): relative to water. step_mm (v, u):
    length of a ray in a slice. depth_scale (v, u): how much faster than on the axis the beam is attenuated. table:
    energy set free per mm of water at per_mm depths per mm.
    """
    n_slice, _, n_u = out.shape
    for iv in range(first_row, last_row):
        for iu in range(n_u):
            here = fluence[iv, iu]
            if here == ZERO:
                for k in range(n_slice):
                    out[k, iv, iu] = ZERO
                continue
            scale = step_mm[iv, iu] * depth_scale[iv, iu]
            depth = ZERO
            for k in range(n_slice):
                water = attenuation[k, iv, iu] * scale
                out[k, iv, iu] = here * freed_per_mm(table, depth, water, per_mm) * water
                depth += water


@njit(cache=True, nogil=True)
def carry_modes(
    released, density, step_mm, slice_mm, modes, bin_step, first, last, first_row, last_row, state, bins, used,
):  # fmt: skip
    """Slices first..last-1 and some rows of a march of pencil modes along every ray; dose goes to width bins.

    released, density: (slice, v, u). modes (n, 3): share, per_mm of water, spread. state (v, n, u, 3): energy in flight
    and its first two moments of the distance it has come, updated. bins (last - first, bin, v, u), used (last - first,
    bin, v): dose by width.

    Energy leaves the flight exponentially in water-equivalent distance; what is deposited in a slice came, on the mean,
    from its middle, so distances and their squares follow from moments alone. Widths come from geometrical distances:
    behind an interface energy is as narrow as the medium it came through made it, and widens with the new one.
    """
    n_bin = bins.shape[1]
    n_u = released.shape[2]
    for iv in range(first_row, last_row):
        for n in range(modes.shape[0]):
            share, per_mm, spread = modes[n, 0], modes[n, 1], modes[n, 2]
            for iu in range(n_u):
                h = step_mm[iv, iu]
                m0, m1, m2 = state[iv, n, iu, 0], state[iv, n, iu, 1], state[iv, n, iu, 2]
                for k in range(first, last):
                    fresh = share * released[k, iv, iu]
                    if fresh == ZERO and m0 == ZERO:
                        continue
                    rho = max(density[k, iv, iu], LEAST_DENSITY)
                    keep, kept = decay(per_mm * rho * h)
                    given, square = mode_deposit(m0, m1, m2, fresh, h, keep, kept)
                    if given > ZERO:
                        b, up = mode_bin(given, square, spread, rho, bin_step, n_bin)
                        dose = dose_of(given, rho, slice_mm)
                        upper = dose * up
                        bins[k - first, b, iv, iu] += dose - upper
                        bins[k - first, b + 1, iv, iu] += upper
                        used[k - first, b, iv] = True
                        used[k - first, b + 1, iv] = True
                    m0, m1, m2 = mode_moments(m0, m1, m2, fresh, h, keep, kept)
                state[iv, n, iu, 0], state[iv, n, iu, 1], state[iv, n, iu, 2] = m0, m1, m2


@njit(cache=True, nogil=True)
def spread_modes(bins, used, bin_step, px_mm, out):
    """out (v, u) += every width bin (bin, v, u), convolved with its Gaussian; bins and used (bin, v) are zero after."""
    taps = np.empty((2, MAX_RADIUS + 5), dtype=np.float32)
    radius = np.empty(2, dtype=np.int64)
    work = scratch(bins.shape[1], bins.shape[2], 1)
    for b in range(bins.shape[0]):
        if used[b].any():
            width = mode_width(b, bin_step)
            for axis in range(2):
                radius[axis] = fill_taps(width * width / (px_mm[axis] * px_mm[axis]), taps[axis])
            convolve(bins[b], used[b], taps[0], radius[0], taps[1], radius[1], 1, work, out)
    clear(bins, used)


@njit(cache=True, nogil=True)
def settle(released, density, slice_mm, out):
    """out (slice, v, u) += dose of energy that stays in the slice it is in."""
    n_slice, n_v, n_u = out.shape
    for k in range(n_slice):
        for iv in range(n_v):
            for iu in range(n_u):
                out[k, iv, iu] += dose_of(released[k, iv, iu], density[k, iv, iu], slice_mm)


@njit(cache=True, nogil=True, fastmath=LINEAR, error_model="numpy")
def _cone_row(arriving, released, density, share, water, leaving, deposited):
    """One row of one direction in one slice: what arrives and is set free is deposited or leaves.

    Python's divisions look for zeros, which keeps a loop from becoming vectors.
    """
    for i in range(arriving.shape[0]):
        given, leaving[i] = cone_step(arriving[i], share * released[i], water * density[i])
        deposited[i] += given


@njit(cache=True, nogil=True)
def collapsed_cones(released, density, directions, offsets, slice_mm, upstream, out):
    """out (slice, v, u) += energy deposited along collapsed cones that march downstream, or all upstream.

    released, density: (slice, v, u). directions (n, 3): share of the energy, per_mm of water, path over slice
    thickness. offsets (n, slice, 2): whole rays (v, u) that a direction moves from the slice before it to this one.
    Every ray of a direction passes every node once (Ahnesjö, Med Phys 16 (1989) 577), so energy is kept.
    """
    n_slice, n_v, n_u = released.shape
    n = directions.shape[0]
    state = np.zeros((2, n, n_v, n_u), dtype=np.float32)
    nothing = np.zeros(n_u, dtype=np.float32)
    moved = np.zeros(n_u, dtype=np.float32)
    for step in range(n_slice):
        k = n_slice - 1 - step if upstream else step
        before, after = state[step % 2], state[(step + 1) % 2]
        for d in range(n):
            share, water = directions[d, 0], directions[d, 1] * directions[d, 2] * slice_mm
            dv, du = offsets[d, k, 0], offsets[d, k, 1]
            for iv in range(n_v):
                row = iv - dv
                if row < 0 or row >= n_v:
                    arriving = nothing
                elif du == 0:
                    arriving = before[d, row]
                elif du > 0:
                    moved[: min(du, n_u)] = ZERO
                    moved[du:] = before[d, row, : max(n_u - du, 0)]
                    arriving = moved
                else:
                    moved[: max(n_u + du, 0)] = before[d, row, -du:]
                    moved[max(n_u + du, 0) :] = ZERO
                    arriving = moved
                _cone_row(arriving, released[k, iv], density[k, iv], share, water, after[d, iv], out[k, iv])

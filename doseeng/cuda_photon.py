"""Photon energy on the device: what `CudaBackend` does with rays, launch by launch; the host never waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from doseeng._kernels.cuda import march as spread_kernels
from doseeng._kernels.cuda import photon as kernels
from doseeng.backend import Cones, Float32, Rays
from doseeng.cpu_photon import BIN_PIXELS, MODE_BINS

if TYPE_CHECKING:
    from doseeng.cuda_backend import CudaBackend


def release(on: CudaBackend, rays: Rays, fluence: Any, depth_scale: Any, table: Float32, per_mm: float) -> Any:
    """As `Backend.release`: a thread per ray."""
    out = on.empty(rays.frustum.shape)
    step = on.step_mm(rays.frustum)
    on.run(kernels.release, fluence.shape, fluence, rays.stopping, step, depth_scale, on.put(table), per_mm, out)
    return out


def carry(on: CudaBackend, rays: Rays, released: Any, modes: Float32, out: Any) -> None:
    """As `Backend.carry`: a thread per mode and ray fills width bins, which are spread like those of protons."""
    frustum = rays.frustum
    n_slice, n_v, n_u = frustum.shape
    bin_step = BIN_PIXELS * frustum.pitch_mm
    taps = on.half_kernels(n_slice, MODE_BINS)
    px_mm = on.put(frustum.pitch_mm * frustum.magnification)
    on.run(kernels.make_mode_taps, (n_slice, 2, MODE_BINS), bin_step, px_mm, *taps)
    along = (released, rays.spreading, on.step_mm(frustum), frustum.slice_mm, on.put(modes), bin_step)
    state = on.zeros((3, len(modes), n_v, n_u))
    for chunk, bins, work in on.chunks(n_slice, MODE_BINS, n_v, n_u):
        used = on.device.xp.zeros(bins.shape[:2], dtype=np.int32)
        on.run(kernels.carry_modes, state.shape[1:], chunk, *along, state, bins, used)
        threads = (bins.shape[0], n_v, n_u)
        on.run(spread_kernels.spread_u, threads, chunk, bins, used, *taps, work)
        on.run(spread_kernels.spread_v, threads, chunk, 0, work, used, *taps, out)


def cones(on: CudaBackend, rays: Rays, released: Any, sets: Sequence[Cones], out: Any) -> None:
    """As `Backend.cones`: a thread per direction and ray of that direction."""
    n_slice, n_v, n_u = rays.frustum.shape
    energy = on.zeros(rays.frustum.shape)
    for each in sets:
        n = len(each.directions)
        directions, offsets = on.put(each.directions), on.device.put(each.offsets, np.int32)
        along = (released, rays.spreading, directions, offsets, rays.frustum.slice_mm, int(each.upstream), energy)
        on.run(kernels.collapsed_cones, (n, 1, n_v * n_u), 0, 1, *along)
        sides = (n, n_slice - 1, _most_entering(each.offsets, n_v, n_u))
        on.run(kernels.collapsed_cones, sides, 1, n_slice, *along)
    settle(on, rays, energy, out)


def settle(on: CudaBackend, rays: Rays, released: Any, out: Any) -> None:
    """As `Backend.settle`: a thread per slice and ray."""
    on.run(kernels.settle, rays.frustum.shape, released, rays.spreading, rays.frustum.slice_mm, out)


def _most_entering(offsets: npt.NDArray[np.int64], n_v: int, n_u: int) -> int:
    """Rays of a direction that enter from the sides in one step, at most."""
    rows, columns = np.minimum(np.abs(offsets[..., 0]), n_v), np.minimum(np.abs(offsets[..., 1]), n_u)
    return int((rows * n_u + (n_v - rows) * columns).max())

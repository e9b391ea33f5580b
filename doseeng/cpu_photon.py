"""Photon energy along rays on the CPU: what `CpuBackend` does with them, kernel by kernel, on its threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from doseeng._kernels import photon as kernels
from doseeng.backend import Cones, Float32, Rays

if TYPE_CHECKING:
    from doseeng.cpu import CpuBackend

BIN_PIXELS: Final = 0.5
"""Width of the first bins of pencil modes in rays."""
MODE_BINS: Final = 20
"""Width bins of pencil modes, up to where their Gaussian still fits its taps."""
CARRY_SLICES: Final = 8
"""Slices that are binned before they are spread; bins of more would leave the cache."""
CONE_PARTS: Final = 8
"""Sums that the directions of a set are split into: the same for any number of threads, so that none changes a bit."""


def release(on: CpuBackend, rays: Rays, fluence: Any, depth_scale: Any, table: Float32, per_mm: float) -> Float32:
    """As `Backend.release`."""
    out = np.empty(rays.frustum.shape, dtype=np.float32)
    step = rays.frustum.step_mm
    on.over_rows(
        out.shape[1],
        lambda a, b: kernels.release(fluence, rays.stopping, step, depth_scale, table, np.float32(per_mm), a, b, out),
    )
    return out


def carry(on: CpuBackend, rays: Rays, released: Any, modes: Float32, out: Any) -> None:
    """As `Backend.carry`."""
    frustum = rays.frustum
    n_slice, n_v, n_u = frustum.shape
    state = np.zeros((n_v, len(modes), n_u, 3), dtype=np.float32)
    step, px = frustum.step_mm, (frustum.pitch_mm * frustum.magnification).astype(np.float32)
    bin_step = np.float32(BIN_PIXELS * frustum.pitch_mm)
    bins = np.zeros((CARRY_SLICES, MODE_BINS, n_v, n_u), dtype=np.float32)
    used = np.zeros((CARRY_SLICES, MODE_BINS, n_v), dtype=np.bool_)
    for first in range(0, n_slice, CARRY_SLICES):
        last = min(first + CARRY_SLICES, n_slice)

        def advance(a: int, b: int, first: int = first, last: int = last) -> None:
            kernels.carry_modes(
                released, rays.spreading, step, np.float32(frustum.slice_mm), modes, bin_step, first, last, a, b,
                state, bins, used,
            )  # fmt: skip

        def spread(k: int, first: int = first) -> None:
            kernels.spread_modes(bins[k], used[k], bin_step, px[first + k], out[first + k])

        on.over_rows(n_v, advance)
        on.each(spread, range(last - first))


def cones(on: CpuBackend, rays: Rays, released: Any, sets: Sequence[Cones], out: Any) -> None:
    """As `Backend.cones`."""
    frustum = rays.frustum
    tasks = [(c, part) for c in sets for part in np.array_split(np.arange(len(c.directions)), CONE_PARTS)]

    def follow(task: Any) -> Float32:
        c, part = task
        energy = np.zeros(frustum.shape, dtype=np.float32)
        kernels.collapsed_cones(
            released, rays.spreading, c.directions[part], c.offsets[part], np.float32(frustum.slice_mm), c.upstream,
            energy,
        )  # fmt: skip
        return energy

    first, *others = on.each(follow, tasks)
    for energy in others:
        first += energy
    settle(rays, first, out)


def settle(rays: Rays, released: Any, out: Any) -> None:
    """As `Backend.settle`."""
    kernels.settle(released, rays.spreading, np.float32(rays.frustum.slice_mm), out)

"""How much each CUDA kernel must move and compute for one dose, counted from the geometry of the march.

Bytes are compulsory traffic: every array once in and once out, however often a cache serves it again. Operations are
float32 additions, multiplications, comparisons and divisions in the innermost loops; a fused multiply-add counts two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from doseeng._kernels.scalar import LANES
from doseeng.backend import March
from doseeng.cpu import BIN_PIXELS, N_BINS, PATHS, PER_MM, CpuBackend
from doseeng.proton import BeamModel
from doseeng.scenario import NOMINAL

TRILINEAR = 35
"""Operations of one trilinear sample; `bilinear` takes a third."""
SCATTER = 60
"""Of one slice of `advance`: two Fermi-Eyges steps, two table rows."""
RELEASED = 14
"""Of one lane of `deposit`: two interpolations and their product with fluence."""
SHARE = 12
"""Of the share of a bin in `move_u`."""
PLACE = 40
"""Of a voxel's place in the frustum; at it, 2 x 4 bilinear values and their weights."""
CUT_SIGMAS = 3.5
MAX_RADIUS = 47


@dataclass(frozen=True, slots=True)
class Work:
    """Launches, bytes and operations of one kernel in one dose."""

    launches: int = 0
    bytes: float = 0.0
    operations: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.launches + other.launches, self.bytes + other.bytes, self.operations + other.operations)


def work_of(models: Sequence[BeamModel], backend: CpuBackend) -> dict[str, Work]:
    """Kernel name -> work of the nominal dose of some beams prepared on the CPU."""
    total: dict[str, Work] = {}
    for model in models:
        for frustum, marches in model.marches(NOMINAL):
            samples = max(1, round(frustum.slice_mm / min(model.image.spacing_mm)))
            voxels, slices = prod(model.grid.shape), prod(frustum.shape)
            image = prod(model.materials.stopping.shape)
            parts = [
                {
                    "trace": Work(1, 8.0 * (image + slices), 2.0 * TRILINEAR * samples * slices),
                    "integrate": Work(1, 8.0 * slices, 2.0 * slices),
                    "add_to_grid": Work(1, 4.0 * slices + 8.0 * voxels, (PLACE + 8.0 * TRILINEAR / 3) * voxels),
                },
                *(_march_work(march, backend) for _, march in marches),
            ]
            for part in parts:
                for name, work in part.items():
                    total[name] = total.get(name, Work()) + work
    return total


def _march_work(march: March, backend: CpuBackend) -> dict[str, Work]:
    n_group, n_v, n_u = march.active.shape
    rays, n_slice = n_v * n_u, march.bounds[-1] - march.bounds[0]
    slots = len(march.bounds) - 1 if march.mixes else 1
    bins, taps, moves = _spread(march, backend)
    nodes = PATHS if march.mixes else 0
    per_group = float(n_group * n_slice * rays)
    work = {
        "depths": Work(1, 8.0 * n_slice * rays, 3.0 * n_slice * rays),
        "deposit": Work(
            1,
            4.0 * (slots * n_group * rays * LANES + per_group + 2 * n_slice * rays + 2 * bins * rays),
            per_group * (LANES * RELEASED + 30.0),
        ),
        "spread_u": Work(1, 8.0 * bins * rays, 2.0 * taps[0] * rays),
        "spread_v": Work(1, 4.0 * (bins + 2 * n_slice) * rays, 2.0 * taps[1] * rays),
    }
    if not march.scatters:
        return {**work, "secondaries": Work(1, 4.0 * (per_group + n_slice * rays), 25.0 * per_group)}
    state = slots * n_group * rays * (64.0 + 12.0 * nodes)
    follow = slots * n_group * rays * nodes * (2.0 * TRILINEAR / 3 + 10.0)
    traffic = state + 4.0 * (per_group + 2 * n_slice * rays)
    work["advance"] = Work(slots, traffic, SCATTER * per_group + follow)
    if march.mixes:
        lanes = float(rays * LANES)
        here = moves.moved * rays
        work["mix"] = Work(slots - 1, here * (8.0 * nodes + 32.0), here * (nodes * TRILINEAR + LANES * SHARE))
        work["move_u"] = Work(
            slots - 1, 4.0 * lanes * (moves.moved + moves.bins), (SHARE + 3.0) * moves.taps[0] * lanes
        )
        kept = 2.0 * ((slots - 1) * n_group - moves.moved)
        work["move_v"] = Work(slots - 1, 4.0 * lanes * (moves.bins + moves.moved + kept), 2.0 * moves.taps[1] * lanes)
    return work


@dataclass(slots=True)
class _Moves:
    """moved: how often a group's fluence moves; bins and taps (u, v): summed over those."""

    moved: int = 0
    bins: int = 0
    taps: tuple[float, float] = (0.0, 0.0)


def _spread(march: March, backend: CpuBackend) -> tuple[int, tuple[float, float], _Moves]:
    """Width bins in use and their taps along u and v, summed over slices, and what moving takes."""
    frustum, tables = march.rays.frustum, march.tables
    px = frustum.pitch_mm * frustum.magnification
    step = BIN_PIXELS * frustum.pitch_mm
    end = tables.lane_mean.shape[1] - 1
    total, taps, moves = 0, np.zeros(2), _Moves()
    for part in backend.intervals(march):
        for k in range(part.first, part.last):
            at, used = k - part.first, np.zeros(N_BINS, dtype=np.bool_)
            for g in range(len(tables.lanes)):
                row = np.maximum(part.wet[g, at] * PER_MM, 0.0).astype(int)
                met = march.active[g] & (row < end)
                mean = tables.lane_mean[g][np.minimum(row, end)]
                variance = part.spread[g, 0, at] + mean * part.spread[g, 1, at]
                used |= _bins(np.maximum(variance, 0.0)[met] + march.residual_mm2[k, g], step)
            total += int(used.sum())
            taps += _taps(used, step, px[k])
        for g, jump in part.jumps.items():
            variance = np.maximum(jump[0] + tables.lanes[g][:, None, None] * jump[1], 0.0)
            used = _bins(variance.ravel(), step)
            more = _taps(used, step, px[part.last - 1])
            moves.moved, moves.bins = moves.moved + 1, moves.bins + int(used.sum())
            moves.taps = (moves.taps[0] + more[0], moves.taps[1] + more[1])
    return total, (float(taps[0]), float(taps[1])), moves


def _bins(variance: np.ndarray, step: float) -> np.ndarray:
    """(N_BINS,) True for the bins that these variances are shared between."""
    lower = np.minimum((np.sqrt(variance) / step).astype(int), N_BINS - 2)
    used = np.zeros(N_BINS, dtype=np.bool_)
    used[lower] = used[lower + 1] = True
    return used


def _taps(used: np.ndarray, step: float, px: np.ndarray) -> np.ndarray:
    """(2,) taps along u and v of all bins in use."""
    sigma = np.flatnonzero(used)[:, None] * step / px
    radius = np.minimum(np.ceil(CUT_SIGMAS * sigma), MAX_RADIUS)
    taps: np.ndarray = (2.0 * radius + 1.0).sum(axis=0)
    return taps

"""The CPU backend: numba kernels that release the interpreter lock, on a pool of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Final, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from doseeng import cpu_photon
from doseeng._kernels import march as kernels
from doseeng._kernels import rays as ray_kernels
from doseeng._kernels import trace as trace_kernels
from doseeng._kernels.scalar import LANES
from doseeng._kernels.trace import PADDING
from doseeng.backend import Cones, Float32, March, Materials, Rays
from doseeng.beamseye import Array, Frustum
from doseeng.layers import MIXING_LEVELS_MM, TABLE_STEP_MM

Result = TypeVar("Result")
N_BINS: Final = 24
"""Width bins; the last one holds everything wider."""
BIN_PIXELS: Final = 0.5
"""Width step between bins in rays. Mixing neighbours keeps the variance; of the fourth moment it misses 1 % from 5 rays
of sigma on, more below, where the fluence is wider than the scatter."""
PATHS: Final = 6
"""Paths around each ray that sample what protons arriving there came through."""
PATH_RADIUS: Final = 2.0
"""Their distance in standard deviations; with half of the weight on the ray itself mean and fourth radial moment are
those of a Gaussian."""
UNIFORM_MM: Final = 0.01
"""A slab that varies by less is the same for all paths."""
DEPTH_TOLERANCE_MM: Final = 2.0
"""Fluence stays on its rays until some path has become so much deeper or shallower than its ray since the last move:
in the reference cases anything from 0.5 to 3 mm gives the same gamma."""
PER_MM: Final = np.float32(1.0 / TABLE_STEP_MM)
TASKS_PER_THREAD: Final = 2


def path_nodes() -> Float32:
    """(PATHS, 3) x, y in standard deviations and weight of the paths on the ring."""
    angle = 2.0 * np.pi * np.arange(PATHS) / PATHS
    weight = np.full(PATHS, 2.0 / (PATHS * PATH_RADIUS**2))
    return np.column_stack([PATH_RADIUS * np.cos(angle), PATH_RADIUS * np.sin(angle), weight]).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """Slices first..last-1 and their fields per group: wet, mixed (group, m, v, u), spread (group, 2, m, v, u).

    jumps: group -> (2, v, u), the variance that moves its fluence afterwards; only groups whose depths mix.
    """

    first: int
    last: int
    wet: Float32
    mixed: Float32
    spread: Float32
    jumps: dict[int, Float32]


class CpuBackend:
    """numba on `threads` threads (default: all cores this process may use)."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="doseeng")

    @property
    def description(self) -> str:
        """Name, numba version and threads."""
        return f"cpu (numba {numba.__version__}, {self.threads} threads)"

    @property
    def workers(self) -> int:
        """Its threads."""
        return self.threads

    @property
    def shares(self) -> int:
        """How many parts this thread's work is split into: one where it works alone."""
        return 1 if getattr(self._local, "alone", False) else self.threads

    def put(self, array: npt.ArrayLike) -> Float32:
        """A contiguous float32 array."""
        return np.ascontiguousarray(array, dtype=np.float32)

    def get(self, array: Any) -> Float32:
        """The array itself."""
        values: Float32 = array
        return values

    def zeros(self, shape: tuple[int, ...]) -> Float32:
        """Float32 zeros."""
        return np.zeros(shape, dtype=np.float32)

    def together(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """As `Backend.together`: each task in a thread of its own, unless there is but one thread.

        Where the tasks alone keep all threads busy, none shares its kernels' work out: no waiting for each other.
        """
        if self.threads == 1:
            return [task() for task in tasks]

        def run(task: Callable[[], Result]) -> Result:
            self._local.alone = len(tasks) % self.threads == 0
            return task()

        with ThreadPoolExecutor(len(tasks), thread_name_prefix="doseeng-beam") as threads:
            return [done.result() for done in [threads.submit(run, task) for task in tasks]]

    def trace(
        self, materials: Materials, to_index: Array, frustum: Frustum, samples: int, of: npt.NDArray[np.bool_]
    ) -> Rays:
        """As `Backend.trace`."""
        found = np.zeros((2, *frustum.shape), dtype=np.float32)
        self.over_rows(
            frustum.shape[1],
            lambda a, b: trace_kernels.trace(
                materials.stopping, materials.spreading, to_index, *frustum.description, samples, of, a, b, *found
            ),
        )
        return Rays(frustum, *found)

    def wet_mm(self, rays: Rays, of: npt.NDArray[np.bool_]) -> Float32:
        """As `Backend.wet_mm`."""
        depth = np.cumsum(rays.stopping[:, of] * rays.frustum.step_mm[of], axis=0)
        faces = np.concatenate([np.zeros((1, depth.shape[1]), dtype=np.float32), depth])
        return np.stack([faces.min(axis=1), faces.max(axis=1)], axis=1)

    def march(self, march: March, fluence: Any, tables_dose: Any, out: Any) -> None:
        """As `Backend.march`."""
        fluence = fluence.copy() if march.scatters else fluence
        common = _slice_arguments(march, tables_dose)
        for part in self.intervals(march):

            def slab(task: slice, part: Interval = part) -> None:
                # From one slice ahead, so that where slabs are cut, and so the number of threads, changes no bit.
                seen = slice(max(task.start - 1, part.first), task.stop)
                bins, used = self._scratch(task.stop - task.start, *out.shape[1:])
                kernels.slab_dose(fluence, *common(seen, part), bins, used, out[task])

            self.each(slab, self._slabs(part))

            def move(g: int, part: Interval = part) -> None:
                bins, used = self._scratch(1, fluence.shape[1], fluence.shape[2] * LANES)
                kernels.move_fluence(fluence[g], *_jump(march, part, g), bins[0], used[0])

            self.each(move, part.jumps)

    def march_back(self, march: March, dose: Any, tables_dose: Any) -> Float32:
        """As `Backend.march_back`."""
        shape = (len(march.active), *march.rays.frustum.shape[1:], LANES)
        fluence = np.zeros(shape, dtype=np.float32)
        common = _slice_arguments(march, tables_dose)
        everywhere = np.ones(shape[:-1], dtype=np.bool_)
        for part in reversed(list(self.intervals(march))):

            def move(g: int, part: Interval = part) -> None:
                kernels.move_back(fluence[g], *_jump(march, part, g), N_BINS)

            self.each(move, part.jumps)
            whole = slice(part.first, part.last)
            kernels.slab_fluence(dose[whole], *common(whole, part), N_BINS, everywhere, fluence)
        fluence[~march.active] = 0.0
        return fluence

    def release(self, rays: Rays, fluence: Any, depth_scale: Any, table: Float32, per_mm: float) -> Float32:
        """As `Backend.release`."""
        return cpu_photon.release(self, rays, fluence, depth_scale, table, per_mm)

    def carry(self, rays: Rays, released: Any, modes: Float32, out: Any) -> None:
        """As `Backend.carry`."""
        cpu_photon.carry(self, rays, released, modes, out)

    def cones(self, rays: Rays, released: Any, sets: Sequence[Cones], out: Any) -> None:
        """As `Backend.cones`."""
        cpu_photon.cones(self, rays, released, sets, out)

    def settle(self, rays: Rays, released: Any, out: Any) -> None:
        """As `Backend.settle`."""
        cpu_photon.settle(rays, released, out)

    def add_to_grid(
        self, values: Any, frustum: Frustum, to_gantry: Array, depth_mm: float, box: tuple[int, ...], out: Any
    ) -> None:
        """As `Backend.add_to_grid`."""
        n_slice = frustum.shape[0]
        columns = np.empty((*frustum.shape[1:], n_slice + 1 + 2 * PADDING), dtype=np.float32)
        columns[..., : PADDING + 1] = 0.0
        inside = columns[..., PADDING + 1 : PADDING + 1 + n_slice]
        np.cumsum((values * _slice_weight(frustum)).transpose(1, 2, 0), axis=2, out=inside)
        columns[..., PADDING + 1 + n_slice :] = inside[..., -1:]
        self.over_rows(
            box[5] - box[4],
            lambda a, b: trace_kernels.add_to_grid(
                columns, *_lengths(frustum, to_gantry, depth_mm), np.array(box[:4]), box[4] + a, box[4] + b, out
            ),
        )

    def from_grid(
        self, dose: Any, frustum: Frustum, to_gantry: Array, depth_mm: float, box: tuple[int, ...]
    ) -> Float32:
        """As `Backend.from_grid`."""
        n_slice = frustum.shape[0]
        columns = np.zeros((*frustum.shape[1:], n_slice + 1 + 2 * PADDING), dtype=np.float32)
        lengths = _lengths(frustum, to_gantry, depth_mm)
        trace_kernels.add_to_columns(dose, *lengths, np.array(box[:4]), box[4], box[5], columns)
        # A slice adds to every face below it.
        below = np.cumsum(columns[..., :PADDING:-1], axis=2)[..., ::-1][..., :n_slice]
        values: Float32 = np.ascontiguousarray(below.transpose(2, 0, 1) * _slice_weight(frustum))
        return values

    def intervals(self, march: March) -> Iterator[Interval]:
        """The fields of the march, interval by interval."""
        return self._core_intervals(march) if march.scatters else self._secondary_intervals(march)

    def _core_intervals(self, march: March) -> Iterator[Interval]:
        rays, tables = march.rays, march.tables
        shape = rays.frustum.shape[1:]
        groups = len(tables.lanes)
        nodes = path_nodes() if march.mixes else np.zeros((0, 3), dtype=np.float32)
        straight, offset, mixing = (np.zeros((groups, *shape), dtype=np.float32) for _ in range(3))
        moments = np.zeros((groups, *shape, 8), dtype=np.float32)
        paths, at_move = (np.zeros((groups, len(nodes), *shape), dtype=np.float32) for _ in range(2))
        wanted = np.ones_like(march.active) if march.mixes else march.active
        step, px, scale = rays.frustum.step_mm, _pixels(rays.frustum), np.float32(march.scale)
        straight[:] = rays.stopping[: march.bounds[0]].sum(axis=0) * step * scale
        tasks = [(g, rows) for g in range(groups) for rows in self._row_blocks(shape[0], groups)]
        for first, last in pairwise(march.bounds):
            fields = _fields(groups, last - first, shape)

            def advance(task: Any, first: int = first, last: int = last, fields: Any = fields) -> None:
                g, rows = task
                ray_kernels.core_interval(
                    rays.stopping, rays.spreading, scale, step, tables.power_p[g], tables.power_q[g], PER_MM, first,
                    last, rows, wanted[g], straight[g], offset[g], mixing[g], moments[g], *(f[g] for f in fields),
                )  # fmt: skip

            self.each(advance, tasks)
            part = Interval(first, last, *fields, {})
            if march.mixes and last < march.bounds[-1]:
                slab = rays.stopping[first:last].sum(axis=0) * step * scale
                uniform = bool(np.ptp(slab) < UNIFORM_MM)
                here = px[last - 1]

                def follow(task: Any, slab: Float32 = slab, uniform: bool = uniform, here: Float32 = here) -> Any:
                    g, rows = task
                    return g, ray_kernels.follow_paths(
                        slab, uniform, tables.lane_mean[g], PER_MM, here, nodes, rows, march.active[g], straight[g],
                        offset[g], moments[g], paths[g], at_move[g],
                    )  # fmt: skip

                moving = {g for g, change in self.each(follow, tasks) if change > DEPTH_TOLERANCE_MM}
                new_offset, new_mixing = np.empty_like(offset), np.empty_like(mixing)

                def mix(task: Any, here: Float32 = here, new: Any = (new_offset, new_mixing)) -> None:
                    g, rows = task
                    ray_kernels.mix_depths(
                        tables.lane_mean[g], PER_MM, here, nodes, rows, straight[g], offset[g], moments[g], paths[g],
                        new[0][g], new[1][g],
                    )  # fmt: skip

                self.each(mix, [task for task in tasks if task[0] in moving])
                for g in sorted(moving):
                    offset[g], mixing[g], at_move[g] = new_offset[g], new_mixing[g], paths[g]
                    part.jumps[g] = np.stack([moments[g, ..., ray_kernels.A2_P], moments[g, ..., ray_kernels.A2_Q]])
                    moments[g, ..., ray_kernels.A2_P] = moments[g, ..., ray_kernels.A2_Q] = 0.0
            yield part

    def _secondary_intervals(self, march: March) -> Iterator[Interval]:
        rays, tables = march.rays, march.tables
        shape = rays.frustum.shape[1:]
        groups = len(tables.lanes)
        straight = np.zeros((groups, *shape), dtype=np.float32)
        moments = np.empty((groups, *shape, 2), dtype=np.float32)
        moments[:] = march.start[:, None, None]
        step = rays.frustum.step_mm
        straight[:] = rays.stopping[: march.bounds[0]].sum(axis=0) * step * np.float32(march.scale)
        tasks = [(g, rows) for g in range(groups) for rows in self._row_blocks(shape[0], groups)]
        for first, last in pairwise(march.bounds):
            wet, mixed, spread = fields = _fields(groups, last - first, shape)

            def advance(task: Any, first: int = first, last: int = last, fields: Any = fields) -> None:
                g, rows = task
                ray_kernels.secondaries_interval(
                    rays.stopping, np.float32(march.scale), step, tables.renewal[g], np.float32(tables.angle_square),
                    np.float32(march.start_wet_mm), PER_MM, first, last, rows, march.active[g], straight[g], moments[g],
                    fields[0][g], fields[2][g, 0],
                )  # fmt: skip

            self.each(advance, tasks)
            yield Interval(first, last, wet, mixed, spread, {})

    def _slabs(self, part: Interval) -> list[slice]:
        edges = np.linspace(part.first, part.last, self.threads + 1).astype(int)
        return [slice(int(a), int(b)) for a, b in pairwise(edges) if b > a]

    def _scratch(self, n: int, n_v: int, n_u: int) -> tuple[Float32, npt.NDArray[np.bool_]]:
        """This thread's (n, bin, v, u) bins and (n, bin, v) flags, all zero; kernels leave them so."""
        kept = self._local.__dict__.setdefault(f"{n_v} x {n_u}", {})
        if not kept or len(kept["bins"]) < n:
            kept["bins"] = np.zeros((n, N_BINS, n_v, n_u), dtype=np.float32)
            kept["used"] = np.zeros((n, N_BINS, n_v), dtype=np.bool_)
        return kept["bins"], kept["used"]

    def _row_blocks(self, n: int, tasks: int) -> list[np.ndarray]:
        blocks = max(1, -(-self.threads * TASKS_PER_THREAD // tasks))
        edges = np.linspace(0, n, min(blocks, n) + 1).astype(np.int64)
        return [np.array(pair) for pair in pairwise(edges)]

    def over_rows(self, n: int, work: Callable[[int, int], None]) -> None:
        """work(first, last) over blocks of n rows."""
        self.each(lambda rows: work(int(rows[0]), int(rows[1])), self._row_blocks(n, 1))

    def each(self, work: Callable[[Any], Any], tasks: Any) -> list[Any]:
        """work(task) for every task, on the pool unless this thread works alone; kernels release the lock."""
        if self.shares == 1:
            return [work(task) for task in tasks]
        return list(self._pool.map(work, tasks))


@cache
def cpu() -> CpuBackend:
    """The CPU backend on all cores; one pool of threads per process."""
    return CpuBackend()


def _fields(groups: int, n: int, shape: tuple[int, int]) -> tuple[Float32, Float32, Float32]:
    wet, mixed = (np.zeros((groups, n, *shape), dtype=np.float32) for _ in range(2))
    return wet, mixed, np.zeros((groups, 2, n, *shape), dtype=np.float32)


def _pixels(frustum: Frustum) -> Float32:
    pixels: Float32 = (frustum.pitch_mm * frustum.magnification).astype(np.float32)
    return pixels


def _lengths(frustum: Frustum, to_gantry: Array, depth_mm: float) -> tuple[Any, ...]:
    """The arguments of `add_to_grid` that are lengths, as float32."""
    numbers = np.array((*frustum.description, 0.5 * depth_mm), dtype=np.float32)
    return to_gantry.astype(np.float32).ravel(), *numbers


def _slice_weight(frustum: Frustum) -> Float32:
    """(n_slice, 1, 1) from dose per fluence in the isocentre plane to dose times slice thickness."""
    weight: Float32 = (frustum.slice_mm / np.prod(frustum.magnification, axis=1)).astype(np.float32)[:, None, None]
    return weight


def _slice_arguments(march: March, tables_dose: Any) -> Callable[[slice, Interval], tuple[Any, ...]]:
    frustum, rsp = march.rays.frustum, march.rays.stopping
    levels = np.array(MIXING_LEVELS_MM[: tables_dose.shape[1]], dtype=np.float32) ** 2
    step, px = frustum.step_mm, _pixels(frustum)
    bin_step = np.float32(BIN_PIXELS * frustum.pitch_mm)

    def of(k: slice, part: Interval) -> tuple[Any, ...]:
        at = slice(k.start - part.first, k.stop - part.first)
        return (
            tables_dose, levels, PER_MM, rsp[k], np.float32(march.scale), step, part.wet[:, at], part.mixed[:, at],
            part.spread[:, :, at], march.tables.lane_mean, march.residual_mm2[k], march.excess_mm2[k], px[k], bin_step,
        )  # fmt: skip

    return of


def _jump(march: March, part: Interval, g: int) -> tuple[Any, ...]:
    frustum = march.rays.frustum
    bin_step = np.float32(BIN_PIXELS * frustum.pitch_mm)
    return part.jumps[g], march.tables.lanes[g], bin_step, _pixels(frustum)[part.last - 1]

"""The CUDA backend: everything stays on the device from the materials to the dose; the host only launches.

Geometry comes first and alone (depths, widths, when and how far fluence moves), because no fluence changes it; then the
fluence of every interval, then the deposits of all slices at once. Whether fluence moves is a flag on the device, so
the host never waits inside a march. Only `wet_mm` and `get` bring numbers back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from doseeng import cuda_photon
from doseeng._kernels.cuda import march as kernels
from doseeng._kernels.cuda import rays as ray_kernels
from doseeng._kernels.cuda import trace as trace_kernels
from doseeng._kernels.cuda.device import Kernel
from doseeng._kernels.march import MAX_RADIUS
from doseeng._kernels.scalar import LANES
from doseeng.backend import Cones, Float32, March, Materials, Rays, Result
from doseeng.beamseye import Array, Frustum
from doseeng.cpu import BIN_PIXELS, DEPTH_TOLERANCE_MM, N_BINS, PER_MM, path_nodes
from doseeng.cuda_device import Device, Launch
from doseeng.layers import MIXING_LEVELS_MM

SPREAD_BYTES: Final = 1 << 28
"""Width bins of so many slices are held at once as fit this."""
KEPT_FRUSTA: Final = 512
"""Rays whose lengths are kept on the device: those of an arc, fine and coarse."""


@dataclass(frozen=True, slots=True, eq=False)
class _Numbers:
    """What a march needs of its slices and layers, on the device.

    bounds: (slot + 1,) and slot: (slice,) int32. residual: (slice, group), excess: (slice,), px_mm: (slice, 2).
    px_at_move: (slot, 2) pixels where the intervals end. levels: (level,) variances of depth that tables are blurred
    by. active: (group, v, u) uint8. The rest as in `layers.Tables`.
    """

    bounds: Any
    slot: Any
    residual: Any
    excess: Any
    px_mm: Any
    px_at_move: Any
    nodes: Any
    start: Any
    levels: Any
    step_mm: Any
    active: Any
    lanes: Any
    lane_mean: Any
    power_p: Any
    power_q: Any
    renewal: Any


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """What decides where fluence goes; arrays of the device, named as in `_kernels.cuda`."""

    n: _Numbers
    first: int
    tops: Any
    offset: Any
    mixing: Any
    variance: Any
    moved: Any
    jump: Any
    used: Any

    @property
    def slots(self) -> int:
        """Number of intervals."""
        return int(self.offset.shape[0])


class CudaBackend:
    """numba.cuda kernels on `device`; `doseeng.cuda` makes one. spread_bytes: memory for some slices' width bins."""

    def __init__(self, device: Device, spread_bytes: int = SPREAD_BYTES) -> None:
        self.device = device
        self.spread_bytes = spread_bytes
        self._steps: dict[tuple[Any, ...], Any] = {}

    @property
    def description(self) -> str:
        """Name, GPU and library versions."""
        return self.device.description

    def put(self, array: npt.ArrayLike) -> Any:
        """A contiguous float32 array on the device."""
        return self.device.put(array, np.float32)

    def get(self, array: Any) -> Float32:
        """A copy on the host, once all work before is done."""
        values: Float32 = self.device.to_host(array)
        return values

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Float32 zeros on the device."""
        return self.device.xp.zeros(shape, dtype=np.float32)

    @property
    def workers(self) -> int:
        """One: launches are in order."""
        return 1

    def together(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """As `Backend.together`: one after the other, for the host is what takes time and the device runs behind it."""
        return [task() for task in tasks]

    def trace(
        self, materials: Materials, to_index: Array, frustum: Frustum, samples: int, of: npt.NDArray[np.bool_]
    ) -> Rays:
        """As `Backend.trace`."""
        rsp, scattering = self.empty(frustum.shape), self.empty(frustum.shape)
        line = _lines(to_index, frustum, samples)
        arguments = (materials.stopping, materials.spreading, line, samples, self._mask(of), rsp, scattering)
        self.run(trace_kernels.trace, frustum.shape, *arguments)
        return Rays(frustum, rsp, scattering)

    def wet_mm(self, rays: Rays, of: npt.NDArray[np.bool_]) -> Float32:
        """As `Backend.wet_mm`; waits for the device."""
        n_slice, n_v, n_u = rays.frustum.shape
        faces = self.empty((n_slice + 1, n_v, n_u))
        self.run(ray_kernels.depths, (n_v, n_u), rays.stopping, self.step_mm(rays.frustum), 1.0, 0, faces)
        rows, out = self.empty((n_slice + 1, n_v, 2)), self.empty((n_slice + 1, 2))
        self.run(ray_kernels.row_ranges, (n_slice + 1, n_v), faces, self._mask(of), rows)
        self.run(ray_kernels.face_ranges, (n_slice + 1,), rows, out)
        return self.get(out)

    def march(self, march: March, fluence: Any, tables_dose: Any, out: Any) -> None:
        """As `Backend.march`."""
        geometry = self.geometry(march)
        slots = self._fluence_slots(geometry, march, fluence)
        n, bin_step = geometry.n, _bin_step(march)
        taps = self.taps(bin_step, N_BINS, n.excess, n.px_mm)
        for chunk, bins, work in self.chunks(len(geometry.tops) - 1, N_BINS, *march.active.shape[1:]):
            used = self.device.xp.zeros(bins.shape[:2], dtype=np.int32)
            threads = (bins.shape[0], *out.shape[1:])
            self.run(
                kernels.deposit, threads, chunk, geometry.first, n.slot, slots, tables_dose, n.levels, PER_MM,
                march.rays.stopping, march.scale, n.step_mm, n.lane_mean, geometry.tops, geometry.offset,
                geometry.mixing, geometry.variance, n.residual, bin_step, bins, used,
            )  # fmt: skip
            self.run(kernels.spread_u, threads, chunk, bins, used, *taps, work)
            self.run(kernels.spread_v, threads, chunk, geometry.first, work, used, *taps, out)

    def march_back(self, march: March, dose: Any, tables_dose: Any) -> Any:
        """As `Backend.march_back`."""
        geometry = self.geometry(march)
        n_group, n_v, n_u = march.active.shape
        fluence = self.zeros((geometry.slots, n_group, n_v, n_u, LANES))
        n, bin_step = geometry.n, _bin_step(march)
        taps = self.taps(bin_step, N_BINS, n.excess, n.px_mm)
        for chunk, bins, work in self.chunks(len(geometry.tops) - 1, N_BINS, *march.active.shape[1:]):
            all_bins = self.device.put(np.ones(bins.shape[:2]), np.int32)
            threads = (bins.shape[0], n_v, n_u)
            self.run(kernels.gather_v, threads, chunk, geometry.first, dose, *taps, work)
            self.run(kernels.spread_u, threads, chunk, work, all_bins, *taps, bins)
            self.run(
                kernels.collect, (geometry.slots * n_group, n_v, n_u), chunk, geometry.first, n.bounds, bins,
                tables_dose, n.levels, PER_MM, march.rays.stopping, march.scale, n.step_mm, geometry.tops,
                geometry.offset, geometry.mixing, geometry.variance, n.residual, bin_step, fluence,
            )  # fmt: skip
        return self._fluence_back(geometry, march, fluence)

    def release(self, rays: Rays, fluence: Any, depth_scale: Any, table: Float32, per_mm: float) -> Any:
        """As `Backend.release`."""
        return cuda_photon.release(self, rays, fluence, depth_scale, table, per_mm)

    def carry(self, rays: Rays, released: Any, modes: Float32, out: Any) -> None:
        """As `Backend.carry`."""
        cuda_photon.carry(self, rays, released, modes, out)

    def cones(self, rays: Rays, released: Any, sets: Sequence[Cones], out: Any) -> None:
        """As `Backend.cones`."""
        cuda_photon.cones(self, rays, released, sets, out)

    def settle(self, rays: Rays, released: Any, out: Any) -> None:
        """As `Backend.settle`."""
        cuda_photon.settle(self, rays, released, out)

    def add_to_grid(
        self, values: Any, frustum: Frustum, to_gantry: Array, depth_mm: float, box: tuple[int, ...], out: Any
    ) -> None:
        """As `Backend.add_to_grid`."""
        n_slice, n_v, n_u = frustum.shape
        faces = self.empty((n_slice + 1, n_v, n_u))
        self.run(trace_kernels.integrate, (n_v, n_u), values, self.put(_slice_weight(frustum)), faces)
        self.run(trace_kernels.add_to_grid, _extent(box), faces, *_placed(to_gantry, frustum, depth_mm, box), out)

    def from_grid(self, dose: Any, frustum: Frustum, to_gantry: Array, depth_mm: float, box: tuple[int, ...]) -> Any:
        """As `Backend.from_grid`."""
        n_slice, n_v, n_u = frustum.shape
        faces, values = self.zeros((n_slice + 1, n_v, n_u)), self.empty(frustum.shape)
        self.run(trace_kernels.add_to_faces, _extent(box), dose, *_placed(to_gantry, frustum, depth_mm, box), faces)
        self.run(trace_kernels.integrate_back, (n_v, n_u), faces, self.put(_slice_weight(frustum)), values)
        return values

    def geometry(self, march: March) -> Geometry:
        """Depths and widths of a march; components that do not mix are one interval, for their fluence stays."""
        if not march.mixes:
            march = replace(march, bounds=(march.bounds[0], march.bounds[-1]))
        n_group, n_v, n_u = march.active.shape
        first, n_slice, slots = march.bounds[0], march.bounds[-1] - march.bounds[0], len(march.bounds) - 1
        n = self._numbers(march)
        tops = self.empty((n_slice + 1, n_v, n_u))
        self.run(ray_kernels.depths, (n_v, n_u), march.rays.stopping, n.step_mm, march.scale, first, tops)
        geometry = Geometry(
            n=n,
            first=first,
            tops=tops,
            offset=self.zeros((slots, n_group, n_v, n_u)),
            mixing=self.zeros((slots, n_group, n_v, n_u)),
            variance=self.empty((n_slice, n_group, n_v, n_u)),
            moved=self.device.xp.zeros((slots, n_group), dtype=np.int32),
            jump=self.empty((slots - 1, 2, n_group, n_v, n_u)),
            used=self.device.xp.zeros((slots, n_group, N_BINS), dtype=np.int32),
        )
        if march.scatters:
            self._scatter(geometry, march)
        else:
            self.run(
                ray_kernels.secondaries, (n_group, n_v, n_u), tops, n.step_mm, n.renewal, march.tables.angle_square,
                march.start_wet_mm, PER_MM, n.start, geometry.variance,
            )  # fmt: skip
        return geometry

    def _scatter(self, geometry: Geometry, march: March) -> None:
        """Fermi-Eyges moments and the mixing of depths, interval by interval."""
        n, shape = geometry.n, march.active.shape
        moments = self.zeros((8, *shape))
        paths, at_move = (self.zeros((shape[0], len(n.nodes), *shape[1:])) for _ in range(2))
        advance = self.device.bind(
            ray_kernels.advance, shape, n.bounds, geometry.first, geometry.tops, march.rays.spreading, n.step_mm,
            n.power_p, n.power_q, n.lane_mean, PER_MM, n.nodes, n.px_at_move, n.active, DEPTH_TOLERANCE_MM,
            geometry.offset, moments, paths, at_move, geometry.variance, geometry.moved,
        )  # fmt: skip
        mix = self.device.bind(
            ray_kernels.mix, shape, n.bounds, geometry.first, geometry.tops, n.lane_mean, PER_MM, n.nodes, n.px_at_move,
            n.lanes, _bin_step(march), N_BINS, geometry.moved, geometry.offset, geometry.mixing, moments, paths,
            at_move, geometry.jump, geometry.used,
        )  # fmt: skip
        for j in range(geometry.slots - 1):
            advance(j)
            mix(j)
        advance(geometry.slots - 1)

    def _fluence_slots(self, geometry: Geometry, march: March, fluence: Any) -> Any:
        """(slot, group, v, u, LANES) fluence of every interval."""
        if geometry.slots == 1:
            return fluence[None]
        slots = self.empty((geometry.slots, *fluence.shape))
        self.device.xp.copyto(slots[0], fluence)
        move_u, move_v = self._moves(geometry, march, kernels.move_u, kernels.move_v, slots)
        for j in range(geometry.slots - 1):
            move_u(j)
            move_v(j)
        return slots

    def _fluence_back(self, geometry: Geometry, march: March, slots: Any) -> Any:
        """The transpose of `_fluence_slots`, on active rays."""
        if geometry.slots > 1:
            back_u, back_v = self._moves(geometry, march, kernels.back_u, kernels.back_v, slots)
            for j in reversed(range(geometry.slots - 1)):
                back_v(j)
                back_u(j)
        n_group, n_v, n_u = march.active.shape
        out = self.empty(slots.shape[1:])
        self.run(kernels.on_active, (n_group, n_v, n_u * LANES), slots, geometry.n.active, out)
        return out

    def _moves(
        self, geometry: Geometry, march: March, along_u: Kernel, along_v: Kernel, slots: Any
    ) -> tuple[Launch, Launch]:
        """The two halves of moving fluence after interval j, or of the transpose."""
        n_group, n_v, n_u = march.active.shape
        no_excess = self.zeros((geometry.slots,))
        taps = self.taps(_bin_step(march), N_BINS, no_excess, geometry.n.px_at_move)
        work = self.empty((n_group, N_BINS, n_v, n_u, LANES))
        shape = (n_group, n_v, n_u * LANES)
        when = (geometry.moved, geometry.used, *taps)
        given, taken = (slots, work) if along_u is kernels.move_u else (work, slots)
        jump = (geometry.n.lanes, _bin_step(march), geometry.jump)
        return (
            self.device.bind(along_u, shape, *jump, *when, given, taken),
            self.device.bind(along_v, shape, *when, taken, given),
        )

    def chunks(self, n_slice: int, n_bin: int, n_v: int, n_u: int) -> Iterator[tuple[int, Any, Any]]:
        """First slice, bins (m, bin, v, u) of zeros, and as large a scratch; a few slices at a time to bound memory."""
        m = min(max(1, self.spread_bytes // (4 * n_bin * n_v * n_u)), n_slice)
        for chunk in range(0, n_slice, m):
            shape = (min(m, n_slice - chunk), n_bin, n_v, n_u)
            yield chunk, self.zeros(shape), self.empty(shape)

    def taps(self, bin_step: float, n_bin: int, excess: Any, px_mm: Any) -> tuple[Any, Any]:
        """Half kernels of all bins (row, bin, axis, tap) and their radii, for rows of pixels and excess variance."""
        taps, radius = self.half_kernels(len(px_mm), n_bin)
        self.run(kernels.make_taps, (len(px_mm), 2, n_bin), bin_step, excess, px_mm, taps, radius)
        return taps, radius

    def half_kernels(self, rows: int, n_bin: int) -> tuple[Any, Any]:
        """Room for the half kernels of rows of pixels and bins (row, bin, axis, tap), and for their radii."""
        return self.empty((rows, n_bin, 2, MAX_RADIUS + 1)), self.device.xp.empty((rows, n_bin, 2), dtype=np.int32)

    def _numbers(self, march: March) -> _Numbers:
        frustum, tables = march.rays.frustum, march.tables
        of = slice(march.bounds[0], march.bounds[-1])
        px = frustum.pitch_mm * frustum.magnification
        ends = np.array(march.bounds[1:]) - 1
        nodes = path_nodes() if march.mixes else np.zeros((0, 3))
        levels = np.square(MIXING_LEVELS_MM[: tables.dose.shape[1]])
        slot = np.repeat(np.arange(len(march.bounds) - 1), np.diff(march.bounds))
        packed = (march.residual_mm2[of], march.excess_mm2[of], px[of], px[ends], nodes, march.start, levels)
        residual, excess, px_mm, px_at_move, nodes, start, levels = self._upload(np.float32, *packed)
        bounds, slots = self._upload(np.int32, np.array(march.bounds), slot)
        return _Numbers(
            bounds, slots, residual, excess, px_mm, px_at_move, nodes, start, levels, self.step_mm(frustum),
            self._mask(march.active), *map(self.put, (tables.lanes, tables.lane_mean, tables.power_p, tables.power_q,
            tables.renewal)),
        )  # fmt: skip

    def _upload(self, dtype: npt.DTypeLike, *arrays: npt.NDArray[Any]) -> list[Any]:
        """Small arrays in one transfer."""
        packed = self.device.put(np.concatenate([a.ravel() for a in arrays]), dtype)
        ends = np.cumsum([a.size for a in arrays])
        return [packed[end - a.size : end].reshape(a.shape) for a, end in zip(arrays, map(int, ends), strict=True)]

    def step_mm(self, frustum: Frustum) -> Any:
        """(v, u) length of each ray in one slice; a shift of the isocentre does not change it."""
        key = (frustum.first_uv_mm, frustum.pitch_mm, frustum.shape[1:], frustum.slice_mm, frustum.source_mm)
        if key not in self._steps:
            if len(self._steps) >= KEPT_FRUSTA:
                self._steps.clear()
            self._steps[key] = self.put(frustum.step_mm)
        return self._steps[key]

    def _mask(self, of: npt.NDArray[np.bool_]) -> Any:
        return self.device.put(of, np.uint8)

    def empty(self, shape: Sequence[int]) -> Any:
        """Float32 on the device, not set."""
        return self.device.xp.empty(shape, dtype=np.float32)

    def run(self, kernel: Kernel, shape: Sequence[int], *arguments: Any) -> None:
        """Launch a kernel once; as `Device.bind`."""
        self.device.bind(kernel, shape, *arguments)()


def _bin_step(march: March) -> float:
    return BIN_PIXELS * march.rays.frustum.pitch_mm


def _slice_weight(frustum: Frustum) -> Array:
    """(n_slice,) from dose per fluence in the isocentre plane to dose times slice thickness."""
    weight: Array = frustum.slice_mm / np.prod(frustum.magnification, axis=1)
    return weight


def _lines(to_index: Array, frustum: Frustum, samples: int) -> list[float]:
    """For each image axis the index of the first sample and its step: on ray (0, 0), and changes per ray (u, v)."""
    h = frustum.slice_mm / samples
    z = frustum.top_mm - 0.5 * h
    u0, v0 = frustum.first_uv_mm
    out: list[float] = []
    for m in to_index:
        # A ray is at x = u (1 - z / source), so the index is linear in u, in v and in the step downstream.
        along_u, along_v = m[0] * (1.0 - z / frustum.source_mm[0]), m[1] * (1.0 - z / frustum.source_mm[1])
        step_u, step_v = m[0] * h / frustum.source_mm[0], m[1] * h / frustum.source_mm[1]
        for value, per_u, per_v in ((m[2] * z + m[3], along_u, along_v), (-m[2] * h, step_u, step_v)):
            pitch = frustum.pitch_mm
            out += [float(value + u0 * per_u + v0 * per_v), float(per_u * pitch), float(per_v * pitch)]
    return out


def _placed(to_gantry: Array, frustum: Frustum, depth_mm: float, box: tuple[int, ...]) -> tuple[Any, ...]:
    """Affine, frustum, depth and box as `add_to_grid` takes them."""
    return to_gantry.ravel(), frustum.description, depth_mm, *map(int, box)


def _extent(box: tuple[int, ...]) -> tuple[int, ...]:
    return int(box[5] - box[4]), int(box[3] - box[2]), int(box[1] - box[0])

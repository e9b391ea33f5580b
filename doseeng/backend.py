"""Where the engine computes: `cpu` (numba, threads) or `cuda` (numba.cuda kernels on CuPy arrays).

A backend is passed in; there is no global one. Its arrays stay where it computes; `put` and `get` move them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from doseeng.beamseye import Array, Frustum
from doseeng.errors import BackendUnavailable, ConfigError
from doseeng.layers import Tables

Float32 = npt.NDArray[np.float32]
Result = TypeVar("Result")
BACKENDS: Final = ("auto", "cpu", "cuda")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Materials:
    """(z, y, x) float32 arrays of the backend, relative to water. stopping: what depth grows with, the stopping power
    for protons and the attenuation for photons. spreading: what widens with it, the scattering power for protons and
    the electron density for photons."""

    stopping: Any
    spreading: Any


@dataclass(frozen=True, slots=True, eq=False)
class Rays:
    """What every ray of a frustum meets, as `Materials`: (n_slice, n_v, n_u) float32 arrays of the backend."""

    frustum: Frustum
    stopping: Any
    spreading: Any


@dataclass(frozen=True, slots=True, eq=False)
class Cones:
    """Collapsed cones of one frustum that march downstream, or all upstream. directions (n, 3): share, per_mm of water,
    path over slice thickness. offsets (n, n_slice, 2): whole rays (v, u) that each moves into a slice."""

    directions: Float32
    offsets: npt.NDArray[np.int64]
    upstream: bool


@dataclass(frozen=True, slots=True, eq=False)
class March:
    """One component of one beam in one scenario.

    scatters: Fermi-Eyges moments, and fluence that moves on between intervals; else secondaries. mixes: depths mix.
    scale: of all stopping powers. bounds: first slice of each interval, and one past the last. residual_mm2: (n_slice,
    group) variance that the fluence does not hold; excess_mm2: (n_slice,) half of its x-y difference. start: (group, 2)
    moments of secondaries at the first slice, which are at rest before start_wet_mm. active: (group, n_v, n_u) rays
    that fluence starts on.
    """

    tables: Tables
    rays: Rays
    scatters: bool
    mixes: bool
    scale: float
    bounds: tuple[int, ...]
    residual_mm2: Float32
    excess_mm2: Float32
    start: Float32
    start_wet_mm: float
    active: npt.NDArray[np.bool_]


class Backend(Protocol):
    """What a backend does. Arrays of the backend are written Any; shapes and units are those of the kernels."""

    @property
    def description(self) -> str:
        """Name, library versions and device, for provenance."""

    @property
    def workers(self) -> int:
        """How many independent tasks it can work on at the same time."""

    def put(self, array: npt.ArrayLike) -> Any:
        """A float32 array of the backend."""

    def get(self, array: Any) -> Float32:
        """The same as a NumPy array."""

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Float32 zeros."""

    def together(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """The results of independent tasks (beams of a plan), which may run at the same time."""

    def trace(self, materials: Materials, to_index: Array, frustum: Frustum, samples: int,
              of: npt.NDArray[np.bool_]) -> Rays:  # fmt: skip
        """Sample materials along the rays `of` (n_v, n_u), `samples` points per slice; the others are in vacuum.

        to_index: (3, 4) affine from gantry mm to the image index.
        """

    def wet_mm(self, rays: Rays, of: npt.NDArray[np.bool_]) -> Float32:
        """(n_slice + 1, 2) lowest and highest water-equivalent depth at each face of the rays `of` (n_v, n_u)."""

    def march(self, march: March, fluence: Any, tables_dose: Any, out: Any) -> None:
        """out (n_slice, n_v, n_u) += Gy mm2 per 1e9 protons times fluence (group, n_v, n_u, LANES)."""

    def march_back(self, march: March, dose: Any, tables_dose: Any) -> Any:
        """The transpose of `march` on its active rays: fluence from dose."""

    def release(self, rays: Rays, fluence: Any, depth_scale: Any, table: Float32, per_mm: float) -> Any:
        """(n_slice, n_v, n_u) energy that photons of fluence (n_v, n_u) set free in each slice.

        depth_scale (n_v, n_u): attenuation of each ray over the axis. table: energy per mm of water, per_mm depths.
        """

    def carry(self, rays: Rays, released: Any, modes: Float32, out: Any) -> None:
        """out (n_slice, n_v, n_u) += dose to water that modes (n, 3) carry along the rays and spread across them."""

    def cones(self, rays: Rays, released: Any, sets: Sequence[Cones], out: Any) -> None:
        """out (n_slice, n_v, n_u) += dose to water along collapsed cones."""

    def settle(self, rays: Rays, released: Any, out: Any) -> None:
        """out (n_slice, n_v, n_u) += dose to water where energy is set free."""

    def add_to_grid(self, values: Any, frustum: Frustum, to_gantry: Array, depth_mm: float,
                    box: tuple[int, ...], out: Any) -> None:  # fmt: skip
        """out (z, y, x) += slice values (n_slice, n_v, n_u), averaged over depth_mm along the axis."""

    def from_grid(self, dose: Any, frustum: Frustum, to_gantry: Array, depth_mm: float, box: tuple[int, ...]) -> Any:
        """The transpose of `add_to_grid`: slice values from dose."""


def choose(name: str = "auto") -> Backend:
    """The backend of that name; `auto` takes a GPU where there is one, and says in the log what it took.

    BackendUnavailable with the reason when an explicit choice cannot be had; ConfigError for an unknown name.
    """
    from doseeng.cpu import cpu

    if name not in BACKENDS:
        raise ConfigError(f"unknown backend '{name}'; choose one of {', '.join(BACKENDS)}")
    if name == "cpu":
        return cpu()
    from doseeng.cuda import cuda

    try:
        chosen: Backend = cuda()
    except BackendUnavailable as reason:
        if name == "cuda":
            raise
        _log.info("computing on the CPU: %s", reason)
        return cpu()
    _log.info("computing on %s", chosen.description)
    return chosen

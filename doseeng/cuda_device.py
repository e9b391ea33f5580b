"""Where CUDA kernels run: a GPU through CuPy, or numba's simulator on NumPy arrays, which needs no GPU and is slow.

numba only compiles (`cuda_compile`); CuPy loads and launches. Parameters are packed once for many launches, nothing
synchronises, and numba and CuPy need not be built for one version of CUDA.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, Final, Protocol

import numba
import numpy as np
import numpy.typing as npt
from numba import cuda, types

from doseeng._kernels.cuda.device import Kernel
from doseeng.cuda_compile import entry_name, ptx_file
from doseeng.errors import BackendUnavailable

BLOCK: Final = (32, 4, 1)
"""Threads of a block: a warp along the axis that is contiguous in memory."""
Launch = Callable[..., None]


class Device(Protocol):
    """Arrays, and kernels that run on them in the order in which they are launched."""

    xp: Any
    """The array module: CuPy, or NumPy."""

    @property
    def description(self) -> str:
        """Name and versions, for provenance."""

    def bind(self, kernel: Kernel, shape: Sequence[int], *arguments: Any) -> Launch:
        """A call that runs `kernel`, a thread for each element of an array of `shape` (three axes at most, the last one
        first in `cuda.grid`). What the call is given comes before `arguments`."""

    def put(self, array: npt.ArrayLike, dtype: npt.DTypeLike) -> Any:
        """A C-ordered array of the device, a copy unless it is one already."""

    def to_host(self, array: Any) -> Any:
        """The NumPy array of the same values."""


class SimulatorDevice:
    """numba's CUDA simulator; NUMBA_ENABLE_CUDASIM=1 must be set before numba is imported."""

    xp: Any = np

    @property
    def description(self) -> str:
        """Name and numba version."""
        return f"cuda simulator (numba {numba.__version__})"

    def bind(self, kernel: Kernel, shape: Sequence[int], *arguments: Any) -> Launch:
        """As `Device.bind`; a block holds the last axis."""
        x, y, z = (*shape[::-1], 1, 1)[:3]
        run = cuda.jit(kernel.function)[(1, y, z), (x, 1, 1)]

        def launch(*leading: Any) -> None:
            given = (*leading, *arguments)
            run(*(_as_given(kind, value) for kind, value in zip(kernel.arguments, given, strict=True)))

        return launch

    def put(self, array: npt.ArrayLike, dtype: npt.DTypeLike) -> Any:
        """As `Device.put`, but always a copy: the simulator writes back what it was given."""
        return np.array(array, dtype=dtype, order="C")

    def to_host(self, array: Any) -> Any:
        """A copy."""
        return np.array(array)


class CupyDevice:
    """The current GPU, through CuPy's current stream."""

    def __init__(self, cupy: Any) -> None:
        self.xp = cupy
        device = cupy.cuda.Device()
        digits = str(device.compute_capability)
        self._id = int(device.id)
        self._capability = (int(digits[:-1]), int(digits[-1]))
        self._functions: dict[str, Any] = {}

    @property
    def description(self) -> str:
        """GPU, its memory, driver and library versions."""
        runtime = self.xp.cuda.runtime
        properties = runtime.getDeviceProperties(self._id)
        return (
            f"cuda ({properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB, driver "
            f"{runtime.driverGetVersion()}, CuPy {self.xp.__version__}, numba {numba.__version__})"
        )

    def bind(self, kernel: Kernel, shape: Sequence[int], *arguments: Any) -> Launch:
        """As `Device.bind`; the arguments are taken apart once for all calls. What comes before them are integers."""
        self.xp.cuda.runtime.setDevice(self._id)
        blocks = [max(1, -(-n // b)) for n, b in zip((*shape[::-1], 1, 1)[:3], BLOCK, strict=True)]
        return _Bound(self.xp.cuda, self._function(kernel).kernel.ptr, blocks, kernel.arguments, arguments)

    def load(self, kernel: Kernel) -> None:
        """Load a kernel before its first use; BackendUnavailable when the driver cannot take it."""
        try:
            self._function(kernel)
        except self.xp.cuda.driver.CUDADriverError as error:
            raise BackendUnavailable(
                f"no GPU backend: the driver cannot load kernels ({error}); it may be older than the compiler in "
                "nvidia-cuda-nvcc-cu12: update the driver or install an older version of that package"
            ) from error

    def put(self, array: npt.ArrayLike, dtype: npt.DTypeLike) -> Any:
        """As `Device.put`; the host does not wait."""
        return self.xp.ascontiguousarray(self.xp.asarray(array, dtype=dtype))

    def to_host(self, array: Any) -> Any:
        """A copy, once everything launched before has run."""
        return self.xp.asnumpy(array)

    def _function(self, kernel: Kernel) -> Any:
        """The kernel, loaded on the device at its first use."""
        if kernel.name not in self._functions:
            file = ptx_file(kernel, self._capability)
            name = entry_name(file.read_text())
            self._functions[kernel.name] = self.xp.RawModule(path=str(file)).get_function(name)
        return self._functions[kernel.name]


class _Bound:
    """A kernel with the parameters of its PTX packed for the driver, eight bytes each.

    It holds the arrays, so that CuPy does not give their memory away before the launch.
    """

    def __init__(
        self, cupy_cuda: Any, function: int, blocks: Sequence[int], kinds: Sequence[Any], arguments: Sequence[Any]
    ) -> None:
        leading = len(kinds) - len(arguments)
        packed = [0] * leading + [n for kind, a in zip(kinds[leading:], arguments, strict=True) for n in pack(kind, a)]
        self._arguments = arguments
        self._values = np.array(packed, dtype=np.uint64)
        self._addresses = self._values.ctypes.data + 8 * np.arange(len(packed), dtype=np.uint64)
        self._cuda = cupy_cuda
        self._fixed = (function, *blocks, *BLOCK, 0)
        self._table = self._addresses.ctypes.data

    def __call__(self, *leading: int) -> None:
        self._values[: len(leading)] = leading
        self._cuda.driver.launchKernel(*self._fixed, self._cuda.get_current_stream().ptr, self._table, 0)


def pack(kind: Any, argument: Any) -> list[int]:
    """The bits of what a kernel's PTX takes for one argument: a scalar by value, the items of a tuple, and for a
    C-ordered array two null pointers, number and size of elements, address, shape and strides."""
    if isinstance(kind, types.Array):
        _require(kind, argument)
        before, after = _layout(argument.shape, argument.dtype.itemsize)
        return [*before, int(argument.data.ptr), *after]
    if isinstance(kind, types.UniTuple):
        return [*struct.unpack(f"={len(kind)}I", struct.pack(f"={len(kind)}f", *argument))]
    return [int(argument)] if isinstance(kind, types.Integer) else [*struct.unpack("=I", struct.pack("=f", argument))]


@lru_cache(maxsize=4096)
def _layout(shape: tuple[int, ...], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What comes before and after an array's address in `pack`."""
    strides = [itemsize]
    for n in shape[:0:-1]:
        strides.append(strides[-1] * n)
    return (0, 0, math.prod(shape), itemsize), (*shape, *strides[::-1])


@cache
def _dtype(kind: Any) -> np.dtype[Any]:
    return np.dtype(str(kind.dtype))


def _require(kind: Any, argument: Any) -> None:
    """TypeError where a kernel would misread an array."""
    if argument.dtype != _dtype(kind) or argument.ndim != kind.ndim or not argument.flags.c_contiguous:
        raise TypeError(f"a kernel wants {kind}, not {argument.dtype} {argument.shape}")


def _as_given(kind: Any, argument: Any) -> Any:
    """An argument as a GPU takes it."""
    if isinstance(kind, types.Array):
        _require(kind, argument)
        return argument
    if isinstance(kind, types.UniTuple):
        return tuple(np.float32(x) for x in argument)
    return int(argument) if isinstance(kind, types.Integer) else np.float32(argument)

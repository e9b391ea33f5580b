"""Where CUDA kernels run: a GPU through CuPy, or numba's simulator on NumPy arrays, which needs no GPU and is slow.

numba only compiles: a kernel becomes PTX once per GPU generation and is kept on disk; CuPy loads and launches it. That
costs a tenth of numba's own launch, synchronises nothing, and puts numba's and CuPy's versions of CUDA apart.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Protocol

import numba
import numpy as np
import numpy.typing as npt
from numba import cuda, types

import doseeng._kernels.cuda
from doseeng._kernels.cuda.device import Kernel
from doseeng.errors import BackendUnavailable

BLOCK: Final = (32, 4, 1)
"""Threads of a block: a warp along the axis that is contiguous in memory."""
NVVM_WHEEL: Final = "nvidia.cuda_nvcc"
"""What the package nvidia-cuda-nvcc-cu12 puts into Python's path: numba's compiler to PTX without a CUDA toolkit."""

Launch = Callable[..., None]


class Device(Protocol):
    """Arrays, and kernels that run on them in the order in which they are launched."""

    xp: Any
    """The array module: CuPy, or NumPy."""

    @property
    def description(self) -> str:
        """Name and versions, for provenance."""

    def bind(self, kernel: Kernel, shape: Sequence[int], *arguments: Any) -> Launch:
        """A call that runs `kernel`, a thread for each element of an array of at most three axes; `cuda.grid` counts its
        last axis first. What the call is given comes before `arguments`."""

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
            run(*(_checked(kernel, i, t, a) for i, (t, a) in enumerate(zip(kernel.arguments, given, strict=True))))

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
        digits = str(cupy.cuda.Device().compute_capability)
        self._capability = (int(digits[:-1]), int(digits[-1]))
        self._functions: dict[str, Any] = {}

    @property
    def description(self) -> str:
        """GPU, its memory, driver and library versions."""
        runtime = self.xp.cuda.runtime
        properties = runtime.getDeviceProperties(self.xp.cuda.Device().id)
        return (
            f"cuda ({properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB, driver "
            f"{runtime.driverGetVersion()}, CuPy {self.xp.__version__}, numba {numba.__version__})"
        )

    def bind(self, kernel: Kernel, shape: Sequence[int], *arguments: Any) -> Launch:
        """As `Device.bind`; the arguments are taken apart once for all calls."""
        blocks = tuple(-(-n // b) for n, b in zip((*shape[::-1], 1, 1)[:3], BLOCK, strict=True))
        function = self._function(kernel)
        leading_types = kernel.arguments[: len(kernel.arguments) - len(arguments)]
        bound = flat_arguments(kernel.arguments[len(leading_types) :], arguments)

        def launch(*leading: Any) -> None:
            function(blocks, BLOCK, (*flat_arguments(leading_types, leading), *bound))

        return launch

    def put(self, array: npt.ArrayLike, dtype: npt.DTypeLike) -> Any:
        """As `Device.put`; the host does not wait."""
        return self.xp.ascontiguousarray(self.xp.asarray(array, dtype=dtype))

    def to_host(self, array: Any) -> Any:
        """A copy, once everything launched before has run."""
        return self.xp.asnumpy(array)

    def _function(self, kernel: Kernel) -> Any:
        if kernel.name not in self._functions:
            file = ptx_file(kernel, self._capability)
            name = entry_name(file.read_text())
            self._functions[kernel.name] = self.xp.RawModule(path=str(file)).get_function(name)
        return self._functions[kernel.name]


def flat_arguments(argument_types: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """The parameters of a kernel's PTX: scalars by value, tuples one by one, and for a C-ordered array what numba's
    kernels take: two null pointers, number and size of elements, address, shape, strides."""
    out: list[Any] = []
    for kind, argument in zip(argument_types, arguments, strict=True):
        if isinstance(kind, types.Array):
            shape, itemsize = argument.shape, argument.dtype.itemsize
            if argument.dtype.name != str(kind.dtype) or len(shape) != kind.ndim or not argument.flags.c_contiguous:
                raise TypeError(f"a kernel wants {kind}, not {argument.dtype} {shape}")
            strides = [itemsize * int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
            numbers = (0, 0, argument.size, itemsize, int(argument.data.ptr), *shape, *strides)
            out += [np.int64(n) for n in numbers]
        elif isinstance(kind, types.UniTuple):
            out += [np.float32(x) for x in argument]
        else:
            out.append(np.int64(argument) if isinstance(kind, types.Integer) else np.float32(argument))
    return out


def _checked(kernel: Kernel, position: int, kind: Any, argument: Any) -> Any:
    """An argument as a GPU would take it; TypeError where a GPU would misread it."""
    if isinstance(kind, types.Array):
        if argument.dtype.name != str(kind.dtype) or argument.ndim != kind.ndim or not argument.flags.c_contiguous:
            raise TypeError(f"{kernel.name}, argument {position}: wants {kind}, not {argument.dtype} {argument.shape}")
        return argument
    if isinstance(kind, types.UniTuple):
        if len(argument) != len(kind):
            raise TypeError(f"{kernel.name}, argument {position}: wants {len(kind)} numbers, not {len(argument)}")
        return tuple(np.float32(x) for x in argument)
    return int(argument) if isinstance(kind, types.Integer) else np.float32(argument)


def ptx(kernel: Kernel, capability: tuple[int, int]) -> str:
    """PTX of a kernel for a compute capability; BackendUnavailable where numba finds no compiler (libNVVM)."""
    _use_wheel()
    from numba.cuda.cudadrv.error import NvvmSupportError

    try:
        with _as_if_on(capability):
            text: str = cuda.compile_ptx(kernel.function, kernel.arguments, cc=capability)[0]
    except NvvmSupportError as error:
        raise BackendUnavailable(
            f"no GPU kernels: numba finds no libNVVM ({error}); install nvidia-cuda-nvcc-cu12 or a CUDA toolkit and set "
            "CUDA_HOME"
        ) from error
    return text


def entry_name(text: str) -> str:
    """The name of the kernel in PTX text."""
    found = re.search(r"\.entry\s+([\w$]+)", text)
    if found is None:
        raise ValueError("PTX text without a kernel")
    return found[1]


def ptx_file(kernel: Kernel, capability: tuple[int, int]) -> Path:
    """The PTX of a kernel as a file, compiled when it is not there yet; its name knows all sources and numba's version."""
    file = _cache_folder() / f"{kernel.name}-{capability[0]}{capability[1]}-{_sources()}.ptx"
    if not file.is_file():
        text = ptx(kernel, capability)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".tmp", delete=False) as written:
            written.write(text)
        Path(written.name).replace(file)
    return file


@cache
def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "doseeng" / "ptx"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="doseeng-ptx-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="doseeng-ptx-"))


@cache
def _sources() -> str:
    digest = hashlib.sha256(f"{numba.__version__} {cuda.__file__}".encode())
    folder = Path(doseeng._kernels.cuda.__file__).parent
    for file in sorted([*folder.glob("*.py"), *folder.parent.glob("*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _use_wheel() -> None:
    """Tell numba where the compiler's package is, unless the person has said where CUDA is."""
    if "CUDA_HOME" in os.environ:
        return
    found = importlib.util.find_spec("nvidia") and importlib.util.find_spec(NVVM_WHEEL)
    if found and found.submodule_search_locations:
        os.environ["CUDA_HOME"] = next(iter(found.submodule_search_locations))


@contextmanager
def _as_if_on(capability: tuple[int, int]) -> Iterator[None]:
    """numba asks the current GPU for its generation when a kernel calls functions; PTX for one needs no GPU."""
    from numba.cuda import dispatcher

    original = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = original

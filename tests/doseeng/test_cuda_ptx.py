"""Every CUDA kernel compiles without a GPU, in single precision, with the parameters that a launch hands over."""

import ctypes
import gc
import importlib
import re
import shutil
import subprocess
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numba import cuda, types

from doseeng import cuda_compile
from doseeng._kernels.cuda import KERNEL_MODULES
from doseeng._kernels.cuda.device import F1, F3, I2, F, I, Kernel, floats, kernel
from doseeng.cuda_compile import entry_name, ptx
from doseeng.cuda_device import BLOCK, CupyDevice, pack
from doseeng.errors import BackendUnavailable

CAPABILITY = (8, 0)
"""Ampere; the driver compiles its PTX for every later GPU."""
MOST_REGISTERS = 128
"""More would leave too few threads on a multiprocessor to hide the latency of memory (65536 registers, 512 threads)."""


def kernels() -> list[Kernel]:
    modules = [importlib.import_module(f"doseeng._kernels.cuda.{name}") for name in KERNEL_MODULES]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Kernel)]


KERNELS = pytest.mark.parametrize("of", kernels(), ids=lambda of: of.name)


@pytest.fixture(scope="module")
def compiled() -> Callable[[Kernel], str]:
    """PTX of a kernel, compiled once per module; skips where numba has no compiler for it."""
    done: dict[Callable[..., None], str] = {}

    def text(of: Kernel) -> str:
        if of.function not in done:
            try:
                done[of.function] = ptx(of, CAPABILITY)
            except BackendUnavailable as reason:
                pytest.skip(str(reason))
        return done[of.function]

    return text


class DeviceArray:
    """A CuPy array of 2 elements along every axis, at address 4096."""

    def __init__(self, kind: Any) -> None:
        values = np.zeros((2,) * kind.ndim, dtype=str(kind.dtype))
        self.dtype, self.shape, self.ndim, self.flags = values.dtype, values.shape, values.ndim, values.flags
        self.data = SimpleNamespace(ptr=4096)


def example(kind: Any) -> Any:
    """An argument of a kernel's type."""
    if isinstance(kind, types.Array):
        return DeviceArray(kind)
    return (1.5,) * len(kind) if isinstance(kind, types.UniTuple) else 3


def parameters(text: str) -> list[str]:
    """Types of a kernel's parameters in PTX."""
    return re.findall(r"\.param \.(\w+)", text[: text.index("{")])


def expected(kind: Any) -> list[str]:
    """What numba's kernels take: arrays as two pointers, two sizes, address, shape and strides; tuples item by item."""
    if isinstance(kind, types.Array):
        return ["u64"] * (5 + 2 * kind.ndim)
    return ["f32"] * len(kind) if isinstance(kind, types.UniTuple) else ["u64" if kind == types.int64 else "f32"]


def test_all_kernels_are_found() -> None:
    names = [of.name for of in kernels()]
    assert len(names) == len(set(names))
    assert {
        *("trace", "advance", "mix", "deposit", "spread_u", "move_v", "collect", "add_to_grid", "accumulate"),
        *("release", "carry_modes", "collapsed_cones", "settle"),
    } <= {*names}


@KERNELS
def test_kernel_is_single_precision_and_takes_what_a_launch_hands_over(
    of: Kernel, compiled: Callable[[Kernel], str]
) -> None:
    text = compiled(of)
    assert ".f64" not in text
    wanted = [expected(kind) for kind in of.arguments]
    assert parameters(text) == [name for names in wanted for name in names]
    assert [len(pack(kind, example(kind))) for kind in of.arguments] == [len(names) for names in wanted]
    assert of.name in entry_name(text)


def test_double_precision_would_be_seen(compiled: Callable[[Kernel], str]) -> None:
    @kernel(F1)
    def tenths(values):  # type: ignore[no-untyped-def]
        i = cuda.grid(1)
        if i < values.shape[0]:
            values[i] = values[i] * 0.1  # a float64; a half would be folded

    assert ".f64" in compiled(tenths)


def assembler() -> str | None:
    """ptxas of the path, or of the package that brings the compiler."""
    spec = importlib.util.find_spec("nvidia") and importlib.util.find_spec(cuda_compile.NVVM_WHEEL)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    bundled = [str(file) for folder in folders for file in Path(folder, "bin").glob("ptxas*")]
    return bundled[0] if bundled else shutil.which("ptxas")


@KERNELS
def test_registers(of: Kernel, compiled: Callable[[Kernel], str], tmp_path: Path) -> None:
    found = assembler()
    if found is None:
        pytest.skip("ptxas not found: install nvidia-cuda-nvcc-cu12")
    (tmp_path / "k.ptx").write_text(compiled(of))
    command = [found, "-v", "-arch=sm_80", str(tmp_path / "k.ptx"), "-o", str(tmp_path / "k.cubin")]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Unsupported .version" in done.stderr:
        pytest.skip(f"{found} is older than the compiler to PTX")
    assert done.returncode == 0, done.stderr
    used = re.search(r"Used (\d+) registers", done.stderr)
    assert used
    assert int(used[1]) <= MOST_REGISTERS
    assert " 0 bytes spill stores, 0 bytes spill loads" in done.stderr


class Recorder:
    """CuPy as far as `CupyDevice` needs it; keeps grid, block and the parameters that the driver would read."""

    __version__ = "0"

    def __init__(self, types_of_parameters: list[str]) -> None:
        self.types = [{"u64": ctypes.c_uint64, "f32": ctypes.c_float}[name] for name in types_of_parameters]
        self.launches: list[tuple[Any, Any, list[Any]]] = []
        device = SimpleNamespace(compute_capability="".join(map(str, CAPABILITY)), id=0)
        self.cuda = SimpleNamespace(
            Device=lambda: device,
            runtime=SimpleNamespace(setDevice=lambda number: None),
            driver=SimpleNamespace(launchKernel=self.launch, CUDADriverError=RuntimeError),
            get_current_stream=lambda: SimpleNamespace(ptr=77),
        )

    def RawModule(self, path: str) -> Any:
        text = Path(path).read_text()

        def get_function(name: str) -> Any:
            assert f".entry {name}(" in text
            return SimpleNamespace(kernel=SimpleNamespace(ptr=5))

        return SimpleNamespace(get_function=get_function)

    def launch(self, function: int, *rest: int) -> None:
        *sizes, shared, stream, table, extra = rest
        assert (function, shared, stream, extra) == (5, 0, 77, 0)
        addresses = (ctypes.c_uint64 * len(self.types)).from_address(table)
        values = [kind.from_address(at).value for kind, at in zip(self.types, addresses, strict=True)]
        self.launches.append((tuple(sizes[:3]), tuple(sizes[3:]), values))


def test_launches_cover_the_array_and_pass_what_the_kernel_reads(
    compiled: Callable[[Kernel], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @kernel(I, F3, F, floats(2), I2)
    def nothing(j, array, x, pair, flags):  # type: ignore[no-untyped-def]
        if cuda.grid(1) == 0:
            array[0, 0, 0] = x * pair[1]
            flags[0, 0] = j

    monkeypatch.setattr(cuda_compile, "_cache_folder", lambda: tmp_path)
    recorder = Recorder(parameters(compiled(nothing)))
    launch = CupyDevice(recorder).bind(nothing, (5, 7, 70), example(F3), 2.5, (1.0, -4.0), example(I2))
    launch(11)
    launch(12)
    blocks, block, values = recorder.launches[1]
    assert recorder.launches[0][2][0] == 11
    assert block == BLOCK
    assert all(b * n >= size for b, n, size in zip(blocks, block, (70, 7, 5), strict=True))
    array, flags = [0, 0, 8, 4, 4096, 2, 2, 2, 16, 8, 4], [0, 0, 4, 4, 4096, 2, 2, 8, 4]
    assert values == [12, *array, 2.5, 1.0, -4.0, *flags]
    assert len(list(tmp_path.glob("*.ptx"))) == 1


def test_bound_launches_keep_their_arrays(compiled: Callable[[Kernel], str], tmp_path: Path, monkeypatch: Any) -> None:
    @kernel(I, F1)
    def nothing(j, array):  # type: ignore[no-untyped-def]
        if cuda.grid(1) == 0:
            array[0] = j

    monkeypatch.setattr(cuda_compile, "_cache_folder", lambda: tmp_path)
    array = example(F1)
    alive = weakref.ref(array)
    launch = CupyDevice(Recorder(parameters(compiled(nothing)))).bind(nothing, (1,), array)
    del array
    assert alive() is not None
    del launch
    gc.collect()
    assert alive() is None


def test_wrong_arrays_are_refused() -> None:
    for wrong in (np.zeros(2), np.zeros((2, 2), dtype=np.float32), np.zeros(4, dtype=np.float32)[::2]):
        with pytest.raises(TypeError, match="a kernel wants array"):
            pack(F1, wrong)

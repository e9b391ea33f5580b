"""CUDA kernels to PTX with numba, which needs libNVVM and no GPU; the text is kept on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Final

import numba
from numba import cuda

import doseeng._kernels.cuda
from doseeng._kernels.cuda.device import Kernel
from doseeng.errors import BackendUnavailable

NVVM_WHEEL: Final = "nvidia.cuda_nvcc"
"""What the package nvidia-cuda-nvcc-cu12 puts into Python's path: libNVVM without a CUDA toolkit, and ptxas."""
_compiling = Lock()


def ptx(kernel: Kernel, capability: tuple[int, int]) -> str:
    """PTX of a kernel for a compute capability; BackendUnavailable where numba finds no compiler (libNVVM)."""
    _use_wheel()
    from numba.cuda.cudadrv.error import NvvmSupportError

    try:
        with _as_if_on(capability):
            text: str = cuda.compile_ptx(kernel.function, kernel.arguments, cc=capability)[0]
    except NvvmSupportError as error:
        raise BackendUnavailable(
            f"no GPU kernels: numba finds no libNVVM ({error}); install nvidia-cuda-nvcc-cu12, or a CUDA toolkit and "
            "set CUDA_HOME"
        ) from error
    return text


def entry_name(text: str) -> str:
    """The name of the kernel in PTX text."""
    found = re.search(r"\.entry\s+([\w$]+)", text)
    if found is None:
        raise ValueError("PTX text without a kernel")
    return found[1]


def ptx_file(kernel: Kernel, capability: tuple[int, int]) -> Path:
    """The PTX of a kernel as a file, compiled unless it is there; its name holds all sources and numba's version."""
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
    """Tell numba where the compiler's package is, unless the person has said where CUDA is.

    numba looks in CUDA_HOME for a library with a version in its name, which the package does not have: links have it.
    """
    found = importlib.util.find_spec("nvidia") and importlib.util.find_spec(NVVM_WHEEL)
    if "CUDA_HOME" in os.environ or not found or not found.submodule_search_locations:
        return
    root = Path(next(iter(found.submodule_search_locations)))
    library = root / "nvvm" / "lib64" / "libnvvm.so"
    if library.is_file():
        home = _cache_folder() / f"nvcc-{hashlib.sha256(str(root).encode()).hexdigest()[:16]}"
        for link, target in (("lib64/libnvvm.so.4", library), ("libdevice", root / "nvvm" / "libdevice")):
            place = home / "nvvm" / link
            place.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                place.symlink_to(target)
        root = home
    os.environ["CUDA_HOME"] = str(root)


@contextmanager
def _as_if_on(capability: tuple[int, int]) -> Iterator[None]:
    """numba asks the current GPU for its generation when a kernel calls functions; PTX for one needs no GPU."""
    from numba.cuda import dispatcher

    with _compiling:
        original = dispatcher.get_current_device
        dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
        try:
            yield
        finally:
            dispatcher.get_current_device = original

"""The CUDA backend on this machine's GPU, or the reason why there is none; everything else is in `cuda_backend`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from doseeng.errors import BackendUnavailable

if TYPE_CHECKING:
    from doseeng.cuda_backend import CudaBackend

INSTALL: Final = "install it with: pip install 'doseeng[gpu]'"


@cache
def cuda() -> CudaBackend:
    """The CUDA backend on the current GPU.

    BackendUnavailable says what is missing: CuPy, numba.cuda, a driver, a device, or the compiler to PTX.
    """
    try:
        import cupy
    except ImportError as missing:
        raise BackendUnavailable(f"no GPU backend: CuPy cannot be imported ({missing}); {INSTALL}") from missing
    try:
        import numba.cuda  # noqa: F401
    except ImportError as missing:
        raise BackendUnavailable(f"no GPU backend: numba.cuda cannot be imported ({missing}); {INSTALL}") from missing
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendUnavailable(f"no GPU backend: {error}; check the NVIDIA driver with nvidia-smi") from error
    if count == 0:
        raise BackendUnavailable("no GPU backend: the NVIDIA driver runs but offers no device; check nvidia-smi")
    from doseeng._kernels.cuda.trace import integrate
    from doseeng.cuda_backend import CudaBackend
    from doseeng.cuda_device import CupyDevice

    device = CupyDevice(cupy)
    device.load(integrate)
    return CudaBackend(device)

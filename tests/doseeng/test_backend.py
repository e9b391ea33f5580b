"""Choosing a backend: what was asked for, or a reason why not; and that both offer what the protocol says."""

import inspect
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from doseeng.backend import Backend, choose
from doseeng.cpu import CpuBackend, cpu
from doseeng.cuda import cuda
from doseeng.cuda_backend import CudaBackend
from doseeng.errors import BackendUnavailable, ConfigError


class CUDARuntimeError(Exception):
    """What CuPy raises."""


def fake_cupy(devices: int | Exception) -> Any:
    """CuPy on a machine with so many GPUs, or with a driver that fails."""

    def count() -> int:
        if isinstance(devices, Exception):
            raise devices
        return devices

    runtime = SimpleNamespace(getDeviceCount=count, CUDARuntimeError=CUDARuntimeError)
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without CuPy, whatever this one has."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    cuda.cache_clear()


def test_the_cpu_is_always_there() -> None:
    assert choose("cpu") is cpu()
    assert choose("cpu").description.startswith("cpu (numba ")


@pytest.mark.usefixtures("no_gpu")
def test_auto_falls_back_to_the_cpu() -> None:
    assert choose("auto") is cpu()


@pytest.mark.usefixtures("no_gpu")
def test_without_cupy() -> None:
    with pytest.raises(BackendUnavailable, match=r"CuPy cannot be imported .* pip install 'doseeng\[gpu\]'"):
        choose("cuda")


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        (0, "the NVIDIA driver runs but offers no device"),
        (CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient"), "InsufficientDriver"),
    ],
)
@pytest.mark.usefixtures("no_gpu")
def test_without_driver_or_device(devices: int | Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(devices))
    with pytest.raises(BackendUnavailable, match=f"no GPU backend: .*{reason}.*nvidia-smi"):
        choose("cuda")


def test_without_numba_cuda() -> None:
    # In a process of its own, where nothing has loaded numba.cuda before.
    program = (
        "import sys, types; sys.modules['cupy'] = types.ModuleType('cupy'); sys.modules['numba.cuda'] = None\n"
        "from doseeng.backend import choose; from doseeng.errors import BackendUnavailable\n"
        "assert choose('auto') is choose('cpu')\n"
        "try: choose('cuda')\n"
        "except BackendUnavailable as reason: print(reason)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("no GPU backend: numba.cuda cannot be imported")
    assert "pip install 'doseeng[gpu]'" in done.stdout


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown backend 'gpu'; choose one of auto, cpu, cuda"):
        choose("gpu")


@pytest.mark.parametrize("backend", [CpuBackend, CudaBackend])
def test_backends_offer_what_the_protocol_says(backend: type) -> None:
    wanted = {name: member for name, member in vars(Backend).items() if not name.startswith("_")}
    assert {"put", "get", "trace", "march", "march_back", "add_to_grid", "from_grid", "description"} <= set(wanted)
    for name, member in wanted.items():
        found = inspect.getattr_static(backend, name)
        if inspect.isfunction(member):
            assert list(inspect.signature(found).parameters) == list(inspect.signature(member).parameters), name

"""Where a unit of work finds itself: in the caller's process, on a CPU worker or in a GPU's actor."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import Any, Final, TypeVar

from doseeng.backend import Backend, choose
from doseeng.cpu import CpuBackend, cpu
from doseeng.errors import BackendUnavailable

Function = TypeVar("Function", bound=Callable[..., Any])
_MARK: Final = "__doseeng_on_device__"


class Place(StrEnum):
    """What kind of process runs the units."""

    CALLER = "caller"
    CPU_WORKER = "cpu worker"
    GPU_ACTOR = "gpu actor"


_here = Place.CALLER


def on_device(function: Function) -> Function:
    """Mark a function whose units compute dose: they go to the GPUs' actors where an executor has some.

    All units of a job that compute dose must carry the mark, so that none of its doses comes from another device.
    """
    setattr(function, _MARK, True)
    return function


def is_on_device(function: Callable[..., Any]) -> bool:
    """Whether a function was marked by `on_device`."""
    return bool(getattr(function, _MARK, False))


def settle(place: Place) -> None:
    """Say what kind of process this is; executors do so in their workers."""
    global _here
    _here = place


def place() -> Place:
    """What kind of process this is."""
    return _here


def unit_backend(name: str) -> Backend:
    """The backend that a unit computes with: `doseeng.backend.choose`, but one thread on a CPU worker.

    There is one worker per core, so that units and not threads keep the cores busy; the number of threads changes no
    bit of a dose. BackendUnavailable when "cuda" is asked of a CPU worker.
    """
    if _here is not Place.CPU_WORKER:
        return choose(name)
    if name == "cuda":
        raise BackendUnavailable(
            "backend 'cuda' was asked for, but this work unit runs on a CPU worker: no node of the cluster offers a "
            "GPU; start one (`ray start --num-gpus`), or ask for backend 'auto' or 'cpu'"
        )
    return _one_thread()


@cache
def _one_thread() -> CpuBackend:
    return CpuBackend(threads=1) if cpu().threads != 1 else cpu()

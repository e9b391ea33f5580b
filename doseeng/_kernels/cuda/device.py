"""Scalar functions on the GPU, and kernels with the types of their arguments.

A launch has threads along up to three axes; a kernel gets its place with `cuda.grid(3)` and leaves if it lies outside.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from numba import cuda, types

from doseeng._kernels import scalar

I = types.int64
F = types.float32
F1, F2, F3, F4, F5 = (types.Array(types.float32, n, "C") for n in range(1, 6))
I1, I2, I3 = (types.Array(types.int32, n, "C") for n in range(1, 4))
B2, B3 = (types.Array(types.uint8, n, "C") for n in (2, 3))


def floats(n: int) -> types.UniTuple:
    """The type of n float32 passed by value."""
    return types.UniTuple(types.float32, n)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A Python function that is a kernel, and the numba types of its arguments."""

    function: Callable[..., None]
    arguments: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__


def kernel(*arguments: Any) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel: `@kernel(F3, F, I)`."""
    return lambda function: Kernel(function, arguments)


@cuda.jit(device=True)
def smaller(a, b):
    """min: numba's own lifts to float64 or fails, depending on its version."""
    return a if a < b else b


@cuda.jit(device=True)
def larger(a, b):
    """max, see `smaller`."""
    return a if a > b else b


def _on_device() -> dict[str, Any]:
    """The functions of `scalar`, in its order: what one calls is looked up among those compiled before it."""
    names: dict[str, Any] = {"np": math, "min": smaller, "max": larger}
    for name, function in vars(scalar).items():
        if hasattr(function, "py_func"):
            source = function.py_func
            names[name] = cuda.jit(device=True)(FunctionType(source.__code__, source.__globals__ | names, name))
    return names


DEVICE = _on_device()

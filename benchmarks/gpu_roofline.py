"""Where the time of the CUDA kernels goes, against what the GPU can move and compute."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numba import cuda

from benchmarks.gpu_work import Work
from doseeng._kernels.cuda.device import F1, F, I, Kernel, kernel
from doseeng.cuda_device import CupyDevice, Launch

FMAS = 4096
ELEMENTS = 1 << 24
COPY_BYTES = 1 << 30
REPEATS = 10


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a GPU can do. measured: here, or as its maker publishes."""

    name: str
    bytes_per_s: float
    operations_per_s: float
    measured: bool


H100 = Ceilings("H100 SXM, NVIDIA's data sheet", 3.35e12, 67e12, False)


@kernel(F1, F, I)
def fma_ceiling(values, x, n):  # type: ignore[no-untyped-def]
    """n fused multiply-adds in four independent chains per thread."""
    i, _, _ = cuda.grid(3)
    if i < values.shape[0]:
        a = values[i]
        b, c, d = a + x, a - x, a * x
        for _ in range(n // 4):
            a = a * x + a
            b = b * x + b
            c = c * x + c
            d = d * x + d
        values[i] = a + b + c + d


class TimedDevice(CupyDevice):
    """Keeps an event before and after every launch; slower than the plain one."""

    def __init__(self, cupy: Any) -> None:
        super().__init__(cupy)
        self._events: list[tuple[str, Any, Any]] = []

    def bind(self, kernel: Kernel, shape: Sequence[int], *arguments: Any) -> Launch:
        """As `Device.bind`."""
        launch = super().bind(kernel, shape, *arguments)

        def timed(*leading: Any) -> None:
            before, after = self.xp.cuda.Event(), self.xp.cuda.Event()
            before.record()
            launch(*leading)
            after.record()
            self._events.append((kernel.name, before, after))

        return timed

    def clear(self) -> None:
        """Forget what was timed."""
        self.xp.cuda.Device().synchronize()
        self._events.clear()

    def seconds(self) -> dict[str, float]:
        """Seconds on the GPU of all launches of each kernel."""
        self.xp.cuda.Device().synchronize()
        total: dict[str, float] = defaultdict(float)
        for name, before, after in self._events:
            total[name] += self.xp.cuda.get_elapsed_time(before, after) / 1e3
        return total


def measured_ceilings(cupy: Any) -> Ceilings:
    """Bytes per second of a large copy on the device, float32 operations per second of fused multiply-adds."""
    source = cupy.zeros(COPY_BYTES // 4, dtype="float32")
    target = cupy.empty_like(source)
    values = cupy.zeros(ELEMENTS, dtype="float32")
    device = TimedDevice(cupy)
    before, after = cupy.cuda.Event(), cupy.cuda.Event()
    cupy.copyto(target, source)
    before.record()
    for _ in range(REPEATS):
        cupy.copyto(target, source)
    after.record()
    after.synchronize()
    copied = 2.0 * COPY_BYTES * REPEATS / (cupy.cuda.get_elapsed_time(before, after) / 1e3)
    run = device.bind(fma_ceiling, values.shape, values, 0.5, FMAS)
    run()
    device.clear()
    for _ in range(REPEATS):
        run()
    operations = 2.0 * FMAS * ELEMENTS * REPEATS / device.seconds()["fma_ceiling"]
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return Ceilings(name, copied, operations, True)


def roofline_table(work: Mapping[str, Work], of: Ceilings, seconds: Mapping[str, float] | None = None) -> str:
    """Per kernel: launches, bytes, operations, the shortest time the ceilings allow, and the time it took."""
    how = "measured" if of.measured else "published"
    lines = [
        f"\nroofline, {of.name} ({how}): {of.bytes_per_s / 1e12:.2f} TB/s, {of.operations_per_s / 1e12:.1f} TFLOP/s",
        f"{'kernel':14} {'launches':>8} {'MB':>8} {'MFLOP':>9} {'FLOP/B':>7} {'least ms':>9} {'bound':>8}"
        f" {'ms':>8} {'%':>5}",
    ]
    for name, w in work.items():
        by_bytes, by_operations = w.bytes / of.bytes_per_s, w.operations / of.operations_per_s
        least, bound = max(by_bytes, by_operations), "memory" if by_bytes > by_operations else "compute"
        took = ""
        if seconds and seconds.get(name):
            took = f"{1e3 * seconds[name]:8.3f} {100.0 * least / seconds[name]:5.1f}"
        lines.append(
            f"{name:14} {w.launches:8} {w.bytes / 1e6:8.1f} {w.operations / 1e6:9.1f} "
            f"{w.operations / max(w.bytes, 1.0):7.1f} {1e3 * least:9.4f} {bound:>8} {took}"
        )
    lines += [f"{name:14} {'':62} {1e3 * s:8.3f}" for name, s in (seconds or {}).items() if name not in work]
    total = sum(work.values(), Work())
    least = sum(max(w.bytes / of.bytes_per_s, w.operations / of.operations_per_s) for w in work.values())
    took = f"{1e3 * sum(seconds.values()):8.3f}" if seconds else ""
    lines.append(
        f"{'all':14} {total.launches:8} {total.bytes / 1e6:8.1f} {total.operations / 1e6:9.1f} "
        f"{total.operations / max(total.bytes, 1.0):7.1f} {1e3 * least:9.4f} {'':8} {took}"
    )
    return "\n".join(lines)

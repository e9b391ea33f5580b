"""How registrations and `benchmarks.registration` talk: files of images in, fields and costs out. numpy alone.

Scripts beside this file import it as `exchange`, because they run in environments without doseeng.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

AIR_HU = -1000.0

Float32 = npt.NDArray[np.float32]
Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Image:
    """hu: (nz, ny, nx) float32. spacing_mm and origin_mm along patient x, y, z. mask: where it counts, same shape."""

    hu: Float32
    spacing_mm: Point
    origin_mm: Point
    mask: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Task:
    """Find the pullback from `day` to `planning`. far: they lie far apart, so a rigid registration comes first."""

    day: Image
    planning: Image
    far: bool


def write_task(path: Path, task: Task) -> None:
    """A task as npz."""
    arrays: dict[str, Any] = {"far": task.far}
    for name, image in (("day", task.day), ("planning", task.planning)):
        arrays |= {f"{name}_hu": image.hu, f"{name}_mask": image.mask}
        arrays |= {f"{name}_spacing_mm": image.spacing_mm, f"{name}_origin_mm": image.origin_mm}
    np.savez(path, **arrays)


def read_task(path: Path | str) -> Task:
    """What `write_task` wrote."""
    with np.load(path) as arrays:
        images = []
        for name in ("day", "planning"):
            (dx, dy, dz), (x, y, z) = (arrays[f"{name}_{what}_mm"].tolist() for what in ("spacing", "origin"))
            images.append(Image(arrays[f"{name}_hu"], (dx, dy, dz), (x, y, z), arrays[f"{name}_mask"]))
        return Task(images[0], images[1], bool(arrays["far"]))


def answer(out: Path | str, work: Callable[[], tuple[npt.ArrayLike, Point, Point]]) -> None:
    """Run `work`, which gives vectors (nz, ny, nx, 3) with the spacing and origin of their grid; write and print.

    `out` gets vectors_mm, spacing_mm and origin_mm. The line printed is JSON: wall_s, cpu_s and peak_mb, of this
    process and those it started.
    """
    start, before = time.perf_counter(), _cpu_s()
    vectors, spacing, origin = work()
    wall, cpu = time.perf_counter() - start, _cpu_s() - before
    np.savez(out, vectors_mm=np.asarray(vectors, dtype=np.float32), spacing_mm=spacing, origin_mm=origin)
    peak = max(_peak_kb(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    sys.stdout.write(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak_mb": peak / 1024.0}) + "\n")


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _peak_kb() -> int:
    # Linux counts what the starting process held into ru_maxrss of the one it starts; VmHWM begins anew.
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

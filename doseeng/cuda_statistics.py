"""Statistics over scenario doses that stay on the device: no volume leaves it before the last scenario is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from doseeng._kernels.cuda import statistics as kernels
from doseeng.backend import Float32
from doseeng.cuda_backend import CudaBackend
from doseeng.dvh import SamplePoints
from doseeng.grid import Grid

Array = npt.NDArray[np.float64]


class DeviceStatistics:
    """Minimum, maximum, mean and variance per voxel, and a cumulative DVH per scenario and structure.

    points: where the structures are sampled, see `dvh.sample_points`. steps: of step_gy up to the highest dose; what
    lies above counts at the last one. All moments are float32.
    """

    def __init__(
        self,
        backend: CudaBackend,
        grid: Grid,
        points: Sequence[SamplePoints] = (),
        scenarios: int = 1,
        step_gy: float = 0.1,
        steps: int = 1000,
    ) -> None:
        self.count = 0
        self.step_gy = step_gy
        self._backend = backend
        self._shape = grid.shape
        self._minimum, self._maximum, self._mean, self._squares = (backend.zeros(grid.shape) for _ in range(4))
        self._histogram = backend.zeros((scenarios, max(len(points), 1), steps))
        index = [grid.to_index(p.points_mm) for p in points]
        self._points = backend.put(np.concatenate([np.zeros((0, 3)), *index]))
        self._weight = backend.put(np.concatenate([np.zeros(0), *(p.weight_cm3 for p in points)]))
        numbers = np.repeat(np.arange(len(points)), [len(p.points_mm) for p in points])
        self._structure = backend.device.put(numbers, np.int32)

    def add(self, dose: Any, scale: float = 1.0) -> None:
        """Take in `scale` times a dose array (grid.shape) of the backend; the host does not wait."""
        self.count += 1
        run = self._backend.device.bind
        volumes = (self._minimum, self._maximum, self._mean, self._squares)
        run(kernels.accumulate, self._shape, dose, scale, self.count, *volumes)()
        if self._weight.size:
            where = (self._points, self._weight, self._structure, self.step_gy, self.count - 1, self._histogram)
            run(kernels.histogram, self._weight.shape, dose, scale, *where)()

    def minimum(self) -> Float32:
        """Lowest dose per voxel, Gy."""
        return self._backend.get(self._minimum)

    def maximum(self) -> Float32:
        """Highest dose per voxel, Gy."""
        return self._backend.get(self._maximum)

    def mean(self) -> Float32:
        """Mean per voxel, Gy."""
        return self._backend.get(self._mean)

    def std(self) -> Float32:
        """Standard deviation per voxel as a population, Gy."""
        deviation: Float32 = np.sqrt(np.maximum(self._backend.get(self._squares) / max(self.count, 1), 0.0))
        return deviation

    def dvh_percent(self) -> Array:
        """(scenario, structure, step) percent of the covered structure that receives at least step x step_gy."""
        weight = self._backend.get(self._histogram)[: self.count].astype(np.float64)
        received = np.cumsum(weight[..., ::-1], axis=-1)[..., ::-1]
        with np.errstate(invalid="ignore"):
            percent: Array = 100.0 * received / received[..., :1]
        return percent

"""Statistics over scenario doses that arrive one by one: no volume is kept per scenario, only a DVH row."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.dvh import DoseSamples, cumulative_percent
from doseeng.errors import GeometryError, MetricError
from doseeng.grid import Grid, Volume
from robust.result import DvhBand

Array = npt.NDArray[np.float64]

DVH_STEPS: Final = 400
"""Steps of a DVH axis up to the reference dose: 0.25 % of it each, finer than a curve is drawn."""


class VoxelStatistics:
    """Minimum, maximum, mean and variance per voxel (Welford, Technometrics 4 (1962) 419; moments in float64).

    Statistics of several parts merge (Chan, Golub & LeVeque, COMPSTAT 1982, 30): the same parts in the same order give
    the same bytes.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.count = 0
        self._minimum = np.full(grid.shape, np.inf, dtype=np.float32)
        self._maximum = np.full(grid.shape, -np.inf, dtype=np.float32)
        self._mean = np.zeros(grid.shape, dtype=np.float64)
        self._squares = np.zeros(grid.shape, dtype=np.float64)

    def add(self, volume: Volume) -> None:
        """Take one more dose in; GeometryError when it is on another grid."""
        if not volume.grid.is_same(self.grid):
            raise GeometryError(
                f"a scenario dose has grid {volume.grid.shape} at {volume.grid.origin_mm} mm, but the nominal dose has "
                f"{self.grid.shape} at {self.grid.origin_mm} mm; compute all scenarios on one grid"
            )
        self.count += 1
        # Slice by slice, so that the temporaries stay in the processor's cache.
        for k, values in enumerate(volume.values):
            np.minimum(self._minimum[k], values, out=self._minimum[k])
            np.maximum(self._maximum[k], values, out=self._maximum[k])
            difference = values - self._mean[k]
            self._mean[k] += difference / self.count
            self._squares[k] += difference * (values - self._mean[k])

    def merge(self, later: VoxelStatistics) -> None:
        """Take in the doses of another part; GeometryError when they are on another grid."""
        if not later.grid.is_same(self.grid):
            raise GeometryError(
                f"partial statistics are on grids {self.grid.shape} at {self.grid.origin_mm} mm and "
                f"{later.grid.shape} at {later.grid.origin_mm} mm; compute all scenarios on one grid"
            )
        if later.count == 0:
            return
        self._make_writable()
        count = self.count + later.count
        share, product = later.count / count, self.count * later.count / count
        for k in range(self.grid.shape[0]):
            np.minimum(self._minimum[k], later._minimum[k], out=self._minimum[k])
            np.maximum(self._maximum[k], later._maximum[k], out=self._maximum[k])
            difference = later._mean[k] - self._mean[k]
            self._mean[k] += difference * share
            self._squares[k] += later._squares[k] + difference * difference * product
        self.count = count

    def minimum(self) -> Volume:
        """Per voxel the lowest dose in Gy."""
        return self._volume(self._minimum)

    def maximum(self) -> Volume:
        """Per voxel the highest dose in Gy."""
        return self._volume(self._maximum)

    def mean(self) -> Volume:
        """Per voxel the mean over the scenarios in Gy."""
        return self._volume(self._mean)

    def std(self) -> Volume:
        """Per voxel the standard deviation over the scenarios in Gy, as a population (divided by their number)."""
        return self._volume(np.sqrt(self._squares / max(self.count, 1)))

    def _make_writable(self) -> None:
        """Arrays that came out of shared memory are read-only; they become copies."""
        for name in ("_minimum", "_maximum", "_mean", "_squares"):
            array = getattr(self, name)
            if not array.flags.writeable:
                setattr(self, name, array.copy())

    def _volume(self, values: npt.NDArray[np.floating]) -> Volume:
        if self.count == 0:
            raise MetricError("statistics over no scenario dose; add one first")
        return Volume(self.grid, values.astype(np.float32))


class DvhRows:
    """Cumulative DVHs of one structure, a row per scenario, all on one dose axis of fixed step, open at its end."""

    def __init__(self, structure: str, volume_cm3: float, step_gy: float) -> None:
        self.structure = structure
        self.volume_cm3 = volume_cm3
        self.step_gy = step_gy
        self._rows: list[Array] = []

    def add(self, samples: DoseSamples) -> None:
        """One scenario; a structure outside the dose grid gives a row of NaN."""
        if len(samples.dose_gy) == 0:
            self.add_unknown()
            return
        steps = int(np.ceil(max(float(samples.dose_gy[-1]), 0.0) / self.step_gy)) + 1
        self._rows.append(cumulative_percent(samples, np.arange(steps) * self.step_gy))

    def add_unknown(self) -> None:
        """One scenario without a valid dose: a row of NaN."""
        self._rows.append(np.array([np.nan]))

    def extend(self, later: DvhRows) -> None:
        """Add the rows of another part of the scenarios."""
        self._rows += later._rows

    def band(self) -> DvhBand:
        """All rows on the longest axis; it ends one step after the highest dose, where nothing is left."""
        length = max(len(row) for row in self._rows) + 1
        percent = np.zeros((len(self._rows), length))
        for curve, row in zip(percent, self._rows, strict=True):
            curve[: len(row)] = row
            if np.isnan(row[0]):
                curve[:] = np.nan
        return DvhBand(self.structure, self.volume_cm3, np.arange(length, dtype=np.float64) * self.step_gy, percent)

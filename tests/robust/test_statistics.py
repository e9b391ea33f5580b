"""Streaming statistics agree with numpy over the whole stack."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doseeng.dvh import DoseSamples
from doseeng.errors import GeometryError, MetricError
from doseeng.grid import Grid, Volume
from robust.statistics import DvhRows, VoxelStatistics

GRID = Grid((3, 4, 5), (2, 2, 2), (0, 0, 0))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.floats(0.01, 1000), st.integers(0, 2**32 - 1))
def test_voxel_statistics_agree_with_numpy(count: int, level: float, seed: int) -> None:
    doses = np.random.default_rng(seed).normal(level, 0.01, (count, *GRID.shape)).astype(np.float32)
    statistics = VoxelStatistics(GRID)
    for dose in doses:
        statistics.add(Volume(GRID, dose))
    np.testing.assert_array_equal(statistics.minimum().values, doses.min(axis=0))
    np.testing.assert_array_equal(statistics.maximum().values, doses.max(axis=0))
    np.testing.assert_allclose(statistics.mean().values, doses.mean(axis=0, dtype=np.float64), rtol=1e-6)
    # A small spread on a high level is what a single-pass sum of squares would lose.
    np.testing.assert_allclose(statistics.std().values, doses.std(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-9)


def test_another_grid_is_refused() -> None:
    statistics = VoxelStatistics(GRID)
    with pytest.raises(GeometryError, match="on one grid"):
        statistics.add(Volume(Grid(GRID.shape, GRID.spacing_mm, (1, 0, 0)), np.zeros(GRID.shape, np.float32)))
    with pytest.raises(MetricError):
        statistics.mean()


def samples(dose_gy: list[float], weight_cm3: list[float]) -> DoseSamples:
    dose, weight = np.array(dose_gy, np.float32), np.array(weight_cm3, np.float32)
    return DoseSamples("CTV", dose, weight, float(weight.sum()) or 1.0, 1.0 if len(dose) else 0.0)


def test_dvh_rows_share_one_axis() -> None:
    rows = DvhRows("CTV", 8.0, 0.5)
    rows.add(samples([0.0, 1.0, 2.0, 2.0], [1, 1, 1, 1]))
    rows.add_unknown()
    rows.add(samples([0.4, 3.2], [1, 3]))
    rows.add(samples([], []))
    band = rows.band()
    np.testing.assert_allclose(band.dose_gy, np.arange(9) * 0.5)
    np.testing.assert_allclose(band.volume_percent[0], [100, 75, 75, 50, 50, 0, 0, 0, 0])
    assert np.isnan(band.volume_percent[1]).all()
    assert np.isnan(band.volume_percent[3]).all()
    np.testing.assert_allclose(band.volume_percent[2], [100, 75, 75, 75, 75, 75, 75, 0, 0])

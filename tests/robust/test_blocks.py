"""Blocks of scenarios, computed apart in any company and merged in order, give the bytes of one pass."""

import copy
import json
import pickle
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import robust
from doseeng.case import Case
from doseeng.dose import Dose
from doseeng.errors import GeometryError, JobError
from doseeng.grid import Grid, Volume
from doseeng.scenario import Scenario
from robust import Goal, RobustReport, evaluate, report_to_json, scenario_set
from robust.evaluate import DEFAULTS, judged
from robust.statistics import VoxelStatistics
from robust.tally import MOST_BLOCKS, Tally, basis_of, blocks, empty_tally, highest_gy, take_block

DoseOf = Callable[[Scenario], Dose]
SCENARIOS = scenario_set("14", setup_mm=5.0)
GOALS = (
    Goal("CTV", "V95%", ">=", 95.0, "%", 60.0),
    Goal("Cord", "Dmean", "<=", 28.0, "Gy"),
    Goal("Cord", "D500cm3", "<=", 10.0, "Gy"),
)


@pytest.fixture
def uneven(dose_of: DoseOf) -> DoseOf:
    """Doses without symmetry, one of them broken."""

    def dose(scenario: Scenario) -> Dose:
        made = dose_of(scenario)
        noise = np.random.default_rng(abs(hash(scenario.isocenter_shift_mm))).normal(0.0, 0.2, made.volume.values.shape)
        values = (made.volume.values + noise).astype(np.float32)
        if scenario is SCENARIOS[6]:
            values[0, 0, 0] = np.nan
        return Dose(Volume(made.volume.grid, values), made.quantity)

    return dose


def bytes_of(report: RobustReport) -> list[bytes]:
    """Everything that is stored of a report."""
    volumes = (report.voxel_min, report.voxel_max, report.voxel_mean, report.voxel_std)
    bands = [band.volume_percent.tobytes() for band in report.bands]
    values = [goal.values.tobytes() for goal in report.goals]
    voxels = [volume.values.tobytes() for volume in volumes if volume is not None]
    doses = [report.nominal.volume.values.tobytes(), report.worst.volume.values.tobytes()]
    return [json.dumps(report_to_json(report), default=str).encode(), *bands, *values, *voxels, *doses]


def in_groups(case: Case, dose_of: DoseOf, groups: Sequence[range]) -> RobustReport:
    """Neighbouring blocks by group, each group somewhere else, merged in order."""
    every = blocks(len(SCENARIOS))
    grid = dose_of(SCENARIOS[0]).volume.grid
    basis = basis_of(case, SCENARIOS, GOALS, grid, DEFAULTS, lambda: highest_gy(dose_of(SCENARIOS[0])))
    whole: Tally | None = None
    for group in groups:
        tally = empty_tally(basis, every[group.start].start)
        for index in group:
            take_block(tally, basis, every[index], dose_of)
        travelled: Tally = pickle.loads(pickle.dumps(tally))
        if whole is None:
            whole = travelled
        else:
            whole.merge(travelled)
    assert whole is not None
    return judged(case, basis, whole, provenance=DEFAULTS.record(len(SCENARIOS)))


@given(st.integers(1, 3000))
def test_blocks_cover_all_scenarios_once_in_order(n: int) -> None:
    made = blocks(n)
    assert [index for block in made for index in block] == list(range(n))
    assert len(made) <= MOST_BLOCKS
    # The nominal scenario aside, pairs stay together.
    assert all((b.start - 1) % 2 == 0 for b in made[1:])


def test_the_usual_set_makes_fourteen_blocks() -> None:
    assert [len(block) for block in blocks(29)] == [3, *[2] * 13]
    assert blocks(1) == (range(1),)


def test_one_pass_is_the_blocks_in_order(case: Case, uneven: DoseOf) -> None:
    expected = bytes_of(evaluate(case, SCENARIOS, GOALS, uneven))
    n = len(blocks(len(SCENARIOS)))
    assert bytes_of(in_groups(case, uneven, [range(i, i + 1) for i in range(n)])) == expected
    # Only the first group may hold several: later blocks merge one by one.
    for first in (2, 4, n):
        groups = [range(first), *(range(i, i + 1) for i in range(first, n))]
        assert bytes_of(in_groups(case, uneven, groups)) == expected


def test_the_worst_scenario_is_the_first_of_equals(case: Case, dose_of: DoseOf) -> None:
    scenarios = (SCENARIOS[0], *(Scenario(f"s{i}", (6.0, 0.0, 0.0)) for i in range(6)))
    assert evaluate(case, scenarios, GOALS[:1], dose_of).worst_index == 1


def test_a_plan_without_prescription_takes_the_nominal_dose_as_reference(
    case_with: Callable[..., Case], dose_of: DoseOf
) -> None:
    case = case_with(())
    asked: list[float] = []

    def highest() -> float:
        asked.append(60.0)
        return 60.0

    grid = dose_of(SCENARIOS[0]).volume.grid
    assert basis_of(case, SCENARIOS, (), grid, DEFAULTS, highest).step_gy == pytest.approx(0.15)
    assert asked == [60.0]
    basis_of(case_with(), SCENARIOS, robust.default_goals(case_with()), grid, DEFAULTS, highest)
    assert asked == [60.0]


def test_parts_that_do_not_follow_each_other_are_refused(case: Case, dose_of: DoseOf) -> None:
    every = blocks(len(SCENARIOS))
    basis = basis_of(case, SCENARIOS, GOALS, dose_of(SCENARIOS[0]).volume.grid, DEFAULTS, lambda: 60.0)
    first, third = empty_tally(basis), empty_tally(basis, every[2].start)
    take_block(first, basis, every[0], dose_of)
    take_block(third, basis, every[2], dose_of)
    with pytest.raises(JobError, match="do not follow"):
        first.merge(third)
    with pytest.raises(JobError, match="not complete"):
        judged(case, basis, first)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
def test_merged_statistics_agree_with_numpy(seed: int, n: int, m: int) -> None:
    grid = Grid((2, 3, 4), (2, 2, 2), (0, 0, 0))
    doses = np.random.default_rng(seed).normal(60.0, 0.01, (n + m, *grid.shape)).astype(np.float32)
    parts = [VoxelStatistics(grid), VoxelStatistics(grid)]
    for index, dose in enumerate(doses):
        parts[int(index >= n)].add(Volume(grid, dose))
    parts[0].merge(parts[1])
    assert parts[0].count == n + m
    np.testing.assert_array_equal(parts[0].minimum().values, doses.min(axis=0))
    np.testing.assert_array_equal(parts[0].maximum().values, doses.max(axis=0))
    np.testing.assert_allclose(parts[0].mean().values, doses.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(parts[0].std().values, doses.std(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-9)


def test_statistics_out_of_shared_memory_are_not_written_to() -> None:
    grid = Grid((2, 3, 4), (2, 2, 2), (0, 0, 0))
    first, second = VoxelStatistics(grid), VoxelStatistics(grid)
    for part, level in ((first, 1.0), (second, 3.0)):
        part.add(Volume(grid, np.full(grid.shape, level, np.float32)))
    shared = copy.deepcopy(first)
    for name in ("_minimum", "_maximum", "_mean", "_squares"):
        getattr(shared, name).flags.writeable = False
    read_only = shared._mean
    shared.merge(second)
    assert (read_only == 1.0).all()
    np.testing.assert_array_equal(shared.mean().values, 2.0)
    with pytest.raises(GeometryError, match="one grid"):
        first.merge(VoxelStatistics(Grid((2, 3, 4), (2, 2, 2), (1, 0, 0))))

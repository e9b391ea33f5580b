"""The simulation of `benchmarks.scaling` against cases whose answer is known."""

from dataclasses import replace

import pytest

from benchmarks.scaling_model import Rates, Work, simulate
from cluster.workflows.evaluation import TURN_S

FREE = Rates(0.0, 0.0, 32, 1e15, 1e15)
SMALL = Work(2.0, 0, 0.0, 0.0, 0.0, 1e6, 0.0, 1e6)
LARGE = Work(0.0, 14, TURN_S, 0.0, 2.0, 0.0, 0.0, 0.0)
"""The first turn takes one block, whether it is short or not; 13 are left."""


@pytest.mark.parametrize("workers", [1, 8, 64])
def test_work_without_overhead_scales(workers: int) -> None:
    found = simulate(SMALL, FREE, workers, 20 * workers)
    assert found.wall_s == pytest.approx(40.0)
    assert found.efficiency == pytest.approx(1.0)


def test_a_driver_feeds_as_many_workers_as_fit_into_a_unit() -> None:
    busy = replace(FREE, job_s=0.019, unit_s=0.001)  # 100 workers at 2 s per job
    assert simulate(SMALL, busy, 50, 2000).efficiency > 0.95
    found = simulate(SMALL, busy, 400, 8000)
    assert found.efficiency == pytest.approx(0.25, abs=0.01)
    assert found.busy["driver"] > 0.95


def test_the_blob_store_serves_all_nodes() -> None:
    slow = replace(FREE, store_bytes_s=1e6)  # a case per second
    found = simulate(replace(SMALL, written_bytes=0.0), slow, 16, 320)
    assert found.wall_s == pytest.approx(320.0, rel=0.02)
    assert max(found.busy, key=found.busy.__getitem__) == "blob store"


def test_one_case_is_as_fast_as_its_blocks_and_what_is_serial() -> None:
    assert simulate(LARGE, FREE, 1, 1).wall_s == pytest.approx(LARGE.core_s)
    assert simulate(LARGE, FREE, 13, 1).wall_s == pytest.approx(TURN_S + TURN_S + 2.0)
    assert simulate(LARGE, FREE, 1000, 1).wall_s == pytest.approx(TURN_S + TURN_S + 2.0)


def test_alone_a_case_is_prepared_on_every_worker_and_in_a_batch_on_few() -> None:
    prepared = replace(LARGE, prepare_s=1.0)
    alone = simulate(prepared, FREE, 14, 1)
    batch = simulate(prepared, FREE, 14, 280)
    assert alone.again > 1.5 * batch.again
    assert batch.efficiency > 0.9
    assert alone.wall_s < prepared.core_s / 3


def test_partial_statistics_cross_the_network_between_nodes_alone() -> None:
    heavy = replace(LARGE, partial_bytes=1e9)
    link = replace(FREE, network_bytes_s=1e9)
    assert simulate(heavy, link, 32, 1).busy["network"] == 0.0
    assert simulate(heavy, link, 64, 1).busy["network"] > 0.3

"""Spot placement in water, where depth is range."""

import numpy as np
import pytest

from doseeng.errors import GeometryError, PlanError
from doseeng.grid import Grid, Volume, beam_frame
from doseeng.machines import lookup
from doseeng.machines.library import find_machine
from doseeng.materials import MaterialMaps
from doseeng.plan import RangeShifter
from planning.spots import SpotSettings, energy_of_range, grown, peak_width_mm, place_spots

GRID = Grid((60, 80, 60), (2.0, 2.0, 2.0), (-59.0, -79.0, -59.0))
WATER = MaterialMaps(Volume(GRID, np.ones(GRID.shape)), Volume(GRID, np.ones(GRID.shape)))
RADIUS = 20.0
DEPTH = 90.0
"""Of the target's centre; the water begins at y = -80."""


@pytest.fixture(scope="module")
def machine():
    return find_machine("generic")


def ball(depth=DEPTH, radius=RADIUS):
    k, j, i = np.indices(GRID.shape)
    x, y, z = np.moveaxis(GRID.to_patient(np.stack([i, j, k], axis=-1)), -1, 0)
    return Volume(GRID, (x**2 + (y + 80.0 - depth) ** 2 + z**2 <= radius**2).astype(np.float32))


def place(machine, target, **settings):
    frame = beam_frame((0.0, DEPTH - 80.0, 0.0), 0.0)
    return place_spots(target, frame, machine, WATER, SpotSettings(**settings))


def test_every_peak_lies_in_the_target_and_the_target_is_filled(machine):
    uv, energy = place(machine, ball())
    depth = lookup.range_at(machine, energy)
    width = max(peak_width_mm(machine, e) for e in np.unique(energy))
    # The spots' grid point, a ray and a voxel's edge: two millimetres of tolerance.
    assert np.hypot(*uv.T, depth - DEPTH).max() < RADIUS + 0.5 * width + 2.0
    assert depth.max() == pytest.approx(DEPTH + RADIUS, abs=2.0)
    assert depth.min() == pytest.approx(DEPTH - RADIUS, abs=width)
    volume = np.pi * RADIUS**3 * 4 / 3
    assert len(energy) == pytest.approx(
        volume / (5.0**2 * np.mean([peak_width_mm(machine, e) for e in energy])), rel=0.25
    )


def test_layers_lie_a_peak_width_apart_deepest_first(machine):
    _, energy = place(machine, ball())
    layers = list(dict.fromkeys(energy))
    assert layers == sorted(layers, reverse=True)
    ranges = lookup.range_at(machine, np.array(layers))
    widths = [peak_width_mm(machine, e) for e in layers[:-1]]
    np.testing.assert_allclose(-np.diff(ranges), widths, rtol=1e-3)
    assert 2.0 < min(widths) < max(widths) < 8.0


def test_spots_lie_on_a_grid_in_serpentine_order(machine):
    uv, energy = place(machine, ball(), spacing_mm=4.0)
    np.testing.assert_allclose(uv / 4.0, np.round(uv / 4.0), atol=1e-9)
    middle = uv[energy == np.unique(energy)[len(np.unique(energy)) // 2]]
    steps = np.abs(np.diff(middle, axis=0)).max(axis=1)
    assert steps.max() <= 2 * 4.0


def test_range_margins_add_depth_on_both_sides(machine):
    near = lookup.range_at(machine, place(machine, ball())[1])
    far = lookup.range_at(machine, place(machine, ball(), range_margin_percent=3.5, range_margin_mm=2.0)[1])
    assert far.max() - near.max() == pytest.approx(0.035 * (DEPTH + RADIUS) + 2.0, abs=0.5)
    assert far.min() < near.min()


def test_a_range_shifter_asks_for_more_range(machine):
    frame = beam_frame((0.0, DEPTH - 80.0, 0.0), 0.0)
    energy = place_spots(ball(), frame, machine, WATER, range_shifter=RangeShifter("RS", 30.0, 200.0))[1]
    deepest = lookup.range_at(machine, energy).max()
    assert deepest == pytest.approx(DEPTH + RADIUS + 30.0, abs=2.0)


def test_a_shallow_target_needs_a_range_shifter(machine):
    with pytest.raises(PlanError, match="add a range shifter"):
        place(machine, ball(depth=40.0))


def test_a_target_beyond_the_machine_is_refused(machine):
    dense = MaterialMaps(Volume(GRID, np.full(GRID.shape, 4.0)), WATER.scattering)
    with pytest.raises(PlanError, match="choose other beam angles"):
        place_spots(ball(), beam_frame((0.0, 10.0, 0.0), 0.0), machine, dense)


def test_an_empty_target_is_refused(machine):
    empty = Volume(GRID, np.zeros(GRID.shape))
    with pytest.raises(GeometryError, match="holds no voxel"):
        place(machine, empty)
    with pytest.raises(GeometryError, match="holds no voxel"):
        grown(empty, 5.0)


def test_growing_adds_the_margin_on_all_sides():
    small, large = ball().values, grown(ball(), 6.0).values
    assert np.all(large[small > 0] == 1)
    radius = (large.sum() * 8.0 * 3 / (4 * np.pi)) ** (1 / 3)
    assert radius == pytest.approx(RADIUS + 6.0, abs=0.7)


def test_energy_and_range_are_inverse(machine):
    for energy in (75.0, 101.5, 199.0):
        depth = float(lookup.range_at(machine, np.array([energy]))[0])
        assert energy_of_range(machine, depth) == pytest.approx(energy, rel=1e-6)

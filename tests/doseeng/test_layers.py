"""Layers as tables: every kind releases its share of the depth dose, and groups spread as their layers do."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from doseeng._kernels.rays import secondaries_interval
from doseeng._kernels.scalar import LANES
from doseeng.layers import (
    GAP_GROWTH,
    MIXING_LEVELS_MM,
    RECOIL_RANGE_MM,
    RECOIL_SHARE,
    SECONDARY_ANGLE_RAD,
    TABLE_BLURS,
    TABLE_END,
    TABLE_STEP_MM,
    TAIL_SHARE,
    TAIL_WIDTH,
    Deposit,
    Kind,
    Layers,
    Tables,
    beam_layers,
    component_tables,
    kinds,
)
from doseeng.let import let_parts
from doseeng.machines import lookup
from doseeng.machines.library import find_machine
from doseeng.machines.model import ProtonMachine
from doseeng.plan import ProtonBeam, RangeShifter

SHIFTER = RangeShifter("RS", 40.0, 100.0)
PER_MM = np.float32(1.0 / TABLE_STEP_MM)


@pytest.fixture(scope="module")
def machine() -> ProtonMachine:
    return find_machine("generic-pbs")


def beam_of(energies: tuple[float, ...]) -> ProtonBeam:
    n = len(energies)
    return ProtonBeam(1, "B", "generic", (0.0, 0.0, 0.0), 0.0, 0.0, np.zeros((n, 2)), np.array(energies), np.ones(n))


def layers_of(machine: ProtonMachine, *energies: float) -> Layers:
    return beam_layers(beam_of(energies), machine)


def middles(tables: Tables, before_mm: float = 0.0) -> np.ndarray:
    """Depth in water, shifter included, at the middle of every table step."""
    return before_mm + TABLE_STEP_MM * (np.arange(tables.dose.shape[2]) + 0.5)


def range_of(machine: ProtonMachine, energy: float) -> float:
    return float(lookup.range_at(machine, np.array([energy]))[0])


def test_layers_are_the_energies_of_the_beam(machine: ProtonMachine) -> None:
    layers = layers_of(machine, 112.5, 100.0, 112.5, 100.0, 150.0)
    np.testing.assert_array_equal(layers.energy_mev, [100.0, 112.5, 150.0])
    np.testing.assert_array_equal(layers.spot_layer, [1, 0, 1, 0, 2])
    per_mu = np.interp([112.5, 100.0, 112.5, 100.0, 150.0], machine.energy_mev, machine.protons_per_mu)
    np.testing.assert_allclose(layers.protons_per_mu, per_mu / 1e9)
    np.testing.assert_allclose(
        layers.wide_share, np.interp(layers.energy_mev, machine.energy_mev, machine.optics.weight)
    )
    assert layers.groups == 1
    assert layers_of(machine, *np.linspace(80.0, 120.0, LANES)).groups == 1
    assert layers_of(machine, *np.linspace(80.0, 120.0, LANES + 1)).groups == 2


def test_a_beam_has_the_components_that_it_needs(machine: ProtonMachine) -> None:
    layers = layers_of(machine, 100.0)
    assert kinds(layers, None) == (Kind.CORE, Kind.TAIL, Kind.HALO, Kind.WIDE)
    assert set(kinds(layers, SHIFTER)) == set(Kind)
    narrow = replace(machine, optics=replace(machine.optics, weight=np.zeros_like(machine.optics.weight)))
    assert kinds(layers_of(narrow, 100.0), None) == (Kind.CORE, Kind.TAIL, Kind.HALO)


def shares(machine: ProtonMachine, energy: float, depth: np.ndarray, before_mm: float) -> dict[Kind, np.ndarray]:
    """What part of the depth dose each kind carries at depths in water, shifter included.

    Behind a range shifter the halo that was born in it stays; a twentieth builds up over 8 mm as recoils.
    """
    halo, _ = lookup.halo_at(machine, energy, depth)
    if before_mm == 0.0:
        core, recoil, born = 1.0 - halo, 0.0 * halo, 0.0 * halo
    else:
        recoil = RECOIL_SHARE * np.exp(-(depth - before_mm) / RECOIL_RANGE_MM)
        at_face = lookup.halo_at(machine, energy, np.array([before_mm]))[0]
        born = np.minimum(halo, at_face)
        core = 1.0 - halo
    rest = 1.0 - recoil
    return {
        Kind.CORE: (1.0 - TAIL_SHARE) * core * rest,
        Kind.TAIL: TAIL_SHARE * core * rest,
        Kind.HALO: (halo - born) * rest,
        Kind.SHIFTER_HALO: born * rest,
        Kind.RECOIL: recoil,
        Kind.WIDE: np.ones_like(depth),
    }


@pytest.mark.parametrize("shifter", [None, SHIFTER])
def test_tables_end_with_the_integral_of_the_depth_dose_and_the_share(
    machine: ProtonMachine, shifter: RangeShifter | None
) -> None:
    energies = (105.0, 128.7)
    layers = layers_of(machine, *energies)
    before = shifter.wet_mm if shifter else 0.0
    for kind in kinds(layers, shifter):
        tables = component_tables(kind, layers, machine, shifter)
        assert tables.dose.dtype == np.float32
        end = before + TABLE_STEP_MM * (tables.dose.shape[2] - 1)
        blur = TABLE_BLURS * MIXING_LEVELS_MM[tables.dose.shape[1] - 1]
        assert end == pytest.approx(TABLE_END * range_of(machine, energies[1]) + blur, abs=2.0 * TABLE_STEP_MM)
        for lane, energy in enumerate(energies):
            depth = np.linspace(before, end, 40_001)
            part = shares(machine, energy, depth, before)[kind]
            expected = np.trapezoid(lookup.depth_dose_at(machine, energy, depth) * part, depth)
            # Steps of 0.25 mm against a Bragg peak 2 mm wide.
            assert tables.dose[0, 0, -1, lane] == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("shifter", [None, SHIFTER])
def test_all_kinds_together_release_the_depth_dose(machine: ProtonMachine, shifter: RangeShifter | None) -> None:
    energies = (105.0, 128.7)
    layers = layers_of(machine, *energies)
    tables = {kind: component_tables(kind, layers, machine, shifter) for kind in kinds(layers, shifter)}
    wide = tables.pop(Kind.WIDE)
    rows = wide.dose.shape[2]  # the core's table is longer, for its blurred levels
    released = np.diff(sum(t.dose[0, 0, :rows].astype(float) for t in tables.values()), axis=0)
    middle = middles(wide, shifter.wet_mm if shifter else 0.0)[:-1]
    for lane, energy in enumerate(energies):
        expected = lookup.depth_dose_at(machine, energy, middle) * TABLE_STEP_MM
        # Differences of float32 sums.
        np.testing.assert_allclose(released[:, lane], expected, atol=1e-6 * expected.sum())
        np.testing.assert_allclose(
            np.diff(wide.dose[0, 0, :, lane].astype(float)), expected, atol=1e-6 * expected.sum()
        )


def test_dose_times_let_is_shared_by_all_kinds(machine: ProtonMachine) -> None:
    layers = layers_of(machine, 128.7)
    middle = middles(component_tables(Kind.WIDE, layers, machine, None))[:-1]
    rows = len(middle) + 1  # the core's table is longer, for its blurred levels
    tables = {kind: component_tables(kind, layers, machine, None, Deposit.DOSE_LET) for kind in kinds(layers, None)}
    released = {kind: np.diff(table.dose[0, 0, :rows, 0].astype(float)) for kind, table in tables.items()}
    total = let_parts(machine, 128.7, middle).total * lookup.depth_dose_at(machine, 128.7, middle) * TABLE_STEP_MM
    np.testing.assert_allclose(released[Kind.WIDE], total, atol=1e-6 * total.sum())
    parts = released[Kind.CORE] + released[Kind.TAIL] + released[Kind.HALO]
    np.testing.assert_allclose(parts, total, atol=2e-6 * total.sum())


def test_padded_lanes_are_empty(machine: ProtonMachine) -> None:
    layers = layers_of(machine, *np.linspace(90.0, 120.0, LANES + 3))
    tables = component_tables(Kind.CORE, layers, machine, None)
    assert tables.dose.shape[::3] == (2, LANES)
    assert np.all(tables.dose[1, 0, -1, :3] > 0)
    assert not tables.dose[1, :, :, 3:].any()


def test_blurred_tables_are_convolved_depth_doses(machine: ProtonMachine) -> None:
    tables = component_tables(Kind.CORE, layers_of(machine, 150.0), machine, None)
    released = np.diff(tables.dose[0, 0, :, 0].astype(float))
    # Away from the table's end, where what would lie beyond is cut.
    for level, sigma in enumerate(MIXING_LEVELS_MM[1:], start=1):
        expected = gaussian_filter1d(released, sigma / TABLE_STEP_MM, mode="nearest", truncate=6.0)
        inner = slice(0, len(released) - int(4.0 * sigma / TABLE_STEP_MM))
        found = np.diff(tables.dose[0, level, :, 0].astype(float))
        np.testing.assert_allclose(found[inner], expected[inner], atol=2e-3 * expected.max())


@pytest.mark.parametrize(("energy", "largest_mm"), [(70.0, 6.0), (100.0, 12.0), (150.0, 24.0), (220.0, 24.0)])
def test_blurred_tables_keep_the_total(machine: ProtonMachine, energy: float, largest_mm: float) -> None:
    # Levels up to 15 % of the range. Dose blurred beyond the table's end, a quarter behind the range, is lost: 1 %.
    tables = component_tables(Kind.CORE, layers_of(machine, energy), machine, None)
    ends = tables.dose[0, :, -1, 0] / tables.dose[0, 0, -1, 0]
    use = np.array(MIXING_LEVELS_MM) <= largest_mm
    np.testing.assert_allclose(ends[use], 1.0, atol=0.015)


def test_lane_mean_is_the_mean_of_what_deposits(machine: ProtonMachine) -> None:
    energies = (90.0, 97.0, 104.0)
    tables = component_tables(Kind.CORE, layers_of(machine, *energies), machine, None)
    x = tables.lanes[0, :3].astype(float)
    # The shallowest layer scatters most.
    assert x[0] == pytest.approx(1.0)
    assert x[2] == pytest.approx(0.0)
    assert 0.0 < x[1] < 1.0
    released = np.diff(tables.dose[0, 0, :, :3].astype(float), axis=0)
    alive = released.sum(axis=1) > 1e-3 * released.sum(axis=1).max()
    expected = (released * x).sum(axis=1)[alive] / released.sum(axis=1)[alive]
    np.testing.assert_allclose(tables.lane_mean[0, :-1][alive], expected, atol=2e-3)
    # Behind the other two ranges only the deepest layer is left.
    deep = int((range_of(machine, 97.0) + 6.0) / TABLE_STEP_MM)
    assert tables.lane_mean[0, deep] < 0.01


@pytest.mark.parametrize(
    "energies",
    [(150.0,), (100.0, 200.0), tuple(np.linspace(70.0, 84.0, 8)), tuple(np.linspace(150.0, 165.0, 8)),
     tuple(np.linspace(100.0, 121.0, 8)), tuple(np.linspace(150.0, 190.0, 11))],
    ids=lambda energies: f"{energies[0]:g}-{energies[-1]:g}",
)  # fmt: skip
def test_groups_scatter_as_each_of_their_layers(machine: ProtonMachine, energies: tuple[float, ...]) -> None:
    # A layer's own power against P + x Q, as the width at 80 % of its range and at its range, in water. Groups of eight
    # layers span up to 21 MeV here; power is convex in x, so that a line misses it by a few percent.
    layers = layers_of(machine, *energies)
    tables = component_tables(Kind.CORE, layers, machine, None)
    middle = middles(tables)
    for n, energy in enumerate(energies):
        group, lane = divmod(n, LANES)
        found = tables.power_p[group] + tables.lanes[group, lane] * tables.power_q[group]
        own = lookup.scattering_power_at(machine, np.array([energy]), middle)[0]
        for fraction, tolerance in ((0.8, 0.015), (1.0, 0.03)):
            end = fraction * range_of(machine, energy)
            lever = np.where(middle < end, (end - middle) ** 2, 0.0)
            ratio = (found * lever).sum() / (own * lever).sum()
            assert ratio > 0, f"{energy:g} MeV at {fraction:g} of its range"
            assert np.sqrt(ratio) == pytest.approx(1.0, abs=tolerance), f"{energy:g} MeV at {fraction:g} of its range"
        assert found[middle < range_of(machine, energy) - 1.0].min() > 0, f"{energy:g} MeV"


def test_the_tail_scatters_wider_than_the_core(machine: ProtonMachine) -> None:
    layers = layers_of(machine, 100.0, 110.0)
    core, tail = (component_tables(kind, layers, machine, None) for kind in (Kind.CORE, Kind.TAIL))
    n = tail.power_p.shape[1]
    np.testing.assert_allclose(tail.power_p, TAIL_WIDTH**2 * core.power_p[:, :n], rtol=1e-5)
    np.testing.assert_allclose(tail.power_q, TAIL_WIDTH**2 * core.power_q[:, :n], rtol=1e-5, atol=1e-12)


def widths_in_water(tables: Tables, group: int, length_mm: int, h_mm: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Depth and width of secondaries at the centre of slices of water, as the engine marches them from the skin."""
    n = int(length_mm / h_mm)
    straight = np.zeros((1, 1), dtype=np.float32)
    moments = tables.start[group].reshape(1, 1, 2).copy()
    wet, spread = np.empty((2, n, 1, 1), dtype=np.float32)
    ones = np.ones((n, 1, 1), dtype=np.float32)
    secondaries_interval(
        ones, np.float32(1.0), np.full((1, 1), h_mm, np.float32), tables.renewal[group],
        np.float32(tables.angle_square), np.float32(-1.0), PER_MM, 0, n, np.array([0, 1]), np.ones((1, 1), np.bool_),
        straight, moments, wet, spread,
    )  # fmt: skip
    return wet[:, 0, 0] + 0.5 * h_mm, np.sqrt(spread[:, 0, 0])


@pytest.mark.parametrize("energy", [80.0, 120.0, 160.0, 220.0])
def test_the_halo_marched_through_water_is_as_wide_as_the_machines(machine: ProtonMachine, energy: float) -> None:
    tables = component_tables(Kind.HALO, layers_of(machine, energy), machine, None)
    range_mm = range_of(machine, energy)
    depth, found = widths_in_water(tables, 0, int(0.97 * range_mm))
    share, expected = lookup.halo_at(machine, energy, depth)
    # Where the halo carries dose; secondaries cannot narrow faster than they are renewed.
    use = share > 0.01
    assert use.sum() > 10
    np.testing.assert_allclose(found[use], expected[use], rtol=0.04)


def test_a_group_of_halos_is_as_wide_as_what_deposits(machine: ProtonMachine) -> None:
    energies = tuple(np.linspace(140.0, 154.0, 8))
    layers = layers_of(machine, *energies)
    tables = component_tables(Kind.HALO, layers, machine, None)
    depth, found = widths_in_water(tables, 0, int(0.95 * range_of(machine, 140.0)))
    each = np.array([np.array(lookup.halo_at(machine, e, depth)) for e in energies])
    weight = each[:, 0] * np.array([lookup.depth_dose_at(machine, e, depth) for e in energies])
    expected = (weight * each[:, 1]).sum(axis=0) / weight.sum(axis=0)
    use = each[:, 0].min(axis=0) > 0.02
    np.testing.assert_allclose(found[use], expected[use], rtol=0.06)


def test_secondaries_of_a_range_shifter_leave_it_with_their_width(machine: ProtonMachine) -> None:
    layers = layers_of(machine, 150.0)
    born = component_tables(Kind.SHIFTER_HALO, layers, machine, SHIFTER)
    width = float(lookup.halo_at(machine, 150.0, np.array([SHIFTER.wet_mm]))[1][0])
    angle = GAP_GROWTH * width / SHIFTER.wet_mm
    np.testing.assert_allclose(born.start[0], (width**2, angle * width), rtol=1e-5)
    assert np.sqrt(born.angle_square) == pytest.approx(angle, rel=1e-6)
    # They are never renewed, so that their width grows with distance alone: sigma' = 1.5 sigma / d.
    assert not born.renewal.any()
    recoil = component_tables(Kind.RECOIL, layers, machine, SHIFTER)
    assert not recoil.renewal.any()
    assert not recoil.start.any()
    assert np.sqrt(recoil.angle_square) == pytest.approx(SECONDARY_ANGLE_RAD)
    # The patient's own halo starts anew behind it.
    assert not component_tables(Kind.HALO, layers, machine, SHIFTER).start.any()

"""Depth-dose helpers against the analytic Bragg curve."""

import numpy as np
import pytest

from doseeng.errors import MachineError
from doseeng.machines.bortfeld import bragg_curve, bragg_range_mm, range_sigma_mm
from doseeng.machines.depthdose import (
    DEPTH_FRACTION,
    GY_MM2_PER_1E9_PROTONS,
    bin_edges_mm,
    bins_to_curve,
    distal_range_mm,
    interpolate_depth_dose,
    interpolate_range,
    table_from_bins,
    table_from_points,
)
from doseeng.machines.model import Array, ProtonMachine


def binned(range_mm: float, sigma_mm: float, edges: Array, sub: int = 200) -> Array:
    """Bin means of the Bragg curve by fine midpoint sums."""
    middle = (np.arange(sub) + 0.5) / sub
    depth = edges[:-1, None] + np.diff(edges)[:, None] * middle
    return bragg_curve(depth.ravel(), range_mm, sigma_mm).reshape(depth.shape).mean(axis=1)


def test_bragg_curve_deposits_the_energy_that_nuclear_losses_leave() -> None:
    for energy, share in ((70.0, 0.99), (150.0, 0.96), (220.0, 0.93)):
        r = float(bragg_range_mm(energy))
        sigma = float(range_sigma_mm(r, energy, 0.0))
        depth = np.linspace(0.0, 1.1 * r, 20001)
        total = np.trapezoid(bragg_curve(depth, r, sigma), depth)
        assert total / 10.0 / GY_MM2_PER_1E9_PROTONS / energy == pytest.approx(share, abs=0.015)


def test_bragg_curve_joins_smoothly_where_straggling_is_dropped() -> None:
    r, sigma = 200.0, 2.0
    depth = r - 10.0 * sigma + np.array([-1e-3, 1e-3])
    left, right = bragg_curve(depth, r, sigma)
    assert right == pytest.approx(left, rel=5e-3)


def test_distal_80_is_the_mean_range() -> None:
    depth = np.linspace(0.0, 220.0, 20001)
    for sigma in (1.5, 2.5, 4.0):
        # Bortfeld 1997: the distal 80 % marks R0 whatever the spread.
        assert distal_range_mm(depth, bragg_curve(depth, 180.0, sigma)) == pytest.approx(180.0, abs=0.05)


def test_range_of_a_curve_that_never_falls_is_refused() -> None:
    with pytest.raises(MachineError, match="extend the table"):
        distal_range_mm(np.arange(10.0), np.arange(10.0))


def test_bin_integrals_are_exact() -> None:
    edges = np.arange(0.0, 131.0)
    means = binned(100.0, 1.5, edges)
    at = np.linspace(0.0, 130.0, 130 * 64 + 1)
    curve = bins_to_curve(edges, means, at).reshape(-1)
    integral = np.array([np.trapezoid(curve[i * 64 : i * 64 + 65], at[i * 64 : i * 64 + 65]) for i in range(130)])
    np.testing.assert_allclose(integral, means, atol=2e-4 * means.max())


@pytest.mark.parametrize(
    ("range_mm", "sigma_mm", "tolerance"), [(80.0, 1.2, 6e-3), (160.0, 2.3, 1e-3), (310.0, 4.0, 1e-3)]
)
def test_table_from_one_mm_bins_recovers_the_curve(range_mm: float, sigma_mm: float, tolerance: float) -> None:
    edges = np.arange(0.0, np.ceil(1.4 * range_mm))
    found_range, curve = table_from_bins(edges, binned(range_mm, sigma_mm, edges))
    assert found_range == pytest.approx(range_mm, abs=0.05)
    truth = bragg_curve(DEPTH_FRACTION * found_range, range_mm, sigma_mm)
    assert np.max(np.abs(curve - truth)) < tolerance * truth.max()
    assert curve.min() >= 0.0
    assert curve[-1] == 0.0


def test_linear_interpolation_on_the_nodes_is_good_to_a_tenth_of_a_percent() -> None:
    r = 300.0
    sigma = float(range_sigma_mm(r, 217.0, 0.0))
    depth = np.linspace(0.0, 1.25 * r, 5000)
    truth = bragg_curve(depth, r, sigma)
    found = np.interp(depth / r, DEPTH_FRACTION, bragg_curve(DEPTH_FRACTION * r, r, sigma))
    assert np.max(np.abs(found - truth)) < 1.5e-3 * truth.max()


def test_points_outside_the_table_are_zero() -> None:
    depth = np.linspace(0.0, 110.0, 1101)
    _, curve = table_from_points(depth, bragg_curve(depth, 100.0, 1.5) + 1e-3)
    assert np.all(curve[DEPTH_FRACTION > 1.11] == 0.0)


def test_interpolation_between_ten_mev_steps(bragg_machine: ProtonMachine) -> None:
    at = np.array([85.0, 133.0, 195.0])
    ranges = interpolate_range(bragg_machine.energy_mev, bragg_machine.range_mm, at)
    curves = interpolate_depth_dose(bragg_machine.energy_mev, bragg_machine.idd, at)
    for energy, found_range, curve in zip(at, ranges, curves, strict=True):
        r0 = float(bragg_range_mm(energy))
        truth = bragg_curve(DEPTH_FRACTION * found_range, r0, float(range_sigma_mm(r0, energy, 0.006 * energy)))
        assert found_range == pytest.approx(r0, abs=0.02)
        assert np.max(np.abs(curve - truth)) < 0.01 * truth.max()


def test_table_energies_come_back_unchanged_and_others_are_refused(bragg_machine: ProtonMachine) -> None:
    energy = bragg_machine.energy_mev
    np.testing.assert_array_equal(interpolate_depth_dose(energy, bragg_machine.idd, energy), bragg_machine.idd)
    for outside in (79.0, 201.0):
        with pytest.raises(MachineError, match=rf"{outside:g} MeV lies outside the depth doses \(80 to 200 MeV\)"):
            interpolate_depth_dose(energy, bragg_machine.idd, np.array([outside]))
        with pytest.raises(MachineError, match="outside"):
            interpolate_range(energy, bragg_machine.range_mm, np.array([outside]))


def test_bin_edges() -> None:
    np.testing.assert_allclose(bin_edges_mm(np.arange(0.5, 10.0)), np.arange(11.0))
    with pytest.raises(MachineError, match="not the centres of equal bins"):
        bin_edges_mm(np.array([0.0, 1.0, 2.0]))

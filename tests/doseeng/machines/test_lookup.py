"""What a machine delivers at any energy: interpolation between rows, and what a range shifter adds."""

from dataclasses import replace

import numpy as np
import pytest

from doseeng.machines import lookup
from doseeng.machines.library import find_machine
from doseeng.machines.model import ProtonMachine
from doseeng.plan import RangeShifter
from doseeng.protonphysics import PMMA, relative_scattering_power, relative_stopping_power


@pytest.fixture(scope="module")
def machine() -> ProtonMachine:
    return find_machine("generic-pbs")


def test_scattering_power_of_several_energies_is_that_of_each(machine: ProtonMachine) -> None:
    depth = np.linspace(0.0, 200.0, 50)
    energies = np.array([80.0, 123.0, 200.0])
    found = lookup.scattering_power_at(machine, energies, depth)
    assert found.shape == (3, 50)
    for row, energy in zip(found, energies, strict=True):
        np.testing.assert_array_equal(row, lookup.scattering_power_at(machine, np.array([energy]), depth)[0])
    # Slower protons scatter more.
    assert np.all(np.diff(found[:, :10], axis=0) < 0)


def test_scattering_power_rises_with_depth_and_is_held_where_protons_stop(machine: ProtonMachine) -> None:
    depth = np.linspace(0.0, 120.0, 481)
    power = lookup.scattering_power_at(machine, np.array([100.0]), depth)[0]
    range_mm = float(lookup.range_at(machine, np.array([100.0]))[0])
    assert np.all(np.diff(power[depth < range_mm - 2.0]) > 0)
    beyond = power[depth > range_mm + 2.0]
    np.testing.assert_array_equal(beyond, beyond[0])
    assert np.isfinite(beyond[0])


@pytest.mark.parametrize("scatter", [1.0, 9.0])
def test_a_thin_range_shifter_scatters_from_its_face(machine: ProtonMachine, scatter: float) -> None:
    # 1 mm of water in PMMA: an angle of mean T_water times the ratio of scattering powers, and a lever to the height.
    shifter = RangeShifter("thin", 1.0, 60.0, 1.19)
    energy, z = np.array([120.0, 180.0]), np.array([100.0, 40.0, -90.0])
    plain = lookup.optics_variance(machine, energy, 0, z)
    found = lookup.optics_variance(machine, energy, 0, z, shifter, scatter) - plain
    assert found.shape == (3, 2, 2)
    thickness = 1.0 / relative_stopping_power(1.19, PMMA)
    power = lookup.scattering_power_at(machine, energy, (np.arange(500) + 0.5) / 500).mean(axis=1)
    power *= relative_scattering_power(1.19, PMMA)
    lever = np.maximum(60.0 - z, 0.0)[:, None] + 0.5 * thickness
    expected = scatter * power * thickness * (lever**2 + thickness**2 / 12.0)
    # Upstream of it only what it has inside, less than 1e-3 mm2.
    np.testing.assert_allclose(found[1:, :, 0], expected[1:], rtol=0.01)
    np.testing.assert_allclose(found[0], 0.0, atol=1e-3)
    # The same across both axes.
    np.testing.assert_allclose(found[..., 0], found[..., 1], rtol=1e-9, atol=1e-12)


def test_optics_drift_in_vacuum(machine: ProtonMachine) -> None:
    optics = machine.optics
    row = 12
    energy, z = machine.energy_mev[row : row + 1], np.array([optics.plane_mm, 0.0, -150.0])
    for gaussian in (0, 1):
        found = lookup.optics_variance(machine, energy, gaussian, z)[:, 0]
        s, t, r = (a[row, gaussian] for a in (optics.sigma_mm, optics.divergence_rad, optics.correlation))
        drift = (optics.plane_mm - z)[:, None]
        np.testing.assert_allclose(found, s**2 + 2.0 * r * s * t * drift + (t * drift) ** 2, rtol=1e-12)


def test_the_halo_follows_its_own_nodes(machine: ProtonMachine) -> None:
    # A share of 10 % in the middle of the range, none at 99 % of it, whatever the energy.
    nodes = np.array([0.0, 0.5, 0.99])
    n = len(machine.energy_mev)
    halo = replace(
        machine.halo,
        depth_fraction=nodes,
        fraction=np.tile([0.0, 0.1, 0.0], (n, 1)),
        sigma_mm=np.tile([10.0, 20.0, 30.0], (n, 1)),
    )
    for energy in (75.0, 113.7, 220.0):
        range_mm = float(lookup.range_at(machine, np.array([energy]))[0])
        at = range_mm * np.array([0.25, 0.5, 0.745, 0.99, 1.2])
        share, sigma = lookup.halo_at(replace(machine, halo=halo), energy, at)
        np.testing.assert_allclose(share, [0.05, 0.1, 0.05, 0.0, 0.0], atol=1e-9)
        np.testing.assert_allclose(sigma, [15.0, 20.0, 25.0, 30.0, 30.0], rtol=1e-9)

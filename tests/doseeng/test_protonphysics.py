"""Protons in matter against PSTAR (NIST), ICRU 49 and Gottschalk, Med Phys 37 (2010) 352."""

import numpy as np
import pytest

from doseeng import protonphysics as physics

# PSTAR, liquid water: MeV, MeV cm2/g (electronic), g/cm2 (CSDA).
PSTAR_WATER = np.array(
    [
        (10.0, 45.67, 0.1230),
        (50.0, 12.45, 2.227),
        (100.0, 7.289, 7.718),
        (150.0, 5.445, 15.77),
        (200.0, 4.492, 25.96),
        (250.0, 3.911, 37.94),
    ]
)
CLINICAL = PSTAR_WATER[PSTAR_WATER[:, 0] >= 50.0]


def test_kinematics_by_hand() -> None:
    # At a kinetic energy equal to the rest energy gamma is 2: (v/c)^2 = 3/4, pv = E (2 + 1) / (1 + 1).
    rest = physics.PROTON_REST_MEV
    assert physics.beta_squared(rest) == pytest.approx(0.75)
    assert physics.pv_mev(rest) == pytest.approx(1.5 * rest)
    # Slow protons: v^2 = 2 E / m and pv = 2 E.
    assert physics.beta_squared(1e-3) == pytest.approx(2e-3 / rest, rel=1e-5)
    assert physics.pv_mev(1e-3) == pytest.approx(2e-3, rel=1e-5)


def test_stopping_power_of_water() -> None:
    energy, stopping, _ = CLINICAL.T
    np.testing.assert_allclose(physics.mass_stopping_power(energy), stopping, rtol=1e-3)
    np.testing.assert_allclose(physics.mass_stopping_power(PSTAR_WATER[0, 0]), PSTAR_WATER[0, 1], rtol=7e-3)


def test_let_of_slow_protons() -> None:
    # PSTAR at energies that the table leaves out: MeV, MeV cm2/g.
    energy = np.array([0.035, 0.085, 0.35, 0.95, 1.75, 3.5, 7.0, 17.5, 35.0, 70.0, 175.0, 225.0, 350.0])
    stopping = np.array([698.9, 823.9, 507.5, 270.0, 174.8, 104.1, 60.68, 29.04, 16.56, 9.555, 4.901, 4.169, 3.24])
    np.testing.assert_allclose(physics.water_let_kev_um(energy), stopping / 10.0, rtol=1e-3)
    # Held at the ends of the table.
    np.testing.assert_allclose(physics.water_let_kev_um([0.001, 1000.0]), [42.29, 0.3031])
    # The Bethe formula agrees where it holds.
    fast = np.linspace(50.0, 250.0, 9)
    np.testing.assert_allclose(physics.water_let_kev_um(fast), physics.mass_stopping_power(fast) / 10.0, rtol=2e-3)


def test_range_in_water() -> None:
    energy, _, csda = CLINICAL.T
    np.testing.assert_allclose(physics.water_range_mm(energy) / 10.0, csda, rtol=2.5e-3)
    # At 10 MeV the shell corrections that the formula leaves out cost 1.1 %, 14 micrometres.
    np.testing.assert_allclose(physics.water_range_mm(10.0), 1.230, atol=0.02)


def test_energy_from_range_is_the_inverse() -> None:
    energy = np.geomspace(1.0, 400.0, 97)
    np.testing.assert_allclose(physics.energy_from_range(physics.water_range_mm(energy)), energy, rtol=1e-9)
    assert physics.energy_from_range(0.0) == pytest.approx(1.0)
    assert physics.energy_from_range(-3.0) == pytest.approx(1.0)


def test_stopping_falls_and_range_rises_with_energy() -> None:
    energy = np.linspace(2.0, 300.0, 400)
    assert np.all(np.diff(physics.mass_stopping_power(energy)) < 0)
    assert np.all(np.diff(physics.water_range_mm(energy)) > 0)


def test_electrons_per_gram_of_water() -> None:
    # Ten electrons per molecule of 18.015 g/mol.
    assert physics.electrons_mol_per_g(physics.WATER) == pytest.approx(10.0 / 18.015, rel=1e-4)


@pytest.mark.parametrize(
    ("composition", "icru_ev", "tolerance"),
    [(physics.WATER, 75.0, 1e-9), (physics.PMMA, 74.0, 0.05), (physics.AIR, 85.7, 0.04)],
    ids=["water", "PMMA", "air"],
)
def test_mean_excitation_energy(composition: dict, icru_ev: float, tolerance: float) -> None:
    # ICRU 49 measured values; additivity with the values for compounds is good to some percent of I, tenths of S.
    assert physics.mean_excitation_ev(composition) == pytest.approx(icru_ev, rel=tolerance)


def test_relative_stopping_power() -> None:
    assert physics.relative_stopping_power(1.0, physics.WATER) == pytest.approx(1.0)
    # Measured RSP of PMMA of 1.19 g/cm3, for example Moyers et al., Med Phys 37 (2010) 1952.
    assert physics.relative_stopping_power(1.19, physics.PMMA) == pytest.approx(1.165, rel=0.01)
    assert physics.relative_stopping_power(2.38, physics.PMMA) == pytest.approx(
        2.0 * physics.relative_stopping_power(1.19, physics.PMMA)
    )


def test_a_higher_excitation_energy_stops_less() -> None:
    # Bethe at 100 MeV: beta^2 = 0.1834, ln(2 m c^2 beta^2 gamma^2 / 75 eV) - beta^2 = 8.05 - 0.18, so 78 eV is
    # ln(78 / 75) / 7.87 = 0.5 % less.
    ratio = physics.relative_stopping_power(1.0, physics.WATER, 78.0)
    assert ratio == pytest.approx(1.0 - np.log(78.0 / 75.0) / 7.87, abs=2e-4)


def test_scattering_length_of_water() -> None:
    assert 1.0 / physics.inverse_scattering_length_cm2_g(physics.WATER) == pytest.approx(46.88, rel=1e-3)


def test_relative_scattering_power() -> None:
    assert physics.relative_scattering_power(1.0, physics.WATER) == pytest.approx(1.0)
    assert physics.relative_scattering_power(0.5, physics.WATER) == pytest.approx(0.5)
    # Z^2/A: calcium scatters far more per gram than water, carbon and PMMA less.
    assert physics.relative_scattering_power(1.0, {"Ca": 1.0}) > 2.0
    assert 0.8 < physics.relative_scattering_power(1.0, physics.PMMA) < 0.9


@pytest.mark.parametrize("energy", [70.0, 100.0, 160.0, 220.0])
def test_multiple_scattering_at_the_end_of_range(energy: float) -> None:
    # Gottschalk: the transverse spread of protons stopping in water is close to 2.2 % of the range at all energies.
    range_mm = float(physics.water_range_mm(energy))
    depth = (np.arange(2000) + 0.5) * range_mm / 2000
    power = physics.scattering_power_water(range_mm - depth, energy)
    sigma = np.sqrt(np.sum(power * (range_mm - depth) ** 2) * range_mm / 2000)
    assert sigma / range_mm == pytest.approx(0.022, abs=0.0004)


def test_scattering_power_grows_towards_the_end_and_is_never_negative() -> None:
    residual = np.linspace(0.5, float(physics.water_range_mm(150.0)), 300)
    power = physics.scattering_power_water(residual, 150.0)
    assert np.all(power >= 0)
    assert np.all(np.diff(power) < 0)
    # A residual range beyond the start (energy spread) is the start, not a NaN.
    assert np.isfinite(physics.scattering_power_water(2.0 * residual[-1], 150.0))

"""Photon coefficients and electron stopping powers against published tables."""

import numpy as np
import pytest

from doseeng import photonphysics, protonphysics
from doseeng.photonphysics import (
    effective_energy_mev,
    electron_stopping_power,
    mass_attenuation_cm2_g,
    mean_energy_mev,
    relative_electrons_per_mass,
    relative_mass_attenuation,
    water_absorption_cm2_g,
    water_attenuation_cm2_g,
    water_dose_ratio,
)
from doseeng.protonphysics import WATER

# Compositions of ICRU Report 44 and mu/rho in cm2/g at 0.1, 0.2, 0.5, 1, 2, 6, 10 and 20 MeV (NIST SRD 126, Table 4).
ENERGIES_MEV = (0.1, 0.2, 0.5, 1.0, 2.0, 6.0, 10.0, 20.0)
NIST = {
    "cortical bone": (
        {"H": 3.4, "C": 15.5, "N": 4.2, "O": 43.5, "Na": 0.1, "Mg": 0.2, "P": 10.3, "S": 0.3, "Ca": 22.5},
        (0.1855, 0.1309, 0.09022, 0.06566, 0.04607, 0.02734, 0.02314, 0.02068),
    ),
    "lung": (
        {"H": 10.3, "C": 10.5, "N": 3.1, "O": 74.9, "Na": 0.2, "P": 0.2, "S": 0.3, "Cl": 0.3, "K": 0.2},
        (0.1695, 0.1359, 0.09607, 0.07013, 0.04900, 0.02746, 0.02198, 0.01794),
    ),
    "adipose": (
        {"H": 11.4, "C": 59.8, "N": 0.7, "O": 27.8, "Na": 0.1, "S": 0.1, "Cl": 0.1},
        (0.1688, 0.1368, 0.09696, 0.07078, 0.04940, 0.02725, 0.02145, 0.01698),
    ),
    "muscle": (
        {"H": 10.2, "C": 14.3, "N": 3.4, "O": 71.0, "Na": 0.1, "P": 0.2, "S": 0.3, "Cl": 0.1, "K": 0.4},
        (0.1693, 0.1358, 0.09598, 0.07007, 0.04896, 0.02741, 0.02192, 0.01786),
    ),
}
# Composition, g/cm3, and ESTAR's water-to-material ratio of collision stopping powers at 0.5, 1, 2 and 10 MeV.
ESTAR_MEV = (0.5, 1.0, 2.0, 10.0)
ESTAR = {
    "cortical bone (ICRP)": (
        {"H": 4.7234, "C": 14.433, "N": 4.199, "O": 44.6096, "Mg": 0.22, "P": 10.497, "S": 0.315, "Ca": 20.993,
         "Zn": 0.01}, 1.85, (1.1144, 1.1149, 1.1098, 1.0940),
    ),
    "compact bone (ICRU)": (
        {"H": 6.3984, "C": 27.8, "N": 2.7, "O": 41.0016, "Mg": 0.2, "P": 7.0, "S": 0.2, "Ca": 14.7},
        1.85, (1.0800, 1.0844, 1.0827, 1.0724),
    ),
    "lung (ICRP)": (
        {"H": 10.1278, "C": 10.231, "N": 2.865, "O": 75.7072, "Na": 0.184, "Mg": 0.073, "P": 0.08, "S": 0.225,
         "Cl": 0.266, "K": 0.194}, 1.05, (1.0105, 1.0120, 1.0121, 1.0110),
    ),
    "adipose (ICRP)": (
        {"H": 11.9477, "C": 63.724, "N": 0.797, "O": 23.2333, "Na": 0.05, "S": 0.073, "Cl": 0.119, "K": 0.032},
        0.92, (0.9774, 0.9833, 0.9858, 0.9855),
    ),
    "soft tissue (ICRP)": (
        {"H": 10.4472, "C": 23.219, "N": 2.488, "O": 63.0238, "Na": 0.113, "P": 0.133, "S": 0.199, "Cl": 0.134,
         "K": 0.199}, 1.0, (1.0033, 1.0057, 1.0063, 1.0053),
    ),
}  # fmt: skip


def fractions(percent: dict[str, float]) -> dict[str, float]:
    total = sum(percent.values())
    return {element: value / total for element, value in percent.items()}


def test_water_has_the_published_coefficients() -> None:
    energy = np.array([0.05, 0.1, 1.25, 6.0, 20.0])
    np.testing.assert_allclose(water_attenuation_cm2_g(energy), [0.2269, 0.1707, 0.06323, 0.0277, 0.01813], rtol=1e-6)
    published = [0.04223, 0.02546, 0.02965, 0.01806, 0.01382]
    np.testing.assert_allclose(water_absorption_cm2_g(energy), published, rtol=1e-6)
    np.testing.assert_allclose(mass_attenuation_cm2_g(energy, WATER), water_attenuation_cm2_g(energy), rtol=6e-4)
    np.testing.assert_array_equal(water_attenuation_cm2_g([0.01, 50.0]), water_attenuation_cm2_g([0.05, 20.0]))


@pytest.mark.parametrize(
    ("element", "energy", "barn"),
    [("H", 7.0, 0.06826), ("O", 12.0, 0.52458), ("Ca", 9.0, 1.90257), ("Fe", 18.0, 2.94027), ("Ba", 2.044, 9.23183)],
)
def test_between_the_energies_of_the_table_stands_xcom(element: str, energy: float, barn: float) -> None:
    """Total cross sections per atom of NIST XCOM at energies that the table skips."""
    published = barn * 0.602214076 / protonphysics.ELEMENTS[element][1]
    assert mass_attenuation_cm2_g(energy, {element: 1.0}) == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize("tissue", NIST)
def test_tissues_are_attenuated_as_published(tissue: str) -> None:
    percent, published = NIST[tissue]
    found = mass_attenuation_cm2_g(ENERGIES_MEV, fractions(percent))
    np.testing.assert_allclose(found, published, rtol=1.5e-3)


def test_compton_electrons_decide_at_1_mev() -> None:
    bone = fractions(NIST["cortical bone"][0])
    # Z/A of ICRU cortical bone is 0.51478, of water 0.55508.
    assert relative_electrons_per_mass(bone) == pytest.approx(0.51478 / 0.55508, rel=1e-3)
    assert relative_mass_attenuation(bone, 1.0) == pytest.approx(relative_electrons_per_mass(bone), rel=3e-3)
    # Photoelectrons below and pairs above add to them.
    assert relative_mass_attenuation(bone, 0.1) > 1.05
    assert relative_mass_attenuation(bone, 10.0) > 1.03
    assert relative_mass_attenuation(WATER, 3.3) == 1.0


def test_mean_and_effective_energy() -> None:
    # Two photons of 1 MeV for one of 2 MeV carry the same energy.
    assert mean_energy_mev([1.0, 2.0], [0.5, 0.5]) == pytest.approx(4.0 / 3.0)
    assert effective_energy_mev([0.5, 3.0], [0.0, 1.0]) == pytest.approx(3.0, rel=1e-4)
    mixed = effective_energy_mev([1.0, 4.0], [1.0, 3.0])
    assert water_attenuation_cm2_g(mixed) == pytest.approx((0.07072 + 3.0 * 0.03403) / 4.0, rel=1e-4)


def test_electrons_in_water_stop_as_in_estar() -> None:
    published = {0.1: 4.115, 0.3: 2.355, 1.0: 1.849, 2.0: 1.824, 10.0: 1.968}
    for energy, stopping in published.items():
        assert electron_stopping_power(energy) == pytest.approx(stopping, rel=3e-3)


def test_the_density_effect_vanishes_in_a_gas_and_grows_with_density() -> None:
    beta_squared = 0.8856
    delta = photonphysics.density_effect(beta_squared, WATER, [1e-3, 0.3, 1.0, 2.0], protonphysics.WATER_EXCITATION_EV)
    assert delta[0] == pytest.approx(0.0, abs=1e-6)
    assert np.all(np.diff(delta[1:]) > 0)
    # ESTAR: 0.2428 for liquid water at 1 MeV.
    assert delta[2] == pytest.approx(0.243, abs=0.02)


def test_the_density_effect_ends_in_the_plasma_of_free_electrons() -> None:
    """At the speed of light only the plasma energy counts: delta = 2 ln(beta gamma h nu_p / I) - 1 (Fermi)."""
    gamma = 1e5
    plasma = photonphysics.PLASMON_EV * np.sqrt(protonphysics.electrons_mol_per_g(WATER))
    found = photonphysics.density_effect(1.0 - gamma**-2, WATER, 1.0, 75.0)
    assert found == pytest.approx(2.0 * np.log(gamma * plasma / 75.0) - 1.0, rel=1e-4)


@pytest.mark.parametrize("tissue", ESTAR)
def test_stopping_power_ratios_follow_estar(tissue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    percent, density, published = ESTAR[tissue]
    for energy, ratio in zip(ESTAR_MEV, published, strict=True):
        monkeypatch.setattr(photonphysics, "ELECTRON_ENERGY_MEV", energy)
        assert water_dose_ratio(fractions(percent), density) == pytest.approx(ratio, rel=3e-3)


@pytest.mark.parametrize(
    ("tissue", "density", "published"),
    [("lung", 0.26, 0.999), ("muscle", 1.05, 1.010), ("cortical bone", 1.92, 1.14)],
)
def test_dose_to_water_over_dose_to_medium_as_published(tissue: str, density: float, published: float) -> None:
    """6 MV: Siebers et al. (2000) for inflated lung and soft tissue; Fernández-Varea et al., Phys Med Biol 52 (2007)
    6475, for the ICRU's cortical bone ("nearly 1.14")."""
    composition = fractions(NIST[tissue][0])
    assert water_dose_ratio(composition, density) == pytest.approx(published, abs=0.008)


def test_water_is_water_and_a_higher_excitation_energy_stops_less() -> None:
    assert water_dose_ratio(WATER, 1.0) == 1.0
    known = water_dose_ratio(fractions(NIST["adipose"][0]), 0.95, 75.0)
    assert known > water_dose_ratio(fractions(NIST["adipose"][0]), 0.95)
    many = water_dose_ratio(WATER, [0.5, 1.0, 2.0])
    assert many.shape == (3,)
    assert many[0] < many[1] < many[2]
    assert np.isfinite(water_dose_ratio(WATER, 0.0))

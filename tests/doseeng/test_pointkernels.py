"""Point kernels against Klein and Nishina, against fits that others made to the same Monte Carlo, and against exactly
known exponentials."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.mohan import energy_fluence
from doseeng.machines.photonmodel import Cones
from doseeng.machines.pointkernels import (
    EDGES_DEG,
    FARTHEST_CM,
    LIBRARY,
    cones_of,
    fit_library,
    main,
    read_library,
)
from doseeng.photonphysics import water_absorption_cm2_g, water_attenuation_cm2_g

Array = np.ndarray
EDGES = np.array(EDGES_DEG)
ELECTRON_MEV = 0.510999
QUALITIES = ("mohan6", "mohan10", "mohan15")


def mean_cosine(share: Array) -> float:
    """Mean over cones, each at the middle of its solid angle."""
    middle = 0.5 * (np.cos(np.radians(EDGES[1:])) + np.cos(np.radians(EDGES[:-1])))
    return float(share @ middle / share.sum())


def within(rows: Array, radius: float) -> Array:
    """(n_cone,) energy within a radius of rows of share, per_gcm2 and, in the library, power."""
    power = rows[:, 2] if rows.shape[1] == 3 else 1.0
    return rows[:, 0] * (1.0 - np.exp(-((rows[:, 1] * radius) ** power)))


def compton_electron_cosine(energy_mev: float) -> float:
    """Mean direction of Compton electrons, weighted with their energy (Klein and Nishina)."""
    alpha = energy_mev / ELECTRON_MEV
    cosine = np.linspace(-1.0, 1.0, 20001)[:-1]
    left = 1.0 / (1.0 + alpha * (1.0 - cosine))
    taken = left**2 * (left + 1.0 / left - 1.0 + cosine**2) * (1.0 - left)
    tangent = (1.0 + alpha) * np.sqrt((1.0 - cosine) / (1.0 + cosine + 1e-15))
    return float(taken @ (tangent / np.hypot(1.0, tangent)) / taken.sum())


# --- the library -----------------------------------------------------------------------------------------------------


def test_the_library_is_made_from_its_source_byte_for_byte(data_dir: Path, tmp_path: Path) -> None:
    source, made = data_dir / "photon_mc" / "edk_water_mono_egsnrc.npz", tmp_path / "kernels.toml"
    assert main([str(source), str(made)]) == 0
    assert made.read_bytes() == LIBRARY.read_bytes()


def test_electrons_get_all_of_the_primary_energy() -> None:
    library = read_library()
    np.testing.assert_array_equal(library.edge_deg, EDGES_DEG)
    assert (library.energy_mev[0], library.energy_mev[-1]) == (0.1, 15.0)
    np.testing.assert_allclose(library.primary[..., 0].sum(axis=1), 1.0, atol=1e-4)
    # What scattered photons leave in water within 30 cm; the rest is carried farther.
    near = np.array([within(rows, FARTHEST_CM).sum() for rows in library.scatter])
    assert np.all((near > 0.4) & (near < 1.0))
    assert np.all(np.diff(near[library.energy_mev >= 0.5]) < 0.0)


@pytest.mark.parametrize("energy_mev", [1.0, 2.0, 4.0, 6.0])
def test_electrons_fly_forward_but_not_as_straight_as_they_start(energy_mev: float) -> None:
    library = read_library()
    (n,) = np.flatnonzero(library.energy_mev == energy_mev)
    found, start = mean_cosine(library.primary[n, :, 0]), compton_electron_cosine(energy_mev)
    # Electrons turn while they slow down, which takes some 0.1 off the cosine.
    assert start - 0.15 < found < start - 0.05
    assert mean_cosine(library.scatter[n, :, 0]) < found


def test_electrons_of_faster_photons_fly_farther_and_straighter() -> None:
    library = read_library()
    fast = np.flatnonzero(library.energy_mev >= 1.0)
    straight = [mean_cosine(library.primary[n, :, 0]) for n in fast]
    assert np.all(np.diff(straight) > 0.0)
    # The radius that half of the primary energy stays within; the fastest electrons, 1.77 MeV, reach 0.9 cm.
    depth = np.linspace(0.01, 5.0, 500)
    half = [depth[np.argmax([within(library.primary[n], r).sum() >= 0.5 for r in depth])] for n in fast]
    assert np.all(np.diff(half) > 0.0)
    assert 0.1 < np.interp(2.0, library.energy_mev[fast], half) < 0.5


# --- fits to kernels that are known exactly --------------------------------------------------------------------------


def test_exponential_kernels_are_found_again() -> None:
    narrow, radius = np.arange(0.0, 181.0, 7.5), np.geomspace(0.05, 60.0, 40)
    shells = np.concatenate([[0.0], radius])
    solid = -0.5 * np.diff(np.cos(np.radians(narrow)))
    passed = np.exp(-np.outer([3.0, 0.05], shells))
    per_shell = (passed[:, :-1] - passed[:, 1:])[:, None, :] * solid[:, None]
    # Electrons get 40 %; what is left goes to the first and to all later scattered photons.
    kernels = np.stack([0.4 * per_shell[0], 0.25 * per_shell[1], 0.35 * per_shell[1]], axis=-1)
    library = fit_library(np.array([2.0]), narrow, radius, kernels[None])
    wide = -0.5 * np.diff(np.cos(np.radians(EDGES)))
    expected = np.column_stack([wide, np.full(len(wide), 3.0), np.ones(len(wide))])
    np.testing.assert_allclose(library.primary[0], expected, rtol=1e-3)
    expected[:, 1] = 0.05
    np.testing.assert_allclose(library.scatter[0], expected, rtol=1e-3)


# --- spectra ---------------------------------------------------------------------------------------------------------


def kernel(quality: str) -> tuple[Cones, float]:
    """The kernel of a spectrum, and the share of the energy that electrons get, both behind no water."""
    energy_mev, weight = energy_fluence(quality)
    attenuation, absorption = water_attenuation_cm2_g(energy_mev), water_absorption_cm2_g(energy_mev)
    return cones_of(energy_mev, weight), float(weight @ absorption / (weight @ attenuation))


@pytest.mark.parametrize("quality", QUALITIES)
def test_kernels_of_spectra_agree_with_fits_of_others(data_dir: Path, quality: str) -> None:
    """Energy within a radius and an angle, of what a photon loses: the same Monte Carlo, fitted by other people with
    both exponentials at once and 24 cones."""
    path = data_dir / "photon_mc" / f"ccc_kernel_{quality}.csv"
    table = np.genfromtxt(path, delimiter=",", names=True)
    found, primary = kernel(quality)

    def theirs(radius: float) -> Array:
        terms = (("A_per_sr_cm2g", "a_cm2_g"), ("B_per_sr_cm2g", "b_cm2_g"))
        parts = [table[a] / table[b] * (1.0 - np.exp(-table[b] * radius)) for a, b in terms]
        return table["omega_sr"] * np.sum(parts, axis=0)

    for radius in (1.0, 2.0, 5.0, 10.0, 20.0, 30.0):
        ours = primary * within(found.primary, radius) + (1.0 - primary) * within(found.scatter, radius)
        for angle in (30.0, 60.0, 90.0, 180.0):
            expected = theirs(radius)[table["theta_deg"] < angle].sum()
            assert ours[EDGES[1:] <= angle].sum() == pytest.approx(expected, abs=0.016)


def test_harder_spectra_throw_forward_and_far() -> None:
    kernels = [kernel(quality)[0] for quality in QUALITIES]
    for cones in kernels:
        assert cones.primary[:, 0].sum() == pytest.approx(1.0, abs=1e-12)
    straight = [mean_cosine(cones.primary[:, 0]) for cones in kernels]
    far = [float((cones.primary[:, 0] / cones.primary[:, 1]).sum()) for cones in kernels]
    assert np.all(np.diff(straight) > 0.01)
    assert np.all(np.diff(far) > 0.2)


@pytest.mark.parametrize("energy_mev", [1.0, 2.0, 4.0])
def test_one_energy_keeps_its_own_kernel(energy_mev: float) -> None:
    library = read_library()
    (n,) = np.flatnonzero(library.energy_mev == energy_mev)
    cones = cones_of(np.array([energy_mev, 1.5 * energy_mev]), np.array([1.0, 0.0]))
    # One exponential for what has a range: right on the whole, too many near and far.
    for radius in (2.0, 5.0, 10.0, 20.0, 30.0):
        scatter = within(library.scatter[n], radius).sum()
        assert within(cones.scatter, radius).sum() == pytest.approx(scatter, abs=0.015)
    reach = np.linspace(0.0, 4.0, 400)[1:]
    inside, wanted = (np.array([within(rows, r).sum() for r in reach]) for rows in (cones.primary, library.primary[n]))
    assert np.trapezoid(1.0 - inside, reach) > np.trapezoid(1.0 - wanted, reach)
    assert np.abs(inside - wanted).max() < 0.18
    assert mean_cosine(cones.primary[:, 0]) == pytest.approx(mean_cosine(library.primary[n, :, 0]), abs=0.01)


def test_only_the_shape_of_a_spectrum_counts() -> None:
    energy_mev, weight = energy_fluence("mohan6")
    once, twice = cones_of(energy_mev, weight), cones_of(energy_mev, 7.0 * weight)
    np.testing.assert_allclose(once.primary, twice.primary, rtol=1e-6)
    np.testing.assert_allclose(once.scatter, twice.scatter, rtol=1e-6)

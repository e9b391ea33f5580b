"""LETd against NIST PSTAR, ICRU Report 63, samples, published values and Monte Carlo."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import nnls

from benchmarks.let import agreements, axis_of, depth_scale, engine_curve, in_medium, read_beam, read_reference
from doseeng import let
from doseeng.grid import Grid, Volume
from doseeng.machines import lookup
from doseeng.machines.bortfeld import bragg_curve
from doseeng.machines.library import find_machine
from doseeng.machines.model import ProtonMachine
from doseeng.protonphysics import water_let_kev_um

# Monte Carlo of APTG/2022_DCPT_LET (CC-BY-4.0), plan 2, a broad 160.36 MeV beam, 1 sigma 0.72 MeV, in solid water: LETd
# in water of all protons, keV/um, by mm of water from the distal 80 % of the dose: SHIELD-HIT12A, OpenSHIELDHIT.
MONO_MC = (
    (-150.0, 0.901, 0.866),
    (-120.0, 1.003, 0.966),
    (-90.0, 1.082, 1.049),
    (-60.0, 1.195, 1.163),
    (-40.0, 1.321, 1.304),
    (-20.0, 1.614, 1.614),
    (-10.0, 2.211, 2.164),
    (-4.0, 4.650, 4.526),
    (0.0, 9.235, 9.170),
    (2.0, 11.381, 11.347),
)
# ICRU Report 63, protons on oxygen-16: MeV, protons per nonelastic reaction, share of the energy they carry.
ICRU_63 = ((70.0, 1.36, 0.394), (100.0, 1.61, 0.417), (150.0, 1.89, 0.456), (200.0, 2.02, 0.469), (250.0, 2.11, 0.485))


@pytest.fixture(scope="module")
def machine() -> ProtonMachine:
    return find_machine("generic-pbs")


def range_of(machine: ProtonMachine, energy_mev: float) -> float:
    return float(lookup.range_at(machine, np.array([energy_mev]))[0])


def test_primaries_far_from_the_end_have_the_let_of_their_energy() -> None:
    # PSTAR: CSDA ranges of 50, 100 and 200 MeV in mm, and electronic stopping powers in keV/um.
    np.testing.assert_allclose(
        let.primary_let(np.array([22.27, 77.18, 259.6]), 0.2), [1.244, 0.7286, 0.4491], rtol=2e-3
    )


@pytest.mark.parametrize("residual_sigmas", [2.0, 0.0, -1.5])
def test_primaries_at_the_end_against_samples(residual_sigmas: float) -> None:
    spread = 2.4
    energy = np.geomspace(0.011, 60.0, 600)
    steps = [quad(lambda e: 1.0 / water_let_kev_um(e), low, high)[0] for low, high in pairwise([0.01, *energy])]
    range_mm = np.cumsum(steps)
    sampled = np.random.default_rng(3).normal(residual_sigmas * spread, spread, 2_000_000)
    stops = water_let_kev_um(np.interp(sampled[sampled > 0.0], range_mm, energy))
    expected = np.sum(stops**2) / np.sum(stops)
    # The samples' own noise is 0.5 %: few protons in their last micrometres carry much of the mean.
    assert let.primary_let(np.array([residual_sigmas * spread]), spread)[0] == pytest.approx(expected, rel=0.015)


def test_let_is_held_far_behind_the_range() -> None:
    values = let.primary_let(np.array([-3.0, -5.0, -500.0]), 1.0)
    assert values[1] == values[0]
    assert values[2] == values[0]


@pytest.mark.parametrize(("energy", "protons", "share"), ICRU_63)
def test_secondary_spectrum_against_icru_63(energy: float, protons: float, share: float) -> None:
    born = np.linspace(0.01, energy, 20_000)
    spectrum = let.emitted_per_mev(born, np.array(energy))
    assert np.trapezoid(spectrum, born) == pytest.approx(protons, rel=0.08)
    assert np.trapezoid(spectrum * born, born) / energy == pytest.approx(share, rel=0.08)


def test_secondaries_deposit_no_more_than_was_lost() -> None:
    # Residual range 100 mm, fully built up behind 250 mm of water.
    residual = np.array([[100.0]])
    near, far, _, _ = let._secondaries_at(residual, np.array([250.0]))[0, 0]
    primary = water_let_kev_um(let._energy(residual))[0, 0]
    # Lost per mm: nonelastic 1 % per cm of the incident energy, nearly half of it to protons, and elastic 0.2 % per cm.
    lost = (0.99e-3 * 0.45 + 0.2e-3) * 170.0
    assert 0.5 * lost < near + far < 1.5 * lost
    assert 0.10 < (near + far) / (primary + near + far) < 0.20


def test_spread_from_the_distal_edge(machine: ProtonMachine) -> None:
    spread = 0.011 * machine.range_mm + 0.3
    rows = zip(machine.range_mm, spread, strict=True)
    idd = np.stack([bragg_curve(machine.depth_fraction * r, r, s) for r, s in rows])
    for i in (0, 18, -1):
        found = let.range_spread_mm(replace(machine, idd=idd), float(machine.energy_mev[i]))
        assert found == pytest.approx(spread[i], rel=0.015)


@pytest.mark.parametrize("energy", [70.0, 123.4, 160.0, 220.0])
def test_core_and_halo_make_the_total(machine: ProtonMachine, energy: float) -> None:
    depth = np.linspace(0.0, 1.2 * range_of(machine, energy), 700)
    parts = let.let_parts(machine, energy, depth)
    share, _ = lookup.halo_at(machine, energy, depth)
    np.testing.assert_allclose((1.0 - share) * parts.core + share * parts.halo, parts.total, rtol=1e-9)
    for values in (parts.total, parts.core, parts.halo):
        assert np.all(np.isfinite(values))
        assert np.all((values > 0.3) & (values < 30.0))
    assert np.array_equal(parts.total, let.dose_averaged_let(machine, energy, depth))
    assert np.array_equal(parts.core, let.let_core(machine, energy, depth))
    assert np.array_equal(parts.halo, let.let_halo(machine, energy, depth))


def test_halo_has_the_higher_let_in_the_plateau(machine: ProtonMachine) -> None:
    # Secondary protons of 150 MeV beams: several keV/um, against 0.6 of the primaries.
    parts = let.let_parts(machine, 150.0, np.array([40.0, 80.0, 120.0]))
    assert np.all((parts.halo > 2.5) & (parts.halo < 5.0))
    assert np.all(parts.halo > 2.5 * parts.core)


def test_a_machine_without_halo_keeps_secondaries_in_the_core(machine: ProtonMachine) -> None:
    none = replace(machine, halo=replace(machine.halo, fraction=np.zeros_like(machine.halo.fraction)))
    depth = np.array([10.0, 80.0, 150.0])
    parts = let.let_parts(none, 150.0, depth)
    np.testing.assert_allclose(parts.core, parts.total)
    np.testing.assert_allclose(parts.total, let.let_parts(machine, 150.0, depth).total)


def test_published_values_along_a_pristine_beam(machine: ProtonMachine) -> None:
    # About 1 keV/um in the plateau, 5 to 7 at the peak and above 10 behind it: Paganetti, Phys Med Biol 59 (2014) R419.
    depth = np.arange(0.0, 190.0, 0.1)
    values = let.dose_averaged_let(machine, 160.0, depth)
    peak = depth[lookup.depth_dose_at(machine, 160.0, depth).argmax()]
    assert 0.8 < np.interp(20.0, depth, values) < 1.2
    assert 5.0 < np.interp(peak, depth, values) < 7.0
    assert np.interp(peak + 5.0, depth, values) > 10.0
    assert np.all(np.diff(values[depth > 1.0]) > -1e-3)


def test_published_values_along_a_spread_out_peak(machine: ProtonMachine) -> None:
    # 2 to 3 keV/um in the middle of a spread-out peak, more than twice as much at its distal edge (Paganetti 2014).
    depth = np.arange(0.0, 170.0, 1.0)
    energies = np.arange(110.0, 151.0, 2.0)
    idd = np.column_stack([lookup.depth_dose_at(machine, e, depth) for e in energies])
    flat = (depth >= 105.0) & (depth <= 155.0)
    weights = nnls(idd[flat], np.ones(flat.sum()))[0]
    product = np.column_stack([let.dose_averaged_let(machine, e, depth) for e in energies]) * idd
    values = product @ weights / np.maximum(idd @ weights, 1e-12)
    assert 2.0 < values[130] < 3.0
    assert values[156] > 2.0 * values[130]


@pytest.mark.parametrize(("from_edge_mm", "first", "second"), MONO_MC)
def test_a_broad_beam_against_monte_carlo(
    machine: ProtonMachine, from_edge_mm: float, first: float, second: float
) -> None:
    # The two codes differ by 4 % in the entrance. The shipped machine has 0.96 MeV of spread at 160 MeV, which shows in
    # the last millimetres.
    tolerance = 0.04 if from_edge_mm < -15.0 else 0.06
    found = let.dose_averaged_let(machine, 160.0, np.array([range_of(machine, 160.0) + from_edge_mm]))[0]
    assert found == pytest.approx(0.5 * (first + second), rel=tolerance)


def test_the_dcpt_slope_against_monte_carlo(unzipped: Callable[[str], Path]) -> None:
    folder = unzipped("dcpt_proton_slab")
    reference = read_reference(folder)
    beam, machine = read_beam(folder)
    scale = depth_scale(engine_curve(beam, machine, reference.z_mm), reference)
    assert scale == pytest.approx(1.0, abs=0.01)
    target, entrance = agreements(engine_curve(beam, machine, reference.z_mm, scale), reference)
    assert target.within_percent >= 95.0
    assert abs(target.mean_percent) < 5.0
    assert entrance.within_percent == 100.0
    assert abs(entrance.mean_percent) < 4.0


def test_the_engine_curve_is_weighted_with_dose() -> None:
    grid = Grid((9, 21, 9), (4.0, 4.0, 4.0), (-16.0, -40.0, -16.0))
    dose = np.ones(grid.shape, dtype=np.float32)
    letd = np.full(grid.shape, 2.0, dtype=np.float32)
    dose[:, :, 4], letd[:, :, 4] = 3.0, 6.0
    curve = axis_of(Volume(grid, dose), Volume(grid, letd), np.array([20.0]))
    # Five columns lie within 10 mm of the axis; the middle one has three times the dose and LETd.
    expected = (4 * 1.0 * 2.0 + 3.0 * 6.0) / (4 * 1.0 + 3.0)
    assert curve.let_kev_um[0] == pytest.approx(in_medium(np.array([expected]), np.array([20.0]))[0], rel=1e-6)
    assert curve.dose[0] == pytest.approx(7.0 / 5.0)

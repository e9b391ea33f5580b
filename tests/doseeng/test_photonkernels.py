"""What transport gets from a machine, against coefficients and polynomials as published, and geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from doseeng.beamseye import Frustum
from doseeng.machines.photonmodel import Electrons, Modes, PhotonMachine
from doseeng.photonkernels import (
    AZIMUTHS,
    cone_sets,
    electron_fluence,
    ring_angle,
    softening_factor,
    transport_tables,
)

SAD_MM = 1000.0


def rays(n: int, pitch_mm: float, n_slice: int = 1, slice_mm: float = 2.5, top_mm: float = 100.0) -> Frustum:
    """n x n rays around the axis."""
    first = -0.5 * (n - 1) * pitch_mm
    return Frustum((first, first), pitch_mm, (n_slice, n, n), top_mm, slice_mm, (SAD_MM, SAD_MM))


# --- tables ----------------------------------------------------------------------------------------------------------


def test_photons_of_one_energy_are_released_with_published_coefficients(linac: PhotonMachine) -> None:
    """Water at 1 MeV: mu/rho 0.07072 and mu_en/rho 0.03103 cm2/g (Hubbell and Seltzer)."""
    tables = transport_tables(linac)
    depth_mm = np.arange(len(tables.primary)) / tables.per_mm
    left = np.exp(-0.007072 * depth_mm)
    np.testing.assert_allclose(tables.primary, 0.003103 * left, rtol=3e-3)
    np.testing.assert_allclose(tables.scatter, (0.007072 - 0.003103) * left, rtol=3e-3)


def test_whatever_is_taken_from_the_photons_is_released(linac: PhotonMachine) -> None:
    mixed = replace(linac, spectrum_mev=np.array([0.3, 1.0, 4.0]), spectrum_weight=np.array([2.0, 3.0, 5.0]))
    tables = transport_tables(mixed)
    released = np.trapezoid(tables.primary.astype(float) + tables.scatter, dx=1.0 / tables.per_mm)
    # Of 4 MeV, 0.03403 cm2/g, exp(-3.4) passes the end of the table; the others are gone.
    assert released == pytest.approx(1.0 - 0.5 * np.exp(-3.403) - 0.3 * np.exp(-7.07), rel=2e-4)


def test_low_energies_are_lost_first(linac: PhotonMachine) -> None:
    mixed = replace(linac, spectrum_mev=np.array([0.5, 6.0]), spectrum_weight=np.array([1.0, 1.0]))
    primary = transport_tables(mixed).primary.astype(float)
    slope = -np.diff(np.log(primary))
    assert np.all(np.diff(slope) < 1e-6)
    # From a mixture of both to the attenuation of 6 MeV alone, 0.002770 per mm.
    assert slope[0] > 1.5 * slope[-1]
    assert slope[900] == pytest.approx(0.002770, rel=0.02)


def test_contaminant_electrons_start_as_a_share_of_the_photons_and_fall_to_one_over_e(linac: PhotonMachine) -> None:
    tables = transport_tables(replace(linac, electrons=Electrons(0.3, 8.0, 20.0)))
    assert tables.electrons[0] == pytest.approx(0.3 * tables.primary.max())
    assert tables.electrons[8] / tables.electrons[0] == pytest.approx(np.exp(-1.0), rel=1e-5)
    assert not transport_tables(linac).electrons.any()


def test_modes_are_per_mm_of_water_and_cones_stay(linac: PhotonMachine) -> None:
    modes = Modes(np.array([[1.0, 4.0, 0.2]]), np.array([[0.7, 0.3, 5.0], [0.3, 0.05, 0.1]]))
    tables = transport_tables(replace(linac, modes=modes))
    np.testing.assert_allclose(tables.primary_modes, [[1.0, 0.4, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(tables.scatter_modes, [[0.7, 0.03, 5.0], [0.3, 0.005, 0.1]], rtol=1e-6)
    assert tables.cones is linac.cones


# --- off the axis ----------------------------------------------------------------------------------------------------


def at_angle(degrees: float) -> Frustum:
    """Two rays, the first one on the axis, the other so far off it."""
    return Frustum((0.0, 0.0), SAD_MM * float(np.tan(np.radians(degrees))), (1, 1, 2), 0.0, 1.0, (SAD_MM, SAD_MM))


@pytest.mark.parametrize(("degrees", "factor"), [(5.0, 1.047775), (10.0, 1.1259), (15.0, 1.163725), (25.0, 1.163725)])
def test_softening_is_the_published_polynomial(linac: PhotonMachine, degrees: float, factor: float) -> None:
    """Tailor et al., Med Phys 25 (1998) 662, worked out by hand; measured to 15 degrees, constant beyond."""
    flattened = softening_factor(replace(linac, softening=1.0), at_angle(degrees))
    np.testing.assert_allclose(flattened, [[1.0, factor]], rtol=1e-5)
    half = softening_factor(replace(linac, softening=0.5), at_angle(degrees))
    np.testing.assert_allclose(half, [[1.0, 0.5 * (1.0 + factor)]], rtol=1e-5)


def test_beams_without_a_filter_are_as_hard_off_the_axis(linac: PhotonMachine) -> None:
    np.testing.assert_array_equal(softening_factor(replace(linac, softening=0.0), rays(41, 10.0)), 1.0)


def test_electrons_are_spread_over_their_sigma(linac: PhotonMachine) -> None:
    frustum = rays(81, 4.0)
    point = np.zeros((81, 81), dtype=np.float32)
    point[40, 40] = 2.0
    spread = electron_fluence(replace(linac, electrons=Electrons(0.1, 5.0, 20.0)), frustum, point).astype(float)
    assert spread.sum() == pytest.approx(2.0, rel=1e-4)
    for along in (spread.sum(axis=0), spread.sum(axis=1)):
        assert (along * frustum.u_mm**2).sum() / 2.0 == pytest.approx(20.0**2, rel=0.01)
    np.testing.assert_allclose(spread, spread.T, atol=1e-7)


# --- cones -----------------------------------------------------------------------------------------------------------

EDGES_DEG = np.array([0.0, 20.0, 50.0, 90.0, 130.0, 180.0])
ROWS = np.array([[0.5, 3.0], [0.25, 4.0], [0.15, 5.0], [0.07, 6.0], [0.03, 7.0]])


def test_a_ring_halves_the_solid_angle_of_its_cone() -> None:
    np.testing.assert_allclose(ring_angle(np.array([0.0, 60.0, 120.0, 180.0])), [41.4096, 90.0, 138.5904], atol=1e-4)


def test_cones_keep_energy_and_part_into_two_marches() -> None:
    down, up = cone_sets(EDGES_DEG, ROWS, rays(41, 2.5, 40))
    assert (down.upstream, up.upstream) == (False, True)
    assert (len(down.directions), len(up.directions)) == (3 * AZIMUTHS, 2 * AZIMUTHS)
    assert down.directions[:, 0].sum() == pytest.approx(0.9, rel=1e-6)
    assert up.directions[:, 0].sum() == pytest.approx(0.1, rel=1e-6)
    np.testing.assert_allclose(down.directions[::AZIMUTHS, 1], [0.3, 0.4, 0.5], rtol=1e-6)
    # A path is longer than the slice by 1 over the cosine.
    angle = ring_angle(EDGES_DEG)
    np.testing.assert_allclose(down.directions[::AZIMUTHS, 2], 1.0 / np.cos(np.radians(angle[:3])), rtol=1e-6)
    np.testing.assert_allclose(up.directions[::AZIMUTHS, 2], -1.0 / np.cos(np.radians(angle[3:])), rtol=1e-6)


def test_rings_without_energy_are_left_out() -> None:
    forward = ROWS.copy()
    forward[2:, 0] = 0.0
    (down,) = cone_sets(EDGES_DEG, forward, rays(41, 2.5, 40))
    assert len(down.directions) == 2 * AZIMUTHS


@pytest.mark.parametrize("upstream", [False, True])
def test_directions_follow_their_angles_on_rays_that_diverge(upstream: bool) -> None:
    frustum = rays(41, 2.5, 120, top_mm=-100.0)
    march = cone_sets(EDGES_DEG, ROWS, frustum)[int(upstream)]
    tangent = np.abs(np.tan(np.radians(ring_angle(EDGES_DEG))))[[3, 4] if upstream else [0, 1, 2]]
    # Rays are farther apart the deeper they are: the same angle crosses fewer of them.
    spacing_mm = frustum.pitch_mm * (1.0 - frustum.slice_center_mm / SAD_MM)
    steps = march.offsets[:, ::-1] if upstream else march.offsets
    crossed = tangent[:, None] * np.cumsum((frustum.slice_mm / spacing_mm)[:: -1 if upstream else 1])
    way = np.hypot(*np.moveaxis(np.cumsum(steps, axis=1), -1, 0)).reshape(-1, AZIMUTHS, 120)
    np.testing.assert_allclose(way, np.broadcast_to(crossed[:, None], way.shape), atol=0.75)
    # Every ring is as likely to go either way.
    assert not march.offsets.reshape(-1, AZIMUTHS, 120, 2).sum(axis=1).any()

"""Dose through deformations known in closed form: where it lands, what it is, and that no energy is lost."""

import numpy as np
import pytest

from doseeng.errors import RegistrationError
from doseeng.grid import Grid, Volume
from doseeng.transforms import DisplacementField, as_field, rigid_from_matrix, voxel_centres
from registration.dosewarp import direct, energy_mass

GRID = Grid((32, 36, 40), (2.0, 2.0, 2.5), (-39.0, -35.0, -38.75))
FINE = Grid((80, 72, 80), (1.0, 1.0, 1.0), (-39.5, -35.5, -39.5))
POINTS = voxel_centres(GRID)
WATER = Volume(GRID, np.ones(GRID.shape))


def field(vectors):
    return DisplacementField(GRID, np.broadcast_to(np.asarray(vectors), (*GRID.shape, 3)).astype(np.float32))


def blob(centre_mm=(0.0, 0.0, 0.0), sigma_mm=7.0):
    away = np.linalg.norm(POINTS - centre_mm, axis=-1)
    return Volume(GRID, 2.0 * np.exp(-0.5 * (away / sigma_mm) ** 2))


def scaled(factor):
    """Pullback and pushforward where today is the planning anatomy grown by `factor` about the origin."""
    return field((1 / factor - 1) * POINTS), field((factor - 1) * POINTS)


def centre_of(dose):
    weight = dose.values.astype(np.float64)
    return (voxel_centres(dose.grid) * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()


def carry(dose, pullback, pushforward, there=WATER, here=WATER, grid=None):
    return energy_mass(dose, there, here, pullback, pushforward, grid)


@pytest.mark.parametrize("vector_mm", [(0.0, 0.0, 0.0), (2.0, -4.0, 5.0), (1.3, -0.7, 3.1)])
def test_translated_blob_lands_where_it_should(vector_mm):
    pullback, pushforward = field(vector_mm), field(-np.asarray(vector_mm))
    by_energy = carry(blob(), pullback, pushforward)
    for landed in (direct(blob(), pushforward), by_energy.dose):
        np.testing.assert_allclose(centre_of(landed), vector_mm, atol=0.02)
        # Voxels between voxels: linear interpolation cuts 3 % off the peak of 2 Gy.
        np.testing.assert_allclose(landed.values, blob(vector_mm).values, atol=0.06)
    assert abs(by_energy.balance.error) < 1e-5


def test_whole_voxel_translation_keeps_every_value():
    landed = carry(blob(), field((2.0, 0.0, -2.5)), field((-2.0, 0.0, 2.5)))
    np.testing.assert_allclose(landed.dose.values, blob((2.0, 0.0, -2.5)).values, atol=1e-5)


def test_rotation_conserves_energy_and_dose():
    turn = np.radians(20.0)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    rigid = rigid_from_matrix(matrix)
    dose = blob((10.0, 4.0, 0.0), 6.0)
    landed = carry(dose, as_field(GRID, rigid), as_field(GRID, rigid.inverse()))
    np.testing.assert_allclose(centre_of(landed.dose), rigid.apply((10.0, 4.0, 0.0)), atol=0.1)
    assert landed.balance.carried_j == pytest.approx(landed.balance.source_j, rel=1e-3)
    assert landed.balance.image_j == pytest.approx(landed.balance.source_j, rel=0.01)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_growth_that_conserves_mass_conserves_energy_on_the_image(factor):
    """Today is grown by `factor` and thinner by its cube: the planning CT's own mass holds the same energy."""
    pullback, pushforward = scaled(factor)
    thin = Volume(GRID, np.full(GRID.shape, factor**-3))
    landed = carry(blob(sigma_mm=5.0), pullback, pushforward, there=thin)
    expected = blob(sigma_mm=5.0 / factor)
    np.testing.assert_allclose(direct(blob(sigma_mm=5.0), pushforward).values, expected.values, atol=0.08)
    np.testing.assert_allclose(landed.dose.values, expected.values, atol=0.06)
    balance = landed.balance
    assert balance.carried_j == pytest.approx(balance.source_j, rel=1e-3)
    assert balance.image_j == pytest.approx(balance.source_j, rel=0.01)


def test_lung_that_fills_without_its_density_following():
    """Both methods give the dose to the tissue; the balance says that the planning CT's mass is another."""
    pullback, pushforward = scaled(1.2)
    lung = Volume(GRID, np.full(GRID.shape, 0.25))
    landed = carry(blob(sigma_mm=6.0), pullback, pushforward, there=lung, here=lung)
    mapped = direct(blob(sigma_mm=6.0), pushforward)
    np.testing.assert_allclose(landed.dose.values, mapped.values, atol=0.06)
    assert abs(landed.balance.error) < 1e-5
    assert landed.balance.image_j == pytest.approx(landed.balance.source_j / 1.2**3, rel=0.01)
    # Over the part of the planning grid that today's dose grid fills, edges included.
    assert landed.balance.mass_ratio == pytest.approx(1.2**3, rel=0.1)


def test_compression_of_two_tissues_gives_the_mean_by_mass():
    """Two voxels of today, 1 Gy at 1.5 g/cm3 and 4 Gy at 0.5 g/cm3, become one of the planning CT."""
    today = Grid((4, 4, 8), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    planning = Grid((4, 4, 4), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    stripes = np.tile([1.0, 4.0], 4)
    dose = Volume(today, np.broadcast_to(stripes, today.shape))
    density = Volume(today, np.broadcast_to(np.tile([1.5, 0.5], 4), today.shape))
    x = voxel_centres(today)[..., 0]
    vectors = np.zeros((*today.shape, 3), dtype=np.float32)
    vectors[..., 0] = -x / 2
    back = np.zeros((*planning.shape, 3), dtype=np.float32)
    back[..., 0] = voxel_centres(planning)[..., 0]
    landed = energy_mass(
        dose,
        density,
        Volume(planning, np.full(planning.shape, 2.0)),
        DisplacementField(today, vectors),
        DisplacementField(planning, back),
        planning,
    )
    # Parts a quarter of a voxel off the centres see trilinear densities of 1.25 and 0.75.
    expected = (1.0 * 1.25 + 4.0 * 0.75) / 2.0
    np.testing.assert_allclose(landed.dose.values[..., 1:-1], expected, rtol=1e-5)
    assert landed.balance.mass_ratio == pytest.approx(1.0, rel=1e-5)
    assert landed.balance.image_j == pytest.approx(landed.balance.source_j, rel=0.02)


def test_steep_edge_stays_in_place():
    """A field edge of 20 to 80 % over 3 mm, under a shift with a gradient of its own."""
    edge = Volume(GRID, 1.0 / (1.0 + np.exp(-POINTS[..., 0] / 1.08)))
    shift = np.zeros((*GRID.shape, 3))
    shift[..., 0] = 4.0 + 3.0 * np.tanh(POINTS[..., 1] / 15.0)
    pullback, pushforward = field(shift), field(-shift)
    for landed in (direct(edge, pushforward), carry(edge, pullback, pushforward).dose):
        for j in (4, 18, 31):
            profile = landed.values[16, j, 6:-6]
            half = np.interp(0.5, profile, POINTS[16, j, 6:-6, 0])
            assert half == pytest.approx(shift[16, j, 20, 0], abs=0.1)


def test_energy_that_leaves_the_grid_is_named():
    landed = carry(blob((30.0, 0.0, 0.0)), field((15.0, 0.0, 0.0)), field((-15.0, 0.0, 0.0)))
    balance = landed.balance
    assert balance.left_j > 0.5 * balance.source_j
    assert balance.carried_j + balance.left_j == pytest.approx(balance.source_j, rel=1e-5)
    assert balance.carried_kg + balance.left_kg == pytest.approx(balance.source_kg, rel=1e-5)


def test_source_energy_is_dose_times_mass():
    uniform = Volume(GRID, np.full(GRID.shape, 2.0))
    balance = carry(
        uniform, field((0.0, 0.0, 0.0)), field((0.0, 0.0, 0.0)), there=Volume(FINE, np.ones(FINE.shape))
    ).balance
    kilograms = GRID.voxel_volume_cm3 * np.prod(GRID.shape) / 1000.0
    assert balance.source_kg == pytest.approx(kilograms, rel=1e-6)
    assert balance.source_j == pytest.approx(2.0 * kilograms, rel=1e-6)


def test_coarser_planning_grid_keeps_the_energy():
    coarse = Grid((20, 20, 20), (5.0, 5.0, 5.0), (-47.5, -47.5, -47.5))
    landed = carry(blob(), field((1.0, 2.0, 3.0)), field((-1.0, -2.0, -3.0)), grid=coarse)
    assert landed.dose.grid is coarse
    np.testing.assert_allclose(centre_of(landed.dose), (1.0, 2.0, 3.0), atol=0.05)
    assert landed.balance.carried_j == pytest.approx(landed.balance.source_j, rel=1e-5)


def test_voxels_without_mass_are_mapped_directly():
    there = Volume(GRID, (POINTS[..., 0] < 0.0).astype(np.float32))
    still = field((0.0, 0.0, 0.0))
    landed = carry(blob(), still, still, there=there)
    assert landed.filled > 0
    np.testing.assert_allclose(landed.dose.values[..., 25:], blob().values[..., 25:], atol=1e-5)


def test_no_mass_under_the_dose_is_an_error():
    still = field((0.0, 0.0, 0.0))
    with pytest.raises(RegistrationError, match="no mass"):
        carry(blob(), still, still, there=Volume(GRID, np.zeros(GRID.shape)))

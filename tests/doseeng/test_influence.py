"""The influence matrix against the depth-dose tables it is made of, against geometry, and against the engine."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from doseeng.errors import BackendUnavailable, GeometryError
from doseeng.grid import Grid, Volume, beam_frame
from doseeng.influence import influence_matrix
from doseeng.layers import PROTONS_PER_UNIT
from doseeng.machines import lookup
from doseeng.machines.library import find_machine
from doseeng.materials import MaterialMaps
from doseeng.plan import ProtonBeam, RangeShifter
from doseeng.proton import ProtonSettings, prepare_beam
from doseeng.scenario import NOMINAL, Scenario

FINE = ProtonSettings(pitch_mm=1.0, slice_mm=0.5)
SMALL_VOXELS = Grid((2, 2, 2), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0))
"""A matrix on it is that of points."""


@pytest.fixture(scope="module")
def machine():
    return find_machine("generic")


def box(gantry_deg=0.0, spacing=2.5, half_mm=60.0, rsp=1.0):
    """A box of material whose axes follow the gantry's (x, -z, y), so that the beam enters at right angles."""
    axes = beam_frame((0, 0, 0), gantry_deg).axes
    direction = np.column_stack([axes[0], -axes[2], axes[1]])
    n = round(2 * half_mm / spacing)
    first = -half_mm + spacing / 2
    grid = Grid((n, n, n), (spacing,) * 3, tuple(direction @ np.full(3, first)), direction)
    values = np.broadcast_to(np.asarray(rsp, dtype=np.float32), grid.shape)
    return grid, MaterialMaps(Volume(grid, values), Volume(grid, values))


def points_of(grid):
    k, j, i = np.indices(grid.shape).reshape(3, -1)
    return grid.to_patient(np.column_stack([i, j, k]))


def beam_of(spots, gantry_deg=0.0, **changes):
    """spots: rows of u, v, energy, MU."""
    u, v, energy, mu = np.array(spots, dtype=float).T
    beam = ProtonBeam(1, "test", "generic", (0.0, 0.0, 0.0), gantry_deg, 0.0, np.column_stack([u, v]), energy, mu)
    return replace(beam, **changes)


def assert_like_engine(beam, machine, grid, maps, scenario=NOMINAL, tolerance=0.02):
    model = prepare_beam(beam, machine, maps, grid, "HFS", FINE)
    engine = model.dose(scenario)
    matrix = influence_matrix(model, points_of(grid), scenario, cutoff=0.0)
    dose = (matrix @ beam.spot_mu).reshape(grid.shape)
    high = engine > 0.5 * engine.max()
    assert high.sum() > 30
    np.testing.assert_allclose(dose[high], engine[high], rtol=tolerance)
    assert np.abs(dose - engine).max() < tolerance * engine.max()


@pytest.mark.parametrize("gantry_deg", [0.0, 90.0, 217.0])
def test_a_spot_in_water_is_the_engines(machine, gantry_deg):
    grid, maps = box(gantry_deg)
    assert_like_engine(beam_of([(0, 0, 110, 3)], gantry_deg), machine, grid, maps)


def test_spots_of_several_layers_add_up_to_the_engines(machine):
    """Layers a few MeV apart, as fields have them: the engine gives the layers of a group one width at each depth."""
    grid, maps = box()
    spots = [(-15, 10, 104, 2), (0, 0, 108, 1), (12, -8, 108, 2), (20, 20, 112, 3)]
    assert_like_engine(beam_of(spots), machine, grid, maps)


def test_layers_of_lung_and_tissue_are_the_engines(machine):
    depth = np.array([1.0] * 10 + [0.25] * 14 + [1.0] * 24)
    grid, maps = box(rsp=depth[None, :, None])
    assert_like_engine(beam_of([(0, 0, 90, 1), (5, 0, 80, 1)]), machine, grid, maps, tolerance=0.03)


def test_a_range_shifter_is_the_engines(machine):
    grid, maps = box()
    shifter = RangeShifter("RS", 40.0, 150.0)
    assert_like_engine(beam_of([(0, 0, 130, 1)], range_shifter=shifter), machine, grid, maps)


def test_a_scenario_is_the_engines(machine):
    grid, maps = box()
    error = Scenario("error", (6.0, -4.0, 3.0), 1.05)
    assert_like_engine(beam_of([(0, 0, 105, 1)]), machine, grid, maps, error)


def test_protons_behind_an_edge_come_from_both_sides_of_it(machine):
    """Half of a field has crossed 35 mm of lung, half water: behind the edge no peak of either half may stand alone."""
    rsp = np.ones((48, 48, 48))
    rsp[:, 10:24, 24:] = 0.3
    grid, maps = box(rsp=rsp)
    raster = np.arange(-15.0, 16.0, 5.0)
    beam = beam_of([(u, v, 95, 1) for u in raster for v in raster])
    model = prepare_beam(beam, machine, maps, grid, "HFS", FINE)
    engine = model.dose()
    dose = (influence_matrix(model, points_of(grid), cutoff=0.0) @ beam.spot_mu).reshape(grid.shape)
    # The engine follows each spot; the matrix knows one mixture of depths per point: 1.5 % of the maximum in the mean
    # over the field. Depths of the point's ray alone give twice that.
    field = engine > 0.05 * engine.max()
    assert np.sqrt(np.mean((dose - engine)[field] ** 2)) < 0.02 * engine.max()
    assert dose.sum() == pytest.approx(engine.sum(), rel=0.01)


def test_a_plane_across_the_beam_holds_the_tabulated_depth_dose(machine):
    _, maps = box(spacing=10.0, half_mm=250.0)
    across = np.arange(-240.0, 241.0, 2.5)
    x, z = (a.ravel() for a in np.meshgrid(across, across))
    depth = 60.0
    points = np.column_stack([x, np.full(len(x), depth - 250.0), z])
    model = prepare_beam(beam_of([(0, 0, 115, 1)]), machine, maps, SMALL_VOXELS, "HFS")
    matrix = influence_matrix(model, points, cutoff=0.0)
    protons = lookup.rows_at(machine, machine.protons_per_mu, np.array([115.0]))[0]
    expected = lookup.depth_dose_at(machine, 115.0, np.array([depth]))[0] * protons / PROTONS_PER_UNIT
    assert matrix.sum() * 2.5**2 == pytest.approx(expected, rel=5e-3)


def test_spots_diverge_from_the_scanning_sources(machine):
    grid, maps = box()
    spot = np.array([30.0, -20.0])
    model = prepare_beam(beam_of([(*spot, 110, 1)]), machine, maps, grid, "HFS")
    matrix = influence_matrix(model, points_of(grid), cutoff=0.0)
    gantry = beam_frame((0, 0, 0), 0.0).from_patient(points_of(grid))
    dose = matrix.toarray().ravel()
    for z in (48.75, 1.25, -18.75):
        # Near the spot only: the wide halo reaches beyond the box and would pull the mean inwards.
        expected = spot * (1.0 - z / np.asarray(machine.source_distance_mm))
        near = (np.abs(gantry[:, 2] - z) < 0.1) & (np.abs(gantry[:, :2] - expected) < 12.0).all(axis=1)
        centre = np.average(gantry[near, :2], axis=0, weights=dose[near] ** 2)
        np.testing.assert_allclose(centre, expected, atol=0.15)


def test_entries_are_means_over_voxels(machine):
    """The mean over a voxel of 6 mm is that over the 27 voxels of 2 mm in it, up to what they leave of the peak."""
    fine, maps = box(spacing=2.0, half_mm=59.0)
    axes = fine.direction
    coarse = Grid((19, 19, 19), (6.0,) * 3, tuple(axes @ np.full(3, -54.0)), axes)
    beam = beam_of([(0, 0, 100, 1), (4, -3, 85, 1)])

    def doses(grid):
        matrix = influence_matrix(prepare_beam(beam, machine, maps, grid, "HFS", FINE), points_of(grid), cutoff=0.0)
        return (matrix @ beam.spot_mu).reshape(grid.shape)

    means = doses(fine)[1:58, 1:58, 1:58].reshape(19, 3, 19, 3, 19, 3).mean(axis=(1, 3, 5))
    assert np.abs(doses(coarse) - means).max() < 0.02 * means.max()


def test_the_matrix_does_not_depend_on_the_meterset(machine):
    grid, maps = box(spacing=5.0)
    spots = beam_of([(0, 0, 90, 1), (5, 5, 100, 2)])
    first, second = (
        influence_matrix(prepare_beam(beam, machine, maps, grid, "HFS"), points_of(grid))
        for beam in (spots, replace(spots, spot_mu=[0.0, 7.0]))
    )
    assert (first != second).nnz == 0


def test_columns_keep_the_order_of_the_spots(machine):
    """Layers mixed, positions off any raster: each column is that of its spot alone."""
    grid, maps = box(spacing=5.0)
    spots = [(0, 0, 100, 1), (5, 5, 85, 1), (-7, 2, 100, 1), (3.3, -4.1, 85, 1)]
    matrix = influence_matrix(prepare_beam(beam_of(spots), machine, maps, grid, "HFS"), points_of(grid), cutoff=0.0)
    for n, spot in enumerate(spots):
        alone = influence_matrix(prepare_beam(beam_of([spot]), machine, maps, grid, "HFS"), points_of(grid), cutoff=0.0)
        difference = np.abs((matrix[:, [n]] - alone).toarray()).max()
        assert difference < 0.02 * alone.max()


def test_the_cutoff_drops_small_entries_alone(machine):
    grid, maps = box(spacing=5.0)
    model = prepare_beam(beam_of([(0, 0, 90, 1), (5, 5, 100, 1)]), machine, maps, grid, "HFS")
    full, cut = (influence_matrix(model, points_of(grid), cutoff=cutoff).toarray() for cutoff in (0.0, 0.01))
    kept = full > 0.01 * full.max(axis=0)
    assert np.array_equal(cut > 0, kept)
    assert np.array_equal(cut[kept], full[kept])


def test_points_far_from_the_beam_get_empty_rows(machine):
    grid, maps = box(spacing=5.0)
    points = np.array([[0.0, 0.0, 0.0], [2000.0, 0.0, 0.0], [0.0, 2000.0, 0.0]])
    matrix = influence_matrix(prepare_beam(beam_of([(0, 0, 100, 1)]), machine, maps, grid, "HFS"), points)
    assert matrix.shape == (3, 1)
    assert matrix[0, 0] > 0
    assert matrix[1:].nnz == 0


def test_air_before_the_patient_gets_no_dose(machine):
    rsp = np.ones((24, 24, 24))
    rsp[:, :8] = 0.0
    grid, maps = box(spacing=5.0, rsp=rsp)
    model = prepare_beam(beam_of([(0, 0, 80, 1)]), machine, maps, grid, "HFS")
    dose = influence_matrix(model, points_of(grid), cutoff=0.0).toarray().reshape(grid.shape)
    assert dose[:, 8:].max() > 0
    assert dose[:, :5].max() == 0


def test_points_that_no_spot_reaches_are_an_error(machine):
    grid, maps = box(spacing=5.0)
    model = prepare_beam(beam_of([(0, 0, 100, 1)]), machine, maps, grid, "HFS")
    with pytest.raises(GeometryError, match="beam 1 'test': none of 1 points"):
        influence_matrix(model, [[1000.0, 0.0, 0.0]])


def test_a_model_on_another_device_is_refused(machine):
    grid, maps = box(spacing=5.0)
    model = prepare_beam(beam_of([(0, 0, 100, 1)]), machine, maps, grid, "HFS")
    elsewhere = replace(model, backend=SimpleNamespace(description="another device"))
    with pytest.raises(BackendUnavailable, match="not on another device"):
        influence_matrix(elsewhere, points_of(grid))

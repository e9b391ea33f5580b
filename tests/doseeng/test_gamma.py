"""Gamma against closed forms: a linear dose with error e has gamma |e| / sqrt(DD^2 + (gradient DTA)^2)."""

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from doseeng.errors import MetricError
from doseeng.gamma import gamma
from doseeng.grid import Grid, Volume

GRID = Grid((13, 15, 17), (2.5, 2.0, 3.0), (-20.0, 10.0, 5.0))
TURN = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])


def sampled(grid, dose_of):
    """A volume of dose_of(points (..., 3) mm)."""
    index = np.stack(np.indices(grid.shape)[::-1], axis=-1)
    return Volume(grid, dose_of(grid.to_patient(index)).astype(np.float32))


def linear(gradient_gy_per_mm, offset_gy=0.0):
    return lambda p: 50.0 + (p - np.array([0.0, 25.0, 25.0])) @ np.asarray(gradient_gy_per_mm) + offset_gy


@pytest.mark.parametrize("offset_gy", [-1.5, 0.4, 1.0, 1.9])
def test_uniform_offset_is_the_dose_term_alone(offset_gy):
    flat = sampled(GRID, linear((0, 0, 0)))
    result = gamma(flat, sampled(GRID, linear((0, 0, 0), offset_gy)), dose_percent=2.0, distance_mm=3.0)
    np.testing.assert_allclose(result.values.values, abs(offset_gy), rtol=1e-5)
    assert result.pass_rate_percent == (100.0 if abs(offset_gy) <= 1.0 else 0.0)
    assert result.n_points == np.prod(GRID.shape)


@pytest.mark.parametrize("gradient", [(0.8, 0, 0), (0, 0.8, 0), (0, 0, 0.8), (0.4, -0.5, 0.3)])
@pytest.mark.parametrize("axes", [np.eye(3), TURN])
def test_linear_gradient_has_closed_form(gradient, axes):
    half = np.array(GRID.spacing_mm) * (8, 7, 6)
    grid = Grid(GRID.shape, GRID.spacing_mm, np.array(GRID.origin_mm) + half - axes @ half, axes)
    error_gy, dose_gy, distance_mm = 1.2, 1.0, 2.0
    result = gamma(
        sampled(GRID, linear(gradient)),
        sampled(grid, linear(gradient, error_gy)),
        dose_percent=2.0,
        distance_mm=distance_mm,
        normalisation_gy=50.0,
    )
    expected = error_gy / np.hypot(dose_gy, np.linalg.norm(gradient) * distance_mm)
    middle = result.values.values[5:8, 5:9, 6:10]
    np.testing.assert_allclose(middle, expected, atol=0.002)


def test_shift_of_a_linear_dose_counts_its_distance():
    gradient = 2.0
    reference = sampled(GRID, linear((gradient, 0, 0)))
    shifted = sampled(GRID, lambda p: linear((gradient, 0, 0))(p - np.array([1.5, 0, 0])))
    result = gamma(reference, shifted, dose_percent=2.0, distance_mm=3.0, normalisation_gy=50.0)
    expected = 1.5 * gradient / np.hypot(1.0, gradient * 3.0)
    np.testing.assert_allclose(result.values.values[:, :, 3:-3], expected, rtol=1e-4)


def test_local_criterion_follows_the_point_dose():
    reference = sampled(GRID, linear((0, 0, 0.5)))
    evaluated = Volume(GRID, reference.values * np.float32(1.01))
    result = gamma(reference, evaluated, dose_percent=2.0, distance_mm=0.02, local=True)
    np.testing.assert_allclose(result.values.values, 0.5, rtol=2e-3)


def test_values_stop_at_max_gamma_and_low_dose_is_left_out():
    reference = sampled(GRID, linear((0, 0, 1.5)))
    threshold_gy = 0.8 * reference.values.max()
    result = gamma(
        reference,
        Volume(GRID, reference.values * 0),
        dose_percent=3,
        distance_mm=3,
        threshold_percent=80,
        max_gamma=1.5,
    )
    assert result.n_points == (reference.values >= threshold_gy).sum()
    assert np.isnan(result.values.values[reference.values < threshold_gy]).all()
    assert np.nanmax(result.values.values) == np.nanmin(result.values.values) == 1.5
    assert result.pass_rate_percent == 0.0


def test_mask_limits_the_points():
    flat = sampled(GRID, linear((0, 0, 0)))
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[3, 4:6, 7] = True
    result = gamma(flat, flat, dose_percent=3, distance_mm=3, mask=mask)
    assert result.n_points == 2
    assert result.pass_rate_percent == 100.0


def test_points_out_of_reach_are_counted_not_dropped():
    flat = sampled(GRID, linear((0, 0, 0)))
    part = Grid((13, 15, 7), GRID.spacing_mm, GRID.origin_mm)
    result = gamma(flat, sampled(part, linear((0, 0, 0))), dose_percent=3, distance_mm=3)
    # The last evaluated centre is at index 6; 2 x 3 mm reach two voxels of 2.5 mm further.
    assert result.n_unreached == 13 * 15 * (17 - 9)
    assert result.n_points == 13 * 15 * 9
    np.testing.assert_allclose(result.values.values[0, 0, 7:9], [2.5 / 3, 5.0 / 3], rtol=1e-5)
    with pytest.raises(MetricError, match="frames"):
        gamma(flat, sampled(Grid((5, 5, 5), (2, 2, 2), (900, 0, 0)), linear((0, 0, 0))), dose_percent=3, distance_mm=3)


def test_single_planes_are_compared_in_two_dimensions():
    plane = Grid((1, 15, 17), GRID.spacing_mm, GRID.origin_mm)
    reference, evaluated = sampled(plane, linear((0.8, 0, 0))), sampled(plane, linear((0.8, 0, 0), 1.2))
    result = gamma(reference, evaluated, dose_percent=2.0, distance_mm=2.0, normalisation_gy=50.0)
    np.testing.assert_allclose(result.values.values[:, :, 6:10], 1.2 / np.hypot(1.0, 1.6), rtol=1e-4)


def test_finer_steps_change_little():
    rng = np.random.default_rng(4)
    reference = Volume(GRID, rng.uniform(20, 60, GRID.shape).astype(np.float32))
    evaluated = Volume(GRID, rng.uniform(20, 60, GRID.shape).astype(np.float32))
    coarse, fine = (
        gamma(reference, evaluated, dose_percent=3, distance_mm=2, interpolation_fraction=steps).values.values
        for steps in (4, 8)
    )
    assert fine.mean() <= coarse.mean() < fine.mean() + 0.02


def test_brute_force_agrees():
    rng = np.random.default_rng(5)
    grid = Grid((6, 6, 6), (2.0, 2.0, 2.0), (0, 0, 0))
    reference = Volume(grid, rng.uniform(40, 60, grid.shape).astype(np.float32))
    evaluated = Volume(grid, rng.uniform(40, 60, grid.shape).astype(np.float32))
    result = gamma(reference, evaluated, dose_percent=5, distance_mm=2, interpolation_fraction=10).values.values
    fine = np.arange(0, 10.01, 0.2)
    points = np.stack(np.meshgrid(fine, fine, fine, indexing="ij"), axis=-1).reshape(-1, 3)
    dose = RegularGridInterpolator((np.arange(6) * 2.0,) * 3, evaluated.values)(points)
    for index in ((0, 0, 0), (3, 2, 4), (5, 5, 1), (2, 3, 3)):
        distance2 = ((points - 2.0 * np.array(index)) ** 2).sum(axis=1) / 4
        brute = np.sqrt((distance2 + ((dose - reference.values[index]) / (0.05 * reference.values.max())) ** 2).min())
        assert result[index] <= brute + 1e-4
        # The grid of the brute force misses the best place by up to half its step.
        assert result[index] > brute - 0.06


def test_impossible_arguments_are_named():
    flat = sampled(GRID, linear((0, 0, 0)))
    holed = np.array(flat.values)
    holed[1, 1, 1] = np.nan
    with pytest.raises(MetricError, match="distance_mm"):
        gamma(flat, flat, dose_percent=3, distance_mm=0)
    with pytest.raises(MetricError, match="evaluated dose has values"):
        gamma(flat, Volume(GRID, holed), dose_percent=3, distance_mm=3)
    with pytest.raises(MetricError, match="normalisation dose must be positive"):
        gamma(Volume(GRID, flat.values * 0), flat, dose_percent=3, distance_mm=3)
    with pytest.raises(MetricError, match="no reference point"):
        gamma(flat, flat, dose_percent=3, distance_mm=3, mask=np.zeros(GRID.shape, dtype=bool))
    with pytest.raises(MetricError, match="does not fit"):
        gamma(flat, flat, dose_percent=3, distance_mm=3, mask=np.ones((2, 2, 2), dtype=bool))

"""Penalties by hand, and their gradients against finite differences."""

import numpy as np
import pytest

from doseeng.errors import PlanError
from planning.objectives import Objective, value_and_gradient

DOSE = np.array([58.0, 60.0, 63.0, 20.0, 4.0])
TARGET = np.array([0, 1, 2])
ORGAN = np.array([3, 4])


@pytest.mark.parametrize(
    ("kind", "voxels", "dose_gy", "expected"),
    [
        ("minimum", TARGET, 60.0, 2.0**2 / 3),
        ("maximum", TARGET, 60.0, 3.0**2 / 3),
        ("uniform", TARGET, 60.0, (2.0**2 + 3.0**2) / 3),
        ("mean", ORGAN, 10.0, 2.0**2),
        ("mean", ORGAN, 15.0, 0.0),
        ("maximum", ORGAN, 25.0, 0.0),
    ],
)
def test_a_penalty_is_the_mean_square_of_what_is_wrong(kind, voxels, dose_gy, expected):
    value, gradient = value_and_gradient([Objective("x", kind, voxels, dose_gy, 3.0)], DOSE)
    assert value == pytest.approx(3.0 * expected)
    assert not gradient[np.setdiff1d(np.arange(5), voxels)].any()


def test_the_gradient_is_that_of_finite_differences():
    objectives = [
        Objective("target", "uniform", TARGET, 60.0, 5.0),
        Objective("target", "minimum", TARGET, 59.0, 2.0),
        Objective("all", "maximum", np.arange(5), 15.0, 0.5),
        Objective("organ", "mean", ORGAN, 3.0, 1.5),
    ]
    _, gradient = value_and_gradient(objectives, DOSE)
    step = 1e-4
    for voxel in range(5):
        shift = step * (np.arange(5) == voxel)
        up, down = (value_and_gradient(objectives, DOSE + s)[0] for s in (shift, -shift))
        assert gradient[voxel] == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_more_voxels_of_the_same_dose_change_nothing():
    few = value_and_gradient([Objective("x", "uniform", np.array([0]), 60.0)], np.full(1, 57.0))[0]
    many = value_and_gradient([Objective("x", "uniform", np.arange(50), 60.0)], np.full(50, 57.0))[0]
    assert few == pytest.approx(many)


def test_an_objective_without_voxels_is_refused():
    with pytest.raises(PlanError, match="objective mean for 'Heart': holds no voxel"):
        Objective("Heart", "mean", np.array([], dtype=int), 10.0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(PlanError, match="expected one of minimum, maximum, uniform, mean"):
        Objective("Heart", "median", ORGAN, 10.0)


def test_negative_numbers_are_refused():
    with pytest.raises(PlanError, match="must not be negative"):
        Objective("Heart", "mean", ORGAN, 10.0, -1.0)

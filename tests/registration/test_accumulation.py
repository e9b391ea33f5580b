"""Bookkeeping of fractions by hand-made sums, random fields by their statistics."""

import numpy as np
import pytest

from doseeng.dvh import sample_points
from doseeng.errors import GeometryError, PlanError, RegistrationError
from doseeng.grid import Grid, Volume
from doseeng.structures import Structure
from doseeng.transforms import DisplacementField, jacobian_determinant, voxel_centres
from registration.accumulation import (
    DayDose,
    Remaining,
    accumulated,
    course_weights,
    dose_spread,
    metric_samples,
    perturbed_fields,
)

GRID = Grid((24, 30, 30), (4.0, 4.0, 5.0), (-58.0, -58.0, -57.5))
POINTS = voxel_centres(GRID)


def still():
    return DisplacementField(GRID, np.zeros((*GRID.shape, 3), dtype=np.float32))


def uniform(gy):
    return Volume(GRID, np.full(GRID.shape, gy))


@pytest.mark.parametrize(
    ("imaged", "delivered", "remaining", "days", "planned"),
    [
        ((), None, "planned", (), 30.0),
        ((), None, "as-latest", (), 30.0),
        ((), 4, "planned", (), 30.0),
        ((1,), None, "planned", (1.0,), 29.0),
        ((1,), None, "as-latest", (30.0,), 0.0),
        # Fractions 1, 2 and 3 take the nearest; fractions 4, 5 are 2/3 + 1/3 and 1/3 + 2/3 of days 3 and 6.
        ((3, 6), None, "planned", (3.0 + 1.0, 1.0 + 1.0), 24.0),
        ((6, 3), None, "planned", (1.0 + 1.0, 3.0 + 1.0), 24.0),
        # Delivered to 10: after the last imaged day the last one holds.
        ((3, 6), 10, "planned", (4.0, 2.0 + 4.0), 20.0),
        ((3, 6), 10, "as-latest", (4.0, 6.0 + 20.0), 0.0),
        ((1, 2, 3), 30, "planned", (1.0, 1.0, 28.0), 0.0),
    ],
)
def test_weights_of_a_course_of_thirty(imaged, delivered, remaining, days, planned):
    found = course_weights(imaged, 30, delivered, Remaining(remaining))
    assert found.days == pytest.approx(days)
    assert found.planned == pytest.approx(planned)


def test_course_sum_by_hand():
    days = [DayDose(2, uniform(50.0)), DayDose(4, uniform(58.0))]
    # Fractions 1, 2: 50; 3: 54; 4: 58; 5..10: planned 60, or 58.
    assert accumulated(days, 10, uniform(60.0)).values[0, 0, 0] == pytest.approx((50 + 50 + 54 + 58 + 6 * 60) / 10)
    latest = accumulated(days, 10, uniform(60.0), remaining=Remaining.AS_LATEST)
    assert latest.values[0, 0, 0] == pytest.approx((50 + 50 + 54 + 58 + 6 * 58) / 10)


def test_order_of_days_does_not_matter_and_the_plan_returns_itself():
    rng = np.random.default_rng(1)
    doses = [Volume(GRID, rng.random(GRID.shape)) for _ in range(3)]
    days = [DayDose(f, d) for f, d in zip((1, 5, 9), doses, strict=True)]
    one, other = accumulated(days, 20, uniform(2.0)), accumulated(days[::-1], 20, uniform(2.0))
    np.testing.assert_allclose(one.values, other.values, rtol=1e-6)
    same = [DayDose(f, doses[0]) for f in (2, 7, 8)]
    np.testing.assert_allclose(accumulated(same, 33, doses[0], 12).values, doses[0].values, rtol=1e-6)


@pytest.mark.parametrize(
    ("imaged", "delivered", "message"),
    [
        ((3, 3), None, "fraction 3 is given twice"),
        ((0,), 5, "fraction 0 has an image"),
        ((4,), 3, "fraction 4 has an image"),
        ((31,), None, "31 fractions delivered of a course of 30"),
        ((1,), 31, "31 fractions delivered"),
    ],
)
def test_wrong_fraction_numbers_are_named(imaged, delivered, message):
    with pytest.raises(PlanError, match=message):
        course_weights(imaged, 30, delivered)


def test_doses_on_different_grids_are_refused():
    other = Grid(GRID.shape, GRID.spacing_mm, (0.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match="fraction 2"):
        accumulated([DayDose(2, Volume(other, np.zeros(GRID.shape)))], 10, uniform(2.0))


@pytest.mark.parametrize("correlation_mm", [15.0, 40.0])
def test_random_fields_have_the_size_and_the_correlation_asked_for(correlation_mm):
    fields = perturbed_fields(still(), 2.0, correlation_mm, np.random.default_rng(7), 60)
    vectors = np.stack([f.vectors_mm for f in fields])
    assert vectors.std() == pytest.approx(2.0, rel=0.05)
    # Longer correlation leaves fewer independent pieces: 3 SD of their mean at 40 mm.
    assert abs(vectors.mean()) < 0.36
    # The size is the same at the border as in the middle.
    assert vectors[:, 0].std() == pytest.approx(vectors[:, 12].std(), rel=0.15)
    for lag in (1, 3, 5):
        found = (vectors[:, :, :, lag:] * vectors[:, :, :, :-lag]).mean() / (vectors**2).mean()
        assert found == pytest.approx(np.exp(-0.5 * (4.0 * lag / correlation_mm) ** 2), abs=0.06)
    across = (vectors[..., 0] * vectors[..., 1]).mean() / (vectors**2).mean()
    assert abs(across) < 0.1


def test_random_fields_do_not_fold_and_repeat_with_the_seed():
    made = [list(perturbed_fields(still(), 3.0, 20.0, np.random.default_rng(3), 10)) for _ in range(2)]
    assert min(float(jacobian_determinant(f).values.min()) for f in made[0]) > 0.0
    np.testing.assert_array_equal(made[0][9].vectors_mm, made[1][9].vectors_mm)
    assert not np.array_equal(made[0][0].vectors_mm, made[0][1].vectors_mm)


def test_random_fields_are_added_and_follow_a_map_of_sigma():
    vectors = np.broadcast_to(np.float32([1.0, 2.0, 3.0]), (*GRID.shape, 3))
    sigma = Volume(GRID, np.where(POINTS[..., 0] > 0, 1.5, 0.0))
    fields = perturbed_fields(DisplacementField(GRID, vectors), sigma, 15.0, np.random.default_rng(5), 40)
    made = np.stack([f.vectors_mm for f in fields])
    np.testing.assert_array_equal(made[..., :15, :], np.broadcast_to(vectors, made.shape)[..., :15, :])
    assert (made - vectors)[..., 15:, :].std() == pytest.approx(1.5, rel=0.06)


@pytest.mark.parametrize(("sigma", "correlation"), [(6.0, 20.0), (-1.0, 20.0), (1.0, 0.0)])
def test_fields_that_would_fold_are_refused(sigma, correlation):
    with pytest.raises(RegistrationError, match="sigma"):
        perturbed_fields(still(), sigma, correlation, np.random.default_rng(1), 1)


def test_spread_in_a_linear_gradient_is_gradient_times_sigma():
    ramp = Volume(GRID, 50.0 + 0.5 * POINTS[..., 0])
    fields = perturbed_fields(still(), 2.0, 25.0, np.random.default_rng(11), 80)
    spread = dose_spread(ramp, fields)
    inner = (slice(6, -6),) * 3
    assert spread.count == 80
    assert float(np.sqrt((spread.std.values[inner] ** 2).mean())) == pytest.approx(0.5 * 2.0, rel=0.06)
    np.testing.assert_allclose(spread.mean.values[inner], ramp.values[inner], atol=0.5)


def test_spread_needs_two_fields():
    with pytest.raises(RegistrationError, match="at least two"):
        dose_spread(uniform(1.0), [still()])


def test_metrics_spread_like_the_dose_they_are_read_from():
    """In a linear dose, a stiff shift of the structure moves its mean and its D95% by gradient times shift."""
    square = np.array([(-10.0, -10.0), (10.0, -10.0), (10.0, 10.0), (-10.0, 10.0)])
    box = Structure(1, "Box", "PTV", tuple(np.column_stack([square, np.full(4, z)]) for z in range(-9, 12, 3)))
    ramp = Volume(GRID, 50.0 + 0.5 * POINTS[..., 0])
    shifts = [DisplacementField(GRID, still().vectors_mm + np.float32([s, 0, 0])) for s in (-4.0, 0.0, 4.0)]
    found = metric_samples(ramp, shifts, sample_points(box, GRID.spacing_mm), ("Dmean", "D95%", "V100%"), 50.0)
    assert found.shape == (3, 3)
    np.testing.assert_allclose(found[:, 0], (48.0, 50.0, 52.0), atol=0.01)
    np.testing.assert_allclose(np.diff(found[:, 1]), 2.0, atol=0.01)
    np.testing.assert_allclose(found[:, 2], (30.0, 50.0, 70.0), atol=0.6)

"""Field of view and images for dose."""

import numpy as np
import pytest

from doseeng.grid import Volume
from doseeng.transforms import DisplacementField, identity_transform, voxel_centres
from registration.dayimage import as_is, corrected_image, corrections_hu, virtual_and_corrected, virtual_ct
from registration.fieldofview import seen_region
from registration.images import AIR_HU
from registration.result import DayRegistration
from tests.registration import phantom


def registered(planning: Volume, day: Volume, pullback: DisplacementField) -> DayRegistration:
    """A registration that is exactly right."""
    still = identity_transform()
    return DayRegistration(still, still, pullback, phantom.back(pullback), day, seen_region(day), planning)


@pytest.fixture(scope="module")
def scene():
    planning, truth = phantom.patient(), phantom.deformation()
    day = phantom.day_of(planning, truth)
    return planning, day, registered(planning, phantom.cone_beam(day), truth)


def test_the_field_of_view_is_the_cylinder_and_no_more():
    day = phantom.cone_beam(phantom.patient())
    distance_mm = phantom.axis_distance_mm(day.grid)
    inside = distance_mm < phantom.FIELD_OF_VIEW_MM
    inside[:4] = inside[-4:] = False
    seen = seen_region(day).values > 0
    assert distance_mm[seen].max() < phantom.FIELD_OF_VIEW_MM + 0.2 * day.grid.spacing_mm[0]
    assert not seen[[3, -4]].any()
    assert (seen & inside).sum() > 0.97 * inside.sum()


def test_an_image_without_padding_is_seen_everywhere():
    rng = np.random.default_rng(0)
    noisy = Volume(phantom.GRID, rng.normal(0, 20, phantom.GRID.shape).astype(np.float32))
    assert (seen_region(noisy).values == 1).all()


def test_the_virtual_ct_is_the_planning_ct_deformed(scene):
    planning, day, registration = scene
    image = virtual_ct(planning, registration)
    assert image.grid.is_same(planning.grid)
    assert np.abs(image.values - day.values).mean() < 0.5


def test_both_images_at_once_are_the_same_two(scene):
    planning, _, registration = scene
    virtual, corrected = virtual_and_corrected(planning, registration)
    assert np.array_equal(virtual.values, virtual_ct(planning, registration).values)
    assert np.array_equal(corrected.values, corrected_image(planning, registration).values)


def test_the_corrected_image_has_the_numbers_of_the_true_day(scene):
    planning, day, registration = scene
    image = corrected_image(planning, registration)
    inside = registration.seen.values > 0
    for low, high in ((-100, 150), (-900, -650)):
        tissue = inside & (day.values > low) & (day.values < high)
        raw = float((registration.day.values - day.values)[tissue].mean())
        left = float((image.values - day.values)[tissue].mean())
        assert abs(raw) > 25
        assert abs(left) < 8


def test_outside_the_field_of_view_the_virtual_ct_completes(scene):
    planning, day, registration = scene
    for image in (corrected_image(planning, registration), as_is(planning, registration)):
        outside = registration.seen.values == 0
        assert np.abs(image.values - day.values)[outside].max() < 1.0


def test_corrections_end_at_the_field_of_view(scene):
    *_, registration = scene
    assert not corrections_hu(registration)[registration.seen.values == 0].any()


@pytest.mark.parametrize(("planned_hu", "todays_hu"), [(20.0, -980.0), (-980.0, 20.0)])
def test_gas_of_the_day_is_taken_over_and_gas_of_planning_filled(planned_hu, todays_hu):
    """No deformation makes gas of tissue, so the day's own values stand there."""
    x, y, z = np.moveaxis(voxel_centres(phantom.GRID), -1, 0)
    bubble = x**2 + (y + 20) ** 2 + z**2 < 10**2
    patient = phantom.patient().values
    planning = Volume(phantom.GRID, np.where(bubble, planned_hu, patient))
    day = Volume(phantom.GRID, np.where(bubble, todays_hu, patient))
    still = DisplacementField(phantom.GRID, np.zeros((*phantom.GRID.shape, 3), np.float32))
    image = virtual_ct(planning, registered(planning, phantom.cone_beam(day), still))
    assert abs(float(np.median(image.values[bubble])) - todays_hu) < 60
    away = x**2 + (y + 20) ** 2 + z**2 > 16**2
    assert np.abs(image.values - planning.values)[away].max() == 0.0


def test_air_is_never_below_air(scene):
    planning, _, registration = scene
    assert corrected_image(planning, registration).values.min() >= AIR_HU - 1e-3

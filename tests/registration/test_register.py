"""Rigid and deformable registration against known transforms."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from doseeng.errors import RegistrationError
from doseeng.grid import Grid, Volume
from doseeng.transforms import RigidTransform, as_field, jacobian_determinant, warped
from registration.couch import Couch, couch_correction
from registration.deformable import register_deformable
from registration.fieldofview import seen_region
from registration.pipeline import register_day
from registration.rigid import register_rigid
from tests.registration import phantom


@pytest.fixture(scope="module")
def planning() -> Volume:
    return phantom.patient()


@pytest.fixture(scope="module")
def truth():
    return phantom.deformation()


def moved(volume: Volume, day_to_planning: RigidTransform, grid: Grid | None = None) -> Volume:
    """The day's image that `day_to_planning` takes to `volume`."""
    return warped(volume, as_field(grid or volume.grid, day_to_planning), -1000.0)


def errors_mm(pullback, truth) -> np.ndarray:
    day, planned = phantom.landmarks(truth)
    return np.linalg.norm(pullback.apply(day) - planned, axis=1)


@pytest.mark.parametrize(
    ("shift_mm", "turn_deg"),
    [((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((12.0, -7.0, 9.0), (2.0, -3.0, 1.0)), ((-36.0, 24.0, 6.0), (0.0, 2.0, 6.0))],
)
def test_a_known_rigid_motion_is_found(planning, shift_mm, turn_deg):
    true = RigidTransform(
        Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix(), np.array(shift_mm), np.zeros(3)
    )
    day = phantom.cone_beam(moved(planning, true))
    found = register_rigid(planning, day, seen_region(day))
    points = np.random.default_rng(2).uniform(-40, 40, (50, 3))
    # A fifth of a voxel.
    assert np.linalg.norm(found.apply(points) - true.apply(points), axis=1).max() < 0.6


def test_the_search_reaches_images_in_coordinates_of_their_own(planning):
    """The day's origin is its isocentre, half a metre from where the planning CT has it."""
    true = RigidTransform(np.eye(3), np.array([310.0, -250.0, 480.0]), np.zeros(3))
    grid = Grid(planning.grid.shape, planning.grid.spacing_mm, tuple(planning.grid.origin_mm - true.translation_mm))
    day = phantom.cone_beam(moved(planning, true, grid))
    found = register_rigid(planning, day, seen_region(day))
    assert np.abs(found.apply(np.zeros(3)) - true.apply(np.zeros(3))).max() < 0.5


def test_a_rigid_registration_needs_tissue(planning):
    noise = np.random.default_rng(0).normal(-1000.0, 30.0, planning.grid.shape)
    with pytest.raises(RegistrationError, match="no tissue"):
        register_rigid(planning, Volume(planning.grid, noise))


def test_a_deformation_is_found_between_ct_images(planning, truth):
    found = register_deformable(planning, phantom.day_of(planning, truth))
    errors = errors_mm(found, truth)
    assert errors.mean() < 0.6
    assert errors.max() < 2.5


def test_a_deformation_is_found_in_a_cone_beam_image(planning, truth):
    day = phantom.cone_beam(phantom.day_of(planning, truth))
    found = register_deformable(planning, day, seen_region(day))
    errors = errors_mm(found, truth)
    identity = errors_mm(as_field(phantom.GRID, RigidTransform(np.eye(3), np.zeros(3), np.zeros(3))), truth)
    assert identity.mean() > 2.5
    assert errors.mean() < 1.0
    assert np.percentile(errors, 95) < 2.5
    assert jacobian_determinant(found).values.min() > 0.2


def test_equal_images_do_not_deform(planning):
    found = register_deformable(planning, planning)
    assert np.abs(found.vectors_mm).max() < 0.05


def test_what_the_day_does_not_show_asks_for_nothing(planning, truth):
    """The field is the same whatever stands outside the field of view."""
    day = phantom.cone_beam(phantom.day_of(planning, truth))
    seen = seen_region(day)
    other = Volume(day.grid, np.where(seen.values > 0, day.values, 500.0))
    first, second = (register_deformable(planning, d, seen) for d in (day, other))
    inside = seen.values > 0
    assert np.abs(first.vectors_mm - second.vectors_mm)[inside].max() < 0.3


def test_an_image_beside_the_planning_ct_is_refused(planning):
    far = Grid(planning.grid.shape, planning.grid.spacing_mm, (900.0, 0.0, 0.0))
    with pytest.raises(RegistrationError, match="shows nothing"):
        register_deformable(planning, Volume(far, planning.values))


def test_an_image_of_a_few_slices_is_refused(planning):
    thin = Volume(Grid((3, 60, 72), planning.grid.spacing_mm, planning.grid.origin_mm), planning.values[:3])
    with pytest.raises(RegistrationError, match="too small"):
        register_deformable(thin, planning)


def test_a_couch_turns_as_far_as_it_can():
    turn = RigidTransform(
        Rotation.from_euler("z", 5.0, degrees=True).as_matrix(), np.array([3.0, 4.0, 5.0]), np.zeros(3)
    )
    isocenter = np.array([20.0, -10.0, 5.0])
    assert couch_correction(turn, isocenter, Couch(6.0)) is turn
    shift = couch_correction(turn, isocenter, Couch(3.0))
    assert shift.angle_deg == 0.0
    # What belongs at the isocentre is brought there.
    assert shift.apply(turn.inverse().apply(isocenter)) == pytest.approx(isocenter)


def test_the_pipeline_leaves_in_the_anatomy_what_the_couch_cannot_turn(planning, truth):
    setup = RigidTransform(
        Rotation.from_euler("z", 4.0, degrees=True).as_matrix(), np.array([9.0, -6.0, 4.0]), np.zeros(3)
    )
    # day -> treatment (setup error taken back), and there the anatomy differs by the known deformation.
    day = warped(planning, as_field(phantom.GRID, setup, truth), -1000.0)
    found = register_day(planning, phantom.cone_beam(day), np.zeros(3), Couch(2.0))
    points, planned = phantom.landmarks(truth)
    on_day = setup.inverse().apply(points)
    ends = found.pullback.apply(found.couch.apply(on_day))
    errors = np.linalg.norm(ends - planned, axis=1)
    assert found.couch.angle_deg == 0.0
    assert errors.mean() < 1.2
    back = found.pushforward.apply(found.pullback.apply(points))
    assert np.linalg.norm(back - points, axis=1).mean() < 0.1
    assert set(found.seconds) == {"field of view", "rigid", "deformable", "inverse"}


def test_the_pipeline_refuses_images_that_are_no_images(planning):
    broken = planning.values.copy()
    broken[3, 3, 3] = np.nan
    with pytest.raises(RegistrationError, match="NaN"):
        register_day(planning, Volume(planning.grid, broken), np.zeros(3))
    flat = Volume(planning.grid, np.full(planning.grid.shape, -1000.0, np.float32))
    with pytest.raises(RegistrationError, match="empty"):
        register_day(planning, flat, np.zeros(3))

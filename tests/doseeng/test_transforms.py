"""Transforms against matrices worked out here, linear maps whose answers are exact, and SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk

from doseeng.errors import RegistrationError
from doseeng.grid import Grid, Volume
from doseeng.transforms import (
    DisplacementField,
    RigidTransform,
    as_field,
    identity_transform,
    inverse_field,
    is_near,
    jacobian_determinant,
    rigid_from_matrix,
    voxel_centres,
    warped,
)

POINTS = np.random.default_rng(3).uniform(-200.0, 200.0, (20, 3))
CENTRE = (10.0, -20.0, 30.0)


def euler(angles_deg: tuple[float, float, float] = (5.0, -3.0, 12.0)) -> sitk.Euler3DTransform:
    return sitk.Euler3DTransform(CENTRE, *np.radians(angles_deg).tolist(), (1.0, 2.0, -3.0))


def rigid() -> RigidTransform:
    return RigidTransform(np.reshape(euler().GetMatrix(), (3, 3)), np.array([1.0, 2.0, -3.0]), np.array(CENTRE))


TILTED = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix(), (3, 3))
OBLIQUE = Grid((7, 8, 9), (2.0, 3.0, 4.0), (-5.0, 10.0, 20.0), TILTED)
BOX = Grid((21, 25, 31), (3.0, 4.0, 5.0), (-45.0, -48.0, -50.0))


def as_sitk(values: np.ndarray, grid: Grid, is_vector: bool = False) -> sitk.Image:
    image = sitk.GetImageFromArray(values.astype(np.float64), isVector=is_vector)
    image.SetOrigin(grid.origin_mm)
    image.SetSpacing(grid.spacing_mm)
    image.SetDirection(grid.direction.ravel().tolist())
    return image


def random_field(grid: Grid, sigma_mm: float = 3.0) -> DisplacementField:
    vectors = np.random.default_rng(4).normal(0.0, sigma_mm, (*grid.shape, 3))
    return DisplacementField(grid, vectors.astype(np.float32))


def linear_field(grid: Grid, matrix: np.ndarray) -> DisplacementField:
    """p -> matrix @ p."""
    points = voxel_centres(grid)
    return DisplacementField(grid, (points @ (matrix - np.eye(3)).T).astype(np.float32))


def inside(grid: Grid, count: int = 50) -> np.ndarray:
    last = np.array(grid.shape[::-1]) - 1
    return grid.to_patient(np.random.default_rng(5).uniform(0.0, 1.0, (count, 3)) * last)


def test_a_rigid_transform_is_what_simpleitk_makes_of_it() -> None:
    transform = rigid()
    expected = [euler().TransformPoint(p.tolist()) for p in POINTS]
    np.testing.assert_allclose(transform.apply(POINTS), expected, atol=1e-9)
    homogeneous = np.column_stack([POINTS, np.ones(len(POINTS))])
    np.testing.assert_allclose((homogeneous @ transform.matrix.T)[:, :3], expected, atol=1e-9)
    np.testing.assert_allclose(transform.inverse().apply(expected), POINTS, atol=1e-9)
    np.testing.assert_allclose(rigid_from_matrix(transform.matrix, (7.0, 8.0, 9.0)).apply(POINTS), expected, atol=1e-9)


@pytest.mark.parametrize("angle_deg", [0.0, 0.5, 35.0, 180.0])
def test_the_angle_of_a_rotation(angle_deg: float) -> None:
    turn = np.reshape(sitk.VersorTransform((0.6, 0.0, 0.8), np.radians(angle_deg)).GetMatrix(), (3, 3))
    assert RigidTransform(turn, np.ones(3), np.zeros(3)).angle_deg == pytest.approx(angle_deg, abs=1e-5)


@pytest.mark.parametrize(
    "matrix",
    [np.diag([1.0, 1.01, 1.0]), np.diag([-1.0, 1.0, 1.0]), np.eye(3) + np.eye(3, k=1) * 0.01, np.full((3, 3), np.nan)],
)
def test_what_is_no_rotation_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(RegistrationError, match="rigid transform"):
        RigidTransform(matrix, np.zeros(3), np.zeros(3))


def test_what_is_no_homogeneous_matrix_is_refused() -> None:
    with pytest.raises(RegistrationError, match=r"expected a \(4, 4\) homogeneous matrix"):
        rigid_from_matrix(np.eye(3))
    with pytest.raises(RegistrationError, match="homogeneous"):
        rigid_from_matrix(np.eye(4) + np.eye(4, k=-3))


def test_transforms_that_place_a_patient_alike_are_near() -> None:
    turn = np.reshape(sitk.VersorTransform((0.0, 0.0, 1.0), 0.1 / 425.0).GetMatrix(), (3, 3))
    barely = RigidTransform(turn, np.zeros(3), np.zeros(3))  # 0.1 mm at the cube's edge, 300 sqrt(2) mm from its axis
    assert is_near(identity_transform(), barely)
    assert not is_near(identity_transform(), RigidTransform(turn @ turn, np.zeros(3), np.zeros(3)))
    assert not is_near(identity_transform(), RigidTransform(np.eye(3), np.array([0.1, 0.1, 0.0]), np.zeros(3)))


def test_vectors_between_voxel_centres_are_those_of_simpleitk() -> None:
    field = random_field(OBLIQUE)
    transform = sitk.DisplacementFieldTransform(as_sitk(field.vectors_mm, OBLIQUE, is_vector=True))
    points = inside(OBLIQUE)
    np.testing.assert_allclose(field.apply(points), [transform.TransformPoint(p.tolist()) for p in points], atol=1e-3)


def test_beyond_the_edge_the_edges_vectors_hold() -> None:
    field = random_field(OBLIQUE)
    np.testing.assert_allclose(field.at(OBLIQUE.to_patient((-5.0, 3.0, 4.0))), field.vectors_mm[4, 3, 0], atol=1e-4)
    np.testing.assert_allclose(
        field.at(OBLIQUE.to_patient((99.0, 99.0, 99.0))), field.vectors_mm[-1, -1, -1], atol=1e-4
    )


def test_a_field_of_one_plane_is_the_same_above_and_below() -> None:
    field = random_field(Grid((1, 4, 5), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0)))
    np.testing.assert_allclose(field.at([[4.0, 2.0, z] for z in (-9.0, 0.0, 9.0)]), field.vectors_mm[[0] * 3, 1, 2])


def test_a_field_that_does_not_fit_or_is_not_finite_is_refused() -> None:
    with pytest.raises(RegistrationError, match="do not fit a grid"):
        DisplacementField(OBLIQUE, np.zeros((7, 8, 9), np.float32))
    broken = np.zeros((7, 8, 9, 3), np.float32)
    broken[3, 3, 3, 0] = np.nan
    with pytest.raises(RegistrationError, match="NaN or infinity"):
        DisplacementField(OBLIQUE, broken)


def test_transforms_follow_each_other_in_the_order_given() -> None:
    quarter = RigidTransform(np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), np.zeros(3), np.zeros(3))
    shift = RigidTransform(np.eye(3), np.array([10.0, 0.0, 0.0]), np.zeros(3))
    point = voxel_centres(OBLIQUE)[2, 3, 4]
    np.testing.assert_allclose(
        as_field(OBLIQUE, quarter, shift).apply(point), [-point[1] + 10, point[0], point[2]], atol=1e-4
    )
    np.testing.assert_allclose(
        as_field(OBLIQUE, shift, quarter).apply(point), [-point[1], point[0] + 10, point[2]], atol=1e-4
    )


def test_a_rigid_transform_as_a_field_is_exact_between_voxels_too() -> None:
    points = inside(OBLIQUE)
    np.testing.assert_allclose(as_field(OBLIQUE, rigid()).apply(points), rigid().apply(points), atol=1e-3)


@pytest.mark.parametrize("stretch", [0.6, 1.5, 2.5])
def test_the_inverse_of_a_stretch_is_known(stretch: float) -> None:
    matrix = np.diag([stretch, 1.0, 1.0])
    small = Grid((5, 5, 9), (4.0, 4.0, 4.0), (-16.0, -8.0, -8.0))
    wide = Grid((5, 5, 41), (4.0, 4.0, 4.0), (-80.0, -8.0, -8.0))
    back = inverse_field(linear_field(wide, matrix), small)
    points = voxel_centres(small)
    np.testing.assert_allclose(back.apply(points), points @ np.linalg.inv(matrix), atol=0.05)


def test_a_smooth_field_and_its_inverse_lead_back() -> None:
    points = voxel_centres(BOX)
    waves = [6.0 * np.sin(2 * np.pi * points[..., (c + 1) % 3] / 80.0) for c in range(3)]
    field = DisplacementField(BOX, np.stack(waves, axis=-1).astype(np.float32))
    back = inverse_field(field, BOX)
    well_inside = points[4:-4, 4:-4, 4:-4]
    errors = np.linalg.norm(field.apply(back.apply(well_inside)) - well_inside, axis=-1)
    assert errors.max() < 0.05  # five times INVERSION_TOLERANCE_MM


@pytest.mark.parametrize("grid", [BOX, OBLIQUE])
def test_the_jacobian_of_a_linear_map_is_its_determinant(grid: Grid) -> None:
    matrix = np.array([[1.1, 0.2, 0.0], [-0.1, 0.9, 0.1], [0.0, 0.3, 0.8]])
    found = jacobian_determinant(linear_field(grid, matrix))
    np.testing.assert_allclose(found.values, np.linalg.det(matrix), atol=1e-4)
    assert found.grid is grid


def test_the_jacobian_shows_a_fold() -> None:
    """A field that takes planes past their neighbours: x -> -x / 2 in the middle."""
    found = jacobian_determinant(linear_field(BOX, np.diag([-0.5, 1.0, 1.0])))
    np.testing.assert_allclose(found.values, -0.5, atol=1e-4)
    rigid_one = jacobian_determinant(as_field(OBLIQUE, rigid()))
    np.testing.assert_allclose(rigid_one.values, 1.0, atol=1e-4)


def test_a_pullback_makes_the_image_that_simpleitk_makes() -> None:
    """On another, oblique grid, within the voxel centres of the image, where both agree about interpolation."""
    rng = np.random.default_rng(6)
    image = Volume(BOX, rng.normal(0.0, 100.0, BOX.shape))
    grid = Grid((6, 7, 8), (5.0, 4.0, 3.0), (-10.0, -12.0, -14.0), TILTED)
    pullback = random_field(grid)
    resampled = sitk.Resample(
        as_sitk(image.values, BOX),
        as_sitk(np.zeros(grid.shape), grid),
        sitk.DisplacementFieldTransform(as_sitk(pullback.vectors_mm, grid, is_vector=True)),
        sitk.sitkLinear,
        -1000.0,
    )
    np.testing.assert_allclose(warped(image, pullback, -1000.0).values, sitk.GetArrayFromImage(resampled), atol=0.05)


def test_a_pullback_fetches_from_where_it_points() -> None:
    """day(y) = planning(pullback(y)): a pullback of +1 voxel along x shows what lies one voxel to the left."""
    image = Volume(BOX, np.random.default_rng(7).normal(0.0, 1.0, BOX.shape))
    vectors = np.zeros((*BOX.shape, 3), np.float32)
    vectors[..., 0] = BOX.spacing_mm[0]
    made = warped(image, DisplacementField(BOX, vectors), -7.0).values
    np.testing.assert_allclose(made[:, :, :-1], image.values[:, :, 1:], atol=1e-5)
    assert set(np.unique(made[:, :, -1])) == {np.float32(-7.0)}

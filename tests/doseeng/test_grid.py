"""Grids and volumes against coordinates worked out by hand and fields that trilinear interpolation keeps exactly."""

import pickle

import numpy as np
import pytest

from doseeng.errors import GeometryError
from doseeng.grid import Grid, Volume, crop_grid, resample, resampled_grid

# i runs towards the patient's posterior (+y), j towards the right (-x), k towards the head: a quarter turn about z.
QUARTER = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def turned(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.roll(np.roll([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], axis + 1, axis=0), axis + 1, axis=1)


OBLIQUE = turned(20.0, 0) @ turned(-35.0, 1) @ turned(50.0, 2)


def linear_field(points_mm: np.ndarray) -> np.ndarray:
    return 3.0 + points_mm @ (0.5, -0.25, 0.125)


def volume_of(grid: Grid) -> Volume:
    k, j, i = np.indices(grid.shape)
    return Volume(grid, linear_field(grid.to_patient(np.stack([i, j, k], axis=-1))))


def centers(grid: Grid) -> np.ndarray:
    k, j, i = np.indices(grid.shape)
    return grid.to_patient(np.stack([i, j, k], axis=-1))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shape": (2, 3)}, "shape"),
        ({"shape": (2, 0, 4)}, "shape"),
        ({"spacing_mm": (1.0, 1.0)}, "spacing"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing"),
        ({"spacing_mm": (1.0, -2.0, 1.0)}, "spacing"),
        ({"spacing_mm": (1.0, np.nan, 1.0)}, "spacing"),
        ({"origin_mm": (0.0, np.inf, 0.0)}, "origin"),
        ({"origin_mm": (0.0, 0.0)}, "origin"),
        ({"direction": np.eye(2)}, "direction"),
        ({"direction": np.diag([1.0, 1.0, 1.01])}, "direction"),
        ({"direction": [[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]}, "direction"),
    ],
)
def test_impossible_grids_are_refused(change: dict, text: str) -> None:
    good: dict = {"shape": (2, 3, 4), "spacing_mm": (1.0, 2.0, 3.0), "origin_mm": (0.0, 0.0, 0.0)}
    with pytest.raises(GeometryError, match=f"grid {text}"):
        Grid(**(good | change))


def test_rounded_direction_cosines_are_accepted() -> None:
    assert Grid((2, 3, 4), (1, 2, 3), (0, 0, 0), np.round(OBLIQUE, 5)).shape == (2, 3, 4)


def test_grid_owns_its_direction() -> None:
    mine = np.eye(3)
    grid = Grid((2, 3, 4), (1, 2, 3), (0, 0, 0), mine)
    mine[0, 0] = 7.0
    assert grid.direction[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        grid.direction[0, 0] = 2.0


def test_index_to_patient_by_hand() -> None:
    grid = Grid((5, 4, 3), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), QUARTER)
    # 2 steps of 1 mm along +y, 1 step of 2 mm along -x, 4 steps of 3 mm along +z.
    np.testing.assert_allclose(grid.to_patient((2, 1, 4)), (8.0, 22.0, 42.0))
    np.testing.assert_allclose(grid.to_index((8.0, 22.0, 42.0)), (2, 1, 4), atol=1e-12)
    assert grid.voxel_volume_cm3 == pytest.approx(0.006)


def test_index_and_patient_round_trip_on_an_oblique_grid() -> None:
    grid = Grid((5, 4, 3), (1.1, 2.3, 0.7), (-100.0, 250.0, 31.0), OBLIQUE)
    index = np.random.default_rng(1).uniform(-10, 10, (4, 6, 3))
    points = grid.to_patient(index)
    assert points.shape == index.shape
    np.testing.assert_allclose(grid.to_index(points), index, atol=1e-10)
    m = grid.index_to_patient_matrix
    np.testing.assert_allclose(m[:, :3] @ index[0, 0] + m[:, 3], points[0, 0])


def test_contains_is_the_voxel_box() -> None:
    grid = Grid((5, 4, 3), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), QUARTER)
    # Along +y from 19.5 to 22.5, along x from 11 down to 3, along z from 28.5 to 43.5.
    points = np.array([(10.9, 22.4, 28.6), (11.1, 20, 30), (2.9, 20, 30), (5, 19.4, 30), (5, 22.6, 30), (5, 20, 43.6)])
    np.testing.assert_array_equal(grid.contains(points), [True, False, False, False, False, False])
    assert not grid.contains((5, 21, 43.0), margin_mm=1.0)
    assert grid.contains((5, 21, 42.0), margin_mm=1.0)
    assert grid.contains((5, 21, 44.0), margin_mm=-1.0)


def test_corners_bound_the_box() -> None:
    corners = Grid((5, 4, 3), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), QUARTER).corners_mm()
    assert corners.shape == (8, 3)
    np.testing.assert_allclose(corners.min(axis=0), (3.0, 19.5, 28.5))
    np.testing.assert_allclose(corners.max(axis=0), (11.0, 22.5, 43.5))


def test_same_grid_within_rounding() -> None:
    grid = Grid((5, 4, 3), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0))
    assert grid.is_same(Grid((5, 4, 3), (1.0, 2.0, 3.0), (0.0004, 0.0, 0.0)))
    assert not grid.is_same(Grid((5, 4, 3), (1.0, 2.0, 3.0), (0.01, 0.0, 0.0)))
    assert not grid.is_same(Grid((5, 4, 2), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0)))
    assert not grid.is_same(Grid((5, 4, 3), (1.0, 2.0, 3.01), (0.0, 0.0, 0.0)))
    assert not grid.is_same(Grid((5, 4, 3), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), QUARTER))


def test_crop_keeps_voxel_centres_and_covers_the_points() -> None:
    grid = Grid((30, 40, 50), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), OBLIQUE)
    points = grid.to_patient([(20.2, 10.0, 12.0), (25.7, 14.6, 13.1)])
    part = crop_grid(grid, points, 4.0)
    np.testing.assert_allclose(grid.to_index(part.origin_mm), (16, 8, 10), atol=1e-9)
    # Margins in voxels: 4, 2 and 4/3; indices 16 to 30, 8 to 17 and 10 to 15.
    assert part.shape == (6, 10, 15)
    assert part.contains(points, margin_mm=4.0).all()
    np.testing.assert_array_equal(part.direction, grid.direction)


def test_crop_stays_inside_the_grid() -> None:
    grid = Grid((3, 4, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert crop_grid(grid, [(2.0, 1.0, 1.0)], 100.0).is_same(grid)
    assert crop_grid(grid, [(50.0, 1.0, 1.0)], 0.0).origin_mm == (4.0, 1.0, 1.0)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (0.7, 1.9, 5.0), (100.0, 100.0, 100.0)])
def test_resampled_grid_covers_the_same_box(spacing: tuple[float, float, float]) -> None:
    grid = Grid((6, 8, 9), (1.0, 1.5, 3.0), (-5.0, 7.0, 11.0), OBLIQUE)
    other = resampled_grid(grid, spacing)
    assert other.spacing_mm == spacing
    np.testing.assert_allclose(other.corners_mm()[0], grid.corners_mm()[0])
    size, covered = np.array(grid.shape[::-1]) * grid.spacing_mm, np.array(other.shape[::-1]) * spacing
    assert np.all(covered >= size - 1e-9)
    assert np.all(covered < size + spacing)


def test_resampled_grid_of_the_same_spacing_is_the_grid() -> None:
    grid = Grid((6, 8, 9), (0.1, 1.5, 3.0), (-5.0, 7.0, 11.0))
    assert resampled_grid(grid, grid.spacing_mm).is_same(grid)


def test_volume_refuses_values_of_another_shape() -> None:
    with pytest.raises(GeometryError, match=r"\(4, 3, 2\).*\(2, 3, 4\)"):
        Volume(Grid((2, 3, 4), (1, 1, 1), (0, 0, 0)), np.zeros((4, 3, 2), np.float32))


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((2, 3, 4), np.float32),
        np.zeros((2, 3, 4), np.float64),
        np.zeros((4, 3, 2), np.float32).T,
        np.zeros((5, 3, 4), np.float32)[1:3],
        np.zeros(24, np.float32).reshape(2, 3, 4),
    ],
    ids=["float32", "float64", "fortran", "slice", "reshaped"],
)
def test_volume_is_read_only_and_leaves_the_callers_array_writable(given: np.ndarray) -> None:
    values = Volume(Grid((2, 3, 4), (1, 1, 1), (0, 0, 0)), given).values
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        values[0, 0, 0] = 1.0
    given[0, 0, 0] = 1.0
    base = given.base
    assert base is None or base.flags.writeable


def test_grid_and_volume_pickle() -> None:
    volume = volume_of(Grid((2, 3, 4), (1.0, 2.0, 3.0), (1.0, 2.0, 3.0), OBLIQUE))
    back = pickle.loads(pickle.dumps(volume))
    assert back.grid.is_same(volume.grid)
    np.testing.assert_array_equal(back.values, volume.values)


@pytest.mark.parametrize("direction", [np.eye(3), QUARTER, OBLIQUE], ids=["axial", "quarter", "oblique"])
def test_resample_is_exact_for_a_linear_field(direction: np.ndarray) -> None:
    source = Grid((12, 14, 16), (2.0, 1.5, 2.5), (-20.0, -15.0, -10.0), direction)
    middle = source.to_patient((np.array(source.shape[::-1]) - 1) / 2)
    axes = turned(17.0, 1) @ turned(-29.0, 2)
    target = Grid((5, 6, 7), (1.1, 0.9, 1.3), tuple(middle - axes @ (3.3, 2.25, 2.6)), axes)
    got = resample(volume_of(source), target, -999.0)
    np.testing.assert_allclose(got.values, linear_field(centers(target)), atol=2e-5)


def test_resample_on_the_same_grid_is_the_identity() -> None:
    grid = Grid((3, 4, 5), (1, 1, 1), (0, 0, 0))
    values = np.random.default_rng(2).normal(size=grid.shape)
    got = resample(Volume(grid, values), Grid((3, 4, 5), (1, 1, 1), (1e-4, 0, 0)), 0.0)
    np.testing.assert_array_equal(got.values, values.astype(np.float32))


def test_edge_value_holds_for_half_a_voxel_and_then_the_outside_value() -> None:
    source = Volume(Grid((1, 1, 4), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0)), np.array([[[1.0, 2.0, 3.0, 4.0]]]))
    # Voxel faces at -1 and 7 mm; sampled every 0.75 mm from -1.75.
    line = Grid((1, 1, 13), (0.75, 0.75, 0.75), (-1.75, 0.0, 0.0))
    got = resample(source, line, -5.0).values[0, 0]
    x = -1.75 + 0.75 * np.arange(13)
    expected = np.where((x < -1.0) | (x > 7.0), -5.0, np.clip(1.0 + x / 2.0, 1.0, 4.0))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    beside = resample(source, Grid((1, 2, 1), (2.0, 1.9, 2.0), (2.0, 0.9, 0.0)), -5.0).values[0, :, 0]
    np.testing.assert_allclose(beside, [2.0, -5.0])


def test_large_offsets_keep_their_digits() -> None:
    # A scanner far from the origin of its coordinates: 5 m away, still a hundredth of a voxel.
    source = Grid((4, 4, 300), (0.5, 0.5, 0.5), (5000.0, -5000.0, 5000.0))
    target = Grid((3, 3, 290), (0.5, 0.5, 0.5), (5000.31, -4999.87, 5000.13))
    expected = linear_field(centers(target) - (5000.0, -5000.0, 5000.0))
    k, j, i = np.indices(source.shape)
    field = Volume(source, linear_field(np.stack([i, j, k], axis=-1) * 0.5))
    np.testing.assert_allclose(resample(field, target, 0.0).values, expected, atol=1e-3)

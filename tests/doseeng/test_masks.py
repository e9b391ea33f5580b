"""Masks against areas and volumes known in closed form."""

import numpy as np
import pytest

from doseeng.errors import StructureError
from doseeng.grid import Grid
from doseeng.masks import PRISM_REACH_SPACINGS, ROUNDED_REACH_SPACINGS, contour_notices, coverage, mask, volume_cm3
from doseeng.structures import Structure

GRID = Grid((12, 20, 22), (1.0, 1.5, 2.0), (-4.0, -6.0, -3.0))
SQUARE = np.array([(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)])


def structure(*contours):
    return Structure(7, "lesion", "PTV", tuple(np.asarray(c, dtype=float) for c in contours))


def at(z_mm, uv):
    """A contour of (x, y) points in an axial plane."""
    return np.column_stack([uv, np.full(len(uv), z_mm)])


def stack(uv, heights):
    return structure(*(at(z, uv) for z in heights))


def polygon(radius_mm, center=(0.0, 0.0), points=720):
    angle = 2 * np.pi * np.arange(points) / points
    return np.column_stack([center[0] + radius_mm * np.cos(angle), center[1] + radius_mm * np.sin(angle)])


def mask_cm3(region, grid=GRID):
    return float(mask(region, grid).values.sum(dtype=float)) * grid.voxel_volume_cm3


def overlap(low, high, count, spacing, origin):
    """Share of each cell of one axis inside low..high."""
    edges = origin + (np.arange(count + 1) - 0.5) * spacing
    return np.diff(np.clip(edges, low, high)) / spacing


def test_box_has_exact_partial_weights():
    box = stack(SQUARE * (0.83, 0.61) + (1.27, -1.4), [1.0, 3.0, 5.0, 7.0])
    reach = 2.0 * PRISM_REACH_SPACINGS
    x = overlap(1.27, 9.57, 22, 1.0, -4.0)
    y = overlap(-1.4, 4.7, 20, 1.5, -6.0)
    z = overlap(1.0 - reach, 7.0 + reach, 12, 2.0, -3.0)
    expected = z[:, None, None] * y[:, None] * x
    np.testing.assert_allclose(mask(box, GRID).values, expected, atol=1e-6)
    assert volume_cm3(box) == pytest.approx(8.3 * 6.1 * (6.0 + 2 * reach) / 1000)


def test_triangle_is_exact_in_every_pixel():
    grid = Grid((1, 4, 4), (1.0, 1.0, 1.0), (0.5, 0.5, 0.0))
    half = structure(at(0.0, [(0, 0), (4, 0), (0, 4)]))
    expected = np.triu(np.ones((4, 4)), 1)[:, ::-1] + 0.5 * np.eye(4)[:, ::-1]
    np.testing.assert_allclose(mask(half, grid, slice_mm=1.0).values[0], expected[::-1][::-1], atol=1e-7)


def test_slanted_polygons_agree_with_fine_sampling():
    rng = np.random.default_rng(3)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 17))
    star = (rng.uniform(2, 9, 17) * [np.cos(angle), np.sin(angle)]).T + 8.0
    grid = Grid((1, 12, 12), (1.5, 1.5, 1.0), (0.0, 0.0, 0.0))
    fine = (np.arange(12 * 40) + 0.5) / 40 * 1.5 - 0.75
    x, y = np.meshgrid(fine, fine)
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(star, np.roll(star, -1, axis=0), strict=True):
        inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    expected = inside.reshape(12, 40, 12, 40).mean(axis=(1, 3))
    np.testing.assert_allclose(mask(structure(at(0.0, star)), grid, 1.0).values[0], expected, atol=0.01)


@pytest.mark.parametrize("turn", [1, -1])
def test_hole_keyhole_and_island_fill_even_odd(turn):
    outer, hole, island = polygon(9.0), polygon(5.0)[::turn], polygon(2.0)
    planes = [0.0, 2.0, 4.0, 6.0]
    ring = structure(*(at(z, p) for z in planes for p in (island, outer, hole)))
    # One contour that walks round the ring and back along the hole; the island on its own.
    keyhole = np.concatenate([outer, outer[:1], polygon(5.0)[:1], polygon(5.0)[::-1]])
    keyed = structure(*(at(z, p) for z in planes for p in (keyhole, island)))
    area = 360 * np.sin(2 * np.pi / 720) * (81 - 25 + 4)
    assert volume_cm3(ring) == pytest.approx(area * (6 + 4 * PRISM_REACH_SPACINGS) / 1000, rel=1e-9)
    grid = Grid((8, 20, 24), (1.0, 1.0, 2.0), (-11.7, -9.4, -3.0))
    assert mask_cm3(ring, grid) == pytest.approx(volume_cm3(ring), rel=1e-5)
    np.testing.assert_allclose(mask(ring, grid).values, mask(keyed, grid).values, atol=1e-5)
    at_radius = np.hypot(*np.meshgrid(-9.4 + np.arange(20), -11.7 + np.arange(24), indexing="ij"))
    middle = mask(ring, grid).values[3]
    assert (middle[(at_radius > 3) & (at_radius < 4)] == 0).all()
    assert (middle[(at_radius > 6) & (at_radius < 8)] == 1).all()


def test_wall_thinner_than_a_pixel_keeps_its_area():
    wall = structure(*(at(z, p) for z in (0.0, 2.0) for p in (polygon(6.0), polygon(5.8))))
    coarse = Grid((4, 8, 8), (3.0, 3.0, 2.0), (-10.0, -10.5, -2.0))
    assert mask_cm3(wall, coarse) == pytest.approx(volume_cm3(wall), rel=1e-5)


def test_crossing_polygons_exclude_what_they_share():
    shifted = SQUARE + np.array([5.0, 0.0])
    both = structure(*(at(z, p) for z in (0.0, 2.0) for p in (SQUARE, shifted)))
    row = mask(both, Grid((1, 1, 16), (1.0, 1.0, 1.0), (0.5, 5.0, 1.0))).values[0, 0]
    np.testing.assert_allclose(row, [1] * 5 + [0] * 5 + [1] * 5 + [0], atol=1e-6)


def test_volume_does_not_depend_on_where_the_slices_lie():
    ball = stack(polygon(7.0), [0.3, 2.3, 4.3, 6.3])
    for shift in (0.0, 0.41, 0.93, 1.6):
        grid = Grid((9, 16, 17), (1.0, 1.0, 1.7), (-8.2, -7.6, -3.0 - shift))
        assert mask_cm3(ball, grid) == pytest.approx(volume_cm3(ball), rel=1e-5)


def test_sphere_approaches_its_volume_as_planes_get_closer():
    errors = []
    for spacing in (2.0, 1.0, 0.5):
        heights = np.arange(-15.0 + spacing / 2, 15.0, spacing)
        ball = structure(*(at(z, polygon(np.sqrt(15.0**2 - z**2))) for z in heights))
        errors.append(volume_cm3(ball) / (4 / 3 * np.pi * 1.5**3) - 1)
    assert abs(errors[0]) < 0.02
    assert abs(errors[2]) < 0.002
    assert abs(errors[0]) > abs(errors[1]) > abs(errors[2])


def test_grids_along_other_axes_see_the_same_structure():
    box = stack(SQUARE * (0.83, 0.61) + (1.27, -1.4), [1.0, 3.0, 5.0, 7.0])
    straight = mask(box, GRID).values
    sx, sy, sz = GRID.spacing_mm
    # i along -z, j along x, k along -y of the straight grid.
    axes = np.column_stack([(0, 0, -1), (1, 0, 0), (0, -1, 0)])
    far = GRID.to_patient((0, 19, 11))
    turned = mask(box, Grid((20, 22, 12), (sz, sx, sy), far, axes)).values
    np.testing.assert_allclose(turned, straight.transpose(1, 2, 0)[::-1, :, ::-1], atol=1e-6)


def test_rotation_about_the_contour_normal_is_exact():
    angle = np.radians(25)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    contours = [at(z, SQUARE * (0.83, 0.61)) for z in (1.0, 3.0, 5.0)]
    turned_grid = Grid(GRID.shape, GRID.spacing_mm, turn @ GRID.origin_mm, turn)
    expected = mask(structure(*contours), GRID).values
    np.testing.assert_allclose(
        mask(structure(*(c @ turn.T for c in contours)), turned_grid).values, expected, atol=1e-5
    )


def test_oblique_grid_keeps_volume_and_centre():
    ball = stack(polygon(8.0, (1.0, 2.0)), np.arange(-8.0, 9.0, 2.0))
    tilt = np.radians(20)
    axes = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    spacing = (1.5, 1.5, 2.0)
    grid = Grid(
        (24, 30, 26), spacing, np.array([1.0, 2.0, 0.0]) - axes @ (np.array(spacing) * (12.5, 14.5, 11.5)), axes
    )
    values = mask(ball, grid).values
    assert 0 <= values.min() <= values.max() <= 1
    assert values.sum(dtype=float) * grid.voxel_volume_cm3 == pytest.approx(volume_cm3(ball), rel=0.003)
    centre = np.average(np.argwhere(values > 0)[:, ::-1], axis=0, weights=values[values > 0])
    np.testing.assert_allclose(grid.to_patient(centre), (1.0, 2.0, 0.0), atol=0.1)
    far = mask(ball, Grid(grid.shape, spacing, (500.0, 0.0, 0.0), axes))
    assert not far.values.any()


def test_sagittal_contours_fill_an_axial_grid():
    box = structure(*(np.column_stack([np.full(4, x), SQUARE]) for x in (2.0, 3.0, 4.0, 5.0)))
    grid = Grid((13, 14, 12), (1.0, 1.0, 1.0), (-2.0, -2.0, -1.5))
    assert volume_cm3(box) == pytest.approx(0.1 * (3 + 2 * PRISM_REACH_SPACINGS))
    assert mask_cm3(box, grid) == pytest.approx(volume_cm3(box), rel=1e-6)


def test_a_plane_left_out_ends_a_part_and_is_named():
    box = stack(SQUARE, [0.0, 2.0, 4.0, 8.0, 10.0])
    assert volume_cm3(box) == pytest.approx(0.1 * (4 + 2 + 8 * PRISM_REACH_SPACINGS))
    (notice,) = contour_notices(box)
    assert notice.code == "contour-gap"
    assert "4.0 to 8.0 mm" in notice.message
    row = mask(box, Grid((11, 1, 1), (1.0, 1.0, 1.0), (5.0, 5.0, 0.0))).values[:, 0, 0]
    assert row[6] == 0
    assert contour_notices(stack(SQUARE, [0.0, 2.0, 4.0, 6.0])) == ()


def test_uneven_planes_are_joined_half_way():
    box = stack(SQUARE, [0.0, 2.0, 5.0, 7.0])
    assert contour_notices(box) == ()
    assert volume_cm3(box) == pytest.approx(0.1 * (7 + 4 * PRISM_REACH_SPACINGS))


def test_positions_rounded_apart_are_one_plane():
    left, right = SQUARE * 0.4, SQUARE * 0.4 + 5.0
    pair = structure(at(0.0, left), at(0.01, right), at(2.0, left), at(1.99, right))
    assert volume_cm3(pair) == pytest.approx(2 * 0.016 * (2.0 + 4 * PRISM_REACH_SPACINGS), rel=0.01)


def test_a_single_plane_needs_a_thickness():
    flat = structure(at(3.0, SQUARE))
    with pytest.raises(StructureError, match=r"'lesion' lies on a single plane.*slice_mm"):
        mask(flat, GRID)
    assert volume_cm3(flat, slice_mm=2.5) == pytest.approx(0.25)
    assert mask(flat, Grid((1, 1, 1), (1, 1, 1), (5, 5, 4)), slice_mm=2.5).values == pytest.approx(0.75)


def test_structures_beyond_the_grid():
    box = stack(SQUARE, [0.0, 2.0, 4.0])
    half = Grid((20, 20, 20), (1.0, 1.0, 1.0), (5.5, -5.0, -8.0))
    assert coverage(box, half) == pytest.approx(0.5, abs=1e-6)
    far = Grid((5, 5, 5), (1.0, 1.0, 1.0), (100.0, 0.0, 0.0))
    assert not mask(box, far).values.any()
    assert coverage(box, far) == 0.0
    assert coverage(box, Grid((20, 20, 20), (1.0, 1.0, 1.0), (-5.0, -5.0, -8.0))) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("contours", "message"),
    [
        ((), "'lesion' has no closed contour"),
        ((at(0.0, SQUARE[:2]),), "'lesion' has no closed contour"),
        ((at(0.0, [(0, 0), (1, 1), (2, 2)]),), "'lesion' has no closed contour"),
        ((at(0.0, SQUARE), np.column_stack([np.zeros(4), SQUARE])), "parallel planes"),
    ],
)
def test_unusable_contours_are_named(contours, message):
    with pytest.raises(StructureError, match=message):
        mask(structure(*contours), GRID)


def test_a_rounded_end_closes_sooner_than_a_prism():
    cone = structure(*(at(z, SQUARE * scale) for z, scale in ((0.0, 1.0), (2.0, 1.0), (4.0, 0.6))))
    slabs = 100.0 * 2.0 * (PRISM_REACH_SPACINGS + 0.5) + 100.0 * 2.0 + 36.0 * 2.0 * (0.5 + ROUNDED_REACH_SPACINGS)
    assert volume_cm3(cone) == pytest.approx(slabs / 1000)

"""The way between the frustum and the dose grid: means over voxels of fields that must be exact, and the transpose."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from doseeng.beamseye import Frustum, frustum_around, grid_box, index_to_gantry, voxel_extent_mm
from doseeng.cpu import cpu
from doseeng.grid import BeamFrame, Grid, beam_frame

SOURCE = (2200.0, 1800.0)
IMAGE = Grid((50, 50, 50), (2.0, 2.0, 2.0), (-49.0, -49.0, -49.0))


def frustum(frame: BeamFrame, half_mm: float = 45.0, slice_mm: float = 2.0) -> Frustum:
    return frustum_around(frame, IMAGE, (-half_mm, half_mm, -half_mm, half_mm), SOURCE, 3.0, slice_mm)


def placement(f: Frustum, frame: BeamFrame, grid: Grid) -> tuple:
    depth_mm = float(voxel_extent_mm(frame, grid)[2])
    return f, index_to_gantry(frame, grid), depth_mm, grid_box(f, frame, grid)


def on_grid(values: np.ndarray, f: Frustum, frame: BeamFrame, grid: Grid) -> np.ndarray:
    out = np.zeros(grid.shape, dtype=np.float32)
    cpu().add_to_grid(values.astype(np.float32), *placement(f, frame, grid), out)
    return out


def gantry_points(frame: BeamFrame, grid: Grid) -> tuple[np.ndarray, ...]:
    """x, y, z of all voxel centres."""
    k, j, i = np.indices(grid.shape)
    return tuple(np.moveaxis(frame.from_patient(grid.to_patient(np.stack([i, j, k], axis=-1))), -1, 0))


def per_plane(f: Frustum, field: np.ndarray) -> np.ndarray:
    """Values as the march makes them: per millimetre squared of the isocentre plane."""
    return field * np.prod(f.magnification, axis=1)[:, None, None]


@pytest.mark.parametrize(("gantry", "couch", "position"), [(0, 0, "HFS"), (62.0, 25.0, "FFP")])
def test_fields_linear_in_ray_and_depth_stay_as_they_are(gantry: float, couch: float, position: str) -> None:
    # The mean of a linear field over a voxel is its value at the centre.
    frame = beam_frame((3.0, -5.0, 8.0), gantry, couch, position)
    f = frustum(frame)
    k, iv, iu = np.indices(f.shape)
    grid = Grid((9, 8, 7), (2.5, 3.0, 3.5), (-6.0, -15.0, -4.0))
    out = on_grid(per_plane(f, 2.0 + 0.3 * k - 0.1 * iv + 0.2 * iu), f, frame, grid)
    x, y, z = gantry_points(frame, grid)
    u, v = x / (1.0 - z / SOURCE[0]), y / (1.0 - z / SOURCE[1])
    expected = 2.0 + 0.3 * ((f.top_mm - z) / 2.0 - 0.5) - 0.1 * (v - f.v_mm[0]) / 3.0 + 0.2 * (u - f.u_mm[0]) / 3.0
    # Columns are summed in float32 along 50 slices.
    np.testing.assert_allclose(out, expected, rtol=5e-5)


def test_what_is_there_is_added_to() -> None:
    frame = beam_frame((0.0, 0.0, 0.0), 0.0)
    f = frustum(frame)
    grid = Grid((5, 5, 5), (4.0, 4.0, 4.0), (-8.0, -8.0, -8.0))
    once = on_grid(np.ones(f.shape), f, frame, grid)
    twice = once.copy()
    cpu().add_to_grid(np.ones(f.shape, dtype=np.float32), *placement(f, frame, grid), twice)
    np.testing.assert_allclose(twice, 2.0 * once, rtol=1e-6)


def along_axis(f: Frustum, frame: BeamFrame, profile: np.ndarray, voxel_mm: float, first_mm: float) -> np.ndarray:
    """Voxels on the axis of the beam from patient y = first_mm on, of slices that hold `profile`."""
    n = round((50.0 - first_mm) / voxel_mm)
    grid = Grid((1, n, 1), (1.0, voxel_mm, 1.0), (0.0, first_mm + 0.5 * voxel_mm, 0.0))
    field = np.broadcast_to(profile[:, None, None], f.shape)
    return on_grid(per_plane(f, field), f, frame, grid)[0, :, 0]


@pytest.mark.parametrize("voxel_mm", [1.0, 2.0, 2.5, 5.0])
def test_voxels_keep_the_integral_along_the_axis(voxel_mm: float) -> None:
    # One bright slice, 2 mm thick from y = -4 to -2.
    frame = beam_frame((0.0, 0.0, 0.0), 0.0)
    f = frustum(frame)
    out = along_axis(f, frame, np.where(np.arange(f.shape[0]) == 23, 7.0, 0.0), voxel_mm, -50.0)
    assert out.sum() * voxel_mm == pytest.approx(14.0, rel=1e-5)
    # Voxels that are slices hold just these; a cubic through the faces swings over at an edge, by an eighth at most.
    y = -50.0 + voxel_mm * (np.arange(len(out)) + 0.5)
    if voxel_mm == 2.0:
        np.testing.assert_allclose(out, np.where(np.abs(y + 3.0) < 0.1, 7.0, 0.0), atol=1e-5)
    assert out.min() >= -7.0 / 8.0 - 1e-5
    far = np.abs(y + 3.0) > 3.0 + 0.5 * voxel_mm + 1e-6
    np.testing.assert_allclose(out[far], 0.0, atol=1e-5)


def test_a_peak_between_slices_keeps_its_height() -> None:
    # A Gaussian of 3 mm along the axis as means over slices of 2 mm; voxels of 2 mm lie half a slice beside them. The
    # mean of two neighbouring slices would be 5 % too low.
    frame = beam_frame((0.0, 0.0, 0.0), 0.0)
    f = frustum(frame)
    faces = ndtr((f.top_mm - f.slice_mm * np.arange(f.shape[0] + 1)) / 3.0)
    out = along_axis(f, frame, -np.diff(faces) / 2.0, 2.0, -29.0)
    expected = np.diff(ndtr((-29.0 + 2.0 * np.arange(len(out) + 1)) / 3.0)) / 2.0
    np.testing.assert_allclose(out, expected, atol=0.015 * expected.max())


def test_outside_the_frustum_nothing_is_added() -> None:
    frame = beam_frame((0.0, 0.0, 0.0), 0.0)
    image = Grid((50, 20, 50), (2.0, 2.0, 2.0), (-49.0, -19.0, -49.0))
    f = frustum_around(frame, image, (-12.0, 12.0, -12.0, 12.0), SOURCE, 3.0, 2.0)
    wide = Grid((40, 40, 40), (5.0, 5.0, 5.0), (-97.5, -97.5, -97.5))
    out = on_grid(per_plane(f, np.ones(f.shape)), f, frame, wide)
    x, y, z = gantry_points(frame, wide)
    inside = (np.abs(x / (1 - z / SOURCE[0])) <= 12) & (np.abs(y / (1 - z / SOURCE[1])) <= 12) & (np.abs(z) <= 20)
    np.testing.assert_array_equal(out > 0, inside)
    # Voxel faces lie on the frustum's, so that each voxel is full.
    np.testing.assert_allclose(out[inside], 1.0, rtol=1e-4)


def test_voxels_that_reach_out_of_the_frustum_hold_what_they_share() -> None:
    frame = beam_frame((0.0, 0.0, 0.0), 0.0)
    f = frustum(frame)
    grid = Grid((1, 2, 1), (1.0, 4.0, 1.0), (0.0, -51.0, 0.0))
    out = on_grid(per_plane(f, np.ones(f.shape)), f, frame, grid)[0, :, 0]
    # The image begins at -50 mm; the first voxel spans -53 to -49 mm. Half a slice from an edge the cubic is a
    # sixteenth of a slice off.
    np.testing.assert_allclose(out, (0.25, 1.0), atol=2.0 / 16.0 / 4.0 + 1e-5)
    assert out.sum() == pytest.approx(1.25, rel=1e-5)


@pytest.mark.parametrize(
    ("gantry", "couch", "position", "slice_mm"),
    [(0.0, 0.0, "HFS", 2.0), (62.0, 25.0, "FFP", 2.0), (141.0, 0.0, "HFS", 3.7)],
)
@pytest.mark.parametrize("signed", [False, True])
def test_from_grid_is_the_transpose_of_add_to_grid(
    gantry: float, couch: float, position: str, slice_mm: float, signed: bool
) -> None:
    # The grid is larger than the frustum in places, and smaller in others.
    frame = beam_frame((3.0, -5.0, 8.0), gantry, couch, position)
    f = frustum(frame, 20.0, slice_mm)
    grid = Grid((29, 31, 27), (2.5, 4.0, 3.5), (-40.0, -65.0, -45.0))
    rng = np.random.default_rng(2)
    values = (rng.random(f.shape) - (0.5 if signed else 0.0)).astype(np.float32)
    dose = (rng.random(grid.shape) - (0.5 if signed else 0.0)).astype(np.float32)
    there = on_grid(values, f, frame, grid).astype(float)
    back = cpu().from_grid(dose, *placement(f, frame, grid)).astype(float)
    assert back.shape == f.shape
    scale = (np.abs(there) * np.abs(dose)).sum()
    # Differences of float32 sums along whole columns.
    assert (there * dose).sum() == pytest.approx((values * back).sum(), abs=2e-5 * scale)


def test_one_voxel_asks_for_what_it_was_given() -> None:
    # Row by row of the same operator, not just one number.
    frame = beam_frame((0.0, 0.0, 0.0), 30.0)
    f = replace(frustum(frame, 9.0), slice_mm=4.0)
    f = replace(f, shape=(30, *f.shape[1:]))
    grid = Grid((6, 6, 6), (3.0, 3.0, 3.0), (-7.5, -7.5, -7.5))
    voxel = np.zeros(grid.shape, dtype=np.float32)
    voxel[2, 3, 2] = 1.0
    back = cpu().from_grid(voxel, *placement(f, frame, grid))
    for ray in ((14, 3, 3), (15, 2, 3), (16, 3, 2), (3, 0, 0)):
        unit = np.zeros(f.shape)
        unit[ray] = 1.0
        assert on_grid(unit, f, frame, grid)[2, 3, 2] == pytest.approx(back[ray], rel=1e-3, abs=1e-6)
    assert np.count_nonzero(np.abs(back) > 1e-6) in range(4, 40)

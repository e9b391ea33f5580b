"""The beam's-eye frustum: where its rays lie, and depths along them against path lengths."""

import numpy as np
import pytest

from doseeng.backend import Materials, Rays
from doseeng.beamseye import (
    Frustum,
    frustum_around,
    gantry_to_index,
    grid_box,
    index_to_gantry,
    spanning,
    voxel_extent_mm,
)
from doseeng.cpu import cpu
from doseeng.errors import GeometryError
from doseeng.grid import BeamFrame, Grid, Volume, beam_frame

SOURCE = (2200.0, 1800.0)
# A cube of 100 mm about the origin.
CUBE = Grid((50, 50, 50), (2.0, 2.0, 2.0), (-49.0, -49.0, -49.0))
WATER = Volume(CUBE, np.ones(CUBE.shape))


def frustum(frame: BeamFrame, half_mm: float = 30.0, slice_mm: float = 2.0, grid: Grid = CUBE) -> Frustum:
    return frustum_around(frame, grid, (-half_mm, half_mm, -half_mm, half_mm), SOURCE, 3.0, slice_mm)


def traced(f: Frustum, frame: BeamFrame, rsp: Volume, samples: int = 1) -> Rays:
    """Every ray through `rsp`, whose scattering power is water's wherever the image is."""
    materials = Materials(*(cpu().put(volume.values) for volume in (rsp, WATER)))
    everywhere = np.ones(f.shape[1:], dtype=np.bool_)
    return cpu().trace(materials, gantry_to_index(frame, rsp.grid), f, samples, everywhere)


def faces_wet_mm(rays: Rays) -> np.ndarray:
    """(n_slice + 1, n_v, n_u) water-equivalent depth at the faces of the slices."""
    depth = np.cumsum(rays.stopping * rays.frustum.step_mm, axis=0, dtype=float)
    return np.concatenate([np.zeros((1, *depth.shape[1:])), depth])


def obliquity(f: Frustum) -> np.ndarray:
    """(n_v, n_u) length of a ray per length of the axis."""
    return np.sqrt(1.0 + (f.u_mm / SOURCE[0]) ** 2 + (f.v_mm[:, None] / SOURCE[1]) ** 2)


def test_frustum_spans_the_image_and_the_asked_box() -> None:
    f = frustum_around(beam_frame((0, 0, 10), 90.0), CUBE, (-13.2, 7.9, 4.1, 21.0), SOURCE, 3.0, 1.5)
    assert f.top_mm == pytest.approx(50.0)
    assert f.shape == (67, 7, 9)
    np.testing.assert_allclose(f.u_mm, np.arange(-15.0, 9.1, 3.0))
    np.testing.assert_allclose(f.v_mm, np.arange(3.0, 21.1, 3.0))
    np.testing.assert_allclose(f.slice_center_mm[[0, -1]], (49.25, 49.25 - 66 * 1.5))


def test_magnification_is_one_at_the_isocentre_and_grows_downstream() -> None:
    f = Frustum((-3.0, -3.0), 3.0, (3, 3, 3), 150.0, 100.0, SOURCE)
    # Slice centres at 100, 0 and -100 mm; rays converge to the source.
    np.testing.assert_allclose(f.magnification, [(1 - 1 / 22, 1 - 1 / 18), (1, 1), (1 + 1 / 22, 1 + 1 / 18)])


def test_source_inside_the_image_is_refused() -> None:
    with pytest.raises(GeometryError, match="2050 mm upstream of the isocentre, beyond the beam's source"):
        frustum(beam_frame((0, 2000.0, 0), 0.0))


def test_spanning_another_image_keeps_the_rays() -> None:
    f = frustum(beam_frame((0.0, 0.0, 0.0), 0.0))
    moved = spanning(f, beam_frame((0.0, 12.0, 0.0), 0.0), CUBE)
    np.testing.assert_array_equal(moved.u_mm, f.u_mm)
    np.testing.assert_array_equal(moved.v_mm, f.v_mm)
    assert moved.top_mm == pytest.approx(f.top_mm + 12.0)
    assert moved.shape == f.shape


def test_steps_are_longer_on_oblique_rays() -> None:
    f = frustum(beam_frame((0.0, 0.0, 0.0), 0.0), half_mm=200.0)
    np.testing.assert_allclose(f.step_mm, f.slice_mm * obliquity(f), rtol=1e-6)


@pytest.mark.parametrize(("gantry", "couch"), [(0, 0), (90, 0), (180, 90), (270, 270)])
def test_depth_in_water_is_the_length_of_the_ray(gantry: float, couch: float) -> None:
    frame = beam_frame((0.0, 0.0, 0.0), gantry, couch)
    f = frustum(frame)
    rays = traced(f, frame, WATER)
    faces = f.slice_mm * np.arange(f.shape[0] + 1)
    np.testing.assert_allclose(faces_wet_mm(rays), faces[:, None, None] * obliquity(f), atol=1e-3)
    np.testing.assert_allclose(rays.spreading, 1.0, rtol=1e-6)


def test_lowest_and_highest_depths_of_some_rays() -> None:
    frame = beam_frame((0.0, 0.0, 0.0), 0.0)
    f = frustum(frame)
    density = np.ones(CUBE.shape)
    density[:, :, 25:] = 1.5
    rays = traced(f, frame, Volume(CUBE, density))
    for of in (np.ones(f.shape[1:], dtype=np.bool_), np.broadcast_to(f.u_mm < -5.0, f.shape[1:])):
        found, depth = cpu().wet_mm(rays, of), faces_wet_mm(rays)[:, of]
        assert found.shape == (f.shape[0] + 1, 2)
        np.testing.assert_allclose(found, np.stack([depth.min(axis=1), depth.max(axis=1)], axis=1), rtol=1e-5)


@pytest.mark.parametrize(("gantry", "couch"), [(30.0, 0.0), (210.0, 15.0), (330.0, 350.0)])
def test_slab_at_an_angle(gantry: float, couch: float) -> None:
    # 24 mm of RSP 1.6 across y: the path through it is its thickness over the cosine between ray and normal.
    slab = np.zeros(CUBE.shape)
    slab[:, 20:32] = 1.6
    frame = beam_frame((0.0, 0.0, 0.0), gantry, couch)
    u_v = frustum(frame, half_mm=12.0)
    u, v = np.meshgrid(u_v.u_mm, u_v.v_mm)
    along = np.stack([-u / SOURCE[0], -v / SOURCE[1], np.ones_like(u)], axis=-1)
    normal = frame.axes @ (0.0, 1.0, 0.0)
    expected = 24.0 * 1.6 * np.linalg.norm(along, axis=-1) / np.abs(along @ normal)
    # Fine slices, and thick ones sampled as finely.
    for slice_mm, samples in ((0.5, 1), (4.0, 8)):
        f = frustum(frame, half_mm=12.0, slice_mm=slice_mm)
        wet = faces_wet_mm(traced(f, frame, Volume(CUBE, slab), samples))
        np.testing.assert_allclose(wet[-1], expected, rtol=2e-3)


def test_rays_that_are_not_wanted_stay_empty() -> None:
    frame = beam_frame((0.0, 0.0, 0.0), 0.0)
    f = frustum(frame)
    wanted = np.zeros(f.shape[1:], dtype=np.bool_)
    wanted[3, 5] = True
    materials = Materials(*(cpu().put(WATER.values) for _ in range(2)))
    rays = cpu().trace(materials, gantry_to_index(frame, CUBE), f, 1, wanted)
    np.testing.assert_allclose(rays.stopping[:, 3, 5], 1.0, rtol=1e-6)
    assert not rays.stopping[:, ~wanted].any()
    assert not rays.spreading[:, ~wanted].any()


def test_outside_the_image_there_is_vacuum() -> None:
    frame = beam_frame((0.0, 0.0, 0.0), 45.0)
    f = frustum(frame, half_mm=90.0)
    rays = traced(f, frame, WATER)
    wet = faces_wet_mm(rays)
    assert wet[-1, :, 0].max() == 0.0
    assert rays.spreading[:, :, 0].max() == 0.0
    # The axis runs through the corners: the diagonal of the square, within the steps at its ends.
    middle = wet[-1, f.shape[1] // 2, f.shape[2] // 2]
    assert middle == pytest.approx(100.0 * np.sqrt(2.0), abs=f.slice_mm)


def test_a_ray_passes_through_the_isocentre() -> None:
    # One bright voxel at the isocentre, seen by the ray (0, 0) alone, whatever the angles.
    spot = np.zeros((51, 51, 51))
    spot[25, 25, 25] = 1.0
    grid = Grid(spot.shape, (2.0, 2.0, 2.0), (-50.0 + 7, -50.0 - 3, -50.0 + 11))
    frame = beam_frame((7.0, -3.0, 11.0), 37.0, 20.0)
    f = frustum_around(frame, grid, (-10.5, 16.0, -4.0, 22.0), SOURCE, 4.0, 0.5)
    materials = Materials(cpu().put(spot), cpu().put(spot))
    rays = cpu().trace(materials, gantry_to_index(frame, grid), f, 1, np.ones(f.shape[1:], dtype=np.bool_))
    wet = faces_wet_mm(rays)[-1]
    iv, iu = np.unravel_index(np.argmax(wet), wet.shape)
    assert (f.u_mm[iu], f.v_mm[iv]) == (0.0, 0.0)
    assert wet[iv, iu] > 1.0
    assert np.count_nonzero(wet) == 1


def test_a_symmetric_image_gives_symmetric_depths() -> None:
    y = np.abs(CUBE.to_patient([(0, j, 0) for j in range(50)])[:, 1])
    x = np.abs(CUBE.to_patient([(i, 0, 0) for i in range(50)])[:, 0])
    z = np.abs(CUBE.to_patient([(0, 0, k) for k in range(50)])[:, 2])
    density = 1.0 + 0.01 * x + 0.005 * z[:, None, None] + 0.002 * y[:, None]
    frame = beam_frame((0.0, 0.0, 0.0), 0.0)
    wet = faces_wet_mm(traced(frustum(frame), frame, Volume(CUBE, density)))
    np.testing.assert_allclose(wet, wet[:, :, ::-1], rtol=1e-5)
    np.testing.assert_allclose(wet, wet[:, ::-1, :], rtol=1e-5)


def test_a_large_image_is_traced_without_rounding() -> None:
    # 1500 voxels of 1 mm, far from the isocentre: depth along the axis must come out to a hundredth of a millimetre.
    grid = Grid((3, 1500, 3), (1.0, 1.0, 1.0), (-1.0, -1299.5, -1.0))
    density = np.ones(grid.shape)
    density[:, 1000:1020] = 3.0
    frame = beam_frame((0.0, 0.0, 0.0), 0.0)
    f = frustum_around(frame, grid, (0.0, 0.0, 0.0, 0.0), SOURCE, 2.0, 1.0)
    materials = Materials(cpu().put(density), cpu().put(density))
    rays = cpu().trace(materials, gantry_to_index(frame, grid), f, 1, np.ones(f.shape[1:], dtype=np.bool_))
    wet = faces_wet_mm(rays)[:, 0, 0]
    assert wet[-1] == pytest.approx(1540.0, abs=0.02)
    np.testing.assert_allclose(wet[1000:1021], 1000.0 + 3.0 * np.arange(21), atol=0.02)


def test_the_two_affines_are_each_others_inverse() -> None:
    frame = beam_frame((7.0, -3.0, 11.0), 37.0, 20.0, "FFP")
    grid = Grid((4, 5, 6), (2.0, 3.0, 4.0), (-5.0, 1.0, 9.0))
    there, back = index_to_gantry(frame, grid), gantry_to_index(frame, grid)
    index = np.array([2.3, 1.0, -4.0])
    gantry = there[:, :3] @ index + there[:, 3]
    np.testing.assert_allclose(gantry, frame.from_patient(grid.to_patient(index)), atol=1e-9)
    np.testing.assert_allclose(back[:, :3] @ gantry + back[:, 3], index, atol=1e-9)


def test_the_extent_of_voxels_has_their_variance() -> None:
    grid = Grid((4, 5, 6), (2.0, 3.0, 4.0), (0.0, 0.0, 0.0))
    # From above, gantry X, Y and Z are patient x, z and y.
    np.testing.assert_allclose(voxel_extent_mm(beam_frame((0, 0, 0), 0.0), grid), (2.0, 4.0, 3.0))
    # At 45 degrees x and y mix: the corners' variance is (4 + 9) / 2 over 12.
    np.testing.assert_allclose(voxel_extent_mm(beam_frame((0, 0, 0), 45.0), grid), np.sqrt([6.5, 16.0, 6.5]))
    cube = Grid((4, 4, 4), (2.5, 2.5, 2.5), (0.0, 0.0, 0.0))
    np.testing.assert_allclose(voxel_extent_mm(beam_frame((0, 0, 0), 33.0, 12.0), cube), 2.5)


@pytest.mark.parametrize(("gantry", "couch"), [(0.0, 0.0), (33.0, 20.0)])
def test_the_box_holds_every_voxel_of_the_frustum(gantry: float, couch: float) -> None:
    frame = beam_frame((3.0, -5.0, 8.0), gantry, couch)
    f = frustum(frame, half_mm=12.0)
    grid = Grid((40, 40, 40), (5.0, 5.0, 5.0), (-97.5, -97.5, -97.5))
    i0, i1, j0, j1, k0, k1 = grid_box(f, frame, grid)
    k, j, i = np.indices(grid.shape)
    x, y, z = np.moveaxis(frame.from_patient(grid.to_patient(np.stack([i, j, k], axis=-1))), -1, 0)
    inside = (np.abs(x / (1 - z / SOURCE[0])) <= 12) & (np.abs(y / (1 - z / SOURCE[1])) <= 12) & (np.abs(z) <= 90)
    inside &= (z <= f.top_mm) & (z >= f.top_mm - f.slice_mm * f.shape[0])
    boxed = np.zeros(grid.shape, dtype=bool)
    boxed[k0:k1, j0:j1, i0:i1] = True
    assert inside.sum() > 50
    assert not np.any(inside & ~boxed)
    # A grid elsewhere has no voxel in it.
    away = Grid((4, 4, 4), (5.0, 5.0, 5.0), (900.0, 900.0, 900.0))
    i0, i1, j0, j1, k0, k1 = grid_box(f, frame, away)
    assert min(i1 - i0, j1 - j0, k1 - k0) <= 0

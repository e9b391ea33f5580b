"""The beam's-eye frustum: depths against path lengths, resampling against fields that it must keep exactly."""

import numpy as np
import pytest

from doseeng.beamseye import Frustum, add_to_grid, frustum_around, trace_rays
from doseeng.errors import GeometryError
from doseeng.grid import BeamFrame, Grid, Volume, beam_frame

SOURCE = (2200.0, 1800.0)
# A cube of 100 mm about the origin.
CUBE = Grid((50, 50, 50), (2.0, 2.0, 2.0), (-49.0, -49.0, -49.0))
WATER = Volume(CUBE, np.ones(CUBE.shape))


def frustum(frame: BeamFrame, half_mm: float = 30.0, slice_mm: float = 2.0, grid: Grid = CUBE) -> Frustum:
    return frustum_around(frame, grid, (-half_mm, half_mm, -half_mm, half_mm), SOURCE, 3.0, slice_mm)


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


@pytest.mark.parametrize(("gantry", "couch"), [(0, 0), (90, 0), (180, 90), (270, 270)])
def test_depth_in_water_is_the_length_of_the_ray(gantry: float, couch: float) -> None:
    frame = beam_frame((0.0, 0.0, 0.0), gantry, couch)
    f = frustum(frame)
    rays = trace_rays(f, frame, WATER, WATER, 1.0)
    faces = f.slice_mm * np.arange(f.shape[0] + 1)
    np.testing.assert_allclose(rays.wet_mm, faces[:, None, None] * obliquity(f), atol=1e-3)
    np.testing.assert_allclose(rays.scattering, 1.0, rtol=1e-6)


def test_rsp_scale_scales_depth_and_leaves_scattering() -> None:
    frame = beam_frame((0.0, 0.0, 0.0), 0.0)
    f = frustum(frame)
    plain, scaled = (trace_rays(f, frame, WATER, WATER, s) for s in (1.0, 1.035))
    np.testing.assert_allclose(scaled.wet_mm, 1.035 * plain.wet_mm, rtol=1e-5)
    np.testing.assert_array_equal(scaled.scattering, plain.scattering)


@pytest.mark.parametrize(("gantry", "couch"), [(30.0, 0.0), (210.0, 15.0), (330.0, 350.0)])
def test_slab_at_an_angle(gantry: float, couch: float) -> None:
    # 24 mm of RSP 1.6 across y: the path through it is its thickness over the cosine between ray and normal.
    slab = np.zeros(CUBE.shape)
    slab[:, 20:32] = 1.6
    frame = beam_frame((0.0, 0.0, 0.0), gantry, couch)
    f = frustum(frame, half_mm=12.0, slice_mm=0.5)
    rays = trace_rays(f, frame, Volume(CUBE, slab), WATER, 1.0)
    u, v = np.meshgrid(f.u_mm, f.v_mm)
    along = np.stack([-u / SOURCE[0], -v / SOURCE[1], np.ones_like(u)], axis=-1)
    normal = frame.axes @ (0.0, 1.0, 0.0)
    expected = 24.0 * 1.6 * np.linalg.norm(along, axis=-1) / np.abs(along @ normal)
    np.testing.assert_allclose(rays.wet_mm[-1], expected, rtol=2e-3)


def test_outside_the_image_there_is_vacuum() -> None:
    frame = beam_frame((0.0, 0.0, 0.0), 45.0)
    f = frustum(frame, half_mm=90.0)
    rays = trace_rays(f, frame, WATER, WATER, 1.0)
    assert rays.wet_mm[-1, :, 0].max() == 0.0
    assert rays.scattering[:, :, 0].max() == 0.0
    # The axis runs through the corners: the diagonal of the square, within the steps at its ends.
    middle = rays.wet_mm[-1, f.shape[1] // 2, f.shape[2] // 2]
    assert middle == pytest.approx(100.0 * np.sqrt(2.0), abs=f.slice_mm)


def test_a_ray_passes_through_the_isocentre() -> None:
    # One bright voxel at the isocentre, seen by the ray (0, 0) alone, whatever the angles.
    spot = np.zeros((51, 51, 51))
    spot[25, 25, 25] = 1.0
    grid = Grid(spot.shape, (2.0, 2.0, 2.0), (-50.0 + 7, -50.0 - 3, -50.0 + 11))
    frame = beam_frame((7.0, -3.0, 11.0), 37.0, 20.0)
    f = frustum_around(frame, grid, (-10.5, 16.0, -4.0, 22.0), SOURCE, 4.0, 0.5)
    wet = trace_rays(f, frame, Volume(grid, spot), WATER, 1.0).wet_mm[-1]
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
    rays = trace_rays(frustum(frame), frame, Volume(CUBE, density), WATER, 1.0)
    np.testing.assert_allclose(rays.wet_mm, rays.wet_mm[:, :, ::-1], rtol=1e-5)
    np.testing.assert_allclose(rays.wet_mm, rays.wet_mm[:, ::-1, :], rtol=1e-5)


@pytest.mark.parametrize(("gantry", "couch", "position"), [(0, 0, "HFS"), (62.0, 25.0, "FFP")])
def test_back_to_a_grid_is_exact_for_linear_fields(gantry: float, couch: float, position: str) -> None:
    frame = beam_frame((3.0, -5.0, 8.0), gantry, couch, position)
    f = frustum(frame, half_mm=45.0)
    k, iv, iu = np.indices(f.shape)
    field = (2.0 + 0.3 * k - 0.1 * iv + 0.2 * iu).astype(np.float32)
    grid = Grid((9, 8, 7), (2.5, 3.0, 3.5), (-6.0, -15.0, -4.0))
    out = np.full(grid.shape, 10.0, dtype=np.float32)
    add_to_grid(field, f, frame, grid, out)
    gk, gj, gi = np.indices(grid.shape)
    x, y, z = np.moveaxis(frame.from_patient(grid.to_patient(np.stack([gi, gj, gk], axis=-1))), -1, 0)
    u, v = x / (1.0 - z / SOURCE[0]), y / (1.0 - z / SOURCE[1])
    expected = 12.0 + 0.3 * ((f.top_mm - z) / 2.0 - 0.5) - 0.1 * (v - f.v_mm[0]) / 3.0 + 0.2 * (u - f.u_mm[0]) / 3.0
    np.testing.assert_allclose(out, expected, rtol=2e-6)


def test_outside_the_frustum_nothing_is_added() -> None:
    frame = beam_frame((0.0, 0.0, 0.0), 0.0)
    f = frustum(frame, half_mm=12.0, slice_mm=2.0, grid=Grid((50, 20, 50), (2.0, 2.0, 2.0), (-49.0, -19.0, -49.0)))
    wide = Grid((40, 40, 40), (5.0, 5.0, 5.0), (-97.5, -97.5, -97.5))
    out = np.zeros(wide.shape, dtype=np.float32)
    add_to_grid(np.ones(f.shape, dtype=np.float32), f, frame, wide, out)
    k, j, i = np.indices(wide.shape)
    x, y, z = np.moveaxis(frame.from_patient(wide.to_patient(np.stack([i, j, k], axis=-1))), -1, 0)
    inside = (np.abs(x / (1 - z / SOURCE[0])) <= 12) & (np.abs(y / (1 - z / SOURCE[1])) <= 12) & (np.abs(z) <= 20)
    np.testing.assert_array_equal(out > 0, inside)
    np.testing.assert_allclose(out[inside], 1.0)

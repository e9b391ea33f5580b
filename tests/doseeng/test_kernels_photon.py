"""Photon energy along rays against what can be written down: exponentials, moments, and that no energy is lost."""

import numpy as np
import pytest

from doseeng._kernels.photon import carry_modes, collapsed_cones, release, settle
from doseeng._kernels.scalar import mode_width
from doseeng.backend import Cones, Float32, Rays
from doseeng.beamseye import Frustum
from doseeng.cpu import CpuBackend

F32 = np.float32
PER_MM = 0.005
"""Attenuation of the photons, per mm of water."""
TABLE = (PER_MM * np.exp(-PER_MM * np.arange(600.0))).astype(np.float32)


def freed(fluence: Float32, attenuation: Float32, step_mm: float, depth_scale: float = 1.0) -> Float32:
    """Energy set free by photons of one energy along rays of equal steps."""
    out = np.full(attenuation.shape, np.nan, dtype=np.float32)
    step, scale = (np.full(fluence.shape, value, dtype=np.float32) for value in (step_mm, depth_scale))
    release(fluence, attenuation, step, scale, TABLE, F32(1.0), 0, len(fluence), out)
    return out


def test_photons_of_one_energy_are_attenuated_exponentially() -> None:
    fluence = np.array([[1.0, 2.5]], dtype=np.float32)
    out = freed(fluence, np.ones((100, 1, 2), dtype=np.float32), 2.5)
    faces = np.exp(-PER_MM * 2.5 * np.arange(101))
    np.testing.assert_allclose(out[:, 0, 0], faces[:-1] - faces[1:], rtol=5e-5)
    np.testing.assert_allclose(out[:, 0, 1], 2.5 * out[:, 0, 0], rtol=1e-6)
    assert out[:, 0, 0].sum() == pytest.approx(1.0 - faces[-1], rel=5e-5)


def test_what_is_set_free_and_what_passes_are_the_fluence_in_any_medium() -> None:
    attenuation = np.random.default_rng(3).uniform(0.0, 2.0, (80, 3, 4)).astype(np.float32)
    out = freed(np.ones((3, 4), dtype=np.float32), attenuation, 3.0, depth_scale=1.07)
    water_mm = 1.07 * 3.0 * attenuation.sum(axis=0)
    np.testing.assert_allclose(out.sum(axis=0), 1.0 - np.exp(-PER_MM * water_mm), rtol=1e-4)


def test_release_without_fluence_and_beyond_the_table() -> None:
    fluence = np.array([[0.0], [1.0]], dtype=np.float32)
    out = freed(fluence, np.full((3, 2, 1), 400.0, dtype=np.float32), 1.0)
    assert not out[:, 0].any()
    np.testing.assert_allclose(out[2, 1], 400.0 * TABLE[-1], rtol=1e-6)


def test_release_writes_its_rows_alone() -> None:
    rays = np.ones((3, 2), dtype=np.float32)
    out = np.full((4, 3, 2), -1.0, dtype=np.float32)
    release(rays, np.ones_like(out), rays, rays, TABLE, F32(1.0), 1, 2, out)
    assert np.all(out[:, 1] > 0.0)
    assert np.all(out[:, [0, 2]] == -1.0)


N_BINS = 48
SLICE_MM = 1.0
MODE = (1.0, 0.05, 0.3)
"""Share, attenuation per mm of water, variance across over the mean square of the distance."""


class Carried:
    """Modes along one ray: energy (slice,), and its mean variance across (slice,), mm2."""

    def __init__(
        self,
        released: np.ndarray,
        density: np.ndarray,
        slice_mm: float = SLICE_MM,
        modes: tuple[tuple[float, float, float], ...] = (MODE,),
        bin_step: float = 5.0,
        cuts: tuple[int, ...] = (),
    ) -> None:
        n = len(released)
        column = np.asarray(released, dtype=np.float32)[:, None, None]
        matter = np.asarray(density, dtype=np.float32)[:, None, None]
        step = np.full((1, 1), slice_mm, dtype=np.float32)
        self.state = np.zeros((1, len(modes), 1, 3), dtype=np.float32)
        parts = []
        for first, last in zip((0, *cuts), (*cuts, n), strict=True):
            bins = np.zeros((last - first, N_BINS, 1, 1), dtype=np.float32)
            used = np.zeros((last - first, N_BINS, 1), dtype=np.bool_)
            carry_modes(
                column, matter, step, F32(slice_mm), np.array(modes, dtype=np.float32), F32(bin_step), first, last,
                0, 1, self.state, bins, used,
            )  # fmt: skip
            assert np.all(used[bins[..., 0] > 0.0])
            parts.append(bins[..., 0, 0])
        self.dose = np.concatenate(parts).astype(float)
        self.energy = self.dose.sum(axis=1) * np.asarray(density) * slice_mm
        squares = np.array([mode_width(b, F32(bin_step)) for b in range(N_BINS)], dtype=float) ** 2
        self.variance = self.dose @ squares / np.maximum(self.dose.sum(axis=1), 1e-30)

    @property
    def in_flight(self) -> float:
        return float(self.state[0, :, 0, 0].sum())


def in_first_slice(n: int) -> np.ndarray:
    released = np.zeros(n)
    released[0] = 1.0
    return released


def test_modes_keep_energy() -> None:
    rng = np.random.default_rng(5)
    released, density = rng.random(60), rng.uniform(0.2, 2.0, 60)
    carried = Carried(released, density, modes=((0.6, 0.5, 0.1), (0.4, 0.01, 2.0)))
    assert carried.in_flight > 1.0
    assert carried.energy.sum() + carried.in_flight == pytest.approx(released.sum(), rel=1e-5)


def test_a_mode_deposits_exponentially_and_spreads_with_the_square_of_the_distance() -> None:
    carried = Carried(in_first_slice(600), np.ones(600))
    _, per_mm, spread = MODE
    k = np.arange(600)
    # Between two slices: both ends of a path are anywhere in theirs.
    np.testing.assert_allclose(carried.energy[1:200] / carried.energy[1], np.exp(-per_mm * k[:199]), rtol=2e-4)
    near = k < 150
    np.testing.assert_allclose(carried.variance[near], spread * (k[near] ** 2 + 1.0 / 6.0) * SLICE_MM**2, rtol=1e-4)
    assert carried.energy @ k * SLICE_MM == pytest.approx(1.0 / per_mm, rel=1e-3)
    assert carried.energy @ (k**2 + 1.0 / 6.0) * SLICE_MM**2 == pytest.approx(2.0 / per_mm**2, rel=1e-3)
    assert carried.energy @ carried.variance == pytest.approx(spread * 2.0 / per_mm**2, rel=2e-3)


def test_distances_of_modes_grow_as_density_falls() -> None:
    # O'Connor, Phys Med Biol 1 (1957) 352: all lengths times the density alike, and nothing changes.
    rng = np.random.default_rng(7)
    released = rng.random(50)
    water = Carried(released, np.ones(50), SLICE_MM, bin_step=2.0)
    lung = Carried(released, np.full(50, 0.25), 4.0 * SLICE_MM, bin_step=8.0)
    np.testing.assert_allclose(lung.dose, water.dose, rtol=1e-5)


def test_width_of_a_mode_is_geometry_whatever_it_came_through() -> None:
    density = np.random.default_rng(9).uniform(0.1, 2.0, 40)
    density[10:15] = 0.0
    carried = Carried(in_first_slice(40), density)
    k = np.flatnonzero(density)
    np.testing.assert_allclose(carried.variance[k], MODE[2] * (k**2 + 1.0 / 6.0), rtol=1e-4)
    before, after = carried.energy[9] / density[9], carried.energy[15] / density[15]
    assert after / before == pytest.approx(np.exp(-0.5 * MODE[1] * (density[9] + density[15])), rel=1e-3)


def test_modes_add_up_and_march_in_parts() -> None:
    rng = np.random.default_rng(11)
    released, density = rng.random(30), rng.uniform(0.3, 1.5, 30)
    modes = ((0.7, 0.3, 0.05), (0.3, 0.02, 1.0))
    together = Carried(released, density, modes=modes)
    alone = [Carried(released, density, modes=(mode,)).dose for mode in modes]
    np.testing.assert_allclose(together.dose, alone[0] + alone[1], rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(Carried(released, density, modes=modes, cuts=(7, 8)).dose, together.dose)


def test_what_is_wider_than_the_widest_bin_is_in_it() -> None:
    carried = Carried(in_first_slice(20), np.ones(20), modes=((1.0, 0.05, 4e6),))
    assert np.all(carried.dose[1:, -1] > 0.0)
    assert not carried.dose[1:, :-1].any()


def cone(
    released: Float32,
    density: Float32,
    per_mm: float,
    offsets: np.ndarray,
    slice_mm: float = 2.0,
    length: float = 1.0,
    upstream: bool = False,
) -> Float32:
    """Energy deposited along directions of equal share; offsets (n, slice, 2)."""
    n = len(offsets)
    directions = np.tile(np.array([1.0 / n, per_mm, length], dtype=np.float32), (n, 1))
    out = np.zeros_like(released)
    collapsed_cones(released, density, directions, offsets, F32(slice_mm), upstream, out)
    return out


def point(shape: tuple[int, int, int], at: tuple[int, int, int]) -> Float32:
    released = np.zeros(shape, dtype=np.float32)
    released[at] = 1.0
    return released


def ring(tangent: float, n_slice: int) -> np.ndarray:
    """Offsets of eight directions around the axis, whose rays move by `tangent` rays per slice."""
    azimuth = 2.0 * np.pi * (np.arange(8) + 0.25) / 8
    at = tangent * np.arange(n_slice)[:, None] * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=-1)[:, None]
    return np.diff(np.rint(at).astype(np.int64), axis=1, prepend=0)


def test_a_cone_straight_on_deposits_exponentially() -> None:
    x = 0.1 * 2.0
    released = point((60, 3, 3), (0, 1, 1))
    out = cone(released, np.ones_like(released), 0.1, np.zeros((1, 60, 2), dtype=np.int64))
    from_a_slice = (1.0 - np.exp(-x)) / x
    between = x * from_a_slice**2 * np.exp(-x * np.arange(59))
    np.testing.assert_allclose(out[:, 1, 1], [1.0 - from_a_slice, *between], rtol=2e-4)
    out[:, 1, 1] = 0.0
    assert not out.any()


def test_cones_keep_energy() -> None:
    rng = np.random.default_rng(13)
    released = np.zeros((120, 41, 41), dtype=np.float32)
    released[:20, 15:26, 15:26] = rng.random((20, 11, 11))
    density = rng.uniform(0.5, 2.0, released.shape).astype(np.float32)
    # What reaches the edge, 15 slices on at least, is less than 1e-8.
    out = cone(released, density, 1.0, ring(1.0, 120), length=np.sqrt(2.0))
    assert out.sum(dtype=float) == pytest.approx(released.sum(dtype=float), rel=1e-5)


def test_a_ring_of_cones_stays_centred_and_opens_as_its_tangent() -> None:
    released = point((30, 61, 61), (0, 30, 30))
    out = cone(released, np.ones_like(released), 0.05, ring(0.8, 30)).astype(float)
    place = np.arange(61) - 30.0
    total = out.sum(axis=(1, 2))
    np.testing.assert_allclose([out.sum(axis=2) @ place, out.sum(axis=1) @ place], 0.0, atol=1e-6)
    square = ((out.sum(axis=2) + out.sum(axis=1)) @ place**2 / total)[5:]
    # Rounding to whole rays moves each coordinate by half a ray at most.
    away = 0.8 * np.arange(5, 30)
    np.testing.assert_allclose(np.sqrt(square), away, atol=np.sqrt(0.5))
    assert np.mean(np.sqrt(square) - away) == pytest.approx(0.0, abs=0.1)


def test_distances_along_cones_grow_as_density_falls() -> None:
    rng = np.random.default_rng(17)
    released = rng.random((20, 6, 5)).astype(np.float32)
    offsets = ring(1.3, 20)
    water = cone(released, np.ones_like(released), 0.1, offsets, slice_mm=2.0)
    lung = cone(released, np.full_like(released, 0.25), 0.1, offsets, slice_mm=8.0)
    np.testing.assert_allclose(lung, water, rtol=1e-5)


def test_cones_are_attenuated_by_the_density_they_meet() -> None:
    # A ray from (0, 0) along the diagonal meets its own densities, not those of the rays beside it.
    density = np.random.default_rng(19).uniform(0.0, 3.0, (12, 12, 12)).astype(np.float32)
    out = cone(point(density.shape, (0, 0, 0)), density, 0.1, np.ones((1, 12, 2), dtype=np.int64))
    k = np.arange(12)
    x = 0.1 * 2.0 * density[k, k, k].astype(float)
    flying = (1.0 - np.exp(-x[0])) / x[0] * np.exp(-np.concatenate([[0.0], np.cumsum(x[1:-1])]))
    np.testing.assert_allclose(out[k, k, k][1:], flying * (1.0 - np.exp(-x[1:])), rtol=1e-3)
    assert np.count_nonzero(out) == np.count_nonzero(density[k, k, k])


def test_energy_that_leaves_at_a_side_does_not_come_back() -> None:
    released = point((8, 4, 5), (0, 3, 4))
    for offset in ((1, 0), (0, 1), (0, 9), (-9, 0)):
        out = cone(released, np.ones_like(released), 0.1, np.broadcast_to(np.array(offset), (1, 8, 2)).copy())
        assert np.count_nonzero(out) == 1
        assert out[0, 3, 4] == pytest.approx(1.0 - (1.0 - np.exp(-0.2)) / 0.2, rel=1e-3)


def test_upstream_is_downstream_seen_from_below() -> None:
    rng = np.random.default_rng(23)
    released, density = (rng.uniform(0.1, 1.5, (9, 7, 6)).astype(np.float32) for _ in range(2))
    offsets = rng.integers(-2, 3, (5, 9, 2))
    down = cone(released[::-1].copy(), density[::-1].copy(), 0.2, offsets[:, ::-1].copy())
    np.testing.assert_array_equal(cone(released, density, 0.2, offsets, upstream=True), down[::-1])


def test_settled_energy_is_dose_where_it_is() -> None:
    released = np.ones((2, 2, 3), dtype=np.float32)
    density = np.ones_like(released)
    density[0], density[1, 0] = 0.25, 0.0
    out = np.full_like(released, 2.0)
    settle(released, density, F32(2.5), out)
    np.testing.assert_allclose(out[0], 2.0 + 1.0 / (0.25 * 2.5), rtol=1e-6)
    np.testing.assert_allclose(out[1, 1], 2.0 + 1.0 / 2.5, rtol=1e-6)
    assert np.all(np.isfinite(out[1, 0]))


SHAPE = (40, 33, 41)
FRUSTUM = Frustum((-40.0, -32.0), 2.0, SHAPE, 40.0, 2.0, (1e9, 1e9))
"""Rays that are as good as parallel."""


def test_pencil_of_modes_is_a_gaussian_that_widens_with_its_path() -> None:
    rays = Rays(FRUSTUM, *(np.full(SHAPE, 0.5, dtype=np.float32) for _ in range(2)))
    out = np.zeros(SHAPE, dtype=np.float32)
    CpuBackend(2).carry(rays, point(SHAPE, (0, 16, 20)), np.array([[1.0, 0.05, 0.04]], dtype=np.float32), out)
    whole = out.sum(axis=(1, 2), dtype=float)
    # Half as dense: half of the attenuation, twice the dose. Deeper than 40 mm the edge is within four sigma.
    x, k = 0.05 * 0.5 * 2.0, np.arange(1, 20)
    from_a_slice = (1.0 - np.exp(-x)) / x
    np.testing.assert_allclose(whole[k], x * from_a_slice**2 * np.exp(-x * (k - 1)) / (0.5 * 2.0), rtol=1e-3)
    for axis, place in ((2, FRUSTUM.v_mm), (1, FRUSTUM.u_mm)):
        variance = (out.sum(axis=axis, dtype=float) @ place**2 / whole)[k]
        np.testing.assert_allclose(variance, 0.04 * (k**2 + 1.0 / 6.0) * 2.0**2, rtol=1e-2)


def test_cones_of_a_backend_do_not_depend_on_its_threads() -> None:
    rng = np.random.default_rng(29)
    rays = Rays(FRUSTUM, *(rng.uniform(0.2, 1.5, SHAPE).astype(np.float32) for _ in range(2)))
    released = rng.random(SHAPE).astype(np.float32)
    directions = rng.uniform(0.05, 1.5, (5, 3)).astype(np.float32)
    offsets = rng.integers(-1, 2, (5, SHAPE[0], 2))
    sets = Cones(directions[:3], offsets[:3], False), Cones(directions[3:], offsets[3:], True)
    one, three = np.zeros(SHAPE, dtype=np.float32), np.zeros(SHAPE, dtype=np.float32)
    CpuBackend(1).cones(rays, released, sets, one)
    CpuBackend(3).cones(rays, released, sets, three)
    np.testing.assert_allclose(three, one, rtol=1e-5)
    alone = sum(
        collapsed_energy(rays, released, each, np.array([i]))
        for each in sets
        for i in range(len(each.directions))
    )  # fmt: skip
    np.testing.assert_allclose(one, alone / (rays.spreading * 2.0), rtol=1e-5)


def collapsed_energy(rays: Rays, released: Float32, cones: Cones, which: np.ndarray) -> Float32:
    out = np.zeros_like(released)
    collapsed_cones(
        released, rays.spreading, cones.directions[which], cones.offsets[which], F32(2.0), cones.upstream, out
    )
    return out

"""What rays know: scattering in closed form, secondaries in closed form, and the depths of paths that mix."""

import numpy as np
import pytest

from doseeng._kernels.rays import TOTAL_P, TOTAL_Q, core_interval, follow_paths, mix_depths, secondaries_interval
from doseeng.cpu import PATH_RADIUS, path_nodes
from doseeng.machines import lookup
from doseeng.machines.library import find_machine

F32 = np.float32
PER_MM = F32(4.0)
ONE_RAY = np.array([0, 1])


class Core:
    """Rays of one group that march through `rsp` (slice, v, u) of water-like scattering unless told otherwise."""

    def __init__(
        self,
        rsp: np.ndarray,
        h_mm: float,
        power_p: np.ndarray,
        power_q: np.ndarray | None = None,
        scattering: np.ndarray | None = None,
        scale: float = 1.0,
    ) -> None:
        self.rsp = rsp.astype(np.float32)
        self.scattering = self.rsp if scattering is None else scattering.astype(np.float32)
        self.step_mm = np.full(rsp.shape[1:], h_mm, dtype=np.float32)
        self.power_p = power_p.astype(np.float32)
        self.power_q = np.zeros_like(self.power_p) if power_q is None else power_q.astype(np.float32)
        self.scale = F32(scale)
        self.wanted = np.ones(rsp.shape[1:], dtype=np.bool_)
        self.straight, self.offset, self.mixing = np.zeros((3, *rsp.shape[1:]), dtype=np.float32)
        self.moments = np.zeros((*rsp.shape[1:], 8), dtype=np.float32)

    def through(self, first: int, last: int, rows: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """wet, mixed (m, v, u) and spread (2, m, v, u) of an interval."""
        shape = (last - first, *self.rsp.shape[1:])
        wet, mixed = np.full((2, *shape), -1.0, dtype=np.float32)
        spread = np.full((2, *shape), -1.0, dtype=np.float32)
        core_interval(
            self.rsp, self.scattering, self.scale, self.step_mm, self.power_p, self.power_q, PER_MM, first, last,
            np.array([0, shape[1]]) if rows is None else rows, self.wanted, self.straight, self.offset, self.mixing,
            self.moments, wet, mixed, spread,
        )  # fmt: skip
        return wet, mixed, spread


def column(values: np.ndarray) -> np.ndarray:
    """One ray of these values per slice."""
    return np.asarray(values, dtype=np.float32).reshape(-1, 1, 1)


def test_constant_scattering_power_gives_the_cubic() -> None:
    # sigma^2 = T z^3 / 3.
    n, h, power = 40, 1.5, 3e-5
    ray = Core(column(np.ones(n)), h, np.full(400, power))
    _, _, spread = ray.through(0, n)
    z = h * np.arange(n)
    np.testing.assert_allclose(spread[0, :, 0, 0], power * (z + h / 2) ** 3 / 3, rtol=1e-4)
    a0, a1, a2, total = ray.moments[0, 0, :4]
    length = n * h
    np.testing.assert_allclose((a0, a1), (power * length, power * length**2 / 2), rtol=1e-4)
    np.testing.assert_allclose((a2, total), power * length**3 / 3, rtol=1e-4)
    assert not ray.moments[0, 0, 4:].any()


def test_slab_and_air_gap_drift() -> None:
    # Behind a slab of thickness L the moments are T L, T L^2 / 2, T L^3 / 3; in a gap g they drift apart without
    # scattering; a second slab twice as strong adds its own cubic.
    power, length, gap = 3e-5, 30.0, 60.0
    n = np.arange(100)
    empty = (n >= 20) & (n < 60)
    scattering = np.where(empty, 0.0, np.where(n < 20, 1.0, 2.0))
    ray = Core(column(np.where(empty, 0.0, 1.0)), 1.5, np.full(800, power), scattering=column(scattering))
    ray.through(0, 60)
    a0, a1, a2 = power * length, power * length**2 / 2, power * length**3 / 3
    assert ray.moments[0, 0, 2] == pytest.approx(a2 + 2 * a1 * gap + a0 * gap**2, rel=1e-4)
    ray.through(60, 100)
    behind = gap + 60.0
    expected = a2 + 2 * a1 * behind + a0 * behind**2 + 2 * power * 60.0**3 / 3
    assert ray.moments[0, 0, 2] == pytest.approx(expected, rel=1e-4)
    assert ray.moments[0, 0, 3] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("energy", [100.0, 180.0])
def test_water_agrees_with_the_closed_integral(energy: float) -> None:
    machine = find_machine("generic-pbs")
    range_mm = float(lookup.range_at(machine, np.array([energy]))[0])
    power = lookup.scattering_power_at(machine, np.array([energy]), 0.25 * (np.arange(int(range_mm / 0.25)) + 0.5))[0]
    n = int(0.98 * range_mm)
    _, _, spread = Core(column(np.ones(n)), 1.0, power).through(0, n)
    expected = lookup.water_scatter_variance(machine, energy, np.arange(n) + 0.5)
    np.testing.assert_allclose(np.sqrt(spread[0, :, 0, 0]), np.sqrt(expected), rtol=3e-3, atol=2e-3)


def test_moments_are_linear_in_scattering_power() -> None:
    # Layers whose power is P + x Q: two marches through tissue, lung and a gap, in two intervals, give them all.
    rng = np.random.default_rng(4)
    n, h = 60, 2.0
    rsp = rng.choice([0.0, 0.26, 1.0, 1.5], size=(n, 1, 1))
    p, q = 1e-5 * (1.0 + rng.random(600)), 2e-5 * rng.random(600)
    pair = Core(rsp, h, p, q)
    fields = [pair.through(0, 25), pair.through(25, n)]
    spread = np.concatenate([f[2] for f in fields], axis=1)[:, :, 0, 0].astype(float)
    for x in (0.0, 0.37, 1.0):
        alone = Core(rsp, h, p + x * q)
        expected = np.concatenate([alone.through(0, 25)[2], alone.through(25, n)[2]], axis=1)[0, :, 0, 0]
        np.testing.assert_allclose(spread[0] + x * spread[1], expected, rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(
            pair.moments[0, 0, :4] + x * pair.moments[0, 0, 4:], alone.moments[0, 0, :4], rtol=2e-5
        )


def test_depth_counts_all_water_and_the_range_error() -> None:
    rsp = np.array([0.0, 0.3, 1.0, 1.6])
    ray = Core(column(rsp), 2.0, np.zeros(100), scale=1.035)
    ray.offset[:] = 0.7
    ray.mixing[:] = 3.0
    wet, mixed, _ = ray.through(0, 4)
    np.testing.assert_allclose(wet[:, 0, 0], 0.7 + 1.035 * 2.0 * np.array([0.0, 0.0, 0.3, 1.3]), rtol=1e-5)
    np.testing.assert_array_equal(mixed, 3.0)
    assert ray.straight[0, 0] == pytest.approx(1.035 * 2.0 * 2.9, rel=1e-5)


def test_power_is_that_of_the_mean_depth() -> None:
    # The power steps up at 10 mm of water; paths that are 4 mm deeper on the mean get there 4 mm earlier.
    power = np.where(np.arange(200) / 4.0 < 10.0, 1e-5, 9e-5)
    for offset, before in ((0.0, 10), (4.0, 6)):
        ray = Core(column(np.ones(20)), 1.0, power)
        ray.offset[:] = offset
        ray.through(0, before)
        assert ray.moments[0, 0, 0] == pytest.approx(1e-5 * before, rel=1e-4)
        ray.through(before, 20)
        assert ray.moments[0, 0, 0] == pytest.approx(1e-5 * before + 9e-5 * (20 - before), rel=1e-4)


def test_only_the_rows_and_rays_asked_for_advance() -> None:
    ray = Core(np.ones((3, 5, 4)), 2.0, np.full(100, 1e-5))
    ray.wanted[:, 2] = False
    wet, _, spread = ray.through(0, 3, np.array([1, 3]))
    moved = np.zeros((5, 4), dtype=bool)
    moved[1:3, [0, 1, 3]] = True
    np.testing.assert_array_equal(ray.straight > 0, moved)
    np.testing.assert_array_equal(ray.moments.any(axis=2), moved)
    np.testing.assert_array_equal(wet[2] > 0, moved)
    np.testing.assert_array_equal(spread[0, 2] > 0, moved)


class Secondaries:
    """One ray of secondaries with constant renewal."""

    def __init__(
        self, renewal_per_mm: float, angle_rad: float, start: tuple[float, float], start_wet_mm: float
    ) -> None:
        self.renewal = np.full(4000, renewal_per_mm, dtype=np.float32)
        self.angle_square = F32(angle_rad**2)
        self.start_wet_mm = F32(start_wet_mm)
        self.straight = np.zeros((1, 1), dtype=np.float32)
        self.moments = np.array(start, dtype=np.float32).reshape(1, 1, 2)

    def through(self, rsp: float, length_mm: float, h_mm: float = 1.0, scale: float = 1.0) -> np.ndarray:
        """(n, 2) depth at the upper face and variance at the centre of every slice."""
        n = round(length_mm / h_mm)
        wet, spread = np.empty((2, n, 1, 1), dtype=np.float32)
        step = np.full((1, 1), h_mm, dtype=np.float32)
        secondaries_interval(
            np.full((n, 1, 1), rsp, dtype=np.float32), F32(scale), step, self.renewal, self.angle_square,
            self.start_wet_mm, PER_MM, 0, n, ONE_RAY, np.ones((1, 1), dtype=np.bool_), self.straight, self.moments,
            wet, spread,
        )  # fmt: skip
        return np.column_stack([wet[:, 0, 0], spread[:, 0, 0]])

    @property
    def variance(self) -> float:
        return float(self.moments[0, 0, 0])


ANGLE, RENEWAL = 0.8, 0.04


@pytest.mark.parametrize("rsp", [1.0, 0.25, 1.7])
def test_secondaries_in_steady_matter_are_as_wide_as_they_fly_between_renewals(rsp: float) -> None:
    # dV/dz = 2 C - V r, dC/dz = angle^2 - C r: V tends to 2 (angle / r)^2, with r per mm of path.
    ray = Secondaries(RENEWAL, ANGLE, (0.0, 0.0), -1.0)
    ray.through(rsp, 1400.0)
    # Steps of h have C = angle^2 h / 2 coth(r h / 2): (r h)^2 / 6 wider at most.
    assert ray.variance == pytest.approx(2.0 * (ANGLE / (rsp * RENEWAL)) ** 2, rel=2e-3)
    assert ray.moments[0, 0, 1] == pytest.approx(ANGLE**2 / (rsp * RENEWAL), rel=2e-3)


def test_secondaries_build_up_in_closed_form() -> None:
    # From nothing: C = a^2 / r (1 - e^-rz), V = 2 a^2 / r^2 (1 - e^-rz (1 + r z)).
    ray = Secondaries(RENEWAL, ANGLE, (0.0, 0.0), -1.0)
    found = ray.through(1.0, 80.0, 0.5)[:, 1]
    x = RENEWAL * (0.5 * np.arange(160) + 0.25)
    expected = 2.0 * (ANGLE / RENEWAL) ** 2 * (1.0 - np.exp(-x) * (1.0 + x))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=0.1)


def test_one_long_step_renews_on_the_way() -> None:
    # A fifth is renewed within 5 mm; second order in that: 0.4 %. Where they were born on the step matters by 4 %.
    ray = Secondaries(RENEWAL, ANGLE, (0.0, 0.0), -1.0)
    ray.through(1.0, 5.0, 5.0)
    x = 5.0 * RENEWAL
    assert ray.variance == pytest.approx(2.0 * (ANGLE / RENEWAL) ** 2 * (1.0 - np.exp(-x) * (1.0 + x)), rel=5e-3)
    assert ray.moments[0, 0, 1] == pytest.approx(ANGLE**2 / RENEWAL * (1.0 - np.exp(-x)), rel=5e-3)


@pytest.mark.parametrize("h_mm", [1.0, 3.0])
def test_secondaries_fly_straight_in_a_gap(h_mm: float) -> None:
    # V + 2 C z + angle^2 z^2, whatever the step.
    v, c = 150.0, 9.0
    ray = Secondaries(RENEWAL, ANGLE, (v, c), -1.0)
    ray.through(0.0, 60.0, h_mm)
    assert ray.variance == pytest.approx(v + 2.0 * c * 60.0 + ANGLE**2 * 60.0**2, rel=1e-5)
    assert ray.moments[0, 0, 1] == pytest.approx(c + ANGLE**2 * 60.0, rel=1e-5)


def test_secondaries_are_at_rest_before_the_patient() -> None:
    ray = Secondaries(RENEWAL, ANGLE, (100.0, 11.0), 1.0)
    found = ray.through(0.001, 200.0)
    np.testing.assert_array_equal(found[:, 1], 100.0)
    assert ray.straight[0, 0] == pytest.approx(0.2, rel=1e-4)
    ray.through(1.0, 2.0)
    assert ray.variance > 110.0


def test_renewal_is_looked_up_at_the_depth_of_the_slice() -> None:
    # Steady in the first 40 mm; then renewal doubles, and with range errors it does so earlier.
    for scale in (1.0, 1.25):
        per_mm = RENEWAL * scale
        ray = Secondaries(RENEWAL, ANGLE, (2.0 * (ANGLE / per_mm) ** 2, ANGLE**2 / per_mm), -1.0)
        ray.renewal[160:] = 2.0 * RENEWAL
        found = ray.through(1.0, 80.0, 1.0, scale)
        steady = found[:, 1] > 0.98 * found[0, 1]
        assert found[steady, 0].max() == pytest.approx(40.0, abs=2.6)
        assert steady.sum() == pytest.approx(40.0 / scale, abs=3)
        assert found[-1, 1] < 0.5 * found[0, 1]


def test_paths_have_the_moments_of_a_gaussian() -> None:
    x, y, weight = path_nodes().astype(float).T
    # What is missing lies on the ray itself.
    assert weight.sum() == pytest.approx(2.0 / PATH_RADIUS**2)
    assert (weight * x).sum() == pytest.approx(0.0, abs=1e-6)
    for square in (x**2, y**2):
        assert (weight * square).sum() == pytest.approx(1.0, rel=1e-6)
    assert (weight * (x**2 + y**2) ** 2).sum() == pytest.approx(8.0, rel=1e-6)
    np.testing.assert_allclose([(weight * p).sum() for p in (x * y, x**3, x**2 * y)], 0.0, atol=1e-6)


PX = np.array([1.5, 1.5], dtype=np.float32)


class Paths:
    """Rays whose protons have displaced by sigma_mm at the end of each slab that they cross."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.nodes = path_nodes()
        self.straight, self.offset = np.zeros((2, *shape), dtype=np.float32)
        self.moments = np.zeros((*shape, 8), dtype=np.float32)
        self.paths, self.at_move = np.zeros((2, len(self.nodes), *shape), dtype=np.float32)
        self.active = np.ones(shape, dtype=np.bool_)
        self.lane_mean = np.full(4000, 0.5, dtype=np.float32)

    def through(self, slab_mm: np.ndarray, sigma_mm: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Cross a slab (v, u) of water; mean and variance of depths about the ray's own, and the largest change."""
        slab = np.broadcast_to(slab_mm, self.shape).astype(np.float32)
        # Three quarters of the variance are P's; the rest is half of Q's, the mean x.
        self.moments[..., TOTAL_P], self.moments[..., TOTAL_Q] = 0.75 * sigma_mm**2, 0.5 * sigma_mm**2
        self.straight += slab
        uniform = bool(np.ptp(slab) == 0.0)
        here = (self.lane_mean, PER_MM, PX, self.nodes, np.array([0, self.shape[0]]))
        change = follow_paths(
            slab, uniform, *here, self.active, self.straight, self.offset, self.moments, self.paths, self.at_move
        )
        offset, mixing = np.full((2, *self.shape), np.nan, dtype=np.float32)
        mix_depths(*here, self.straight, self.offset, self.moments, self.paths, offset, mixing)
        return offset, mixing, float(change)


def test_homogeneous_slabs_leave_depths_alone() -> None:
    rays = Paths((11, 13))
    for slab, sigma in ((20.0, 1.0), (3.0, 2.5), (70.0, 5.0)):
        offset, mixing, change = rays.through(np.array(slab), sigma)
        np.testing.assert_allclose(offset, 0.0, atol=1e-4)
        np.testing.assert_array_equal(mixing, 0.0)
        assert change == 0.0
    # Slabs that vary by rounding go the long way to the same result.
    wavy = np.full((11, 13), 5.0)
    wavy[::2] += 1e-6
    offset, mixing, change = rays.through(wavy, 6.0)
    np.testing.assert_allclose(offset, 0.0, atol=1e-4)
    np.testing.assert_array_equal(mixing, 0.0)
    assert change < 1e-5


def step_edge(n_u: int, left_mm: float, right_mm: float) -> np.ndarray:
    return np.where(np.arange(n_u) < n_u // 2, left_mm, right_mm)[None, :]


def test_protons_that_have_not_moved_since_the_edge_do_not_mix() -> None:
    # Whoever is displaced by x sigma right behind the slab has crossed it there, too. Rays near the outermost ones look
    # for what they came through beyond these, where depths are held.
    rays = Paths((9, 60))
    offset, mixing, change = rays.through(step_edge(60, 5.0, 20.0), 4.0)
    inner = np.r_[12:29, 31:48]
    np.testing.assert_allclose(offset[:, inner], 0.0, atol=1e-4)
    np.testing.assert_array_equal(mixing[:, inner], 0.0)
    # At the edge itself interpolation between two rays, there and back, blurs the 15 mm a little.
    assert np.abs(offset[:, 29:31]).max() < 0.15 * 15.0
    # But the paths that leave rays near the edge are not those of the rays any more, by 15 mm.
    assert change == pytest.approx(15.0, abs=1e-4)


def test_behind_an_edge_depths_are_a_mixture_of_two_values() -> None:
    # 5 mm on the left and 20 mm on the right, then matter in which protons spread by 6 mm: 4 pixels.
    thin, thick, sigma_px = 5.0, 20.0, 4.0
    rays = Paths((9, 60))
    _, _, change = rays.through(step_edge(60, thin, thick), 0.0)
    assert change == 0.0
    offset, mixing, _ = rays.through(np.array(30.0), sigma_px * PX[0])
    mean = (rays.straight - 30.0 + offset)[4].astype(float)
    u = np.arange(60)
    # The mean lies between both, is odd about the edge and rises across it.
    assert np.all((mean > thin - 1e-3) & (mean < thick + 1e-3))
    np.testing.assert_allclose((thick - mean)[30:], (mean - thin)[29::-1], atol=1e-3)
    assert np.all(np.diff(mean) > -1e-3)
    assert thin + 1.0 < mean[29] < 0.5 * (thin + thick) < mean[30] < thick - 1.0
    # Two values m1, m2 with mean m have variance (m - m1) (m2 - m); interpolation across the edge takes a part of it.
    mixture = (mean - thin) * (thick - mean)
    found = mixing[4].astype(float)
    assert np.all(found <= mixture + 1e-2)
    source = u - rays.nodes[:, 0].astype(float)[:, None] * sigma_px
    between = (np.abs(source - 29.5) < 0.5 - 1e-4).any(axis=0)
    assert (~between[22:38]).sum() >= 6
    np.testing.assert_allclose(found[~between], mixture[~between], atol=0.05)
    # Farther away than any path reaches nothing changes.
    far = np.abs(u - 29.5) > PATH_RADIUS * sigma_px + 1.0
    np.testing.assert_allclose(offset[4, far], 0.0, atol=1e-4)
    np.testing.assert_array_equal(mixing[4, far], 0.0)


def test_depths_linear_across_the_beam_mix_to_their_slope_times_sigma() -> None:
    # No mean change, and a variance of (slope sigma)^2, which the paths have exactly.
    rays = Paths((21, 61))
    slope_per_px, sigma_px = 0.4, 3.0
    rays.through(10.0 + slope_per_px * np.arange(61)[None, :], 0.0)
    offset, mixing, _ = rays.through(np.array(5.0), sigma_px * PX[0])
    np.testing.assert_allclose(offset[10, 8:-8], 0.0, atol=1e-3)
    np.testing.assert_allclose(mixing[10, 8:-8], (slope_per_px * sigma_px) ** 2, rtol=2e-3)


def test_an_edge_halfway_mixes_those_who_were_displaced_there() -> None:
    # Spread by 2 pixels at the slab and by 4 behind it: who arrives displaced by x sigma was half as far displaced at
    # the edge, so depth mixes over half of the final width. Linear depths make it exact.
    rays = Paths((21, 61))
    slope_per_px = 0.4
    rays.through(10.0 + slope_per_px * np.arange(61)[None, :], 2.0 * PX[0])
    offset, mixing, _ = rays.through(np.array(5.0), 4.0 * PX[0])
    np.testing.assert_allclose(offset[10, 13:-13], 0.0, atol=1e-3)
    np.testing.assert_allclose(mixing[10, 13:-13], (slope_per_px * 2.0) ** 2, rtol=2e-3)


def test_change_is_counted_from_the_last_move_and_on_active_rays() -> None:
    rays = Paths((9, 60))
    _, _, change = rays.through(step_edge(60, 5.0, 20.0), 6.0)
    assert change == pytest.approx(15.0, abs=1e-4)
    _, _, change = rays.through(step_edge(60, 2.0, 1.0), 6.0)
    assert change == pytest.approx(14.0, abs=1e-4)
    rays.at_move[:] = rays.paths
    _, _, change = rays.through(step_edge(60, 2.0, 1.0), 6.0)
    assert change == pytest.approx(1.0, abs=1e-4)
    rays.active[:, 10:] = False
    _, _, change = rays.through(step_edge(60, 90.0, 1.0), 6.0)
    assert change < 1e-4

"""The march's kernels: widths that keep weight and variance, deposits that keep dose, and exact transposes."""

import numpy as np
import pytest
from scipy.ndimage import convolve1d
from scipy.special import erf

from doseeng._kernels import march
from doseeng._kernels.march import MAX_RADIUS, deposit, move_back, move_fluence, slab_dose, slab_fluence, spread_bins
from doseeng._kernels.scalar import LANES, MIN_STEP_WET_MM, gaussian_taps, mixing_level, width_bin

F32 = np.float32
VARIANCES = (1e-6, 0.01, 0.1, 0.36, 0.499, 0.5, 0.6, 0.8, 1.0, 2.0, 5.0, 17.0, 100.0, 180.0)
PER_MM = F32(4.0)
LEVELS = np.array([0.0, 2.0, 8.0, 40.0], dtype=np.float32)
"""Variances of depth, mm2, for which tables are made here."""


def taps_of(variance_px: float) -> np.ndarray:
    """Half of the kernel, centre first."""
    taps = np.zeros(MAX_RADIUS + 1, dtype=np.float32)
    radius = gaussian_taps(F32(variance_px), taps)
    return taps[: radius + 1]


def whole(half: np.ndarray) -> np.ndarray:
    return np.concatenate([half[:0:-1], half]).astype(float)


def moments_of(image: np.ndarray, pixel_mm: tuple[float, float]) -> tuple[float, float, float]:
    """Sum and variance in x and y, mm2."""
    total = float(image.sum(dtype=float))
    variance = []
    for axis, size in ((0, pixel_mm[0]), (1, pixel_mm[1])):
        profile = image.sum(axis=axis, dtype=float) / total
        x = np.arange(len(profile)) * size
        variance.append(float((profile * x**2).sum() - (profile * x).sum() ** 2))
    return total, variance[0], variance[1]


def kept_by_taps(variance_px: float) -> float:
    """Share of a Gaussian's variance that its samples keep, cut 3.5 sigma from the centre.

    A Gaussian cut at +-a sigma loses 2 a phi(a) / erf(a / sqrt 2); samples end half a pixel beyond the last one.
    Sampling takes 8 pi2 v exp(-2 pi2 v) (Poisson summation), 0.2 % at half a pixel squared.
    """
    if variance_px < 0.5:
        return 1.0
    a = (np.ceil(3.5 * np.sqrt(variance_px)) + 0.5) / np.sqrt(variance_px)
    cut = 2.0 * a * np.exp(-0.5 * a * a) / np.sqrt(2.0 * np.pi) / erf(a / np.sqrt(2.0))
    return float(1.0 - cut - 8.0 * np.pi**2 * variance_px * np.exp(-2.0 * np.pi**2 * variance_px))


@pytest.mark.parametrize("variance", VARIANCES)
def test_taps_have_unit_sum_and_the_asked_variance(variance: float) -> None:
    taps = taps_of(variance)
    assert np.all(taps >= 0)
    i = np.arange(len(taps))
    assert taps[0] + 2.0 * taps[1:].sum(dtype=float) == pytest.approx(1.0, abs=3e-7)
    found = 2.0 * float((taps * i**2).sum(dtype=float))
    # The end of the sampled Gaussian lies half a pixel beyond the last sample to second order only.
    assert found == pytest.approx(variance * kept_by_taps(variance), rel=5e-4, abs=2e-6)
    assert found == pytest.approx(variance, rel=6.2e-3, abs=2e-6)


def test_no_variance_is_no_spread() -> None:
    np.testing.assert_array_equal(taps_of(0.0), [1.0])


def test_wide_taps_are_a_gaussian_cut_at_three_and_a_half_sigma() -> None:
    taps = taps_of(9.0)
    assert len(taps) == 12
    i = np.arange(12)
    # What lies beyond 11.5 pixels, 1.3e-4, is shared out.
    np.testing.assert_allclose(taps, np.exp(-i * i / 18.0) / np.sqrt(18.0 * np.pi), rtol=2e-4)


def test_taps_end_with_their_array() -> None:
    assert len(taps_of(1e6)) == MAX_RADIUS + 1
    assert whole(taps_of(1e6)).sum() == pytest.approx(1.0, abs=1e-6)


def test_width_bins_keep_weight_and_mean_variance() -> None:
    step, n_bin = F32(0.7), 9
    rng = np.random.default_rng(1)
    for variance in rng.uniform(0.0, (0.7 * 8.0) ** 2, 300).astype(np.float32):
        b, up = width_bin(variance, step, n_bin)
        assert 0 <= b <= n_bin - 2
        assert -1e-5 <= up <= 1.0
        assert (1.0 - up) * (b * 0.7) ** 2 + up * ((b + 1) * 0.7) ** 2 == pytest.approx(variance, rel=1e-5, abs=1e-6)
    # Wider than the last bin: all of it there.
    assert width_bin(F32(1e4), step, n_bin) == (n_bin - 2, 1.0)


def test_mixing_levels_keep_weight_and_mean_variance() -> None:
    for variance in (0.0, 0.4, 2.0, 5.0, 8.0, 39.0, 40.0):
        level, above = mixing_level(F32(variance), LEVELS)
        assert 0 <= level <= 2
        found = (1.0 - above) * LEVELS[level] + above * LEVELS[level + 1]
        assert found == pytest.approx(variance, rel=1e-6, abs=1e-6)
    assert mixing_level(F32(99.0), LEVELS) == (2, 1.0)


@pytest.mark.parametrize("stride", [1, LANES])
@pytest.mark.parametrize("radius", [0, 1, 2, 4, 13, 44, 45, 46, 47])
def test_convolution_is_that_of_scipy_cut_at_the_edges(radius: int, stride: int) -> None:
    # Random symmetric taps; the lanes of an interleaved image do not see each other.
    rng = np.random.default_rng(radius)
    n_v, n_u = 17, 23
    image = rng.random((n_v, n_u, stride)).astype(np.float32)
    used = rng.random(n_v) < 0.7
    image[~used] = 0.0
    taps = np.zeros((2, MAX_RADIUS + 5), dtype=np.float32)
    taps[:, : radius + 1] = rng.random((2, radius + 1))
    out = np.full((n_v, n_u * stride), 0.5, dtype=np.float32)
    # Scratch holds whatever it held before.
    work = np.full((n_v + 2, n_u * stride + 2 * MAX_RADIUS * stride), np.nan, dtype=np.float32)
    plane = image.reshape(n_v, -1)
    march.convolve(plane, used, taps[0], radius, taps[1], radius, stride, work, out)
    expected = convolve1d(image.astype(float), whole(taps[0, : radius + 1]), axis=1, mode="constant")
    expected = convolve1d(expected, whole(taps[1, : radius + 1]), axis=0, mode="constant")
    np.testing.assert_allclose(out - 0.5, expected.reshape(n_v, -1), rtol=1e-5, atol=1e-5 * max(expected.max(), 1.0))


@pytest.mark.parametrize("excess", [0.0, 3.0, -2.0])
def test_spread_bins_conserve_and_add_variance(excess: float) -> None:
    # One deposit in bin 3 of 1.2 mm: variance 12.96 mm2, its x part larger by `excess`.
    bins = np.zeros((5, 41, 61), dtype=np.float32)
    bins[3, 20, 30] = 2.0
    pixel = (1.5, 1.7)
    out = np.full((41, 61), 0.25, dtype=np.float32)
    spread_bins(bins, bins.any(axis=2), F32(1.2), F32(excess), np.array(pixel, dtype=np.float32), 1, out)
    total, var_x, var_y = moments_of(out - F32(0.25), pixel)
    assert total == pytest.approx(2.0, rel=1e-5)
    kept = [kept_by_taps((12.96 + sign * excess) / p**2) for sign, p in zip((1, -1), pixel, strict=True)]
    assert var_x == pytest.approx((12.96 + excess) * kept[0], rel=5e-4)
    assert var_y == pytest.approx((12.96 - excess) * kept[1], rel=5e-4)


def test_spread_bins_add_up() -> None:
    rng = np.random.default_rng(5)
    bins = np.zeros((4, 50, 50), dtype=np.float32)
    bins[:, 20:30, 20:30] = rng.random((4, 10, 10))
    arguments = (F32(1.0), F32(0.0), np.ones(2, dtype=np.float32), 1)
    out, alone = np.zeros((2, 50, 50), dtype=np.float32)
    spread_bins(bins, bins.any(axis=2), *arguments, out)
    assert out.sum(dtype=float) == pytest.approx(bins.sum(dtype=float), rel=1e-5)
    for b in range(4):
        one = np.zeros_like(bins)
        one[b] = bins[b]
        spread_bins(one, one.any(axis=2), *arguments, alone)
    np.testing.assert_allclose(out, alone, rtol=1e-5, atol=1e-7)


def test_spread_bins_are_cut_at_the_edges_not_wrapped() -> None:
    bins = np.zeros((2, 9, 9), dtype=np.float32)
    bins[1, 0, 0] = 1.0
    out = np.zeros((9, 9), dtype=np.float32)
    spread_bins(bins, bins.any(axis=2), F32(1.0), F32(0.0), np.ones(2, dtype=np.float32), 1, out)
    taps = taps_of(1.0)
    expected = np.zeros(9)
    expected[: len(taps)] = taps
    np.testing.assert_allclose(out, np.outer(expected, expected), atol=1e-7)


def cumulative_tables(rng: np.random.Generator, groups: int, n_wet: int = 200) -> np.ndarray:
    """(group, level, n_wet, LANES) of dose up to a depth."""
    return np.cumsum(rng.random((groups, len(LEVELS), n_wet, LANES)), axis=2).astype(np.float32)


class Slab:
    """Random rays of two groups in three slices of an interval, with what the kernels want to know of them."""

    def __init__(self, seed: int, shape: tuple[int, int] = (9, 11), groups: int = 2, slices: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.shape, self.groups, n_wet = (slices, *shape), groups, 200
        self.tables = cumulative_tables(rng, groups, n_wet)
        self.rsp = rng.uniform(0.2, 1.5, self.shape).astype(np.float32)
        self.rsp[:, 0, :3] = 0.0
        self.step_mm = rng.uniform(1.9, 2.1, shape).astype(np.float32)
        self.scale = F32(1.03)
        # Some rays end in the slab, some have gone through the table, some have not met its first row.
        start = rng.uniform(0.0, n_wet / PER_MM + 3.0, (groups, 1, *shape)).astype(np.float32)
        start[:, :, 1, :2] = -0.3
        water = self.rsp * self.scale * self.step_mm
        self.wet = start + np.concatenate([np.zeros((1, *shape)), np.cumsum(water, axis=0)[:-1]]).astype(np.float32)
        mixed = rng.uniform(0.0, 60.0, (groups, 1, *shape)) * (rng.random((groups, 1, *shape)) < 0.6)
        self.mixed = np.repeat(mixed, slices, axis=1).astype(np.float32)
        self.spread = rng.uniform(0.0, 8.0, (groups, 2, *self.shape)).astype(np.float32)
        self.lane_mean = rng.random((groups, n_wet)).astype(np.float32)
        self.residual = rng.uniform(0.0, 2.0, (slices, groups)).astype(np.float32)
        self.fluence = rng.random((groups, *shape, LANES)).astype(np.float32)
        self.fluence[:, 4] = 0.0
        self.fluence[-1, ..., 5:] = 0.0
        self.bin_step = F32(0.75)
        self.n_bin = 8
        self.excess = np.linspace(0.0, 0.3, slices, dtype=np.float32)
        self.px_mm = np.linspace((1.1, 0.9), (1.15, 0.95), slices, dtype=np.float32)

    @property
    def arguments(self) -> tuple:
        return (
            self.tables, LEVELS, PER_MM, self.rsp, self.scale, self.step_mm, self.wet, self.mixed, self.spread,
            self.lane_mean, self.residual,
        )  # fmt: skip

    def deposited(self) -> tuple[np.ndarray, np.ndarray]:
        bins = np.zeros((self.shape[0], self.n_bin, *self.shape[1:]), dtype=np.float32)
        used = np.zeros(bins.shape[:3], dtype=np.bool_)
        deposit(self.fluence, *self.arguments, self.bin_step, bins, used)
        return bins, used

    def dose(self) -> np.ndarray:
        out = np.zeros(self.shape, dtype=np.float32)
        bins = np.zeros((self.shape[0] + 1, self.n_bin, *self.shape[1:]), dtype=np.float32)
        used = np.zeros(bins.shape[:3], dtype=np.bool_)
        slab_dose(self.fluence, *self.arguments, self.excess, self.px_mm, self.bin_step, bins, used, out)
        # Scratch is given back as it was lent.
        assert not bins.any()
        assert not used.any()
        return out

    def add_fluence_of(self, dose: np.ndarray, active: np.ndarray, out: np.ndarray) -> None:
        slab_fluence(dose, *self.arguments, self.excess, self.px_mm, self.bin_step, self.n_bin, active, out)

    @property
    def water(self) -> np.ndarray:
        return np.maximum(self.rsp * self.scale * self.step_mm, MIN_STEP_WET_MM).astype(float)

    def released(self) -> np.ndarray:
        """(group, m, v, u, LANES) mean dose over a slice per fluence, where there is any.

        Differences of tables, mixed between levels.
        """
        n_wet = self.tables.shape[2]
        grid = np.arange(n_wet) / float(PER_MM)
        out = np.zeros((self.groups, *self.shape, LANES))
        lit = np.broadcast_to(self.fluence.any(axis=3)[:, None], out.shape[:4])
        for g, k, iv, iu in np.argwhere(lit):
            top = max(float(self.wet[g, k, iv, iu]), 0.0)
            ends = (top, top + self.water[k, iv, iu])
            for l in range(LANES):
                each = [np.diff(np.interp(ends, grid, self.tables[g, j, :, l].astype(float)))[0] for j in range(4)]
                out[g, k, iv, iu, l] = np.interp(self.mixed[g, k, iv, iu], LEVELS, each) / self.water[k, iv, iu]
        return out

    def weight(self) -> np.ndarray:
        """(group, m, v, u) what all lanes deposit."""
        return (self.fluence[:, None] * self.released()).sum(axis=4)

    def variance(self) -> np.ndarray:
        """(group, m, v, u) lateral variance of what is deposited."""
        row = np.clip((np.maximum(self.wet, 0.0) * PER_MM).astype(int), 0, self.tables.shape[2] - 1)
        mean = np.take_along_axis(self.lane_mean, row.reshape(self.groups, -1), axis=1).reshape(self.wet.shape)
        return self.spread[:, 0] + mean * self.spread[:, 1] + self.residual.T[:, :, None, None]

    @property
    def widest_mm2(self) -> float:
        return (float(self.bin_step) * (self.n_bin - 1)) ** 2


def test_deposits_are_the_differences_of_the_tables() -> None:
    rays = Slab(6)
    bins, used = rays.deposited()
    # Neighbouring slices share the face between them where their depths there agree within a thousandth of a row, and
    # variances of depth below 2 % of the first level count as none.
    np.testing.assert_allclose(bins.sum(axis=1), rays.weight().sum(axis=0), rtol=1e-3, atol=2e-3)
    np.testing.assert_array_equal(used, bins.any(axis=3))


def test_deposits_keep_their_mean_variance() -> None:
    rays = Slab(7)
    bins, _ = rays.deposited()
    square = (np.arange(rays.n_bin) * float(rays.bin_step)) ** 2
    expected = (rays.weight() * np.minimum(rays.variance(), rays.widest_mm2)).sum(axis=0)
    np.testing.assert_allclose((bins * square[:, None, None]).sum(axis=1), expected, rtol=2e-3, atol=3e-2)


def test_depths_that_jump_between_slices_are_looked_up_anew() -> None:
    # Air counts as 0.1 mm at least, so that the next slice begins before the one above it ended.
    rays = Slab(8)
    rays.wet += np.array([0.0, 0.6, -0.4], dtype=np.float32)[:, None, None]
    bins, _ = rays.deposited()
    np.testing.assert_allclose(bins.sum(axis=1), rays.weight().sum(axis=0), rtol=1e-3, atol=2e-3)


def test_rays_without_fluence_and_beyond_the_tables_deposit_nothing() -> None:
    rays = Slab(8)
    rays.wet[:, :, 2] += 60.0
    bins, used = rays.deposited()
    assert not bins[:, :, [2, 4]].any()
    assert not used[:, :, [2, 4]].any()
    assert bins[:, :, 3].any()


def test_a_slab_keeps_the_dose_of_its_deposits() -> None:
    rays = Slab(9, (70, 70), 1)
    rays.wet[0, :, 35, 35] = (10.0, 12.5, 14.0)
    rays.fluence[:] = 0.0
    rays.fluence[0, 35, 35] = 1.0
    dose = rays.dose()
    weight, variance = rays.weight()[0], np.minimum(rays.variance()[0], rays.widest_mm2)
    for k in range(3):
        total, var_x, var_y = moments_of(dose[k], tuple(rays.px_mm[k]))
        assert total == pytest.approx(weight[k, 35, 35], rel=1e-3)
        # Bins lose what their taps lose: 0.7 % at most.
        assert var_x == pytest.approx(variance[k, 35, 35] + rays.excess[k], rel=7e-3)
        assert var_y == pytest.approx(variance[k, 35, 35] - rays.excess[k], rel=7e-3)


def dot(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.astype(float) * b.astype(float)).sum())


@pytest.mark.parametrize("signed", [False, True])
def test_slab_fluence_is_the_transpose_of_slab_dose(signed: bool) -> None:
    rays = Slab(10)
    rng = np.random.default_rng(11)
    dose = rng.random(rays.shape).astype(np.float32)
    if signed:
        dose -= F32(0.4)
        rays.fluence -= F32(0.4) * (rays.fluence > 0)
    forward = rays.dose()
    back = np.zeros(rays.fluence.shape, dtype=np.float32)
    rays.add_fluence_of(dose, np.ones(back.shape[:-1], dtype=np.bool_), back)
    scale = dot(np.abs(forward), np.abs(dose))
    # `deposit` takes faces for one that lie within a thousandth of a table row; `collect` looks up each.
    assert dot(forward, dose) == pytest.approx(dot(rays.fluence, back), abs=3e-5 * scale)
    # Rays that are not active are left alone; the others do not notice.
    active = rng.random(back.shape[:-1]) < 0.5
    some = np.full_like(back, 7.0)
    rays.add_fluence_of(dose, active, some)
    np.testing.assert_array_equal(some[~active], 7.0)
    np.testing.assert_allclose(some[active] - 7.0, back[active], rtol=1e-3, atol=2e-6)


LANES_X = np.array([1.0, 0.8, 0.65, 0.5, 0.3, 0.2, 0.1, 0.0], dtype=np.float32)


def moved(
    fluence: np.ndarray, jump: np.ndarray, bin_step: float, px_mm: tuple[float, float], n_bin: int = 12
) -> np.ndarray:
    out = fluence.copy()
    n_v, n_u, _ = out.shape
    bins = np.zeros((n_bin, n_v, n_u * LANES), dtype=np.float32)
    used = np.zeros((n_bin, n_v), dtype=np.bool_)
    move_fluence(out, jump, LANES_X, F32(bin_step), np.array(px_mm, dtype=np.float32), bins, used)
    assert not bins.any()
    assert not used.any()
    return out


def moved_back(
    fluence: np.ndarray, jump: np.ndarray, bin_step: float, px_mm: tuple[float, float], n_bin: int = 12
) -> np.ndarray:
    out = fluence.copy()
    move_back(out, jump, LANES_X, F32(bin_step), np.array(px_mm, dtype=np.float32), n_bin)
    return out


def jump_of(p: float, q: float, shape: tuple[int, int]) -> np.ndarray:
    return np.stack([np.full(shape, p), np.full(shape, q)]).astype(np.float32)


def test_moved_fluence_keeps_its_sum_and_spreads_lane_by_lane() -> None:
    # Variances of 4 + 12 x mm2, on pixels of 1.2 and 1.5 mm, in bins of 0.8 mm.
    fluence = np.zeros((61, 71, LANES), dtype=np.float32)
    fluence[30, 35] = np.arange(1.0, 9.0)
    found = moved(fluence, jump_of(4.0, 12.0, (61, 71)), 0.8, (1.2, 1.5))
    for l in range(LANES):
        total, var_x, var_y = moments_of(found[..., l], (1.2, 1.5))
        assert total == pytest.approx(l + 1.0, rel=1e-5)
        variance = 4.0 + 12.0 * float(LANES_X[l])
        assert var_x == pytest.approx(variance, rel=7e-3)
        assert var_y == pytest.approx(variance, rel=7e-3)


def test_each_ray_moves_by_its_own_variance() -> None:
    fluence = np.zeros((61, 91, LANES), dtype=np.float32)
    fluence[30, 20] = fluence[30, 70] = 1.0
    jump = jump_of(0.0, 0.0, (61, 91))
    jump[0, :, :45], jump[0, :, 45:] = 2.0, 9.0
    found = moved(fluence, jump, 0.5, (1.0, 1.0), 16)
    for half, variance in ((found[:, :45], 2.0), (found[:, 45:], 9.0)):
        assert moments_of(half[..., 0], (1.0, 1.0)) == pytest.approx((1.0, variance, variance), rel=7e-3)


def test_moved_fluence_is_a_mixture_of_two_gaussians() -> None:
    # 7.3 px2 between bins of 2.5 and 3 pixels: 62 % and 38 %. Its peak is 3 % above that of one Gaussian.
    fluence = np.zeros((41, 41, LANES), dtype=np.float32)
    fluence[20, 20] = 1.0
    found = moved(fluence, jump_of(7.3, 0.0, (41, 41)), 0.5, (1.0, 1.0), 24)
    above = (7.3 - 6.25) / (9.0 - 6.25)
    expected = np.zeros((41, 41))
    for share, variance in ((1.0 - above, 6.25), (above, 9.0)):
        gaussian = np.exp(-(np.arange(-20, 21) ** 2) / (2.0 * variance)) / np.sqrt(2.0 * np.pi * variance)
        expected += share * np.outer(gaussian, gaussian)
    for l in (0, LANES - 1):
        np.testing.assert_allclose(found[..., l], expected, atol=1e-3 * expected.max())


def test_fluence_that_has_not_scattered_stays() -> None:
    fluence = np.random.default_rng(3).random((9, 11, LANES)).astype(np.float32)
    found = moved(fluence, jump_of(0.0, 0.0, (9, 11)), 0.8, (1.0, 1.0))
    np.testing.assert_allclose(found, fluence, rtol=1e-6)


@pytest.mark.parametrize("largest_mm2", [12.0, 200.0])
@pytest.mark.parametrize("signed", [False, True])
def test_move_back_is_the_transpose_of_move_fluence(largest_mm2: float, signed: bool) -> None:
    # 200 mm2: wider than the last bin. Q may be negative where layers have stopped.
    rng = np.random.default_rng(12)
    x, y = rng.random((2, 15, 19, LANES)).astype(np.float32) - F32(0.4 if signed else 0.0)
    x[3:5] = 0.0
    jump = rng.random((2, 15, 19)).astype(np.float32)
    jump[0] *= largest_mm2
    jump[1] = 10.0 * jump[1] - 2.0
    there, back = moved(x, jump, 0.8, (1.2, 1.5)), moved_back(y, jump, 0.8, (1.2, 1.5))
    scale = dot(np.abs(there), np.abs(y))
    assert dot(there, y) == pytest.approx(dot(x, back), abs=1e-5 * scale)

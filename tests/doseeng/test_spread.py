"""How pencils spread: kernels of exact variance, width bins that conserve, Fermi-Eyges moments in closed form."""

import numpy as np
import pytest

from doseeng._kernels.proton import deposit_slice, halo_step, scatter_step
from doseeng._kernels.spread import NARROW, gaussian_taps, spread_bins
from doseeng.machines import lookup
from doseeng.machines.library import find_machine

VARIANCES = [1e-6, 0.01, 0.1, 0.36, 0.999 * NARROW, NARROW, 0.6, 0.8, 1.0, 2.0, 5.0, 17.0, 100.0]


def moments_of(taps: np.ndarray) -> tuple[float, float]:
    """Sum and variance of the whole kernel."""
    i = np.arange(len(taps), dtype=float)
    return float(taps[0] + 2 * taps[1:].sum(dtype=float)), float(2 * (taps * i**2).sum())


@pytest.mark.parametrize("variance", VARIANCES)
def test_taps_have_unit_sum_and_the_asked_variance(variance: float) -> None:
    taps = gaussian_taps(variance)
    assert taps.dtype == np.float32
    assert np.all(taps >= 0)
    total, found = moments_of(taps)
    assert total == pytest.approx(1.0, abs=1e-6)
    # Sampling takes up to 0.2 % of the variance, cutting at 4 sigma 0.1 %.
    assert found == pytest.approx(variance, rel=2.5e-3, abs=1e-8)


def test_no_variance_is_no_spread() -> None:
    np.testing.assert_array_equal(gaussian_taps(0.0), [1.0])


def test_wide_taps_are_a_gaussian() -> None:
    taps = gaussian_taps(9.0)
    i = np.arange(13)
    np.testing.assert_allclose(taps, np.exp(-i * i / 18.0) / np.sqrt(18.0 * np.pi), rtol=1e-4)


def image_moments(image: np.ndarray, pixel: tuple[float, float]) -> tuple[float, float, float]:
    """Sum and variance in x and y, mm2."""
    total = float(image.sum(dtype=float))
    variance = []
    for axis, size in ((0, pixel[0]), (1, pixel[1])):
        profile = image.sum(axis=axis, dtype=float) / total
        x = np.arange(len(profile)) * size
        variance.append(float((profile * x**2).sum() - (profile * x).sum() ** 2))
    return total, variance[0], variance[1]


@pytest.mark.parametrize("excess", [0.0, 3.0, -2.0])
def test_spread_bins_conserve_and_add_variance(excess: float) -> None:
    # One deposit in bin 0 and one in bin 3 of 1.2 mm: variances 0 and 12.96 mm2, their x part larger by `excess`.
    bins = np.zeros((5, 41, 61), dtype=np.float32)
    bins[3, 20, 30] = 2.0
    moments = np.zeros((41, 5, 2), dtype=np.float32)
    moments[20, 3] = (2.0, 2.0 * excess)
    pixel = np.array([1.5, 1.7])
    out = np.full((41, 61), 0.25, dtype=np.float32)
    spread_bins(bins, moments, np.float32(1.2), pixel, np.empty_like(bins), out)
    total, var_x, var_y = image_moments(out - np.float32(0.25), (1.5, 1.7))
    assert total == pytest.approx(2.0, rel=1e-5)
    assert var_x == pytest.approx(12.96 + excess, rel=2.5e-3)
    assert var_y == pytest.approx(12.96 - excess, rel=2.5e-3)


def test_spread_bins_add_up() -> None:
    rng = np.random.default_rng(5)
    bins = np.zeros((4, 50, 50), dtype=np.float32)
    bins[:, 20:30, 20:30] = rng.random((4, 10, 10))
    moments = np.zeros((50, 4, 2), dtype=np.float32)
    moments[:, :, 0] = bins.sum(axis=2).T
    out = np.zeros((50, 50), dtype=np.float32)
    spread_bins(bins, moments, np.float32(1.0), np.ones(2), np.empty_like(bins), out)
    assert out.sum(dtype=float) == pytest.approx(bins.sum(dtype=float), rel=1e-5)
    alone = np.zeros_like(out)
    for b in range(4):
        one, of_one = np.zeros_like(bins), np.zeros_like(moments)
        one[b], of_one[:, b] = bins[b], moments[:, b]
        spread_bins(one, of_one, np.float32(1.0), np.ones(2), np.empty_like(one), alone)
    np.testing.assert_allclose(out, alone, rtol=1e-5, atol=1e-7)


def test_convolution_is_cut_at_the_edges_not_wrapped() -> None:
    bins = np.zeros((2, 9, 9), dtype=np.float32)
    bins[1, 0, 0] = 1.0
    moments = np.zeros((9, 2, 2), dtype=np.float32)
    moments[0, 1, 0] = 1.0
    out = np.zeros((9, 9), dtype=np.float32)
    spread_bins(bins, moments, np.float32(1.0), np.ones(2), np.empty_like(bins), out)
    taps = gaussian_taps(1.0)
    expected = np.zeros(9)
    expected[: len(taps)] = taps
    np.testing.assert_allclose(out, np.outer(expected, expected), atol=1e-7)


def test_deposits_keep_weight_and_mean_variance_in_the_bins() -> None:
    rng = np.random.default_rng(6)
    n_v, n_u, n_layer, n_bin = 6, 7, 3, 8
    cumulative = np.cumsum(rng.random((200, n_layer)), axis=0).astype(np.float32)
    share = rng.random((200, n_layer)).astype(np.float32)
    top = (10.0 + rng.random((n_v, n_u))).astype(np.float32)
    bottom = top + np.float32(2.0)
    fluence = rng.random((n_v, n_u, n_layer)).astype(np.float32)
    width = (9.0 * rng.random((n_v, n_u, n_layer))).astype(np.float32)
    residual = np.array([(1.0, 0.0), (0.5, 0.5), (0.0, 2.0)], dtype=np.float32)
    step = np.float32(np.sqrt(11.0) / (n_bin - 1))
    bins = np.zeros((n_bin, n_v, n_u), dtype=np.float32)
    moments = np.zeros((n_v, n_bin, 2), dtype=np.float32)
    deposit_slice(cumulative, share, np.float32(0.25), top, bottom, fluence, width, residual, step, bins, moments)

    grid = 0.25 * np.arange(200)
    index = (0.5 * (top + bottom) / 0.25).astype(int)
    weight = np.empty(fluence.shape)
    for l in range(n_layer):
        released = np.interp(bottom, grid, cumulative[:, l]) - np.interp(top, grid, cumulative[:, l])
        weight[:, :, l] = fluence[:, :, l] * share[index, l] * released / 2.0
    np.testing.assert_allclose(bins.sum(axis=0), weight.sum(axis=2), rtol=1e-4)
    # Linear in variance between neighbouring bins: the mean over bins is exact in every ray.
    square = (np.arange(n_bin) * step) ** 2
    variance = (weight * (width + residual.mean(axis=1))).sum(axis=2)
    np.testing.assert_allclose((bins * square[:, None, None]).sum(axis=0), variance, rtol=1e-4)
    np.testing.assert_allclose(moments[:, :, 0], bins.sum(axis=2).T, rtol=1e-4)
    half_difference = (weight * 0.5 * (residual[:, 0] - residual[:, 1])).sum()
    assert moments[:, :, 1].sum() == pytest.approx(half_difference, rel=1e-4)


def march(power: np.ndarray, thickness: np.ndarray, wet: np.ndarray, scattering: np.ndarray) -> np.ndarray:
    """(n_step, 2) variance at the centre and at the lower face of every step of one ray in one layer."""
    moments = np.zeros((1, 1, 1, 3), dtype=np.float32)
    width = np.zeros((1, 1, 1), dtype=np.float32)
    fluence = np.ones((1, 1, 1), dtype=np.float32)
    table = power.astype(np.float32)[:, None]
    faces = np.concatenate([[0.0], np.cumsum(wet)]).astype(np.float32)
    out = np.empty((len(thickness), 2))
    for n, h in enumerate(thickness):
        top, bottom, relative, step = (
            np.full((1, 1), x, dtype=np.float32) for x in (*faces[n : n + 2], scattering[n], h)
        )
        scatter_step(table, np.float32(0.25), top, bottom, relative, fluence, step, moments, width)
        out[n] = width[0, 0, 0], moments[0, 0, 0, 2]
    return out


def test_constant_scattering_power_gives_the_cubic() -> None:
    # sigma^2 = T z^3 / 3.
    n, h, power = 40, 1.5, 3e-5
    found = march(np.full(400, power), np.full(n, h), np.full(n, h), np.ones(n))
    z = h * np.arange(n)
    np.testing.assert_allclose(found[:, 0], power * (z + h / 2) ** 3 / 3, rtol=1e-4)
    np.testing.assert_allclose(found[:, 1], power * (z + h) ** 3 / 3, rtol=1e-4)


def test_slab_and_air_gap_drift() -> None:
    # Behind a slab of thickness L the moments are T L, T L^2 / 2, T L^3 / 3; in a gap g they drift apart without
    # scattering; a second slab twice as strong adds its own cubic.
    power, length, gap = 3e-5, 30.0, 60.0
    thickness = np.full(100, 1.5)
    wet = np.where((np.arange(100) >= 20) & (np.arange(100) < 60), 0.0, 1.5)
    scattering = np.where(wet == 0.0, 0.0, np.where(np.arange(100) < 20, 1.0, 2.0))
    found = march(np.full(800, power), thickness, wet, scattering)[:, 1]
    a0, a1, a2 = power * length, power * length**2 / 2, power * length**3 / 3
    assert found[59] == pytest.approx(a2 + 2 * a1 * gap + a0 * gap**2, rel=1e-4)
    behind = gap + 60.0
    assert found[99] == pytest.approx(a2 + 2 * a1 * behind + a0 * behind**2 + 2 * power * 60.0**3 / 3, rel=1e-4)


@pytest.mark.parametrize("energy", [100.0, 180.0])
def test_water_agrees_with_the_closed_integral(energy: float) -> None:
    machine = find_machine("generic-pbs")
    range_mm = float(lookup.range_at(machine, np.array([energy]))[0])
    power = lookup.scattering_power_at(machine, energy, 0.25 * (np.arange(int(range_mm / 0.25)) + 0.5))
    n = int(0.98 * range_mm)
    found = march(power, np.ones(n), np.ones(n), np.ones(n))[:, 1]
    expected = lookup.water_scatter_variance(machine, energy, np.arange(1.0, n + 1))
    np.testing.assert_allclose(np.sqrt(found), np.sqrt(expected), rtol=3e-3, atol=2e-3)


def test_rays_without_fluence_are_left_alone() -> None:
    moments = np.zeros((1, 2, 1, 3), dtype=np.float32)
    width = np.full((1, 2, 1), -1.0, dtype=np.float32)
    fluence = np.array([[[1.0], [0.0]]], dtype=np.float32)
    one = np.ones((1, 2), dtype=np.float32)
    scatter_step(np.full((10, 1), 1e-3, np.float32), np.float32(0.25), 0 * one, one, one, fluence, one, moments, width)
    assert width[0, 0, 0] > 0
    assert width[0, 1, 0] == -1.0
    assert not moments[0, 1].any()


def test_halo_grows_in_the_patient_and_in_gaps_but_not_in_the_air_before_it() -> None:
    # Per step of 2 mm: air, water (0.1 per mm as tabulated), a gap (0.4 per mm, its angle), lung of half the density.
    slope, angle, extra = (np.full((100, 1), x, dtype=np.float32) for x in (0.1, 0.4, 3.0))
    sigma, width = np.full((1, 1, 1), 8.0, dtype=np.float32), np.zeros((1, 1, 1), dtype=np.float32)
    top, found = 0.0, []
    for wet in (0.0, 0.0, 2.0, 2.0, 0.0, 1.0):
        face, below, step = (np.full((1, 1), x, dtype=np.float32) for x in (top, top + wet, 2.0))
        fluence = np.ones((1, 1, 1), dtype=np.float32)
        halo_step(slope, angle, extra, np.float32(0.25), face, below, fluence, step, sigma, width)
        found.append((sigma.item(), width.item()))
        top += wet
    faces = np.array([8.0, 8.0, 8.0, 8.2, 8.4, 9.2, 9.2 + 0.1 + 0.4])
    np.testing.assert_allclose([f[0] for f in found], faces[1:], rtol=1e-5)
    np.testing.assert_allclose([f[1] for f in found], (0.5 * (faces[1:] + faces[:-1])) ** 2 + 3.0, rtol=1e-5)

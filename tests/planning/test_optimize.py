"""Spot-weight optimisation on problems whose answer is known."""

import numpy as np
import pytest
from scipy.sparse import csc_matrix

from doseeng.errors import PlanError
from planning.objectives import Objective
from planning.optimize import OptimizeSettings, optimize_weights, penalty_and_gradient

LONG = OptimizeSettings(iterations=500, tolerance=1e-12)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def gaussians(n_voxels=60, n_spots=21, shift=0.0):
    """Spots in a row, each a Gaussian of dose; the target is the middle half."""
    x = np.linspace(-30.0, 30.0, n_voxels)
    spots = np.linspace(-20.0, 20.0, n_spots)
    return csc_matrix(np.exp(-0.5 * ((x[:, None] - spots + shift) / 4.0) ** 2))


TARGET = np.arange(15, 45)
OUTSIDE = np.concatenate([np.arange(8), np.arange(52, 60)])


def test_weights_that_give_the_wanted_dose_are_found(rng):
    matrix = csc_matrix(rng.random((40, 6)))
    wanted = matrix @ np.array([1.0, 2.0, 0.5, 3.0, 1.5, 1.0])
    objectives = [Objective(str(i), "uniform", np.array([i]), dose) for i, dose in enumerate(wanted)]
    found = optimize_weights([matrix], objectives, np.ones(6), LONG)
    np.testing.assert_allclose(found.spot_mu, [1.0, 2.0, 0.5, 3.0, 1.5, 1.0], rtol=1e-3)
    assert found.penalty < 1e-6


def test_a_target_is_filled_evenly_and_weights_stay_positive():
    matrix = gaussians()
    objectives = [
        Objective("target", "uniform", TARGET, 60.0, 10.0),
        Objective("outside", "maximum", OUTSIDE, 5.0, 1.0),
    ]
    found = optimize_weights([matrix], objectives, np.full(21, 5.0), LONG)
    dose = matrix @ found.spot_mu
    assert found.spot_mu.min() >= 0
    np.testing.assert_allclose(dose[TARGET], 60.0, atol=1.5)
    assert dose[OUTSIDE].max() < 10.0


def test_spots_below_the_least_meterset_are_dropped_and_the_rest_stays_above():
    matrix = gaussians()
    objectives = [Objective("target", "uniform", TARGET, 60.0)]
    free = optimize_weights([matrix], objectives, np.full(21, 5.0), LONG)
    least = float(np.median(free.spot_mu))
    found = optimize_weights([matrix], objectives, np.full(21, 5.0), OptimizeSettings("mean", 500, least, 1e-12))
    assert np.array_equal(found.spot_mu == 0, free.spot_mu < least)
    assert found.spot_mu[found.spot_mu > 0].min() >= least
    assert found.penalty >= free.penalty


@pytest.mark.parametrize("scenarios", ["mean", "worst"])
def test_the_gradient_over_scenarios_is_that_of_finite_differences(rng, scenarios):
    matrices = [csc_matrix(rng.random((30, 5))) for _ in range(3)]
    backgrounds = [rng.random(30) for _ in range(3)]
    objectives = [
        Objective("target", "uniform", np.arange(20), 3.0, 2.0),
        Objective("organ", "mean", np.arange(20, 30), 0.5, 1.0, robust=False),
    ]
    mu = rng.random(5) + 0.5
    _, gradient = penalty_and_gradient(matrices, backgrounds, objectives, mu, scenarios)
    step = 1e-5
    for spot in range(5):
        shift = step * (np.arange(5) == spot)
        up, down = (
            penalty_and_gradient(matrices, backgrounds, objectives, mu + s, scenarios)[0] for s in (shift, -shift)
        )
        assert gradient[spot] == pytest.approx((up - down) / (2 * step), rel=1e-5)


def test_a_robust_plan_is_better_where_the_nominal_one_is_worst():
    matrices = [gaussians(), gaussians(shift=5.0), gaussians(shift=-5.0)]
    objectives = [
        Objective("target", "minimum", TARGET, 60.0, 10.0),
        Objective("all", "maximum", np.arange(60), 63.0, 10.0, robust=False),
        Objective("outside", "maximum", OUTSIDE, 20.0, 1.0, robust=False),
    ]

    def lowest(found):
        return min((m @ found.spot_mu)[TARGET].min() for m in matrices)

    start = np.full(21, 5.0)
    nominal = optimize_weights(matrices[:1], objectives, start, LONG)
    mean = optimize_weights(matrices, objectives, start, LONG)
    worst = optimize_weights(matrices, objectives, start, OptimizeSettings("worst", 500, tolerance=1e-12))
    assert lowest(mean) > lowest(nominal) + 2.0
    assert lowest(worst) > lowest(nominal) + 2.0


def test_a_background_dose_is_filled_up():
    matrix = gaussians()
    background = np.full(60, 20.0)
    objectives = [Objective("target", "uniform", TARGET, 60.0)]
    found = optimize_weights([matrix], objectives, np.full(21, 5.0), LONG, backgrounds=[background])
    np.testing.assert_allclose((matrix @ found.spot_mu)[TARGET], 40.0, atol=1.0)


def test_progress_counts_iterations():
    seen = []
    objectives = [Objective("target", "uniform", TARGET, 60.0)]
    settings = OptimizeSettings(iterations=4, min_spot_mu=0.1)
    optimize_weights([gaussians()], objectives, np.full(21, 5.0), settings, lambda *step: seen.append(step))
    assert [s for s in seen if s[0] == "optimise"] == [("optimise", n, 4) for n in range(1, 5)]
    assert seen[-1][0] == "optimise deliverable spots"


def test_matrices_that_do_not_fit_are_refused():
    objectives = [Objective("target", "uniform", TARGET, 60.0)]
    with pytest.raises(PlanError, match="do not fit 20 spots"):
        optimize_weights([gaussians()], objectives, np.ones(20))
    with pytest.raises(PlanError, match="give one each"):
        optimize_weights([gaussians()], objectives, np.ones(21), backgrounds=[np.zeros(3)])


@pytest.mark.parametrize("start", [np.zeros(21), -np.ones(21), np.full(21, np.nan)])
def test_a_useless_first_guess_is_refused(start):
    with pytest.raises(PlanError, match="first guess"):
        optimize_weights([gaussians()], [Objective("target", "uniform", TARGET, 60.0)], start)


def test_a_least_meterset_that_no_spot_reaches_is_refused():
    objectives = [Objective("target", "uniform", TARGET, 60.0)]
    with pytest.raises(PlanError, match="every optimised spot lies below"):
        optimize_weights([gaussians()], objectives, np.full(21, 5.0), OptimizeSettings(min_spot_mu=1e6))

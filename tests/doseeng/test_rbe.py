"""RBE models against the linear-quadratic model they stand for, their limits and values worked out by hand."""

import tracemalloc

import numpy as np
import pytest

from doseeng.errors import MetricError
from doseeng.rbe import MODELS, RbeModel, constant_rbe, mcnamara_rbe, rbe_weighted_course, wedenberg_rbe

DOSE = np.array([0.1, 1.8, 2.0, 8.0])
LET = np.array([1.0, 2.5, 6.0, 12.0])


@pytest.mark.parametrize(
    ("dose", "let", "alpha_beta", "expected"),
    [
        # RBE_max = 0.99064 + 0.35605 2.5 / 2 = 1.43570, RBE_min = 1.1012 - 0.0038703 sqrt(2) 2.5 = 1.08752:
        # (sqrt(4 + 16 1.43570 + 16 1.18269) - 2) / 4
        (2.0, 2.5, 2.0, 1.19363),
        # RBE_max = 1.07965, RBE_min = 1.07060: (sqrt(100 + 80 1.07965 + 16 1.14619) - 10) / 4
        (2.0, 2.5, 10.0, 1.07693),
        # RBE_max = 1.70274, RBE_min = 1.01466: (sqrt(25 + 200 1.70274 + 400 1.02953) - 5) / 20
        (10.0, 10.0, 5.0, 1.14406),
    ],
)
def test_mcnamara_by_hand(dose: float, let: float, alpha_beta: float, expected: float) -> None:
    assert mcnamara_rbe(dose, let, alpha_beta) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("dose", "let", "alpha_beta", "expected"),
    [
        # RBE_max = 1 + 0.434 2.5 / 2 = 1.5425: (sqrt(4 + 16 1.5425 + 16) - 2) / 4
        (2.0, 2.5, 2.0, 1.17108),
        (2.0, 2.5, 10.0, 1.07666),
        # RBE_max = 1.868: (sqrt(25 + 200 1.868 + 400) - 5) / 20
        (10.0, 10.0, 5.0, 1.16298),
    ],
)
def test_wedenberg_by_hand(dose: float, let: float, alpha_beta: float, expected: float) -> None:
    assert wedenberg_rbe(dose, let, alpha_beta) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("alpha_beta", [1.5, 3.0, 10.0])
def test_the_rbe_weighted_dose_has_the_effect_of_the_photon_dose(alpha_beta: float) -> None:
    # alpha_p = RBE_max alpha_x and beta_p = RBE_min^2 beta_x, in units of beta_x.
    root = np.sqrt(alpha_beta)
    cases = (
        (mcnamara_rbe, 0.99064 + 0.35605 * LET / alpha_beta, 1.1012 - 0.0038703 * root * LET),
        (wedenberg_rbe, 1.0 + 0.434 * LET / alpha_beta, np.ones(4)),
    )
    for model, rbe_max, rbe_min in cases:
        photon = model(DOSE, LET, alpha_beta) * DOSE
        effect = alpha_beta * rbe_max * DOSE + rbe_min**2 * DOSE**2
        np.testing.assert_allclose(alpha_beta * photon + photon**2, effect, rtol=1e-12)


def test_limits_of_small_and_large_doses() -> None:
    assert mcnamara_rbe(0.0, 2.5, 2.0) == pytest.approx(0.99064 + 0.35605 * 1.25, rel=1e-12)
    assert wedenberg_rbe(0.0, 2.5, 2.0) == pytest.approx(1.5425, rel=1e-12)
    assert mcnamara_rbe(1e9, 2.5, 4.0) == pytest.approx(1.1012 - 0.0038703 * 2.0 * 2.5, rel=1e-6)
    assert wedenberg_rbe(1e9, 2.5, 4.0) == pytest.approx(1.0, rel=1e-6)
    # A vanishing dose loses no digits in float32.
    tiny = np.array([1e-6], dtype=np.float32)
    assert wedenberg_rbe(tiny, 2.5, 2.0)[0] == pytest.approx(1.5425, rel=1e-6)


def test_photons_are_wedenbergs_zero_let() -> None:
    np.testing.assert_allclose(wedenberg_rbe(DOSE, 0.0, 3.0), 1.0)


@pytest.mark.parametrize("model", [mcnamara_rbe, wedenberg_rbe])
def test_rbe_rises_with_let_and_falls_with_alpha_beta_and_dose(model: object) -> None:
    assert np.all(np.diff(model(2.0, np.linspace(0.0, 15.0, 40), 3.0)) > 0)
    assert np.all(np.diff(model(2.0, 5.0, np.linspace(1.0, 12.0, 40))) < 0)
    assert np.all(np.diff(model(np.linspace(0.0, 15.0, 40), 5.0, 3.0)) < 0)


def test_mcnamara_holds_rbe_min_at_zero() -> None:
    # p2 + p3 sqrt(10) L is negative from 90 keV/um on; its square must not grow again.
    np.testing.assert_allclose(mcnamara_rbe(1e12, np.array([150.0, 300.0]), 10.0), 0.0, atol=1e-4)


def test_the_registry_knows_all_models() -> None:
    assert set(MODELS) == set(RbeModel)
    assert {m.value for m in RbeModel} == {"constant", "mcnamara", "wedenberg"}
    assert MODELS[RbeModel("wedenberg")] is wedenberg_rbe
    np.testing.assert_array_equal(constant_rbe(DOSE, LET, 3.0), np.full(4, 1.1))


@pytest.mark.parametrize("model", list(RbeModel))
def test_float32_stays_float32_and_shapes_broadcast(model: RbeModel) -> None:
    dose = np.ones((3, 1), dtype=np.float32)
    result = MODELS[model](dose, np.ones(4, dtype=np.float32), 3.0)
    assert result.shape == (3, 4)
    assert result.dtype == np.float32
    assert MODELS[model](2.0, 2.5, 3.0).dtype == np.float64


@pytest.mark.parametrize("model", list(RbeModel))
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((2.0, 2.5, 0.0), "alpha/beta"),
        ((2.0, 2.5, np.array([3.0, -1.0])), "found -1 in 1 of 2"),
        ((2.0, 2.5, np.inf), "alpha/beta"),
        ((2.0, -0.1, 3.0), "LETd"),
        ((2.0, np.nan, 3.0), "LETd"),
        ((-1.0, 2.5, 3.0), "dose per fraction"),
    ],
)
def test_impossible_arguments(model: RbeModel, arguments: tuple, words: str) -> None:
    with pytest.raises(MetricError, match=words):
        MODELS[model](*arguments)


def test_the_course_weights_each_fraction() -> None:
    rng = np.random.default_rng(7)
    dose = rng.uniform(0.0, 3.0, (5, 6, 7)).astype(np.float32)
    letd = rng.uniform(0.5, 12.0, dose.shape).astype(np.float32)
    tissue = np.full(dose.shape, 10.0, dtype=np.float32)
    tissue[2:] = 2.0
    dose[0], letd[0] = 0.0, 0.0
    course = rbe_weighted_course(RbeModel.MCNAMARA, dose, letd, tissue, 30)
    assert course.dtype == np.float32
    expected = 30 * dose.astype(float) * mcnamara_rbe(dose.astype(float), letd.astype(float), tissue.astype(float))
    np.testing.assert_allclose(course, expected, rtol=2e-6)
    assert not course[0].any()
    constant = rbe_weighted_course(RbeModel.CONSTANT, dose, letd, 3.0, 30)
    np.testing.assert_allclose(constant, 33.0 * dose, rtol=1e-6)


def test_the_course_needs_little_memory() -> None:
    dose = np.ones((100, 100, 100), dtype=np.float32)
    tracemalloc.start()
    rbe_weighted_course(RbeModel.MCNAMARA, dose, dose, 3.0, 30)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.2 * dose.nbytes


def test_a_course_that_makes_no_sense() -> None:
    dose = np.ones((2, 3, 4), dtype=np.float32)
    with pytest.raises(MetricError, match="0 fractions"):
        rbe_weighted_course(RbeModel.CONSTANT, dose, dose, 3.0, 0)
    with pytest.raises(MetricError, match="one grid"):
        rbe_weighted_course(RbeModel.CONSTANT, dose, dose[:1], 3.0, 30)
    with pytest.raises(MetricError, match="alpha/beta"):
        rbe_weighted_course(RbeModel.WEDENBERG, dose, dose, 0.0, 30)

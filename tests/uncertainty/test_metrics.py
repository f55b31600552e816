"""Metrics against closed forms, scipy, and sums done by hand."""

import json
from math import atan, pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, norm, spearmanr

from cgcnn_ase.uncertainty.metrics import (
    calibration_curve,
    ence,
    ence_noise,
    evaluate,
    mean_squared_z,
    mean_squared_z_interval,
    miscalibration_area,
    reliability_bins,
    spearman,
)


def perfect(n):
    """Errors at the quantiles of N(0, 1) themselves: as calibrated as n samples can be."""
    z = norm.ppf((np.arange(n) + 0.5) / n)
    return z, np.zeros(n), np.ones(n)


def test_perfectly_gaussian_errors_leave_no_area():
    assert miscalibration_area(*perfect(2000)) < 1e-3


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_area_of_a_std_that_is_a_multiple_of_the_truth(factor):
    """observed(p) = Phi(f Phi^-1(p)); the integral of |observed - p| is |atan f - pi/4| / pi."""
    target, mean, std = perfect(5000)
    assert miscalibration_area(target, mean, factor * std) == pytest.approx(abs(atan(factor) - pi / 4) / pi, abs=1e-3)


def test_area_of_a_model_that_is_always_too_low():
    """All targets far above the mean: nothing is ever below a quantile, and the area is the triangle's."""
    assert miscalibration_area(np.full(50, 100.0), np.zeros(50), np.ones(50)) == pytest.approx(0.5, abs=2e-3)


def test_curve_against_scipy():
    rng = np.random.default_rng(0)
    target, mean, std = rng.standard_t(3, 400), rng.normal(size=400), rng.uniform(0.5, 2, 400)
    expected, observed = calibration_curve(target, mean, std, n_levels=21)
    np.testing.assert_allclose(expected, np.linspace(0, 1, 21))
    np.testing.assert_allclose(observed, [np.mean(norm.cdf(target, mean, std) <= p) for p in expected], atol=1e-12)
    assert (observed[0], observed[-1]) == (0, 1)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_coverage_of_a_wrong_std_is_analytic(factor):
    target, mean, std = perfect(20_000)
    result = evaluate(target, mean, factor * std, level=0.9)
    assert result.coverage == pytest.approx(2 * norm.cdf(factor * norm.ppf(0.95)) - 1, abs=1e-3)
    assert result.interval_width == pytest.approx(2 * factor * norm.ppf(0.95))
    assert result.sharpness == pytest.approx(factor)
    assert result.level == 0.9


def test_ence_by_hand():
    std = np.array([4.0, 1.0, 3.0, 2.0])
    error = np.array([5.0, 1.0, 5.0, 3.0])
    # bins {1, 2} and {3, 4}: RMV sqrt(5/2) and sqrt(25/2); RMSE sqrt(10/2) and sqrt(50/2); both sqrt(2) too large
    assert ence(error, np.zeros(4), std, n_bins=2) == pytest.approx(np.sqrt(2) - 1)
    # with one bin: RMV sqrt(30/4), RMSE sqrt(60/4)
    assert ence(error, np.zeros(4), std, n_bins=1) == pytest.approx(np.sqrt(2) - 1)
    # errors of the upper bin halved: |sqrt(2)/2 - 1| there
    halved = error / np.array([2, 1, 2, 1])
    assert ence(halved, np.zeros(4), std, n_bins=2) == pytest.approx((np.sqrt(2) - 1 + 1 - np.sqrt(0.5)) / 2)


def test_reliability_bins_by_hand():
    bins = reliability_bins([5.0, 1.0, 5.0, 3.0, 2.0], np.zeros(5), [4.0, 1.0, 3.0, 2.0, 5.0], n_bins=2)
    np.testing.assert_array_equal(bins.n, [3, 2])
    np.testing.assert_allclose(bins.std, np.sqrt([(1 + 4 + 9) / 3, (16 + 25) / 2]))
    np.testing.assert_allclose(bins.rmse, np.sqrt([(1 + 9 + 25) / 3, (25 + 4) / 2]))


def test_standard_error_of_a_bins_rmse():
    """1 / sqrt(2 n) of the RMSE for Gaussian errors."""
    error = np.random.default_rng(1).normal(size=20_000)
    bins = reliability_bins(error, np.zeros_like(error), np.ones_like(error), n_bins=1)
    assert bins.rmse_error[0] == pytest.approx(1 / np.sqrt(2 * error.size), rel=0.03)


@pytest.mark.parametrize(("dof", "low", "high"), [(None, 0.028, 0.037), (5, 0.045, 0.075)])
def test_ence_noise_is_what_a_perfect_std_shows(dof, low, high):
    """Gaussian, 303 samples a bin: E|RMSE/sigma - 1| = sqrt(2/pi) / sqrt(2 * 303) = 0.032. More with heavy tails."""
    rng = np.random.default_rng(2)
    std = np.exp(rng.normal(size=3028))
    z = rng.normal(size=(20, 3028)) if dof is None else rng.standard_t(dof, (20, 3028)) / np.sqrt(dof / (dof - 2))
    seen = [ence(std * row, np.zeros(3028), std) for row in z]
    predicted = [ence_noise(std * row, np.zeros(3028), std) for row in z]
    assert low < np.mean(predicted) < high
    assert np.mean(predicted) == pytest.approx(np.mean(seen), rel=0.15)


def test_ence_noise_does_not_depend_on_the_scale_of_std():
    target, mean, std = perfect(500)
    assert ence_noise(target, mean, 3 * std) == pytest.approx(ence_noise(target, mean, std))


def test_a_target_on_the_quantile_counts_as_below():
    expected, observed = calibration_curve([1.0, 1.0, 3.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], n_levels=3)
    np.testing.assert_array_equal(expected, [0, 0.5, 1])
    np.testing.assert_allclose(observed, [0, 2 / 3, 1])


def test_figures_against_numpy_and_scipy():
    rng = np.random.default_rng(3)
    target, std = rng.normal(-2, 1, 500), rng.uniform(0.01, 0.1, 500)
    mean = target + std * rng.normal(size=500)
    lower, upper = mean - 2 * std, mean + std
    result = evaluate(target, mean, std, lower, upper)
    assert result.n == 500
    assert result.mae == pytest.approx(np.abs(target - mean).mean())
    assert result.rmse == pytest.approx(np.linalg.norm(target - mean) / np.sqrt(500))
    assert result.r2 == pytest.approx(1 - ((target - mean) ** 2).sum() / ((target - target.mean()) ** 2).sum())
    assert result.nll == pytest.approx(-norm.logpdf(target, mean, std).mean())
    assert result.spearman == pytest.approx(spearmanr(std, np.abs(target - mean)).statistic)
    assert result.std_cv == pytest.approx(np.std(std, ddof=1) / np.mean(std))
    assert result.interval_width == pytest.approx(3 * std.mean())
    assert result.coverage == np.mean([lo <= y <= hi for lo, y, hi in zip(lower, target, upper, strict=True)])
    assert result.ence == ence(target, mean, std, n_bins=10)
    assert json.loads(json.dumps(result.model_dump())) == result.model_dump()


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_mean_squared_z_of_a_std_that_is_a_multiple_of_the_truth(factor):
    target, mean, std = perfect(5000)
    assert mean_squared_z(target, mean, factor * std) == pytest.approx(factor**-2, rel=2e-3)
    low, high = mean_squared_z_interval(target, mean, factor * std)
    assert (low <= 1 <= high) is (factor == 1.0)


def test_the_interval_of_the_mean_squared_z_is_scipys():
    """Bias-corrected and accelerated, as scipy.stats.bootstrap; one seed, one answer."""
    error = np.random.default_rng(0).standard_t(6, 300)
    zero, one = np.zeros(300), np.ones(300)
    ours = mean_squared_z_interval(error, zero, one, n_resamples=20_000, seed=1)
    theirs = bootstrap((error**2,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    np.testing.assert_allclose(ours, theirs, rtol=0.02)
    assert ours == mean_squared_z_interval(error, zero, one, n_resamples=20_000, seed=1)


def test_the_interval_holds_one_as_often_as_it_states():
    rng = np.random.default_rng(0)
    zero, one = np.zeros(200), np.ones(200)
    intervals = [mean_squared_z_interval(rng.normal(size=200), zero, one, n_resamples=500) for _ in range(300)]
    assert 0.91 <= np.mean([low <= 1 <= high for low, high in intervals]) <= 0.98


def test_the_interval_of_equal_errors_is_their_value():
    assert mean_squared_z_interval([2.0, -2.0], [0.0, 0.0], [1.0, 1.0]) == (4.0, 4.0)


def test_the_ends_of_an_interval_belong_to_it():
    result = evaluate([1.0, 2.0], [1.0, 2.0], [1.0, 1.0], [1.0, 0.0], [3.0, 2.0], n_bins=1)
    assert result.coverage == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=30))
def test_spearman_with_ties_is_scipys(pairs):
    a, b = np.array(pairs, dtype=float).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert spearman(a, b) is None
    else:
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_what_is_undefined_is_none():
    result = evaluate(np.ones(20), np.linspace(0, 2, 20), np.ones(20), n_bins=2)
    assert result.r2 is None
    assert result.spearman is None
    assert result.std_cv == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], [], []), "target is empty"),
        (([1, 2], [1], [1, 1]), "mean has 1 values where 2 are needed"),
        (([1, 2], [1, 2], [1, 0]), "std must be positive"),
        (([1, np.nan], [1, 2], [1, 1]), "target holds values that are not finite"),
        (([[1, 2]], [1, 2], [1, 1]), "target must be one-dimensional"),
        (([1, 2], [1, 2], [1, 1], [0, 0]), "both ends of the interval or neither"),
        (([1, 2], [1, 2], [1, 1]), "10 bins cannot be made of 2 samples"),
    ],
)
def test_bad_input_is_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        evaluate(*arguments)

"""One calibrated std from raw signals."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cgcnn_ase.uncertainty.calibration import StdCalibrator
from cgcnn_ase.uncertainty.metrics import ence, ence_noise, evaluate


def heavy_tailed(rng, n, *, tail="laplace"):
    """Signals (n, 3), errors and true sigma (eV/atom): each signal sees sigma through its own power and noise."""
    log_sigma = np.log(0.03) + rng.normal(0, 0.7, n)
    noise = rng.normal(size=(3, n))
    signals = np.exp(np.stack([0.7 * log_sigma + 0.5 * noise[0], 0.8 * log_sigma + 0.4 * noise[1], 0.3 * noise[2]], 1))
    z = {
        "gauss": rng.normal(size=n),
        "laplace": rng.laplace(size=n) / 2**0.5,
        "t5": rng.standard_t(5, n) / (5 / 3) ** 0.5,
    }
    return signals, np.exp(log_sigma) * z[tail], np.exp(log_sigma)


def clipped_mean(squares):
    """Squares count up to their 99.8th percentile."""
    return np.minimum(squares, np.quantile(squares, 0.998)).mean()


def test_one_wrong_label_does_not_set_the_std_of_everything():
    errors = np.random.default_rng(3).normal(size=2000)
    wrong = errors.copy()
    wrong[0] = 300.0
    plain, spoilt = (StdCalibrator.fit(np.ones(2000), e, method="scale").apply([1.0])[0] for e in (errors, wrong))
    assert spoilt == pytest.approx(plain, rel=0.01)
    assert np.sqrt(np.mean(wrong**2)) > 6 * plain


def test_scale_is_the_closed_form_of_maximum_likelihood():
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 2, 500)
    errors = 3 * spread * rng.normal(size=500)
    fitted = StdCalibrator.fit(spread, errors, names=["spread"], method="scale")
    floored = np.maximum(spread, np.quantile(spread, 0.01))
    expected = np.sqrt(clipped_mean((errors / floored) ** 2))
    np.testing.assert_allclose(fitted.apply(spread), expected * floored, rtol=1e-12)
    assert expected == pytest.approx(3, rel=0.1)


def test_exponents_and_constant_are_recovered():
    rng = np.random.default_rng(1)
    signals = np.exp(rng.normal(size=(20_000, 2)))
    std = 0.05 * signals[:, 0] ** 0.8 * signals[:, 1] ** 0.3
    fitted = StdCalibrator.fit(signals, std * rng.normal(size=20_000), names=["ensemble", "aleatoric"])
    np.testing.assert_allclose(fitted.exponents, [0.8, 0.3], atol=0.03)
    within = ((signals > fitted.floors) & (signals < fitted.ceilings)).all(axis=1)
    assert within.mean() > 0.87
    np.testing.assert_allclose(fitted.apply(signals[within]) / std[within], 1, atol=0.12)


def test_beyond_the_ceiling_the_std_grows_with_half_the_exponent():
    rng = np.random.default_rng(2)
    signals = np.exp(rng.normal(size=2_000))
    fitted = StdCalibrator.fit(signals, signals * rng.laplace(size=2_000))
    assert fitted.ceilings == (pytest.approx(np.quantile(signals, 0.95)),)
    at, beyond = fitted.apply([fitted.ceilings[0], 9 * fitted.ceilings[0]])
    assert not fitted.knots
    assert beyond / at == pytest.approx(9 ** (fitted.exponents[0] / 2))
    assert StdCalibrator.fit(signals, signals, method="scale").ceilings == ()


@pytest.mark.parametrize("likelihood", ["laplace", "gaussian"])
@pytest.mark.parametrize("tail", ["gauss", "laplace", "t5"])
def test_mean_square_of_standardised_errors_is_one_on_the_calibration_set(tail, likelihood):
    signals, errors, _ = heavy_tailed(np.random.default_rng(2), 2181, tail=tail)
    std = StdCalibrator.fit(signals, errors, likelihood=likelihood).apply(signals)
    assert clipped_mean((errors / std) ** 2) == pytest.approx(1, abs=1e-9)


def test_a_second_half_is_calibrated_about_as_well_as_its_size_allows():
    result, noise, floor = [], [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        signals, errors, _ = heavy_tailed(rng, 2181)
        test_signals, test_errors, _ = heavy_tailed(rng, 3028)
        std = StdCalibrator.fit(signals, errors).apply(test_signals)
        zero = np.zeros_like(std)
        result.append(ence(test_errors, zero, std))
        noise.append(ence_noise(test_errors, zero, std))
        floor.append(evaluate(test_errors, zero, std).spearman)
    assert np.mean(result) < np.mean(noise) + 0.03
    assert np.mean(result) < 0.1
    assert np.mean(floor) > 0.4


def test_several_signals_rank_errors_better_than_the_best_alone():
    rng = np.random.default_rng(3)
    signals, errors, _ = heavy_tailed(rng, 2181)
    new, new_errors, _ = heavy_tailed(rng, 3028)
    together = evaluate(new_errors, 0 * new_errors, StdCalibrator.fit(signals, errors).apply(new)).spearman
    alone = [
        evaluate(new_errors, 0 * new_errors, StdCalibrator.fit(signals[:, k], errors).apply(new[:, k])).spearman
        for k in range(3)
    ]
    assert together > max(alone)


def test_a_signal_that_saturates_gets_a_map_and_a_plain_one_does_not():
    rng = np.random.default_rng(4)
    sigma = np.exp(rng.normal(np.log(0.03), 0.8, 4000))
    errors = sigma * rng.normal(size=4000)
    saturated = np.sqrt(sigma**2 + 0.04**2)
    mapped = StdCalibrator.fit(saturated, errors)
    plain = StdCalibrator.fit(sigma, errors)
    assert mapped.knots
    assert not plain.knots
    without = mapped.model_copy(update={"knots": (), "intercept": 0.0})
    log_std = np.log(without.apply(saturated))
    without = without.model_copy(update={"intercept": 0.5 * np.log(np.mean((errors * np.exp(-log_std)) ** 2))})
    zero = np.zeros_like(errors)
    assert ence(errors, zero, mapped.apply(saturated)) < 0.7 * ence(errors, zero, without.apply(saturated))


def test_the_map_by_hand_goes_on_with_slope_one_beyond_its_ends():
    fitted = StdCalibrator(
        method="power", names=("s",), intercept=0, exponents=(1,), floors=(1e-9,), knots=((0, 1), (2, 2)), n_samples=20
    )
    np.testing.assert_allclose(np.log(fitted.apply(np.exp([-3.0, 0, 1, 2, 5]))), [-2, 1, 1.5, 2, 5])


def test_a_misleading_signal_is_ignored_rather_than_trusted_backwards():
    rng = np.random.default_rng(5)
    sigma = np.exp(rng.normal(size=1000))
    fitted = StdCalibrator.fit(np.stack([sigma, 1 / sigma], 1), sigma * rng.normal(size=1000))
    assert fitted.exponents[1] == 0
    assert fitted.exponents[0] > 0.8


def test_one_outlier_does_not_change_the_exponents():
    rng = np.random.default_rng(6)
    sigma = np.exp(rng.normal(size=2000))
    errors = sigma * rng.normal(size=2000)
    clean = StdCalibrator.fit(sigma, errors).exponents[0]
    errors[np.argmin(sigma)] = 5
    shifted = {
        name: abs(StdCalibrator.fit(sigma, errors, likelihood=name).exponents[0] - clean)
        for name in ("laplace", "gaussian")
    }
    assert shifted["laplace"] < 0.1
    assert shifted["laplace"] < 0.3 * shifted["gaussian"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(1.0, 100.0), which=st.integers(0, 2))
def test_more_of_a_signal_never_means_less_std(seed, factor, which):
    rng = np.random.default_rng(seed)
    signals, errors, _ = heavy_tailed(rng, 200)
    fitted = StdCalibrator.fit(signals, errors)
    more = signals.copy()
    more[:, which] *= factor
    assert (fitted.apply(more) >= fitted.apply(signals) * (1 - 1e-12)).all()


def test_zero_spread_is_not_certainty():
    rng = np.random.default_rng(7)
    spread = rng.uniform(0.1, 1, 300)
    spread[:5] = 0
    fitted = StdCalibrator.fit(spread, rng.normal(size=300) * 0.1, method="scale")
    std = fitted.apply([0.0, fitted.floors[0]])
    assert std[0] == std[1] > 0


@pytest.mark.parametrize("saturate", [False, True])
def test_json_round_trip_gives_the_same_std(saturate):
    signals, errors, sigma = heavy_tailed(np.random.default_rng(8), 3000, tail="gauss")
    if saturate:
        signals = np.sqrt(sigma**2 + 0.04**2)[:, None]
    fitted = StdCalibrator.fit(signals, errors)
    assert bool(fitted.knots) == saturate
    again = StdCalibrator.model_validate(json.loads(json.dumps(fitted.model_dump())))
    assert again == fitted
    np.testing.assert_array_equal(again.apply(signals), fitted.apply(signals))


GOOD = {"signals": np.linspace(1, 2, 30), "errors": np.linspace(-1, 1, 30)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signals": np.ones((30, 2, 2))}, r"shape \(n, k\)"),
        ({"signals": np.ones(29)}, "29 rows of signals but 30 errors"),
        ({"signals": np.ones(19), "errors": np.ones(19)}, "at least 20 held-out samples, got 19"),
        ({"signals": np.full(30, np.nan)}, "signals hold values that are not finite"),
        ({"errors": np.full(30, np.inf)}, "errors holds values that are not finite"),
        ({"errors": np.ones((30, 1))}, "one-dimensional"),
        ({"errors": np.zeros(30)}, "nothing to calibrate on"),
        ({"signals": -np.ones(30)}, "negative"),
        ({"signals": np.zeros(30), "names": ["spread"]}, "'spread' is zero everywhere"),
        ({"names": ["a", "b"]}, "2 names for 1 signals"),
        ({"signals": np.ones((30, 2)), "method": "scale"}, "takes one signal, got 2"),
    ],
)
def test_bad_input_is_refused_in_words(change, words):
    with pytest.raises(ValueError, match=words):
        StdCalibrator.fit(**(GOOD | change))


def test_apply_refuses_another_number_of_signals():
    fitted = StdCalibrator.fit(**GOOD, names=["spread"])
    with pytest.raises(ValueError, match="2 signals, but calibrated for 1: spread"):
        fitted.apply(np.ones((4, 2)))
    assert fitted.apply(np.empty((0, 1))).shape == (0,)


@pytest.mark.parametrize(
    "change",
    [{"exponents": [-0.1]}, {"floors": [0.0]}, {"names": ["a", "b"]}, {"knots": [[0, 0]]}, {"knots": [[0, 1], [1, 0]]}],
)
def test_a_damaged_config_is_refused(change):
    config = StdCalibrator.fit(**GOOD).model_dump() | change
    with pytest.raises(ValidationError):
        StdCalibrator.model_validate(config)


def test_a_constant_signal_gives_a_constant_std():
    rng = np.random.default_rng(9)
    errors = rng.normal(size=100)
    std = StdCalibrator.fit(np.full(100, 0.7), errors).apply([0.7, 7.0])
    np.testing.assert_allclose(std, np.sqrt(clipped_mean(errors**2)))

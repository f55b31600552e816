"""Acquisition functions against their definitions by sampling, and by symmetry."""

import numpy as np
import pytest

from cgcnn_ase.active.acquisition import acquire

MEAN = np.array([0.3, -0.2, 0.1, 0.0, -0.2])
STD = np.array([0.1, 0.05, 0.6, 0.0, 0.3])


def sampled(function, n=200_000):
    draws = MEAN + STD * np.random.default_rng(0).standard_normal((n, len(MEAN)))
    return function(draws).mean(axis=0)


def test_expected_improvement_is_the_mean_gain():
    expected = sampled(lambda draws: np.maximum(0, -0.1 - draws))
    np.testing.assert_allclose(acquire("ei", MEAN, STD, best=-0.1), expected, atol=2e-3)


def test_probability_of_improvement_is_how_often_there_is_one():
    expected = sampled(lambda draws: draws < -0.1)
    np.testing.assert_allclose(acquire("pi", MEAN, STD, best=-0.1), expected, atol=5e-3)


def test_orders():
    order = {name: np.argsort(-acquire(name, MEAN, STD), kind="stable").tolist() for name in ("best", "uncertain")}
    assert order["best"][:2] == [1, 4]
    assert order["uncertain"] == [2, 4, 0, 1, 3]
    assert np.argmax(acquire("lcb", MEAN, STD, kappa=2.0)) == 2
    assert np.argmax(acquire("lcb", MEAN, STD, kappa=0.0)) == 1


@pytest.mark.parametrize("name", ["best", "uncertain", "lcb", "ei", "pi"])
def test_high_is_low_with_the_sign_turned(name):
    np.testing.assert_allclose(
        acquire(name, MEAN, STD, goal="max", best=0.05), acquire(name, -MEAN, STD, goal="min", best=-0.05)
    )


def test_without_a_best_it_is_the_lowest_prediction():
    np.testing.assert_allclose(acquire("ei", MEAN, STD), acquire("ei", MEAN, STD, best=-0.2))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ucb", [0], [1]), "no acquisition 'ucb'; allowed: best, uncertain, lcb, ei, pi"),
        (("ei", [0, np.nan], [1, 1]), "not a finite number"),
        (("ei", [0], [-1]), "a std is negative: -1.0"),
        (("ei", [0, 1], [1]), r"shape \(2,\) and stds of shape \(1,\)"),
    ],
)
def test_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        acquire(*arguments)

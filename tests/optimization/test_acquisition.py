"""Acquisition functions against their definitions by sampling, and by symmetry."""

import numpy as np
import pytest

from cgcnn_ase.optimization.acquisition import acquire

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


class Predicted:
    """What scikit-optimize asks a model for."""

    def predict(self, X, *, return_std):
        assert return_std
        return MEAN[X[:, 0].astype(int)], STD[X[:, 0].astype(int)]


@pytest.mark.parametrize("best", [-0.3, -0.1, 0.2])
def test_as_scikit_optimize(best):
    theirs = pytest.importorskip("skopt.acquisition")
    rows = np.flatnonzero(STD > 0)[:, None]
    mean, std = MEAN[rows[:, 0]], STD[rows[:, 0]]
    ei = theirs.gaussian_ei(rows, Predicted(), y_opt=best, xi=0)
    pi = theirs.gaussian_pi(rows, Predicted(), y_opt=best, xi=0)
    lcb = theirs.gaussian_lcb(rows, Predicted(), kappa=1.5)
    np.testing.assert_allclose(acquire("ei", mean, std, best=best), ei, atol=1e-12)
    np.testing.assert_allclose(acquire("pi", mean, std, best=best), pi, atol=1e-12)
    np.testing.assert_allclose(acquire("lcb", mean, std, kappa=1.5), -lcb, atol=1e-12)


def test_thompson_takes_each_candidate_as_often_as_it_is_the_best():
    draws = MEAN + STD * np.random.default_rng(1).standard_normal((20_000, len(MEAN)))
    expected = np.bincount(draws.argmin(axis=1), minlength=len(MEAN)) / len(draws)
    chosen = [int(np.argmax(acquire("thompson", MEAN, STD, seed=seed))) for seed in range(4000)]
    np.testing.assert_allclose(np.bincount(chosen, minlength=len(MEAN)) / 4000, expected, atol=0.04)
    same = [acquire("thompson", MEAN, STD, seed=3).tolist() for _ in range(2)]
    assert same[0] == same[1]


def test_information_is_the_entropy_that_a_label_takes_away():
    from scipy.stats import norm

    noise = 0.2
    posterior = np.sqrt(1 / (1 / STD[:3] ** 2 + 1 / noise**2))
    expected = norm(scale=STD[:3]).entropy() - norm(scale=posterior).entropy()
    np.testing.assert_allclose(acquire("information", MEAN[:3], STD[:3], noise=noise), expected)
    with pytest.raises(ValueError, match="the noise of a label must be positive, not 0.0"):
        acquire("information", MEAN, STD, noise=0.0)


@pytest.mark.parametrize("name", ["best", "uncertain", "lcb", "ei", "pi", "information"])
def test_high_is_low_with_the_sign_turned(name):
    np.testing.assert_allclose(
        acquire(name, MEAN, STD, goal="max", best=0.05), acquire(name, -MEAN, STD, goal="min", best=-0.05)
    )


def test_without_a_best_it_is_the_lowest_prediction():
    np.testing.assert_allclose(acquire("ei", MEAN, STD), acquire("ei", MEAN, STD, best=-0.2))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ucb", [0], [1]), "unknown acquisition 'ucb'; did you mean lcb. allowed: best, ei, information, lcb, pi"),
        (("ei", [0, np.nan], [1, 1]), "not a finite number"),
        (("ei", [0], [-1]), "a std is negative: -1.0"),
        (("ei", [0, 1], [1]), r"shape \(2,\) and stds of shape \(1,\)"),
    ],
)
def test_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        acquire(*arguments)

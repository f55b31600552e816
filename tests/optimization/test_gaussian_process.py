"""The Gaussian process against scikit-learn's, against the textbook's formulas, and by drawing from it."""

import numpy as np
import pytest

from cgcnn_ase.optimization.space.search_space import SearchSpace
from cgcnn_ase.optimization.surrogates.base import Pool
from cgcnn_ase.optimization.surrogates.gaussian_process import GaussianProcess

SPACE = SearchSpace.from_dict(
    {"variables": {"x": {"low": 0, "high": 1}, "y": {"low": 0, "high": 2}, "ordering_seed": {"seeds": 50}}}
)


def smooth(pool):
    return 3 + np.sin(6 * pool.features[:, 0]) + pool.features[:, 1] ** 2


@pytest.fixture(scope="module")
def labelled():
    pool = Pool.of(SPACE, SPACE.sample(40, 0))
    return pool, smooth(pool) + 0.1 * np.random.default_rng(0).standard_normal(40)


@pytest.fixture(scope="module")
def others():
    return Pool.of(SPACE, SPACE.sample(60, 1))


@pytest.fixture(scope="module")
def fitted(labelled):
    process = GaussianProcess()
    process.fit(*labelled, None, seed=0)
    return process


def test_it_learns_the_function_and_the_noise(fitted, others):
    prediction = fitted.predict(others)
    assert np.abs(prediction.mean - smooth(others)).mean() < 0.08
    np.testing.assert_allclose(prediction.aleatoric, 0.1, atol=0.04)
    z = (prediction.mean - smooth(others)) / prediction.epistemic
    assert 0.4 < np.sqrt((z**2).mean()) < 2


def test_the_posterior_is_that_of_scikit_learn(fitted, labelled, others):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    pool, values = labelled
    inner = fitted.process.model.kernel_.k1
    kernel = ConstantKernel(inner.k1.constant_value) * Matern(inner.k2.length_scale, nu=2.5)
    theirs = GaussianProcessRegressor(kernel, alpha=(fitted.white / values.std()) ** 2 + 1e-6, optimizer=None)
    theirs.fit(pool.features, (values - values.mean()) / values.std())
    mean, covariance = theirs.predict(others.features, return_cov=True)
    prediction = fitted.predict(others)
    np.testing.assert_allclose(prediction.mean, values.mean() + values.std() * mean, rtol=1e-6)
    np.testing.assert_allclose(fitted.covariance(others, others), values.var() * covariance, atol=1e-6)
    np.testing.assert_allclose(prediction.epistemic**2, np.diag(values.var() * covariance), atol=1e-6)


def test_samples_have_the_posterior_mean_and_covariance(fitted, others):
    few = others.take(range(12))
    draws = np.array([fitted.sample(few, seed) for seed in range(1500)])
    prediction, expected = fitted.predict(few), fitted.covariance(few, few)
    np.testing.assert_allclose(
        draws.mean(axis=0), prediction.mean, atol=4 * prediction.epistemic.max() / np.sqrt(1500) + 0.005
    )
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.2 * expected.max())
    np.testing.assert_array_equal(fitted.sample(few, 7), draws[7])


def test_orderings_of_one_composition_share_their_prediction(fitted):
    point = {"x": 0.4, "y": 1.0}
    pool = Pool.of(SPACE, [point | {"ordering_seed": k} for k in range(5)])
    prediction = fitted.predict(pool)
    assert len(pool.distinct[0]) == 1
    assert np.ptp(prediction.mean) == 0
    assert fitted.covariance(pool, pool).shape == (5, 5)


def test_error_bars_are_believed(labelled, others):
    pool, values = labelled
    spoiled = values.copy()
    spoiled[::2] += 3 * np.random.default_rng(1).standard_normal(len(values[::2]))
    noise = np.where(np.arange(len(values)) % 2 == 0, 3.0, 0.01)
    told, untold = GaussianProcess(), GaussianProcess()
    told.fit(pool, spoiled, noise, seed=0)
    untold.fit(pool, spoiled, None, seed=0)
    errors = [np.abs(each.predict(others).mean - smooth(others)).mean() for each in (told, untold)]
    assert errors[0] < 0.35 * errors[1]


def test_labels_in_other_units_give_the_same_in_those(labelled, others, fitted):
    pool, values = labelled
    process = GaussianProcess()
    process.fit(pool, 1000 * values - 5, None, seed=0)
    ours, theirs = process.predict(others), fitted.predict(others)
    np.testing.assert_allclose(ours.mean, 1000 * theirs.mean - 5, rtol=1e-5)
    np.testing.assert_allclose(ours.epistemic, 1000 * theirs.epistemic, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_few_labels_equal_labels_and_the_same_point_twice(labelled, others, n):
    pool, _ = labelled
    process = GaussianProcess()
    process.fit(pool.take([0] * n), np.full(n, 1.5), None, seed=0)
    prediction = process.predict(others)
    np.testing.assert_allclose(prediction.mean, 1.5)
    assert np.isfinite(prediction.epistemic).all()
    assert (prediction.epistemic >= 0).all()


def test_of_many_labels_all_are_still_used():
    pool = Pool.of(SPACE, SPACE.sample(260, 3))
    process = GaussianProcess(n_restarts=0)
    process.fit(pool, smooth(pool), None, seed=0)
    assert np.abs(process.predict(pool).mean - smooth(pool)).max() < 0.02


def test_global_random_state_is_untouched(labelled):
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    process = GaussianProcess()
    process.fit(*labelled, None, seed=4)
    process.sample(labelled[0], 1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002

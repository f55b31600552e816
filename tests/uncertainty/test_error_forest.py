"""The trees as plain arrays."""

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor

from cgcnn_ase.uncertainty import error_model as error_forest
from cgcnn_ase.uncertainty.error_model import ErrorForest


@pytest.fixture(scope="module")
def known():
    """Features (n, 4), errors and the std that they were drawn with: columns 0 and 2 decide it."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1500, 4))
    std = 0.03 * np.exp(features[:, 0] + (features[:, 2] > 0))
    return features, std * rng.laplace(size=1500), std


def test_the_arrays_say_what_scikit_learn_says(known):
    features, errors, _ = known
    x = features.astype(np.float32)
    size = np.abs(errors)
    theirs = ExtraTreesRegressor(
        error_forest.N_TREES,
        min_samples_leaf=7,
        max_depth=error_forest.MAX_DEPTH,
        max_features=error_forest.MAX_FEATURES,
        random_state=3,
    ).fit(x, np.log(np.maximum(size, np.quantile(size, error_forest.FLOOR_QUANTILE))))
    ours = ErrorForest.fit(features, errors, min_leaf=7, seed=3)
    new = np.random.default_rng(1).normal(size=(400, 4)) * 2
    on_the_edge = np.repeat(theirs.estimators_[0].tree_.threshold[:1], 4)[None]
    for points in (new, features, on_the_edge, np.full((1, 4), 1e30), np.empty((0, 4))):
        expected = theirs.predict(points.astype(np.float32)) if len(points) else np.empty(0)
        np.testing.assert_allclose(np.log(ours.apply(points)), expected, atol=1e-5)


def test_it_learns_where_errors_are_large(known):
    features, errors, std = known
    forest = ErrorForest.fit(features[:1000], errors[:1000])
    expected = np.log(forest.apply(features[1000:]))
    assert np.corrcoef(expected, np.log(std[1000:]))[0, 1] > 0.85


def test_the_seed_decides(known):
    features, errors, _ = known
    first, again, other = (ErrorForest.fit(features, errors, seed=s).apply(features[:50]) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_errors_of_zero_have_a_logarithm(known):
    features, errors, _ = known
    forest = ErrorForest.fit(features, np.where(np.arange(1500) % 2, errors, 0.0))
    assert np.isfinite(forest.apply(features)).all()


def test_arrays_there_and_back(known):
    features, errors, _ = known
    forest = ErrorForest.fit(features, errors)
    again = ErrorForest.from_arrays(forest.arrays())
    np.testing.assert_array_equal(again.apply(features), forest.apply(features))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("roots"), "without roots"),
        (lambda a: a.update(value=a["value"][:-1]), "differ in length"),
        (lambda a: a.update(left=a["left"] + a["left"].size), "nodes that it does not have"),
        (lambda a: a.update(right=a["right"] - a["right"].size), "nodes that it does not have"),
    ],
)
def test_arrays_that_are_no_forest(known, change, message):
    arrays = ErrorForest.fit(known[0][:50], known[1][:50]).arrays()
    change(arrays)
    with pytest.raises(ValueError, match=message):
        ErrorForest.from_arrays(arrays)

"""What a pool learner predicts, against scikit-learn's Gaussian process, and what it asks for, against brute force."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor

from cgcnn_ase.optimization.surrogates.pool_learner import PoolLearner

N = 60


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((N, 6)) @ np.diag([3.0, 2.0, 1.0, 0.5, 0.2, 0.1])


def truth(vectors):
    return np.sin(vectors[:, 0]) + 0.5 * vectors[:, 1]


@pytest.fixture
def learner(vectors):
    made = PoolLearner(vectors, seed=3)
    rows = made.ask(12)
    made.tell(rows, truth(vectors)[rows])
    return made


def second(learner, rows, values):
    """scikit-learn's, with the kernel that was found and its noise on the labels."""
    model = GaussianProcessRegressor(
        learner.process.model.kernel_, alpha=learner.process.model.noise_ + 1e-10, optimizer=None
    )
    return model.fit(learner.points[rows], values)


def test_predictions_are_those_of_scikit_learn(learner, vectors):
    labels = truth(vectors)[learner.labelled]
    expected = second(learner, learner.labelled, (labels - labels.mean()) / labels.std())
    mean, std = expected.predict(learner.points, return_std=True)
    result = learner.predict()
    np.testing.assert_allclose(result[0], labels.mean() + labels.std() * mean, atol=1e-6)
    np.testing.assert_allclose(result[1], labels.std() * std, atol=1e-5)
    np.testing.assert_allclose(learner.predict(vectors)[0], result[0], atol=1e-9)


def test_it_asks_for_what_lowers_the_variance_of_the_pool_most(learner):
    """One after the other, each by trying all."""
    asked = learner.ask(3)
    rows = learner.labelled.tolist()
    for expected in asked:
        left = [i for i in range(N) if i not in rows]
        total = []
        for i in left:
            std = second(learner, [*rows, i], np.zeros(len(rows) + 1)).predict(learner.points, return_std=True)[1]
            total.append((std**2).sum())
        assert left[int(np.argmin(total))] == expected
        rows.append(int(expected))


def test_all_are_asked_for_once(vectors):
    learner = PoolLearner(vectors, seed=0)
    while len(rows := learner.ask(25)):
        learner.tell(rows, truth(vectors)[rows])
    assert sorted(learner.labelled.tolist()) == list(range(N))


def test_the_seed_decides(vectors):
    first = [PoolLearner(vectors, seed=s).ask(8).tolist() for s in (0, 0, 1)]
    assert first[0] == first[1] != first[2]


def test_the_unit_of_the_labels_does_not_matter(learner, vectors):
    other = PoolLearner(vectors, seed=3)
    other.tell(learner.labelled, 1000 * truth(vectors)[learner.labelled] - 7)
    assert other.ask(5).tolist() == learner.ask(5).tolist()


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        ([N], [0.0], "rows 0 to 59"),
        ([-1], [0.0], "rows 0 to 59"),
        ([1], [np.nan], "finite"),
        ([1, 2], [0.0], "one value a row"),
        ([1, 1], [0.0, 0.0], "has a label already"),
    ],
)
def test_labels_that_are_refused(vectors, rows, values, message):
    with pytest.raises(ValueError, match=message):
        PoolLearner(vectors).tell(rows, values)


def test_a_refused_batch_teaches_nothing(learner):
    before = learner.labelled.tolist()
    free = next(i for i in range(N) if i not in before)
    with pytest.raises(ValueError, match="rows 0 to 59"):
        learner.tell([free, N], [0.0, 0.0])
    assert learner.labelled.tolist() == before


def test_what_makes_no_sense(vectors):
    with pytest.raises(ValueError, match="two rows or more"):
        PoolLearner(vectors[:1])
    with pytest.raises(ValueError, match="finite"):
        PoolLearner(np.where(vectors > 2, np.nan, vectors))
    with pytest.raises(ValueError, match="at least 1"):
        PoolLearner(vectors).ask(0)
    with pytest.raises(ValueError, match="no label"):
        PoolLearner(vectors).predict()

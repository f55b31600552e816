"""Batches: what is believed of labels to come is what a refit with them gives; nothing is proposed twice."""

import numpy as np
import pytest

from cgcnn_ase.optimization.acquisition import AcquisitionSettings, BatchPosterior, propose
from cgcnn_ase.optimization.space.search_space import SearchSpace
from cgcnn_ase.optimization.surrogates.base import Pool
from cgcnn_ase.optimization.surrogates.gaussian_process import GaussianProcess

SPACE = SearchSpace.from_dict(
    {"variables": {"x": {"low": 0, "high": 1, "sites": 20}, "y": {"low": 0, "high": 1, "sites": 10}}}
)


def function(pool):
    return np.sin(5 * pool.features[:, 0]) + (pool.features[:, 1] - 0.5) ** 2


@pytest.fixture(scope="module")
def pool():
    return Pool.of(SPACE, SPACE.candidates())


@pytest.fixture(scope="module")
def labelled(pool):
    some = pool.take(np.random.default_rng(0).choice(len(pool), 12, replace=False))
    return some, function(some)


@pytest.fixture(scope="module")
def process(labelled):
    fitted = GaussianProcess()
    fitted.fit(*labelled, None, seed=0)
    return fitted


def conditioned(process, pool, labelled, chosen):
    """The std after labels at the chosen points, by inverting the whole covariance of the prior."""
    inner, scale = process.process.model.kernel_.k1, labelled[1].std()
    everything = np.concatenate([labelled[0].features, pool.features[chosen]])
    covariance = inner(everything) + np.diag(
        np.r_[process.process.model.alpha, np.zeros(len(chosen))] + (process.white / scale) ** 2
    )
    cross = inner(pool.features, everything)
    variance = inner.diag(pool.features) - np.einsum("ij,ij->i", cross @ np.linalg.inv(covariance), cross)
    return scale * np.sqrt(np.maximum(variance, 0))


def test_a_believed_label_narrows_the_rest_as_a_real_one_would(process, pool, labelled):
    belief, chosen = BatchPosterior([process], pool), [5, 100, 101]
    mean = belief.mean.copy()
    for index in chosen:
        belief.observe(index)
    np.testing.assert_allclose(belief.epistemic[:, 0], conditioned(process, pool, labelled, chosen), atol=2e-4)
    np.testing.assert_array_equal(belief.mean, mean)


def run(process, pool, labelled, n, acquisition="ei", **options):
    aim = AcquisitionSettings(acquisition, ("min",), **options)
    free = np.array([key not in labelled[0].keys for key in pool.keys])
    return propose(n, [process], pool, aim, free=free, known=labelled[1][:, None], seed=1)


@pytest.mark.parametrize("acquisition", ["best", "uncertain", "lcb", "ei", "pi", "thompson", "information"])
def test_a_batch_repeats_neither_itself_nor_what_is_known(process, pool, labelled, acquisition):
    result = run(process, pool, labelled, 15, acquisition)
    keys = [SPACE.key(proposal.point) for proposal in result]
    assert len(set(keys)) == 15
    assert not set(keys) & set(labelled[0].keys)
    assert keys == [SPACE.key(p.point) for p in run(process, pool, labelled, 15, acquisition)]


def test_believing_spreads_a_batch(process, pool, labelled):
    """More than taking the most uncertain points at once."""
    together = Pool.of(SPACE, [proposal.point for proposal in run(process, pool, labelled, 5, "uncertain")])
    free = [i for i, key in enumerate(pool.keys) if key not in labelled[0].keys]
    stds = process.predict(pool).epistemic[free]
    at_once = pool.take(np.array(free)[np.argsort(-stds)[:5]])

    def nearest(some):
        distances = np.linalg.norm(some.features[:, None] - some.features[None], axis=2)
        return distances[np.triu_indices(5, 1)].min()

    assert nearest(together) > nearest(at_once)


def test_information_is_greedy_growth_of_the_log_determinant(process, pool, labelled):
    result = [pool.index[SPACE.key(p.point)] for p in run(process, pool, labelled, 4, "information")]
    belief = BatchPosterior([process], pool)
    noise = np.maximum(belief.noise, 0.01 * belief.epistemic.mean()).max()
    covariance = process.covariance(pool, pool)

    def log_determinant(indices):
        block = covariance[np.ix_(indices, indices)]
        return np.linalg.slogdet(np.eye(len(indices)) + block / noise**2)[1]

    free = [i for i, key in enumerate(pool.keys) if key not in labelled[0].keys]
    for k in range(len(result)):
        best = max(log_determinant([*result[:k], i]) for i in free if i not in result[:k])
        assert log_determinant(result[: k + 1]) == pytest.approx(best, rel=2e-2)


def test_it_is_as_asking_again_with_the_first_still_pending(process, pool, labelled):
    together = run(process, pool, labelled, 4)
    pending = [pool.index[SPACE.key(p.point)] for p in together[:3]]
    free = np.array([key not in labelled[0].keys for key in pool.keys])
    aim = AcquisitionSettings("ei", ("min",))
    (last,) = propose(1, [process], pool, aim, free=free, pending=pending, known=labelled[1][:, None], seed=1)
    assert last.point == together[3].point


def test_fewer_come_where_no_more_are_free(process, pool, labelled):
    free = np.zeros(len(pool), dtype=bool)
    free[[3, 8]] = True
    result = propose(5, [process], pool, AcquisitionSettings("ei", ("min",)), free=free, known=labelled[1][:, None])
    assert {pool.index[SPACE.key(p.point)] for p in result} == {3, 8}


def test_high_is_low_with_the_sign_turned(pool, labelled):
    some, values = labelled
    free = np.ones(len(pool), dtype=bool)
    result = []
    for goal, sign in (("min", 1.0), ("max", -1.0)):
        process = GaussianProcess()
        process.fit(some, sign * values, None, seed=0)
        aim = AcquisitionSettings("ei", (goal,))
        result.append(propose(3, [process], pool, aim, free=free, known=sign * values[:, None]))
    assert [p.point for p in result[0]] == [p.point for p in result[1]]


def test_a_target_is_approached_from_both_sides(pool):
    process = GaussianProcess()
    process.fit(pool, pool.features[:, 0], None, seed=0)
    aim = AcquisitionSettings("best", (0.5,))
    free = np.ones(len(pool), dtype=bool)
    result = propose(11, [process], pool, aim, free=free, known=np.array([[0.0], [1.0]]))
    assert {proposal.point["x"] for proposal in result} == {0.5}


def test_several_objectives_meet_on_their_front(pool):
    """Costs are the squared distances from two points: the front is the line between them."""
    centers = ((0.2, 0.5), (0.8, 0.5))
    values = np.stack([((pool.features - center) ** 2).sum(axis=1) for center in centers], axis=1)
    processes = []
    for column in values.T:
        processes.append(GaussianProcess(n_restarts=0))
        processes[-1].fit(pool.take(range(0, len(pool), 3)), column[::3], None, seed=0)
    known = values[[0, 110, 230]]
    aim = AcquisitionSettings("ei", ("min", "min"))
    result = propose(12, processes, pool, aim, free=np.ones(len(pool), dtype=bool), known=known, seed=0)
    points = np.array([[p.point["x"], p.point["y"]] for p in result])
    assert np.abs(points[:, 1] - 0.5).max() <= 0.2
    assert points[:, 0].min() < 0.4
    assert points[:, 0].max() > 0.6

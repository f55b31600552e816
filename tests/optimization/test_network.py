"""A crystal-graph model as surrogate, alone and with a Gaussian process of its errors."""

import numpy as np
import pytest

from cgcnn_ase.optimization.engine import Optimizer
from cgcnn_ase.optimization.space.cathode_space import cathode_space, cathode_structure
from cgcnn_ase.optimization.surrogates.base import Pool, make_surrogate
from cgcnn_ase.optimization.surrogates.graph_network import GraphNetworkSurrogate, Stacked
from cgcnn_ase.prediction.predictor import Predictor

from ..conftest import make_model

SPACE = cathode_space(
    {"li_vacancy_ratio": [0, 1], "ni_content": [0, 1], "co_content": [0, 1], "ordering_seed": 4}, supercell=1
)


def structure(point):
    return cathode_structure(point, supercell=1)


@pytest.fixture(scope="module")
def pool():
    return Pool.of(SPACE, SPACE.candidates())


@pytest.fixture
def network(small_model):
    return GraphNetworkSurrogate(small_model, structure)


def test_it_says_what_the_model_says_plus_the_offset(network, small_model, pool):
    some = pool.take(range(0, len(pool), 7))
    expected = list(Predictor(small_model, workers=1).stream([structure(point) for point in some.points]))
    value, std = np.array([(p.value, p.std) for p in expected]).T
    network.fit(some, value + 0.7, None)
    prediction = network.predict(some)
    np.testing.assert_allclose(prediction.mean, value + 0.7, rtol=1e-5)
    np.testing.assert_allclose(prediction.epistemic, std, rtol=1e-5)
    assert network.offset == pytest.approx(0.7, abs=1e-4)


def test_labels_with_large_error_bars_move_it_little(network, pool):
    some = pool.take([0, 1, 2, 3])
    mean, std = network.raw(some)
    network.fit(some, mean + np.array([0, 0, 0, 100.0]), std * np.array([0.01, 0.01, 0.01, 1000]))
    assert network.offset == pytest.approx(100 / 1e6 / 3, rel=0.5)


def test_a_structure_is_predicted_once(small_model, pool):
    built = []

    def counted(point):
        built.append(SPACE.key(point))
        return structure(point)

    network = GraphNetworkSurrogate(small_model, counted)
    for _ in range(3):
        network.predict(pool.take(range(10)))
    network.covariance(pool.take(range(12)), pool.take([3]))
    assert sorted(built) == sorted(pool.keys[:12])


def test_errors_are_alike_at_near_points(network, pool):
    some = pool.take(range(0, len(pool), 5))
    covariance = network.covariance(some, some)
    _, std = network.raw(some)
    np.testing.assert_allclose(np.diag(covariance), std**2)
    assert np.linalg.eigvalsh(covariance).min() > 0
    near = np.linalg.norm(some.features[1:] - some.features[0], axis=1)
    correlation = covariance[0, 1:] / std[0] / std[1:]
    np.testing.assert_array_equal(np.argsort(-correlation, kind="stable"), np.argsort(near, kind="stable"))


def test_the_stacked_learns_the_errors_of_the_model(small_model, pool):
    network, stacked = (
        GraphNetworkSurrogate(small_model, structure),
        Stacked(GraphNetworkSurrogate(small_model, structure)),
    )
    mean, std = network.raw(pool)
    truth = mean - 2.0 + 3 * std.mean() * np.sin(5 * pool.features[:, 0])
    labelled = pool.take(np.random.default_rng(0).choice(len(pool), 25, replace=False))
    values = truth[[pool.index[key] for key in labelled.keys]]
    for surrogate in (network, stacked):
        surrogate.fit(labelled, values, None, seed=0)
    errors = [np.abs(s.predict(pool).mean - truth).mean() for s in (network, stacked)]
    assert errors[1] < 0.2 * errors[0]
    prediction = stacked.predict(pool)
    known = [pool.index[key] for key in labelled.keys]
    assert prediction.epistemic[known].mean() < 0.5 * std[known].mean()
    np.testing.assert_allclose(np.sqrt(np.diag(stacked.covariance(pool, pool))), prediction.epistemic, atol=1e-6)


@pytest.mark.parametrize("name", ["network", "stacked"])
def test_an_optimizer_with_a_network(small_model, name):
    optimizer = Optimizer(SPACE, make_surrogate(name, model=small_model, structure=structure), n_initial=3)
    told = []
    for _ in range(3):
        points = optimizer.ask(3)
        told += [SPACE.key(point) for point in points]
        optimizer.tell(points, [point["li_vacancy_ratio"] for point in points])
    assert len(set(told)) == 9


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gnn", {}, "unknown surrogate 'gnn'; allowed: gp, network, stacked"),
        ("stacked", {}, "the surrogate 'stacked' needs a model and what makes the structure"),
    ],
)
def test_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_surrogate(name, **options)


def test_a_model_without_std_is_refused(pool):
    network = GraphNetworkSurrogate(make_model(calibration=False, n_members=1), structure)
    with pytest.raises(ValueError, match="gives no std: a surrogate must say how sure it is"):
        network.predict(pool.take([0]))

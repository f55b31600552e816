"""Expected errors from signals, composition and embedding."""

import numpy as np
import pytest

from cgcnn_ase.uncertainty.error_model import Difficulty, ErrorModel
from cgcnn_ase.uncertainty.metrics import spearman


def made_up(rng, n, n_formulas):
    """Compositions that occur several times, embeddings, and the std of each structure's error."""
    kinds = np.zeros((n_formulas, 101))
    for row in kinds:
        row[rng.choice(np.arange(1, 60), 3, replace=False)] = [0.5, 0.3, 0.2]
    formula = rng.integers(n_formulas, size=n)
    embedding = rng.normal(size=(n, 6))
    hard = kinds[formula] @ np.linspace(-6, 6, 101) + embedding[:, 0]
    return kinds[formula], embedding, 0.03 * np.exp(0.6 * hard), formula


def test_what_is_left_out_was_not_seen():
    """An error that depends on the formula alone, in a way nothing explains, can be learned but not foreseen."""
    rng = np.random.default_rng(0)
    composition, embedding, _, formula = made_up(rng, 1200, 240)
    errors = 0.03 * np.exp(2 * rng.normal(size=240))[formula]
    model, left_out = ErrorModel.fit(rng.uniform(size=(1200, 2)), composition, embedding, errors)
    signals = rng.uniform(size=(1200, 2))
    seen = model.apply(signals, composition, embedding)
    assert spearman(seen, errors) > 0.6
    assert abs(spearman(left_out, errors)) < 0.25


def test_difficulty_helps_where_the_calibration_set_is_small():
    rng = np.random.default_rng(1)
    composition, embedding, std, _ = made_up(rng, 9000, 3000)
    errors = std * rng.laplace(size=9000)
    train, val = slice(0, 8000), slice(8000, 8500)
    signals = rng.uniform(size=(9000, 2))  # that say nothing
    difficulty = Difficulty.fit(composition[train], embedding[train], errors[train])
    result = []
    for known in (None, difficulty):
        model, left_out = ErrorModel.fit(signals[val], composition[val], embedding[val], errors[val], difficulty=known)
        new = slice(8500, 9000)
        result.append(spearman(model.apply(signals[new], composition[new], embedding[new]), np.abs(errors[new])))
        assert spearman(left_out, np.abs(errors[val])) == pytest.approx(result[-1], abs=0.12)
    assert result[1] > result[0] + 0.05


def test_difficulty_of_elements_is_a_regression_on_which_are_there():
    """Errors whose size is a product of one factor for each element, which the weights must tell again."""
    rng = np.random.default_rng(3)
    composition, embedding, _, _ = made_up(rng, 6000, 3000)
    weights = np.linspace(-1, 1, 101)
    errors = np.exp((composition > 0) @ weights) * rng.lognormal(0, 0.1, 6000)
    difficulty = Difficulty.fit(composition, embedding, errors)
    _, of_elements = difficulty.apply(composition, embedding).T
    truth = (composition > 0) @ weights
    larger = truth > np.quantile(truth, 0.3)  # small errors count as equal
    np.testing.assert_allclose(np.log(of_elements)[larger], truth[larger], atol=0.3)
    assert spearman(of_elements, errors) > 0.97


def test_an_older_model_has_forests_alone():
    rng = np.random.default_rng(4)
    composition, embedding, std, _ = made_up(rng, 600, 300)
    signals, errors = rng.uniform(size=(600, 2)), std * rng.laplace(size=600)
    model, _ = ErrorModel.fit(signals, composition, embedding, errors)
    old = ErrorModel.from_arrays({k: v for k, v in model.arrays().items() if k.startswith("expected.")})
    described = np.concatenate([signals, composition, embedding], axis=1, dtype=np.float32)
    np.testing.assert_array_equal(old.apply(signals, composition, embedding), model.expected.apply(described))
    line = np.exp(model.line[0]) * np.prod(signals ** model.line[1:], axis=1)
    both = np.sqrt(line * model.expected.apply(described))
    np.testing.assert_allclose(model.apply(signals, composition, embedding), both, rtol=1e-9)


def test_arrays_there_and_back():
    rng = np.random.default_rng(2)
    composition, embedding, std, _ = made_up(rng, 600, 300)
    signals, errors = rng.uniform(size=(600, 2)), std * rng.laplace(size=600)
    for difficulty in (None, Difficulty.fit(composition, embedding, errors)):
        model, _ = ErrorModel.fit(signals, composition, embedding, errors, difficulty=difficulty)
        again = ErrorModel.from_arrays(model.arrays() | {"mean": np.zeros(3)})
        assert again is not None
        np.testing.assert_array_equal(
            again.apply(signals, composition, embedding), model.apply(signals, composition, embedding)
        )
    assert ErrorModel.from_arrays({"mean": np.zeros(3)}) is None

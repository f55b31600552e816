"""The calibration of a model to tune, kept where there are too few new labels for another."""

import json

import numpy as np
import pytest

from cgcnn_ase import load_model
from cgcnn_ase.training.run import train
from cgcnn_ase.uncertainty.calibration_reuse import PRIOR, reuse_calibration
from cgcnn_ase.uncertainty.estimators import Estimate
from cgcnn_ase.uncertainty.regression_calibration import Calibration

FRACTIONS = np.zeros((1, 101))
FRACTIONS[0, 8] = 1.0


@pytest.fixture(scope="module")
def sample():
    """Predictions with their errors, whose std is 0.1, and the calibration on them."""
    rng = np.random.default_rng(0)
    n = 400
    estimate = Estimate(rng.normal(size=n), rng.uniform(0.5, 1.5, n), None)
    embedding = rng.normal(size=(n, 4))
    target = estimate.mean + rng.normal(scale=0.1, size=n)
    fractions = np.repeat(FRACTIONS, n, axis=0)
    trust = Calibration.fit(
        estimate, target, embedding=embedding, composition=fractions, training_embedding=embedding,
        training_composition=fractions,
    )  # fmt: skip
    return trust, estimate, embedding, target


def kept(sample, n, times, training=FRACTIONS):
    """What is kept where n held-out errors are so many times the std."""
    trust, estimate, embedding, _ = sample
    few = Estimate(estimate.mean[:n], estimate.epistemic[:n], None)
    fractions = np.repeat(FRACTIONS, n, axis=0)
    std = trust.apply(few, embedding[:n], fractions).std
    new, factor = reuse_calibration(
        trust, few, few.mean + times * std, embedding=embedding[:n], composition=fractions,
        training_composition=training,
    )  # fmt: skip
    return std, new.apply(few, embedding[:n], fractions), factor


@pytest.mark.parametrize("n", [1, 5, 19])
@pytest.mark.parametrize("times", [0.0, 1.0, 3.0, 10.0])
def test_the_std_grows_with_errors_larger_than_it_says_and_never_shrinks(sample, n, times):
    std, judged, factor = kept(sample, n, times)
    assert factor == pytest.approx(max(1.0, np.sqrt((PRIOR + n * times**2) / (PRIOR + n))))
    assert np.allclose(judged.std, std * factor)
    trust = sample[0]
    assert np.allclose(judged.upper - judged.lower, 2 * trust.interval.factors[0] * judged.std)


def test_new_elements_join_the_domain(sample):
    lithium = np.zeros((1, 101))
    lithium[0, 3] = 1.0
    trust, estimate, embedding, target = sample
    few = Estimate(estimate.mean[:1], estimate.epistemic[:1], None)
    new, _ = reuse_calibration(
        trust, few, target[:1], embedding=embedding[:1], composition=FRACTIONS, training_composition=lithium
    )  # fmt: skip
    assert (trust.domain.elements, new.domain.elements) == ({8}, {3, 8})


def test_a_calibration_of_other_signals_is_not_kept(sample):
    trust, estimate, embedding, target = sample
    few = Estimate(estimate.mean[:1], estimate.epistemic[:1], np.ones(1))
    with pytest.raises(ValueError, match="reads epistemic, distance, the tuned one has epistemic, aleatoric, distance"):
        reuse_calibration(
            trust, few, target[:1], embedding=embedding[:1], composition=FRACTIONS, training_composition=FRACTIONS
        )  # fmt: skip


def test_a_run_on_few_labels_says_what_it_kept(make_data, tiny, tmp_path):
    train(make_data(n_train=64), tiny(epochs=2), tmp_path / "old", progress=False)
    old = load_model(tmp_path / "old")
    few, config = make_data(n_train=4, n_val=1, n_test=8, seed=3), tiny(epochs=1, checkpoint="last")
    with pytest.warns(UserWarning, match="the calibration is that of old, with its std times .*got 1"):
        train(few, config, tmp_path / "new", start=old, frozen="convolutions", progress=False)
    new = load_model(tmp_path / "new")
    report = json.loads((tmp_path / "new" / "metrics.json").read_text())["calibration"]
    assert (report["kept_from"], report["sha256"]) == ("old", old.sha256)
    assert new.training_record["calibration"] == report
    assert new.trust is not None
    assert new.trust.interval == old.trust.interval
    with pytest.warns(UserWarning, match="not calibrated"):
        train(few, config, tmp_path / "alone", progress=False)
    assert load_model(tmp_path / "alone").trust is None

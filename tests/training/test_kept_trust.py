"""The calibration of a model to tune, kept where there are too few new labels for another."""

import json

import numpy as np
import pytest
import torch

from cgcnn_ase import load_model
from cgcnn_ase.training.run import train
from cgcnn_ase.uncertainty import CalibrationData
from cgcnn_ase.uncertainty.protocol import MemberOutputs
from cgcnn_ase.uncertainty.regression_calibration import PRIOR, RegressionCalibration

FRACTIONS = np.zeros((1, 101))
FRACTIONS[0, 8] = 1.0


def outputs(mean, spread, embedding, std=None):
    """Outputs of two members with this mean and spread."""
    values = torch.from_numpy(np.stack([mean - spread, mean + spread]))
    stds = None if std is None else torch.from_numpy(np.stack([std, std]))
    return MemberOutputs(values, stds, torch.from_numpy(embedding))


def data(labels, fractions, embedding, training=None):
    training = fractions if training is None else training
    return CalibrationData(
        labels=labels, composition=fractions, training_embedding=embedding, training_composition=training
    )


@pytest.fixture(scope="module")
def sample():
    """Predictions with their errors, whose std is 0.1, and the calibration on them."""
    rng = np.random.default_rng(0)
    n = 400
    mean, spread = rng.normal(size=n), rng.uniform(0.5, 1.5, n)
    embedding = rng.normal(size=(n, 4))
    estimate = outputs(mean, spread, embedding).estimate
    target = estimate.mean + rng.normal(scale=0.1, size=n)
    fractions = np.repeat(FRACTIONS, n, axis=0)
    calibration = RegressionCalibration.fit(outputs(mean, spread, embedding), data(target, fractions, embedding))
    return calibration, estimate, embedding, target


def kept(sample, n, times, training=FRACTIONS):
    """What is kept where n held-out errors are so many times the std."""
    calibration, estimate, embedding, _ = sample
    few = outputs(estimate.mean[:n], estimate.epistemic[:n], embedding[:n])
    fractions = np.repeat(FRACTIONS, n, axis=0)
    std = calibration.apply(few, fractions).std
    labels = few.estimate.mean + times * std
    new, factor = calibration.reuse(few, data(labels, fractions, embedding, training))
    return std, new.apply(few, fractions), factor


@pytest.mark.parametrize("n", [1, 5, 19])
@pytest.mark.parametrize("times", [0.0, 1.0, 3.0, 10.0])
def test_the_std_grows_with_errors_larger_than_it_says_and_never_shrinks(sample, n, times):
    std, judged, factor = kept(sample, n, times)
    assert factor == pytest.approx(max(1.0, np.sqrt((PRIOR + n * times**2) / (PRIOR + n))))
    assert np.allclose(judged.std, std * factor)
    calibration = sample[0]
    assert np.allclose(judged.upper - judged.lower, 2 * calibration.interval.factors[0] * judged.std)


def test_new_elements_join_the_domain(sample):
    lithium = np.zeros((1, 101))
    lithium[0, 3] = 1.0
    calibration, estimate, embedding, target = sample
    few = outputs(estimate.mean[:1], estimate.epistemic[:1], embedding[:1])
    new, _ = calibration.reuse(few, data(target[:1], FRACTIONS, embedding, lithium))
    assert (calibration.domain.elements, new.domain.elements) == ({8}, {3, 8})


def test_a_calibration_of_other_signals_is_not_kept(sample):
    calibration, estimate, embedding, target = sample
    few = outputs(estimate.mean[:1], estimate.epistemic[:1], embedding[:1], np.ones(1))
    with pytest.raises(ValueError, match="reads epistemic, distance, the tuned one has epistemic, aleatoric, distance"):
        calibration.reuse(few, data(target[:1], FRACTIONS, embedding))


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
    assert new.calibration is not None
    assert new.calibration.interval == old.calibration.interval
    with pytest.warns(UserWarning, match="not calibrated"):
        train(few, config, tmp_path / "alone", progress=False)
    assert load_model(tmp_path / "alone").calibration is None

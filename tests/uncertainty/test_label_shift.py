"""The shift to a user's labels: what is known of made-up labels comes out, and coverage is what is promised."""

import numpy as np
import pytest

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.uncertainty.label_shift import LabelShift
from cgcnn_ase.uncertainty.protocol import CalibratedPrediction

Z = [3, 8, 16, 26, 28]


def made_up(rng, n, *, shift=0.0, offsets=None, scale=1.0, upper=1.0):
    """Predictions of a calibrated model, labels whose error is `scale` times the std beside a shift, fractions."""
    fractions = np.zeros((n, 101))
    for row in fractions:
        row[rng.choice(Z, 3, replace=False)] = rng.dirichlet([2, 2, 2])
    value, std = rng.normal(size=n), rng.uniform(0.02, 0.1, size=n)
    by_element = np.array([(offsets or {}).get(name, 0.0) for name in symbols()])
    labels = value + shift + fractions @ by_element + scale * std * rng.normal(size=n)
    members = np.stack([value - 0.01, value + 0.01])
    half = 1.645 * std
    return CalibratedPrediction(value, members, std, value - half, value + upper * half), labels, fractions


def rows(prediction, keep):
    parts = {name: getattr(prediction, name)[..., keep] for name in ("value", "members", "std", "lower", "upper")}
    return prediction._replace(**parts)


def test_a_constant_and_a_factor_come_out():
    rng = np.random.default_rng(0)
    prediction, labels, fractions = made_up(rng, 400, shift=-0.4, scale=2.0)
    shift = LabelShift.fit(prediction, labels, fractions, level=0.9, element_offsets=False)
    assert shift.offsets == {}
    assert shift.constant == pytest.approx(-0.4, abs=0.02)
    assert shift.std_factor * np.hypot(0.06, shift.scatter) / 0.06 == pytest.approx(2.0, rel=0.2)
    again = shift.apply(prediction, fractions)
    assert np.array_equal(again.value, prediction.value + shift.constant)
    assert np.allclose(again.members.mean(axis=0), again.value)
    assert np.mean(((labels - again.value) / again.std) ** 2) == pytest.approx(1.0, abs=0.05)
    assert np.mean((again.lower <= labels) & (labels <= again.upper)) == pytest.approx(0.9, abs=0.03)


def test_offsets_of_elements_come_out_where_there_are_some():
    prediction, labels, fractions = made_up(np.random.default_rng(1), 50, offsets={"O": -0.8, "S": 0.4})
    shift = LabelShift.fit(prediction, labels, fractions, level=0.9)
    assert shift.offsets
    truth = -0.8 * fractions[:, 8] + 0.4 * fractions[:, 16]
    assert np.abs(shift.shift(fractions) - truth).mean() < 0.03
    assert shift.mae_after < 0.6 * shift.mae_before
    flat = LabelShift.fit(prediction, labels, fractions, level=0.9, element_offsets=False)
    assert flat.mae_after > 1.5 * shift.mae_after


def test_twenty_labels_are_not_over_fitted():
    """Labels that differ by a constant alone: with offsets the errors elsewhere are hardly larger than without."""
    worse = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        prediction, labels, fractions = made_up(rng, 520, shift=0.3)
        few = slice(0, 20)
        errors = []
        for choice in ("auto", False):
            shift = LabelShift.fit(
                rows(prediction, few), labels[few], fractions[few], level=0.9, element_offsets=choice
            )
            errors.append(np.abs(prediction.value + shift.shift(fractions) - labels)[20:].mean())
        worse.append(errors[0] / errors[1])
    assert np.mean(worse) < 1.05


def test_a_few_wrong_labels_hardly_move_the_shift():
    prediction, labels, fractions = made_up(np.random.default_rng(2), 30, shift=0.2)
    labels[:3] += 25.0
    shift = LabelShift.fit(prediction, labels, fractions, level=0.8, element_offsets=False)
    assert shift.constant == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize(("n", "n_draws"), [(20, 60), (50, 25)])
def test_coverage_over_many_draws_is_what_is_promised(n, n_draws):
    """Shift and offsets are fitted on the labels that calibrate, and still the interval covers its level on average."""
    inside = []
    for seed in range(n_draws):
        rng = np.random.default_rng(seed)
        prediction, labels, fractions = made_up(
            rng, n + 300, shift=0.5, offsets={"O": -0.6, "Fe": 0.3}, scale=3.0, upper=2.0
        )
        labels += rng.laplace(scale=0.05, size=labels.size)
        shift = LabelShift.fit(rows(prediction, slice(0, n)), labels[:n], fractions[:n], level=0.9)
        new = shift.apply(rows(prediction, slice(n, None)), fractions[n:])
        inside.append(np.mean((new.lower <= labels[n:]) & (labels[n:] <= new.upper)))
    expected = shift.expected_coverage
    assert 0.87 < np.mean(inside) < 0.93
    assert 0.9 <= expected.mean < 0.91
    assert np.mean((expected.low <= np.array(inside)) & (np.array(inside) <= expected.high)) > 0.8


def test_many_labels_are_left_out_in_parts_that_the_seed_decides():
    prediction, labels, fractions = made_up(np.random.default_rng(3), 200, shift=0.1)
    fits = [LabelShift.fit(prediction, labels, fractions, level=0.9, seed=seed) for seed in (0, 0, 1)]
    assert fits[0] == fits[1] != fits[2]
    assert fits[0].expected_coverage.high - fits[0].expected_coverage.low < 0.09


def test_an_empty_interval_stays_empty_and_does_not_count():
    prediction, labels, fractions = made_up(np.random.default_rng(4), 30, shift=0.1)
    prediction.lower[:5] = prediction.upper[:5] = np.nan
    shift = LabelShift.fit(prediction, labels, fractions, level=0.9)
    assert shift.n_labels == 25
    again = shift.apply(prediction, fractions)
    assert np.isnan(again.lower[:5]).all()
    assert np.isfinite(again.lower[5:]).all()
    assert np.isfinite(again.value).all()
    prediction.lower[:11] = np.nan
    with pytest.raises(ValueError, match="at least 20 labels, there are 19 beside 11 that are so far outside"):
        LabelShift.fit(prediction, labels, fractions, level=0.9)


def test_a_higher_level_needs_more_labels():
    prediction, labels, fractions = made_up(np.random.default_rng(5), 40)
    with pytest.raises(ValueError, match="an interval of 99% needs at least 99 labels, there are 40"):
        LabelShift.fit(prediction, labels, fractions, level=0.99)


def test_labels_that_are_the_predictions_say_nothing():
    prediction, _, fractions = made_up(np.random.default_rng(6), 40)
    for labels in (prediction.value, prediction.value + 0.25):
        with pytest.raises(ValueError, match="the model's own predictions"):
            LabelShift.fit(prediction, labels, fractions, level=0.9)


def test_it_comes_back_from_json():
    prediction, labels, fractions = made_up(np.random.default_rng(7), 40, offsets={"O": 1.0})
    shift = LabelShift.fit(prediction, labels, fractions, level=0.9)
    assert LabelShift.model_validate_json(shift.model_dump_json()) == shift
    with pytest.raises(ValueError, match="offsets of Qq: no elements"):
        LabelShift.model_validate(shift.model_dump() | {"offsets": {"Qq": 1.0}})

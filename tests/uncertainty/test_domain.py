"""What a model was trained on, and what lies outside."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from cgcnn_ase.uncertainty.domain import Domain


@pytest.fixture(scope="module")
def embeddings():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(8, 8))
    return rng.normal(size=(6000, 8)) @ mixing + rng.normal(size=8)


@pytest.fixture(scope="module")
def domain(embeddings):
    return Domain.fit(embeddings[:3000], embeddings[3000:5000], elements={3, 8, 28})


def test_distance_is_mahalanobis(domain, embeddings):
    """Of the shrunk covariance, the amount of shrinkage here summed sample by sample as in Ledoit and Wolf's paper."""
    train, new = embeddings[:3000], embeddings[5000:5020]
    mean = train.mean(axis=0)
    sample = np.cov(train.T, bias=True)
    target = np.trace(sample) / 8 * np.eye(8)
    noise = sum(np.sum((np.outer(x, x) - sample) ** 2) for x in train - mean) / 3000**2
    a = noise / np.sum((sample - target) ** 2)
    assert 1e-4 < a < 0.1
    inverse = np.linalg.inv((1 - a) * sample + a * target)
    np.testing.assert_allclose(domain.distance(new), [mahalanobis(x, mean, inverse) for x in new], rtol=1e-4)


def test_distance_does_not_depend_on_the_axes_of_the_embedding(embeddings):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    new = embeddings[5000:]
    plain = Domain.fit(embeddings[:3000], embeddings[3000:5000], elements={8})
    turned = Domain.fit(embeddings[:3000] @ rotation, embeddings[3000:5000] @ rotation, elements={8})
    np.testing.assert_allclose(turned.distance(new @ rotation), plain.distance(new), rtol=1e-3)


def test_one_in_a_hundred_of_the_same_distribution_is_flagged(domain, embeddings):
    flagged = np.mean(domain.distance(embeddings[5000:]) > domain.limit)
    assert 0.002 < flagged < 0.025
    assert np.mean(domain.distance(embeddings[3000:5000]) > domain.limit) == pytest.approx(0.01, abs=0.001)


def test_verdict_inside(domain, embeddings):
    (verdict,) = domain.check(embeddings[:3000].mean(axis=0)[None], elements=[[3, 28, 8]])
    assert verdict.in_domain is True
    assert verdict.reason == ""
    assert verdict.distance == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([84, 8], "contains Po, which no training structure has"),
        ([85, 84, 8], "contains Po and At, which no training structure has"),
        ([84, 85, 1], "contains H, Po and At, which no training structure has"),
        ([101], "contains element 101, which no training structure has"),
    ],
)
def test_unseen_element(domain, embeddings, numbers, words):
    (verdict,) = domain.check(embeddings[:3000].mean(axis=0)[None], elements=[numbers])
    assert verdict.in_domain is False
    assert verdict.reason == words


def test_far_embedding_and_both_reasons(domain, embeddings):
    far = embeddings[:1] + 100
    plain, both = domain.check(np.repeat(far, 2, axis=0), elements=[[8], [84]])
    distance = domain.distance(far)[0]
    reason = f"embedding distance {distance:.1f} beyond {domain.limit:.1f}, the 99th percentile of the calibration set"
    assert not plain.in_domain
    assert plain.reason == reason
    assert both.reason == f"contains Po, which no training structure has; {reason}"


def test_close_to_the_limit_the_numbers_still_differ(domain):
    # move along one whitened axis to just beyond the limit
    step = np.linalg.inv(domain.whitening.astype(float))[0] * (domain.limit + 0.002)
    (verdict,) = domain.check((domain.mean + step)[None], elements=[[8]])
    assert not verdict.in_domain
    first, second = verdict.reason.removeprefix("embedding distance ").split(",")[0].split(" beyond ")
    assert float(first) > float(second)


def test_an_embedding_that_is_not_finite_costs_no_other_its_verdict(domain, embeddings):
    new = embeddings[:3].copy()
    new[1, 2] = np.inf
    verdicts = domain.check(new, elements=[[8]] * 3)
    assert [np.isfinite(v.distance) for v in verdicts] == [True, False, True]
    assert not verdicts[1].in_domain
    assert verdicts[1].reason == "embedding is not finite"


def test_a_feature_that_was_dead_in_training_is_noticed(embeddings):
    dead = np.hstack([embeddings, np.zeros((6000, 1))])
    fitted = Domain.fit(dead[:3000], dead[3000:5000], elements={8})
    alive = dead[5000:5010].copy()
    alive[:, -1] = embeddings.std()
    assert (fitted.distance(alive) > fitted.limit).all()
    assert np.mean(fitted.distance(dead[5000:]) > fitted.limit) < 0.025


def test_fewer_structures_than_features_still_gives_distances():
    rng = np.random.default_rng(2)
    fitted = Domain.fit(rng.normal(size=(20, 50)), rng.normal(size=(200, 50)), elements={8})
    assert np.mean(fitted.distance(rng.normal(size=(500, 50))) > fitted.limit) < 0.05
    assert (fitted.distance(rng.normal(5, 1, size=(10, 50))) > fitted.limit).all()


def test_arrays_round_trip(domain, embeddings):
    arrays = domain.arrays()
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}
    again = Domain.from_arrays(arrays)
    assert again.elements == domain.elements
    assert again.limit == domain.limit
    np.testing.assert_array_equal(again.distance(embeddings), domain.distance(embeddings))


def test_a_safetensors_file_keeps_the_domain(domain, embeddings, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file(domain.arrays(), tmp_path / "domain.safetensors")
    again = Domain.from_arrays(safetensors.load_file(tmp_path / "domain.safetensors"))
    np.testing.assert_array_equal(again.distance(embeddings), domain.distance(embeddings))


def test_incomplete_arrays_are_refused(domain):
    arrays = domain.arrays()
    with pytest.raises(ValueError, match="the domain lacks elements, limit"):
        Domain.from_arrays({"mean": arrays["mean"], "whitening": arrays["whitening"]})
    with pytest.raises(ValueError, match="do not fit each other"):
        Domain.from_arrays(arrays | {"mean": arrays["mean"][:3]})


@pytest.mark.parametrize(
    ("training", "calibration", "elements", "words"),
    [
        (np.ones((5, 3)), np.ones((5, 3)), {8}, "are the same"),
        (np.ones(5), np.ones((5, 3)), {8}, r"training embeddings must have the shape \(n, F\)"),
        (np.eye(3), np.ones((5, 4)), {8}, "3 columns, calibration 4"),
        (np.eye(3), np.empty((0, 3)), {8}, "one calibration embedding"),
        (np.eye(3), np.eye(3), set(), "needs the elements"),
        (np.eye(3) * np.nan, np.eye(3), {8}, "not finite"),
    ],
)
def test_bad_input_is_refused_in_words(training, calibration, elements, words):
    with pytest.raises(ValueError, match=words):
        Domain.fit(training, calibration, elements=elements)


def test_wrong_shapes_at_the_check(domain, embeddings):
    with pytest.raises(ValueError, match=r"shape \(n, 8\), got \(2, 5\)"):
        domain.distance(np.ones((2, 5)))
    with pytest.raises(ValueError, match="2 embeddings but the elements of 1 structures"):
        domain.check(embeddings[:2], elements=[[8]])

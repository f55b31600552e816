"""Conformal intervals hold what they promise."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from cgcnn_ase.uncertainty.conformal import ConformalInterval


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("n", [39, 200])
def test_marginal_coverage_over_exchangeable_repeats(level, n):
    """E[coverage] = ceil((n + 1) level) / (n + 1) exactly for continuous scores, whatever the std is worth."""
    rng = np.random.default_rng(n)
    repeats, m = 1500, 50
    covered = np.empty(repeats)
    for r in range(repeats):
        std = np.exp(rng.normal(size=n + m))  # says nothing about the error
        error = rng.standard_t(2, n + m)
        fitted = ConformalInterval.fit(std[:n], error[:n], level=level)
        lower, upper = fitted.apply(np.zeros(m), std[n:])
        covered[r] = np.mean((lower <= error[n:]) & (error[n:] <= upper))
    expected = np.ceil((n + 1) * level - 1e-9) / (n + 1)
    assert level - 1e-9 <= expected <= level + 1 / (n + 1)
    assert covered.mean() == pytest.approx(expected, abs=4 * covered.std() / np.sqrt(repeats))


def test_the_quantile_by_hand():
    # 9 scores, level 0.9: the ceil(10 * 0.9) = 9th smallest
    fitted = ConformalInterval.fit(np.ones(9), -np.arange(1, 10), level=0.9)
    assert fitted.factors == (9.0,)
    # 99 scores, level 0.07: the 7th, though 100 * 0.07 = 7.000000000000001
    assert ConformalInterval.fit(np.ones(99), np.arange(1, 100), level=0.07).factors == (7.0,)
    # 19 scores, level 0.9: the 18th
    assert ConformalInterval.fit(np.full(19, 2.0), np.arange(1, 20), level=0.9).factors == (9.0,)


def test_width_follows_std():
    fitted = ConformalInterval(level=0.9, factors=(1.5,), n_samples=100)
    lower, upper = fitted.apply([1.0, -2.0], [0.1, 0.2])
    np.testing.assert_allclose(lower, [0.85, -2.3])
    np.testing.assert_allclose(upper, [1.15, -1.7])


def test_bins_cover_each_range_where_one_factor_does_not():
    """A std twice too small where it is small: one factor covers on average only, two cover in both halves."""
    rng = np.random.default_rng(0)
    std = np.exp(rng.normal(size=20_000))
    error = np.where(std < 1, 2, 1) * std * rng.normal(size=20_000)
    coverage = {}
    for n_bins in (1, 2):
        fitted = ConformalInterval.fit(std[:10_000], error[:10_000], n_bins=n_bins)
        lower, upper = fitted.apply(np.zeros(10_000), std[10_000:])
        inside = (lower <= error[10_000:]) & (error[10_000:] <= upper)
        coverage[n_bins] = [inside[std[10_000:] < 1].mean(), inside[std[10_000:] >= 1].mean()]
    assert coverage[1][0] < 0.87
    assert coverage[1][1] > 0.93
    np.testing.assert_allclose(coverage[2], 0.9, atol=0.02)


@pytest.mark.parametrize(("n", "factors"), [(399, 1), (400, 4)])
def test_thin_bins_fall_back_to_one(n, factors):
    rng = np.random.default_rng(1)
    fitted = ConformalInterval.fit(rng.uniform(1, 2, n), rng.normal(size=n), n_bins=4)
    assert len(fitted.factors) == factors
    assert len(fitted.edges) == factors - 1


def test_std_that_are_all_equal_make_one_bin():
    fitted = ConformalInterval.fit(np.ones(1000), np.random.default_rng(2).normal(size=1000), n_bins=5)
    assert len(fitted.factors) == 1
    assert fitted.factors[0] == pytest.approx(1.645, abs=0.15)


def test_json_round_trip():
    rng = np.random.default_rng(3)
    fitted = ConformalInterval.fit(rng.uniform(1, 2, 500), rng.normal(size=500), n_bins=3)
    again = ConformalInterval.model_validate(json.loads(json.dumps(fitted.model_dump())))
    assert again == fitted
    assert len(again.factors) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"std": np.ones(8), "errors": np.ones(8)}, "level 0.9 needs at least 9 held-out samples, got 8"),
        ({"std": np.ones(98), "errors": np.ones(98), "level": 0.99}, "at least 99 held-out samples, got 98"),
        ({"std": np.empty(0), "errors": np.empty(0)}, "got 0"),
        ({"std": np.zeros(30), "errors": np.ones(30)}, "std must be positive"),
        ({"std": np.ones(30), "errors": np.ones(29)}, "errors has 29 values where 30 are needed"),
        ({"std": np.ones(30), "errors": np.full(30, np.nan)}, "not finite"),
        ({"std": np.ones(30), "errors": np.ones(30), "level": 1.0}, "level must lie between 0 and 1"),
        ({"std": np.ones(30), "errors": np.ones(30), "n_bins": 0}, "n_bins must be at least 1"),
    ],
)
def test_bad_input_is_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        ConformalInterval.fit(**arguments)


@pytest.mark.parametrize(
    "change", [{"edges": [1.0]}, {"factors": [-1.0]}, {"edges": [2.0, 1.0], "factors": [1, 1, 1]}, {"level": 1.5}]
)
def test_a_damaged_config_is_refused(change):
    config = {"level": 0.9, "edges": [], "factors": [1.6], "n_samples": 100}
    assert ConformalInterval.model_validate(config).factors == (1.6,)
    with pytest.raises(ValidationError):
        ConformalInterval.model_validate(config | change)


# Groups


def grouped(rng, n_groups, *, shared=1.5):
    """Errors of groups of 1 to 20 samples that have most of their size in common; stds that know nothing of it."""
    sizes = rng.integers(1, 21, n_groups)
    scale = np.repeat(rng.lognormal(sigma=shared, size=n_groups), sizes)
    groups = np.repeat(np.arange(n_groups), sizes)
    return np.ones(len(scale)), rng.normal(size=len(scale)) * scale, groups


def test_one_sample_a_group_is_the_plain_interval():
    rng = np.random.default_rng(0)
    for n in (20, 55, 300):
        errors = rng.normal(size=n)
        plain = ConformalInterval.fit(np.ones(n), errors)
        assert ConformalInterval.fit(np.ones(n), errors, groups=np.arange(n)[::-1]).factors == plain.factors


def test_coverage_of_the_sites_of_a_new_group():
    """Where the calibration has few groups, taking their samples for independent covers too little of new ones."""
    rng = np.random.default_rng(1)
    covered = {"plain": [], "grouped": []}
    for _ in range(300):
        std, errors, groups = grouped(rng, 12)
        _, new, owner = grouped(rng, 40)
        for name, grouping in (("plain", None), ("grouped", groups)):
            q = ConformalInterval.fit(std, errors, groups=grouping).factors[0]
            inside = np.bincount(owner, np.abs(new) <= q) / np.bincount(owner)
            covered[name].append(inside.mean())  # of a site of a random new group
    assert np.mean(covered["plain"]) < 0.89
    assert 0.9 < np.mean(covered["grouped"]) < 0.96


def test_too_few_groups():
    with pytest.raises(ValueError, match="at least 5 groups, got 3"):
        ConformalInterval.fit(np.ones(30), np.arange(30.0), groups=np.arange(30) % 3)

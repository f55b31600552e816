"""Pareto fronts against every pair, their volume against counting, and what scalarisation finds."""

from itertools import pairwise

import numpy as np
import pytest

from cgcnn_ase.optimization.pareto import as_cost, cost_moments, hypervolume, pareto_front, random_weights, scalarise

GOALS = [("min", "min"), ("max", "min"), ("min", "max", "max"), (0.5, "min", "max"), ("min",), ("min",) * 4]


@pytest.mark.parametrize("goals", GOALS)
def test_the_front_is_that_of_comparing_all_pairs(goals):
    values = np.random.default_rng(len(goals)).integers(0, 5, (40, len(goals))) / 4  # with many equal numbers
    costs = np.stack([as_cost(column, goal) for column, goal in zip(values.T, goals, strict=True)], axis=1)
    beaten = [any((other <= cost).all() and (other < cost).any() for other in costs) for cost in costs]
    np.testing.assert_array_equal(pareto_front(values, goals), ~np.array(beaten))


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_the_volume_is_that_of_the_unit_cells_it_covers(m):
    side = 6
    values = np.random.default_rng(m).integers(0, side + 2, (12, m))  # some do not beat the reference
    cells = np.stack(np.meshgrid(*[np.arange(side)] * m, indexing="ij"), axis=-1).reshape(-1, m)
    covered = (values[None] <= cells[:, None]).all(axis=2).any(axis=1).sum()
    assert hypervolume(values, ["min"] * m, [side] * m) == pytest.approx(covered)
    assert hypervolume(-values, ["max"] * m, [-side] * m) == pytest.approx(covered)


def test_more_rows_never_cover_less_and_beaten_rows_add_nothing():
    values = np.random.default_rng(0).random((30, 3))
    goals, reference = ["min", "max", "min"], [1.0, 0.0, 1.0]
    volumes = [hypervolume(values[:n], goals, reference) for n in range(1, 31)]
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(volumes))
    front = values[pareto_front(values, goals)]
    assert hypervolume(front, goals, reference) == pytest.approx(volumes[-1])


def test_scalarisation_reaches_all_of_a_concave_front_and_nothing_else():
    angles = np.linspace(0, np.pi / 2, 15)
    front = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # both high is good, as costs it is not convex
    costs = np.concatenate([-front, -0.8 * front])
    rng = np.random.default_rng(0)
    chosen = {
        int(scalarise(costs, random_weights(2, rng), costs.min(axis=0), costs.max(axis=0)).argmin())
        for _ in range(2000)
    }
    assert chosen == set(range(15))


def test_moments_of_the_distance_from_a_target():
    draws = np.abs(np.random.default_rng(0).normal(0.3, 0.5, 400_000) - 0.1)
    mean, std = cost_moments([0.3, 2.0], [0.5, 0.0], 0.1)
    assert mean == pytest.approx([draws.mean(), 1.9], abs=2e-3)
    assert std == pytest.approx([draws.std(), 0.0], abs=2e-3)


@pytest.mark.parametrize(
    ("values", "goals", "words"),
    [
        ([[1, 2]], ["min"], r"values of shape \(1, 2\) and 1 goals"),
        ([[1, np.nan]], ["min", "min"], "a value is not a finite number"),
        ([[1, 2]], ["min", "low"], "goal 'low'; allowed: min, max, or a number"),
    ],
)
def test_refused(values, goals, words):
    with pytest.raises(ValueError, match=words):
        pareto_front(values, goals)

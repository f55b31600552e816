"""The search space: what it holds against brute force, and what it refuses."""

import sys
from collections import Counter
from itertools import product
from math import comb

import numpy as np
import pytest

from cgcnn_ase.optimization.skopt_engine import as_dimensions
from cgcnn_ase.optimization.space.search_space import SearchSpace, initial_points, neighbors
from cgcnn_ase.optimization.space.variables import Simplex

CONFIG = {
    "variables": {
        "li_vacancy_ratio": {"low": 0.0, "high": 0.5, "sites": 6},
        "ni_content": {"low": 0.5, "high": 1.0, "sites": 6},
        "co_content": {"low": 0.0, "high": 0.3, "sites": 6},
        "mn_content": {"low": 0.1, "high": 0.5, "sites": 6},
        "dopant_content": {"low": 0.0, "high": 0.34, "sites": 6},
        "dopant": {"categories": ["Mg", "Ti", "Zr"], "of": "dopant_content"},
        "ordering_seed": {"seeds": 2},
    },
    "sum_to_one": ["ni_content", "co_content", "mn_content", "dopant_content"],
}


@pytest.fixture(scope="module")
def space():
    return SearchSpace.from_dict(CONFIG)


def brute_force():
    """Keys of all points, by trying every combination of sixths."""
    result = set()
    for li, ni, co, mn, dopant in product(range(7), repeat=5):
        inside = li <= 3 and 3 <= ni <= 6 and co <= 1 and 1 <= mn <= 3 and dopant <= 2 and ni + co + mn + dopant == 6
        if inside:
            for name, seed in product(["Mg", "Ti", "Zr"] if dopant else ["none"], range(2)):
                result.add((li, ni, co, mn, dopant, name, seed))
    return result


def numbers(point):
    sixths = ("li_vacancy_ratio", "ni_content", "co_content", "mn_content", "dopant_content")
    return (*(round(6 * point[name]) for name in sixths), point["dopant"], point["ordering_seed"])


def test_the_candidates_are_those_of_brute_force(space):
    result = [numbers(point) for point in space.candidates()]
    assert len(result) == len(set(result)) == space.count == len(space)
    assert set(result) == brute_force()


def test_every_point_adds_up_and_is_its_own_nearest(space):
    for point in space:
        assert sum(point[name] for name in CONFIG["sum_to_one"]) == pytest.approx(1, abs=1e-12)
        assert space.snap(point) == point
    assert len({space.key(point) for point in space}) == space.count


def test_uniform_coordinates_give_every_point_equally_often(space):
    drawn = 40 * space.count
    counts = Counter(space.key(p) for p in space.from_unit(np.random.default_rng(0).random((drawn, space.n_unit))))
    assert len(counts) == space.count
    chi_squared = sum((n - 40) ** 2 / 40 for n in counts.values())
    assert chi_squared < space.count + 4 * np.sqrt(2 * space.count)


def test_a_sample_is_of_different_points_and_repeats_with_its_seed(space):
    first, again, other = space.sample(50, 3), space.sample(50, 3), space.sample(50, 4)
    assert first == again != other
    assert len({space.key(point) for point in first}) == 50
    assert {space.key(p) for p in space.sample(10**6, 0)} == {space.key(p) for p in space}


def test_a_space_too_large_to_list_is_still_counted_and_sampled():
    shares = {name: {"low": 0, "high": 1, "sites": 60} for name in "abcdefg"}
    space = SearchSpace.from_dict({"variables": shares, "sum_to_one": list(shares)})
    assert space.count == comb(66, 6)
    huge = SearchSpace.from_dict({"variables": {f"x{i}": {"low": 0, "high": 9, "integer": True} for i in range(30)}})
    assert huge
    assert huge.count == 10**30
    assert len({huge.key(point) for point in huge.sample(20, 0)}) == 20
    with pytest.raises(ValueError, match="more than 200,000: sample it"):
        space.candidates()
    points = space.sample(100, 0)
    assert len({space.key(point) for point in points}) == 100
    means = np.mean([[point[name] for name in shares] for point in space.sample(2000, 1)], axis=0)
    np.testing.assert_allclose(means, 1 / 7, atol=0.015)  # uniform: each share is 1/7 in the mean


def test_nearest_is_the_nearest_of_all(space):
    rng = np.random.default_rng(5)
    everything = [numbers(point) for point in space]
    shares = np.array([row[1:5] for row in everything]) / 6
    for _ in range(50):
        asked = rng.random(4)
        point = dict(zip(CONFIG["sum_to_one"], asked.tolist(), strict=True))
        snapped = space.snap({**point, "li_vacancy_ratio": 0.2, "dopant": "Ti", "ordering_seed": 1})
        got = np.array([snapped[name] for name in CONFIG["sum_to_one"]])
        assert ((got - asked) ** 2).sum() == pytest.approx(((shares - asked) ** 2).sum(axis=1).min())
        assert snapped["dopant"] == ("Ti" if snapped["dopant_content"] else "none")


def test_features_are_between_0_and_1_and_do_not_tell_seeds_apart(space):
    features = space.features(space.candidates())
    assert features.min() == 0
    assert features.max() == 1
    assert len(np.unique(features.round(9), axis=0)) == space.count / 2
    assert space.has_replicas


def test_neighbors_are_points_of_the_space_one_exchange_away(space):
    keys = {space.key(point) for point in space}
    for point in space.sample(30, 0):
        near = neighbors(space, point)
        assert {space.key(each) for each in near} <= keys - {space.key(point)}
        for each in near:
            moved = sum(abs(each[name] - point[name]) for name in CONFIG["sum_to_one"]) * 6
            assert round(moved) in (0, 2)


def test_by_neighbors_every_point_is_reached(space):
    start = space.point(0)
    seen, border = {space.key(start)}, [start]
    while border:
        for each in neighbors(space, border.pop()):
            if (key := space.key(each)) not in seen:
                seen.add(key)
                border.append(each)
    assert len(seen) == space.count


def test_numbers_in_a_range():
    space = SearchSpace.from_dict(
        {"variables": {"x": {"low": -1, "high": 3}, "n": {"low": 1, "high": 3, "integer": True}}}
    )
    assert space.count is None
    points = space.sample(500, 0)
    assert {point["n"] for point in points} == {1, 2, 3}
    assert all(-1 <= point["x"] <= 3 for point in points)
    assert space.snap({"x": 7.0, "n": 2.4}) == {"x": 3.0, "n": 2}
    with pytest.raises(ValueError, match="x can be any number in a range: such points cannot be counted"):
        space.candidates()


def test_dimensions_are_those_of_scikit_optimize(space):
    skopt = pytest.importorskip("skopt.space")
    by_name = {dimension.name: dimension for dimension in as_dimensions(space.variables)}
    assert by_name["ni_content"] == skopt.Real(0.5, 1.0)
    assert by_name["ordering_seed"] == skopt.Integer(0, 1)
    assert by_name["dopant"].categories == ("Mg", "Ti", "Zr")


def test_without_scikit_optimize_it_is_said_what_to_install(space, monkeypatch):
    for name in ("skopt", "skopt.space", "skopt.sampler"):
        monkeypatch.setitem(sys.modules, name, None)
    for ask in (lambda: as_dimensions(space.variables), lambda: initial_points(space, 4)):
        with pytest.raises(ImportError, match="of the extra 'optimize': pip install"):
            ask()
    assert len(initial_points(space, 4, kind="random")) == 4


def test_a_simplex_counts_what_it_lists():
    simplex = Simplex((0, 1, 0), (5, 3, 4), 7, (1, 2, 4))
    listed = [simplex[k] for k in range(simplex.count)]
    assert len(set(listed)) == simplex.count
    expected = sum(
        (2 if b else 1) * (4 if c else 1) for a, b, c in product(range(6), range(1, 4), range(5)) if a + b + c == 7
    )
    assert simplex.count == expected


def changed(**options):
    return {"variables": CONFIG["variables"] | options, "sum_to_one": CONFIG["sum_to_one"]}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (changed(ni_content={"low": 0.8, "high": 0.7, "sites": 6}), "ni_content: low 0.8 is above high 0.7"),
        (changed(ni_content={"low": 0.7, "high": 0.8, "sites": 6}), "no whole number of 6 sites is between 0.7"),
        (changed(ni_content={"low": 0.7, "high": 1.2, "sites": 6}), "a share is 0 to 1, not 0.7 to 1.2"),
        (changed(ni_content={"low": 0.9, "high": 1.0, "sites": 6}, mn_content={"low": 0.3, "high": 1, "sites": 6}),
         "lower bounds add up to 1.2, more than 1"),
        (changed(ni_content={"low": 0, "high": 0.1, "sites": 6}, mn_content={"low": 0, "high": 0.2, "sites": 6}),
         "the upper bounds add up to 0.94, less than 1"),
        (changed(ni_content={"low": 0.5, "high": 1, "sites": 5}), "the same number of sites, not"),
        (changed(ni_content={"low": 0.5, "high": 1}), "ni_content must have low, high and sites"),
        (changed(x={"low": 0, "high": float("nan")}), "x: high must be a finite number, not nan"),
        (changed(x={"low": 0, "step": 1}), "x: low, step given; a variable has"),
        (changed(x={"seeds": 0}), "x: seeds must be a whole number of at least 1, not 0"),
        (changed(x={"categories": ["a", "a"]}), "x: categories must be a list of different names"),
        (changed(x={"categories": ["a"], "of": "li_vacancy_ratio"}), "x of li_vacancy_ratio: names can be of a share"),
        (changed(x={"categories": ["a"], "of": "dopant_content"}), "dopant: a share can have names by one variable"),
        (changed(dopant={"categories": ["none"], "of": "dopant_content"}), "'none' is the name where dopant_content"),
        ({**CONFIG, "sum_to_one": ["ni_content", "fe_content"]}, "sum_to_one: unknown fe_content"),
        ({**CONFIG, "sum_to_one": ["ni_content", "ni_content"]}, "sum_to_one: ni_content is there twice"),
        ({"variables": {}}, "at least one variable"),
        ({"variabels": {}}, "unknown variabels; allowed: variables, sum_to_one"),
    ],
)  # fmt: skip
def test_refused(config, words):
    with pytest.raises(ValueError, match=words):
        SearchSpace.from_dict(config)


def test_points_of_other_variables_are_refused(space):
    with pytest.raises(ValueError, match="point of ni_content; the variables are li_vacancy_ratio, "):
        space.snap({"ni_content": 0.8})
    with pytest.raises(ValueError, match="dopant 'Fe'; allowed: Mg, Ti, Zr"):
        space.snap(space.point(0) | {"dopant_content": 2 / 6, "ni_content": 0.5, "dopant": "Fe"})
    for bad, words in (
        ({"dopant": "none"}, "dopant 'none'; allowed"),
        ({"ni_content": np.inf}, "must be a finite number"),
    ):
        with pytest.raises(ValueError, match=words):
            space.checked_key(space.point(0) | {"dopant_content": 0.1} | bad)
    assert space.checked_key(space.point(0)) == space.key(space.point(0))

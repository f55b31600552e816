"""scikit-optimize's ``Optimizer`` behind our search space: its points are realisable, new, and the same on resuming."""

import json

import numpy as np
import pytest

from cgcnn_ase.optimization.loop import optimise
from cgcnn_ase.optimization.skopt_engine import SkoptEngine
from cgcnn_ase.optimization.space.search_space import SearchSpace

SHARES = {
    "variables": {
        "ni_content": {"low": 0.5, "high": 1.0, "sites": 6},
        "co_content": {"low": 0.0, "high": 0.3, "sites": 6},
        "dopant_content": {"low": 0.0, "high": 0.34, "sites": 6},
        "dopant": {"categories": ["Mg", "Ti"], "of": "dopant_content"},
        "n": {"low": 2, "high": 4, "integer": True},
        "fixed": {"low": 0.5, "high": 0.5},
    },
    "sum_to_one": ["ni_content", "co_content", "dopant_content"],
}


def value(point):
    return (point["ni_content"] - 4 / 6) ** 2 + 0.1 * abs(point["n"] - 3) + 0.2 * (point["dopant"] == "Ti")


@pytest.mark.parametrize("acquisition", ["ei", *(pytest.param(name, marks=pytest.mark.long) for name in ("pi", "lcb"))])
def test_its_points_are_of_the_space_and_none_comes_twice(acquisition):
    space = SearchSpace.from_dict(SHARES)
    engine, keys = SkoptEngine(space, acquisition=acquisition, n_initial=4, seed=1), []
    while points := engine.ask(3):
        keys += [space.key(point) for point in points]
        # one of each round fails, which is told as no number
        engine.tell(points[1:], [value(point) for point in points[1:]], failed=points[:1])
        if len(keys) > 9:
            break
    assert len(set(keys)) == len(keys)
    assert set(keys) <= {space.key(point) for point in space}


@pytest.mark.slow
def test_it_finds_the_lowest_of_a_real_variable_and_of_a_table():
    space = SearchSpace.from_dict({"variables": {"x": {"low": -1.0, "high": 2.0}}})
    for candidates in (None, [{"x": x} for x in (-0.9, 0.1, 0.3, 0.45, 1.2, 1.9)]):
        engine = SkoptEngine(space, goals=("max",), n_initial=3, seed=0, candidates=candidates)
        told = []
        for _ in range(6 if candidates else 10):
            (point,) = engine.ask()
            told.append(point)
            engine.tell([point], [-((point["x"] - 0.31) ** 2)])
        assert engine.best()[0]["x"] == pytest.approx(0.31, abs=0.02)
        assert candidates is None or sorted(point["x"] for point in told) == [row["x"] for row in candidates]
    assert engine.ask() == []


@pytest.mark.slow
def test_told_again_it_goes_on_as_if_never_stopped():
    space = SearchSpace.from_dict(SHARES)
    whole, told = SkoptEngine(space, n_initial=4, seed=3), []
    for _ in range(5):
        points = whole.ask(2)
        whole.tell(points, [value(point) for point in points])
        told += points
    again = SkoptEngine(space, n_initial=4, seed=3)
    again.tell(told[:6][::-1], [value(point) for point in told[:6][::-1]])
    assert again.ask(2) == told[6:8]


def test_pending_points_are_not_asked_for_again():
    space = SearchSpace.from_dict(SHARES)
    engine = SkoptEngine(space, n_initial=2, seed=0)
    points = engine.ask(2)
    engine.tell(points, [value(point) for point in points])
    asked = [space.key(point) for _ in range(3) for point in engine.ask(2)]
    assert len(set(asked)) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"goals": ("min", "max")}, "one objective"),
        ({"surrogate": [None]}, "a surrogate of its own"),
        ({"acquisition": "thompson"}, "unknown acquisition of the engine skopt 'thompson'; allowed: ei, pi, lcb"),
    ],
)
def test_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SkoptEngine(SearchSpace.from_dict(SHARES), **options)


def test_an_optimisation_by_scikit_optimize(tmp_path):
    (tmp_path / "f.py").write_text("def f(point, atoms):\n    return {'value': (point['x'] - 0.3) ** 2 + point['y']}\n")
    side = {"low": 0.0, "high": 1.0, "sites": 20}
    config = {
        "space": {"variables": {"x": side, "y": side}},
        "objectives": "value",
        "oracle": {"name": "callable", "function": "f.py:f"},
        "engine": "skopt",
        "budget": {"evaluations": 10, "initial": 4, "batch": 2},
    }
    whole = optimise(config, tmp_path / "whole", folder=tmp_path)
    proposed = [r for r in whole.records if r.chosen_by == "skopt ei"]
    assert len(proposed) == 6
    assert whole.best.values["value"] <= 0.01
    assert np.isfinite([r.values["value"] for r in whole.records]).all()
    half = {**config, "budget": config["budget"] | {"evaluations": 6}}
    optimise(half, tmp_path / "run", folder=tmp_path)
    resumed = optimise(config, tmp_path / "run", folder=tmp_path, resume=True)
    assert [r.key for r in resumed.records] == [r.key for r in whole.records]
    with pytest.raises(ValueError, match="started with engine 'skopt', not None"):
        optimise(config | {"engine": "native"}, tmp_path / "run", folder=tmp_path, resume=True)
    assert json.loads((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()[-1])["chosen_by"] == "skopt ei"

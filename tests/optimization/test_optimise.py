"""The loop: what it finds, what it saves, what it refuses, and that a kill changes nothing."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cgcnn_ase.optimization.loop import optimise
from cgcnn_ase.optimization.oracles import Evaluation, OracleError

BOWL = """
import math, time

def bowl(point, atoms, seconds=0.0):
    time.sleep(seconds)
    return {"value": (point["x"] - 0.3) ** 2 + (point["y"] - 0.7) ** 2, "slope": point["x"] + 0.1 * point["y"]}

def fails(point, atoms):
    x = point["x"]
    if x > 0.8:
        raise RuntimeError("did not converge")
    return {"value": math.nan if x < 0.2 else (x - 0.3) ** 2 + (point["y"] - 0.7) ** 2}

def never(point, atoms):
    raise RuntimeError("the code is not installed")
"""
SIDE = {"low": 0.0, "high": 1.0, "sites": 20}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bowl.py").write_text(BOWL)
    return tmp_path


def settings(function="bowl", **changes):
    return {
        "space": {"variables": {"x": SIDE, "y": SIDE}},
        "objectives": "value",
        "oracle": {"name": "callable", "function": f"bowl.py:{function}"},
        "budget": {"evaluations": 16, "initial": 6, "batch": 2},
        "seed": 1,
    } | changes


def trace(result):
    """All that must be the same in two runs of the same configuration."""
    return [
        (r.round, r.point, r.status, r.values, r.chosen_by, r.gain, r.mean, r.std, r.reason) for r in result.records
    ]


def test_it_finds_the_lowest_and_logs_every_step(folder):
    steps = []
    result = optimise(settings(), folder / "run", folder=folder, on_step=steps.append)
    assert result.best.point == {"x": 0.3, "y": 0.7}
    assert result.stopped == "the budget of 16 evaluations is spent"
    assert [step.round for step in steps] == list(range(1, 9))
    assert [r.key for step in steps for r in step.records] == [r.key for r in result.records]
    assert len({r.key for r in result.records}) == 16
    rows = list(csv.DictReader((folder / "run" / "log.csv").open()))
    assert [row["round"] for row in rows] == [str(k // 2 + 1) for k in range(16)]
    for row, record in zip(rows, result.records, strict=True):
        assert float(row["value"]) == (float(row["x"]) - 0.3) ** 2 + (float(row["y"]) - 0.7) ** 2
        assert row["oracle"] == "the function bowl.py:bowl"
        assert (row["value_predicted"] == "") == (record.chosen_by == "initial")
    proposed = [r for r in result.records if r.chosen_by == "ei"]
    assert len(proposed) >= 8
    errors = [abs(r.mean["value"] - r.values["value"]) / r.std["value"] for r in proposed]
    assert np.median(errors) < 3


def test_the_same_seed_the_same_run_and_another_one(folder):
    one, two, other = (
        optimise(settings(seed=seed), folder / name, folder=folder) for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert trace(one) == trace(two)
    assert [r.key for r in one.records] != [r.key for r in other.records]


def test_failures_are_recorded_and_never_told_as_numbers(folder):
    oracle = {"name": "callable", "function": "bowl.py:fails", "retries": 2}
    result = optimise(settings(oracle=oracle), folder / "run", folder=folder)
    assert {r.reason for r in result.failed} <= {"RuntimeError: did not converge", "value is nan, not a finite number"}
    assert result.failed
    assert all(r.point["x"] > 0.8 or r.point["x"] < 0.2 for r in result.failed)
    assert all((r.attempts, r.values) == (3, {}) for r in result.failed)
    assert all(r.attempts == 1 and 0.2 <= r.point["x"] <= 0.8 for r in result.known)
    assert len({r.key for r in result.records}) == 16  # none is tried again
    # what is proposed is what is proposed where the optimiser knows the good ones alone
    assert all(np.isfinite([*r.mean.values(), *r.std.values()]).all() for r in result.records)
    assert result.best.values["value"] < 0.02


def test_all_fail(folder):
    result = optimise(settings("never"), folder / "run", folder=folder)
    assert (len(result.failed), result.best, result.front) == (16, None, [])
    assert json.loads(json.dumps(result.to_dict()))["failed"][0]["reason"] == "RuntimeError: the code is not installed"


def test_a_space_that_is_used_up(folder):
    config = settings(
        space={"variables": {"x": {"low": 0, "high": 1, "sites": 4}, "y": {"low": 1, "high": 1, "sites": 1}}}
    )
    result = optimise(config, folder / "run", folder=folder)
    assert len(result.records) == 5
    assert result.stopped == "no point is left that was not evaluated"


# killed and resumed


def _killed_after(n, folder, config):
    """Run the command and kill it (-9) when so many evaluations are saved."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cgcnn_ase.cli", "optimize", config, "--output", folder / "run", "--resume"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    saved = folder / "run" / "evaluations.jsonl"
    deadline = time.monotonic() + 120
    while not (saved.exists() and saved.read_bytes().count(b"\n") >= n):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return saved


@pytest.mark.slow
def test_killed_and_resumed_is_never_killed(folder):
    oracle = {"name": "callable", "function": "bowl.py:bowl", "parameters": {"seconds": 0.15}}
    config = settings(oracle=oracle, budget={"evaluations": 15, "initial": 5, "batch": 3})
    (folder / "c.yaml").write_text(json.dumps(config))
    whole = optimise(folder / "c.yaml", folder / "whole")

    saved = _killed_after(4, folder, folder / "c.yaml")  # in the middle of the initial design and of a batch
    assert saved.read_bytes().count(b"\n") < 15
    saved = _killed_after(10, folder, folder / "c.yaml")  # in the middle of another batch
    with saved.open("ab") as lines:  # and as if it had been writing
        lines.write(b'{"index": 10, "rou')
    steps = []
    resumed = optimise(folder / "c.yaml", folder / "run", resume=True, on_step=steps.append)
    assert trace(resumed) == trace(whole)
    assert [r.index for r in resumed.records] == list(range(15))
    assert len(list(csv.DictReader((folder / "run" / "log.csv").open()))) == 15
    assert steps[-1].round == 5
    assert steps[0].round > 1

    again = optimise(folder / "c.yaml", folder / "run", resume=True)  # nothing is left to do
    assert trace(again) == trace(whole)


def test_one_process_at_a_time(folder):
    config = settings()

    def meanwhile(step):
        with pytest.raises(ValueError, match="another process is running this optimisation"):
            optimise(config, folder / "run", folder=folder, resume=True)

    assert len(optimise(config, folder / "run", folder=folder, on_step=meanwhile).records) == 16
    assert len(optimise(config, folder / "run", folder=folder, resume=True).records) == 16


def test_a_failure_is_a_failure_after_a_resume_too(folder):
    config = settings("fails")
    whole = optimise(config, folder / "whole", folder=folder)
    half = optimise(config | {"budget": config["budget"] | {"evaluations": 8}}, folder / "run", folder=folder)
    assert len(half.records) == 8
    more = optimise(config, folder / "run", folder=folder, resume=True)  # a larger budget is no other run
    assert trace(more) == trace(whole)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 3}, "the run was started with seed 1, not 3"),
        ({"acquisition": "lcb"}, "acquisition.name 'ei', not 'lcb'"),
        ({"space": {"variables": {"x": SIDE, "y": SIDE | {"sites": 10}}}}, "space.variables.y.sites 20, not 10"),
        ({"objectives": [{"name": "value", "goal": "max"}]}, "objectives.0.goal None, not 'max'"),
        (
            {"oracle": {"name": "callable", "function": "bowl.py:fails"}},
            "oracle.function 'bowl.py:bowl', not 'bowl.py:fails'",
        ),
    ],
)
def test_another_configuration_is_not_resumed(changes, words, folder):
    config = settings(budget={"evaluations": 2})
    optimise(config, folder / "run", folder=folder)
    with pytest.raises(ValueError, match=words):
        optimise(config | changes, folder / "run", folder=folder, resume=True)
    with pytest.raises(ValueError, match="holds an optimisation already; --resume goes on with it"):
        optimise(config, folder / "run", folder=folder)


def test_folders_that_are_something_else(folder):
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="is not empty, or name another folder"):
        optimise(settings(), folder / "taken", folder=folder)
    with pytest.raises(ValueError, match="holds no optimisation to resume"):
        optimise(settings(), folder / "taken", folder=folder, resume=True)
    optimise(settings(budget={"evaluations": 2}), folder / "run", folder=folder)
    saved = folder / "run" / "evaluations.jsonl"
    saved.write_text("not JSON\n" + saved.read_text())
    with pytest.raises(ValueError, match=r"evaluations.jsonl, line 1: not JSON"):
        optimise(settings(budget={"evaluations": 2}), folder / "run", folder=folder, resume=True)


# labels, tables, several objectives


def test_measurements_are_told_first(folder):
    (folder / "m.csv").write_text("x,y,value,value_std\n0.3,0.701,0.0001,0.02\n0.9,0.9,0.4,0.02\n0.1,0.5,0.08,\n")
    config = settings(labels="m.csv", budget={"evaluations": 8, "initial": 3})
    result = optimise(config, folder / "run", folder=folder)
    labels = [r for r in result.records if r.status == "label"]
    assert [(r.round, r.values["value"], r.stds) for r in labels] == [
        (0, 0.0001, {"value": 0.02}), (0, 0.4, {"value": 0.02}), (0, 0.08, {}),
    ]  # fmt: skip
    assert labels[0].oracle == "m.csv"
    evaluated = [r for r in result.records if r.status != "label"]
    assert len(evaluated) == 8  # they cost no budget
    assert all(r.chosen_by == "ei" for r in evaluated)  # and stand for the initial design
    again = optimise(config, folder / "run", folder=folder, resume=True)
    assert trace(again) == trace(result)
    (folder / "m.csv").write_text("x,y,value\n0.3,0.7,0.5\n")
    with pytest.raises(ValueError, match="labels_sha256"):
        optimise(config, folder / "run", folder=folder, resume=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,value\n0.3,0.1\n", "no column y; needed are x, y, value"),
        ("x,y,value\n0.3,0.7,\n", "row 2: value is empty, not a finite number"),
        ("x,y,value\n0.3,0.7,high\n", "row 2: value is 'high'"),
        ("x,y,value\n0.3,1.7,0.1\n", "row 2: y 1.7 is not in the space, where it is 0 to 1"),
        ("x,y,value,value_std\n0.3,0.7,0.1,-1\n", "row 2: the error bar of value is negative"),
        ("x,y,value\n0.3,0.7,0.1\n0.3,0.7,0.2\n", "row 3: the same point as row 2"),
        ("", "not a CSV file"),
    ],
)
def test_bad_measurements(text, words, folder):
    (folder / "m.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        optimise(settings(labels="m.csv"), folder / "run", folder=folder)
    assert not (folder / "run").exists()


def test_a_table_is_all_there_is(folder):
    rng = np.random.default_rng(0)
    rows = sorted({(a / 20, b / 20) for a, b in rng.integers(0, 21, (30, 2)).tolist()})
    text = "".join(f"{x},{y},{(x - 0.3) ** 2 + (y - 0.7) ** 2}\n" for x, y in rows)
    (folder / "t.csv").write_text("x,y,value\n" + text)
    config = settings(oracle={"name": "table", "file": "t.csv"}, budget={"evaluations": 100, "initial": 5})
    result = optimise(config, folder / "run", folder=folder)
    assert not result.failed
    assert sorted((r.point["x"], r.point["y"]) for r in result.records) == rows
    best = min(rows, key=lambda row: (row[0] - 0.3) ** 2 + (row[1] - 0.7) ** 2)
    assert (result.best.point["x"], result.best.point["y"]) == best
    assert result.best.index < len(rows) / 2


def test_two_objectives(folder):
    objectives = ["value", {"name": "slope", "goal": "max"}]
    result = optimise(settings(objectives=objectives), folder / "run", folder=folder)
    points = [(r.values["value"], -r.values["slope"]) for r in result.records]
    beaten = [any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in points) for a in points]
    assert [r.index for r in result.front] == [k for k, one in enumerate(beaten) if not one]
    assert len(result.front) > 1


def test_a_target(folder):
    objectives = {"name": "slope", "target": 0.5}
    result = optimise(settings(objectives=objectives), folder / "run", folder=folder)
    assert abs(result.best.values["slope"] - 0.5) == min(abs(r.values["slope"] - 0.5) for r in result.records) < 0.02


# oracles as Python objects


class Parallel:
    """Answers in any order, as jobs on a cluster do; every other job is lost when it is tried first."""

    name, references = "callable", None

    def __init__(self):
        self.asked = []

    def describe(self):
        return {"name": self.name, "what": "a cluster"}

    def evaluate(self, point, atoms):
        raise NotImplementedError

    def evaluate_many(self, points, structures):
        assert len(points) == len(structures)
        self.asked.append(len(points))
        for k in reversed(range(len(points))):
            x = points[k]["x"]
            if x > 0.8:
                yield k, OracleError("job 7 was killed")
            elif round(20 * x) % 2 or len(self.asked) % 2 == 0:
                yield k, Evaluation({"value": (x - 0.3) ** 2})


def test_side_by_side(folder):
    config = settings(budget={"evaluations": 12, "initial": 4, "batch": 4})
    config["oracle"] = config["oracle"] | {"retries": 1}
    oracle = Parallel()
    result = optimise(config, folder / "run", folder=folder, oracle=oracle)
    assert len(oracle.asked) == 6  # three rounds, and what failed in each once more
    assert oracle.asked[::2] == [4, 4, 4]
    assert max(oracle.asked[1::2]) < 4
    assert len(result.records) == 12
    assert {r.reason for r in result.failed} == {"job 7 was killed"}
    assert all(r.attempts == 1 + (round(20 * r.point["x"]) % 2 == 0 or r.status == "failed") for r in result.records)
    assert result.oracle["what"] == "a cluster"
    assert trace(optimise(config, folder / "other", folder=folder, oracle=Parallel())) == trace(result)


class Together(Parallel):
    """Cells of one energy an atom."""

    def evaluate_many(self, points, structures):
        self.asked.append(len(points))
        for k, atoms in enumerate(structures):
            yield k, Evaluation({"energy": -4.0 * len(atoms)})


def test_cells_side_by_side_count_their_time_once(folder, monkeypatch):
    """A mixing energy needs the cells of the end members, too; on this clock each look is a second."""
    clock = itertools.count()
    monkeypatch.setattr("cgcnn_ase.optimization.oracles.base.monotonic", lambda: float(next(clock)))
    config = {
        "space": {
            "host": "LiNiO2", "supercell": [1, 1, 1],
            "variables": {"ni_content": [0.3, 0.7], "co_content": [0.3, 0.7], "mn_content": [0, 0.4]},
        },
        "objectives": "mixing_energy_per_atom", "oracle": {"name": "chgnet"},
        "budget": {"evaluations": 1, "initial": 1}, "relax": False,
    }  # fmt: skip
    oracle = Together()
    (record,) = optimise(config, folder / "run", folder=folder, oracle=oracle).records
    assert oracle.asked[0] > 2
    assert record.values["mixing_energy_per_atom"] == pytest.approx(0.0)
    assert record.seconds == oracle.asked[0]  # when the last of them is there


def test_a_cluster_has_its_own_time_limits(folder):
    config = settings(oracle={"name": "callable", "function": "bowl.py:bowl", "timeout_s": 3})
    with pytest.raises(ValueError, match="timeout_s"):
        optimise(config, folder / "run", folder=folder, oracle=Parallel())


# cathodes

#: eV/atom
ELEMENTS = {"Li": -2.0, "Ni": -6.0, "Co": -7.0, "Mn": -9.0, "O": -5.0}
ADDITIVE = f"""
calls = []

def energy(point, atoms, binding=0.0):
    calls.append(point)
    table = {ELEMENTS}
    symbols = atoms.get_chemical_symbols()
    total = sum(table[s] for s in symbols) - binding * symbols.count("Li")
    return {{"energy": total}}, {{"energy": 0.1}}
"""


@pytest.mark.parametrize("name", ["stability", "formation_energy_per_atom", "voltage"])
def test_energies_that_add_up(name, folder):
    """Where every atom has its own energy nothing mixes, nothing forms, and all lithium leaves at one voltage."""
    (folder / "additive.py").write_text(ADDITIVE)
    binding = 3.5 if name == "voltage" else 0.0
    config = {
        "space": {
            "host": "LiNiO2",
            "supercell": [2, 1, 1],
            "variables": {"ni_content": [0.0, 1.0], "mn_content": [0.0, 1.0], "li_vacancy_ratio": [0.1, 0.5]},
        },
        "objectives": name,
        "oracle": {
            "name": "callable",
            "function": "additive.py:energy",
            "parameters": {"binding": binding},
            "references": ELEMENTS,
        },
        "budget": {"evaluations": 6, "initial": 4},
    }
    result = optimise(config, folder / "run", folder=folder)
    assert [r.reason for r in result.failed] == []
    (objective,) = result.objectives
    assert all(r.values[objective.name] == pytest.approx(binding, abs=1e-9) for r in result.records)
    assert all(r.stds[objective.name] > 0 for r in result.records)
    cells = [key for r in result.records for key in r.cells]
    assert len(cells) == len(set(cells))  # none is computed twice

"""A package with an acquisition, a surrogate, an oracle and a search engine of its own, one function or class each."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from cgcnn_ase.optimization.acquisition import ACQUISITIONS, acquire
from cgcnn_ase.optimization.loop import optimise
from cgcnn_ase.optimization.oracles import ORACLES

MODULE = '''
import numpy as np
from cgcnn_ase.optimization.acquisition import Proposal
from cgcnn_ase.optimization.oracles import Evaluation
from cgcnn_ase.optimization.engine import Optimizer
from cgcnn_ase.optimization.surrogates.base import SurrogatePrediction


def cautious(candidates):
    return -(candidates.cost + candidates.kappa * candidates.std)


class Nearest:
    """The label of the nearest point."""

    def __init__(self, context):
        self.objective = context.objective

    def fit(self, pool, values, noise, *, seed):
        self.features, self.values = pool.features, values

    def predict(self, pool):
        distance = np.linalg.norm(pool.features[:, None] - self.features[None], axis=2)
        return SurrogatePrediction(self.values[distance.argmin(axis=1)], distance.min(axis=1), np.zeros(len(pool)))

    def covariance(self, pool, others):
        return np.zeros((len(pool), len(others)))

    def sample(self, pool, seed):
        return self.predict(pool).mean


class Parabola:
    name, references = "parabola", None

    def __init__(self, options, *, folder):
        self.center = float(options.get("center", 0.5))

    def describe(self):
        return {"name": self.name, "what": f"a parabola about {self.center}"}

    def evaluate(self, point, atoms):
        return Evaluation({"value": (point["x"] - self.center) ** 2})


class Downwards(Optimizer):
    """The free candidate with the lowest x."""

    def _best_next(self, n):
        taken = self._taken()
        free = [p for p in self._candidates.points if self.space.key(p) not in taken]
        return [Proposal(point, "downwards") for point in sorted(free, key=lambda p: p["x"])[:n]]
'''
ENTRY_POINTS = """
[cgcnn_ase.acquisitions]
cautious = search_of_mine:cautious
[cgcnn_ase.surrogates]
nearest = search_of_mine:Nearest
[cgcnn_ase.oracles]
parabola = search_of_mine:Parabola
[cgcnn_ase.search_engines]
downwards = search_of_mine:Downwards
[cgcnn.engines]
mycode = search_of_mine:MyCode
"""
CONFIG = {
    "space": {"variables": {"x": {"low": 0.0, "high": 1.0, "sites": 20}}},
    "objectives": "value",
    "oracle": {"name": "parabola", "center": 0.3},
    "surrogate": "nearest",
    "acquisition": {"name": "cautious", "kappa": 1.0},
    "budget": {"evaluations": 8, "initial": 4},
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    (tmp_path / "search_of_mine.py").write_text(MODULE)
    info = tmp_path / "search_of_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: search-of-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("installed")
def test_in_python(tmp_path):
    assert acquire("cautious", [1.0, 2.0], [0.5, 0.1]).tolist() == [-2.0, -2.2]
    result = optimise(CONFIG, tmp_path / "run")
    assert [r.chosen_by for r in result.records][4:] == ["cautious"] * 4
    assert result.oracle["what"] == "a parabola about 0.3"
    downwards = optimise(CONFIG | {"engine": "downwards"}, tmp_path / "other")
    assert [r.chosen_by for r in downwards.records][4:] == ["downwards"] * 4
    with pytest.raises(ValueError, match=r"unknown search engine 'down'; did you mean downwards\?"):
        optimise(CONFIG | {"engine": "down"}, tmp_path / "none")


@pytest.mark.usefixtures("installed")
def test_a_dft_engine_is_an_oracle_of_the_same_name():
    """AiiDA's part of the package makes it, and is imported when it is asked for."""
    assert ORACLES.check("mycode") == "mycode"
    assert ORACLES._entry_points()["mycode"].value == "aiida_plugin.oracles:mycode"


def test_an_acquisition_of_the_wrong_shape_is_refused(monkeypatch):
    monkeypatch.setitem(ACQUISITIONS._objects, "wrong-shape", lambda candidates: candidates.cost[:1])
    with pytest.raises(ValueError, match="'wrong-shape' must give one number for each of 2 candidates"):
        acquire("wrong-shape", [1.0, 2.0], [0.5, 0.1])


def test_on_the_command_line(installed):
    (installed / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    ran = subprocess.run(
        [sys.executable, "-m", "cgcnn_ase.cli", "optimize", "c.yaml", "--output", "run", "--json"],
        cwd=installed, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *filter(None, sys.path)])},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["oracle"]["what"] == "a parabola about 0.3"


def test_without_the_package_its_names_are_unknown(tmp_path):
    with pytest.raises(ValueError, match="surrogate.kind: unknown surrogate 'nearest'; allowed: gp, "):
        optimise(CONFIG | {"oracle": "chgnet", "acquisition": "ei"}, tmp_path / "run")

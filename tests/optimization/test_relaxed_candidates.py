"""A potential in an optimisation: as oracle, and as what relaxes candidates before they are evaluated."""

import json

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.optimize import BFGS

from cgcnn_ase import CGCNNCalculator
from cgcnn_ase.core.settings import parse_settings
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.optimization.config import DEFAULT_RELAXATION, OptimisationConfig
from cgcnn_ase.optimization.evaluator import check_relaxed_alike
from cgcnn_ase.optimization.loop import optimise
from cgcnn_ase.optimization.objectives import EvaluatedCell
from cgcnn_ase.optimization.oracles import Evaluation, OracleError, make_oracle

from ..potential.conftest import random_potential

# structures that differ in a lattice parameter, and the largest force that a function finds in what it is given
CODE = """
import numpy as np
from ase.build import bulk
from cgcnn_ase import CGCNNCalculator

def structure(point):
    atoms = bulk("LiCl", "rocksalt", a=5.0 + 0.3 * point["x"], cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms

def largest_force(point, atoms):
    atoms = atoms.copy()
    atoms.calc = CGCNNCalculator(MODEL)
    value = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    return {"largest_force": value, "a": float(atoms.cell.lengths()[0]), "spread": point["x"] ** 2}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimisation")
    model = save_model(random_potential(n_networks=2), folder / "potential")
    (folder / "code.py").write_text(CODE.replace("MODEL", repr(str(model))))
    return folder


def settings(**changes):
    return {
        "space": {"variables": {"x": {"low": 0.0, "high": 1.0, "sites": 8}}, "structure": "code.py:structure"},
        "objectives": "energy_per_atom",
        "oracle": {"name": "potential", "model": "potential"},
        "budget": {"evaluations": 5, "initial": 3, "batch": 2},
        "relax": {"model": "potential", "fmax": 0.005, "fixed_cell": True},
        "seed": 1,
    } | changes


def structure(point):
    atoms = bulk("LiCl", "rocksalt", a=5.0 + 0.3 * point["x"], cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def by_bfgs(atoms, model, *, fmax=0.005):
    atoms.calc = CGCNNCalculator(model)
    assert BFGS(atoms, logfile=None).run(fmax=fmax, steps=500)
    return atoms.get_potential_energy()


def test_the_potential_as_oracle_with_and_without_relaxation(files):
    model, atoms = load_model(files / "potential"), structure({"x": 0.5})
    plain = make_oracle("potential", {"model": "potential"}, folder=files)
    evaluation = plain.evaluate({}, atoms)
    calculator = CGCNNCalculator(model)
    assert evaluation.values["energy"] == pytest.approx(calculator.get_potential_energy(atoms), abs=1e-5)
    relax = {"fmax": 0.002}
    oracle = make_oracle("potential", {"model": "potential", "relax": relax}, folder=files)
    in_its_cell = oracle.evaluate({}, atoms).values["energy"]
    assert in_its_cell == pytest.approx(by_bfgs(atoms.copy(), model, fmax=0.002), abs=1e-3)
    moves = make_oracle("potential", {"model": "potential", "relax": relax | {"fixed_cell": False}}, folder=files)
    assert moves.evaluate({}, atoms).values["energy"] < in_its_cell - 1e-3
    assert oracle.describe()["relax"] == {"fmax": 0.002, "steps": 200}  # as in runs of earlier versions
    assert moves.describe()["relax"] == {"fmax": 0.002, "steps": 200, "fixed_cell": False}
    described = plain.describe()
    assert described["what"] == f"the potential {model.name}, not DFT (uncorrected PBE(+U) energies)"
    assert described["sha256"] == model.sha256
    impatient = make_oracle("potential", {"model": "potential", "relax": {"fmax": 1e-6, "steps": 1}}, folder=files)
    with pytest.raises(OracleError, match="forces are above 1e-06 eV/Å after 1 steps"):
        impatient.evaluate({}, atoms)


def test_metals_of_another_scale_are_not_among_the_references(files):
    oracle = make_oracle("potential", {"model": "potential"}, folder=files)
    assert "Ni" not in oracle.references
    assert oracle.references["Li"] == pytest.approx(-1.909, abs=0.01)
    completed = make_oracle("potential", {"model": "potential", "references": {"Ni": -3.0}}, folder=files)
    assert completed.references["Ni"] == -3.0
    config = settings(
        space={"variables": {"li_vacancy_ratio": [0.0, 0.5]}, "host": "LiNiO2", "supercell": 1}, relax=False,
        objectives="formation_energy_per_atom", budget={"evaluations": 1, "initial": 1},
    )  # fmt: skip
    (failed,) = optimise(config, files / "scales", folder=files).failed
    assert "needs the elements' energies on the oracle's scale, and those of Ni are not known" in failed.reason


def test_candidates_are_relaxed_before_they_are_evaluated(files):
    result = optimise(settings(), files / "run", folder=files)
    model = load_model(files / "potential")
    assert len(result.known) == 5
    for record in result.known:
        expected = by_bfgs(structure(record.point), model) / 8
        assert record.values["energy_per_atom"] == pytest.approx(expected, abs=5e-4)
        (cell,) = record.cells.values()
        assert cell["info"]["relaxation"]["model"] == model.name
        assert cell["info"]["relaxation"]["steps"] > 0
        assert record.oracle.endswith(f"of structures relaxed by {model.name}")
    written = yaml.safe_load((files / "run" / "config.yaml").read_text())
    assert written["relax"] == {"model": "potential", "fmax": 0.005, "steps": 500, "fixed_cell": True}
    described = json.loads((files / "run" / "oracle.json").read_text())
    assert described["relaxed_by"] == {"model": model.name, "sha256": model.sha256}


def trace(result):
    return [(r.round, r.point, r.status, r.values, r.mean, r.std) for r in result.records]


def test_the_same_seed_the_same_run_also_where_it_is_resumed(files):
    whole = optimise(settings(), files / "whole", folder=files)
    first = settings(budget={"evaluations": 4, "initial": 3, "batch": 2})
    optimise(first, files / "parts", folder=files)
    resumed = optimise(settings(), files / "parts", folder=files, resume=True)
    assert trace(resumed)[:4] == trace(whole)[:4]
    assert (
        resumed.records[4].values == optimise(settings(), files / "parts", folder=files, resume=True).records[4].values
    )
    with pytest.raises(ValueError, match=r"relax\.fmax"):
        optimise(settings(relax={"model": "potential", "fmax": 0.01, "fixed_cell": True}), files / "whole",
                 folder=files, resume=True)  # fmt: skip


def test_another_oracle_is_given_the_relaxed_structure_with_its_cell(files):
    oracle = {"name": "callable", "function": "code.py:largest_force"}
    few = {"evaluations": 2, "initial": 2}
    relaxed = optimise(settings(oracle=oracle, objectives="largest_force", budget=few), files / "a", folder=files)
    assert all(record.values["largest_force"] <= 0.00501 for record in relaxed.known)
    plain = optimise(settings(oracle=oracle, objectives="largest_force", budget=few, relax=False), files / "b",
                     folder=files)  # fmt: skip
    assert all(record.values["largest_force"] > 0.01 for record in plain.known)
    assert "relax" not in yaml.safe_load((files / "b" / "config.yaml").read_text())
    with_cell = {"model": "potential", "fmax": 0.002}
    moved = optimise(settings(oracle=oracle, objectives="a", budget=few, relax=with_cell), files / "c", folder=files)
    assert all(abs(record.values["a"] - 5.0 - 0.3 * record.point["x"]) > 1e-3 for record in moved.known)


def of_host(**changes):
    """One cell of a host, with nothing said of its relaxation."""
    return {
        "space": {"variables": {"li_vacancy_ratio": [0.3, 0.4]}, "host": "LiNiO2", "supercell": 1},
        "objectives": "energy_per_atom",
        "oracle": {"name": "chgnet"},
        "budget": {"evaluations": 1, "initial": 1},
    } | changes


class KeepsCells:
    """An oracle that keeps what it is given."""

    name, references = "given", None

    def __init__(self):
        self.cells = []

    def describe(self):
        return {"name": self.name, "what": "what is given"}

    def evaluate(self, point, atoms):
        del point
        self.cells.append(atoms.copy())
        return Evaluation({"energy": -float(len(atoms)), "formation_energy_per_atom": -1.0, "a": 1.0}, {}, {})


@pytest.mark.parametrize(
    ("changes", "is_relaxed"),
    [
        ({}, True),
        ({"relax": False}, False),
        ({"objectives": "a"}, False),
        ({"oracle": {"name": "table", "file": "none.csv"}}, False),
        ({"oracle": {"name": "chgnet", "relax": {"fmax": 0.1}}}, False),
        ({"space": {"variables": {"x": {"low": 0.0, "high": 1.0}}, "structure": "code.py:structure"}}, False),
    ],
)
def test_cells_of_a_host_are_relaxed_by_default_where_energies_decide(changes, is_relaxed, files):
    config = parse_settings(OptimisationConfig, of_host(**changes))
    assert (config.relaxation == DEFAULT_RELAXATION) == is_relaxed
    assert ("relax" in config.as_dict(files)) == is_relaxed


def test_what_the_oracle_is_given_by_default(files):
    """The host as the potential of the package relaxes it; where it has not learned an element, as it is built."""
    oracle = KeepsCells()
    result = optimise(of_host(), files / "default", folder=files, oracle=oracle)
    (cell,) = result.known[0].cells.values()
    assert cell["info"]["relaxation"]["steps"] > 0
    assert result.oracle["what"].endswith("of structures relaxed by cathode-potential where it knows their elements")
    oracle.cells[0].calc = CGCNNCalculator("cathode-potential")
    assert np.linalg.norm(oracle.cells[0].get_forces(), axis=1).max() <= 0.051
    relaxer = DEFAULT_RELAXATION.build(files)
    caesium = bulk("CsCl", "cesiumchloride", a=4.1)
    kept, note = relaxer(caesium)
    assert kept is caesium
    assert note == {"model": "cathode-potential", "unrelaxed": "cathode-potential has not learned Cl, Cs"}


def test_relaxed_cells_are_not_compared_with_others(files):
    """A voltage, of whose cells the potential relaxes one alone."""
    full = EvaluatedCell({}, None, Evaluation({}, {}, {"relaxation": {"model": "p", "steps": 3}}))
    other = EvaluatedCell(
        {}, None, Evaluation({}, {}, {"relaxation": {"model": "p", "unrelaxed": "p has not learned Xe"}})
    )
    check_relaxed_alike({"lithiated": full, "itself": full})
    check_relaxed_alike({"lithiated": other, "itself": other})
    with pytest.raises(OracleError, match="some of the cells that are compared are not relaxed: p has not learned Xe"):
        check_relaxed_alike({"lithiated": full, "itself": other})


def test_a_candidate_that_does_not_end_is_a_failure_with_its_reason(files):
    relax = {"model": "potential", "fmax": 1e-6, "steps": 1}
    result = optimise(settings(relax=relax, budget={"evaluations": 2, "initial": 2}), files / "short", folder=files)
    assert len(result.failed) == 2
    assert all(r.reason.startswith("relaxation by random: forces are above 1e-06") for r in result.failed)
    assert all(np.isreal(r.attempts) and r.values == {} for r in result.failed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"relax": {"fmx": 0.1}}, r"unknown setting relax.fmx; did you mean fmax\?"),
        ({"relax": {"fmax": 0}}, "relax.fmax: input should be greater than 0, not 0"),
        ({"relax": "formation-energy-per-atom"}, "relaxation needs forces, and 'formation-energy-per-atom' has none"),
        ({"relax": "no-such-model"}, "no-such-model"),
        (
            {"space": {"variables": {"x": {"low": 0, "high": 1}}}},
            "relax is of structures, and the space makes none: give space.host or space.structure",
        ),
        ({"oracle": {"name": "potential", "model": "formation-energy-per-atom"}}, "so it has no forces"),
        ({"oracle": {"name": "potential", "model": "chgnet"}}, "chgnet is an oracle of its own"),
    ],
)
def test_bad_settings(changes, words, files, tmp_path):
    with pytest.raises(ValueError, match=words):
        optimise(settings(**changes), tmp_path / "run", folder=files)

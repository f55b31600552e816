"""LearningCalculator under ASE's optimisers and molecular dynamics."""

import csv

import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS

from cgcnn_ase import LearningCalculator
from cgcnn_ase.learning.calculator import attach_log
from cgcnn_ase.potential.steps import UncertainForcesError
from tests.learning.conftest import CountedEMT


def optimized(atoms, folder, **options):
    moved, reference = atoms.copy(), CountedEMT()
    moved.calc = LearningCalculator(None, reference, max_force_std=0.2, folder=folder, **options)
    path = []
    optimizer = BFGS(moved, logfile=None)
    optimizer.attach(lambda: path.append(moved.positions.copy()))
    assert optimizer.run(fmax=0.05, steps=100)
    return moved, reference, np.array(path)


def test_bfgs_ends_in_a_structure_that_the_reference_has_seen(slab, tmp_path):
    moved, reference, path = optimized(slab, tmp_path / "memory")
    calc = moved.calc
    assert calc.results["source"] == "reference"
    assert calc.n_calls == reference.calls < len(path)
    alone = moved.copy()
    alone.calc = EMT()
    assert moved.get_potential_energy() == pytest.approx(alone.get_potential_energy(), abs=1e-7)
    assert np.linalg.norm(alone.get_forces(), axis=1).max() <= 0.05 + 1e-6
    assert set(calc.results) <= set(calc.implemented_properties)
    assert calc.results["energy_std"] == 0.0


def test_started_again_it_takes_the_same_path_and_asks_nothing(slab, tmp_path):
    _, _, path = optimized(slab, tmp_path / "memory")
    _, reference, again = optimized(slab, tmp_path / "memory")
    assert reference.calls == 0
    np.testing.assert_array_equal(again, path)


def test_an_interrupted_path_is_the_beginning_of_the_whole(slab, tmp_path):
    _, whole, path = optimized(slab, tmp_path / "whole")
    moved = slab.copy()
    moved.calc = LearningCalculator(None, CountedEMT(), max_force_std=0.2, folder=tmp_path / "part")
    BFGS(moved, logfile=None).run(fmax=0.05, steps=3)
    known = moved.calc.n_calls
    _, reference, again = optimized(slab, tmp_path / "part")
    np.testing.assert_allclose(again, path, atol=1e-6)
    assert reference.calls == whole.calls - known


def test_predictions_are_within_their_std(slab, tmp_path):
    """Every structure of the path, labelled afterwards."""
    moved = slab.copy()
    moved.calc = LearningCalculator(None, EMT(), max_force_std=0.2, folder=tmp_path / "memory")
    optimizer = BFGS(moved, logfile=None)
    taken, wrong = 0, 0
    for _ in optimizer.irun(fmax=0.05, steps=60):
        if moved.calc.results["source"] == "potential":
            alone = moved.copy()
            alone.set_constraint()
            alone.calc = EMT()
            error = np.abs(alone.get_forces() - moved.calc.results["forces"]).max()
            taken += 1
            wrong += error > 3 * moved.calc.results["forces_std"].max()
            assert moved.calc.results["forces_std"].max() <= 0.2
    assert taken > 3
    assert wrong <= 0.1 * taken


def test_dynamics_ask_and_are_logged(copper, tmp_path):
    copper.calc = LearningCalculator(None, EMT(), max_force_std=0.3, folder=tmp_path / "memory")
    MaxwellBoltzmannDistribution(copper, temperature_K=300, rng=np.random.default_rng(0))
    run = Langevin(copper, 2 * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=np.random.default_rng(1))
    attach_log(run, tmp_path / "log.csv")
    run.run(40)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 41
    sources = [row["source"] for row in rows]
    assert 0 < sources.count("reference") < 41
    assert int(rows[-1]["n_calls"]) == copper.calc.n_calls
    assert all(float(row["max_force_std"]) <= 0.3 for row in rows)
    assert float(rows[-1]["time_fs"]) == pytest.approx(80.0)
    assert float(rows[-1]["temperature_K"]) == pytest.approx(copper.get_temperature())


def test_without_a_reference_it_stops_before_it_leaves_what_is_known(copper, tmp_path):
    known = copper.copy()
    known.calc = LearningCalculator(None, EMT(), max_force_std=0.3, folder=tmp_path / "memory")
    known.get_potential_energy()
    copper.calc = LearningCalculator(None, None, max_force_std=0.3, folder=tmp_path / "memory")
    copper.rattle(0.3, seed=4)
    with pytest.raises(UncertainForcesError, match="there is no reference to ask"):
        copper.get_forces()


def test_limits_and_elements(slab, copper, tmp_path):
    with pytest.raises(ValueError, match="max_force_std must be above 0, not -0.1"):
        LearningCalculator(None, EMT(), max_force_std=-0.1)
    slab.calc = LearningCalculator(None, EMT(), folder=tmp_path / "memory")
    slab.get_potential_energy()
    copper.calc = slab.calc
    with pytest.raises(ValueError, match="none of these elements"):
        copper.get_potential_energy()

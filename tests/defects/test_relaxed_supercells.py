"""Defect energies of relaxed supercells: by hand with ASE's BFGS, what does not end, and the command."""

import csv

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from ase.optimize import BFGS

from cgcnn_ase import CGCNNCalculator
from cgcnn_ase.defects import Ranking, Relaxation, Screening, cost_estimate, screen
from cgcnn_ase.defects.costs import SupercellEstimator
from cgcnn_ase.energies.energy_model import as_energy_model
from cgcnn_ase.models.checkpoint import save_model

from ..potential.conftest import random_potential

POTENTIALS = {"Li": -1.9, "Cl": -1.8}
TIGHT = Relaxation(fmax=1e-3)
# long enough for the neighbours of a vacancy to lie between two that differ
SUPERCELL = (2, 1, 1)


@pytest.fixture(scope="module")
def potential():
    return random_potential(seed=2, n_networks=2)


def host():
    """Rock salt: no force by symmetry, so that nothing but the defect moves."""
    return bulk("LiCl", "rocksalt", a=5.13, cubic=True)


def by_bfgs(atoms, calculator):
    moved = atoms.copy()
    moved.calc = calculator
    assert BFGS(moved, logfile=None).run(fmax=TIGHT.fmax, steps=500)
    return moved


def test_the_difference_is_that_of_cells_relaxed_by_bfgs_within_each_member(potential):
    estimate = SupercellEstimator(potential, POTENTIALS, relaxation=TIGHT)
    result = screen(host(), estimate=estimate, supercell=SUPERCELL, name="LiCl")
    unrelaxed = screen(host(), estimate=SupercellEstimator(potential, POTENTIALS), supercell=SUPERCELL)
    model = as_energy_model(potential)
    for one, before in zip(result, unrelaxed, strict=True):
        cells = [by_bfgs(atoms, CGCNNCalculator(potential)) for atoms in (host().repeat(SUPERCELL), one.defect.atoms)]
        energies = model.energies(cells)
        by_hand = energies.members[:, 1] - energies.members[:, 0] + POTENTIALS[one.cost.defect.removeprefix("v_")]
        assert one.cost.energy == pytest.approx(by_hand.mean(), abs=2e-4)
        assert one.cost.members == pytest.approx(by_hand, abs=5e-3)
        assert one.cost.std == pytest.approx(by_hand.std(), abs=5e-3)
        assert (one.cost.converged, one.cost.reason) == (True, "")
        assert one.cost.energy < before.cost.energy - 1e-3  # the neighbours of a vacancy move
        assert before.cost.converged is None
        # the structures that go to DFT are those that were made
        assert (one.defect.atoms.positions == before.defect.atoms.positions).all()


def test_an_ase_calculator_relaxes_too():
    copper = bulk("Cu", cubic=True)
    (one,) = screen(copper, estimate=SupercellEstimator(EMT(), {"Cu": -0.5}, relaxation=TIGHT), supercell=2)
    pristine, defective = (by_bfgs(a, EMT()).get_potential_energy() for a in (copper.repeat(2), one.defect.atoms))
    assert one.cost.energy == pytest.approx(defective - pristine - 0.5, abs=1e-4)


def test_what_does_not_end_keeps_its_row_and_says_so(potential):
    estimate = SupercellEstimator(potential, POTENTIALS, relaxation=Relaxation(fmax=1e-6, max_steps=1))
    ranking = Ranking(screen(host(), estimate=estimate, supercell=SUPERCELL))
    assert [cost.converged for cost in ranking.costs] == [False, False]
    for cost in ranking.costs:
        assert cost.reason.startswith("the defective cell: forces are above 1e-06 eV/Å after 1 steps (largest: ")
        assert np.isfinite(cost.energy)
    assert ranking.unconverged() == (
        "2 of 2 defects are not relaxed to the end (converged is False): the reason says why"
    )
    assert ranking.to_frame().converged.tolist() == [False, False]


def test_uncorrected_energies_and_those_of_elements_come_to_one_scale(potential):
    """The corrections of NiO of 2020: -2.541 eV for each Ni with U, -0.687 eV for each O."""
    nickel_oxide = bulk("NiO", "rocksalt", a=4.2, cubic=True)
    by_defect = {one.cost.defect: one.cost for one in screen(nickel_oxide, model=potential, supercell=1)}
    assert {cost.scale for cost in by_defect.values()} == {"mp2020"}
    assert by_defect["v_Ni"].correction == pytest.approx(2.541, abs=1e-6)
    assert by_defect["v_O"].correction == pytest.approx(0.687, abs=1e-6)
    assert {cost.reason for cost in by_defect.values()} == {""}
    of_nickel = SupercellEstimator(potential, {"Ni": -3.0})
    with pytest.raises(ValueError, match="two scales: .* give that of O, too"):
        list(screen(nickel_oxide, estimate=of_nickel, supercell=1))
    with_mu = screen(nickel_oxide, estimate=SupercellEstimator(potential, {"Ni": -3.0, "O": -5.0}), supercell=1)
    assert {(one.cost.scale, one.cost.correction) for one in with_mu} == {("uncorrected", 0.0)}


def test_models_without_forces_are_refused_before_anything_is_screened(small_model):
    with pytest.raises(ValueError, match="relaxation needs forces, and 'small-formation.*' has none"):
        Screening(model=str(small_model), relaxation=Relaxation()).check()
    with pytest.raises(ValueError, match="a model of sites reads the pristine host alone"):
        cost_estimate("vacancy-formation-energy", relaxation=Relaxation())


def test_the_command(cgcnn_ase, potential, tmp_path):
    model = save_model(potential, tmp_path / "potential")
    write(tmp_path / "LiCl.cif", host())
    mu = [word for symbol, energy in POTENTIALS.items() for word in ("--mu", f"{symbol}={energy}")]
    common = (
        "screen",
        tmp_path / "LiCl.cif",
        "--model",
        model,
        "--supercell",
        "2x1x1",
        "--top",
        "0",
        "--uncertain",
        "0",
        *mu,
    )
    ran = cgcnn_ase(*common, "--relax", "--fmax", "0.001", "--output", tmp_path / "run")
    assert ran.code == 0, ran.err
    rows = list(csv.DictReader((tmp_path / "run" / "ranking.csv").open()))
    expected = screen(host(), estimate=SupercellEstimator(potential, POTENTIALS, relaxation=TIGHT), supercell=SUPERCELL)
    assert {row["converged"] for row in rows} == {"True"}
    energies = {one.cost.defect: one.cost.energy for one in expected}
    assert {row["defect"]: float(row["energy"]) for row in rows} == pytest.approx(energies, abs=1e-3)
    ran = cgcnn_ase(*common, "--relax", "--steps", "1", "--fmax", "1e-6", "--output", tmp_path / "short")
    assert ran.code == 0, ran.err
    assert "warning: 2 of 2 defects are not relaxed to the end" in ran.err
    ran = cgcnn_ase(*common, "--fmax", "0.1", "--output", tmp_path / "none")
    assert (ran.code, "--fmax has no effect here: it belongs to --relax" in ran.err) == (2, True)
    ran = cgcnn_ase("screen", tmp_path / "LiCl.cif", "--relax", "--output", tmp_path / "none")
    assert (ran.code, "a model of sites reads the pristine host alone" in ran.err) == (2, True)

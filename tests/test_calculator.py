"""The calculator follows ASE's rules, and its energies are what DESIGN says they are."""

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, get_calculator_class
from ase.db import connect
from ase.io import Trajectory, read, write
from ase.optimize import BFGS

from cgcnn_ase import CGCNNCalculator
from cgcnn_ase.core.elements import reference_energies
from cgcnn_ase.energies.energy_model import MissingReferenceError
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.structures import StructureError

from .conftest import make_model
from .potential.conftest import random_potential


@pytest.fixture
def calculator(small_model):
    return CGCNNCalculator(small_model)


@pytest.fixture
def atoms(calculator):
    made = bulk("MgO", "rocksalt", 4.21, cubic=True)
    made.calc = calculator
    return made


@pytest.fixture
def calls(calculator, monkeypatch):
    """How often the network was asked."""
    counted = []
    infer = calculator._infer
    monkeypatch.setattr(calculator, "_infer", lambda records: counted.append(1) or infer(records))
    return counted


# Values


def test_energy_is_n_times_the_formation_energy_and_the_references(atoms):
    energy = atoms.get_potential_energy()
    per_atom = atoms.calc.results["formation_energy_per_atom"]
    refs = reference_energies()
    assert energy == pytest.approx(8 * per_atom + 4 * refs["Mg"] + 4 * refs["O"], abs=1e-9)
    assert atoms.get_potential_energy(force_consistent=True) == energy


def test_results_are_implemented_properties_and_agree(atoms):
    atoms.get_potential_energy()
    results = atoms.calc.results
    assert set(results) == set(atoms.calc.implemented_properties)
    assert set(results) == {
        "energy", "free_energy", "energy_std", "formation_energy_per_atom", "formation_energy_per_atom_std",
        "formation_energy_per_atom_interval", "in_domain", "in_domain_reason", "domain_score",
    }  # fmt: skip
    lower, upper = results["formation_energy_per_atom_interval"]
    assert lower < results["formation_energy_per_atom"] < upper
    assert results["energy_std"] == pytest.approx(8 * results["formation_energy_per_atom_std"])
    assert results["energy_std"] > 0
    assert isinstance(results["in_domain"], bool)
    for name, value in results.items():
        assert np.all(atoms.calc.get_property(name, atoms) == value)


def test_uncertainty(atoms):
    std = atoms.calc.get_energy_uncertainty(atoms)
    assert std == atoms.calc.results["energy_std"]
    assert atoms.calc.get_energy_uncertainty() == std
    assert atoms.calc.get_energy_uncertainty(per_atom=True) == pytest.approx(std / 8)


def test_uncertainty_needs_a_structure(calculator):
    with pytest.raises(ValueError, match="no structure has been calculated"):
        calculator.get_energy_uncertainty()
    with pytest.raises(ValueError, match="no structure has been calculated"):
        calculator.get_potential_energy()
    assert calculator.get_property("energy", allow_calculation=False) is None


def test_no_reference(small_model, atoms):
    atoms.calc = CGCNNCalculator(small_model, reference="none")
    assert atoms.get_potential_energy() == pytest.approx(8 * atoms.calc.results["formation_energy_per_atom"])


def test_own_references(small_model, atoms):
    atoms.calc = CGCNNCalculator(small_model, reference={"Mg": -1.0, "O": -2.0})
    assert atoms.get_potential_energy() == pytest.approx(8 * atoms.calc.results["formation_energy_per_atom"] - 12)
    atoms.calc = CGCNNCalculator(small_model, reference={"Mg": -1.0})
    with pytest.raises(MissingReferenceError, match="no reference energy for O:"):
        atoms.get_potential_energy()


def test_unknown_reference(small_model):
    with pytest.raises(ValueError, match="allowed: 'mp-pbe', 'none'"):
        CGCNNCalculator(small_model, reference="pbe")


def test_an_element_without_reference(calculator):
    atoms = bulk("YbO", "rocksalt", 4.9)
    atoms.calc = calculator
    with pytest.raises(MissingReferenceError, match="no reference energy for Yb"):
        atoms.get_potential_energy()
    value = calculator.get_property("formation_energy_per_atom", atoms)
    assert np.isfinite(value)
    assert calculator.get_energy_uncertainty(atoms) > 0
    assert "energy" not in calculator.results
    with pytest.raises(MissingReferenceError, match="Yb"):
        atoms.get_potential_energy()
    calculator.set(reference="none")
    assert atoms.get_potential_energy() == pytest.approx(2 * value)


def test_set(atoms, calls):
    atoms.get_potential_energy()
    assert atoms.calc.set(reference="mp-pbe") == {}
    assert not atoms.calc.calculation_required(atoms, ["energy"])
    assert atoms.calc.set(reference="none") == {"reference": "none"}
    assert atoms.calc.calculation_required(atoms, ["energy"])
    with pytest.raises(ValueError, match="make a new CGCNNCalculator"):
        atoms.calc.set(model="another")
    with pytest.raises(ValueError, match="unknown reference"):
        atoms.calc.set(reference="another")


def test_extensive(small_model):
    cell = bulk("NiO", "rocksalt", 4.17)
    large = cell * (2, 2, 2)
    for atoms in (cell, large):
        atoms.calc = CGCNNCalculator(small_model)
    assert large.get_potential_energy() == pytest.approx(8 * cell.get_potential_energy(), rel=1e-5)
    small_std, large_std = (a.calc.get_energy_uncertainty(per_atom=True) for a in (cell, large))
    assert large_std == pytest.approx(small_std, rel=1e-3)


@pytest.mark.parametrize(
    "made", [molecule("H2O"), fcc111("Al", (2, 2, 3), vacuum=8.0), Atoms("O")], ids=["molecule", "slab", "atom"]
)
def test_not_periodic_everywhere(calculator, made):
    made.calc = calculator
    assert np.isfinite(made.get_potential_energy())


def test_empty(calculator):
    empty = Atoms(calculator=calculator)
    with pytest.raises(StructureError, match="has no atoms"):
        empty.get_potential_energy()


def test_bad_structures(calculator):
    close = Atoms("OO", positions=[[0, 0, 0], [0, 0, 0.1]], calculator=calculator)
    with pytest.raises(StructureError, match=r"overlap: they are 0\.1 Å apart"):
        close.get_potential_energy()
    close.set_distance(0, 1, 1.2)
    assert np.isfinite(close.get_potential_energy())
    flat = Atoms("O", cell=[3, 3, 0], pbc=True, calculator=calculator)
    with pytest.raises(StructureError, match="no volume"):
        flat.get_potential_energy()


# ASE's rules


def test_calculated_once(atoms, calls):
    assert atoms.calc.calculation_required(atoms, ["energy"])
    atoms.get_potential_energy()
    atoms.get_potential_energy()
    atoms.calc.get_property("in_domain", atoms)
    atoms.calc.get_energy_uncertainty(atoms)
    assert len(calls) == 1
    assert not atoms.calc.calculation_required(atoms, list(atoms.calc.implemented_properties))
    assert atoms.calc.calculation_required(atoms, ["forces"])


def displace(atoms):
    atoms.positions[0, 0] += 0.1


def substitute(atoms):
    atoms.numbers[0] = 20


def strain(atoms):
    atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)


def stretch_cell_only(atoms):
    atoms.set_cell(atoms.cell * 1.01)


def make_slab(atoms):
    atoms.pbc = (True, True, False)


@pytest.mark.parametrize("change", [displace, substitute, strain, stretch_cell_only, make_slab])
def test_calculated_again_when_the_atoms_change(atoms, calls, change):
    before = atoms.get_potential_energy()
    change(atoms)
    assert atoms.calc.calculation_required(atoms, ["energy"])
    assert atoms.calc.get_property("energy", atoms, allow_calculation=False) is None
    assert atoms.get_potential_energy() != before
    assert len(calls) == 2


def test_not_calculated_again_for_what_does_not_enter(atoms, calls):
    before = atoms.get_potential_energy()
    atoms.set_initial_magnetic_moments(np.ones(8))
    atoms.set_initial_charges(np.ones(8))
    atoms.info["name"] = "a"
    assert not atoms.calc.calculation_required(atoms, ["energy"])
    assert atoms.get_potential_energy() == before
    assert len(calls) == 1


def test_one_calculator_for_several_structures(calculator, crystals):
    energies = []
    for made in crystals[:3]:
        made = made.copy()
        made.calc = calculator
        energies.append(made.calc.get_property("formation_energy_per_atom", made))
    assert len(set(energies)) == 3


def test_results_do_not_follow_the_structure(atoms):
    """The calculator holds a copy: what is done to the atoms later does not reach its results."""
    atoms.get_potential_energy()
    atoms.numbers[:] = 26
    assert set(atoms.calc.atoms.numbers) == {8, 12}


def _shallow(atoms):
    other = atoms.copy()
    other.calc = copy.copy(atoms.calc)
    return other


@pytest.mark.parametrize(
    "duplicate",
    [_shallow, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))],
    ids=["shallow copy", "copy", "pickle"],
)
def test_copies(atoms, duplicate):
    energy = atoms.get_potential_energy()
    other = duplicate(atoms)
    assert other.calc is not atoms.calc
    assert not other.calc.calculation_required(other, ["energy"])
    assert other.get_potential_energy() == energy
    displace(other)
    assert other.get_potential_energy() != energy
    assert atoms.get_potential_energy() == energy
    assert atoms.copy().calc is None


# Threads


@pytest.fixture
def alone(small_model, crystals):
    """Energy and its std of each crystal, with a calculator of its own."""
    values = []
    for made in crystals[:4]:
        calculator = CGCNNCalculator(small_model)
        values.append((calculator.get_potential_energy(made), calculator.get_energy_uncertainty(made)))
    return values


def test_threads_share_a_calculator(calculator, crystals, alone):
    """Each thread reads the results of its own structure, by whatever way it asks."""

    def ask(k):
        made = crystals[k].copy()
        made.calc = calculator
        energy, std = made.get_potential_energy(), calculator.get_energy_uncertainty()
        assert calculator.results["energy"] == energy
        assert len(calculator.atoms) == len(made)
        assert calculator.get_energy_uncertainty(per_atom=True) == pytest.approx(std / len(made))
        assert calculator.annotate(made).info["energy_std"] == std
        return energy, std

    order = list(range(4)) * 15
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(ask, order))
    np.testing.assert_allclose(results, [alone[k] for k in order], rtol=1e-6)


def test_a_thread_without_a_calculation_reads_the_newest(atoms, calls, tmp_path):
    """What a worker thread calculated is there for the thread that waits for it."""
    displaced = atoms.copy()
    displace(displaced)
    displaced.calc = atoms.calc
    with ThreadPoolExecutor(1) as pool:
        energy = pool.submit(atoms.get_potential_energy).result()
        assert atoms.calc.results["energy"] == energy
        other = pool.submit(displaced.get_potential_energy).result()
    assert atoms.calc.results["energy"] == energy != other
    assert not atoms.calc.calculation_required(displaced, ["energy"])
    write(tmp_path / "a.traj", displaced)
    assert read(tmp_path / "a.traj").get_potential_energy() == other
    assert len(calls) == 2


def test_a_setting_is_changed_for_all_threads(atoms):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(atoms.get_potential_energy).result()
        atoms.calc.set(reference="none")
        energy = pool.submit(atoms.get_potential_energy).result()
    assert energy == pytest.approx(8 * atoms.calc.results["formation_energy_per_atom"])


@pytest.mark.parametrize("ask", [Atoms.get_forces, Atoms.get_stress, Atoms.get_stresses, Atoms.get_potential_energies])
def test_no_derivatives(atoms, ask):
    with pytest.raises(PropertyNotImplementedError, match=r"reads a graph of the nearest neighbours .* potential"):
        ask(atoms)


def test_the_optimizer_refuses_with_the_reason(atoms):
    with pytest.raises(PropertyNotImplementedError, match="energy jumps when neighbours change places"):
        BFGS(atoms, logfile=None).run(fmax=0.1, steps=1)


@pytest.mark.parametrize("ask", [Atoms.get_magnetic_moment, Atoms.get_dipole_moment, Atoms.get_charges])
def test_other_properties(atoms, ask):
    with pytest.raises(PropertyNotImplementedError):
        ask(atoms)


def test_registered():
    assert get_calculator_class("cgcnn") is CGCNNCalculator
    assert issubclass(CGCNNCalculator, Calculator)


# Files


def test_trajectory(atoms, tmp_path):
    energy = atoms.get_potential_energy()
    with Trajectory(tmp_path / "a.traj", "w", atoms) as trajectory:
        trajectory.write()
    back = read(tmp_path / "a.traj")
    assert back.get_potential_energy() == energy
    assert back.calc.name == "cgcnn"
    assert back.calc.parameters["model_sha256"] == atoms.calc.model.sha256


def test_trajectory_of_what_was_not_calculated(atoms, tmp_path, calls):
    write(tmp_path / "a.traj", atoms)
    assert calls == []
    assert read(tmp_path / "a.traj").calc.results == {}


@pytest.mark.parametrize("name", ["a.db", "a.json"])
def test_database(atoms, tmp_path, name):
    energy = atoms.get_potential_energy()
    with connect(tmp_path / name) as database:
        database.write(atoms, std=atoms.calc.get_energy_uncertainty())
    row = connect(tmp_path / name).get(id=1)
    assert (row.energy, row.calculator) == (energy, "cgcnn")
    assert row.calculator_parameters["model"] == atoms.calc.model.name
    assert row.toatoms().get_potential_energy() == energy
    assert row.std == atoms.calc.get_energy_uncertainty()


def test_extxyz_keeps_the_energy(atoms, tmp_path):
    energy = atoms.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path / "a.extxyz", atoms)
    assert read(tmp_path / "a.extxyz").get_potential_energy() == pytest.approx(energy, abs=1e-7)


@pytest.mark.parametrize("suffix", ["xyz", "json", "cif", "vasp", "xsf"])
def test_other_writers(atoms, tmp_path, suffix):
    atoms.get_potential_energy()
    write(tmp_path / f"a.{suffix}", atoms)
    assert (tmp_path / f"a.{suffix}").stat().st_size > 0


def test_annotated(atoms, tmp_path):
    assert atoms.calc.annotate(atoms) is atoms
    write(tmp_path / "a.extxyz", atoms)
    back = read(tmp_path / "a.extxyz")
    results = atoms.calc.results
    assert back.get_potential_energy() == pytest.approx(results["energy"], abs=1e-7)
    assert back.info["energy_std"] == pytest.approx(results["energy_std"])
    assert back.info["formation_energy_per_atom_interval"] == pytest.approx(
        results["formation_energy_per_atom_interval"]
    )
    assert bool(back.info["in_domain"]) is results["in_domain"]
    assert back.info["cgcnn_model"] == atoms.calc.model.name
    assert back.info["cgcnn_model_sha256"] == atoms.calc.model.sha256


def test_annotation_of_an_outsider(calculator, tmp_path):
    atoms = bulk("U", "fcc", 4.9)
    atoms.calc = calculator
    calculator.annotate(atoms)
    assert atoms.info["in_domain"] is False
    assert "contains U, which no training structure has" in atoms.info["in_domain_reason"]
    write(tmp_path / "a.extxyz", atoms)
    assert read(tmp_path / "a.extxyz").info["in_domain_reason"] == atoms.info["in_domain_reason"]


def test_annotation_by_a_potential_leaves_results_of_ase_where_they_are(tmp_path):
    atoms = bulk("NiO", "rocksalt", 4.2)
    atoms.rattle(0.05, seed=1)
    atoms.calc = CGCNNCalculator(random_potential())
    forces, stds = atoms.get_forces(), atoms.calc.results["forces_std"]
    atoms.calc.annotate(atoms)
    assert not {"forces", "stress", "energies", "forces_std"} & set(atoms.info)
    write(tmp_path / "a.extxyz", atoms)
    back = read(tmp_path / "a.extxyz")
    np.testing.assert_allclose(back.get_forces(), forces, atol=1e-7)
    np.testing.assert_allclose(back.get_stress(), atoms.get_stress(), atol=1e-7)
    np.testing.assert_allclose(back.arrays["forces_std"], stds, rtol=1e-5)
    assert back.info["max_force_std"] == pytest.approx(stds.max())
    assert back.info["energy_std"] == pytest.approx(atoms.calc.results["energy_std"])


def test_annotation_replaces_an_older_one(atoms):
    atoms.info["in_domain_reason"] = "of an older model"
    atoms.calc.annotate(atoms)
    assert atoms.info.get("in_domain_reason") == (atoms.calc.results["in_domain_reason"] or None)


# Models


def test_a_loaded_model(atoms):
    model = make_model()
    atoms.calc = CGCNNCalculator(model)
    assert atoms.calc.model is model
    assert np.isfinite(atoms.get_potential_energy())


def test_an_original_model_has_no_uncertainty(original_weights, atoms):
    atoms.calc = CGCNNCalculator(original_weights / "formation-energy-per-atom.pth.tar")
    atoms.get_potential_energy()
    assert atoms.calc.results["formation_energy_per_atom"] == pytest.approx(-3.04, abs=0.2)  # eV/atom
    assert set(atoms.calc.results) == {"energy", "free_energy", "formation_energy_per_atom", "scale"}
    assert atoms.calc.results["scale"] == "mp-legacy"
    with pytest.raises(PropertyNotImplementedError, match=r"gives no uncertainty of an energy: .* 1 member"):
        atoms.calc.get_energy_uncertainty(atoms)


def test_a_model_of_another_property(original_weights, atoms):
    atoms.calc = CGCNNCalculator(original_weights / "bulk-moduli.pth.tar")
    assert 50 < atoms.calc.get_property("bulk_modulus", atoms) < 350  # GPa; measured: 160
    assert atoms.calc.implemented_properties == ["bulk_modulus"]
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match="it predicts bulk_modulus"):
        atoms.calc.get_energy_uncertainty(atoms)


def test_a_model_of_the_total_energy(original_weights, atoms):
    atoms.calc = CGCNNCalculator(original_weights / "final-energy-per-atom.pth.tar")
    per_atom = atoms.calc.get_property("total_energy_per_atom", atoms)
    assert atoms.get_potential_energy() == pytest.approx(8 * per_atom)


def test_dropout(dropout_model, atoms):
    atoms.calc = CGCNNCalculator(dropout_model, n_dropout=10, seed=1)
    energy, std = atoms.get_potential_energy(), atoms.calc.get_energy_uncertainty()
    assert std > 0
    atoms.calc = CGCNNCalculator(dropout_model, n_dropout=10, seed=1)
    assert (atoms.get_potential_energy(), atoms.calc.get_energy_uncertainty()) == (energy, std)
    atoms.calc = CGCNNCalculator(dropout_model, n_dropout=10, seed=2)
    assert atoms.get_potential_energy() != energy


def test_dropout_without_dropout(small_model):
    with pytest.raises(ValueError, match="n_dropout needs a model trained with dropout"):
        CGCNNCalculator(small_model, n_dropout=10)


def test_ensemble_without_calibration(tmp_path, atoms):
    atoms.calc = CGCNNCalculator(save_model(make_model(calibration=False), tmp_path / "m"))
    assert atoms.calc.get_energy_uncertainty(atoms) > 0
    assert "in_domain" not in atoms.calc.results

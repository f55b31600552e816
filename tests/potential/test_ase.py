"""The pretrained potential inside ASE: optimisers, dynamics, phonons, bands, databases, copies."""

import copy
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS
from ase.phonons import Phonons

from cgcnn_ase import CGCNNCalculator, predict
from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.energies.energy_model import as_energy_model
from cgcnn_ase.energies.relaxation import relax_cells
from cgcnn_ase.models import registry
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.potential.relax import relax
from cgcnn_ase.potential.steps import UncertainForcesError, UncertainForcesWarning
from tests.potential.conftest import random_potential

POTENTIAL = "cathode-potential"


@pytest.fixture(scope="module")
def cell():
    """A relaxed cell of LiNiO2."""
    return relax([build_cathode("LiNiO2", supercell=(1, 1, 1))], POTENTIAL, fmax=0.01)[0].atoms


@pytest.fixture
def atoms(cell):
    """The same, rattled, with the potential."""
    atoms = cell.copy()
    atoms.rattle(0.05, seed=1)
    atoms.calc = CGCNNCalculator(POTENTIAL)
    return atoms


def test_results_and_their_units(atoms):
    calc = atoms.calc
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    assert atoms.get_potential_energies().sum() == pytest.approx(energy)
    assert forces.shape == (12, 3)
    assert stress.shape == (6,)
    assert calc.results["forces_std"].shape == (12,)
    assert (calc.results["forces_std"] > 0).all()
    assert calc.results["energy_std"] > 0
    assert calc.get_energy_uncertainty() == calc.results["energy_std"]
    assert set(calc.results) <= set(calc.implemented_properties)
    assert calc.model.is_potential
    assert calc.results["in_domain"]
    # the calculator of ASE's own finite differences
    numerical = calc.calculate_numerical_forces(atoms, d=0.005)
    np.testing.assert_allclose(forces, numerical, atol=0.02)


def test_a_molecule_has_no_stress():
    from ase.build import molecule

    oxygen = molecule("O2")
    oxygen.calc = CGCNNCalculator(POTENTIAL)
    assert oxygen.get_forces().shape == (2, 3)
    with pytest.raises(PropertyNotImplementedError):
        oxygen.get_stress()


def test_an_unknown_element_is_out_of_domain():
    atoms = build_cathode("LiNiO2", supercell=(1, 1, 1))
    atoms.symbols[0] = "Au"
    atoms.calc = CGCNNCalculator(POTENTIAL)
    atoms.get_potential_energy()
    assert not atoms.calc.results["in_domain"]
    assert "contains Au" in atoms.calc.results["in_domain_reason"]


@pytest.fixture
def two_potentials(tmp_path, monkeypatch):
    """The potential, and another which says that it knows gold, as the only pretrained models."""
    model = load_model(POTENTIAL)
    domain = model.calibration.domain
    model.calibration = replace(model.calibration, domain=replace(domain, elements=domain.elements | {79}))
    model.name = "golden-potential"
    save_model(model, tmp_path / "golden-potential")
    shutil.copytree(registry.pretrained_folder() / POTENTIAL, tmp_path / POTENTIAL)
    monkeypatch.setattr(registry, "pretrained_folder", lambda: tmp_path)
    registry._potential_that_knows.cache_clear()
    yield
    registry._potential_that_knows.cache_clear()


@pytest.mark.usefixtures("two_potentials")
def test_another_potential_that_knows_the_element_is_named():
    atoms = build_cathode("LiNiO2", supercell=(1, 1, 1))
    atoms.symbols[0] = "Au"
    atoms.calc = CGCNNCalculator(POTENTIAL)
    atoms.get_potential_energy()
    assert atoms.calc.results["in_domain_reason"].endswith("; golden-potential knows all its elements")
    assert predict(POTENTIAL, atoms).all[0].in_domain_reason.endswith("; golden-potential knows all its elements")
    known = build_cathode("LiNiO2", supercell=(1, 1, 1))
    first, second = relax([atoms, known], POTENTIAL, fmax=2.0)
    assert first.error == (
        f"contains Au, which no training frame of {POTENTIAL} has; golden-potential knows all elements of the "
        "structure: take the model golden-potential"
    )
    assert second.error is None
    (row,) = relax([atoms], "golden-potential", steps=0)
    assert row.error is None
    atoms.symbols[0] = "Xe"
    (row,) = relax([atoms], POTENTIAL, steps=0)  # nobody knows xenon
    assert row.error is None
    assert "contains Xe" in row.in_domain_reason
    assert "golden" not in row.in_domain_reason


@pytest.mark.usefixtures("two_potentials")
def test_a_tuned_potential_may_be_asked_for_what_it_has_not_learned():
    model = load_model(POTENTIAL)
    model.name = "mine"
    atoms = build_cathode("LiNiO2", supercell=(1, 1, 1))
    atoms.symbols[0] = "Au"
    (row,) = relax([atoms], model, steps=0)
    assert row.error is None
    assert row.in_domain_reason.endswith("; golden-potential knows all its elements")


@pytest.mark.usefixtures("two_potentials")
def test_a_voltage_with_an_element_that_was_not_learned_names_the_other_potential():
    atoms = build_cathode("LiNiO2", supercell=(1, 1, 1))
    atoms.symbols[-1] = "Au"
    cell = relax_cells([atoms], as_energy_model(POTENTIAL))[0]
    assert cell.failed
    assert "take the model golden-potential" in cell.problem


def test_dynamics_keeps_the_energy(atoms):
    MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=np.random.default_rng(0))
    md = VelocityVerlet(atoms, 1.0 * units.fs)
    totals = []
    md.attach(lambda: totals.append(atoms.get_total_energy() / len(atoms)), interval=5)
    md.run(200)
    assert np.ptp(totals) < 2e-3
    assert abs(np.mean(totals[-10:]) - np.mean(totals[:10])) < 3e-4


def test_langevin_and_its_guard(atoms):
    atoms.calc = CGCNNCalculator(POTENTIAL, max_force_std=0.01, on_excess="warn")
    with pytest.warns(UncertainForcesWarning, match=r"the std of the force on atom \d+ \((Li|Ni|O)\)"):
        atoms.get_forces()
    atoms.calc = CGCNNCalculator(POTENTIAL, max_force_std=2.0)
    md = Langevin(atoms, 1.0 * units.fs, temperature_K=300, friction=0.02, rng=np.random.default_rng(0))
    md.run(3)
    atoms.positions[0] += [0.0, 0.0, 1.2]
    with pytest.raises(UncertainForcesError, match=r"above max_force_std = 0\.01"):
        CGCNNCalculator(POTENTIAL, max_force_std=0.01).get_forces(atoms)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_force_std": 0.0}, "max_force_std must be above 0"),
        ({"max_force_std": 1.0, "on_excess": "stop"}, "on_excess 'stop': allowed are raise, warn"),
        ({"model": "formation-energy-per-atom", "max_force_std": 1.0}, "max_force_std is of potentials"),
    ],
)
def test_wrong_guards(options, words):
    with pytest.raises(ValueError, match=words):
        CGCNNCalculator(**{"model": POTENTIAL, **options})


def test_constraints_hold(atoms):
    atoms.set_constraint(FixAtoms([0, 1]))
    before = atoms.positions[:2].copy()
    assert BFGS(atoms, logfile=None).run(fmax=0.05, steps=200)
    np.testing.assert_array_equal(atoms.positions[:2], before)


def test_a_lithium_hop_has_a_barrier(cell):
    """A vacancy in a small cell; the band's ends are minima, its middle is higher."""
    host = cell.repeat((2, 1, 1))
    lithium = np.flatnonzero(host.symbols == "Li")
    distances = host.get_distances(lithium[0], lithium[1:], mic=True)
    other = int(lithium[1:][np.argmin(distances)])
    first = host[[k for k in range(len(host)) if k != lithium[0]]]
    last = first.copy()
    moved = other - 1 if other > lithium[0] else other
    last.positions[moved] = host.positions[lithium[0]]
    ends = [row.atoms for row in relax([first, last], POTENTIAL, fixed_cell=True)]
    images = [ends[0].copy(), *(ends[0].copy() for _ in range(3)), ends[1].copy()]
    for image in images:
        image.calc = CGCNNCalculator(POTENTIAL)
    band = NEB(images)
    band.interpolate(mic=True)
    BFGS(band, logfile=None).run(fmax=0.3, steps=15)
    energies = [image.get_potential_energy() for image in images]
    assert max(energies[1:-1]) > max(energies[0], energies[-1]) + 0.05


def test_phonons_of_a_minimum(cell, tmp_path):
    phonons = Phonons(cell, CGCNNCalculator(POTENTIAL), supercell=(1, 1, 1), delta=0.01, name=str(tmp_path / "ph"))
    phonons.run()
    phonons.read(acoustic=True)
    energies = phonons.band_structure([[0, 0, 0]])[0]
    # eV; the whole crystal moves freely. Imaginary ones (negative here) may be: Ni3+ is a Jahn-Teller ion
    assert np.sort(np.abs(energies))[:3].max() < 2e-3
    assert 0.03 < energies.max() < 0.12


def test_files_keep_the_results(atoms, tmp_path):
    forces, energy = atoms.get_forces(), atoms.get_potential_energy()
    write(tmp_path / "a.extxyz", atoms)
    again = read(tmp_path / "a.extxyz")
    np.testing.assert_allclose(again.get_forces(), forces, atol=1e-7)
    with connect(tmp_path / "a.db") as base:
        base.write(atoms)
    row = connect(tmp_path / "a.db").get(1)
    assert row.energy == pytest.approx(energy)
    np.testing.assert_allclose(row.forces, forces)


def test_copies_go_on_alone(atoms):
    forces = atoms.get_forces()
    for other in (copy.deepcopy(atoms.calc), pickle.loads(pickle.dumps(atoms.calc))):
        moved = atoms.copy()
        moved.calc = other
        np.testing.assert_array_equal(moved.get_forces(), forces)
        moved.rattle(0.1, seed=2)
        assert np.abs(moved.get_forces() - forces).max() > 0.1
    np.testing.assert_array_equal(atoms.get_forces(), forces)


def test_the_neighbor_list_is_used_again(atoms):
    atoms.get_forces()
    neighbors = atoms.calc._potential.neighbors
    for seed in range(5):
        atoms.rattle(0.01, seed=seed)
        atoms.get_forces()
    assert neighbors.n_searches == 1


def test_the_scale_is_that_of_uncorrected_energies():
    """References do not enter a total energy."""
    atoms = build_cathode("LiNiO2", supercell=(1, 1, 1))
    energies = []
    for reference in ("mp-pbe", "none"):
        atoms.calc = CGCNNCalculator(POTENTIAL, reference=reference)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[1]
    assert load_model(POTENTIAL).training_record.get("scale", "uncorrected") == "uncorrected"


def test_an_uncalibrated_potential_has_forces(atoms):
    atoms.calc = CGCNNCalculator(random_potential())
    assert atoms.get_forces().shape == (12, 3)
    assert "in_domain" not in atoms.calc.implemented_properties


def test_threads_have_neighbors_of_their_own(cell):
    """One calculator, two threads with cells of other sizes that move at the same time."""
    calc = CGCNNCalculator(random_potential())
    cells = [cell.copy(), cell.repeat((2, 1, 1))]

    def forces(atoms):
        moved, results = atoms.copy(), []
        for seed in range(20):
            moved.rattle(0.02, seed=seed)
            results.append(calc.get_property("forces", moved).copy())
        return results

    alone = [forces(atoms) for atoms in cells]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(forces, cells))
        other = threads.submit(lambda: calc._potential.neighbors).result()
    assert other is not calc._potential.neighbors
    for one, same in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, same, atol=1e-12)

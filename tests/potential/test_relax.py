"""Relaxation against ASE's optimisers on the same model, and against a potential whose minimum is known."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.spacegroup.symmetrize import check_symmetry

from cgcnn_ase import CGCNNCalculator
from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.potential.minimizer import Minimizer, Point
from cgcnn_ase.potential.potential import NotAPotentialError
from cgcnn_ase.potential.relax import relax
from cgcnn_ase.potential.relax_results import COLUMNS
from tests.potential.conftest import random_potential

FMAX = 1e-3


def by_ase(atoms, model, *, cell):
    atoms = atoms.copy()
    atoms.calc = CGCNNCalculator(model)
    assert BFGS(FrechetCellFilter(atoms) if cell else atoms, logfile=None).run(fmax=FMAX, steps=1000)
    return atoms


@pytest.fixture(scope="module")
def model():
    """The pretrained potential, in double precision."""
    return load_model("cathode-potential").double()


@pytest.fixture
def rattled():
    """LiNiO2 with a vacancy, rattled: no symmetry is left."""
    atoms = build_cathode("LiNiO2", supercell=(1, 1, 1))
    del atoms[0]
    atoms.rattle(0.1, seed=3)
    return atoms


@pytest.mark.parametrize("cell", [False, True])
def test_it_ends_where_ase_ends(model, rattled, cell):
    (row,) = relax([rattled], model, fmax=FMAX, fixed_cell=not cell)
    expected = by_ase(rattled, model, cell=cell)
    assert row.converged
    assert row.max_force <= FMAX
    assert row.energy <= row.initial_energy
    ours = row.atoms.copy()
    ours.calc = CGCNNCalculator(model)
    assert np.linalg.norm(ours.get_forces(), axis=1).max() <= FMAX * (1 + 1e-6)
    assert ours.get_potential_energy() == pytest.approx(row.energy, abs=1e-8)
    assert row.energy == pytest.approx(expected.get_potential_energy(), abs=1e-3)
    if not cell:
        np.testing.assert_array_equal(row.atoms.cell.array, rattled.cell.array)
    else:
        assert np.abs(ours.get_stress()).max() * ours.get_volume() / len(ours) <= FMAX * 1.01


def test_many_are_each_for_itself(model, rattled):
    others = [rattled, bulk("NiO", "rocksalt", a=4.3), molecule("O2"), bulk("Li", "sc", a=9.0)]
    together = relax(others, model, fmax=0.01)
    for row, atoms in zip(together, others, strict=True):
        (alone,) = relax([atoms], model, fmax=0.01)
        assert row.steps == alone.steps
        np.testing.assert_allclose(row.atoms.positions, alone.atoms.positions, atol=1e-6)
        assert row.energy == pytest.approx(alone.energy, abs=1e-8)
    assert [row.n_atoms for row in together] == [len(atoms) for atoms in others]
    assert together[3].steps == 0  # an atom alone has nowhere to go
    assert together[2].volume_change is None


def test_a_bad_structure_does_not_stop_the_others(model, rattled):
    overlapping = rattled.copy()
    overlapping.positions[1] = overlapping.positions[0] + 0.1
    bonded = rattled.copy()
    bonded.set_constraint(FixBondLength(0, 1))
    rows = relax([overlapping, rattled, bonded], model, fmax=0.05)
    assert rows[1].converged
    assert "within 0.5 Å" in rows[0].error or "0.1" in rows[0].error
    assert "FixBondLength" in rows[2].error
    assert rows[0].atoms is None
    assert rows[0].energy is None
    assert list(rows.to_frame().columns) == list(COLUMNS)


def test_fixed_atoms_stay(model, rattled):
    rattled.set_constraint(FixAtoms([0, 3]))
    (row,) = relax([rattled], model, fmax=0.01, fixed_cell=True)
    np.testing.assert_array_equal(row.atoms.positions[[0, 3]], rattled.positions[[0, 3]])
    assert np.abs(row.atoms.positions - rattled.positions).max() > 1e-3


def test_symmetry_is_kept_on_request(model):
    atoms = bulk("NiO", "rocksalt", a=4.3, cubic=True)
    atoms.positions[0] += [0.0, 0.0, 0.3]  # a tetragonal axis is left
    before = len(check_symmetry(atoms).rotations)
    (row,) = relax([atoms], model, fmax=0.01, keep_symmetry=True)
    assert row.converged
    assert len(check_symmetry(row.atoms, 1e-3).rotations) >= before >= 8


def test_steps_are_limited_and_it_is_said(model, rattled):
    (row,) = relax([rattled], model, fmax=1e-4, steps=3)
    assert (row.steps, row.converged, row.error) == (3, False, None)
    (none,) = relax([rattled], model, steps=0)
    np.testing.assert_array_equal(none.atoms.positions, rattled.positions)


def test_every_step_is_kept_on_request(model, rattled):
    (row,) = relax([rattled], model, fmax=0.01, trajectory=True)
    assert len(row.trajectory) == row.steps + 1
    energies = [frame.get_potential_energy() for frame in row.trajectory]
    assert energies[0] == row.initial_energy
    assert energies[-1] == row.energy
    again = row.trajectory[1].copy()
    again.calc = CGCNNCalculator(model)
    np.testing.assert_allclose(again.get_forces(), row.trajectory[1].get_forces(), atol=1e-8)


def test_results_are_in_the_relaxed_structure(model, rattled):
    (row,) = relax([rattled], model)
    assert row.atoms.get_potential_energy() == row.energy
    assert row.atoms.get_forces().shape == (11, 3)
    assert row.atoms.get_stress().shape == (6,)
    assert row.atoms.get_potential_energies().sum() == pytest.approx(row.energy)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"fmax": 0.0}, "fmax must be above 0"), ({"steps": -1}, "steps must be 0 or more")],
)
def test_wrong_settings(model, rattled, options, words):
    with pytest.raises(ValueError, match=words):
        relax([rattled], model, **options)


def test_a_model_without_forces_is_refused(rattled):
    with pytest.raises(NotAPotentialError, match="has no forces"):
        relax([rattled], load_model("formation-energy-per-atom"))
    with pytest.raises(NotAPotentialError, match="has no forces"):
        relax([rattled], "formation-energy-per-atom", workers=2)


def test_an_explosion_is_stopped(rattled):
    """A model that pulls everything apart."""
    model = random_potential(seed=1)
    model.networks[0].head.out.weight.data *= -3000.0
    (row,) = relax([rattled], model, fmax=1e-6, steps=60)
    assert row.error is None or "after" in row.error
    assert row.error is not None or not row.converged


class Springs:
    """A crystal whose atoms hang on springs of very different stiffness, and a stiff cell: the minimum is known."""

    def __init__(self, atoms: Atoms) -> None:
        self.rest = atoms.get_scaled_positions()
        self.cell = atoms.cell.array
        self.k = np.geomspace(0.5, 50.0, len(atoms))[:, None]

    def __call__(self, structure) -> Point:
        u = structure.positions - self.rest @ structure.cell
        forces = -self.k * u
        deformation = np.linalg.solve(self.cell, structure.cell)
        metric = deformation.T @ deformation  # whatever way the crystal is turned
        volume = abs(np.linalg.det(structure.cell))
        energy = 0.5 * (self.k * u**2).sum() + 8.0 * ((metric - np.eye(3)) ** 2).sum()
        virial = 32.0 * metric @ (metric - np.eye(3)) + (self.k * u).T @ u
        return Point(structure, energy, forces, 0.5 * (virial + virial.T) / volume)


def test_stiff_and_soft_springs_and_a_cell():
    atoms = bulk("NiO", "rocksalt", a=4.2, cubic=True)
    springs = Springs(atoms)
    moved = atoms.copy()
    moved.set_cell(
        atoms.cell.array @ (np.eye(3) + np.array([[0.05, 0.02, 0], [0.02, -0.03, 0], [0, 0, 0.01]])), scale_atoms=True
    )
    moved.rattle(0.2, seed=0)
    minimizer = Minimizer(with_cell=True, fixed=np.zeros(8, dtype=bool))
    structure, energies = geometry(moved), []
    i, j = np.triu_indices(8, 1)
    pairs = (np.r_[i, j], np.r_[j, i], np.full(56, 2.1))
    for _ in range(120):
        point = springs(structure)
        energies.append(point.energy)
        if minimizer.largest_force(point) < 1e-4:
            break
        structure = minimizer.next(point, pairs)
    assert energies[-1] < 1e-6
    assert len(energies) < 80
    np.testing.assert_allclose(structure.cell @ structure.cell.T, atoms.cell.array @ atoms.cell.array.T, atol=1e-2)


def test_a_large_cell_relaxes_without_its_springs(model, rattled, monkeypatch):
    from cgcnn_ase.potential import minimizer

    (expected,) = relax([rattled], model, fmax=0.01)
    monkeypatch.setattr(minimizer, "MAX_DENSE", 5)
    (row,) = relax([rattled], model, fmax=0.01, steps=100)
    assert row.converged
    assert row.energy == pytest.approx(expected.energy, abs=2e-3)


def test_workers_give_the_same(rattled):
    cells = [rattled.copy() for _ in range(3)]
    for k, atoms in enumerate(cells):
        atoms.rattle(0.05, seed=10 + k)
    for one, other in zip(
        relax(cells, "cathode-potential", workers=1), relax(cells, "cathode-potential", workers=2), strict=True
    ):
        assert one.energy == pytest.approx(other.energy, abs=1e-4)
        assert one.steps == other.steps

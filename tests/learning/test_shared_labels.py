"""Labels of other structures: the shift of the potential that they ask for, and where it is used."""

import numpy as np
from ase.build import bulk

from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.learning.reference import ReferenceLabel, ask_reference
from cgcnn_ase.learning.session import LearnedRelaxation, LearnedRelaxOptions
from cgcnn_ase.learning.shared import SharedMemory
from cgcnn_ase.learning.surface import PotentialSurface
from tests.learning.conftest import Shifted
from tests.potential.conftest import random_potential


def test_labels_of_other_structures_find_the_shift_of_each_element():
    model = random_potential()
    reference = Shifted(model)
    cells = []
    for seed in range(3):
        atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
        atoms.rattle(0.2, seed=seed)
        cells.append(atoms)
    memory, labels = SharedMemory(PotentialSurface(model)), []
    for k, atoms in enumerate(cells):
        session = LearnedRelaxation(
            atoms, memory, LearnedRelaxOptions(fmax=1e-9, fixed_cell=True, max_calls=4), trajectory=str(k),
            others=labels if k < 2 else [],
        )  # fmt: skip
        while (request := session.ask()) is not None and len(session.labels) < 4:
            result = ask_reference(reference, session.atoms_of(request.structure), with_stress=False)
            session.tell(result.energy, result.forces)
        if k < 2:
            labels += session.labels
    shift = memory.shift(labels)
    assert shift.foretold < 0.5 * shift.unshifted
    corrected, true = memory.surface.shifted(shift.weights), reference.surface
    raw = memory.surface
    unseen = geometry(cells[2])
    error = np.abs(corrected(unseen).forces - true(unseen).forces).mean()
    assert error < 0.2 * np.abs(raw(unseen).forces - true(unseen).forces).mean()


def test_a_shift_that_foretold_others_worse_than_none_is_not_used(slab):
    """Labels of trajectories that contradict each other: what one teaches is wrong of the other."""
    surface = PotentialSurface(random_potential())
    memory, labels = SharedMemory(surface), []
    for sign, name in ((1, "0"), (-1, "1")):
        for seed in range(2):
            atoms = slab.copy()
            atoms.rattle(0.05, seed=seed)
            point = surface(geometry(atoms))
            lacking = np.random.default_rng(seed).normal(size=(len(atoms), 3))
            labels.append(ReferenceLabel(
                atoms=atoms, trajectory=name, energy=point.energy, forces=point.forces + sign * lacking, stress=None,
                reason="",
            ))  # fmt: skip
    shift = memory.shift(labels)
    assert shift.foretold >= shift.unshifted
    assert memory.corrected([], labels, with_cell=False).surface is surface


def test_with_labels_of_others_the_first_walk_ends_in_a_minimum_and_the_next_is_corrected_by_it():
    """The first label is of a minimum of the potential, where springs at rest lack the same: they wait."""
    model = random_potential()
    reference, memory = Shifted(model), SharedMemory(PotentialSurface(model))
    labels = []
    for k in range(3):
        atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
        atoms.rattle(0.1, seed=k)
        session = LearnedRelaxation(
            atoms, memory, LearnedRelaxOptions(fixed_cell=True, max_calls=3), trajectory=str(k), others=labels
        )  # fmt: skip
        while (request := session.ask()) is not None:
            result = ask_reference(reference, session.atoms_of(request.structure), with_stress=False)
            session.tell(result.energy, result.forces)
        labels = [*labels, *session.labels]
    first = next(label for label in labels if label.trajectory == "2")
    assert first.force_error is not None
    corrected = memory.corrected([first], [each for each in labels if each.trajectory != "2"], with_cell=False)
    np.testing.assert_allclose(corrected(first.structure).forces, first.forces, atol=0.02)

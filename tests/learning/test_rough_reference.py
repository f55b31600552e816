"""References whose forces jump or whose energy has short waves: a relaxation converges, or ends and tells why."""

import numpy as np
import pytest
from ase.calculators.emt import EMT

from cgcnn_ase import relax
from cgcnn_ase.learning.reference import ReferenceLabel
from cgcnn_ase.learning.session import LearnedRelaxation, LearnedRelaxOptions, trust_radius
from cgcnn_ase.learning.shared import SharedMemory
from tests.learning.conftest import RoughEMT


@pytest.mark.parametrize("rough", [{"noise": 0.05}, {"noise": 0.1}, {"noise": 0.3}])
def test_forces_rougher_than_fmax_end_a_relaxation_with_what_to_do(slab, tmp_path, rough):
    """Forces that are noise contradict each other: that is told, and not asked on and on.

    The noise is drawn from the positions, so that the last bit of a sum makes another one: 7 to 19 calls in 18 draws.
    """
    reference = RoughEMT(**rough)
    (row,) = relax([slab], None, reference=reference, fixed_cell=True, memory=tmp_path / "memory")
    assert not row.converged
    assert reference.calls == row.n_reference_calls <= 40
    ends = ("rougher than fmax", "the last 20 labels made neither the energy lower")
    assert any(words in row.stopped for words in ends)
    if ends[0] in row.stopped:  # as in all of these draws
        assert "Converge the reference" in row.stopped
        assert "contradict each other by" in (tmp_path / "memory/calls.csv").read_text()
    end = row.atoms.copy()
    end.calc = EMT()
    start = slab.copy()
    start.calc = EMT()
    assert end.get_potential_energy() < start.get_potential_energy() - 0.15  # the way down was found all the same
    (again,) = relax([slab], None, reference=reference, fixed_cell=True, memory=tmp_path / "memory")
    assert again.stopped == row.stopped
    assert reference.calls == row.n_reference_calls


@pytest.mark.parametrize("rough", [{"noise": 0.01}, {"wave": 0.02}, {"wave": 0.1}])
def test_roughness_below_fmax_or_in_the_energy_itself_converges(slab, rough):
    (row,) = relax([slab], None, reference=RoughEMT(**rough), fixed_cell=True)
    assert row.converged
    assert row.stopped == ""
    assert row.n_reference_calls <= 20


def test_no_structure_is_asked_about_twice(slab):
    """Where the step from the lowest label has been asked already, a shorter one is made."""
    (row,) = relax([slab], None, reference=RoughEMT(noise=0.1), fixed_cell=True, trajectory=True)
    positions = [each.positions for each in row.trajectory]
    gaps = [np.abs(a - b).max() for k, a in enumerate(positions) for b in positions[:k]]
    assert min(gaps) > 1e-4


def _label(atoms, energy, *, error=None, std=None):
    forces = np.zeros((len(atoms), 3))
    return ReferenceLabel(
        atoms=atoms, trajectory="0", energy=energy, forces=forces, stress=None, reason="", energy_error=0.0,
        force_error=error, force_std=std,
    )  # fmt: skip


def test_the_trust_radius_shrinks_after_an_answer_that_is_worse_than_foretold_and_grows_again(copper):
    def moved(distance):
        atoms = copper.copy()
        atoms.positions[0, 0] += distance
        return atoms

    labels = [_label(copper, 0.0), _label(moved(0.4), -1.0, error=0.1, std=0.1)]
    assert trust_radius(labels) == np.inf
    higher = _label(moved(0.6), 0.5, error=0.2, std=0.1)
    assert trust_radius([*labels, higher]) == np.inf  # higher, but as uncertain as that
    worse = _label(moved(0.6), 0.5, error=0.4, std=0.1)
    assert trust_radius([*labels, worse]) == pytest.approx(0.1)
    assert trust_radius([*labels, higher, higher]) == pytest.approx(0.1)  # twice in a row
    assert trust_radius([*labels, worse, _label(moved(0.45), -1.1, error=0.1, std=0.1)]) == pytest.approx(0.2)
    assert trust_radius([*labels, *[worse] * 9]) == pytest.approx(0.02)


def test_no_more_than_twenty_labels_without_progress(slab):
    session = LearnedRelaxation(slab, SharedMemory(None), LearnedRelaxOptions(fixed_cell=True))
    forces = np.zeros((len(slab), 3))
    forces[-1, 2] = 1.0
    for k in range(21):
        atoms = slab.copy()
        atoms.positions[-1] += 0.9 * np.array([np.cos(k), np.sin(k), 0.0])  # far from each other: no contradiction
        session.add(ReferenceLabel(
            atoms=atoms, trajectory="0", energy=0.0, forces=forces, stress=None, reason="", force_error=1.0,
            force_std=1.0,
        ))  # fmt: skip
    assert "made neither the energy lower" in session.stopped
    assert session.ask() is None

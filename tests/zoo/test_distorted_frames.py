"""Frames off equilibrium get formation energies on the scale of the labels, and none has a formula that is held out."""

import hashlib

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from cgcnn_ase.core.elements import reference_energies
from cgcnn_ase.structures.composition import formula_hash
from cgcnn_ase.zoo.distorted import fit_offsets
from cgcnn_ase.zoo.distorted_frames import labelled_frames
from tests.conftest import write_packed_set

# what a +U correction adds for an atom of Ni in an oxide, eV
WITH_U = 2.5


def rock_salt(pair: str, a: float) -> Atoms:
    return bulk(pair, "rocksalt", a=a, cubic=True)


def total_energy(atoms: Atoms, per_atom: float) -> float:
    """Total energy, eV a cell, of a formation energy, eV/atom."""
    of_elements = sum(reference_energies()[symbol] for symbol in atoms.symbols)
    corrections = WITH_U * np.sum(atoms.numbers == 28) * (8 in atoms.numbers)
    return per_atom * len(atoms) + of_elements + corrections


def write(folder, structures, columns, energies=None):
    """Write a packed data set, of frames where there are energies."""
    arrays = {} if energies is None else {
        "forces": np.zeros((sum(map(len, structures)), 3)), "stress": np.zeros((len(structures), 3, 3))
    }  # fmt: skip
    columns = columns | ({} if energies is None else {"energy": energies})
    write_packed_set(folder, structures, columns, names=[f"s-{k}" for k in range(len(structures))], **arrays)


@pytest.fixture
def data(tmp_path):
    """Rock salts with formation energies that are known, and frames of them."""
    pairs = [a + b for a in ("Mg", "Ca", "Ni", "Sr") for b in ("O", "S")] * 3
    crystals = [rock_salt(pair, 4.0 + 0.1 * k) for k, pair in enumerate(pairs)]
    labels = [-1.0 - 0.05 * k for k in range(len(pairs))]
    split = ["val" if pair == "SrO" else "train" for pair in pairs]
    totals = [total_energy(atoms, label) / len(atoms) for atoms, label in zip(crystals, labels, strict=True)]
    columns = {
        "reduced_formula": pairs, "formation_energy_per_atom": labels,
        "total_energy_per_atom_uncorrected_reconstructed": totals, "split": split,
    }  # fmt: skip
    write(tmp_path / "mp36k", crystals, columns)
    (tmp_path / "excluded_formulas.txt").write_text(hashlib.sha256(b"CaS").hexdigest()[:16] + "\n")
    frames = [rock_salt(pair, 4.4) for pair in ("NiO", "NiS", "SrO", "CaS", "MgO")]
    energies = [total_energy(atoms, -0.3) for atoms in frames]
    energies[4] += 100 * len(frames[4])
    write(tmp_path / "dft_frames", frames, {"split": ["train"] * 5}, energies)
    write(tmp_path / "teacher_frames", frames[:2], {"split": ["train", "test"]}, energies[:2])
    # a potential that is 0.02 eV/atom off the crystal, as it is off what is made from it
    made = [crystals[0], crystals[0].copy(), crystals[1], crystals[1].copy()]
    made[1].rattle(0.1, seed=0)
    made[3].rattle(0.1, seed=0)
    values = [labels[0] + 0.02, labels[0] + 0.32, labels[1] + 0.5, labels[1] + 0.6]
    energies = [total_energy(atoms, value) for atoms, value in zip(made, values, strict=True)]
    how = ["as published", "rattled", "as published", "rattled"]
    write(tmp_path / "crystals", made, {"host": ["s-0", "s-0", "s-1", "s-1"], "how": how}, energies)
    return tmp_path, labels


def test_labels_are_the_formation_energies_that_made_the_energies(data):
    folder, labels = data
    frames = labelled_frames(folder, [folder / "crystals"])
    assert ["".join(Atoms(shape.numbers).symbols[[0, -1]]) for shape in frames.structures] == [
        "NiO",
        "NiS",
        "NiO",
        "MgO",
    ]
    np.testing.assert_allclose(frames.labels[:3], -0.3, atol=2e-3)
    assert frames.labels[3] == pytest.approx(labels[0] + 0.3, abs=1e-6)
    assert frames.left_out == {
        "of crystals for other uses, or unknown to the potential": 1,  # 0.5 eV/atom off as published
        "with a formula that is held out": 2,  # of val, and of the list
        "above 10 eV/atom": 1,
    }


def test_crystals_for_other_uses_are_left_out(data):
    folder, _ = data
    frames = labelled_frames(folder, [folder / "crystals"], without=["s-0"])
    assert len(frames.ids) == 3


def test_the_hash_of_a_formula_is_that_of_pymatgens_reduced_formula():
    assert formula_hash("O8Ni4Li2") == hashlib.sha256(b"Li(NiO2)2").hexdigest()[:16]


def test_offsets_are_those_of_most_rows():
    rng = np.random.default_rng(0)
    x, b = rng.random((200, 4)), np.array([1.0, -2.0, 0.5, 3.0])
    y = x @ b
    y[::10] += 5.0
    np.testing.assert_allclose(fit_offsets(x, y, np.zeros(4), ridge=1e-6), b, atol=0.05)

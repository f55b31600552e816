"""Orders of metals and of lithium, measured without the libraries that made them where that is possible."""

import random

import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from pymatgen.core.ewald import EwaldSummation
from pymatgen.io.ase import AseAtomsAdaptor

from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.structures.composition import oxidation_states

METALS = {"Ni", "Co", "Mn"}


def disorder(atoms, shells=3):
    """How far the shares of metal pairs are from those of a random alloy: root mean square over shells and pairs.

    A random alloy of the same cell has the share x_a x_b of ordered pairs (a, b) in every shell.
    """
    symbols = np.array(atoms.get_chemical_symbols())
    metals = atoms[np.isin(symbols, list(METALS))]
    names = np.array(metals.get_chemical_symbols())
    i, j, d = neighbor_list("ijd", metals, 6.1)
    lengths = np.unique(np.round(d, 2))[:shells]
    off = []
    for length in lengths:
        here = np.abs(d - length) < 0.02
        for a in sorted(METALS):
            for b in sorted(METALS):
                share = np.mean((names[i[here]] == a) & (names[j[here]] == b))
                off.append(share - np.mean(names == a) * np.mean(names == b))
    return float(np.sqrt(np.mean(np.square(off))))


def ewald_energy(atoms):
    """Electrostatic energy of formal charges, eV, by pymatgen."""
    structure = AseAtomsAdaptor.get_structure(atoms)
    counts = {s: atoms.get_chemical_symbols().count(s) for s in set(atoms.get_chemical_symbols())}
    structure.add_oxidation_state_by_element(oxidation_states(counts))
    return EwaldSummation(structure).total_energy


def test_sqs_is_nearer_to_a_random_alloy_than_random_orders_by_counting_pairs():
    pytest.importorskip("icet")
    random_ones = [disorder(build_cathode("NCM622", seed=seed)) for seed in range(12)]
    sqs = [disorder(build_cathode("NCM622", ordering="sqs", seed=seed)) for seed in range(2)]
    assert max(sqs) < min(random_ones)
    assert max(sqs) < 0.4 * np.mean(random_ones)


def test_sqs_keeps_the_numbers_the_lattice_and_everyone_elses_random_numbers():
    pytest.importorskip("icet")
    random.seed(5)
    expected = random.random()
    random.seed(5)
    sqs = build_cathode("NCM811", ordering="sqs", seed=3)
    assert random.random() == expected
    plain = build_cathode("NCM811", seed=3)
    assert sqs.positions == pytest.approx(plain.positions)
    assert sorted(sqs.numbers) == sorted(plain.numbers)
    assert sqs == build_cathode("NCM811", ordering="sqs", seed=3)
    assert sqs.info["ordering"] == "sqs"


@pytest.mark.parametrize("li_vacancy", [0.2, 0.5])
def test_ewald_removal_is_no_worse_than_fifty_random_ones(li_vacancy):
    options = {"n_atoms": 40, "seed": 4}  # the same seed orders the metals the same way
    best = build_cathode("NCM811", li_vacancy=li_vacancy, li_removal="ewald", **options)
    full = build_cathode("NCM811", **options)
    lithium = np.flatnonzero(full.symbols == "Li")
    rng = np.random.default_rng(0)
    others = []
    for _ in range(50):
        gone = rng.choice(lithium, len(full) - len(best), replace=False)
        others.append(ewald_energy(full[[i for i in range(len(full)) if i not in gone]]))
    assert ewald_energy(best) <= min(others) + 1e-6
    assert ewald_energy(best) < np.mean(others)


@pytest.mark.slow
def test_ewald_removal_finds_what_enumeration_finds():
    from itertools import combinations

    result = build_cathode("LiCoO2", supercell=(2, 2, 1), li_vacancy=0.25, li_removal="ewald")
    full = build_cathode("LiCoO2", supercell=(2, 2, 1))
    lithium = np.flatnonzero(full.symbols == "Li")
    energies = [ewald_energy(full[[i for i in range(len(full)) if i not in gone]]) for gone in combinations(lithium, 3)]
    assert len(energies) == 220
    assert ewald_energy(result) == pytest.approx(min(energies), abs=1e-4)


def test_lowest_takes_the_lowest_of_its_candidates():
    """A model that likes Co and Mn near the origin, and Li far from it, so the answer can be computed beside it."""
    from cgcnn_ase.energies.interface import Energies

    class Likes:
        name, references = "likes", None

        def __init__(self):
            self.seen = []

        def energies(self, structures):
            result = []
            for atoms in structures:
                height = atoms.get_scaled_positions(wrap=True)[:, 2]
                result.append(height[np.isin(atoms.symbols, ["Co", "Mn"])].sum() - height[atoms.symbols == "Li"].sum())
            self.seen.append(result)
            return Energies(np.array(result))

    model = Likes()
    options = {"li_vacancy": 0.2, "ordering": "lowest", "li_removal": "lowest", "model": model, "n_candidates": 15}
    atoms = build_cathode("NCM811", **options)
    assert [len(seen) for seen in model.seen] == [15, 15]
    assert model.energies([atoms]).energies[0] == pytest.approx(min(model.seen[1]))
    assert atoms.info["ordering"] == atoms.info["li_removal"] == "lowest"


def test_lowest_by_a_model_of_this_package(small_model):
    options = {"supercell": (2, 1, 1), "li_vacancy": 0.5, "li_removal": "lowest", "n_candidates": 4}
    atoms = build_cathode("LiNiO2", model=small_model, **options)
    assert atoms.info["li_content"] == pytest.approx(0.5)
    assert atoms == build_cathode("LiNiO2", model=small_model, **options)

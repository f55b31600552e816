"""The hull, held against pymatgen's phase diagram; the region of chemical potentials, against its definition."""

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from cgcnn_ase.stability.phases import Hull

ELEMENTS = ("Li", "Ni", "O", "Mn")


def random_phases(d, seed, n=40):
    """Counts of d elements and formation energies, some of them above the elements."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, (n, d))
    counts = counts[(counts > 0).sum(axis=1) > 1]
    return counts, 0.3 - 2.0 * rng.random(len(counts))


def diagram(counts, energies):
    names = ELEMENTS[: counts.shape[1]]
    entries = [PDEntry(Composition({name: 1}), 0.0) for name in names]
    for row, energy in zip(counts, energies, strict=True):
        composition = Composition({name: int(n) for name, n in zip(names, row, strict=True)})
        entries.append(PDEntry(composition, float(energy * row.sum())))
    return PhaseDiagram(entries)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_energies_and_decompositions_are_those_of_pymatgen(d):
    counts, energies = random_phases(d, seed=d)
    hull, expected = Hull.of(counts / counts.sum(axis=1, keepdims=True), energies), diagram(counts, energies)
    fractions = np.random.default_rng(0).dirichlet(np.ones(d), 40)
    energies_there, planes = hull.energy(fractions)
    for x, energy, plane in zip(fractions, energies_there, planes, strict=True):
        composition = Composition(dict(zip(ELEMENTS, x.tolist(), strict=False)))
        assert energy == pytest.approx(expected.get_hull_energy_per_atom(composition), abs=1e-9)
        parts = hull.decomposition(x, int(plane))
        np.testing.assert_allclose(sum(part * hull.fractions[k] for k, part in parts), x, atol=1e-9)
        assert sum(part * hull.energies[k] for k, part in parts) == pytest.approx(energy, abs=1e-9)


def test_a_system_without_compounds_is_its_elements():
    hull = Hull.of(np.array([[0.5, 0.5]]), np.array([0.2]))
    assert hull.energy(np.array([[0.3, 0.7]]))[0] == [0.0]
    assert [k for k, _ in hull.decomposition(np.array([0.3, 0.7]), 0)] == [0, 1]


def test_one_element_alone():
    hull = Hull.of(np.empty((0, 1)), np.empty(0))
    assert hull.energy(np.ones((1, 1)))[0] == [0.0]

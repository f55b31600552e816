"""Symmetry-distinct sites, against counting and pymatgen."""

import numpy as np
import pytest
from ase.build import bulk, graphene, mx2
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from cgcnn_ase.structures import distinct_sites, read_structures

from ..conftest import random_crystal


def test_known_structures():
    for atoms, expected in (
        (bulk("NaCl", "rocksalt", a=5.64), [(0, 1), (1, 1)]),
        (bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat((2, 1, 1)), [(0, 8), (1, 8)]),
        (bulk("Si", "diamond", a=5.43), [(0, 2)]),
        (graphene(vacuum=8.0), [(0, 2)]),
        (mx2("MoS2", a=3.18, thickness=3.19, vacuum=8.0), [(0, 1), (1, 2)]),
    ):
        result = distinct_sites(atoms)
        assert list(zip(*(part.tolist() for part in result), strict=True)) == expected


def test_the_examples_against_pymatgen(request):
    for record in read_structures(request.config.rootpath / "examples" / "structures"):
        atoms = record.unwrap()
        symmetrized = SpacegroupAnalyzer(AseAtomsAdaptor.get_structure(atoms), symprec=0.01).get_symmetrized_structure()
        expected = sorted((min(group), len(group)) for group in symmetrized.equivalent_indices)
        result = distinct_sites(atoms)
        assert sorted(zip(*(part.tolist() for part in result), strict=True)) == expected


def test_without_symmetry_each_atom_is_its_own():
    atoms = random_crystal(np.random.default_rng(3), n_atoms=7)
    result = distinct_sites(atoms)
    assert result.representatives.tolist() == list(range(7))
    assert result.multiplicities.tolist() == [1] * 7


def test_the_tolerance_decides():
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.positions[0] += [0.05, 0.0, 0.0]
    assert len(distinct_sites(atoms).representatives) > 2
    assert len(distinct_sites(atoms, symprec=0.3).representatives) == 2


def test_no_space_group_is_an_error():
    with pytest.raises(ValueError, match="no space group"):
        distinct_sites(bulk("NaCl", "rocksalt", a=5.64), symprec=50.0)


@pytest.mark.parametrize("matrix", [np.eye(3), [[0, 1, 2], [0, -1, 2], [1, 0, 1]], [[1, 0, 1], [-2, 1, 1], [0, -2, 1]]])
@pytest.mark.parametrize("name", ["LiFePO4", "LiNiO2", "MgO"])
def test_the_shape_of_a_supercell_makes_no_new_sites(name, matrix, request):
    """A supercell that breaks the symmetry of its crystal has the crystal's sites, each once."""
    from ase.build import make_supercell

    (record,) = read_structures(request.config.rootpath / "examples" / "structures" / f"{name}.cif")
    unit = distinct_sites(record.unwrap())
    atoms = make_supercell(record.unwrap(), np.array(matrix))
    result = distinct_sites(atoms)
    n = len(atoms) // len(record.unwrap())
    assert sorted(result.multiplicities) == sorted(n * unit.multiplicities)
    assert sorted(atoms.numbers[result.representatives]) == sorted(record.unwrap().numbers[unit.representatives])

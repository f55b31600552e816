"""Merged atoms: fewer nodes, the same predictions."""

from collections.abc import Callable

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from ase.build import make_supercell
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cgcnn_ase.graphs import GraphConfig, batch, build_graph, build_graphs
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, n_atoms
from cgcnn_ase.graphs.quotient import Classes, merge_equivalent
from cgcnn_ase.nn.cgcnn import CGCNN

NAMES = ["fcc", "bcc", "hcp", "diamond", "rocksalt", "perovskite", "LiNiO2", "spinel", "rutile"]


def n_orbits(atoms: Atoms) -> int:
    """Symmetry orbits of the atoms by their space group."""
    data = spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=1e-4)
    assert data is not None
    return len(np.unique(data.crystallographic_orbits))


def merged(graph: CrystalGraph) -> Classes:
    assert len(graph.n_nodes) == 1
    numbers, centers, neighbors = (field.numpy() for field in (graph.numbers, graph.centers, graph.neighbors))
    return merge_equivalent(numbers, centers, neighbors, graph.distances.double().numpy(), graph.angular.numpy())


def doubled(graph: CrystalGraph) -> CrystalGraph:
    return graph._replace(
        distances=graph.distances.double(), angular=graph.angular.double(), multiplicity=graph.multiplicity.double()
    )


@pytest.mark.parametrize("angular", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_nodes_are_the_orbits_of_the_space_group(crystals: dict[str, Atoms], name: str, angular: bool) -> None:
    atoms = crystals[name]
    for cell in (atoms, make_supercell(atoms, [[1, 1, 0], [-1, 1, 0], [0, 0, 2]])):
        graph = build_graph(cell, GraphConfig(merge=True, angular=angular))
        assert len(graph.numbers) == n_orbits(cell)
        assert int(n_atoms(graph)) == len(cell)


@pytest.mark.parametrize("name", ["rocksalt", "perovskite", "LiNiO2"])
def test_a_vacancy_splits_the_orbits(crystals: dict[str, Atoms], name: str) -> None:
    """Atoms many bonds away from the vacancy learn of it by the refinement."""
    atoms = crystals[name] * ((1, 1, 1) if name == "LiNiO2" else (2, 2, 2))
    if name == "LiNiO2":
        atoms = atoms * (3, 3, 1)
    del atoms[0]
    graph = build_graph(atoms, GraphConfig(merge=True))
    assert len(graph.numbers) == n_orbits(atoms)
    assert 3 < len(graph.numbers) < len(atoms) / 2


@pytest.mark.parametrize("convolution", ["gated", "edge-gated"])
@pytest.mark.parametrize("angular", [False, True])
def test_merging_changes_no_prediction(
    crystals: dict[str, Atoms], network: Callable[..., CGCNN], convolution: str, angular: bool
) -> None:
    model = network(12 if angular else 0, convolution)
    vacancy = crystals["perovskite"] * (2, 2, 2)
    del vacancy[3]
    structures = [*crystals.values(), vacancy]
    plain = build_graphs(structures, GraphConfig(angular=angular))
    fewer = build_graphs(structures, GraphConfig(angular=angular, merge=True))
    assert len(fewer.numbers) < len(plain.numbers) / 2
    assert fewer.vectors is None
    with torch.no_grad():
        expected = model(doubled(plain), "torch")
        torch.testing.assert_close(model(doubled(fewer), "torch"), expected, atol=1e-6, rtol=0)
        model.float()
        torch.testing.assert_close(model(fewer, "torch"), expected.float(), atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=378553)  # two bonds of one length and different angles, of which one weighted sum agrees
def test_merging_changes_no_prediction_of_random_crystals(network: Callable[..., CGCNN], seed: int) -> None:
    """Random atoms, then a supercell of them: merging finds the translations again."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    atoms = Atoms(rng.choice([8, 28], n), cell=np.diag(rng.uniform(3.5, 5, 3)), scaled_positions=rng.random((n, 3)))
    atoms.pbc = True
    large = atoms * (2, 1, 2)
    plain, fewer = (build_graph(large, GraphConfig(angular=True, merge=merge)) for merge in (False, True))
    model = network(12)
    with torch.no_grad():
        torch.testing.assert_close(model(doubled(fewer), "torch"), model(doubled(plain), "torch"), atol=1e-6, rtol=0)
    assert len(fewer.numbers) <= n + 1  # one atom's distances may lie on the edge of a bin


@pytest.mark.parametrize("name", ["perovskite", "LiNiO2", "spinel"])
def test_vectors_of_atoms_map_back(crystals: dict[str, Atoms], network: Callable[..., CGCNN], name: str) -> None:
    atoms = crystals[name] * (2, 1, 1)
    plain = build_graph(atoms, GraphConfig(angular=True))
    fewer = build_graph(atoms, GraphConfig(angular=True, merge=True))
    classes = merged(plain)
    assert classes.sizes.tolist() == fewer.multiplicity.tolist()
    np.testing.assert_array_equal(classes.class_of[classes.first], np.arange(len(fewer.numbers)))
    np.testing.assert_array_equal(fewer.numbers[classes.class_of], atoms.numbers)
    model = network(12)
    with torch.no_grad():
        of_nodes, of_atoms = (model.atoms(doubled(graph), "torch")[-1] for graph in (fewer, plain))
    torch.testing.assert_close(of_nodes[classes.class_of], of_atoms, atol=1e-6, rtol=1e-6)


def test_crystals_of_a_batch_are_not_mixed(crystals: dict[str, Atoms]) -> None:
    structures = [crystals["fcc"], crystals["fcc"] * (2, 2, 2), crystals["rocksalt"], crystals["rocksalt"]]
    config = GraphConfig(angular=True, merge=True)
    together, apart = build_graphs(structures, config), batch([build_graph(atoms, config) for atoms in structures])
    assert together.n_nodes.tolist() == [1, 1, 2, 2]
    for one, other in zip(together[:-1], apart[:-1], strict=True):
        torch.testing.assert_close(one, other)


def test_lattice_constants_of_few_digits(crystals: dict[str, Atoms]) -> None:
    """a / 2 = 2.1055 Å of MgO is the edge of a bin 0.001 Å wide: the last bit must not split the orbit."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        atoms = crystals["rocksalt"] * (2, 2, 2)
        atoms.positions += rng.uniform(-5, 5, 3)
        assert len(build_graph(atoms, GraphConfig(merge=True)).numbers) == 2


def test_atoms_that_only_angles_tell_apart() -> None:
    """A square and a tetrahedron of neighbours at the same distance."""
    square = [(0, 0, 0), (1.5, 0, 0), (-1.5, 0, 0), (0, 1.5, 0), (0, -1.5, 0)]
    corner = 1.5 / np.sqrt(3)
    tetrahedron = [(0, 0, 0), *(np.array(v) * corner for v in [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)])]
    atoms = Atoms("CH4CH4", positions=np.vstack([square, np.array(tetrahedron) + 50]))
    config = GraphConfig(rule="radius", cutoff=1.6, merge=True)
    assert len(build_graph(atoms, config).numbers) == 2
    with_angles = GraphConfig(rule="radius", cutoff=1.6, merge=True, angular=True)
    assert len(build_graph(atoms, with_angles).numbers) == 4


def test_isolated_atoms_merge_by_element() -> None:
    atoms = Atoms("HeNeHe", positions=[(0, 0, 0), (20, 0, 0), (40, 0, 0)])
    graph = build_graph(atoms, GraphConfig(merge=True, angular=True))
    assert graph.numbers.tolist() == [2, 10]
    assert graph.multiplicity.tolist() == [2, 1]
    assert len(graph.centers) == 0

"""The neighbour list with a skin against a new search at every step."""

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule

from cgcnn_ase.graphs.builder import GraphConfig, build_graph
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.potential.potential import NeighborList

CUTOFF = 4.0


def rows(graph):
    """Edges in an order of their own."""
    table = np.column_stack([graph.centers.numpy(), graph.neighbors.numpy(), graph.vectors.numpy().round(4)])
    return table[np.lexsort(table.T)]


def walk(atoms, *, cell):
    rng = np.random.default_rng(1)
    for _ in range(25):
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
        if cell:
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.004, (3, 3))), scale_atoms=True)
        yield atoms


@pytest.mark.parametrize(
    ("atoms", "cell"),
    [
        (bulk("NiO", "rocksalt", a=4.2), True),
        (bulk("LiCl", "rocksalt", a=5.1, cubic=True).repeat((2, 1, 1)), False),
        (fcc111("Al", (2, 2, 3), vacuum=8.0), False),
        (molecule("C2H6"), False),
    ],
)
def test_pairs_are_those_of_a_new_search(atoms, cell):
    atoms = atoms.copy()
    kept = NeighborList(CUTOFF)
    config = GraphConfig(rule="radius", cutoff=CUTOFF, vectors=True)
    for moved in walk(atoms, cell=cell):
        graph, new = kept.graph(geometry(moved)), build_graph(moved, config)
        np.testing.assert_allclose(rows(graph), rows(new), atol=2e-4)
        assert graph.n_edges.tolist() == new.n_edges.tolist()
        assert (np.diff(graph.centers.numpy()) >= 0).all()
    assert 1 <= kept.n_searches < 25


def test_another_structure_is_searched():
    kept = NeighborList(CUTOFF)
    one, other = bulk("NiO", "rocksalt", a=4.2), bulk("MgO", "rocksalt", a=4.2)
    kept.graph(geometry(one))
    kept.graph(geometry(one))
    assert kept.n_searches == 1
    assert kept.graph(geometry(other)).numbers.tolist() == other.numbers.tolist()
    assert kept.n_searches == 2


def test_bad_positions_are_said():
    atoms = bulk("NiO", "rocksalt", a=4.2)
    atoms.positions[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        NeighborList(CUTOFF).graph(geometry(atoms))

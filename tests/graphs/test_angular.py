"""Angular moments against a loop over pairs of bonds."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from numpy.polynomial.legendre import legval

from cgcnn_ase.core.elements import electronegativity_scale
from cgcnn_ase.graphs import GraphConfig, build_graph
from cgcnn_ase.graphs.builder import DECAY_LENGTH, MAX_DEGREE, N_ANGULAR, angular_moments
from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.graphs.neighbors import NeighborRule


def moments_by_loops(graph: CrystalGraph) -> np.ndarray:
    """The definition in the module's docstring, bond by bond and degree by degree."""
    assert graph.vectors is not None
    numbers, centers, neighbors = graph.numbers.numpy(), graph.centers.numpy(), graph.neighbors.numpy()
    distances, vectors = graph.distances.double().numpy(), graph.vectors.double().numpy()
    result = np.zeros((len(centers), MAX_DEGREE, 3))
    for j in range(len(centers)):
        edges = np.flatnonzero(centers == centers[j])
        for k in edges:
            near = np.exp(-(distances[k] - distances[edges].min()) / DECAY_LENGTH)
            weights = [1 / 12, near / 4, near / 4 * electronegativity_scale()[numbers[neighbors[k]]]]
            cosine = vectors[j] @ vectors[k] / np.linalg.norm(vectors[j]) / np.linalg.norm(vectors[k])
            for degree in range(1, MAX_DEGREE + 1):
                result[j, degree - 1] += np.multiply(weights, legval(cosine, np.eye(MAX_DEGREE + 1)[degree]))
    return result.reshape(len(centers), N_ANGULAR)


@pytest.mark.parametrize("name", ["fcc", "hcp", "perovskite", "LiNiO2", "rutile"])
def test_crystals(crystals: dict[str, Atoms], name: str) -> None:
    graph = build_graph(crystals[name], GraphConfig(angular=True))
    np.testing.assert_allclose(graph.angular.numpy(), moments_by_loops(graph), atol=3e-6)


@pytest.mark.parametrize("rule", ["shell", "radius", "knn"])
def test_random_atoms_and_molecules(rule: NeighborRule) -> None:
    rng = np.random.default_rng(3)
    cell = 4 * np.eye(3) + rng.normal(scale=0.4, size=(3, 3))
    crystal = Atoms("LiOFe", cell=cell, scaled_positions=rng.random((3, 3)), pbc=True)
    for atoms in (crystal, molecule("CH3CH2OH")):
        graph = build_graph(atoms, GraphConfig(rule=rule, cutoff=4.0, n_neighbors=8, angular=True))
        assert graph.angular.abs().max() > 0.1
        np.testing.assert_allclose(graph.angular.numpy(), moments_by_loops(graph), atol=3e-6)


def test_a_known_angle() -> None:
    """Water: the two bonds of oxygen have equal length, so the moments are (1 + P_l(cos 104.5°)) times the weight."""
    angle = np.radians(104.5)
    atoms = Atoms("OHH", positions=[(0, 0, 0), (0.96, 0, 0), (0.96 * np.cos(angle), 0.96 * np.sin(angle), 0)])
    graph = build_graph(atoms, GraphConfig(rule="radius", cutoff=1.2, angular=True))
    expected = [(1 + legval(np.cos(angle), np.eye(5)[degree])) / 12 for degree in range(1, 5)]
    np.testing.assert_allclose(graph.angular[0, ::3].numpy(), expected, atol=1e-6)


def test_no_bonds() -> None:
    empty = np.zeros(0, dtype=np.int64)
    result = angular_moments(np.array([2, 10]), empty, empty, np.zeros(0), np.zeros((0, 3)))
    assert result.shape == (0, N_ANGULAR)


def test_the_last_atoms_may_be_isolated() -> None:
    atoms = Atoms("HHHe", positions=[(0, 0, 0), (0, 0, 0.74), (30, 30, 30)])
    graph = build_graph(atoms, GraphConfig(angular=True))
    np.testing.assert_allclose(graph.angular[:, ::3].numpy(), 1 / 12, atol=1e-7)


def test_padded_edges_have_no_direction() -> None:
    with pytest.raises(ValueError, match="padding='none'"):
        GraphConfig(angular=True, padding="first-atom")

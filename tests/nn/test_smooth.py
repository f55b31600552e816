"""The smooth network: invariance, extensivity, smoothness at the cutoff, and the same by both engines."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy.special import eval_legendre

from cgcnn_ase.graphs.builder import TERMS_OF_DEGREE, GraphConfig, build_graphs, harmonics
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.nn.smooth import SmoothCGCNNConfig, envelope

CUTOFF = 4.0
GRAPH = GraphConfig(rule="radius", cutoff=CUTOFF, vectors=True)


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = SmoothCGCNNConfig(n_features=16, n_channels=4, n_degrees=4, n_products=4, cutoff=CUTOFF)
        return Network(NetworkConfig(architecture=config, n_heads=2)).double()


def energies(network, atoms, engine="torch"):
    graph = build_graphs([atoms], GRAPH)
    with torch.no_grad():
        of_atoms = network.head.out(network.architecture.of_vectors(graph, graph.vectors.double(), engine))
        return of_atoms.sum(dim=0).numpy()


def oxide(seed=0):
    atoms = bulk("NiO", "rocksalt", a=4.2, cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def test_products_of_harmonics_are_legendre_polynomials():
    rng = np.random.default_rng(0)
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 50, 3)))
    product = np.stack(harmonics(*u.T)) * np.stack(harmonics(*v.T))
    ends = np.cumsum(TERMS_OF_DEGREE)
    for degree, (end, n) in enumerate(zip(ends, TERMS_OF_DEGREE, strict=True), 1):
        expected = eval_legendre(degree, np.sum(u * v, axis=1))
        np.testing.assert_allclose(product[end - n : end].sum(axis=0), expected, atol=1e-12)


def test_rotated_reflected_and_shifted_atoms_have_the_same_energy(network):
    atoms = oxide()
    expected = energies(network, atoms)
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = Atoms(atoms.numbers, positions=atoms.positions @ q + 0.7, cell=atoms.cell.array @ q, pbc=True)
    np.testing.assert_allclose(energies(network, turned), expected, atol=1e-5)
    order = np.random.default_rng(2).permutation(len(atoms))
    np.testing.assert_allclose(energies(network, atoms[order]), expected, atol=1e-6)


def test_a_supercell_has_so_many_times_the_energy(network):
    atoms = oxide()
    np.testing.assert_allclose(energies(network, atoms * (2, 1, 3)), 6 * energies(network, atoms), rtol=1e-6)


def test_angles_change_the_energy(network):
    """Three atoms with the same two bonds at other angles, the third side beyond the cutoff."""
    results = []
    for angle in (120, 150, 180):
        a = np.radians(angle)
        positions = [(0, 0, 0), (2.5, 0, 0), (2.5 * np.cos(a), 2.5 * np.sin(a), 0)]
        results.append(energies(network, Atoms("ONi2", positions=positions))[0])
    assert np.ptp(results) > 1e-4
    assert len(np.unique(np.round(results, 6))) == 3


def test_the_envelope_ends_with_two_derivatives():
    x = torch.tensor([0.0, 1.0, 1.3], dtype=torch.float64, requires_grad=True)
    y = envelope(x)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert y.tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(first, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(second, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("step", [1e-3, 1e-4])
def test_a_neighbour_comes_and_goes_without_a_step(network, step):
    """Energy and slope of a third atom that crosses the cutoff of one of two others."""

    def pair(distance):
        positions = [(0, 0, 0), (1.9, 0, 0), (0, distance, 0)]
        return energies(network, Atoms("NiOO", positions=positions))

    inside, outside = pair(CUTOFF - step), pair(CUTOFF + step)
    # the third derivative of the envelope, -336 / cutoff^3, is the first that is not zero
    assert np.abs(inside - outside).max() < 400 * (step / CUTOFF) ** 3 + 1e-9


def test_engines_agree(network):
    pytest.importorskip("dgl", reason="DGL has no wheel for this Python")
    atoms = oxide() * (2, 1, 1)
    np.testing.assert_allclose(energies(network, atoms, "dgl"), energies(network, atoms, "torch"), rtol=1e-10)


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="n_degrees must be at most 4, not 5"):
        SmoothCGCNNConfig(n_degrees=5)
    with pytest.raises(ValueError, match="n_channels must be at least 1, not 0"):
        SmoothCGCNNConfig(n_channels=0)
    with pytest.raises(ValueError, match="pooling must be mean"):
        SmoothCGCNNConfig(pooling="max")

"""Small potentials with random weights."""

import pytest
import torch
from ase.build import bulk

from cgcnn_ase.core.targets import Scaler, TargetSpec
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.nn.smooth import SmoothCGCNNConfig

TARGET = TargetSpec(name="total_energy_per_atom", unit="eV/atom", per_atom=True)


def random_potential(*, seed: int = 0, n_networks: int = 1, **sizes: float) -> CrystalModel:
    """Return a potential with random weights, in double precision, whose forces are some eV/Å."""
    config = SmoothCGCNNConfig(**{"n_features": 8, "n_channels": 3, "n_products": 4, **sizes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = [Network(NetworkConfig(architecture=config, n_heads=3)) for _ in range(n_networks)]
    for network in networks:
        network.architecture.element_energies[:] = torch.linspace(0.0, -3.0, 101, dtype=torch.float64)
    graph = GraphConfig(rule="radius", cutoff=config.cutoff, vectors=True)
    return CrystalModel(networks, graph=graph, target=TARGET, scaler=Scaler(0.0, 3.0), name="random").double()


@pytest.fixture(scope="session")
def random_model() -> CrystalModel:
    """A potential with random weights."""
    return random_potential()


@pytest.fixture
def rattled():
    """Rock salt that is rattled and strained: no symmetry is left."""
    atoms = bulk("LiCl", "rocksalt", a=5.13, cubic=True)
    atoms.rattle(0.15, seed=3)
    atoms.set_cell(atoms.cell.array @ [[1.0, 0.02, 0.0], [0.0, 1.03, 0.01], [0.0, 0.0, 0.98]], scale_atoms=True)
    return atoms

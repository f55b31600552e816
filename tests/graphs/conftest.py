"""Crystals and networks that the graph tests share."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

from cgcnn_ase.graphs import CrystalGraph, GraphConfig, build_graph
from cgcnn_ase.graphs.crystal_graph import map_tensors
from cgcnn_ase.nn.alignn import ALIGNN, ALIGNNConfig
from cgcnn_ase.nn.architecture import Architecture
from cgcnn_ase.nn.cgcnn import CGCNN, CGCNNConfig


def symmetric_crystals() -> dict[str, Atoms]:
    """Well-known crystals, full of neighbours at the same distance."""
    return {
        "fcc": bulk("Cu", "fcc", a=3.61),
        "bcc": bulk("Fe", "bcc", a=2.87),
        "hcp": bulk("Mg", "hcp", a=3.2, c=3.2 * np.sqrt(8 / 3)),
        "diamond": bulk("Si", "diamond", a=5.43),
        "rocksalt": crystal(["Mg", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=[4.211] * 3 + [90] * 3),
        "perovskite": crystal(
            ["Sr", "Ti", "O"],
            [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
            spacegroup=221,
            cellpar=[3.905] * 3 + [90] * 3,
        ),
        "LiNiO2": crystal(
            ["Li", "Ni", "O"],
            [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.2586)],
            spacegroup=166,
            cellpar=[2.878, 2.878, 14.19, 90, 90, 120],
        ),
        "spinel": crystal(
            ["Mg", "Al", "O"],
            [(0.125, 0.125, 0.125), (0.5, 0.5, 0.5), (0.2624, 0.2624, 0.2624)],
            spacegroup=227,
            setting=2,
            cellpar=[8.08] * 3 + [90] * 3,
            primitive_cell=True,
        ),
        "rutile": crystal(
            ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
        ),
    }


@pytest.fixture(scope="session")
def crystals() -> dict[str, Atoms]:
    return symmetric_crystals()


Output = Callable[[Atoms, GraphConfig], torch.Tensor]


def double(graph: CrystalGraph) -> CrystalGraph:
    return map_tensors(graph, lambda field: field.double() if field.is_floating_point() else field)


def random_network(n_angular: int, convolution: str = "edge-message", cutoff: float = 8.0) -> CGCNN:
    """A small network with random weights, none of them zero."""
    config = CGCNNConfig(
        n_features=12,
        n_convolutions=3,
        n_hidden=7,
        n_gaussians=20,
        n_angular=n_angular,
        cutoff=cutoff,
        convolution=convolution,  # type: ignore[arg-type]
        norm="batch" if convolution == "gated" else "layer",
        activation="silu",
        atom_layer=True,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        model = CGCNN(config).double().eval()
        for weight in model.parameters():
            weight.mul_(1.1 if convolution == "gated" else 2.5)  # else the output hardly depends on the distances
        return model


def random_alignn() -> ALIGNN:
    """The same with a line graph."""
    config = ALIGNNConfig(n_features=12, n_alignn=2, n_gcn=1, n_distances=20, n_cosines=10, n_embedding=8, norm="layer")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        model = ALIGNN(config).double().eval()
        for weight in model.parameters():
            weight.mul_(1.5)
        return model


@pytest.fixture(scope="session")
def output() -> Output:
    """Outputs of random networks, double precision, for a structure and the settings of its graph."""
    networks: dict[int, list[Architecture]] = {
        n: [random_network(n, kind) for kind in ("gated", "edge-message")] for n in (0, 12)
    }
    with_lines: list[Architecture] = [random_alignn()]

    def evaluate(atoms: Atoms, config: GraphConfig) -> torch.Tensor:
        graph = double(build_graph(atoms, config))
        chosen = with_lines if config.line_graph else networks[config.n_angular]
        with torch.no_grad():
            return torch.cat([network(graph, "torch")[0] for network in chosen])

    return evaluate


@pytest.fixture(scope="session")
def network() -> Callable[..., CGCNN]:
    return random_network


def to_dgl(graph: CrystalGraph):
    """The same graph as a batched ``dgl.DGLGraph`` with node data ``Z`` and edge data ``d`` and ``r``."""
    import dgl

    result = dgl.graph((graph.neighbors, graph.centers), num_nodes=len(graph.numbers))
    result.set_batch_num_nodes(graph.n_nodes)
    result.set_batch_num_edges(graph.n_edges)
    result.ndata["Z"], result.edata["d"] = graph.numbers, graph.distances
    if graph.vectors is not None:
        result.edata["r"] = graph.vectors
    return result

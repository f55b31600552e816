"""The copy of a network that predicts faster says the same."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from cgcnn_ase.graphs import GraphConfig, build_graphs
from cgcnn_ase.graphs.quotient import merge_equal_edges
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.prediction import fused_cgcnn as blocks
from cgcnn_ase.prediction.fused_cgcnn import BlockedEdgeGated, BlockedGated, BlockedSimple, Softplus, for_prediction

STRUCTURES = [
    bulk("NaCl", "rocksalt", a=5.6),
    Atoms("He", cell=[30] * 3, pbc=True),
    bulk("Ti", "hcp", a=2.95),
    bulk("GaAs", "zincblende", a=5.65) * (2, 1, 1),
]


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("convolution", ["gated", "simple", "edge-gated", "edge-message"])
def test_same_outputs(convolution: str, norm: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    torch.manual_seed(0)
    config = CGCNNConfig(
        n_features=10,
        n_angular=12,
        convolution=convolution,  # type: ignore[arg-type]
        norm=norm,  # type: ignore[arg-type]
    )
    network = Network(NetworkConfig(architecture=config, mean_variance=True)).double()
    graph = build_graphs(STRUCTURES, GraphConfig(angular=True))
    graph = graph._replace(
        distances=graph.distances.double(), angular=graph.angular.double(), multiplicity=graph.multiplicity.double()
    )
    for _ in range(3):
        network(graph, "torch")  # running statistics that are not 0 and 1
    network.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.inference_mode():
        expected, fast = network(graph, "torch"), for_prediction(network)
        for edges in (graph, merge_equal_edges(graph)):
            result = fast(edges)
            torch.testing.assert_close(result.value, expected.value)
            torch.testing.assert_close(result.scale, expected.scale)
    assert len(edges.centers) < 0.5 * len(graph.centers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(
        isinstance(layer, BlockedGated | BlockedEdgeGated | BlockedSimple) for layer in fast.architecture.convolutions
    )


def test_a_graph_without_edges() -> None:
    torch.manual_seed(0)
    network = Network(NetworkConfig(architecture=CGCNNConfig(n_features=10, convolution="edge-message"))).eval()
    graph = build_graphs(STRUCTURES[1:2], GraphConfig())
    with torch.inference_mode():
        torch.testing.assert_close(
            for_prediction(network)(merge_equal_edges(graph)).value, network(graph, "torch").value
        )


def test_softplus() -> None:
    x = torch.linspace(-200, 200, 4001)
    torch.testing.assert_close(Softplus()(x), torch.nn.functional.softplus(x), rtol=1e-6, atol=1e-6)

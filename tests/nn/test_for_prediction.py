"""The copy of a network that predicts faster says the same."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from cgcnn_ase.graphs import GraphConfig, build_graphs
from cgcnn_ase.nn import blocked
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.convolutions import EdgeGatedConvolution, GatedConvolution
from cgcnn_ase.nn.for_prediction import for_prediction
from cgcnn_ase.nn.network import Network, NetworkConfig

STRUCTURES = [
    bulk("NaCl", "rocksalt", a=5.6),
    Atoms("He", cell=[30] * 3, pbc=True),
    bulk("Ti", "hcp", a=2.95),
    bulk("GaAs", "zincblende", a=5.65) * (2, 1, 1),
]


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("convolution", ["gated", "edge-gated", "edge-message"])
def test_same_outputs(convolution: str, norm: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "BLOCK", block)
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
        for engine in ("torch", "dgl"):
            found = fast(graph, engine)
            torch.testing.assert_close(found.value, expected.value)
            torch.testing.assert_close(found.scale, expected.scale)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    replaced = [type(layer) for layer in fast.architecture.convolutions]
    assert not {GatedConvolution, EdgeGatedConvolution} & set(replaced) or (convolution, norm) in (
        ("gated", "layer"),
        ("gated", "none"),
    )

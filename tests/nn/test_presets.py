"""Published networks have as many parameters as their authors' code gives them."""

import pytest
import torch
from ase.build import bulk

from cgcnn_ase.graphs import build_graph
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.training.config import PRESETS, preset


def linear(n_in: int, n_out: int, *, bias: bool = True) -> int:
    return n_in * n_out + (n_out if bias else 0)


def cgcnn_2018() -> int:
    """The layers of the original class: embedding, convs.i.{fc_full, bn1, bn2}, conv_to_fc, fc_out."""
    convolution = linear(2 * 64 + 41, 2 * 64) + 2 * (2 * 64) + 2 * 64
    return linear(92, 64) + 3 * convolution + linear(64, 128) + linear(128, 1)


def cgcnn_2018_eq4() -> int:
    """W_c for v_j and u_ij together, W_s and b for v_i; a score for each atom and layer."""
    convolution = linear(64 + 41, 64, bias=False) + linear(64, 64)
    return linear(92, 64) + 3 * convolution + linear(64, 1) + linear(64, 128) + linear(128, 1)


def cgnn(n_elements: int = 89) -> int:
    """The modules of the reference with the options of its complete model.

    --n_hidden_feat 96 --n_graph_feat 192 --n_conv 4 --n_fc 2 --use_batch_norm --full_pooling --gated_pooling
    --n_postconv_net_layers 2 --use_postconv_net_batch_norm --n_edge_net_feat 144 --n_edge_net_layers 1
    --use_fast_edge_network --fast_edge_network_type 1 --use_edge_net_shortcut
    """
    h, g, e = 96, 192, 144
    embedding = n_elements * h  # no bias
    edge_net = h * e + h * e + h * e  # node_linears, edge_linears, shortcuts: no bias
    gated = e * (2 * h)  # no bias, no norm
    post = 2 * (h * h + 2 * h)  # linears with a batch norm in place of the bias
    pre_pooling = h * h + h
    pooling = 4 * (h * h) + 2 * h  # linears and a batch norm
    full_connections = (h * g + 2 * g) + (g * g + 2 * g)
    regression = g + 1
    return embedding + 4 * (edge_net + gated + post + pre_pooling) + pooling + full_connections + regression


COUNTS = {
    "cgcnn-2018": cgcnn_2018(),
    "cgcnn-2018-eq4": cgcnn_2018_eq4(),
    "cgcnn-defects-max": cgcnn_2018(),  # neither a maximum nor a dropout has parameters
    "cgnn": cgnn() + (101 - 89) * 96,  # ours has a row for each of 100 elements and for none, the OQMD 89 elements
}


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_parameters(name: str) -> None:
    network = Network(NetworkConfig(architecture=PRESETS[name][1]))
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_it_reads_its_graph(name: str) -> None:
    graph, architecture = preset(name)
    network = Network(NetworkConfig(architecture=architecture)).eval()
    with torch.no_grad():
        assert network(build_graph(bulk("NaCl", "rocksalt", a=5.6), graph)).value.shape == (1, 1)


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown preset 'cgan'; .*allowed: cgcnn-2018"):
        preset("cgan")

"""CGCNN: the crystal graph convolutional network of Xie and Grossman, and the variants that improve on it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cgcnn_ase.graphs.crystal_graph import CrystalGraph, crystal_index
from cgcnn_ase.nn.basis import GaussianBasis
from cgcnn_ase.nn.convolutions import Convolution, EdgeGatedConvolution, GatedConvolution
from cgcnn_ase.nn.embedding import ElementEmbedding, Embedding
from cgcnn_ase.nn.layers import Activation, Norm, activation
from cgcnn_ase.nn.messages import Engine, connect, segment_mean


@dataclass(frozen=True, kw_only=True)
class CGCNNConfig:
    """Sizes and choices of a CGCNN; the defaults are those of the original code."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    n_features: int = 64  #: F, length of the node vectors
    n_convolutions: int = 3
    n_hidden: int = 128  #: length of the crystal vector after pooling
    n_hidden_layers: int = 1
    n_gaussians: int = 41
    n_angular: int = 0  #: columns of the graph's angular moments
    cutoff: float = 8.0  #: Å, last centre of the Gaussians
    convolution: Convolution = "gated"
    embedding: Embedding = "descriptor"
    activation: Activation = "softplus"
    norm: Norm = "batch"
    atom_layer: bool = False  #: one more layer on each atom before pooling
    dropout: float = 0.0


class CGCNN(nn.Module):
    """Graph -> crystal vector of length ``n_hidden``."""

    def __init__(self, config: CGCNNConfig) -> None:
        super().__init__()
        f, act = config.n_features, config.activation
        self.config = config
        self.embedding = ElementEmbedding(f, config.embedding)
        self.basis = GaussianBasis(config.n_gaussians, config.cutoff)
        n_edge = config.n_gaussians + config.n_angular
        self.edge_embedding: nn.Module
        if config.convolution == "gated":
            self.edge_embedding = nn.Identity()
            layers: list[nn.Module] = [
                GatedConvolution(f, n_edge, act, config.norm) for _ in range(config.n_convolutions)
            ]
        else:
            self.edge_embedding = nn.Sequential(nn.Linear(n_edge, f), activation(act), nn.Linear(f, f))
            edge_messages = config.convolution == "edge-message"
            layers = [
                EdgeGatedConvolution(f, act, config.norm, edge_messages=edge_messages)
                for _ in range(config.n_convolutions)
            ]
        self.convolutions = nn.ModuleList(layers)
        self.atom_layer = nn.Sequential(nn.Linear(f, f), activation(act)) if config.atom_layer else nn.Identity()
        self.to_crystal = nn.Linear(f, config.n_hidden)
        self.act = activation(act)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.ModuleList(
            nn.Linear(config.n_hidden, config.n_hidden) for _ in range(config.n_hidden_layers - 1)
        )

    def atoms(self, graph: CrystalGraph, engine: Engine = "auto") -> Tensor:
        """Final vector of each node, (N, F)."""
        edges = connect(graph, engine)
        v = self.embedding(graph.numbers)
        u = self.edge_embedding(torch.cat([self.basis(graph.distances), graph.angular], dim=1))
        for convolution in self.convolutions:
            v, u = convolution(v, u, edges)
        return self.atom_layer(v)

    def pool(self, graph: CrystalGraph, v: Tensor) -> Tensor:
        """Mean over the atoms of each crystal: (N, F) -> (B, F)."""
        return segment_mean(v, graph.multiplicity, crystal_index(graph), len(graph.n_nodes))

    def crystal(self, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, F) -> (B, n_hidden); a mask (n_hidden,) takes the place of a random draw of the dropout."""
        c = self.act(self.to_crystal(self.act(pooled)))
        c = self.dropout(c) if mask is None else c * mask
        for layer in self.hidden:
            c = self.act(layer(c))
        return c

    def forward(self, graph: CrystalGraph, engine: Engine = "auto") -> Tensor:
        """Crystal vectors, (B, n_hidden)."""
        return self.crystal(self.pool(graph, self.atoms(graph, engine)))

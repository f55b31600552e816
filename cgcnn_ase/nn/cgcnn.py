"""CGCNN: the crystal graph convolutional network of Xie and Grossman, and the variants that improve on it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.architecture import Architecture, ArchitectureConfig
from cgcnn_ase.nn.convolutions import Convolution, EdgeGatedConvolution, GatedConvolution, SimpleConvolution
from cgcnn_ase.nn.embedding import ElementEmbedding, Embedding, GaussianBasis
from cgcnn_ase.nn.layers import Activation, Norm, activation
from cgcnn_ase.nn.messages import Engine, build_edges
from cgcnn_ase.nn.pooling import Pooling


@dataclass(frozen=True, kw_only=True)
class CGCNNConfig(ArchitectureConfig):
    """Sizes and choices of a CGCNN; the defaults are those of the original code."""

    architecture: Literal["cgcnn"] = "cgcnn"
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


class CGCNN(Architecture):
    """Graph -> crystal vector of length ``n_hidden``."""

    def __init__(self, config: CGCNNConfig) -> None:
        super().__init__(config.dropout)
        f, act = config.n_features, config.activation
        self.config = config
        self.embedding = ElementEmbedding(f, config.embedding)
        self.basis = GaussianBasis(config.n_gaussians, config.cutoff)
        n_edge = config.n_gaussians + config.n_angular
        self.edge_embedding: nn.Module
        if config.convolution in ("gated", "simple"):
            self.edge_embedding = nn.Identity()
            kind = GatedConvolution if config.convolution == "gated" else SimpleConvolution
            layers: list[nn.Module] = [kind(f, n_edge, act, config.norm) for _ in range(config.n_convolutions)]
        else:
            self.edge_embedding = nn.Sequential(nn.Linear(n_edge, f), activation(act), nn.Linear(f, f))
            edge_messages = config.convolution == "edge-message"
            layers = [
                EdgeGatedConvolution(f, act, config.norm, edge_messages=edge_messages)
                for _ in range(config.n_convolutions)
            ]
        self.convolutions = nn.ModuleList(layers)
        self.atom_layer = nn.Sequential(nn.Linear(f, f), activation(act)) if config.atom_layer else nn.Identity()
        self.pooling = Pooling(config.pooling, f, config.n_convolutions)
        self.to_crystal = nn.Linear(self.pooling.n_out, config.n_hidden)
        self.act = activation(act)
        self.hidden = nn.ModuleList(
            nn.Linear(config.n_hidden, config.n_hidden) for _ in range(config.n_hidden_layers - 1)
        )
        self.n_crystal = config.n_hidden

    def atoms(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Vectors of the nodes after each convolution, (N, F) each."""
        edges = build_edges(graph, engine)
        v = self.embedding(graph.numbers)
        u = self.edge_embedding(torch.cat([self.basis(graph.distances), graph.angular], dim=1))
        layers = []
        for convolution in self.convolutions:
            v, u = convolution(v, u, edges)
            layers.append(v)
        return [*layers[:-1], self.atom_layer(v)]

    def pool(self, graph: CrystalGraph, layers: list[Tensor]) -> Tensor:
        """Crystal embeddings, (B, P)."""
        pooled: Tensor = self.pooling(graph, layers)
        return pooled

    def crystal(self, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, P) -> (B, n_hidden)."""
        c = self.apply_dropout(self.act(self.to_crystal(self.act(pooled))), mask)
        for layer in self.hidden:
            c = self.act(layer(c))
        return c

    @property
    def backbone(self) -> list[tuple[nn.Module, ...]]:
        """Embeddings of elements and bonds, then the convolutions."""
        return [(self.embedding, self.edge_embedding), (self.convolutions,)]

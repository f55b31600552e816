"""CGCNN: the crystal graph convolutional network of Xie and Grossman, and the variants that improve on it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.architecture import Architecture, ArchitectureConfig
from cgcnn_ase.nn.layers import (
    Activation,
    Convolution,
    EdgeGatedConvolution,
    ElementEmbedding,
    Embedding,
    GatedConvolution,
    GaussianBasis,
    Norm,
    SimpleConvolution,
    activation,
)
from cgcnn_ase.nn.messages import Engine, build_edges
from cgcnn_ase.nn.pooling import Pooling


@dataclass(frozen=True, kw_only=True)
class CGCNNConfig(ArchitectureConfig):
    """Sizes and choices of a CGCNN; the defaults are those of the original code."""

    least: ClassVar[Mapping[str, int]] = {
        "n_features": 1, "n_convolutions": 1, "n_hidden": 1, "n_hidden_layers": 1, "n_gaussians": 2
    }  # fmt: skip

    architecture: Literal["cgcnn"] = "cgcnn"
    n_convolutions: int = 3
    n_hidden: int = 128  # length of the crystal vector after pooling
    n_hidden_layers: int = 1
    n_gaussians: int = 41
    n_angular: int = 0  # columns of the graph's angular moments
    cutoff: float = 8.0  # Å, last centre of the Gaussians
    convolution: Convolution = "gated"
    embedding: Embedding = "descriptor"
    activation: Activation = "softplus"
    norm: Norm = "batch"
    atom_layer: bool = False  # one more layer on each atom before pooling

    def build(self) -> "CGCNN":
        """Return the network with random weights."""
        return CGCNN(self)

    def for_graph(self, graph: GraphConfig) -> "CGCNNConfig":
        """Return the settings with as many angular columns as the graph has."""
        return replace(self, n_angular=graph.n_angular)

    @classmethod
    def presets(cls) -> "Mapping[str, tuple[GraphConfig, CGCNNConfig]]":
        """Return the published networks, and one that finds a defect."""
        nearest = GraphConfig(rule="knn", cutoff=8.0, n_neighbors=12)
        simple = cls(n_convolutions=3, n_hidden=128, convolution="simple", norm="none", pooling="softmax")
        return {
            # Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018), equation 5 and the defaults of their code
            "cgcnn-2018": (nearest, cls(n_features=64, n_convolutions=3, n_hidden=128)),
            # the same paper's equation 4: no gate, no norm, and a weighted sum over atoms and layers
            "cgcnn-2018-eq4": (nearest, simple),
            # one point defect in a large cell: the largest value of all atoms, where a mean would be 1 in N
            "cgcnn-defects-max": (nearest, cls(pooling="max", dropout=0.5)),
        }


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

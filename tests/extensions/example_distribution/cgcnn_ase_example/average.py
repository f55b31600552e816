"""An architecture: each atom takes up the average of its neighbours."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.architecture import Architecture, ArchitectureConfig
from cgcnn_ase.nn.layers import ElementEmbedding
from cgcnn_ase.nn.messages import Engine, build_edges, weighted_mean
from cgcnn_ase.nn.pooling import Pooling


@dataclass(frozen=True, kw_only=True)
class AverageConfig(ArchitectureConfig):
    """Settings of a network that averages the neighbours of each atom."""

    architecture: Literal["average"] = "average"
    n_layers: int = 2

    def build(self) -> "Average":
        """Return the network with random weights."""
        return Average(self)


class Average(Architecture):
    r"""v_i <- v_i + silu(W mean_j v_j) for each layer."""

    def __init__(self, config: AverageConfig) -> None:
        super().__init__(config.dropout)
        f = config.n_features
        self.embedding = ElementEmbedding(f, "learned")
        self.layers = nn.ModuleList(nn.Linear(f, f) for _ in range(config.n_layers))
        self.pooling = Pooling(config.pooling, f, config.n_layers)
        self.n_crystal = self.pooling.n_out

    def atoms(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Vectors of the nodes after each layer, (N, F) each."""
        edges = build_edges(graph, engine)
        v, vectors = self.embedding(graph.numbers), []
        ones = torch.ones(len(graph.distances), v.shape[1], device=v.device)
        for layer in self.layers:
            v = v + nn.functional.silu(layer(weighted_mean(edges, ones, v, eps=1e-6)))
            vectors.append(v)
        return vectors

    def crystal(self, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, F) -> (B, F)."""
        return self.apply_dropout(pooled, mask)

    @property
    def backbone(self) -> list[tuple[nn.Module, ...]]:
        """The embedding of elements, then the layers."""
        return [(self.embedding,), (self.layers,)]

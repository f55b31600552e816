"""What every architecture offers: vectors of the nodes, the crystal embedding, and the vector that a head reads."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.pooling import PoolingName

#: the smallest sizes with which a network of any architecture can be built
_MINIMA = {
    "n_features": 1,
    "n_hidden": 1,
    "n_hidden_layers": 1,
    "n_convolutions": 1,
    "n_gaussians": 2,
    "n_distances": 2,
    "n_cosines": 2,
    "n_embedding": 1,
    "n_alignn": 0,
    "n_gcn": 0,
    "n_edge_features": 1,
    "cardinality": 1,
    "width": 1,
}


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig:
    """What the settings of all architectures have in common; each adds a tag ``architecture`` and its own sizes."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    reads_lines: ClassVar[bool] = False  #: whether it needs a graph with a line graph
    reads_distances: ClassVar[bool] = True  #: whether it needs the lengths of the bonds

    n_features: int = 64  #: F, length of the node vectors
    pooling: PoolingName = "mean"  #: from node vectors to the crystal embedding
    dropout: float = 0.0  #: of the crystal vector

    def __post_init__(self) -> None:
        for name, least in _MINIMA.items():
            if getattr(self, name, least) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be from 0 to less than 1, not {self.dropout:g}")


class Architecture(nn.Module, ABC):
    """Graph -> node vectors of each layer -> embedding of each crystal (or site) -> vector for the head."""

    n_crystal: int  #: C, length of the vector that a head reads

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def atoms(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Vectors of the nodes after each layer, (N, F) each; the last is the final one."""

    @abstractmethod
    def pool(self, graph: CrystalGraph, layers: list[Tensor]) -> Tensor:
        """Embedding of each crystal from the vectors of its nodes, (B, P); of each node, (N, P), for sites."""

    @abstractmethod
    def crystal(self, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, P) -> (B, C); a mask (C,) takes the place of a random draw of the dropout."""

    @property
    @abstractmethod
    def backbone(self) -> list[tuple[nn.Module, ...]]:
        """The embeddings, then the convolutions: what fine-tuning may fix."""

    def extensive_factor(self, pooled: Tensor) -> Tensor | None:
        """What the head's value is multiplied with, (B, 1), for a network whose value grows with the cell; None: 1."""
        del pooled
        return None

    def apply_dropout(self, c: Tensor, mask: Tensor | None) -> Tensor:
        """The vectors with a random part, or that outside the mask, switched off."""
        thinned: Tensor = self.dropout(c) if mask is None else c * mask
        return thinned

    def forward(self, graph: CrystalGraph, engine: Engine = "auto") -> Tensor:
        """Crystal vectors, (B, C)."""
        return self.crystal(self.pool(graph, self.atoms(graph, engine)))

"""An architecture with its head: what one member of an ensemble is."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.architecture import ArchitectureConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.heads import ErrorHead, Head, Output
from cgcnn_ase.nn.messages import Engine


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """An architecture and the shape of its head."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    architecture: ArchitectureConfig = field(default_factory=CGCNNConfig)
    n_outputs: int = 1
    mean_variance: bool = False  #: whether the head also predicts the size of its error
    quantiles: bool = False  #: the same, as the 5 % and 95 % quantiles of the target

    def __post_init__(self) -> None:
        if self.mean_variance and self.quantiles:
            raise ValueError("a head has mean_variance or quantiles, not both")

    @property
    def error(self) -> ErrorHead:
        """Kind of error that the head predicts."""
        return "quantile" if self.quantiles else "mean-variance" if self.mean_variance else "none"


class Network(nn.Module):
    """Graph -> :class:`Output` in scaled units."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.architecture = config.architecture.build()
        self.head = Head(self.architecture.n_crystal, config.n_outputs, error=config.error)

    def pooled(self, graph: CrystalGraph, engine: Engine = "auto") -> Tensor:
        """Crystal embedding before the head, (B, P): everything that dropout leaves alone."""
        return self.architecture.pool(graph, self.architecture.atoms(graph, engine))

    def read(self, pooled: Tensor, mask: Tensor | None = None) -> Output:
        """Head on the crystal embedding; a mask (C,) switches parts of it off, as dropout does."""
        output: Output = self.head(self.architecture.crystal(pooled, mask))
        n = self.architecture.extensive_factor(pooled)
        if n is not None:
            output = output.map(lambda part: part * n)
        return output

    def forward(self, graph: CrystalGraph, engine: Engine = "auto") -> Output:
        """Value (and scale) of each crystal."""
        return self.read(self.pooled(graph, engine))

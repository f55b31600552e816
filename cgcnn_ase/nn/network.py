"""An architecture with its head: what one member of an ensemble is."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Tag
from torch import Tensor, nn

from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.architecture import Architecture
from cgcnn_ase.nn.cgcnn import CGCNN, CGCNNConfig
from cgcnn_ase.nn.cgnn import CGNN, CGNNConfig
from cgcnn_ase.nn.heads import Head, Output
from cgcnn_ase.nn.messages import Engine


def _tag(config: Any) -> str:
    """The name of an architecture in its settings; those without one are of a CGCNN, as files of older versions are."""
    tag = config.get("architecture", "cgcnn") if isinstance(config, dict) else getattr(config, "architecture", "")
    return str(tag)


#: settings of any architecture
AnyArchitectureConfig = Annotated[
    Annotated[CGCNNConfig, Tag("cgcnn")] | Annotated[CGNNConfig, Tag("cgnn")], Discriminator(_tag)
]


def build(config: CGCNNConfig | CGNNConfig) -> Architecture:
    """The architecture that these settings are of, with random weights."""
    return CGNN(config) if isinstance(config, CGNNConfig) else CGCNN(config)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """An architecture and the shape of its head."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    architecture: AnyArchitectureConfig = field(default_factory=CGCNNConfig)
    n_outputs: int = 1
    mean_variance: bool = False  #: whether the head also predicts the size of its error


class Network(nn.Module):
    """Graph -> :class:`Output` in scaled units."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.architecture = build(config.architecture)
        self.head = Head(self.architecture.n_crystal, config.n_outputs, with_scale=config.mean_variance)

    def pooled(self, graph: CrystalGraph, engine: Engine = "auto") -> Tensor:
        """Crystal embedding before the head, (B, F): everything that dropout leaves alone."""
        return self.architecture.pool(graph, self.architecture.atoms(graph, engine))

    def read(self, pooled: Tensor, mask: Tensor | None = None) -> Output:
        """Head on the crystal embedding; a mask (n_hidden,) switches parts of it off, as dropout does."""
        output: Output = self.head(self.architecture.crystal(pooled, mask))
        if (n := self.architecture.extent(pooled)) is not None:
            return Output(output.value * n, None if output.scale is None else output.scale * n)
        return output

    def forward(self, graph: CrystalGraph, engine: Engine = "auto") -> Output:
        """Value (and scale) of each crystal."""
        return self.read(self.pooled(graph, engine))

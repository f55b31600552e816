"""An architecture with its head: what one member of an ensemble is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.alignn import ALIGNN, ALIGNNConfig
from cgcnn_ase.nn.architecture import Architecture
from cgcnn_ase.nn.cgcnn import CGCNN, CGCNNConfig
from cgcnn_ase.nn.cgnn import CGNN, CGNNConfig
from cgcnn_ase.nn.heads import ErrorHead, Head, Output
from cgcnn_ase.nn.messages import Engine

#: the settings of any architecture, told apart by their tag ``architecture``
AnyConfig = CGCNNConfig | ALIGNNConfig | CGNNConfig

#: by tag: the class of the settings
CONFIGS: dict[str, type[AnyConfig]] = {"cgcnn": CGCNNConfig, "alignn": ALIGNNConfig, "cgnn": CGNNConfig}


def config_class(values: Mapping[str, Any]) -> type[AnyConfig]:
    """The class that an architecture's settings, as plain values, are of; without a tag those of a CGCNN.

    Raises
    ------
    ValueError
        If there is no such architecture.
    """
    tag = values.get("architecture", "cgcnn")
    if tag not in CONFIGS:
        raise ValueError(f"unknown architecture {tag!r}; allowed: {', '.join(CONFIGS)}")
    return CONFIGS[tag]


def check_graph(config: AnyConfig, graph: GraphConfig) -> None:
    """Raise where a network cannot read such graphs, or would not read what is costly to build.

    Raises
    ------
    ValueError
        Naming the setting of the graph to change.
    """
    if config.reads_lines and not graph.line_graph:
        raise ValueError(f"the architecture {config.architecture} reads bond angles: its graph needs line_graph=True")
    if graph.line_graph and not config.reads_lines:
        raise ValueError(f"the architecture {config.architecture} reads no bond angles: it needs line_graph=False")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """An architecture and the shape of its head."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    architecture: AnyConfig = field(default_factory=CGCNNConfig)
    n_outputs: int = 1
    mean_variance: bool = False  #: whether the head also predicts the size of its error
    quantiles: bool = False  #: the same, as the 5 % and 95 % quantiles of the target

    def __post_init__(self) -> None:
        if self.mean_variance and self.quantiles:
            raise ValueError("a head has mean_variance or quantiles, not both")

    @property
    def error(self) -> ErrorHead:
        """What the head says of its error."""
        return "quantile" if self.quantiles else "mean-variance" if self.mean_variance else "none"


def new_architecture(config: AnyConfig) -> Architecture:
    """An architecture with random weights."""
    if isinstance(config, ALIGNNConfig):
        return ALIGNN(config)
    if isinstance(config, CGNNConfig):
        return CGNN(config)
    return CGCNN(config)


class Network(nn.Module):
    """Graph -> :class:`Output` in scaled units."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.architecture = new_architecture(config.architecture)
        self.head = Head(self.architecture.n_crystal, config.n_outputs, error=config.error)

    def pooled(self, graph: CrystalGraph, engine: Engine = "auto") -> Tensor:
        """Crystal embedding before the head, (B, P): everything that dropout leaves alone."""
        return self.architecture.pool(graph, self.architecture.atoms(graph, engine))

    def read(self, pooled: Tensor, mask: Tensor | None = None) -> Output:
        """Head on the crystal embedding; a mask (C,) switches parts of it off, as dropout does."""
        output: Output = self.head(self.architecture.crystal(pooled, mask))
        n = self.architecture.extensive_factor(pooled)
        if n is not None:
            output = Output(*(None if part is None else part * n for part in output))  # type: ignore[arg-type]
        return output

    def forward(self, graph: CrystalGraph, engine: Engine = "auto") -> Output:
        """Value (and scale) of each crystal."""
        return self.read(self.pooled(graph, engine))

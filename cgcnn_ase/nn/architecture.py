"""Base classes of architectures: settings, registered by a tag, and a network that embeds crystals."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from cgcnn_ase.core.registry import Registry
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.pooling import PoolingName

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema
    from typing_extensions import Self

# the architecture of settings without a tag
DEFAULT = "cgcnn"


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig(ABC):
    """Settings of an architecture; each adds its own sizes, and a tag ``architecture`` by which it is registered.

    Where settings are read (pydantic), a field of this class takes the registered class that the tag names.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    reads_lines: ClassVar[bool] = False  # whether it needs a graph with a line graph
    reads_distances: ClassVar[bool] = True  # whether it needs the lengths of the bonds
    is_smooth: ClassVar[bool] = False  # whether its value can be differentiated by the positions
    least: ClassVar[Mapping[str, int]] = {"n_features": 1}  # smallest values of its sizes

    n_features: int = 64  # F, length of the node vectors
    pooling: PoolingName = "mean"  # from node vectors to the crystal embedding
    dropout: float = 0.0  # of the crystal vector
    architecture: str  # the tag

    def __post_init__(self) -> None:
        for name, least in self.least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be from 0 to less than 1, not {self.dropout:g}")

    @abstractmethod
    def build(self) -> "Architecture":
        """Return the network with random weights."""

    @property
    def is_extensive(self) -> bool:
        """True if the network's value grows with the cell."""
        return False

    @classmethod
    def presets(cls) -> "Mapping[str, tuple[GraphConfig, Self]]":
        """Return settings under a name, each with the graph that the network reads."""
        return {}

    @staticmethod
    def kinds() -> "dict[str, type[ArchitectureConfig]]":
        """Return the registered classes of settings by tag, that of settings without a tag first."""
        return {name: ARCHITECTURES.get(name) for name in architecture_names()}

    def for_graph(self, graph: GraphConfig) -> "Self":
        """Return the settings with the sizes that follow from the graph."""
        del graph
        return self

    def check_graph(self, graph: GraphConfig) -> None:
        """Raise where the network cannot read such graphs, or would not read what is costly to build."""
        if self.reads_lines and not graph.line_graph:
            raise ValueError(f"the architecture {self.architecture} reads bond angles: its graph needs line_graph=True")
        if graph.line_graph and not self.reads_lines:
            raise ValueError(f"the architecture {self.architecture} reads no bond angles: it needs line_graph=False")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        """Let pydantic choose the class of settings by their tag."""
        if cls is not ArchitectureConfig:
            return handler(source)
        from pydantic_core import core_schema

        kinds = {name: handler.generate_schema(kind) for name, kind in cls.kinds().items()}
        return core_schema.tagged_union_schema(kinds, discriminator=_architecture)


# settings by tag; other packages register theirs as entry points of this group
ARCHITECTURES: Registry[type[ArchitectureConfig]] = Registry(
    "architecture",
    "cgcnn_ase.architectures",
    {
        "cgcnn": "cgcnn_ase.nn.cgcnn:CGCNNConfig",
        "alignn": "cgcnn_ase.nn.alignn:ALIGNNConfig",
        "cgnn": "cgcnn_ase.nn.cgnn:CGNNConfig",
        "smooth-cgcnn": "cgcnn_ase.nn.smooth:SmoothCGCNNConfig",
    },
)


def architecture_names() -> list[str]:
    """Return the names of all architectures, that of settings without a tag first."""
    return sorted(ARCHITECTURES.names(), key=lambda name: (name != DEFAULT, name))


def _architecture(settings: object) -> object:
    """The tag of settings by name, or of settings that are there already."""
    if isinstance(settings, Mapping):
        return settings.get("architecture", DEFAULT)
    return getattr(settings, "architecture", None)


class Architecture(nn.Module, ABC):
    """Graph -> node vectors of each layer -> embedding of each crystal (or site) -> vector for the head."""

    n_crystal: int  # C, length of the vector that a head reads
    pooling: nn.Module  # node vectors of each layer -> embeddings

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def atoms(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Return the vectors of the nodes after each layer, (N, F) each; the last is the final one."""

    def pool(self, graph: CrystalGraph, layers: list[Tensor]) -> Tensor:
        """Embed each crystal from the vectors of its nodes, (B, P); each node, (N, P), for sites."""
        pooled: Tensor = self.pooling(graph, layers)
        return pooled

    @abstractmethod
    def crystal(self, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, P) -> (B, C); a mask (C,) takes the place of a random draw of the dropout."""

    @property
    @abstractmethod
    def backbone(self) -> list[tuple[nn.Module, ...]]:
        """The embeddings, then the convolutions: what fine-tuning may fix."""

    def extensive_factor(self, pooled: Tensor) -> Tensor | None:
        """Factor of the head's value, (B, 1), for a network whose value grows with the cell; None: 1."""
        del pooled
        return None

    def offset(self, pooled: Tensor) -> Tensor | None:
        """Value that is added to the head's, (B, 1); None: nothing."""
        del pooled
        return None

    def apply_dropout(self, c: Tensor, mask: Tensor | None) -> Tensor:
        """The vectors with a random part, or that outside the mask, switched off."""
        thinned: Tensor = self.dropout(c) if mask is None else c * mask
        return thinned

    def forward(self, graph: CrystalGraph, engine: Engine = "auto") -> Tensor:
        """Crystal vectors, (B, C)."""
        return self.crystal(self.pool(graph, self.atoms(graph, engine)))

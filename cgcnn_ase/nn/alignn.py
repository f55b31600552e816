"""ALIGNN: message passing on the bonds and on the bond angles (Choudhary and DeCost, npj Comput. Mater. 7, 185)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.architecture import Architecture, ArchitectureConfig
from cgcnn_ase.nn.layers import EdgeGatedConvolution, ElementEmbedding, Embedding, GaussianBasis, Norm, norm
from cgcnn_ase.nn.messages import Edges, Engine, build_edges, connect_lines
from cgcnn_ase.nn.pooling import Pooling


@dataclass(frozen=True, kw_only=True)
class ALIGNNConfig(ArchitectureConfig):
    """Sizes and choices of an ALIGNN; the defaults are those of the paper."""

    reads_lines: ClassVar[bool] = True
    least: ClassVar[Mapping[str, int]] = {
        "n_features": 1, "n_alignn": 0, "n_gcn": 0, "n_distances": 2, "n_cosines": 2, "n_embedding": 1
    }  # fmt: skip

    architecture: Literal["alignn"] = "alignn"
    n_features: int = 256
    n_alignn: int = 4  # layers on the graph and its line graph
    n_gcn: int = 4  # layers on the graph alone
    n_distances: int = 80  # radial basis functions between 0 and the cutoff
    n_cosines: int = 40  # basis functions between -1 and 1
    n_embedding: int = 64  # length of bond and angle vectors between basis and network
    cutoff: float = 8.0  # Å
    embedding: Embedding = "descriptor"
    norm: Norm = "batch"
    edge_messages: bool = False  # see :class:`EdgeGatedConvolution`; not in the paper

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_alignn + self.n_gcn < 1:
            raise ValueError("an ALIGNN needs at least one layer: n_alignn or n_gcn must be at least 1")

    def build(self) -> "ALIGNN":
        """Return the network with random weights."""
        return ALIGNN(self)

    @classmethod
    def presets(cls) -> "Mapping[str, tuple[GraphConfig, ALIGNNConfig]]":
        """Return the published network, and one that a laptop can train."""
        graph = GraphConfig(line_graph=True, merge=True)
        small = cls(
            n_features=64, n_alignn=2, n_gcn=2, n_embedding=32, n_distances=40, n_cosines=20,
            norm="layer", embedding="both", edge_messages=True,
        )  # fmt: skip
        return {
            # Choudhary and DeCost, npj Comput. Mater. 7, 185 (2021), as published: 4.03 million weights
            "alignn": (graph, cls()),
            # tells the structures of an element apart
            "alignn-small": (graph, small),
        }


class Normed(nn.Module):
    """SiLU(norm(W x)), W any map of the rows."""

    def __init__(self, layer: nn.Module, n_features: int, kind: Norm) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm(kind, n_features)
        self.act = nn.SiLU()

    def forward(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """(R, ...), (R,) -> (R, F)."""
        return self.act(self.norm(self.layer(x), weights))


class Expansion(nn.Module):
    """A number in a basis, and two dense layers on it: (R,) -> (R, n_basis) -> (R, n_hidden) -> (R, F)."""

    def __init__(self, basis: GaussianBasis, n_hidden: int, n_features: int, kind: Norm) -> None:
        super().__init__()
        self.basis = basis
        self.hidden = Normed(nn.Linear(len(basis.centers), n_hidden), n_hidden, kind)
        self.out = Normed(nn.Linear(n_hidden, n_features), n_features, kind)

    def forward(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """(R,), (R,) -> (R, F)."""
        return self.out(self.hidden(self.basis(x), weights), weights)


class ALIGNNLayer(nn.Module):
    """An edge-gated convolution on the graph, whose new bond vectors go through another on the line graph.

    h, m <- g(h, y) and y, z <- L(m, z), in the order of the published code.
    """

    def __init__(self, n_features: int, kind: Norm, *, edge_messages: bool = False) -> None:
        super().__init__()
        self.on_bonds = EdgeGatedConvolution(n_features, "silu", kind, edge_messages=edge_messages)
        self.on_angles = EdgeGatedConvolution(n_features, "silu", kind, edge_messages=edge_messages)

    def forward(
        self, h: Tensor, y: Tensor, z: Tensor, bonds: Edges, angles: Edges, *, is_last: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, F), (E, F), (L, F) -> the same: new vectors of atoms, bonds and angles, old ones of the last angles."""
        h, m = self.on_bonds(h, y, bonds)
        y, z = self.on_angles(m, z, angles, is_last=is_last)
        return h, y, z


class ALIGNN(Architecture):
    """Graph with line graph -> crystal vector, the pooled vectors of the atoms."""

    def __init__(self, config: ALIGNNConfig) -> None:
        super().__init__(config.dropout)
        f, kind = config.n_features, config.norm
        self.config = config
        self.atom_embedding = Normed(ElementEmbedding(f, config.embedding), f, kind)
        distances = _basis(0.0, config.cutoff, config.n_distances)
        self.bond_embedding = Expansion(distances, config.n_embedding, f, kind)
        self.angle_embedding = Expansion(_basis(-1.0, 1.0, config.n_cosines), config.n_embedding, f, kind)
        more = config.edge_messages
        self.alignn_layers = nn.ModuleList(ALIGNNLayer(f, kind, edge_messages=more) for _ in range(config.n_alignn))
        self.gcn_layers = nn.ModuleList(
            EdgeGatedConvolution(f, "silu", kind, edge_messages=more) for _ in range(config.n_gcn)
        )
        self.pooling = Pooling(config.pooling, f, config.n_alignn + config.n_gcn)
        self.n_crystal = self.pooling.n_out

    def atoms(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Vectors of the nodes after each layer, (N, F) each."""
        bonds, angles = build_edges(graph, engine), connect_lines(graph, engine)
        assert graph.lines is not None
        h = self.atom_embedding(graph.numbers, bonds.node_weights)  # (N, F)
        y = self.bond_embedding(graph.distances, bonds.edge_weights)  # (E, F)
        z = self.angle_embedding(graph.lines.cosines, angles.edge_weights)  # (L, F)
        layers = []
        for k, layer in enumerate(self.alignn_layers, start=1):
            h, y, z = layer(h, y, z, bonds, angles, is_last=k == len(self.alignn_layers))
            layers.append(h)
        for k, layer in enumerate(self.gcn_layers, start=1):
            h, y = layer(h, y, bonds, is_last=k == len(self.gcn_layers))
            layers.append(h)
        return layers

    def crystal(self, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, P) as it is: the head is the published linear map."""
        return self.apply_dropout(pooled, mask)

    @property
    def backbone(self) -> list[tuple[nn.Module, ...]]:
        """Embeddings of atoms, bonds and angles, then the convolutions."""
        embeddings = (self.atom_embedding, self.bond_embedding, self.angle_embedding)
        return [embeddings, (self.alignn_layers, self.gcn_layers)]


def _basis(first: float, last: float, n: int) -> GaussianBasis:
    """exp(-(x - c)^2 / s) with s the spacing of the n centres, as in the published code: it is not squared."""
    return GaussianBasis(n, last, width=((last - first) / (n - 1)) ** 0.5, first=first)

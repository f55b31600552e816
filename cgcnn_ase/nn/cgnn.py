"""CGNN: the crystal graph neural network of Yamamoto, which reads who is bonded to whom and no distances.

T. Yamamoto, Crystal graph neural networks for data mining in materials science (2019), https://github.com/Tony-Y/cgnn.
Its graphs are those of the crystal graph coordinator (:mod:`cgcnn_ase.graphs.neighbors`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cgcnn_ase.core.elements import MAX_NUMBER
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, n_atoms
from cgcnn_ase.nn.architecture import Architecture, ArchitectureConfig
from cgcnn_ase.nn.layers import Activation, Dense, ElementEmbedding, Embedding, Norm, activation, norm
from cgcnn_ase.nn.messages import Edges, Engine, build_edges, sum_messages
from cgcnn_ase.nn.pooling import OF_SITES, MultiStepPooling, Pooling, PoolingName

EdgeNetworkName = Literal["none", "original", "fast", "aggregate"]


def at_edges(linear: nn.Module, h: Tensor, e: Tensor | None, edges: Edges) -> Tensor:
    """A linear map of the edge vectors; before the first layer, of the neighbours' vectors, once for each node."""
    return linear(h).index_select(0, edges.neighbors) if e is None else linear(e)


class BilinearLayer(nn.Module):
    """e_ij <- g(norm(h_i B e_ij)), the original layer; B has (C, F, C) numbers."""

    def __init__(self, n_node: int, n_in: int, n_out: int, act: Activation, kind: Norm, *, bias: bool) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(n_node, n_in, n_out, bias=bias and kind == "none")
        self.norm = norm(kind, n_out)
        self.act = activation(act)

    def forward(self, h: Tensor, e: Tensor | None, edges: Edges) -> Tensor:
        """(N, F), (E, n_in) -> (E, n_out)."""
        h_i = h.index_select(0, edges.centers)
        e = h.index_select(0, edges.neighbors) if e is None else e
        return self.act(self.norm(self.bilinear(h_i, e), edges.edge_weights))


class FastLayer(nn.Module):
    """e_ij <- g(h_i W * e_ij W') (type 0) or g(h_i W) * g(e_ij W') (type 1), each product normalised."""

    def __init__(
        self, n_node: int, n_in: int, n_out: int, act: Activation, kind: Norm, *, bias: bool, product: Literal[0, 1] = 1
    ) -> None:
        super().__init__()
        self.node = nn.Linear(n_node, n_out, bias=bias and kind == "none")
        self.edge = nn.Linear(n_in, n_out, bias=bias and kind == "none")
        self.node_norm, self.edge_norm = norm(kind, n_out), norm(kind, n_out)
        self.inner = activation(act) if product == 1 else nn.Identity()
        self.outer = activation(act) if product == 0 else nn.Identity()

    def forward(self, h: Tensor, e: Tensor | None, edges: Edges) -> Tensor:
        """(N, F), (E, n_in) -> (E, n_out)."""
        of_node = self.inner(self.node_norm(self.node(h), edges.node_weights))  # (N, n_out)
        of_edge = self.inner(self.edge_norm(at_edges(self.edge, h, e, edges), edges.edge_weights))
        return self.outer(of_node.index_select(0, edges.centers) * of_edge)


class AggregateLayer(nn.Module):
    """e_ij <- g(norm(g(+_l a_l B_l b_l) W)), a = g(h_i W_h) and b = g(e_ij W_e) in blocks l of a few numbers each.

    As in ResNeXt (Xie et al., 2017): many small bilinear maps, whose results (+, side by side) are mixed by W.
    """

    def __init__(
        self,
        n_node: int,
        n_in: int,
        n_out: int,
        act: Activation,
        kind: Norm,
        *,
        bias: bool,
        blocks: tuple[int, int] = (32, 4),
    ) -> None:
        super().__init__()
        bias = bias and kind == "none"
        self.blocks = blocks
        cardinality, width = blocks
        inside = cardinality * width
        self.node = nn.Linear(n_node, inside, bias=bias)
        self.edge = nn.Linear(n_in, inside, bias=bias)
        bound = width**-0.5
        self.bilinear = nn.Parameter(torch.empty(cardinality, width, width, width).uniform_(-bound, bound))
        self.bilinear_bias = nn.Parameter(torch.empty(inside).uniform_(-bound, bound)) if bias else None
        self.out = nn.Linear(inside, n_out, bias=bias)
        self.norm = norm(kind, n_out)
        self.act = activation(act)

    def forward(self, h: Tensor, e: Tensor | None, edges: Edges) -> Tensor:
        """(N, F), (E, n_in) -> (E, n_out)."""
        a = self.act(self.node(h)).index_select(0, edges.centers).unflatten(1, self.blocks)  # (E, L, w)
        b = self.act(at_edges(self.edge, h, e, edges)).unflatten(1, self.blocks)
        mixed = torch.einsum("elp,lrpq,elq->elr", a, self.bilinear, b).flatten(1)  # (E, L w)
        if self.bilinear_bias is not None:
            mixed = mixed + self.bilinear_bias
        return self.act(self.norm(self.out(self.act(mixed)), edges.edge_weights))


class EdgeNetwork(nn.Module):
    """Some layers one after the other; with a shortcut e_ij <- e_ij W_s + layer(h_i, e_ij)."""

    def __init__(self, layers: list[nn.Module], shortcuts: list[nn.Module] | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.shortcuts = None if shortcuts is None else nn.ModuleList(shortcuts)

    def forward(self, h: Tensor, edges: Edges) -> Tensor:
        """(N, F) -> (E, C)."""
        e: Tensor | None = None
        for k, layer in enumerate(self.layers):
            new = layer(h, e, edges)
            e = new if self.shortcuts is None else new + at_edges(self.shortcuts[k], h, e, edges)
        assert e is not None
        return e


@dataclass(frozen=True, kw_only=True)
class CGNNConfig(ArchitectureConfig):
    """Sizes and choices of a CGNN; the defaults are those of the published complete model.

    A norm takes the place of a bias wherever both are asked for. The norm of the crystals' layers acts on each row by
    itself (``layer``) where the rows are sites.
    """

    reads_distances: ClassVar[bool] = False
    least: ClassVar[Mapping[str, int]] = {
        "n_features": 1, "n_hidden": 1, "n_edge_features": 1, "cardinality": 1, "width": 1
    }  # fmt: skip

    architecture: Literal["cgnn"] = "cgnn"
    n_features: int = 96
    pooling: PoolingName = "gated"
    multi_step: bool = True  # pool after each convolution and add up; False: after the last
    n_convolutions: int = 4
    n_hidden: int = 192  # length of the crystal vector
    n_hidden_layers: int = 2
    embedding: Embedding = "learned"
    activation: Activation = "softplus"  # of the crystals' layers
    norm: Norm = "batch"  # of the crystals' layers
    edge_network: EdgeNetworkName = "fast"
    n_edge_features: int = 144
    n_edge_layers: int = 1
    edge_network_activation: Activation = "elu"
    edge_network_norm: Norm = "none"
    edge_shortcut: bool = True
    fast_type: Literal[0, 1] = 1  # of ``fast``: an activation of the product (0) or a product of activations (1)
    cardinality: int = 32  # of ``aggregate``: how many blocks
    width: int = 4  # of ``aggregate``: numbers in each
    core: Literal["edge", "neighbor"] = "edge"  # what the gate is multiplied with: a map of e_ij or of h_j
    edge_activation: Activation | None = None  # f of the messages
    edge_norm: Norm = "none"  # of the messages' gate and core
    n_post_layers: int = 2
    post_activation: Activation = "elu"
    post_norm: Norm = "batch"
    node_activation: Activation | None = None
    node_norm: Norm = "none"
    bias: bool = False  # whether the linear maps of nodes and edges have one
    extensive: bool = False  # whether the network's value is multiplied by the number of atoms

    def __post_init__(self) -> None:
        if min(self.n_convolutions, self.n_hidden_layers, self.n_edge_layers) < 1 or self.n_post_layers < 0:
            raise ValueError(f"a CGNN needs at least one layer of each kind, and n_post_layers not negative: {self}")
        if self.extensive and self.pooling not in ("mean", "softmax", "gated"):
            raise ValueError(f"times the number of atoms makes sense of a mean over atoms, not of {self.pooling!r}")
        super().__post_init__()

    @property
    def is_extensive(self) -> bool:
        """True if the network's value grows with the cell."""
        return self.extensive

    def build(self) -> "CGNN":
        """Return the network with random weights."""
        return CGNN(self)

    @classmethod
    def presets(cls) -> "Mapping[str, tuple[GraphConfig, CGNNConfig]]":
        """Return the complete model of Yamamoto (2019)."""
        return {"cgnn": (GraphConfig(rule="coordinator"), cls())}


def edge_network(config: CGNNConfig) -> EdgeNetwork | None:
    """Build the edge network of a convolution; None for ``none``."""
    f, n, bias = config.n_features, config.n_edge_features, config.bias
    act, kind = config.edge_network_activation, config.edge_network_norm
    sizes = [(f if k == 0 else n, n) for k in range(config.n_edge_layers)]
    layers: list[nn.Module]
    if config.edge_network == "original":
        layers = [BilinearLayer(f, *size, act, kind, bias=bias) for size in sizes]
    elif config.edge_network == "fast":
        layers = [FastLayer(f, *size, act, kind, bias=bias, product=config.fast_type) for size in sizes]
    elif config.edge_network == "aggregate":
        blocks = (config.cardinality, config.width)
        layers = [AggregateLayer(f, *size, act, kind, bias=bias, blocks=blocks) for size in sizes]
    else:
        return None
    return EdgeNetwork(layers, [nn.Linear(*size, bias=False) for size in sizes] if config.edge_shortcut else None)


class CGNNConvolution(nn.Module):
    """x_i <- norm(x_i + PostNet(sum_j sigmoid(g(e_ij)) * f(e_ij))), g and f linear maps with a norm.

    Without an edge network e_ij is x_j. An activation may follow f, and another all.
    """

    def __init__(self, config: CGNNConfig) -> None:
        super().__init__()
        f = config.n_features
        self.edge_network = edge_network(config)
        n_edge = f if self.edge_network is None else config.n_edge_features
        bias = config.bias and config.edge_norm == "none"
        one_map = config.core == "edge" or self.edge_network is None
        self.gate = nn.Linear(n_edge, 2 * f if one_map else f, bias=bias)
        self.core = None if one_map else nn.Linear(f, f, bias=bias)
        self.edge_norm = norm(config.edge_norm, 2 * f)
        self.edge_act = _optional(config.edge_activation)
        self.post = nn.ModuleList(
            Dense(f, f, config.post_activation, config.post_norm, bias=config.bias) for _ in range(config.n_post_layers)
        )
        self.node_norm = norm(config.node_norm, f)
        self.node_act = _optional(config.node_activation)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """(N, F) -> (N, F)."""
        e = None if self.edge_network is None else self.edge_network(x, edges)
        z = at_edges(self.gate, x, e, edges)
        if self.core is not None:
            z = torch.cat([z, at_edges(self.core, x, None, edges)], dim=1)
        gate, core = self.edge_norm(z, edges.edge_weights).chunk(2, dim=1)
        total = sum_messages(edges, torch.sigmoid(gate) * self.edge_act(core))  # (N, F)
        for dense in self.post:
            total = dense(total, edges.node_weights)
        return self.node_act(self.node_norm(x + total, edges.node_weights))


class CGNN(Architecture):
    """Graph -> crystal vector of length ``n_hidden``."""

    def __init__(self, config: CGNNConfig) -> None:
        super().__init__(config.dropout)
        f = config.n_features
        self.config = config
        self.embedding = ElementEmbedding(f, config.embedding)
        if config.embedding == "learned" and self.embedding.table is not None:  # as a linear map of one-hot vectors
            bound = (MAX_NUMBER + 1) ** -0.5
            nn.init.uniform_(self.embedding.table.weight, -bound, bound)
        self.convolutions = nn.ModuleList(CGNNConvolution(config) for _ in range(config.n_convolutions))
        self.pooling: Pooling | MultiStepPooling
        if config.multi_step and config.n_convolutions > 1:
            self.pooling = MultiStepPooling(config.pooling, f, config.n_convolutions)
        else:
            self.pooling = Pooling(config.pooling, f, config.n_convolutions)
        kind: Norm = "layer" if config.pooling in OF_SITES and config.norm == "batch" else config.norm
        self.norm = norm(kind, self.pooling.n_out)
        self.act = activation(config.activation)
        sizes = [self.pooling.n_out] + [config.n_hidden] * config.n_hidden_layers
        self.hidden = nn.ModuleList(
            Dense(sizes[k], sizes[k + 1], config.activation, kind) for k in range(config.n_hidden_layers)
        )
        self.n_crystal = sizes[-1]

    def atoms(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Vectors of the nodes after each convolution, (N, F) each."""
        edges = build_edges(graph, engine)
        x = self.embedding(graph.numbers)
        layers = []
        for convolution in self.convolutions:
            x = convolution(x, edges)
            layers.append(x)
        return layers

    def pool(self, graph: CrystalGraph, layers: list[Tensor]) -> Tensor:
        """Crystal embeddings, (B, P), and where the value is extensive the number of atoms in a last column."""
        pooled: Tensor = self.pooling(graph, layers)
        return torch.cat([pooled, n_atoms(graph)[:, None]], dim=1) if self.config.extensive else pooled

    def crystal(self, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, P) -> (B, n_hidden)."""
        c = self.act(self.norm(pooled[:, : self.pooling.n_out]))
        for k, layer in enumerate(self.hidden):
            c = self.apply_dropout(layer(c), mask) if k == 0 else layer(c)
        return c

    def extensive_factor(self, pooled: Tensor) -> Tensor | None:
        """The number of atoms, (B, 1), where the value is extensive."""
        return pooled[:, -1:] if self.config.extensive else None

    @property
    def backbone(self) -> list[tuple[nn.Module, ...]]:
        """The embedding of elements, then the convolutions."""
        return [(self.embedding,), (self.convolutions,)]


def _optional(name: Activation | None) -> nn.Module:
    return nn.Identity() if name is None else activation(name)

"""Edge networks of CGNN: vectors of the bonds from the vectors of the two atoms, no distance needed.

T. Yamamoto, Crystal graph neural networks for data mining in materials science (2019), https://github.com/Tony-Y/cgnn.
The vector of an edge starts as that of its neighbour, e_ij = h_j; each layer brings in the centre, h_i.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from cgcnn_ase.nn.layers import Activation, Norm, activation, norm
from cgcnn_ase.nn.messages import Edges

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
        cardinality: int = 32,
        width: int = 4,
    ) -> None:
        super().__init__()
        bias = bias and kind == "none"
        inside = cardinality * width
        self.blocks = (cardinality, width)
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


def edge_network(
    name: EdgeNetworkName,
    n_node: int,
    n_edge: int,
    n_layers: int,
    act: Activation,
    kind: Norm,
    *,
    bias: bool = False,
    shortcut: bool = False,
    product: Literal[0, 1] = 1,
    cardinality: int = 32,
    width: int = 4,
) -> EdgeNetwork | None:
    """An edge network by name; None for ``none``."""
    sizes = [(n_node if k == 0 else n_edge, n_edge) for k in range(n_layers)]
    layers: list[nn.Module]
    if name == "original":
        layers = [BilinearLayer(n_node, *size, act, kind, bias=bias) for size in sizes]
    elif name == "fast":
        layers = [FastLayer(n_node, *size, act, kind, bias=bias, product=product) for size in sizes]
    elif name == "aggregate":
        layers = [
            AggregateLayer(n_node, *size, act, kind, bias=bias, cardinality=cardinality, width=width) for size in sizes
        ]
    else:
        return None
    return EdgeNetwork(layers, [nn.Linear(*size, bias=False) for size in sizes] if shortcut else None)

"""The convolutions for prediction: the same numbers from blocks of edges that stay in the processor's cache."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgcnn_ase.nn.convolutions import EdgeGatedConvolution, GatedConvolution
from cgcnn_ase.nn.messages import Edges

#: edges in a block, for each thread: a few tensors of (1024, F) fit into a core's own cache
BLOCK = 1024


def blocks(n_edges: int) -> Iterator[slice]:
    """Consecutive ranges that cover all edges."""
    size = BLOCK * torch.get_num_threads()
    return (slice(start, start + size) for start in range(0, n_edges, size))


class BlockedGated(nn.Module):
    """What :class:`GatedConvolution` computes once its edge norm is folded into its weights, without gradients."""

    def __init__(self, convolution: GatedConvolution) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, v: Tensor, u: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """(N, F), (E, G) -> (N, F), (E, G): new node vectors and the same edge vectors."""
        layer = self.convolution
        w_i, w_j, w_u = layer.full.weight.split([layer.n_features, layer.n_features, u.shape[1]], dim=1)
        at_center, at_neighbor, w_u = F.linear(v, w_i, layer.full.bias), F.linear(v, w_j), w_u.t().contiguous()
        messages = torch.zeros_like(v)
        for block in blocks(len(u)):
            z = at_center.index_select(0, edges.centers[block])
            z += at_neighbor.index_select(0, edges.neighbors[block])
            gate, core = z.addmm_(u[block], w_u).chunk(2, dim=1)
            messages.index_add_(0, edges.centers[block], torch.sigmoid(gate).mul_(layer.act(core)))
        return layer.act(v + layer.node_norm(messages)), u


class BlockedEdgeGated(nn.Module):
    """What :class:`EdgeGatedConvolution` computes, without gradients.

    The edge vectors handed in are overwritten with the new ones, except in a network's last convolution, where nobody
    reads them any more.
    """

    def __init__(self, convolution: EdgeGatedConvolution, *, is_last: bool) -> None:
        super().__init__()
        self.convolution, self.is_last = convolution, is_last

    def forward(self, h: Tensor, y: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """(N, F), (E, F) -> (N, F), (E, F): new node and edge vectors."""
        layer = self.convolution
        a, b, u, v = (part.contiguous() for part in layer.node(h).chunk(4, dim=1))
        a += layer.edge.bias
        w = layer.edge.weight.t().contiguous()
        messages, gates = torch.zeros_like(h), torch.full_like(h, layer.eps)
        for block in blocks(len(y)):
            centers, neighbors = edges.centers[block], edges.neighbors[block]
            e = a.index_select(0, centers)
            e += b.index_select(0, neighbors)
            e.addmm_(y[block], w)  # A h_i + B h_j + C y_ij
            s = torch.sigmoid(e)
            gates.index_add_(0, centers, s)
            m = v.index_select(0, neighbors)
            if layer.edge_messages:
                m += y[block]
            messages.index_add_(0, centers, m.mul_(s))
            if not self.is_last:
                y[block] += layer.act(layer.edge_norm(e))
        return h + layer.act(layer.node_norm(u + messages / gates)), y

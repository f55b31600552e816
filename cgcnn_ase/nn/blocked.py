"""The network for prediction: the same numbers, without gradients, from one block of edges after the other."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.blocks import Block, blocks
from cgcnn_ase.nn.cgcnn import CGCNN
from cgcnn_ase.nn.convolutions import EdgeGatedConvolution, GatedConvolution, SimpleConvolution
from cgcnn_ase.nn.messages import Engine


class BlockedCGCNN(CGCNN):
    """A CGCNN whose convolutions are :class:`BlockedGated`, :class:`BlockedSimple` or :class:`BlockedEdgeGated`.

    It also reads graphs of which equal edges are merged (see :mod:`cgcnn_ase.graphs.equal_edges`).
    """

    @classmethod
    def of(cls, architecture: CGCNN) -> "BlockedCGCNN":
        """Take over a CGCNN, which must not be used any more."""
        blocked = cls.__new__(cls)
        blocked.__dict__ = architecture.__dict__
        last = len(architecture.convolutions) - 1
        for k, layer in enumerate(architecture.convolutions):
            if isinstance(layer, EdgeGatedConvolution):
                architecture.convolutions[k] = BlockedEdgeGated(layer, is_last=k == last)
            elif isinstance(layer, SimpleConvolution):
                architecture.convolutions[k] = BlockedSimple(layer)
            else:
                architecture.convolutions[k] = BlockedGated(cast(GatedConvolution, layer))
        return blocked

    def atoms(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Vectors of the nodes after each convolution, (N, F); the engine makes no difference here."""
        del engine
        return self.atoms_of_blocks(graph.numbers, blocks(graph, self.basis))

    def atoms_of_blocks(self, numbers: Tensor, edges: list[Block]) -> list[Tensor]:
        """Vectors of the nodes after each convolution, (N, F)."""
        v = self.embedding(numbers)
        u = [self.edge_embedding(block.inputs) for block in edges]
        layers = []
        for convolution in self.convolutions:
            v = convolution(v, u, edges)
            layers.append(v)
        return [*layers[:-1], self.atom_layer(v)]


class BlockedGated(nn.Module):
    """What :class:`GatedConvolution` computes; a batch norm of the edges goes into the weights."""

    def __init__(self, layer: GatedConvolution) -> None:
        super().__init__()
        f = layer.n_features
        if isinstance(layer.edge_norm, nn.BatchNorm1d):
            _scale(layer.full, *_affine(layer.edge_norm))
            layer.edge_norm = nn.Identity()
        self.edge_norm, self.node_norm = layer.edge_norm, layer.node_norm
        self.act = Softplus() if isinstance(layer.act, nn.Softplus) else layer.act
        weight = layer.full.weight.detach()
        self.ends = torch.cat([weight[:, :f], weight[:, f : 2 * f]])  # (4F, F)
        self.edge = weight[:, 2 * f :].t().contiguous()  # (G, 2F)
        self.bias = torch.cat([layer.full.bias.detach(), torch.zeros_like(layer.full.bias)])

    def forward(self, v: Tensor, u: list[Tensor], edges: list[Block]) -> Tensor:
        """(N, F), blocks of (e, G) -> (N, F): new node vectors."""
        ends = F.linear(v, self.ends, self.bias).view(2 * len(v), -1)
        messages = torch.cat([self._messages(ends, u_b, block) for block, u_b in zip(edges, u, strict=True)])
        return self.act(v + self.node_norm(messages))

    def _messages(self, ends: Tensor, u: Tensor, block: Block) -> Tensor:
        """The sums of messages of one block's nodes."""
        z = block.pair_sum(ends).addmm_(u, self.edge)
        gate, core = self.edge_norm(z).chunk(2, dim=1)
        return block.sum_messages(torch.sigmoid(gate).mul_(self.act(core.contiguous())))


class BlockedSimple(nn.Module):
    """What :class:`SimpleConvolution` computes."""

    def __init__(self, layer: SimpleConvolution) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, v: Tensor, u: list[Tensor], edges: list[Block]) -> Tensor:
        """(N, F), blocks of (e, G) -> (N, F): new node vectors."""
        layer = self.layer
        sums = [[block.sum_neighbors(v), block.sum_messages(u_b)] for block, u_b in zip(edges, u, strict=True)]
        around = torch.cat([torch.cat(pair, dim=1) for pair in sums])  # (N, F + G)
        return layer.act(layer.node_norm(layer.around(around) + layer.own(v)))


class BlockedEdgeGated(nn.Module):
    """What :class:`EdgeGatedConvolution` computes.

    The edge vectors handed in are overwritten with the new ones, except in a network's last convolution, where nobody
    reads them any more.
    """

    def __init__(self, layer: EdgeGatedConvolution, *, is_last: bool) -> None:
        super().__init__()
        self.layer, self.is_last = layer, is_last
        a, b, u, v = layer.node.weight.detach().chunk(4)
        bias_a, bias_b, bias_u, bias_v = layer.node.bias.detach().chunk(4)
        self.ends, self.ends_bias = torch.cat([a, b]), torch.cat([bias_a + layer.edge.bias.detach(), bias_b])
        self.own, self.own_bias, self.other, self.other_bias = u, bias_u, v, bias_v
        self.edge = layer.edge.weight.detach().t().contiguous()

    def forward(self, h: Tensor, y: list[Tensor], edges: list[Block]) -> Tensor:
        """(N, F), blocks of (e, F) -> (N, F): new node vectors."""
        ends = F.linear(h, self.ends, self.ends_bias).view(2 * len(h), -1)  # A h_0, B h_0, A h_1, ...
        other = F.linear(h, self.other, self.other_bias)  # V h
        mean = torch.cat([self._mean(ends, other, y_b, block) for block, y_b in zip(edges, y, strict=True)])
        mean += F.linear(h, self.own, self.own_bias)  # U h
        return h + self.layer.act(self.layer.node_norm(mean))

    def _mean(self, ends: Tensor, other: Tensor, y: Tensor, block: Block) -> Tensor:
        """The weighted means of messages of one block's nodes; its edge vectors are updated.

        With as few tensors alive at once as possible: the processor's cache is small.
        """
        layer = self.layer
        e = block.pair_sum(ends).addmm_(y, self.edge)  # A h_i + B h_j + C y_ij
        m = other.index_select(0, block.neighbors)
        if layer.edge_messages:
            m += y
        if not self.is_last:
            y += layer.act(layer.edge_norm(e))
        s = e.sigmoid_()
        gates = block.sum_messages(s).add_(layer.eps)
        return block.sum_messages(m.mul_(s)).div_(gates)


class Softplus(nn.Module):
    """log(1 + e^x) from the fast exponential and logarithm; it differs from PyTorch's by less than 1e-6."""

    def forward(self, x: Tensor) -> Tensor:
        """Of each number; beyond 80, where e^x would overflow, it is x."""
        return torch.maximum(x.clamp(max=80.0).exp_().add_(1.0).log_(), x)


def _affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm in evaluation."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _scale(linear: nn.Linear, scale: Tensor, shift: Tensor) -> None:
    with torch.no_grad():
        linear.weight.mul_(scale[:, None])
        linear.bias.mul_(scale).add_(shift)

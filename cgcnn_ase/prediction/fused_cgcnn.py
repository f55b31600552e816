"""The network for prediction: the same numbers, without gradients, from one block of edges after the other."""

import copy
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.architecture import Architecture
from cgcnn_ase.nn.cgcnn import CGCNN
from cgcnn_ase.nn.layers import EdgeGatedConvolution, GatedConvolution, GaussianBasis, SimpleConvolution
from cgcnn_ase.nn.messages import Engine
from cgcnn_ase.nn.network import Network

# edges in a block, for each thread: two or three tensors of (1024, F) fit into a core's own cache
BLOCK = 1024


class Block(NamedTuple):
    """Some consecutive nodes with all n nodes' e edges, the messages that they receive."""

    inputs: Tensor  # (e, G) Gaussians of the distance, and angular moments
    neighbors: Tensor  # (e,) the node that sends each edge
    ends: Tensor  # (2 e,) rows 2 i and 2 j + 1 for each edge i-j
    pairs: Tensor  # (e,) where each edge's two rows start in ``ends``
    order: Tensor  # (e,) 0, 1, ..., e - 1
    starts: Tensor  # (n,) where each node's edges start in the block
    multiplicity: Tensor | None  # (e,) how many equal edges each stands for

    def pair_sum(self, table: Tensor) -> Tensor:
        """a_i + b_j for each edge: (2 N, F) with the rows a_0, b_0, a_1, b_1, ... -> (e, F)."""
        return _sums_of_rows(table, self.ends, self.pairs)

    def sum_neighbors(self, table: Tensor) -> Tensor:
        """sum_j b_j for each node: (N, F) -> (n, F)."""
        return _sums_of_rows(table, self.neighbors, self.starts, self.multiplicity)

    def sum_messages(self, messages: Tensor) -> Tensor:
        """sum_j m_ij for each node: (e, F) -> (n, F)."""
        return _sums_of_rows(messages, self.order, self.starts, self.multiplicity)


def _sums_of_rows(table: Tensor, rows: Tensor, starts: Tensor, weights: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.embedding_bag`` without its checks, which would take as long as the sums."""
    return torch.embedding_bag(table, rows, starts, False, 0, False, weights)[0]


def blocks(graph: CrystalGraph, basis: GaussianBasis) -> list[Block]:
    """All nodes and edges of a graph in blocks of about `BLOCK` edges and whole nodes, in their order."""
    n_nodes, n_edges = len(graph.numbers), len(graph.centers)
    starts = torch.zeros(n_nodes + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(graph.centers, minlength=n_nodes), 0, out=starts[1:])
    ends = torch.stack([2 * graph.centers, 2 * graph.neighbors + 1], dim=1).flatten()
    order = torch.arange(2 * n_edges)
    size = BLOCK * torch.get_num_threads()
    full = torch.tensor(range(size, n_edges, size), dtype=torch.int64)
    cuts = sorted({0, n_nodes, *torch.searchsorted(starts, full).tolist()})
    made = []
    for first, last in pairwise(cuts):
        start, end = int(starts[first]), int(starts[last])
        block = Block(
            inputs=torch.cat([basis(graph.distances[start:end]), graph.angular[start:end]], dim=1),
            neighbors=graph.neighbors[start:end],
            ends=ends[2 * start : 2 * end],
            pairs=order[: 2 * (end - start) : 2],
            order=order[: end - start],
            starts=starts[first:last] - start,
            multiplicity=None if graph.edge_multiplicity is None else graph.edge_multiplicity[start:end],
        )
        made.append(block)
    return made


class FusedModel(CrystalModel):
    """A model for use without gradients; the members share what they read of a graph."""

    @classmethod
    def of(cls, model: CrystalModel) -> "FusedModel":
        """Copy a model's members for prediction."""
        return cls.like(model, [for_prediction(network) for network in model.networks])

    def pooled(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Crystal embeddings of each member, (B, P); for blocked networks the engine makes no difference."""
        architectures = [network.architecture for network in self.networks]
        blocked = [architecture for architecture in architectures if isinstance(architecture, BlockedCGCNN)]
        if not blocked:
            return super().pooled(graph, engine)
        edges = blocks(graph, blocked[0].plain.basis)
        return [each.pool(graph, each.atoms_of_blocks(graph.numbers, edges)) for each in blocked]


def for_prediction(network: Network) -> Network:
    """Copy a network in evaluation mode, for use without gradients.

    In evaluation a batch norm is an affine map, which goes into the weights and bias of the linear map before it; a
    layer norm depends on its input and stays. The convolutions of a CGCNN pass over the edges in blocks.
    """
    network = copy.deepcopy(network).eval()
    if isinstance(network.architecture, CGCNN):
        network.architecture = BlockedCGCNN(network.architecture)
    return network


class BlockedCGCNN(Architecture):
    """A CGCNN whose convolutions are :class:`BlockedGated`, :class:`BlockedSimple` or :class:`BlockedEdgeGated`.

    It also reads graphs of which equal edges are merged (see :mod:`cgcnn_ase.graphs.quotient`). It takes over the
    network that it is made of, which must not be used any more.
    """

    def __init__(self, plain: CGCNN) -> None:
        super().__init__(plain.config.dropout)
        self.plain, self.pooling, self.n_crystal = plain, plain.pooling, plain.n_crystal
        last = len(plain.convolutions) - 1
        self.convolutions = nn.ModuleList(
            _blocked(each, is_last=k == last) for k, each in enumerate(plain.convolutions)
        )
        self.eval()

    def atoms(self, graph: CrystalGraph, engine: Engine = "auto") -> list[Tensor]:
        """Vectors of the nodes after each convolution, (N, F); the engine makes no difference here."""
        del engine
        return self.atoms_of_blocks(graph.numbers, blocks(graph, self.plain.basis))

    def atoms_of_blocks(self, numbers: Tensor, edges: list[Block]) -> list[Tensor]:
        """Vectors of the nodes after each convolution, (N, F)."""
        v = self.plain.embedding(numbers)
        u = [self.plain.edge_embedding(block.inputs) for block in edges]
        layers = []
        for convolution in self.convolutions:
            v = convolution(v, u, edges)
            layers.append(v)
        return [*layers[:-1], self.plain.atom_layer(v)]

    def crystal(self, pooled: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, P) -> (B, n_hidden)."""
        return self.plain.crystal(pooled, mask)

    @property
    def backbone(self) -> list[tuple[nn.Module, ...]]:
        """Embeddings of elements and bonds, then the convolutions."""
        return self.plain.backbone


def _blocked(layer: nn.Module, *, is_last: bool) -> nn.Module:
    if isinstance(layer, EdgeGatedConvolution):
        return BlockedEdgeGated(layer, is_last=is_last)
    if isinstance(layer, SimpleConvolution):
        return BlockedSimple(layer)
    return BlockedGated(cast(GatedConvolution, layer))


class BlockedGated(nn.Module):
    """The same as :class:`GatedConvolution`; a batch norm of the edges goes into the weights."""

    def __init__(self, layer: GatedConvolution) -> None:
        super().__init__()
        f, weight, bias = layer.n_features, layer.full.weight.detach(), layer.full.bias.detach()
        self.edge_norm, self.node_norm = layer.edge_norm, layer.node_norm
        if isinstance(layer.edge_norm, nn.BatchNorm1d):
            norm = layer.edge_norm
            assert norm.running_var is not None
            assert norm.running_mean is not None
            scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
            shift = norm.bias.detach() - norm.running_mean * scale
            weight, bias = weight * scale[:, None], bias * scale + shift
            self.edge_norm = nn.Identity()
        self.act = Softplus() if isinstance(layer.act, nn.Softplus) else layer.act
        self.ends = torch.cat([weight[:, :f], weight[:, f : 2 * f]])  # (4F, F)
        self.edge = weight[:, 2 * f :].t().contiguous()  # (G, 2F)
        self.bias = torch.cat([bias, torch.zeros_like(bias)])

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
    """The same as :class:`SimpleConvolution`."""

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
    """The same as :class:`EdgeGatedConvolution`.

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

"""The edges of a graph in blocks that stay in the processor's cache, for prediction."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.basis import GaussianBasis

#: edges in a block, for each thread: two or three tensors of (1024, F) fit into a core's own cache
BLOCK = 1024


class Block(NamedTuple):
    """Some consecutive nodes with all n nodes' e edges, the messages that they receive."""

    inputs: Tensor  #: (e, G) Gaussians of the distance, and angular moments
    neighbors: Tensor  #: (e,) the node that sends each edge
    ends: Tensor  #: (2 e,) rows 2 i and 2 j + 1 for each edge i-j
    pairs: Tensor  #: (e,) where each edge's two rows start in ``ends``
    order: Tensor  #: (e,) 0, 1, ..., e - 1
    starts: Tensor  #: (n,) where each node's edges start in the block
    multiplicity: Tensor | None  #: (e,) how many equal edges each stands for

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

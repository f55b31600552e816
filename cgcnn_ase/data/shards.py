"""Many stores of graphs one after the other, each mapped from disk: data sets larger than memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cgcnn_ase.data.graph_store import GraphStore, row_ranges, starts_of
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, batch, unbatch


@dataclass(frozen=True)
class GraphShards:
    """The graphs of several stores, numbered through; it is used as a single :class:`GraphStore` is."""

    stores: tuple[GraphStore, ...]

    def __post_init__(self) -> None:
        if not self.stores:
            raise ValueError("there must be at least one shard")

    def __len__(self) -> int:
        return sum(len(store) for store in self.stores)

    @cached_property
    def n_nodes(self) -> Tensor:
        """Nodes of each graph, (n,)."""
        return torch.cat([store.n_nodes for store in self.stores])

    @cached_property
    def _first(self) -> Tensor:
        return starts_of(torch.tensor([len(store) for store in self.stores]))

    @cached_property
    def _first_node(self) -> Tensor:
        return starts_of(self.n_nodes)

    def batch(self, indices: Sequence[int] | Tensor) -> CrystalGraph:
        """The graphs with these indices side by side, in this order; quickest where they never decrease."""
        picked = torch.as_tensor(indices, dtype=torch.long)
        shard = torch.searchsorted(self._first, picked, right=True) - 1
        order = torch.argsort(shard, stable=True)
        parts = [self.stores[k].batch(picked[shard == k] - self._first[k]) for k in shard.unique().tolist()]
        together = batch(parts)
        if bool((order.diff() > 0).all()):
            return together
        graphs = unbatch(together)
        return batch([graphs[k] for k in torch.argsort(order).tolist()])

    def node_rows(self, indices: Tensor) -> Tensor:
        """Where the nodes of these graphs, in this order, lie among all nodes."""
        return row_ranges(self._first_node[indices], self.n_nodes[indices])

    def node_owner(self) -> npt.NDArray[np.int64]:
        """To which graph each node belongs."""
        return np.repeat(np.arange(len(self)), self.n_nodes.numpy())

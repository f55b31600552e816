"""Many graphs as a few flat arrays: quick to save, to map from disk, and to cut batches from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cgcnn_ase.graphs.crystal_graph import CrystalGraph

_NODE_FIELDS = ("numbers", "multiplicity")
_EDGE_FIELDS = ("centers", "neighbors", "distances", "angular")
_ON_DISK = {"numbers": np.uint8, "multiplicity": np.float32, "centers": np.int32, "neighbors": np.int32}


@dataclass(frozen=True)
class GraphStore:
    """Graphs of n crystals; node indices count from zero within each crystal."""

    fields: dict[str, Tensor]
    n_nodes: Tensor  #: (n,)
    n_edges: Tensor  #: (n,)
    first_node: Tensor  #: (n,)
    first_edge: Tensor  #: (n,)

    def __len__(self) -> int:
        return len(self.n_nodes)

    @classmethod
    def _make(cls, fields: dict[str, Tensor], n_nodes: Tensor, n_edges: Tensor) -> "GraphStore":
        return cls(fields, n_nodes, n_edges, n_nodes.cumsum(0) - n_nodes, n_edges.cumsum(0) - n_edges)

    @classmethod
    def from_graphs(cls, graphs: Iterable[CrystalGraph]) -> "GraphStore":
        """Pack batches of graphs, keeping their order; bond vectors are not kept."""
        parts = [_localise(graph) for graph in graphs]
        fields = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return cls._make(fields, fields.pop("n_nodes"), fields.pop("n_edges"))

    def batch(self, indices: Sequence[int] | Tensor) -> CrystalGraph:
        """The graphs with these indices side by side, in this order."""
        picked = torch.as_tensor(indices, dtype=torch.long)
        n_nodes, n_edges = self.n_nodes[picked], self.n_edges[picked]
        nodes = _ranges(self.first_node[picked], n_nodes)
        edges = _ranges(self.first_edge[picked], n_edges)
        shift = torch.repeat_interleave(n_nodes.cumsum(0) - n_nodes, n_edges)
        take = {name: self.fields[name][nodes] for name in _NODE_FIELDS}
        take |= {name: self.fields[name][edges] for name in _EDGE_FIELDS}
        return CrystalGraph(
            numbers=take["numbers"].long(),
            centers=take["centers"].long() + shift,
            neighbors=take["neighbors"].long() + shift,
            distances=take["distances"],
            angular=take["angular"],
            multiplicity=take["multiplicity"],
            n_nodes=n_nodes,
            n_edges=n_edges,
        )

    def node_rows(self, indices: Tensor) -> Tensor:
        """Where the nodes of these graphs, in this order, lie among all nodes of the store."""
        return _ranges(self.first_node[indices], self.n_nodes[indices])

    def node_owner(self) -> np.typing.NDArray[np.int64]:
        """To which graph each node of the store belongs."""
        return np.repeat(np.arange(len(self)), self.n_nodes.numpy())

    def save(self, folder: Path, meta: Mapping[str, object]) -> None:
        """Write one ``.npy`` file a field and ``meta.json``; NumPy alone reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, tensor in {**self.fields, "n_nodes": self.n_nodes, "n_edges": self.n_edges}.items():
            array = tensor.numpy()
            np.save(folder / f"{name}.npy", array.astype(_ON_DISK.get(name, array.dtype)))
        (folder / "meta.json").write_text(json.dumps(meta, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "GraphStore":
        """Read what :meth:`save` wrote."""
        arrays = {
            name: torch.from_numpy(np.load(folder / f"{name}.npy", allow_pickle=False))
            for name in (*_NODE_FIELDS, *_EDGE_FIELDS, "n_nodes", "n_edges")
        }
        return cls._make(arrays, arrays.pop("n_nodes"), arrays.pop("n_edges"))


def _localise(graph: CrystalGraph) -> dict[str, Tensor]:
    shift = torch.repeat_interleave(graph.n_nodes.cumsum(0) - graph.n_nodes, graph.n_edges)
    return {
        "numbers": graph.numbers.to(torch.uint8),
        "multiplicity": graph.multiplicity,
        "centers": (graph.centers - shift).to(torch.int32),
        "neighbors": (graph.neighbors - shift).to(torch.int32),
        "distances": graph.distances,
        "angular": graph.angular,
        "n_nodes": graph.n_nodes,
        "n_edges": graph.n_edges,
    }


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """Concatenated ``arange(start, start + length)``."""
    offset = torch.repeat_interleave(starts - (lengths.cumsum(0) - lengths), lengths)
    return offset + torch.arange(int(lengths.sum()))

"""Many graphs as a few flat arrays, built once and kept on disk: quick to save, to map and to cut batches from."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as dataclass_fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cgcnn_ase.core.arrays import Ints
from cgcnn_ase.core.files import atomic_path, default_cache_folder
from cgcnn_ase.core.parallel import available_cores
from cgcnn_ase.core.progress import with_progress
from cgcnn_ase.graphs.builder import GraphConfig, build_graphs
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, Geometry, LineGraph, batch, renumbered, starts_of, unbatch

_NODE_FIELDS = ("numbers", "multiplicity")
_EDGE_FIELDS = ("centers", "neighbors", "distances", "angular", "edge_multiplicity")
_LINE_FIELDS = ("line_targets", "line_sources", "line_cosines", "line_multiplicity")
_COUNTS = ("n_nodes", "n_edges", "n_lines")

# fields that only some graphs have; a store has them if one of its graphs does
_OPTIONAL = ("edge_multiplicity", "volumes", *_LINE_FIELDS, "n_lines")

# in files and in memory; other fields stay as they are
_COMPACT = {
    "numbers": torch.uint8,
    "centers": torch.int32,
    "neighbors": torch.int32,
    "edge_multiplicity": torch.int16,
    "line_targets": torch.int32,
    "line_sources": torch.int32,
    "line_multiplicity": torch.int16,
}


@dataclass(frozen=True)
class GraphStore:
    """Graphs of n crystals; indices of nodes and edges count from zero within each crystal."""

    fields: dict[str, Tensor]
    n_nodes: Tensor  # (n,)
    n_edges: Tensor  # (n,)
    first_node: Tensor  # (n,)
    first_edge: Tensor  # (n,)
    n_lines: Tensor | None = None  # (n,) pairs of edges; None where there are no line graphs
    first_line: Tensor | None = None  # (n,)
    folder: Path | None = None  # where its arrays are mapped from

    def __len__(self) -> int:
        return len(self.n_nodes)

    @classmethod
    def _make(cls, arrays: dict[str, Tensor]) -> "GraphStore":
        fields = {name: array for name, array in arrays.items() if name not in _COUNTS}
        n_nodes, n_edges, n_lines = (arrays.get(name) for name in _COUNTS)
        assert n_nodes is not None
        assert n_edges is not None
        first_line = None if n_lines is None else starts_of(n_lines)
        return cls(fields, n_nodes, n_edges, starts_of(n_nodes), starts_of(n_edges), n_lines, first_line)

    @classmethod
    def from_graphs(cls, graphs: Iterable[CrystalGraph]) -> "GraphStore":
        """Pack batches of graphs, keeping their order; bond vectors are not kept.

        Graphs of which only some have a line graph are a `ValueError`.
        """
        parts = [_localise(graph) for graph in graphs]
        if any("edge_multiplicity" in part for part in parts):
            for part in parts:
                part.setdefault("edge_multiplicity", torch.ones(len(part["centers"]), dtype=torch.int16))
        if any(part.keys() != parts[0].keys() for part in parts):
            raise ValueError("cannot store graphs with a line graph or volumes and graphs without together")
        return cls._make({name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def batch(self, indices: Sequence[int] | Tensor) -> CrystalGraph:
        """The graphs with these indices side by side, in this order."""
        picked = torch.as_tensor(indices, dtype=torch.long)
        n_nodes, n_edges = self.n_nodes[picked], self.n_edges[picked]
        nodes = row_ranges(self.first_node[picked], n_nodes)
        edges = row_ranges(self.first_edge[picked], n_edges)
        take = {name: self.fields[name][nodes] for name in _NODE_FIELDS}
        take |= {name: self.fields[name][edges] for name in _EDGE_FIELDS if name in self.fields}
        counts = take.get("edge_multiplicity")
        graph = CrystalGraph(
            numbers=take["numbers"].long(),
            centers=take["centers"].long(),
            neighbors=take["neighbors"].long(),
            distances=take["distances"],
            angular=take["angular"],
            multiplicity=take["multiplicity"],
            n_nodes=n_nodes,
            n_edges=n_edges,
            edge_multiplicity=None if counts is None else counts.float(),
            volumes=self.fields["volumes"][picked] if "volumes" in self.fields else None,
            lines=self._lines(picked),
        )
        return renumbered(graph, 1)

    def node_rows(self, indices: Tensor) -> Tensor:
        """Places of the nodes of these graphs, in this order, among all nodes of the store."""
        return row_ranges(self.first_node[indices], self.n_nodes[indices])

    def node_owner(self) -> np.typing.NDArray[np.int64]:
        """The graph that each node of the store belongs to."""
        return np.repeat(np.arange(len(self)), self.n_nodes.numpy())

    def _lines(self, picked: Tensor) -> LineGraph | None:
        if self.n_lines is None or self.first_line is None:
            return None
        n_lines = self.n_lines[picked]
        lines = row_ranges(self.first_line[picked], n_lines)
        targets, sources, cosines, multiplicity = (self.fields[name][lines] for name in _LINE_FIELDS)
        return LineGraph(targets.long(), sources.long(), cosines, multiplicity.float(), n_lines)

    def save(self, folder: Path, meta: Mapping[str, object]) -> None:
        """Write one ``.npy`` file a field and ``meta.json``; NumPy alone reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        counts = dict(zip(_COUNTS, (self.n_nodes, self.n_edges, self.n_lines), strict=True))
        for name, tensor in (self.fields | counts).items():
            if tensor is not None:
                np.save(folder / f"{name}.npy", tensor.numpy())
        (folder / "meta.json").write_text(json.dumps(meta, indent=1))

    def __reduce__(self) -> tuple[Callable[..., "GraphStore"], tuple[object, ...]]:
        """To other processes a store that is on disk goes as the name of its folder."""
        if self.folder is not None:
            return GraphStore.load, (self.folder,)
        return GraphStore, tuple(getattr(self, field.name) for field in dataclass_fields(self))

    @classmethod
    def load(cls, folder: Path) -> "GraphStore":
        """Map what :meth:`save` wrote into memory; only what a batch needs is read."""
        names = (*_NODE_FIELDS, *_EDGE_FIELDS, "volumes", *_LINE_FIELDS, *_COUNTS)
        files = {name: folder / f"{name}.npy" for name in names}
        arrays = {
            name: torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))
            for name, file in files.items()
            if name not in _OPTIONAL or file.exists()
        }
        return replace(cls._make(arrays), folder=folder.resolve())


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
        """Places of the nodes of these graphs, in this order, among all nodes."""
        return row_ranges(self._first_node[indices], self.n_nodes[indices])

    def node_owner(self) -> Ints:
        """The graph that each node belongs to."""
        return np.repeat(np.arange(len(self)), self.n_nodes.numpy())


def _localise(graph: CrystalGraph) -> dict[str, Tensor]:
    """The fields in compact types, indices counted within each crystal."""
    *tensors, lines = renumbered(graph, -1)
    fields = {name: tensor for name, tensor in zip(graph._fields, tensors, strict=False) if tensor is not None}
    fields.pop("vectors", None)
    if lines is not None:
        fields |= dict(zip((*_LINE_FIELDS, "n_lines"), lines, strict=True))
    return {name: field.to(_COMPACT.get(name, field.dtype)) for name, field in fields.items()}


def row_ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """Concatenated ``arange(start, start + length)``."""
    offset = torch.repeat_interleave(starts - starts_of(lengths), lengths)
    return offset + torch.arange(int(lengths.sum()))


# raise when the meaning of a cached graph changes
CACHE_VERSION = 2

_CHUNK, _BAR = 128, "Building graphs"


def content_hash(structures: Sequence[Geometry], config: GraphConfig) -> str:
    """sha256 over every structure, the graph settings and the cache version."""
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, asdict(config)], sort_keys=True).encode())
    for structure in structures:
        digest.update(len(structure.numbers).to_bytes(8, "little"))
        for array in structure:
            digest.update(array.tobytes())
    return digest.hexdigest()


def cached_graphs(
    structures: Sequence[Geometry],
    config: GraphConfig,
    *,
    folder: Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> GraphStore:
    """Graphs of the structures, in order: from the cache where they are there, else built and put there."""
    path = (folder or default_cache_folder()) / "graphs" / content_hash(structures, config)
    if not (path / "meta.json").exists():
        store = build_store(structures, config, workers=workers, progress=progress)
        try:
            with atomic_path(path) as tmp:
                store.save(tmp, {"version": CACHE_VERSION, "graph": asdict(config), "n": len(structures)})
        except OSError:  # another process was quicker; its files are the same
            if not (path / "meta.json").exists():
                raise
    return GraphStore.load(path)


def build_store(
    structures: Sequence[Geometry], config: GraphConfig, *, workers: int | None = None, progress: bool = False
) -> GraphStore:
    """Build graphs in parallel processes; the result does not depend on their number."""
    workers = workers or available_cores()
    chunks = [(structures[k : k + _CHUNK], config) for k in range(0, len(structures), _CHUNK)]
    if workers == 1 or len(chunks) < 4:
        graphs = with_progress(map(_build, chunks), _BAR, len(chunks), shown=progress)
        return GraphStore.from_graphs(graphs)
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        graphs = with_progress(pool.map(_build, chunks), _BAR, len(chunks), shown=progress)
        return GraphStore.from_graphs(graphs)


def _build(chunk: tuple[Sequence[Geometry], GraphConfig]) -> CrystalGraph:
    return build_graphs(*chunk)._replace(vectors=None)

"""A structure as plain arrays, and the one immutable bundle of tensors that every model reads, with its line graph.

A line graph is there where a model reads angles. In it bonds are nodes and bond angles edges (Choudhary and DeCost, npj
Comput. Mater. 7, 185). A message goes j -> i along the bond e1 (centre i, neighbour j), then i -> k along every bond e2
of which i is the neighbour: e1 is a source of the target e2, the way back to j included. The feature is the cosine of
the angle j-i-k. Where the neighbour is an image of the centre itself, a bond is its own source, in a straight line.
DGL's ``line_graph`` leaves that pair out, and with it the published ALIGNN, whose output therefore depends on the
choice of cell.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from cgcnn_ase.core.arrays import Bools, Floats, Floats32, Ints
from cgcnn_ase.core.elements import MAX_NUMBER

if TYPE_CHECKING:
    from ase import Atoms


class Geometry(NamedTuple):
    """A structure as plain arrays, no ASE needed."""

    numbers: Ints  # (N,)
    positions: Floats  # (N, 3) Å
    cell: Floats  # (3, 3) Å, rows
    pbc: Bools  # (3,)


def geometry(atoms: "Atoms") -> Geometry:
    """The arrays of an ``ase.Atoms``."""
    return Geometry(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


class LazyStructures(Sequence[Geometry]):
    """So many structures that are read, all of them, when the first is asked for, and only once."""

    def __init__(self, n: int, read: Callable[[], Iterable[Geometry]]) -> None:
        self._n, self._read = n, read
        self._structures: list[Geometry] | None = None

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> Geometry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Geometry]: ...
    def __getitem__(self, index: int | slice) -> Geometry | list[Geometry]:
        if self._structures is None:
            self._structures = list(self._read())
        return self._structures[index]


class LineGraph(NamedTuple):
    """Pairs of bonds that share an atom, grouped by target: ``targets`` never decreases."""

    targets: Tensor  # (L,) int64, the edge i -> k that receives the message
    sources: Tensor  # (L,) int64, the edge j -> i that sends it
    cosines: Tensor  # (L,) float32, of the angle j-i-k
    multiplicity: Tensor  # (L,) float32, how many equal sources of the target it stands for
    n_lines: Tensor  # (B,) int64, pairs of each crystal


class CrystalGraph(NamedTuple):
    """One crystal, or a batch of crystals side by side, as tensors.

    N nodes, E directed edges, B crystals. Edges are grouped by the atom that receives the message:
    ``centers`` never decreases.
    """

    numbers: Tensor  # (N,) int64, atomic numbers
    centers: Tensor  # (E,) int64, the node that receives the message
    neighbors: Tensor  # (E,) int64, the node that sends it
    distances: Tensor  # (E,) float32, Å
    angular: Tensor  # (E, A) float32, angular moments of the centre's other bonds; A may be 0
    multiplicity: Tensor  # (N,) float32, how many atoms of the cell the node stands for
    n_nodes: Tensor  # (B,) int64, nodes of each crystal
    n_edges: Tensor  # (B,) int64, edges of each crystal
    vectors: Tensor | None = None  # (E, 3) float32, Å, from centre to neighbour; None once atoms are merged
    edge_multiplicity: Tensor | None = None  # (E,) float32, how many equal edges each stands for; None: one
    volumes: Tensor | None = None  # (B,) float32, Å^3 of each cell; NaN where it is not periodic in all directions
    lines: LineGraph | None = None  # pairs of edges that share an atom, with their angles

    def __repr__(self) -> str:
        return f"CrystalGraph({len(self.n_nodes)} crystals, {len(self.numbers)} nodes, {len(self.centers)} edges)"


def crystal_index(graph: CrystalGraph) -> Tensor:
    """To which crystal each node belongs, shape (N,)."""
    return torch.repeat_interleave(graph.n_nodes, output_size=len(graph.numbers))


def n_atoms(graph: CrystalGraph) -> Tensor:
    """Atoms in each crystal's cell (merged atoms counted), shape (B,)."""
    total = graph.multiplicity.new_zeros(len(graph.n_nodes))
    return total.index_add(0, crystal_index(graph), graph.multiplicity)


def composition(graph: CrystalGraph) -> Tensor:
    """Atomic fraction of each element in each crystal, (B, 101), by atomic number."""
    counts = graph.multiplicity.new_zeros(len(graph.n_nodes), MAX_NUMBER + 1)
    counts.index_put_((crystal_index(graph), graph.numbers), graph.multiplicity, accumulate=True)
    return counts / counts.sum(dim=1, keepdim=True)


def map_tensors(graph: CrystalGraph, function: Callable[[Tensor], Tensor]) -> CrystalGraph:
    """Apply a function to every tensor of the graph, those of its line graph too."""
    *tensors, lines = graph
    fields = [None if tensor is None else function(tensor) for tensor in tensors]
    return CrystalGraph._make([*fields, None if lines is None else LineGraph(*map(function, lines))])


def to_device(graph: CrystalGraph, device: torch.device | str) -> CrystalGraph:
    """The same graph on another device."""
    return map_tensors(graph, lambda field: field.to(device, non_blocking=True))


def batch(graphs: Sequence[CrystalGraph]) -> CrystalGraph:
    """Put graphs side by side into one, in their order; none, or only some with a line graph, are a `ValueError`."""
    if not graphs:
        raise ValueError("cannot batch an empty sequence of graphs")
    if len(graphs) == 1:
        return graphs[0]
    counts = torch.tensor([len(graph.numbers) for graph in graphs])
    edges = torch.tensor([len(graph.centers) for graph in graphs])
    shift = torch.repeat_interleave(starts_of(counts), edges)
    joined = {
        name: torch.cat([getattr(graph, name) for graph in graphs])
        for name in CrystalGraph._fields
        if name not in ("vectors", "edge_multiplicity", "volumes", "lines")
    }
    vectors = [graph.vectors for graph in graphs if graph.vectors is not None]
    volumes = [graph.volumes for graph in graphs if graph.volumes is not None]
    return CrystalGraph(
        **joined | {"centers": joined["centers"] + shift, "neighbors": joined["neighbors"] + shift},
        vectors=torch.cat(vectors) if len(vectors) == len(graphs) else None,
        edge_multiplicity=_edge_multiplicity(graphs),
        volumes=torch.cat(volumes) if len(volumes) == len(graphs) else None,
        lines=_lines(graphs, starts_of(edges)),
    )


def _edge_multiplicity(graphs: Sequence[CrystalGraph]) -> Tensor | None:
    if all(graph.edge_multiplicity is None for graph in graphs):
        return None
    counts = [graph.edge_multiplicity for graph in graphs]
    return torch.cat([torch.ones_like(g.distances) if c is None else c for g, c in zip(graphs, counts, strict=True)])


def _lines(graphs: Sequence[CrystalGraph], first_edge: Tensor) -> LineGraph | None:
    lines = [graph.lines for graph in graphs if graph.lines is not None]
    if not lines:
        return None
    if len(lines) < len(graphs):
        raise ValueError("cannot batch graphs with a line graph and graphs without")
    joined = LineGraph(*(torch.cat(field) for field in zip(*lines, strict=True)))
    shift = torch.repeat_interleave(first_edge, torch.tensor([len(part.targets) for part in lines]))
    return joined._replace(targets=joined.targets + shift, sources=joined.sources + shift)


def unbatch(graph: CrystalGraph) -> list[CrystalGraph]:
    """Take a batch apart into its crystals."""
    nodes, edges = graph.n_nodes.tolist(), graph.n_edges.tolist()
    sizes = {"numbers": nodes, "multiplicity": nodes, "n_nodes": 1, "n_edges": 1, "volumes": 1}
    *tensors, lines = renumbered(graph, -1)
    parts = [
        [None] * len(nodes) if tensor is None else tensor.split(sizes.get(name, edges))
        for name, tensor in zip(graph._fields, tensors, strict=False)
    ]
    if lines is None:
        return [CrystalGraph._make([*fields, None]) for fields in zip(*parts, strict=True)]
    line_parts = [field.split(lines.n_lines.tolist()) for field in lines[:-1]] + [lines.n_lines.split(1)]
    of_crystals = zip(zip(*parts, strict=True), zip(*line_parts, strict=True), strict=True)
    return [CrystalGraph._make([*fields, LineGraph(*of_lines)]) for fields, of_lines in of_crystals]


def renumbered(graph: CrystalGraph, sign: Literal[1, -1]) -> CrystalGraph:
    """The graph with nodes and edges counted through all crystals (1) that were counted within each, or back (-1)."""
    shift = sign * torch.repeat_interleave(starts_of(graph.n_nodes), graph.n_edges)
    lines = graph.lines
    if lines is not None:
        of_edges = sign * torch.repeat_interleave(starts_of(graph.n_edges), lines.n_lines)
        lines = lines._replace(targets=lines.targets + of_edges, sources=lines.sources + of_edges)
    return graph._replace(centers=graph.centers + shift, neighbors=graph.neighbors + shift, lines=lines)


def starts_of(lengths: Tensor) -> Tensor:
    """The starts of rows of these lengths, one after the other."""
    return lengths.cumsum(0) - lengths


class Lines(NamedTuple):
    """The same as plain arrays."""

    targets: Ints  # (L,)
    sources: Ints  # (L,)
    cosines: Floats32  # (L,)


def line_graph(centers: Ints, neighbors: Ints, distances: Floats, vectors: Floats, n_atoms: int) -> Lines:
    """All pairs of bonds that share an atom; ``centers`` must not decrease, ``vectors`` go from centre to neighbour."""
    counts = np.bincount(centers, minlength=n_atoms)
    starts = np.cumsum(counts) - counts
    n_sources = counts[neighbors]  # (E,)
    before = np.cumsum(n_sources) - n_sources
    targets = np.repeat(np.arange(len(centers)), n_sources)
    sources = np.arange(len(targets)) + np.repeat(starts[neighbors] - before, n_sources)
    unit = (vectors / distances[:, None]).astype(np.float32)
    cosines = -np.einsum("lc,lc->l", unit.take(sources, axis=0), unit.take(targets, axis=0))  # i-j times i-k, not k-i
    return Lines(targets, sources, np.clip(cosines, -1, 1))

"""From atoms to graphs: search, choose, describe, merge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
import torch

from cgcnn_ase.core.arrays import AnyArray, Floats, Ints
from cgcnn_ase.core.elements import check_numbers
from cgcnn_ase.graphs.angular import N_ANGULAR, angular_moments
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, LineGraph, Lines, line_graph
from cgcnn_ase.graphs.geometry import Geometry, geometry
from cgcnn_ase.graphs.neighbors import Bonds, NeighborRule, bonds_of_all, pad_to
from cgcnn_ase.graphs.quotient import merge_equal_edges, merge_equivalent, quotient

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """How a structure becomes a graph. It is part of a model: another graph needs another model.

    ``padding="first-atom"`` reproduces the original CGCNN: atoms with fewer than ``n_neighbors`` neighbours get edges
    to atom 0 at ``cutoff + 1`` Å. ``merge`` computes equivalent atoms, and equal edges of each, once (see
    :mod:`cgcnn_ase.graphs.quotient`); predictions do not change. ``line_graph`` adds the bond angles (see
    :mod:`cgcnn_ase.graphs.crystal_graph`). ``vectors`` says that the network reads the directions of the edges: then
    nothing is merged, as equal edges have different ones.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    rule: NeighborRule = "shell"
    cutoff: float = 8.0
    n_neighbors: int = 12
    tolerance: float = 0.01
    padding: Literal["none", "first-atom"] = "none"
    angular: bool = False
    merge: bool = False
    line_graph: bool = False
    vectors: bool = False

    def __post_init__(self) -> None:
        if self.cutoff <= 0 or self.n_neighbors < 1 or self.tolerance < 0:
            raise ValueError(f"cutoff and n_neighbors must be positive and tolerance not negative: {self}")
        if self.angular and self.padding != "none":
            raise ValueError("edges that pad have no direction: angular=True needs padding='none'")
        if self.line_graph and (self.angular or self.padding != "none"):
            raise ValueError("line_graph=True gives the angles: it needs angular=False and padding='none'")
        if self.vectors and (self.angular or self.line_graph or self.padding != "none"):
            raise ValueError("vectors=True gives the angles: it needs angular=False, line_graph=False, padding='none'")

    @property
    def n_angular(self) -> int:
        """Columns of :attr:`CrystalGraph.angular`."""
        return N_ANGULAR if self.angular else 0


def build_graph(atoms: "Atoms | Geometry", config: GraphConfig) -> CrystalGraph:
    """The graph of one structure; an element without descriptor is an `UnknownElementError`.

    A `ValueError` is raised if there are no atoms, a position or the cell is not finite, or the periodic cell vectors
    span no volume.
    """
    return build_graphs([atoms], config)


def build_graphs(structures: Sequence["Atoms | Geometry"], config: GraphConfig) -> CrystalGraph:
    """The graphs of several structures as one batch, in their order; raises as :func:`build_graph` does."""
    return graphs_and_nodes(structures, config).graph


class GraphsAndNodes(NamedTuple):
    """Graphs, and where the atoms of the structures went."""

    graph: CrystalGraph
    node_of_atom: Ints  # (atoms,) the node of the batch that stands for each atom, structure by structure


def graphs_and_nodes(structures: Sequence["Atoms | Geometry"], config: GraphConfig) -> GraphsAndNodes:
    """As :func:`build_graphs`, with the node of each atom: several atoms share one where equivalent ones are merged."""
    if not structures:
        raise ValueError("no structures to build graphs of")
    shapes = [s if isinstance(s, Geometry) else geometry(s) for s in structures]
    n_atoms = np.array([len(shape.numbers) for shape in shapes])
    crystal = np.repeat(np.arange(len(shapes)), n_atoms)
    numbers, bonds = _bonds(shapes, n_atoms, crystal, config)
    volumes = torch.tensor([_volume(shape) for shape in shapes])
    if config.line_graph and config.merge:
        merged = _merged_with_lines(numbers, bonds, crystal, len(shapes))
        return merged._replace(graph=merged.graph._replace(volumes=volumes))
    graph = _graph(numbers, bonds, crystal, len(shapes), config)._replace(volumes=volumes)
    if config.merge and not config.vectors:
        return _merged(graph, crystal, bonds.distances)
    return GraphsAndNodes(graph, np.arange(len(numbers)))


def _volume(shape: Geometry) -> float:
    """Volume of the cell, Å^3; NaN where the structure is not periodic in all three directions."""
    return abs(float(np.linalg.det(shape.cell))) if shape.pbc.all() else np.nan


def _graph(numbers: Ints, bonds: Bonds, crystal: Ints, n_crystals: int, config: GraphConfig) -> CrystalGraph:
    """Every atom a node, every bond an edge and, if asked for, every pair of bonds a line."""
    lines = None
    if config.line_graph:
        pairs = line_graph(*bonds, n_atoms=len(numbers))
        lines = _line_tensors(pairs, np.ones(len(pairs.targets)), crystal[bonds.centers], n_crystals)
    no_moments = np.zeros((len(bonds.centers), 0), dtype=np.float32)
    angular = angular_moments(numbers, *bonds) if config.angular else no_moments
    return CrystalGraph(
        numbers=torch.from_numpy(numbers),
        centers=torch.from_numpy(bonds.centers),
        neighbors=torch.from_numpy(bonds.neighbors),
        distances=_float32(bonds.distances),
        angular=torch.from_numpy(angular),
        multiplicity=torch.ones(len(numbers)),
        n_nodes=_count(crystal, n_crystals),
        n_edges=_count(crystal[bonds.centers], n_crystals),
        vectors=_float32(bonds.vectors),
        lines=lines,
    )


def _merged(graph: CrystalGraph, crystal: Ints, distances: Floats) -> GraphsAndNodes:
    """The graph with one node for each class of equivalent atoms, and the different edges of one of them."""
    centers, neighbors = graph.centers.numpy(), graph.neighbors.numpy()
    merged = merge_equivalent(
        graph.numbers.numpy() + 128 * crystal, centers, neighbors, distances, graph.angular.numpy()
    )
    stays = np.zeros(len(crystal), dtype=bool)
    stays[merged.first] = True
    keep = stays[centers]
    few = graph._replace(
        numbers=graph.numbers[merged.first],
        centers=torch.from_numpy(merged.class_of[centers[keep]]),
        neighbors=torch.from_numpy(merged.class_of[neighbors[keep]]),
        distances=graph.distances[keep],
        angular=graph.angular[keep],
        multiplicity=_float32(merged.sizes),
        n_nodes=_count(crystal[merged.first], len(graph.n_nodes)),
        n_edges=_count(crystal[centers[keep]], len(graph.n_nodes)),
        vectors=None,
    )
    return GraphsAndNodes(merge_equal_edges(few), merged.class_of)


def _merged_with_lines(numbers: Ints, bonds: Bonds, crystal: Ints, n_crystals: int) -> GraphsAndNodes:
    """One atom, bond and pair of bonds of each class."""
    lines = line_graph(*bonds, n_atoms=len(numbers))
    few = quotient(numbers + 128 * crystal, bonds.centers, bonds.neighbors, bonds.distances, lines)
    of_edge = crystal[bonds.centers[few.edges]]
    graph = CrystalGraph(
        numbers=torch.from_numpy(numbers[few.nodes.first]),
        centers=torch.from_numpy(few.centers),
        neighbors=torch.from_numpy(few.neighbors),
        distances=_float32(few.distances),
        angular=torch.zeros(len(few.edges), 0),
        multiplicity=_float32(few.nodes.sizes),
        n_nodes=_count(crystal[few.nodes.first], n_crystals),
        n_edges=_count(of_edge, n_crystals),
        edge_multiplicity=_float32(few.edge_counts),
        lines=_line_tensors(few.lines, few.line_counts, of_edge, n_crystals),
    )
    return GraphsAndNodes(graph, few.nodes.class_of)


def _line_tensors(lines: Lines, counts: AnyArray, crystal_of_edge: Ints, n_crystals: int) -> LineGraph:
    return LineGraph(
        targets=torch.from_numpy(lines.targets),
        sources=torch.from_numpy(lines.sources),
        cosines=torch.from_numpy(lines.cosines),
        multiplicity=_float32(counts),
        n_lines=_count(crystal_of_edge[lines.targets], n_crystals),
    )


def _float32(array: AnyArray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))


def _count(crystal: Ints, n_crystals: int) -> torch.Tensor:
    """How many rows are of each crystal."""
    return torch.from_numpy(np.bincount(crystal, minlength=n_crystals))


def _bonds(shapes: Sequence[Geometry], n_atoms: Ints, crystal: Ints, config: GraphConfig) -> tuple[Ints, Bonds]:
    """Atomic numbers and bonds of all structures."""
    if not n_atoms.all():
        raise ValueError("structure has no atoms")
    for shape in shapes:
        if not np.isfinite(shape.positions).all():
            raise ValueError(f"position of atom {int(np.argmin(np.isfinite(shape.positions).all(1)))} is not finite")
        if not np.isfinite(shape.cell).all():
            raise ValueError("the cell is not finite")
    numbers = check_numbers(np.concatenate([shape.numbers for shape in shapes]))
    bonds = bonds_of_all(
        shapes, rule=config.rule, cutoff=config.cutoff, n_neighbors=config.n_neighbors, tolerance=config.tolerance
    )
    if config.padding == "first-atom":
        bonds = pad_to(bonds, (np.cumsum(n_atoms) - n_atoms)[crystal], config.n_neighbors, config.cutoff + 1.0)
    return numbers, bonds

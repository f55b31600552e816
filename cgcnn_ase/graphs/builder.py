"""From atoms to graphs: search, choose, describe, merge.

Angular moments describe what the directions of an atom's bonds look like from each one of them. For the bond i-j the
moment of degree l is the sum of Legendre polynomials over all bonds of atom i,

    a_l(ij) = sum_k w(r_ik, Z_k) P_l(cos angle(j, i, k)),        l = 1 ... 4,

with three weights w: equal, decaying with distance, and the same signed by electronegativity. It brings bond angles
into a network that has no line graph, at the price of a few columns computed once per structure. The addition theorem
of spherical harmonics, P_l(cos angle(j, i, k)) = sum_m Y_lm(ij) Y_lm(ik), turns the double loop over an atom's bonds
into one sum per atom, so the cost is linear in the number of bonds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from cgcnn_ase.core.arrays import AnyArray, Floats, Floats32, Ints
from cgcnn_ase.core.elements import check_numbers, electronegativity_scale
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, Geometry, LineGraph, Lines, geometry, line_graph
from cgcnn_ase.graphs.neighbors import Bonds, NeighborRule, bonds_of_all, pad_to
from cgcnn_ase.graphs.quotient import merge_equal_edges, merge_equivalent, quotient

if TYPE_CHECKING:
    from ase import Atoms


MAX_DEGREE = 4
N_WEIGHTS = 3
N_ANGULAR = MAX_DEGREE * N_WEIGHTS

# decay length of the distance weight, Å
DECAY_LENGTH = 0.5

# harmonics of each degree from 1 on
TERMS_OF_DEGREE = (3, 5, 7, 9)
Component = TypeVar("Component", Floats32, torch.Tensor)
# (24, 4); 1 where a harmonic is of a degree: there are 2 l + 1 of degree l
_DEGREE_OF_TERM = np.repeat(np.eye(MAX_DEGREE, dtype=np.float32), TERMS_OF_DEGREE, axis=0)


def harmonics(x: Component, y: Component, z: Component) -> list[Component]:
    """Real spherical harmonics of degree 1 to 4 of unit vectors, 24 terms, those of a degree with sum_m Y_lm(u)^2 = 1.

    The components are (E,) each, of numpy or of torch.
    """
    xy, zz = x * y, z * z
    cos2, cos3, sin3 = x * x - y * y, x * (x * x - 3 * y * y), y * (3 * x * x - y * y)
    z2, z3, z4 = 5 * zz - 1, z * (7 * zz - 3), 7 * zz - 1
    return [
        x, y, z,
        sqrt(3) * xy, sqrt(3) * y * z, sqrt(3) * x * z, 1.5 * zz - 0.5, sqrt(3 / 4) * cos2,
        sqrt(5 / 8) * sin3, sqrt(15) * xy * z, sqrt(3 / 8) * y * z2, z * (2.5 * zz - 1.5), sqrt(3 / 8) * x * z2,
        sqrt(15 / 4) * z * cos2, sqrt(5 / 8) * cos3,
        sqrt(35 / 4) * xy * cos2, sqrt(35 / 8) * sin3 * z, sqrt(5 / 4) * xy * z4, sqrt(5 / 8) * y * z3,
        (35 * zz - 30) * zz / 8 + 0.375, sqrt(5 / 8) * x * z3, sqrt(5 / 16) * cos2 * z4, sqrt(35 / 8) * cos3 * z,
        sqrt(35 / 64) * (cos2 * cos2 - 4 * xy * xy),
    ]  # fmt: skip


def angular_moments(
    numbers: Ints,
    centers: Ints,
    neighbors: Ints,
    distances: Floats,
    vectors: Floats,
) -> Floats32:
    """Angular moments of every bond, shape (E, 12); ``centers`` must not decrease.

    The column of degree l and weight w is 3 (l - 1) + w.
    """
    n_atoms, n_bonds = len(numbers), len(centers)
    if n_bonds == 0:
        return np.zeros((0, N_ANGULAR), dtype=np.float32)
    counts = np.bincount(centers, minlength=n_atoms)
    starts = np.cumsum(counts) - counts
    nearest = distances[np.minimum(starts, n_bonds - 1)]  # bonds of an atom are sorted by distance
    near = np.exp(-(distances - nearest[centers]) / DECAY_LENGTH)
    weights = [np.full(n_bonds, 1 / 12), near / 4, near * electronegativity_scale()[numbers[neighbors]] / 4]

    y = np.stack(harmonics(*(vectors / distances[:, None]).astype(np.float32).T), axis=1)  # (E, 24)
    moments = np.empty((n_bonds, MAX_DEGREE, N_WEIGHTS), dtype=np.float32)
    for k, weight in enumerate(weights):
        of_center = _sum_over_bonds(weight.astype(np.float32), y, starts).take(centers, axis=0)  # (E, 24)
        of_center *= y
        moments[:, :, k] = of_center @ _DEGREE_OF_TERM
    return moments.reshape(n_bonds, N_ANGULAR)


def _sum_over_bonds(weight: Floats32, y: Floats32, starts: Ints) -> Floats32:
    """sum_k w_ik y_ik for each atom, whose bonds begin at ``starts``: (E,), (E, 24), (N,) -> (N, 24)."""
    bonds = torch.arange(len(y))
    bags = torch.from_numpy(starts)
    total = embedding_bag(bonds, torch.from_numpy(y), bags, mode="sum", per_sample_weights=torch.from_numpy(weight))
    return total.numpy()


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

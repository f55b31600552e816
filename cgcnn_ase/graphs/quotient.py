"""Merge the atoms, and the bonds, that no message-passing network could tell apart.

Symmetry-equivalent atoms have the same element and the same neighbours at the same distances, so a graph network gives
them the same vector at every layer. Computing it once per class and weighting the class by its size gives the same
result for less work: the crystals of the Materials Project have about three atoms a class.

The classes are the coarsest equitable partition of the graph, found by colour refinement (Weisfeiler and Leman, 1968):
atoms start with their element as colour and are split by the multiset of (colour, distance, angles) of their
neighbours until nothing changes. No space group is needed. With a line graph the bonds have colours too.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.core.arrays import Floats, Floats32, Ints
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, Lines, crystal_index

# distances (Å) and angular moments that fall into the same bin of this width count as equal
DISTANCE_BIN = 1e-3
ANGULAR_BIN = 1e-2
# the bins of equal edges are so many times narrower than those of equivalent atoms, of which all edges must agree
FINENESS = 10.0
# cosines that fall into the same bin of this width count as equal where classes are refined
COSINE_BIN = 1e-2
# and where pairs of bonds of the same classes are merged
FINE_COSINE_BIN = 1e-3
# start of the first bin, in bins: lattice constants of few digits then give no distance on the edge of a bin
_BIN_START = 1 / np.pi

Hashes = npt.NDArray[np.uint64]


class Classes(NamedTuple):
    """Equal things (atoms, bonds), in the order of the first of each class."""

    class_of: Ints  # (N,) class of each
    first: Ints  # (M,) the first of each class
    sizes: Ints  # (M,)


class Quotient(NamedTuple):
    """The rest of a graph and its line graph; bonds and atoms are counted anew."""

    nodes: Classes
    edges: Ints  # (K,) which bonds stay
    centers: Ints  # (K,)
    neighbors: Ints  # (K,)
    distances: Floats  # (K,) Å, means of the bonds merged
    edge_counts: Ints  # (K,) equal bonds of the centre
    lines: Lines  # (M,) cosines are means too
    line_counts: Ints  # (M,) equal sources of the target


def merge_equivalent(colors: Ints, centers: Ints, neighbors: Ints, distances: Floats, angular: Floats32) -> Classes:
    """Classes of equivalent atoms, from the bonds (``centers`` must not decrease) and colours, (N,).

    Colours distinguish atoms from the start; they are different for atoms of different crystals.
    """
    edge = _edge_colors(distances, angular)
    ends = _segment_ends(centers, len(colors))
    color = _mix(colors.astype(np.uint64))
    n_classes = len(np.unique(color))
    while True:
        color = _mix(color * np.uint64(3) + _segment_sums(_mix(edge + color[neighbors]), ends))
        nodes = _classes(color)
        if len(nodes.sizes) == n_classes:
            return nodes
        n_classes = len(nodes.sizes)


def merge_equal_edges(graph: CrystalGraph) -> CrystalGraph:
    """The graph with `edge_multiplicity`; distances and angular moments are the means of the edges merged.

    Edges that stand for several already count as so many.
    """
    centers, neighbors = graph.centers.numpy(), graph.neighbors.numpy()
    described = np.concatenate([graph.distances.numpy()[:, None], graph.angular.numpy()], axis=1)
    times = np.ones(len(centers)) if graph.edge_multiplicity is None else graph.edge_multiplicity.numpy()
    times = times.astype(described.dtype)
    ends = (centers.astype(np.uint64) << np.uint64(32)) + neighbors.astype(np.uint64)
    key = _edge_colors(described[:, 0], described[:, 1:], FINENESS, n_projections=2) + _mix(ends)
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=~key[order[:1]]))
    if len(starts) == len(centers):
        return graph._replace(vectors=None, edge_multiplicity=torch.from_numpy(times))
    first = np.minimum.reduceat(order, starts)
    rank = np.argsort(first)  # the order of the edges before
    kept, counts = torch.from_numpy(first[rank]), np.add.reduceat(times[order], starts)[rank]
    described = np.add.reduceat((described * times[:, None])[order], starts)[rank] / counts[:, None]
    return graph._replace(
        centers=graph.centers[kept],
        neighbors=graph.neighbors[kept],
        distances=torch.from_numpy(np.ascontiguousarray(described[:, 0])),
        angular=torch.from_numpy(np.ascontiguousarray(described[:, 1:])),
        n_edges=torch.bincount(crystal_index(graph)[graph.centers[kept]], minlength=len(graph.n_nodes)),
        vectors=None,
        edge_multiplicity=torch.from_numpy(counts),
    )


def quotient(colors: Ints, centers: Ints, neighbors: Ints, distances: Floats, lines: Lines) -> Quotient:
    """One atom, bond and pair of bonds of each class; the arguments are those of :func:`merge_equivalent`."""
    nodes, edge = _refined(colors, centers, neighbors, distances, lines)
    stays = np.zeros(len(colors), dtype=bool)
    stays[nodes.first] = True
    of_nodes = np.flatnonzero(stays[centers])  # the bonds of the atoms that stay
    bonds = _classes(edge[of_nodes])
    kept = of_nodes[bonds.first]
    total = np.bincount(bonds.class_of, weights=distances[of_nodes], minlength=len(kept))

    new_index = np.full(len(centers), -1)
    new_index[kept] = np.arange(len(kept))
    pairs = np.flatnonzero(new_index[lines.targets] >= 0)
    by_color = np.argsort(edge[kept])
    sources = by_color[np.searchsorted(edge[kept], edge[lines.sources[pairs]], sorter=by_color)]
    merged, line_counts = _merged_pairs(new_index[lines.targets[pairs]], sources, lines.cosines[pairs], len(kept))
    return Quotient(
        nodes=nodes,
        edges=kept,
        centers=nodes.class_of[centers[kept]],
        neighbors=nodes.class_of[neighbors[kept]],
        distances=total / bonds.sizes,
        edge_counts=bonds.sizes,
        lines=merged,
        line_counts=line_counts,
    )


def _refined(colors: Ints, centers: Ints, neighbors: Ints, distances: Floats, lines: Lines) -> tuple[Classes, Hashes]:
    """Classes of the atoms and colors of the bonds, which tell the class of the centre too."""
    no_moments = np.zeros((len(centers), 0), dtype=np.float32)
    start = merge_equivalent(colors, centers, neighbors, distances, no_moments)
    ends, line_ends = _segment_ends(centers, len(colors)), _segment_ends(lines.targets, len(centers))
    cosine = _mix(_bins(lines.cosines, COSINE_BIN).astype(np.uint64))
    color, edge = _mix(start.class_of.astype(np.uint64)), _edge_colors(distances, no_moments)
    n_before = (0, 0)
    while True:
        edge = _mix(edge * np.uint64(3) + color[centers] * np.uint64(5) + color[neighbors] * np.uint64(7))
        edge = _mix(edge + _segment_sums(_mix(edge[lines.sources] + cosine), line_ends))
        color = _mix(color * np.uint64(3) + _segment_sums(edge, ends))
        nodes = _classes(color)
        n_classes = (len(nodes.sizes), len(np.unique(edge)))
        if n_classes == n_before:
            return nodes, edge
        n_before = n_classes


def _merged_pairs(targets: Ints, sources: Ints, cosines: Floats32, n_edges: int) -> tuple[Lines, Ints]:
    """Pairs of the same target and source, and of cosines in the same narrow bin, as one."""
    width = round(2 / FINE_COSINE_BIN) + 2
    key = (targets * n_edges + sources) * width + _bins(cosines, FINE_COSINE_BIN)
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    counts = np.diff(starts, append=len(key))
    total = np.add.reduceat(cosines[order].astype(float), starts) if len(key) else np.zeros(0)
    first = order[starts]
    return Lines(targets[first], sources[first], (total / counts).astype(np.float32)), counts


def _bins(cosines: Floats32, width: float) -> Ints:
    """The number, from zero, of the bin that a cosine falls into."""
    numbers: Ints = np.rint((cosines + 1) / width + _BIN_START).astype(np.int64)
    return numbers


def _mix(x: Hashes) -> Hashes:
    """SplitMix64's finaliser: spreads every input bit over the whole word."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _edge_colors(
    distances: Floats | Floats32, angular: Floats32, fineness: float = 1.0, n_projections: int = 1
) -> Hashes:
    """A number for each edge, the same where distance and angular moments fall into the same bins.

    The bins are so many times narrower than `DISTANCE_BIN` and `ANGULAR_BIN`. The moments are compared by weighted
    sums of them: two bonds agree in one by chance about once in a thousand times, in two almost never.
    """
    edge = np.rint(distances / DISTANCE_BIN * fineness + _BIN_START).astype(np.int64).astype(np.uint64)
    n_moments = angular.shape[1]
    if n_moments:
        weights = np.sqrt(np.arange(2.0, 2.0 + n_moments)), np.cos(np.arange(n_moments))
        for weight in weights[:n_projections]:
            bins = np.rint(angular.astype(float) @ weight / ANGULAR_BIN * fineness)
            edge = _mix(edge) + _mix(bins.astype(np.int64).astype(np.uint64))
    return _mix(edge)


def _segment_ends(segment: Ints, n_segments: int) -> Ints:
    """The ends of the rows of each segment; ``segment`` must not decrease."""
    return np.cumsum(np.bincount(segment, minlength=n_segments))


def _segment_sums(values: Hashes, ends: Ints) -> Hashes:
    """Sums over segments that follow each other, modulo 2^64: (R,), (S,) -> (S,)."""
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
    return np.diff(running[ends], prepend=np.uint64(0))


def _classes(color: Hashes) -> Classes:
    """Those of the same color together."""
    _, first, inverse, sizes = np.unique(color, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Classes(rank[inverse], first[order], sizes[order])

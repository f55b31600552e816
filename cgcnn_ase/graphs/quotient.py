"""Merge the atoms that no message-passing network could tell apart.

Symmetry-equivalent atoms have the same element and the same neighbours at the same distances, so a graph network gives
them the same vector at every layer. Computing it once per class and weighting the class by its size gives the same
result for less work: the crystals of the Materials Project have about three atoms a class.

The classes are the coarsest equitable partition of the graph, found by colour refinement (Weisfeiler and Leman, 1968):
atoms start with their element as colour and are split by the multiset of (colour, distance, angles) of their
neighbours until nothing changes. No space group is needed.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.core.arrays import Floats, Floats32, Ints
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, crystal_index
from cgcnn_ase.graphs.line_graph import Lines

#: the bins of equal edges are ten times narrower than those of equivalent atoms, of which all edges must agree
FINENESS = 10.0


def merge_equal_edges(graph: CrystalGraph) -> CrystalGraph:
    """The graph with `edge_multiplicity`; distances and angular moments are the means of the edges merged.

    Edges that stand for several already count as so many.
    """
    n_edges = len(graph.centers)
    centers, neighbors = graph.centers.numpy(), graph.neighbors.numpy()
    described = np.concatenate([graph.distances.numpy()[:, None], graph.angular.numpy()], axis=1)
    times = np.ones(n_edges) if graph.edge_multiplicity is None else graph.edge_multiplicity.numpy()
    times = times.astype(described.dtype)
    ends = (centers.astype(np.uint64) << np.uint64(32)) + neighbors.astype(np.uint64)
    key = edge_colors(described[:, 0], described[:, 1:], FINENESS) + mix(ends)
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=~key[order[:1]]))
    if len(starts) == n_edges:
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


#: cosines that fall into the same bin of this width count as equal where classes are refined
COSINE_BIN = 1e-2

#: and where pairs of bonds of the same classes are merged
FINE_COSINE_BIN = 1e-3

#: where the first bin starts, in bins: lattice constants of few digits then give no distance on the edge of a bin
_BIN_START = 1 / np.pi
_BIN_START = 1 / np.pi


class Merged(NamedTuple):
    """Which atoms stay and where the others went."""

    node_of_atom: Ints  #: (N,) class of each atom
    representatives: Ints  #: (M,) the first atom of each class
    sizes: Ints  #: (M,) atoms in each class


class Quotient(NamedTuple):
    """What stays of a graph and its line graph; bonds and atoms are counted anew."""

    nodes: Merged
    edges: Ints  #: (K,) which bonds stay
    centers: Ints  #: (K,)
    neighbors: Ints  #: (K,)
    distances: Floats  #: (K,) Å, means of the bonds merged
    edge_counts: Ints  #: (K,) equal bonds of the centre
    lines: Lines  #: (M,) cosines are means too
    line_counts: Ints  #: (M,) equal sources of the target


def quotient(
    colors: Ints,
    centers: Ints,
    neighbors: Ints,
    distances: Floats,
    lines: Lines,
) -> Quotient:
    """One atom, bond and pair of bonds of each class; the arguments are those of :func:`merge_equivalent`."""
    nodes, edge = _refined(colors, centers, neighbors, distances, lines)

    stays = np.zeros(len(colors), dtype=bool)
    stays[nodes.representatives] = True
    of_nodes = np.flatnonzero(stays[centers])  # the bonds of the atoms that stay
    known, first, inverse, counts = np.unique(
        edge[of_nodes], return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)  # as the bonds were
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    kept = of_nodes[first[order]]
    total = np.bincount(rank[inverse], weights=distances[of_nodes], minlength=len(kept))

    new_index = np.full(len(centers), -1)
    new_index[kept] = np.arange(len(kept))
    pairs = np.flatnonzero(new_index[lines.targets] >= 0)
    targets = new_index[lines.targets[pairs]]
    sources = rank[np.searchsorted(known, edge[lines.sources[pairs]])]
    merged, line_counts = _merged_pairs(targets, sources, lines.cosines[pairs], len(kept))
    return Quotient(
        nodes=nodes,
        edges=kept,
        centers=nodes.node_of_atom[centers[kept]],
        neighbors=nodes.node_of_atom[neighbors[kept]],
        distances=total / counts[order],
        edge_counts=counts[order],
        lines=merged,
        line_counts=line_counts,
    )


HashArray = npt.NDArray[np.uint64]


def _refined(
    colors: Ints,
    centers: Ints,
    neighbors: Ints,
    distances: Floats,
    lines: Lines,
) -> tuple[Merged, HashArray]:
    """Classes of the atoms and colors of the bonds, which tell the class of the centre too."""
    no_moments = np.zeros((len(centers), 0), dtype=np.float32)
    start = merge_equivalent(colors, centers, neighbors, distances, no_moments)
    ends, line_ends = segment_ends(centers, len(colors)), segment_ends(lines.targets, len(centers))
    cosine = mix(_bins(lines.cosines, COSINE_BIN).astype(np.uint64))
    color, edge = mix(start.node_of_atom.astype(np.uint64)), edge_colors(distances, no_moments)
    n_classes = (0, 0)
    while True:
        edge = mix(edge * np.uint64(3) + color[centers] * np.uint64(5) + color[neighbors] * np.uint64(7))
        edge = mix(edge + segment_sums(mix(edge[lines.sources] + cosine), line_ends))
        color = mix(color * np.uint64(3) + segment_sums(edge, ends))
        nodes = classes(color)
        result = (len(nodes.sizes), len(np.unique(edge)))
        if result == n_classes:
            return nodes, edge
        n_classes = result


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


#: distances (Å) and angular moments that fall into the same bin of this width count as equal
DISTANCE_BIN = 1e-3
ANGULAR_BIN = 1e-2


def mix(x: HashArray) -> HashArray:
    """SplitMix64's finaliser: spreads every input bit over the whole word."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def edge_colors(distances: npt.NDArray[np.floating[Any]], angular: Floats32, fineness: float = 1.0) -> HashArray:
    """A number for each edge, the same where distance and angular moments fall into the same bins.

    The bins are so many times narrower than `DISTANCE_BIN` and `ANGULAR_BIN`.
    """
    edge = np.rint(distances / DISTANCE_BIN * fineness + _BIN_START).astype(np.int64).astype(np.uint64)
    if angular.shape[1]:
        projection = angular.astype(float) @ np.sqrt(np.arange(2.0, 2.0 + angular.shape[1]))
        edge += mix(np.rint(projection / ANGULAR_BIN * fineness).astype(np.int64).astype(np.uint64))
    return mix(edge)


def merge_equivalent(
    colors: Ints,
    centers: Ints,
    neighbors: Ints,
    distances: Floats,
    angular: Floats32,
) -> Merged:
    """Classes of equivalent atoms, in the order of their first atoms.

    Parameters
    ----------
    colors : (N,) array of int
        What distinguishes atoms from the start; different for atoms of different crystals.
    centers, neighbors, distances, angular
        The bonds; ``centers`` must not decrease.
    """
    edge = edge_colors(distances, angular)
    ends = segment_ends(centers, len(colors))

    color = mix(colors.astype(np.uint64))
    n_classes = len(np.unique(color))
    while True:
        color = mix(color * np.uint64(3) + segment_sums(mix(edge + color[neighbors]), ends))
        merged = classes(color)
        if len(merged.sizes) == n_classes:
            return merged
        n_classes = len(merged.sizes)


def segment_ends(segment: Ints, n_segments: int) -> Ints:
    """Where the rows of each segment end; ``segment`` must not decrease."""
    return np.cumsum(np.bincount(segment, minlength=n_segments))


def segment_sums(values: HashArray, ends: Ints) -> HashArray:
    """Sums over segments that follow each other, modulo 2^64: (R,), (S,) -> (S,)."""
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
    return np.diff(running[ends], prepend=np.uint64(0))


def classes(color: HashArray) -> Merged:
    """Atoms of the same color, in the order of the first of each."""
    _, first, inverse, sizes = np.unique(color, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Merged(rank[inverse], first[order], sizes[order])

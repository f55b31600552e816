"""Merge the atoms, bonds and angles that no network on the line graph could tell apart.

As :mod:`cgcnn_ase.graphs.orbits`, with bonds refined beside the atoms: a bond is split by the multiset of (bond,
cosine) that send to it, an atom by the multiset of its bonds. In the stable partition all atoms of a class have as many
bonds of each class, and all bonds of a class as many sources of each class and cosine: one of each is enough, counted
as often as there are equal ones.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.graphs.line_graph import Float32Array, Lines
from cgcnn_ase.graphs.orbits import (
    HashArray,
    IntArray,
    Merged,
    classes,
    edge_colors,
    merge_equivalent,
    mix,
    segment_ends,
    segment_sums,
)

#: cosines that fall into the same bin of this width count as equal where classes are refined
COSINE_BIN = 1e-2
#: and where pairs of bonds of the same classes are merged
FINE_COSINE_BIN = 1e-3
_BIN_START = 1 / np.pi


class Quotient(NamedTuple):
    """What stays of a graph and its line graph; bonds and atoms are counted anew."""

    nodes: Merged
    edges: IntArray  #: (K,) which bonds stay
    centers: IntArray  #: (K,)
    neighbors: IntArray  #: (K,)
    distances: npt.NDArray[np.float64]  #: (K,) Å, means of the bonds merged
    edge_counts: IntArray  #: (K,) equal bonds of the centre
    lines: Lines  #: (M,) cosines are means too
    line_counts: IntArray  #: (M,) equal sources of the target


def quotient(
    colors: IntArray,
    centers: IntArray,
    neighbors: IntArray,
    distances: npt.NDArray[np.float64],
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


def _refined(
    colors: IntArray,
    centers: IntArray,
    neighbors: IntArray,
    distances: npt.NDArray[np.float64],
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
        found = (len(nodes.sizes), len(np.unique(edge)))
        if found == n_classes:
            return nodes, edge
        n_classes = found


def _merged_pairs(targets: IntArray, sources: IntArray, cosines: Float32Array, n_edges: int) -> tuple[Lines, IntArray]:
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


def _bins(cosines: Float32Array, width: float) -> IntArray:
    """The number, from zero, of the bin that a cosine falls into."""
    numbers: IntArray = np.rint((cosines + 1) / width + _BIN_START).astype(np.int64)
    return numbers

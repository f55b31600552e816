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

IntArray = npt.NDArray[np.int64]
HashArray = npt.NDArray[np.uint64]

#: distances (Å) and angular moments that fall into the same bin of this width count as equal
DISTANCE_BIN = 1e-3
ANGULAR_BIN = 1e-2
#: where the first bin starts, in bins: lattice constants of few digits then give no distance on the edge of a bin
_BIN_START = 1 / np.pi


class Merged(NamedTuple):
    """Which atoms stay and where the others went."""

    node_of_atom: IntArray  #: (N,) class of each atom
    representatives: IntArray  #: (M,) the first atom of each class
    sizes: IntArray  #: (M,) atoms in each class


def mix(x: HashArray) -> HashArray:
    """SplitMix64's finaliser: spreads every input bit over the whole word."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def edge_colors(
    distances: npt.NDArray[np.floating[Any]], angular: npt.NDArray[np.float32], fineness: float = 1.0
) -> HashArray:
    """A number for each edge, the same where distance and angular moments fall into the same bins.

    The bins are so many times narrower than `DISTANCE_BIN` and `ANGULAR_BIN`.
    """
    edge = np.rint(distances / DISTANCE_BIN * fineness + _BIN_START).astype(np.int64).astype(np.uint64)
    if angular.shape[1]:
        projection = angular.astype(float) @ np.sqrt(np.arange(2.0, 2.0 + angular.shape[1]))
        edge += mix(np.rint(projection / ANGULAR_BIN * fineness).astype(np.int64).astype(np.uint64))
    return mix(edge)


def merge_equivalent(
    colors: IntArray,
    centers: IntArray,
    neighbors: IntArray,
    distances: npt.NDArray[np.float64],
    angular: npt.NDArray[np.float32],
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


def segment_ends(segment: IntArray, n_segments: int) -> IntArray:
    """Where the rows of each segment end; ``segment`` must not decrease."""
    return np.cumsum(np.bincount(segment, minlength=n_segments))


def segment_sums(values: HashArray, ends: IntArray) -> HashArray:
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

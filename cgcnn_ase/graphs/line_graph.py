"""The line graph: bonds as nodes, bond angles as edges (Choudhary and DeCost, npj Comput. Mater. 7, 185).

A message goes j -> i along the bond e1 (centre i, neighbour j), then i -> k along every bond e2 of which i is the
neighbour: e1 is a source of the target e2, the way back to j included. The feature is the cosine of the angle j-i-k.
Where the neighbour is an image of the centre itself, a bond is its own source, in a straight line. DGL's ``line_graph``
leaves that pair out, and with it the published ALIGNN, whose output therefore depends on the choice of cell.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from cgcnn_ase.core.arrays import Floats, Floats32, Ints


class LineGraph(NamedTuple):
    """Pairs of bonds that share an atom, grouped by target: ``targets`` never decreases."""

    targets: Tensor  # (L,) int64, the edge i -> k that receives the message
    sources: Tensor  # (L,) int64, the edge j -> i that sends it
    cosines: Tensor  # (L,) float32, of the angle j-i-k
    multiplicity: Tensor  # (L,) float32, how many equal sources of the target it stands for
    n_lines: Tensor  # (B,) int64, pairs of each crystal


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

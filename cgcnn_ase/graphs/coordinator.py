"""The crystal graph coordinator: neighbours by clustering relative distances, the same at every scale.

T. Yamamoto, Crystal graph neural networks for data mining in materials science (2019), https://github.com/Tony-Y/cgnn.

The relative distance of atoms i and j is d_ij / R_ij with R_ij = 1.2 (r_i + r_j) (V_cell / sum_k 4/3 pi r_k^3)^(1/3): a
crystal that grows uniformly keeps its relative distances. Candidates are the atoms within 1. Those of each atom are
split into a nearer and a farther cluster, again and again, until the two are no longer apart.

Where the reference looks at the 27 nearest cells and splits by Lloyd's iteration from a random start, here the
candidates are complete in cells of every shape, and the split is the best one of all.
"""

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import atomic_radii, symbols

# how far a candidate may be, in sums of two atoms' radii as large as fill the cell
RADIUS_FACTOR = 1.2
# clusters whose centres are at most so far apart, in relative distance, are one
CENTER_DISTANCE = 0.03
# how often the nearer cluster is split
MAX_SPLITS = 10
# neighbours whose relative distances follow each other by less than this are kept or left together
TIE = 1e-3
# relative distance up to which to search, so that ties at the border are seen
REACH = 1.0 + 5 * TIE
# splits whose quality agrees to this relative precision are equally good
_SAME = 1e-6


def scaled_radii(numbers: Ints, volume: float) -> Floats:
    """Radii, (N,) Å, with R_ij as the sum of those of i and j; no volume, or no known radius, is a `ValueError`."""
    radii = atomic_radii()[numbers]
    if np.isnan(radii).any():
        unknown = sorted({symbols()[z] for z in numbers[np.isnan(radii)]})
        raise ValueError(f"no atomic radius is known of {', '.join(unknown)}, which the rule 'coordinator' needs")
    if not volume > 0.0:
        raise ValueError(
            "a molecule or slab without a cell has no volume, which the rule 'coordinator' scales its distances by: "
            "give it a cell, or take another rule"
        )
    filling: float = np.cbrt(volume / (4 / 3 * np.pi * (radii**3).sum()))
    return RADIUS_FACTOR * filling * radii


def n_coordinated(table: Floats) -> Ints:
    """How many of the nearest candidates each atom is bonded to, (N,).

    The table, (N, M), holds relative distances, in each row in order, infinite after the last. Two clusters of numbers
    in a row are the first k and the others. The best k, that of 2-means, has the smallest sum of squares about the two
    centres, which is the largest k (n - k) / n (m_far - m_near)^2. Where two are equally good the smaller one is taken,
    and ties are never cut: the result does not depend on how a crystal is written down.
    """
    n = _n_candidates(table)
    x = np.where(np.arange(table.shape[1]) < n[:, None], table, 0.0)
    if x.shape[1] < 2:
        return n
    sums = np.cumsum(x, axis=1)
    near, apart = np.arange(1, x.shape[1]), np.diff(x, axis=1) > TIE
    rows = np.flatnonzero(n > 1)
    for _ in range(MAX_SPLITS):
        count, total = n[rows, None], sums[rows, n[rows] - 1][:, None]
        far = np.maximum(count - near, 1)
        distance = (total - sums[rows, :-1]) / far - sums[rows, :-1] / near  # of the two centres
        quality = np.where((near < count) & apart[rows], near * far / count * distance**2, -1.0)
        k = np.argmax(quality >= (1 - _SAME) * quality.max(axis=1, keepdims=True), axis=1)
        line = np.arange(len(rows))
        splits = (quality[line, k] > 0.0) & (distance[line, k] > CENTER_DISTANCE)
        rows = rows[splits]
        n[rows] = near[k[splits]]
        rows = rows[n[rows] > 1]
        if not len(rows):
            break
    return n


def _n_candidates(table: Floats) -> Ints:
    """How many are within 1, or tied with one that is; (N,)."""
    table = np.minimum(table, 2.0)
    begins_beyond = (table >= 1.0) & (np.diff(table, axis=1, prepend=-1.0) > TIE)
    n: Ints = (np.cumsum(begins_beyond, axis=1) == 0).sum(axis=1)
    return n

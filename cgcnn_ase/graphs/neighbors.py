"""Bonds between atoms: the periodic neighbour search and the rules that choose among its results.

The rule ``coordinator`` is the crystal graph coordinator, which clusters relative distances and is the same at every
scale: T. Yamamoto, Crystal graph neural networks for data mining in materials science (2019),
https://github.com/Tony-Y/cgnn. The relative distance of atoms i and j is d_ij / R_ij with
R_ij = 1.2 (r_i + r_j) (V_cell / sum_k 4/3 pi r_k^3)^(1/3): a crystal that grows uniformly keeps its relative distances.
Candidates are the atoms within 1. Those of each atom are split into a nearer and a farther cluster, again and again,
until the two are no longer apart. Where the reference looks at the 27 nearest cells and splits by Lloyd's iteration
from a random start, here the candidates are complete in cells of every shape, and the split is the best one of all.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Bools, Floats, Ints
from cgcnn_ase.core.elements import atomic_radii, symbols
from cgcnn_ase.graphs.crystal_graph import Geometry
from cgcnn_ase.structures.validation import completed_cell

NeighborRule = Literal["knn", "radius", "shell", "coordinator"]

# an atom is not its own neighbour below this distance, Å
SELF_DISTANCE = 1e-8

# a cell below this volume is none, Å^3
NO_VOLUME = 1e-6


class Bonds(NamedTuple):
    """Directed bonds, grouped by centre and sorted by distance within each."""

    centers: Ints  # (E,)
    neighbors: Ints  # (E,)
    distances: Floats  # (E,) Å
    vectors: Floats  # (E, 3) Å, from centre to neighbour image


class _Found(NamedTuple):
    """Pairs of atoms as a search finds them; atoms are counted through all structures."""

    centers: Ints
    neighbors: Ints
    images: Floats  # (E, 3) lattice vectors from the neighbour to its image
    distances: Floats


class _Crystals:
    """Structures to search: their atoms joined, their lattices complete."""

    def __init__(self, shapes: Sequence[Geometry]) -> None:
        self.n_atoms = np.array([len(shape.positions) for shape in shapes])
        self.first = np.cumsum(self.n_atoms) - self.n_atoms
        self.points = np.ascontiguousarray(np.concatenate([shape.positions for shape in shapes]), dtype=float)
        self.pbc = np.array([shape.pbc for shape in shapes], dtype=np.int64)
        self.lattices = np.array([completed_cell(shape.cell, shape.pbc) for shape in shapes])
        self.volumes = np.abs(np.linalg.det(np.array([shape.cell for shape in shapes])))
        if (np.abs(np.linalg.det(self.lattices)) < NO_VOLUME).any():
            raise ValueError("the cell's periodic vectors are zero or lie in one plane")
        self.crystal_of_atom = np.repeat(np.arange(len(shapes)), self.n_atoms)

    def find(self, crystal: int, cutoff: float, centers: Ints | None = None) -> _Found:
        """All pairs of one structure within a cutoff, over as many images as that takes; around some atoms only."""
        from pymatgen.optimization.neighbors import find_points_in_spheres

        first = self.first[crystal]
        points = self.points[first : first + self.n_atoms[crystal]]
        i, j, images, distances = find_points_in_spheres(
            points,
            points if centers is None else np.ascontiguousarray(points[centers - first]),
            r=float(cutoff),
            pbc=self.pbc[crystal],
            lattice=self.lattices[crystal],
            tol=SELF_DISTANCE,
        )
        return _Found(i + first if centers is None else centers[i], j + first, images, distances)

    def bonds(self, result: _Found, order: Ints) -> Bonds:
        """Some of the pairs, in this order, with their vectors."""
        i, j = result.centers[order], result.neighbors[order]
        lattices = self.lattices.take(self.crystal_of_atom[i], axis=0)  # take is twice as fast as indexing rows
        shift = np.einsum("ei,eij->ej", result.images.take(order, axis=0), lattices)
        vectors = self.points.take(j, axis=0) + shift - self.points.take(i, axis=0)
        return Bonds(i, j, result.distances[order], vectors)


def search(positions: Floats, cell: Floats, pbc: Bools, cutoff: float) -> Bonds:
    """All neighbours within a cutoff (Å), over as many periodic images as that takes.

    Positions, (N, 3) Å, need not lie inside the cell; its vectors, rows in Å, may be zero where it is not periodic.
    """
    shape = Geometry(np.zeros(len(positions), dtype=np.int64), positions, cell, pbc)
    return bonds_of_all([shape], rule="radius", cutoff=cutoff, n_neighbors=1, tolerance=0.0)


def bonds_of_all(
    shapes: Sequence[Geometry], *, rule: NeighborRule, cutoff: float, n_neighbors: int, tolerance: float
) -> Bonds:
    """Bonds of several structures, whose atoms are counted through, by one of four rules.

    ``radius``
        every neighbour within ``cutoff``; the only rule that is smooth enough for forces.
    ``knn``
        the ``n_neighbors`` nearest within ``cutoff``. Ties are cut in the order in which the full search finds
        them, as in the original CGCNN: the result can depend on the choice of cell.
    ``shell``
        the ``n_neighbors`` nearest and all those at most ``tolerance`` farther than the last of them, so that
        neighbours at the same distance are kept or left together: independent of the choice of cell.
    ``coordinator``
        the cluster of the nearest by relative distance (:mod:`cgcnn_ase.graphs.neighbors`), which stays the same when
        the crystal grows or shrinks; ``cutoff``, ``n_neighbors`` and ``tolerance`` play no part.
    """
    crystals = _Crystals(shapes)
    if rule == "coordinator":
        return _coordinated(crystals, shapes)
    k, n_atoms = n_neighbors, len(crystals.points)
    reach = np.full(len(shapes), cutoff) if rule == "radius" else _reach(crystals, cutoff, k)
    result = _joined([_near(crystals, c, r, cutoff, rule) for c, r in enumerate(reach.tolist())])
    pairs, distances = _ranked(result, n_atoms)
    if rule != "radius":
        within = reach[crystals.crystal_of_atom]
        complete = (_limit(distances, k, rule, tolerance) <= within) | (within == cutoff)
        if not complete.all():
            result = _completed(crystals, result, complete, cutoff, rule)
            pairs, distances = _ranked(result, n_atoms)
        limit = _limit(distances, k, rule, tolerance)[:, None]
        if rule == "knn":
            pairs, distances = pairs[:, :k], distances[:, :k]
        distances = np.where(distances <= limit, distances, np.inf)
    return crystals.bonds(result, pairs[np.isfinite(distances)])


def _coordinated(crystals: _Crystals, shapes: Sequence[Geometry]) -> Bonds:
    """Bonds by the crystal graph coordinator; as in the reference j may be a neighbour of i, and i none of j."""
    volumes = np.where(crystals.volumes < NO_VOLUME, 0.0, crystals.volumes).tolist()
    radii = [scaled_radii(shape.numbers, volume) for shape, volume in zip(shapes, volumes, strict=True)]
    result = _joined([crystals.find(c, 2 * REACH * r.max()) for c, r in enumerate(radii)])
    of_atom = np.concatenate(radii)
    relative = result.distances / (of_atom[result.centers] + of_atom[result.neighbors])
    result, relative = _subset(result, relative <= REACH), relative[relative <= REACH]
    pairs, table = _ranked(result._replace(distances=relative), len(crystals.points))
    chosen = pairs[np.arange(table.shape[1]) < n_coordinated(table)[:, None]]
    by_distance = np.lexsort((result.distances[chosen], result.centers[chosen]))
    return crystals.bonds(result, chosen[by_distance])


def _subset(result: _Found, which: Bools) -> _Found:
    return _Found(*(array.compress(which, axis=0) for array in result))


def _near(crystals: _Crystals, crystal: int, reach: float, cutoff: float, rule: NeighborRule) -> _Found:
    """The pairs within reach; with ``knn`` in the order in which the full search finds them."""
    if rule == "shell" or reach == cutoff:
        return crystals.find(crystal, reach)
    result = crystals.find(crystal, cutoff)
    return _subset(result, result.distances <= reach)


def _completed(crystals: _Crystals, result: _Found, complete: Bools, cutoff: float, rule: NeighborRule) -> _Found:
    """The pairs of the atoms that have all they need, and for the others all pairs within the cutoff."""
    parts = [_subset(result, complete[result.centers])]
    for crystal in np.unique(crystals.crystal_of_atom[~complete]).tolist():
        lacking = np.flatnonzero(~complete & (crystals.crystal_of_atom == crystal))
        if rule == "shell":
            parts.append(crystals.find(crystal, cutoff, lacking))
        else:
            full = crystals.find(crystal, cutoff)
            parts.append(_subset(full, ~complete[full.centers]))
    return _joined(parts)


def _joined(parts: Sequence[_Found]) -> _Found:
    return parts[0] if len(parts) == 1 else _Found(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _ranked(result: _Found, n_atoms: int) -> tuple[Ints, Floats]:
    """Pairs of each atom, nearest first, ties as found, and their distances, infinite after the last; both (N, M)."""
    by_center = np.argsort(result.centers, kind="stable")
    centers, distances = result.centers[by_center], result.distances[by_center]
    counts = np.bincount(centers, minlength=n_atoms)
    starts = np.cumsum(counts) - counts
    table = np.full((n_atoms, counts.max(initial=0)), np.inf)
    table[centers, np.arange(len(centers)) - starts[centers]] = np.where(distances > SELF_DISTANCE, distances, np.inf)
    rank = np.argsort(table, axis=1, kind="stable")
    places = np.minimum(starts[:, None] + rank, max(len(centers) - 1, 0))
    return by_center[places] if len(centers) else places, np.sort(table, axis=1)


def _reach(crystals: _Crystals, cutoff: float, k: int) -> Floats:
    """Radius of the sphere that holds 2 k atoms at the cell's density, at most the cutoff; (C,)."""
    radius = (0.75 * 2.0 * k * crystals.volumes / (np.pi * crystals.n_atoms)) ** (1 / 3)
    return np.where(crystals.volumes < NO_VOLUME, cutoff, np.minimum(radius, cutoff))


def _limit(distances: Floats, k: int, rule: NeighborRule, tolerance: float) -> Floats:
    """How far each atom's bonds reach, infinite where it has fewer than k neighbours; (N,)."""
    if distances.shape[1] < k:
        return np.full(len(distances), np.inf)
    return distances[:, k - 1] + (tolerance if rule == "shell" else 0.0)


def pad_to(bonds: Bonds, first_atom: Ints, k: int, distance: float) -> Bonds:
    """Give atoms with fewer than k neighbours extra edges to the first atom of their crystal at a given distance.

    The original CGCNN does so with 9 Å; its published weights expect it. No other model should. `first_atom`, (N,), is
    the first atom of each atom's crystal.
    """
    missing = np.maximum(k - np.bincount(bonds.centers, minlength=len(first_atom)), 0)
    if not missing.any():
        return bonds
    centers = np.repeat(np.arange(len(first_atom)), missing)
    padding = Bonds(centers, first_atom[centers], np.full(len(centers), float(distance)), np.zeros((len(centers), 3)))
    order = np.argsort(np.concatenate([bonds.centers, centers]), kind="stable")
    return Bonds(*(np.concatenate(arrays)[order] for arrays in zip(bonds, padding, strict=True)))


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

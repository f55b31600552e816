"""Bonds between atoms: the periodic neighbour search and the rules that choose among its results."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Bools, Floats, Ints
from cgcnn_ase.graphs.coordinator import REACH, n_coordinated, scaled_radii
from cgcnn_ase.graphs.geometry import Geometry
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
        the cluster of the nearest by relative distance (:mod:`cgcnn_ase.graphs.coordinator`), which stays the same when
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

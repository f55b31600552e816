"""Which atoms are bonded: the periodic neighbour search and the rules that choose among its results."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NeighborRule = Literal["knn", "radius", "shell"]

#: an atom is not its own neighbour below this distance, Å
SELF_DISTANCE = 1e-8

#: a cell below this volume is none, Å^3
NO_VOLUME = 1e-6


class Bonds(NamedTuple):
    """Directed bonds of one structure, grouped by centre and sorted by distance within each."""

    centers: IntArray  #: (E,)
    neighbors: IntArray  #: (E,)
    distances: FloatArray  #: (E,) Å
    vectors: FloatArray  #: (E, 3) Å, from centre to neighbour image


def search(
    positions: FloatArray,
    cell: FloatArray,
    pbc: npt.NDArray[np.bool_],
    cutoff: float,
    centers: IntArray | None = None,
) -> Bonds:
    """All neighbours within a cutoff, over as many periodic images as that takes.

    Parameters
    ----------
    positions : (N, 3) array
        Cartesian positions, Å; they need not lie inside the cell.
    cell : (3, 3) array
        Lattice vectors in rows, Å. Vectors of non-periodic directions may be zero.
    pbc : (3,) array of bool
        Which directions are periodic.
    cutoff : float
        Å.
    centers : array of int, optional
        Search around these atoms only.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres

    points = np.ascontiguousarray(positions, dtype=float)
    around = points if centers is None else np.ascontiguousarray(points[centers])
    lattice = _complete_cell(cell, pbc)
    i, j, images, d = find_points_in_spheres(
        points, around, r=float(cutoff), pbc=np.asarray(pbc, dtype=np.int64), lattice=lattice, tol=SELF_DISTANCE
    )
    if centers is not None:
        i = centers[i]
    order = np.lexsort((d, i))  # stable: ties keep the order in which the search found them
    order = order[d[order] > SELF_DISTANCE]
    i, j = i[order], j[order]
    shift = images.take(order, axis=0) @ lattice  # take is twice as fast as indexing rows
    return Bonds(i, j, d[order], points.take(j, axis=0) + shift - points.take(i, axis=0))


def _complete_cell(cell: FloatArray, pbc: npt.NDArray[np.bool_]) -> FloatArray:
    """The cell with unit vectors normal to the others in non-periodic directions, where its own mean nothing."""
    complete = np.array(cell, dtype=float)
    if not np.all(pbc):
        periodic = np.asarray(pbc, dtype=bool)
        complete[~periodic] = np.linalg.svd(complete[periodic])[2][periodic.sum() :]
    if abs(np.linalg.det(complete)) < NO_VOLUME:
        raise ValueError("the cell's periodic vectors are zero or lie in one plane")
    return complete


def find_bonds(
    positions: FloatArray,
    cell: FloatArray,
    pbc: npt.NDArray[np.bool_],
    *,
    rule: NeighborRule,
    cutoff: float,
    n_neighbors: int,
    tolerance: float,
) -> Bonds:
    """Bonds of one structure by one of three rules.

    ``radius``
        every neighbour within ``cutoff``; the only rule that is smooth enough for forces.
    ``knn``
        the ``n_neighbors`` nearest within ``cutoff``. Ties are cut in the order in which the full search finds
        them, as in the original CGCNN: the result can depend on the choice of cell.
    ``shell``
        the ``n_neighbors`` nearest and all those at most ``tolerance`` farther than the last of them, so that
        neighbours at the same distance are kept or left together: independent of the choice of cell.
    """
    if rule == "radius":
        return search(positions, cell, pbc, cutoff)
    if rule == "knn":
        return _nearest(search(positions, cell, pbc, cutoff), len(positions), n_neighbors)
    return _shell_bonds(positions, cell, pbc, cutoff, n_neighbors, tolerance)


def _shell_bonds(
    positions: FloatArray, cell: FloatArray, pbc: npt.NDArray[np.bool_], cutoff: float, k: int, tolerance: float
) -> Bonds:
    """Search a small sphere first, then the full one around the atoms for which that was not enough."""
    n_atoms = len(positions)
    reach = min(cutoff, _sphere_of(2.0 * k, n_atoms, cell))
    bonds = search(positions, cell, pbc, reach)
    limit = _kth_distance(bonds, n_atoms, k) + tolerance
    complete = limit <= reach
    if reach < cutoff and not complete.all():
        rest = search(positions, cell, pbc, cutoff, centers=np.flatnonzero(~complete))
        bonds = _merge(_take(bonds, complete[bonds.centers]), rest)
        limit = _kth_distance(bonds, n_atoms, k) + tolerance
    return _take(bonds, bonds.distances <= limit[bonds.centers])


def _sphere_of(n_neighbors: float, n_atoms: int, cell: FloatArray) -> float:
    """Radius of the sphere that holds so many atoms at the cell's density; infinite without a volume."""
    volume = abs(float(np.linalg.det(cell)))
    if volume < NO_VOLUME:
        return np.inf
    return float((0.75 * n_neighbors * volume / (np.pi * n_atoms)) ** (1 / 3))


def _kth_distance(bonds: Bonds, n_atoms: int, k: int) -> FloatArray:
    """Distance of each atom's k-th neighbour, infinite where it has fewer; shape (n_atoms,)."""
    counts = np.bincount(bonds.centers, minlength=n_atoms)
    last = np.cumsum(counts) - counts + k - 1
    found = np.full(n_atoms, np.inf)
    found[counts >= k] = bonds.distances[last[counts >= k]]
    return found


def _nearest(bonds: Bonds, n_atoms: int, k: int) -> Bonds:
    counts = np.bincount(bonds.centers, minlength=n_atoms)
    first = np.cumsum(counts) - counts
    rank = np.arange(len(bonds.centers)) - first[bonds.centers]
    return _take(bonds, rank < k)


def _take(bonds: Bonds, keep: npt.NDArray[np.bool_]) -> Bonds:
    k = np.flatnonzero(keep)
    return Bonds(bonds.centers[k], bonds.neighbors[k], bonds.distances[k], bonds.vectors.take(k, axis=0))


def _merge(one: Bonds, other: Bonds) -> Bonds:
    order = np.argsort(np.concatenate([one.centers, other.centers]), kind="stable")
    return Bonds(
        np.concatenate([one.centers, other.centers])[order],
        np.concatenate([one.neighbors, other.neighbors])[order],
        np.concatenate([one.distances, other.distances])[order],
        np.concatenate([one.vectors, other.vectors])[order],
    )


def pad_to(bonds: Bonds, n_atoms: int, k: int, distance: float) -> Bonds:
    """Give atoms with fewer than k neighbours extra edges to atom 0 at a given distance.

    The original CGCNN does so with 9 Å; its published weights expect it. No other model should.
    """
    missing = np.maximum(k - np.bincount(bonds.centers, minlength=n_atoms), 0)
    centers = np.repeat(np.arange(n_atoms), missing)
    padding = Bonds(
        centers, np.zeros_like(centers), np.full(len(centers), float(distance)), np.zeros((len(centers), 3))
    )
    return _merge(bonds, padding)

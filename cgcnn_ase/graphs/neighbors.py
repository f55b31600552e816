"""Which atoms are bonded: the periodic neighbour search and the rules that choose among its results."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NeighborRule = Literal["knn", "radius", "shell"]

#: an atom is not its own neighbour below this distance, Å
SELF_DISTANCE = 1e-8


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
    lattice = np.ascontiguousarray(_complete_cell(cell, pbc))
    i, j, images, d = find_points_in_spheres(
        points, around, r=float(cutoff), pbc=np.asarray(pbc, dtype=np.int64), lattice=lattice, tol=SELF_DISTANCE
    )
    if centers is not None:
        i = centers[i]
    apart = d > SELF_DISTANCE
    i, j, images, d = i[apart], j[apart], images[apart], d[apart]
    order = np.lexsort((d, i))  # stable: ties keep the order in which the search found them
    i, j, images, d = i[order], j[order], images[order], d[order]
    return Bonds(i, j, d, points[j] + images @ lattice - points[i])


def _complete_cell(cell: FloatArray, pbc: npt.NDArray[np.bool_]) -> FloatArray:
    """The cell with unit vectors normal to the others where a non-periodic direction has none."""
    cell = np.array(cell, dtype=float)
    if abs(np.linalg.det(cell)) > 1e-12 or np.all(pbc):
        return cell
    kept = [row for row in cell if np.linalg.norm(row) > 1e-12]
    normals = iter(np.linalg.svd(np.array(kept).reshape(-1, 3))[2][len(kept) :])
    return np.array([row if np.linalg.norm(row) > 1e-12 else next(normals) for row in cell])


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
    if reach < cutoff:
        complete = _kth_distance(bonds, n_atoms, k) + tolerance <= reach
        if not complete.all():
            rest = search(positions, cell, pbc, cutoff, centers=np.flatnonzero(~complete))
            bonds = _merge(_take(bonds, complete[bonds.centers]), rest)
    limit = _kth_distance(bonds, n_atoms, k) + tolerance
    return _take(bonds, bonds.distances <= limit[bonds.centers])


def _sphere_of(n_neighbors: float, n_atoms: int, cell: FloatArray) -> float:
    """Radius of the sphere that holds so many atoms at the cell's density; infinite without a volume."""
    volume = abs(float(np.linalg.det(cell)))
    if volume < 1e-6:
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
    return Bonds(*(field[keep] for field in bonds))


def _merge(one: Bonds, other: Bonds) -> Bonds:
    joined = Bonds(*(np.concatenate(pair) for pair in zip(one, other, strict=True)))
    order = np.argsort(joined.centers, kind="stable")
    return Bonds(*(field[order] for field in joined))


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

"""The smallest supercell in which a defect is far enough from its images: an exact search over sublattices."""

from collections.abc import Iterator
from itertools import product
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt

from .host import Floats, Host

Ints = npt.NDArray[np.int64]

#: larger crystals than so many cells are multiples of a smaller supercell: there are too many sublattices to look at
_EXACT = 100

#: lengths that differ by less than this are equal, Å
_TIE = 1e-6


def smallest_matrix(host: Host, distance: float, *, diagonal: bool, max_atoms: int | None) -> Ints:
    """The matrix of the smallest supercell whose images are so far apart; of several the one with the farthest.

    All sublattices of an index are looked at, each as its Hermite normal form, from the index on below which not even
    the densest packing of spheres would do. Where a crystal needs more than about 100 cells, 2 (3, ...) times the
    supercell for a half (third, ...) of the distance is taken, which may be a little larger than need be.

    Parameters
    ----------
    host
        It is not repeated along a vacuum.
    distance
        Å.
    diagonal
        Whether only multiples of the cell vectors are looked at.
    max_atoms
        Most atoms.

    Raises
    ------
    ValueError
        If more atoms would be needed.
    """
    free = [axis for axis in range(3) if not host.vacuum[axis]]
    vectors = host.cell[free]
    measure = sqrt(np.linalg.det(vectors @ vectors.T))
    densest = {1: distance, 2: distance**2 * sqrt(3) / 2, 3: distance**3 / sqrt(2)}[len(free)]
    n_cells = max(1, ceil(densest / measure - 1e-9))  # no lattice packs spheres more densely
    if n_cells > _EXACT and len(free) == 3 and not diagonal:
        times = ceil((n_cells / _EXACT) ** (1 / 3))
        most = None if max_atoms is None else max_atoms // times**3
        try:
            smaller = smallest_matrix(host, distance / times, diagonal=False, max_atoms=most)
        except ValueError as error:
            raise ValueError(_too_many(host, distance, max_atoms)) from error
        scaled: Ints = times * smaller
        return scaled
    short = _short_vectors(vectors, distance)
    while True:
        if max_atoms is not None and n_cells * len(host.atoms) > max_atoms:
            raise ValueError(_too_many(host, distance, max_atoms))
        found = [m for m in _diagonals(n_cells, len(free)) if not _holds(m, short)] if diagonal else []
        if not diagonal:
            found = list(_lattices(n_cells, len(free), short))
        if found:
            best = min((_reduced_basis(m, vectors, diagonal) for m in found), key=lambda m: _shape(m @ vectors))
            matrix = np.eye(3, dtype=np.int64)
            matrix[np.ix_(free, free)] = best
            return matrix
        n_cells += 1


def _too_many(host: Host, distance: float, max_atoms: int | None) -> str:
    return (
        f"no supercell of {host.name} with at most max_atoms = {max_atoms} atoms keeps images {distance:g} Å apart; "
        "raise it or lower min_distance"
    )


def _short_vectors(vectors: Floats, distance: float) -> Ints:
    """Half of the lattice vectors shorter than a distance, in units of the cell's, shortest first: (S, dimension)."""
    reach = [int(distance * np.linalg.norm(column)) + 1 for column in np.linalg.pinv(vectors).T]
    grid = np.array(list(product(*(range(-r, r + 1) for r in reach))))
    grid = grid[len(grid) // 2 + 1 :]  # the other half is their negatives
    lengths = np.linalg.norm(grid @ vectors, axis=1)
    keep = lengths < distance - _TIE
    short: Ints = grid[keep][np.argsort(lengths[keep], kind="stable")]
    return short


def _diagonals(size: int, dimension: int) -> Iterator[Ints]:
    if dimension == 1:
        yield np.array([[size]])
        return
    for first in range(1, size + 1):
        if size % first == 0:
            for rest in _diagonals(size // first, dimension - 1):
                yield np.diag([first, *np.diag(rest)])


def _holds(diagonal: Ints, short: Ints) -> bool:
    """Whether a short vector is one of the supercell's lattice."""
    return bool(((short % np.diag(diagonal)) == 0).all(axis=1).any())


def _lattices(size: int, dimension: int, short: Ints) -> Iterator[Ints]:
    """Every sublattice of an index that has none of the short vectors, in Hermite normal form (upper triangular)."""
    for diagonal in _diagonals(size, dimension):
        steps = np.diag(diagonal)
        above = [(i, j) for j in range(dimension) for i in range(j)]
        options = np.indices([steps[j] for _, j in above]).reshape(len(above), -1).T if above else np.zeros((1, 0), int)
        forms = np.broadcast_to(diagonal, (len(options), dimension, dimension)).copy()
        for k, (i, j) in enumerate(above):
            forms[:, i, j] = options[:, k]
        for vector in short:  # most forms fall at one of the first
            if not len(forms):
                break
            rest = np.broadcast_to(vector, (len(forms), dimension)).copy()
            member = np.ones(len(forms), dtype=bool)
            for j in range(dimension):
                times, left = np.divmod(rest[:, j], steps[j])
                member &= left == 0
                rest -= times[:, None] * forms[:, j]
            forms = forms[~member]
        yield from forms


def _reduced_basis(matrix: Ints, vectors: Floats, diagonal: bool) -> Ints:
    """The shortest vectors of the same lattice, right-handed as before."""
    if diagonal:
        return matrix
    from ase.geometry.minkowski_reduction import minkowski_reduce

    dimension = len(matrix)
    cell = np.zeros((3, 3))
    cell[:dimension] = matrix @ np.linalg.qr(vectors.T)[1].T @ np.eye(dimension, 3)
    _, steps = minkowski_reduce(cell, pbc=np.arange(3) < dimension)
    reduced: Ints = np.rint(steps[:dimension, :dimension]).astype(np.int64) @ matrix
    if np.linalg.det(reduced) < 0:
        reduced = -reduced if dimension != 2 else reduced[::-1]
    return reduced


def _shape(cell: Floats) -> tuple[float, float, list[list[float]]]:
    """For ``min``: the largest image distance, then the shortest vectors, then any order that never changes."""
    lengths = np.linalg.norm(cell, axis=1)
    return (-round(float(lengths.min()), 6), round(float(lengths.sum()), 6), np.round(cell, 6).tolist())

"""Supercell of a defect: given, or the smallest with its images far enough apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.defects.host import Host

if TYPE_CHECKING:
    from ase import Atoms

# larger crystals than so many cells are multiples of a smaller supercell: there are too many sublattices to look at
_EXACT = 100

# lengths that differ by less than this are equal, Å
_TIE = 1e-6

# a supercell as users give it: n, (a, b, c), or rows of whole numbers
SupercellLike = int | Sequence[int] | Sequence[Sequence[int]] | Ints


@dataclass(frozen=True)
class Supercell:
    """A repeated host."""

    # the host's atoms cell after cell: atom ``i`` of cell ``k`` is number ``k * N + i``; for a diagonal matrix they are
    # those of ``host.repeat``
    atoms: "Atoms"
    matrix: Ints  # (3, 3) its vectors in those of the host
    cells: Ints  # (K, 3) where each copy of the host lies
    image_distance: float  # Å, see `image_distance`

    @cached_property
    def _place(self) -> dict[tuple[int, ...], int]:
        return {tuple(self._reduced(cell)): k for k, cell in enumerate(self.cells)}

    def _reduced(self, cell: Ints) -> list[int]:
        """A cell moved by whole supercells to the one that stands for it."""
        size = round(abs(np.linalg.det(self.matrix)))
        adjugate = np.rint(np.linalg.inv(self.matrix) * size).astype(np.int64)
        numerators: list[int] = ((cell @ adjugate) % size).tolist()
        return numerators

    def index(self, site: int, cell: Sequence[int]) -> int:
        """The number of the atom at a site of the host in a cell, which may lie outside of the supercell."""
        n_sites = len(self.atoms) // len(self.cells)
        return self._place[tuple(self._reduced(np.array(cell)))] * n_sites + site


def make_supercell(
    host: Host,
    supercell: SupercellLike | None = None,
    *,
    min_distance: float = 10.0,
    diagonal: bool = False,
    max_atoms: int | None = None,
) -> Supercell:
    """The supercell given, or else the smallest whose images are `min_distance` (Å) apart; a vacuum is never repeated.

    One is given as n (in each direction without vacuum), three numbers, or a 3×3 matrix of whole numbers, rows the new
    vectors. `diagonal` ones only multiply the vectors of the host, so that the cell keeps its angles. A `ValueError` is
    raised if the matrix is none, repeats a vacuum, or the supercell would have more than `max_atoms` atoms.
    """
    if supercell is not None:
        matrix = _given(host, supercell)
    else:
        if not (np.isfinite(min_distance) and min_distance > 0):
            raise ValueError(f"min_distance {min_distance}: must be a positive length in Å")
        matrix = smallest_matrix(host, min_distance, diagonal=diagonal, max_atoms=max_atoms)
    n_atoms = len(host.atoms) * round(abs(np.linalg.det(matrix)))
    if max_atoms is not None and n_atoms > max_atoms:
        raise ValueError(f"the supercell of {host.name} has {n_atoms} atoms, more than max_atoms = {max_atoms}")
    return _repeated(host, matrix)


def image_distance(cell: Floats, periodic: Sequence[bool]) -> float:
    """Length of the shortest lattice vector over the periodic directions, Å."""
    from ase.geometry.minkowski_reduction import minkowski_reduce

    reduced, _ = minkowski_reduce(cell, pbc=np.asarray(periodic))
    return float(min(np.linalg.norm(reduced[axis]) for axis in range(3) if periodic[axis]))


def _given(host: Host, supercell: SupercellLike) -> Ints:
    asked = np.asarray(supercell)
    words = f"supercell {np.array2string(asked, separator=', ') if asked.ndim else supercell}"
    if asked.shape not in ((), (3,), (3, 3)) or not np.issubdtype(asked.dtype, np.integer):
        raise ValueError(f"{words}: give a whole number, three of them, or three rows of three".replace("\n", ""))
    if asked.ndim == 0:
        asked = np.array([1 if empty else int(asked) for empty in host.vacuum])
    matrix = np.diag(asked) if asked.ndim == 1 else asked
    if (asked.ndim == 1 and (asked < 1).any()) or round(np.linalg.det(matrix)) == 0:
        raise ValueError(f"{words}: must be positive, and a matrix must have a determinant".replace("\n", ""))
    for axis in range(3):
        unit = np.eye(3, dtype=np.int64)[axis]
        if host.vacuum[axis] and not ((matrix[axis] == unit).all() and (matrix[:, axis] == unit).all()):
            raise ValueError(
                f"{words}: would repeat {host.name} along its vacuum ({'abc'[axis]}); keep 1 there".replace("\n", "")
            )
    return matrix.astype(np.int64)


def _repeated(host: Host, matrix: Ints) -> Supercell:
    cells = _cells(matrix)
    atoms = type(host.atoms)(
        numbers=np.tile(host.atoms.numbers, len(cells)),
        positions=(host.atoms.positions[None] + (cells @ host.cell)[:, None]).reshape(-1, 3),
        cell=matrix @ host.atoms.cell.array,
        pbc=host.atoms.pbc,
    )
    for name, values in host.atoms.arrays.items():
        if name not in ("numbers", "positions"):
            atoms.set_array(name, np.tile(values, (len(cells),) + (1,) * (values.ndim - 1)))
    periodic = [not empty for empty in host.vacuum]
    return Supercell(atoms, matrix, cells, image_distance(matrix @ host.cell, periodic))


def _cells(matrix: Ints) -> Ints:
    """(K, 3) the cells of the host in a supercell, the first at the origin."""
    if (matrix == np.diag(np.diag(matrix))).all() and (np.diag(matrix) > 0).all():
        cells: Ints = np.array(list(np.ndindex(*np.diag(matrix))), dtype=np.int64)
        return cells
    from ase.build.supercells import lattice_points_in_supercell

    points: Ints = np.rint(lattice_points_in_supercell(matrix) @ matrix).astype(np.int64)
    return points[np.argsort(np.abs(points).sum(axis=1), kind="stable")]  # the origin first


def smallest_matrix(host: Host, distance: float, *, diagonal: bool, max_atoms: int | None) -> Ints:
    """The matrix of the smallest supercell whose images are so many Å apart; of several the one with the farthest.

    All sublattices of an index are looked at, each as its Hermite normal form, from the index on below which not even
    the densest packing of spheres would do; with `diagonal` only multiples of the cell vectors. A vacuum is not
    repeated. Where a crystal needs more than about 100 cells, 2 (3, ...) times the supercell for a half (third, ...) of
    the distance is taken, which may be a little larger than need be. More than `max_atoms` atoms are a `ValueError`.
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
        if diagonal:
            lattices = [m for m in _diagonals(n_cells, len(free)) if not _holds(m, short)]
        else:
            lattices = [_reduced_basis(m, vectors) for m in _lattices(n_cells, len(free), short)]
        if lattices:
            best = min(lattices, key=lambda m: _shape(m @ vectors))
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
    """True where a short vector is one of the supercell's lattice."""
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


def _reduced_basis(matrix: Ints, vectors: Floats) -> Ints:
    """The shortest vectors of the same lattice, right-handed as before."""
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

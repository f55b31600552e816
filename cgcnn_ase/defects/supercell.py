"""The supercell that a defect sits in: given, or the smallest with its images far enough apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .host import Floats, Host
from .smallest_supercell import smallest_matrix

if TYPE_CHECKING:
    from ase import Atoms

Ints = npt.NDArray[np.int64]

#: a supercell as users give it: n, (a, b, c), or rows of whole numbers
Given = int | Sequence[int] | Sequence[Sequence[int]] | Ints


@dataclass(frozen=True)
class Supercell:
    """A repeated host.

    Attributes
    ----------
    atoms
        The host's atoms cell after cell: atom ``i`` of cell ``k`` is number ``k * N + i``; for a diagonal matrix they
        are those of ``host.repeat``.
    matrix
        (3, 3) its vectors in those of the host.
    cells
        (K, 3) where each copy of the host lies.
    image_distance
        Å, see `image_distance`.
    """

    atoms: "Atoms"
    matrix: Ints
    cells: Ints
    image_distance: float

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
    given: Given | None = None,
    *,
    min_distance: float = 10.0,
    diagonal: bool = False,
    max_atoms: int | None = None,
) -> Supercell:
    """The supercell given, or else the smallest whose images are far enough apart.

    Parameters
    ----------
    host
        The host; it is never repeated along a vacuum.
    given
        n (in each direction without vacuum), three numbers, or a 3×3 matrix of whole numbers, rows the new vectors.
    min_distance
        Smallest distance between a defect and its image, Å; without meaning where a supercell is given.
    diagonal
        Whether the vectors of the host are only multiplied, so that the cell keeps its angles.
    max_atoms
        Most atoms it may have.

    Raises
    ------
    ValueError
        If the matrix is none, repeats a vacuum, or the supercell would have more than `max_atoms` atoms.
    """
    if given is not None:
        matrix = _given(host, given)
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


def _given(host: Host, given: Given) -> Ints:
    asked = np.asarray(given)
    words = f"supercell {np.array2string(asked, separator=', ') if asked.ndim else given}"
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
    atoms = host.atoms[[]]
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

    found = np.rint(lattice_points_in_supercell(matrix) @ matrix).astype(np.int64)
    order = np.argsort(np.abs(found).sum(axis=1), kind="stable")  # the origin first
    ordered: Ints = found[order]
    return ordered

"""Sites of a structure that are the same by its space group."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.structures.validation import completed_cell

if TYPE_CHECKING:
    from ase import Atoms
    from spglib import SpglibDataset

# tolerance on positions, Å, and on angles, degrees: those of pymatgen's space-group analysis
SYMPREC, ANGLE = 0.01, 5.0


class DistinctSites(NamedTuple):
    """One site of each set of symmetry-equivalent ones, in the order of the structure."""

    representatives: Ints  # (D,) index of the first site of each set
    multiplicities: Ints  # (D,) sites in each set; their sum is the number of atoms


def distinct_sites(atoms: "Atoms", *, symprec: float = SYMPREC) -> DistinctSites:
    """The symmetry-distinct sites of a structure; equivalent ones may be up to `symprec` Å from their ideal places.

    Directions that are not periodic count as cell vectors long enough to keep the images apart. A structure without
    space group is a `ValueError`.
    """
    cell = completed_cell(atoms.cell.array, atoms.pbc)
    fractions = np.linalg.solve(cell.T, atoms.positions.T).T
    dataset = symmetry_dataset(cell, fractions, atoms.numbers, symprec=symprec)
    first, counts = np.unique(orbits(dataset), return_counts=True)
    return DistinctSites(first, counts)


def orbits(dataset: "SpglibDataset") -> Ints:
    """Index of the first site, (N,), that is equivalent to each by the space group of the crystal.

    Spglib's ``equivalent_atoms`` are equal by the operations of the cell that was given. A supercell whose
    shape breaks the symmetry of its crystal has fewer of them, and its equivalent sites would count several times.
    """
    _, first, inverse = np.unique(dataset.crystallographic_orbits, return_index=True, return_inverse=True)
    indices: Ints = first[inverse]
    return indices


def symmetry_dataset(cell: Floats, fractions: Floats, numbers: Ints, *, symprec: float = SYMPREC) -> "SpglibDataset":
    """The symmetry of a periodic structure that spglib finds (Togo, Shinohara and Tanaka, STAM-M 4, 2384822).

    The cell is (3, 3) Å, rows, the fractional coordinates are (N, 3). A structure without space group is a
    `ValueError`.
    """
    import spglib
    from spglib.error import SpglibError

    none = f"no space group is found at a tolerance of {symprec:g} Å; are two atoms on one site?"
    structure = (cell.tolist(), fractions.tolist(), numbers.tolist())
    try:
        dataset = spglib.get_symmetry_dataset(structure, symprec=symprec, angle_tolerance=ANGLE)
    except SpglibError as error:  # newer versions raise, or will
        raise ValueError(f"{none} {error}") from error
    if dataset is None:
        raise ValueError(none)
    return dataset

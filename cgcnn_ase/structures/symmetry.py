"""Which sites of a structure are the same by its space group."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .check import completed_cell

if TYPE_CHECKING:
    from ase import Atoms

#: Å, as pymatgen's space-group analysis has it
SYMPREC = 0.01


class DistinctSites(NamedTuple):
    """One site of each set of symmetry-equivalent ones, in the order of the structure."""

    representatives: npt.NDArray[np.int64]  #: (D,) index of the first site of each set
    multiplicities: npt.NDArray[np.int64]  #: (D,) sites in each set; their sum is the number of atoms


def distinct_sites(atoms: "Atoms", *, symprec: float = SYMPREC) -> DistinctSites:
    """The symmetry-distinct sites of a structure, by spglib (Togo, Shinohara and Tanaka, STAM-M 4, 2384822).

    Directions that are not periodic count as cell vectors long enough to keep the images apart.

    Parameters
    ----------
    symprec : float
        How far, in Å, equivalent sites may be from their ideal places.

    Raises
    ------
    ValueError
        If spglib finds no space group.
    """
    import spglib
    from spglib.error import SpglibError

    cell = completed_cell(atoms.cell.array, atoms.pbc)
    fractions = np.linalg.solve(cell.T, atoms.positions.T).T
    structure = (cell.tolist(), fractions.tolist(), atoms.numbers.tolist())
    none = f"spglib finds no space group at a tolerance of {symprec:g} Å"
    try:
        dataset = spglib.get_symmetry_dataset(structure, symprec=symprec)
    except SpglibError as error:  # newer versions raise, or will
        raise ValueError(f"{none}: {error}") from error
    if dataset is None:
        raise ValueError(none)
    _, first, counts = np.unique(dataset.equivalent_atoms, return_index=True, return_counts=True)
    order = np.argsort(first)
    return DistinctSites(first[order], counts[order])

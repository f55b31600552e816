"""One number that tells a structure from others, so that it is found among millions without reading their atoms."""

from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ase import Atoms

    from .structure_reader import StructureArrays

#: Å; files keep about eight decimals, so a structure that was written and read again has the same hash
GRID = 1e-3
#: Å; keeps the edges of the grid off the coordinates that people write down, such as 2.105
_SHIFT = 2.71828e-4


def structure_hash(
    lattice: npt.NDArray[np.float64],
    pbc: npt.NDArray[np.bool_],
    numbers: npt.NDArray[Any],
    positions: npt.NDArray[np.float64],
) -> int:
    """Hash of what a model sees of a structure: cell, periodicity, elements and positions to 0.001 Å.

    Magnetic moments, info and results do not enter, so a labelled structure has the hash of the unlabelled one. Atoms
    in another order, wrapped into another cell or rotated are another structure.

    Parameters
    ----------
    lattice
        (3, 3), Å, rows.
    pbc
        (3,)
    numbers
        (n,) atomic numbers.
    positions
        (n, 3), Cartesian, Å.

    Returns
    -------
    int
        64 bits; among 10^6 structures two different ones share one with a chance of 3e-8.
    """
    lengths = np.concatenate((lattice, positions))
    digest = blake2b(pbc.astype(np.bool_).tobytes(), digest_size=8)
    digest.update(numbers.astype(np.uint8).tobytes())
    if np.isfinite(lengths).all():
        lengths = np.floor((lengths + _SHIFT) / GRID)
    digest.update(np.ascontiguousarray(lengths, dtype="<f8").tobytes())
    return int.from_bytes(digest.digest(), "little")


def hash_of_atoms(atoms: "Atoms") -> int:
    """The `structure_hash` of ASE atoms."""
    return structure_hash(atoms.cell.array, atoms.pbc, atoms.numbers, atoms.positions)


def hashes_of_arrays(arrays: "StructureArrays") -> npt.NDArray[np.uint64]:
    """The `structure_hash` of each structure of a set."""
    bounds = arrays.offsets.tolist()
    return np.array(
        [
            structure_hash(arrays.lattice[k], arrays.pbc[k], arrays.numbers[start:end], arrays.positions[start:end])
            for k, (start, end) in enumerate(pairwise(bounds))
        ],
        dtype=np.uint64,
    )

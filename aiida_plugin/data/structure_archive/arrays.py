"""The flat arrays of a set, and a number for each structure by which it is found without reading the others."""

from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import AnyArray, Bools, Floats, Ints

if TYPE_CHECKING:
    from ase import Atoms


class StructureArrays(NamedTuple):
    """The structures as flat arrays; atoms of structure k are rows ``offsets[k]`` to ``offsets[k + 1]``."""

    lattice: Floats  # (n, 3, 3) Å, rows
    offsets: Ints  # (n + 1,)
    numbers: npt.NDArray[np.uint8]  # (atoms,)
    positions: Floats  # (atoms, 3) Cartesian, Å
    pbc: Bools  # (n, 3)


# the arrays that every structure is in: type and shape of a row
FLAT = {
    "lattice": ("<f8", (3, 3)),
    "pbc": ("?", (3,)),
    "offsets": ("<i8", ()),
    "numbers": ("u1", ()),
    "positions": ("<f8", (3,)),
}

HASHES = "hashes.npy"  # a number for each structure; sets of early versions have no such file
GRID = 1e-3  # Å; files keep about eight decimals, so a structure that was written and read again has the same hash
_SHIFT = 2.71828e-4  # Å; keeps the edges of the grid off the coordinates that people write down, such as 2.105


def structure_hash(lattice: Floats, pbc: Bools, numbers: AnyArray, positions: Floats) -> int:
    """Hash (64 bits) of what a model sees of a structure: cell, periodicity, elements and positions to 0.001 Å.

    Magnetic moments, info and results do not enter, so a labelled structure has the hash of the unlabelled one. Atoms
    in another order, wrapped into another cell or rotated are another structure. Among 10^6 structures two different
    ones share one with a chance of 3e-8.
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

"""Structures as the one ``.npz`` file that ``cgcnn-ase`` reads: ids, lattice, offsets, numbers, frac, pbc."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aiida_plugin.data.structure_archive.arrays import StructureArrays
from cgcnn_ase.core.arrays import Floats

if TYPE_CHECKING:
    Array = Floats

#: so many atoms at a time have their cell's inverse beside them
_BLOCK = 100_000


def write_packed_file(path: Path, ids: Sequence[str], arrays: StructureArrays) -> None:
    """Write the file; directions without a cell vector get a unit vector, as fractional coordinates need one.

    A structure whose cell has no volume, or is not finite, is written so that its reader refuses it, and it alone.

    Raises
    ------
    ValueError
        If the file's name does not end in ``.npz``.
    """
    if path.suffix != ".npz":
        raise ValueError(f"{path}: the name of a packed file ends in .npz")
    lattice = _complete(arrays.lattice)
    np.savez(
        path,
        ids=np.array(ids),
        lattice=lattice,
        offsets=arrays.offsets,
        numbers=arrays.numbers,
        frac=_fractional(arrays, lattice),
        pbc=arrays.pbc,
    )


def _complete(lattice: "Array") -> "Array":
    """The cells, (n, 3, 3), with unit vectors in place of those that are zero."""
    from ase.geometry.cell import complete_cell

    full = lattice.copy()
    for k in np.flatnonzero((lattice == 0).all(axis=2).any(axis=1)):
        full[k] = complete_cell(lattice[k])
    return full


def _fractional(arrays: StructureArrays, lattice: "Array") -> "Array":
    inverse = _inverses(lattice)
    owner = np.repeat(np.arange(len(lattice)), np.diff(arrays.offsets))
    frac = np.empty_like(arrays.positions)
    for start in range(0, len(owner), _BLOCK):
        block = slice(start, start + _BLOCK)
        np.einsum("ij,ijk->ik", arrays.positions[block], inverse[owner[block]], out=frac[block])
    return frac


def _inverses(lattice: "Array") -> "Array":
    """Inverses of cells, (n, 3, 3): least squares of flat ones, NaN of those that are not finite, as they have none."""
    finite = np.logical_and.reduce(np.isfinite(lattice.reshape(-1, 9)), axis=1)
    regular = finite.copy()
    regular[finite] = np.linalg.det(lattice[finite]) != 0
    inverse = np.full_like(lattice, np.nan)
    inverse[regular] = np.linalg.inv(lattice[regular])
    flat = finite & ~regular
    inverse[flat] = np.linalg.pinv(lattice[flat])
    return inverse

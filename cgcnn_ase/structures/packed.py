"""Many structures in one ``.npz`` file: a few flat arrays that NumPy alone writes and reads.

``ids`` (n), ``lattice`` (n, 3, 3) in Å with cell vectors as rows, ``offsets`` (n + 1), ``numbers`` (atoms), ``frac``
(atoms, 3) fractional coordinates, and ``pbc`` (n, 3), which may be left out where all is periodic. Atoms of structure
k are the rows ``offsets[k]`` to ``offsets[k + 1]``.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .record import RefusedError

if TYPE_CHECKING:
    from ase import Atoms

#: the arrays that must be there
REQUIRED = ("ids", "lattice", "offsets", "numbers", "frac")
_FORM = f"needed are the arrays {', '.join(REQUIRED)}, and pbc where not all is periodic"


class PackedStructures(NamedTuple):
    """The arrays of a packed file; see the head of this module."""

    ids: npt.NDArray[np.str_]
    lattice: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    frac: npt.NDArray[np.float64]
    pbc: npt.NDArray[np.bool_]

    def rows(self, start: int, stop: int) -> "PackedStructures":
        """The structures from row `start` up to, not including, row `stop`, as views."""
        stop = min(stop, len(self.ids))
        atoms = slice(int(self.offsets[start]), int(self.offsets[stop]))
        own = slice(start, stop)
        return PackedStructures(
            ids=self.ids[own],
            lattice=self.lattice[own],
            offsets=self.offsets[start : stop + 1] - self.offsets[start],
            numbers=self.numbers[atoms],
            frac=self.frac[atoms],
            pbc=self.pbc[own],
        )


def is_packed(path: Path) -> bool:
    """Whether the file is a zip archive that holds lattices and fractional coordinates; nothing of them is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{name}.npy" for name in REQUIRED} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def count_packed(path: Path) -> int:
    """How many structures a packed file says it has, from the head of one array; 1 if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("offsets.npy") as head:
            version = np.lib.format.read_magic(head)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return max(1, int(read(head)[0][0]) - 1)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, IndexError):
        return 1  # reading it will say what is wrong


def load_packed(path: str | Path) -> PackedStructures:
    """All arrays of a packed file, checked against one another.

    Raises
    ------
    ValueError
        If it is no such file, or its arrays do not fit together; the message says which.
    """
    try:
        archive = np.load(path, allow_pickle=False)
    except (zipfile.BadZipFile, ValueError, EOFError):
        raise RefusedError(f"is no .npz file or is cut off; {_FORM}") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise RefusedError(f"is no .npz file; {_FORM}")
    with archive:
        missing = [name for name in REQUIRED if name not in archive.files]
        if missing:
            raise RefusedError(f"has no array {missing[0]!r}; {_FORM}")
        found = {name: _array(archive, name) for name in (*REQUIRED, "pbc") if name in archive.files}
    return _checked(found)


def iter_packed(path: str | Path) -> "Iterator[tuple[str, Atoms]]":
    """Id and structure of each row, in order. Raises as `load_packed` does."""
    return iter_rows(load_packed(path))


def iter_rows(packed: PackedStructures) -> "Iterator[tuple[str, Atoms]]":
    """Id and structure of each row, in order."""
    from ase import Atoms

    bounds = packed.offsets.tolist()
    for k, name in enumerate(packed.ids.tolist()):
        own = slice(bounds[k], bounds[k + 1])
        cell = packed.lattice[k]
        yield name, Atoms(packed.numbers[own], positions=packed.frac[own] @ cell, cell=cell, pbc=packed.pbc[k])


def _array(archive: "np.lib.npyio.NpzFile", name: str) -> npt.NDArray[np.generic]:
    try:
        array: npt.NDArray[np.generic] = archive[name]
    except (zipfile.BadZipFile, ValueError, EOFError):
        raise RefusedError(f"its array {name!r} is damaged, cut off, or holds Python objects") from None
    return array


def _checked(found: dict[str, npt.NDArray[np.generic]]) -> PackedStructures:
    ids = found["ids"]
    if ids.ndim != 1 or ids.dtype.kind not in "USiu":
        raise RefusedError(f"its array 'ids' is of type {ids.dtype} and shape {ids.shape}; needed is a row of names")
    n = len(ids)
    if n == 0:
        raise RefusedError("has no structures")
    names, first = np.unique(ids, return_index=True)
    if len(names) < n:
        again = int(np.setdiff1d(np.arange(n), first)[0])
        raise RefusedError(f"the id {str(ids[again])!r} is in it twice; each structure needs one of its own")
    offsets = _numbers(found, "offsets", "iu", (n + 1,)).astype(np.int64)
    n_atoms = int(offsets[-1])
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise RefusedError("its array 'offsets' does not count up from 0")
    found.setdefault("pbc", np.ones((n, 3), dtype=bool))
    return PackedStructures(
        ids=ids.astype(str),
        lattice=_numbers(found, "lattice", "fiu", (n, 3, 3)).astype(np.float64),
        offsets=offsets,
        numbers=_numbers(found, "numbers", "iu", (n_atoms,)).astype(np.int64),
        frac=_numbers(found, "frac", "fiu", (n_atoms, 3)).astype(np.float64),
        pbc=_numbers(found, "pbc", "b", (n, 3)).astype(np.bool_),
    )


def _numbers(
    found: dict[str, npt.NDArray[np.generic]], name: str, kinds: str, shape: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    array = found[name]
    if array.shape != shape or array.dtype.kind not in kinds:
        needed = {"f": "numbers", "i": "integers", "b": "booleans"}[kinds[0]]
        raise RefusedError(
            f"its array {name!r} is of type {array.dtype} and shape {array.shape}; needed are {needed} of shape {shape}"
        )
    return array

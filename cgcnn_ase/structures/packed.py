"""Many structures in one ``.npz`` file: a few flat arrays that NumPy alone writes and reads.

``ids`` (n), ``lattice`` (n, 3, 3) in Å with cell vectors as rows, ``offsets`` (n + 1), ``numbers`` (atoms), ``frac``
(atoms, 3) fractional coordinates, and ``pbc`` (n, 3), which may be left out where all is periodic. Atoms of structure
k are the rows ``offsets[k]`` to ``offsets[k + 1]``.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Bools, Floats, Ints, Strings
from cgcnn_ase.structures.record import RefusedError

if TYPE_CHECKING:
    from ase import Atoms


class PackedStructures(NamedTuple):
    """The arrays of a packed file; see the head of this module."""

    ids: Strings
    lattice: Floats
    offsets: Ints
    numbers: Ints
    frac: Floats
    pbc: Bools

    def rows(self, start: int, stop: int) -> "PackedStructures":
        """The structures from row `start` up to, not including, row `stop`, as views."""
        stop = min(stop, len(self.ids))
        atoms = slice(int(self.offsets[start]), int(self.offsets[stop]))
        span = slice(start, stop)
        return PackedStructures(
            ids=self.ids[span],
            lattice=self.lattice[span],
            offsets=self.offsets[start : stop + 1] - self.offsets[start],
            numbers=self.numbers[atoms],
            frac=self.frac[atoms],
            pbc=self.pbc[span],
        )


def pack(ids: Sequence[str], structures: "Sequence[Atoms]") -> PackedStructures:
    """Structures and their names as the arrays of a packed file; see the head of `packed` for units and shapes."""
    cells = [atoms.cell.complete().array for atoms in structures]  # a slab's third vector, where it has none
    frac = [atoms.positions @ np.linalg.inv(cell) for atoms, cell in zip(structures, cells, strict=True)]
    return PackedStructures(
        ids=np.array(list(ids), dtype=str),
        lattice=np.array(cells, dtype=np.float64).reshape(-1, 3, 3),
        offsets=np.cumsum([0, *map(len, structures)]).astype(np.int64),
        numbers=np.concatenate([np.empty(0), *(atoms.numbers for atoms in structures)]).astype(np.int64),
        frac=np.concatenate([np.empty((0, 3)), *frac]),
        pbc=np.array([atoms.pbc for atoms in structures], dtype=np.bool_).reshape(-1, 3),
    )


def write_packed(path: Path, parts: Callable[[], Iterable[PackedStructures]]) -> int:
    """Write many structures to one file.

    Parameters
    ----------
    path
        The file, written under another name first and then put in place.
    parts
        Gives the structures part by part. It is called several times, once for each array of the file, and must give
        the same each time.

    Returns
    -------
    int
        How many structures were written.
    """
    n = n_atoms = 0
    width = 1
    for part in parts():
        n += len(part.ids)
        n_atoms += len(part.numbers)
        width = max([width, *map(len, part.ids.tolist())])
    shapes: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
        "ids": ((n,), f"<U{width}"),
        "lattice": ((n, 3, 3), "<f8"),
        "offsets": ((n + 1,), "<i8"),
        "numbers": ((n_atoms,), "u1"),
        "frac": ((n_atoms, 3), "<f8"),
        "pbc": ((n, 3), "|b1"),
    }
    partial = path.with_name(path.name + ".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for name, (shape, dtype) in shapes.items():
            kind = np.dtype(dtype)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))  # same content, same file
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as out:
                head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(out, head)
                before = 0
                if name == "offsets":
                    out.write(np.zeros(1, kind).tobytes())
                for part in parts():
                    array = getattr(part, name)
                    if name == "offsets":
                        array = array[1:] + before
                        before += len(part.numbers)
                    out.write(np.ascontiguousarray(array, dtype=kind).tobytes())
    partial.replace(path)
    return n


#: the arrays that must be there
REQUIRED = ("ids", "lattice", "offsets", "numbers", "frac")
_FORM = f"needed are the arrays {', '.join(REQUIRED)}, and pbc where not all is periodic"


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
        result = {name: _array(archive, name) for name in (*REQUIRED, "pbc") if name in archive.files}
    return _checked(result)


def iter_packed(path: str | Path) -> "Iterator[tuple[str, Atoms]]":
    """Id and structure of each row, in order. Raises as `load_packed` does."""
    return iter_rows(load_packed(path))


def iter_rows(packed: PackedStructures) -> "Iterator[tuple[str, Atoms]]":
    """Id and structure of each row, in order."""
    from ase import Atoms

    bounds = packed.offsets.tolist()
    for k, name in enumerate(packed.ids.tolist()):
        span = slice(bounds[k], bounds[k + 1])
        cell = packed.lattice[k]
        yield name, Atoms(packed.numbers[span], positions=packed.frac[span] @ cell, cell=cell, pbc=packed.pbc[k])


def _array(archive: "np.lib.npyio.NpzFile", name: str) -> npt.NDArray[np.generic]:
    try:
        array: npt.NDArray[np.generic] = archive[name]
    except (zipfile.BadZipFile, ValueError, EOFError):
        raise RefusedError(f"its array {name!r} is damaged, cut off, or holds Python objects") from None
    return array


def _checked(result: dict[str, npt.NDArray[np.generic]]) -> PackedStructures:
    ids = result["ids"]
    if ids.ndim != 1 or ids.dtype.kind not in "USiu":
        raise RefusedError(f"its array 'ids' is of type {ids.dtype} and shape {ids.shape}; needed is a row of names")
    n = len(ids)
    if n == 0:
        raise RefusedError("has no structures")
    names, first = np.unique(ids, return_index=True)
    if len(names) < n:
        again = int(np.setdiff1d(np.arange(n), first)[0])
        raise RefusedError(f"the id {str(ids[again])!r} is in it twice; each structure needs one of its own")
    offsets = _numbers(result, "offsets", "iu", (n + 1,)).astype(np.int64)
    n_atoms = int(offsets[-1])
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise RefusedError("its array 'offsets' does not count up from 0")
    result.setdefault("pbc", np.ones((n, 3), dtype=bool))
    return PackedStructures(
        ids=ids.astype(str),
        lattice=_numbers(result, "lattice", "fiu", (n, 3, 3)).astype(np.float64),
        offsets=offsets,
        numbers=_numbers(result, "numbers", "iu", (n_atoms,)).astype(np.int64),
        frac=_numbers(result, "frac", "fiu", (n_atoms, 3)).astype(np.float64),
        pbc=_numbers(result, "pbc", "b", (n, 3)).astype(np.bool_),
    )


def _numbers(
    result: dict[str, npt.NDArray[np.generic]], name: str, kinds: str, shape: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    array = result[name]
    if array.shape != shape or array.dtype.kind not in kinds:
        needed = {"f": "numbers", "i": "integers", "b": "booleans"}[kinds[0]]
        raise RefusedError(
            f"its array {name!r} is of type {array.dtype} and shape {array.shape}; needed are {needed} of shape {shape}"
        )
    return array

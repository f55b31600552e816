"""Writing packed ``.npz`` files (see `packed`) part by part: only one part is in memory at a time."""

import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .packed import PackedStructures

if TYPE_CHECKING:
    from ase import Atoms


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

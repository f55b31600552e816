"""Many structures in one ``.npz`` file, which NumPy alone writes and reads: the only reader and the only writer of it.

``ids`` (n), ``lattice`` (n, 3, 3) in Å with cell vectors as rows, ``offsets`` (n + 1), ``numbers`` (atoms), ``frac``
(atoms, 3) fractional coordinates, and ``pbc`` (n, 3), which may be left out where all is periodic. Atoms of structure
k are the rows ``offsets[k]`` to ``offsets[k + 1]``.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from cgcnn_ase.core.arrays import AnyArray, Bools, Floats, Ints, Strings
from cgcnn_ase.core.elements import MAX_NUMBER
from cgcnn_ase.core.files import atomic_path
from cgcnn_ase.structures.record import PACKED_SUFFIX, RefusedError, StructureError

if TYPE_CHECKING:
    from ase import Atoms

T = TypeVar("T")

# the suffix of such files
# the arrays that must be there
REQUIRED = ("ids", "lattice", "offsets", "numbers", "frac")
_FORM = f"needed are the arrays {', '.join(REQUIRED)}, and pbc where not all is periodic"
# what a damaged archive makes its readers raise
_DAMAGED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError)
# a periodic cell with less volume per atom is none, Å³; diamond has 5.7
_NO_VOLUME = 0.01
# so many atoms at a time have their cell's inverse beside them
_BLOCK = 100_000


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
        offsets = self.offsets[start : stop + 1] - self.offsets[start]
        return PackedStructures(
            self.ids[span], self.lattice[span], offsets, self.numbers[atoms], self.frac[atoms], self.pbc[span]
        )

    def where(self, keep: Bools) -> "PackedStructures":
        """The structures for which `keep`, (n,), is true."""
        sizes = np.diff(self.offsets)
        atoms = np.repeat(keep, sizes)
        offsets = np.concatenate([[0], np.cumsum(sizes[keep])])
        return PackedStructures(
            self.ids[keep], self.lattice[keep], offsets, self.numbers[atoms], self.frac[atoms], self.pbc[keep]
        )

    def geometries(self) -> Iterator[tuple[Ints, Floats, Floats, Bools]]:
        """Atomic numbers, positions (Å), cell (Å) and periodic directions of each structure, in order."""
        bounds = self.offsets.tolist()
        for start, stop, cell, pbc in zip(bounds[:-1], bounds[1:], self.lattice, self.pbc, strict=True):
            yield self.numbers[start:stop], self.frac[start:stop] @ cell, cell, pbc

    def atoms(self) -> "Iterator[tuple[str, Atoms]]":
        """Id and structure of each row, in order."""
        from ase import Atoms

        for name, (numbers, positions, cell, pbc) in zip(self.ids.tolist(), self.geometries(), strict=True):
            yield name, Atoms(numbers, positions=positions, cell=cell, pbc=pbc)


# Writing


def pack(ids: Sequence[str], structures: "Sequence[Atoms]") -> PackedStructures:
    """Structures and their names as the arrays of a packed file; see `pack_positions`."""
    return pack_positions(
        ids,
        lattice=np.array([atoms.cell.array for atoms in structures], dtype=np.float64).reshape(-1, 3, 3),
        offsets=np.cumsum([0, *map(len, structures)]).astype(np.int64),
        numbers=np.concatenate([np.empty(0), *(atoms.numbers for atoms in structures)]),
        positions=np.concatenate([np.empty((0, 3)), *(atoms.positions for atoms in structures)]),
        pbc=np.array([atoms.pbc for atoms in structures], dtype=np.bool_).reshape(-1, 3),
    )


def pack_positions(
    ids: Sequence[str], *, lattice: Floats, offsets: Ints, numbers: AnyArray, positions: Floats, pbc: Bools
) -> PackedStructures:
    """Structures with Cartesian positions, (atoms, 3) in Å, as the arrays of a packed file.

    Cell vectors that are zero become unit vectors, as fractional coordinates need them. A structure whose cell has no
    volume, or is not finite, gets coordinates that make a reader refuse it, and it alone.
    """
    from ase.geometry.cell import complete_cell

    cells = lattice.copy()
    for k in np.flatnonzero((lattice == 0).all(axis=2).any(axis=1)):
        cells[k] = complete_cell(lattice[k])
    inverse = _inverses(cells)
    owner = np.repeat(np.arange(len(cells)), np.diff(offsets))
    frac = np.empty((len(owner), 3))
    for start in range(0, len(owner), _BLOCK):
        block = slice(start, start + _BLOCK)
        np.einsum("ij,ijk->ik", positions[block], inverse[owner[block]], out=frac[block])
    return PackedStructures(np.array(list(ids), dtype=str), cells, offsets, numbers.astype(np.int64), frac, pbc)


def _inverses(cells: Floats) -> Floats:
    """Inverses of cells, (n, 3, 3): least squares of flat ones, NaN of those that are not finite, as they have none."""
    finite: Bools = np.logical_and.reduce(np.isfinite(cells), axis=(1, 2))
    regular = finite.copy()
    regular[finite] = np.linalg.det(cells[finite]) != 0
    inverse = np.full_like(cells, np.nan)
    inverse[regular] = np.linalg.inv(cells[regular])
    inverse[finite & ~regular] = np.linalg.pinv(cells[finite & ~regular])
    return inverse


def write_packed(path: Path, parts: Callable[[], Iterable[PackedStructures]], *, compress: bool = True) -> int:
    """Write many structures to one file and return their number; the same structures give the same bytes.

    The file is there as a whole or not at all; its name ends in ``.npz``, or a `ValueError` is raised. `parts` gives
    the structures part by part. It is called several times, once for each array of the file, and must give the same
    each time. To compress the arrays takes most of the time.
    """
    if path.suffix != PACKED_SUFFIX:
        raise ValueError(f"{path}: the name of a packed file ends in {PACKED_SUFFIX}")
    n = n_atoms = 0
    width = 1
    for part in parts():
        n += len(part.ids)
        n_atoms += len(part.numbers)
        width = max([width, *map(len, part.ids.tolist())])
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "ids": ((n,), f"<U{width}"),
        "lattice": ((n, 3, 3), "<f8"),
        "offsets": ((n + 1,), "<i8"),
        "numbers": ((n_atoms,), "u1"),
        "frac": ((n_atoms, 3), "<f8"),
        "pbc": ((n, 3), "|b1"),
    }
    with atomic_path(path) as tmp, zipfile.ZipFile(tmp, "w", allowZip64=True) as archive:
        for name, (shape, dtype) in shapes.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))  # same content, same file
            entry.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
            with archive.open(entry, "w", force_zip64=True) as out:
                np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
                before = 0
                if name == "offsets":
                    out.write(np.zeros(1, dtype).tobytes())
                for part in parts():
                    array = getattr(part, name)
                    if name == "offsets":
                        array = array[1:] + before
                        before += len(part.numbers)
                    out.write(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return n


# Reading


def is_packed(path: Path) -> bool:
    """Say whether the file is a zip archive that holds lattices and fractional coordinates; nothing of them is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{name}.npy" for name in REQUIRED} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def count_packed(path: Path) -> int:
    """How many structures a packed file says it has, from the head of one array; 1 if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("offsets.npy") as head:
            return max(1, read_npy_header(head)[0][0] - 1)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, IndexError):
        return 1  # reading it will say what is wrong


def read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, whether it is in Fortran's order, and type of the array whose ``.npy`` file begins here."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def load_ids(path: str | Path) -> Strings:
    """The ids of a packed file, (n,); nothing else of it is read. Raises as `load_packed` does."""
    return _refusing(path, lambda archive: _ids(_array(archive, "ids"), distinct=True))


def load_packed(path: str | Path, *, check_rows: bool = True, is_part: bool = False) -> PackedStructures:
    """All arrays of a packed file, checked against one another.

    With `check_rows` every structure must be usable as well: some atoms of known elements, finite numbers, a cell that
    is one. Who reads them one by one checks each (`cgcnn_ase.structures.validation`), so that a bad one costs itself.
    In a part of a set (`is_part`) no structure need be, and one may be twice.

    A `StructureError` names the file, and the array and structure that cannot be used.
    """
    return _refusing(path, lambda archive: _read(archive, check_rows, is_part))


def _refusing(path: str | Path, read: "Callable[[np.lib.npyio.NpzFile], T]") -> T:
    """Read something of the archive; an error names the file."""
    try:
        archive = np.load(path, allow_pickle=False)
    except _DAMAGED:
        archive = None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        no_set = "is no .npz file or is cut off, so it is not a packed set of structures"
        raise StructureError(str(path), f"{no_set}; {_FORM}")
    with archive:
        try:
            return read(archive)
        except RefusedError as error:
            raise StructureError(str(path), str(error)) from None


def _read(archive: "np.lib.npyio.NpzFile", check_rows: bool, is_part: bool) -> PackedStructures:
    ids = _ids(_array(archive, "ids"), distinct=not is_part)
    n = len(ids)
    if not n and not is_part:
        raise RefusedError("holds no structures")
    offsets = _numbers(_array(archive, "offsets"), "offsets", "iu", (n + 1,)).astype(np.int64)
    sizes = np.diff(offsets)
    if offsets[0] != 0 or (sizes < 0).any():
        raise RefusedError("its array 'offsets' does not count up from 0")
    if check_rows and not sizes.all():
        raise RefusedError(f"structure {ids[sizes.argmin()]} has no atoms (array 'offsets')")
    n_atoms = int(offsets[-1])
    pbc = _array(archive, "pbc") if "pbc" in archive.files else np.ones((n, 3), dtype=np.bool_)
    packed = PackedStructures(
        ids=ids,
        lattice=_numbers(_array(archive, "lattice"), "lattice", "fiu", (n, 3, 3)).astype(np.float64),
        offsets=offsets,
        numbers=_numbers(_array(archive, "numbers"), "numbers", "iu", (n_atoms,)).astype(np.int64),
        frac=_numbers(_array(archive, "frac"), "frac", "fiu", (n_atoms, 3)).astype(np.float64),
        pbc=_numbers(pbc, "pbc", "b", (n, 3)).astype(np.bool_),
    )
    if check_rows:
        _check_rows(packed)
    return packed


def _array(archive: "np.lib.npyio.NpzFile", name: str) -> AnyArray:
    if name not in archive.files:
        raise RefusedError(f"has no array {name!r}; {_FORM}")
    try:
        array: AnyArray = archive[name]
    except _DAMAGED:
        raise RefusedError(f"its array {name!r} is damaged, cut off, or holds Python objects") from None
    return array


def _ids(ids: AnyArray, *, distinct: bool) -> Strings:
    if ids.ndim != 1 or ids.dtype.kind not in "USiu":
        raise RefusedError(f"its array 'ids' is of type {ids.dtype} and shape {ids.shape}; needed is a row of names")
    try:
        names = ids.astype(np.str_)
    except UnicodeDecodeError:
        raise RefusedError("its array 'ids' is binary, not text") from None
    first = np.unique(names, return_index=True)[1]
    if distinct and len(first) < len(names):
        again = int(np.setdiff1d(np.arange(len(names)), first)[0])
        raise RefusedError(f"the id {str(names[again])!r} is in it twice (array 'ids'); each structure needs its own")
    return names


def _numbers(array: AnyArray, name: str, kinds: str, shape: tuple[int, ...]) -> AnyArray:
    if array.shape != shape or array.dtype.kind not in kinds:
        needed = {"f": "numbers", "i": "integers", "b": "booleans"}[kinds[0]]
        raise RefusedError(
            f"its array {name!r} is of type {array.dtype} and shape {array.shape}; needed are {needed} of shape {shape}"
        )
    return array


def _check_rows(packed: PackedStructures) -> None:
    """Refuse structures that are none, naming the first."""
    sizes = np.diff(packed.offsets)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    with np.errstate(invalid="ignore"):
        volumes = np.abs(np.linalg.det(packed.lattice)) / sizes

    def of_structures(atoms: Bools) -> Bools:
        return np.bincount(owner[atoms], minlength=len(sizes)) > 0

    no_element = f"has an atomic number that is not from 1 to {MAX_NUMBER}"
    no_number = "has a coordinate or a cell vector that is not a finite number"
    finite_frac: Bools = np.logical_and.reduce(np.isfinite(packed.frac), axis=1)
    finite_cell: Bools = np.logical_and.reduce(np.isfinite(packed.lattice), axis=(1, 2))
    checks: Mapping[tuple[str, str], Bools] = {
        (no_element, "numbers"): of_structures((packed.numbers < 1) | (packed.numbers > MAX_NUMBER)),
        (no_number, "frac"): of_structures(~finite_frac),
        (no_number, "lattice"): ~finite_cell,
        ("is periodic but its cell has no volume", "lattice"): packed.pbc.all(axis=1) & (volumes < _NO_VOLUME),
    }
    for (reason, array), bad in checks.items():
        if bad.any():
            raise RefusedError(f"structure {packed.ids[bad.argmax()]} {reason} (array {array!r})")

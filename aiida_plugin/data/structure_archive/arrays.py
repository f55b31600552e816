"""The flat arrays of a set, in files that are written and read a few rows at a time, never held in memory whole.

Among them is a number for each structure by which it is found without reading the others.
"""

import io
from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import AnyArray, Bools, Floats, Ints

if TYPE_CHECKING:
    from ase import Atoms
    from typing_extensions import Buffer


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


class NpyWriter:
    """A ``.npy`` file that grows by rows of a type (written little-endian) and a shape; equal rows give equal bytes."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, shape: Sequence[int] = ()) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.shape = tuple(shape)
        self.n_rows = 0
        self._file = path.open("wb")
        self._start = self._write_header()

    def _write_header(self) -> int:
        """The header leaves room for the count of rows to grow, so that it can be written twice."""
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.n_rows, *self.shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def append(self, rows: AnyArray) -> None:
        """Add rows, ``(k, *shape)``."""
        self._file.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())
        self.n_rows += len(rows)

    def close(self) -> None:
        """Write how many rows there are."""
        self._file.seek(0)
        assert self._write_header() == self._start
        self._file.close()

    def __enter__(self) -> "NpyWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Raw(io.RawIOBase):
    """A file of AiiDA's repository, which can only be read onwards, as Python's own buffers want it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer") -> int:
        view = memoryview(buffer)
        data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)


def buffered(file: BinaryIO) -> io.BufferedReader:
    """The file with a buffer, so that many small reads are quick."""
    return io.BufferedReader(_Raw(file), 1 << 18)


class NpyReader:
    """The rows of an open ``.npy`` file, in order; a ValueError if it is no such array, or ends before its last row."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = buffered(file)
        version = np.lib.format.read_magic(self._file)
        if version != (1, 0):
            raise ValueError(f"an array is written in version {version} of NumPy's format; known is (1, 0)")
        shape, fortran_order, self.dtype = np.lib.format.read_array_header_1_0(self._file)
        if fortran_order or not shape or self.dtype.hasobject:
            raise ValueError("an array is not a plain table of rows")
        self.n_rows, self.shape = shape[0], shape[1:]
        self._row_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def read(self, count: int) -> npt.NDArray[Any]:
        """Read the next `count` rows, ``(count, *shape)``, writable."""
        data = self._file.read(count * self._row_bytes)
        if len(data) != count * self._row_bytes:
            raise ValueError("an array ends before its last row")
        return np.frombuffer(bytearray(data), dtype=self.dtype).reshape(count, *self.shape)

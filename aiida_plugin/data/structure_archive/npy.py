"""Arrays in ``.npy`` files that are written and read a few rows at a time, never held in memory whole."""

import io
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import AnyArray

if TYPE_CHECKING:
    from typing_extensions import Buffer


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

"""Reading what `writer` wrote: one structure after the other, or all of them at hand."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from aiida_plugin.data.structure_archive.arrays import (
    FLAT,
    HASHES,
    NpyReader,
    StructureArrays,
    buffered,
    hashes_of_arrays,
)
from aiida_plugin.data.structure_archive.atoms import AtomsParts, SiteArray, put_together
from cgcnn_ase.core.arrays import AnyArray, Ints
from cgcnn_ase.graphs.geometry import Geometry

if TYPE_CHECKING:
    from ase import Atoms

Open = Callable[[str], AbstractContextManager[BinaryIO]]  # opens one of the files for reading

_SKIPPED = 1 << 16  # atoms that are read at once and thrown away


def read_ids(open_file: Open) -> list[str]:
    """The names of the structures."""
    with open_file("ids.json") as file:
        ids: list[str] = json.loads(file.read())
    return ids


def count_structures(open_file: Open) -> int:
    """How many structures the files hold."""
    with open_file("lattice.npy") as file:
        return NpyReader(file).n_rows


def read_arrays(open_file: Open) -> StructureArrays:
    """All lattices, numbers and positions, read-only."""
    return StructureArrays(**{name: _read_all(open_file, f"{name}.npy") for name in StructureArrays._fields})


def read_hashes(open_file: Open) -> npt.NDArray[np.uint64]:
    """The hash of each structure; computed where an early version wrote the set."""
    try:
        return _read_all(open_file, HASHES)
    except FileNotFoundError:
        return hashes_of_arrays(read_arrays(open_file))


def rows_of_composition(open_file: Open, composition: Mapping[int, int], volumes: tuple[float, float]) -> Ints:
    """Rows whose composition (atoms by atomic number) is this or a multiple of it, with a volume per atom in the range.

    `volumes` are the smallest and the largest, Å³; no positions are read.
    """
    offsets, numbers, lattice = (_read_all(open_file, f"{name}.npy") for name in ("offsets", "numbers", "lattice"))
    sizes, n = np.diff(offsets), sum(composition.values())
    per_atom = np.abs(np.linalg.det(lattice)) / np.maximum(sizes, 1)
    fits = (volumes[0] <= per_atom) & (per_atom <= volumes[1])
    for number, count in composition.items():
        seen = np.concatenate(([0], np.cumsum(numbers == number)))
        fits &= np.diff(seen[offsets]) * n == count * sizes
    return np.flatnonzero(fits)


def read_geometries(open_file: Open, rows: Ints) -> list[Geometry]:
    """Structures of these rows, in ascending order; only their own atoms are kept in memory."""
    offsets = _read_all(open_file, "offsets.npy")
    numbers, lattice, pbc = (_read_all(open_file, f"{name}.npy") for name in ("numbers", "lattice", "pbc"))
    geometries, at = [], 0
    with open_file("positions.npy") as file:
        reader = NpyReader(file)
        for row in rows.tolist():
            start, end = int(offsets[row]), int(offsets[row + 1])
            for skip in range(at, start, _SKIPPED):
                reader.read(min(_SKIPPED, start - skip))
            at = end
            geometries.append(
                Geometry(numbers[start:end].astype(np.int64), reader.read(end - start), lattice[row], pbc[row])
            )
    return geometries


def iter_parts(open_file: Open) -> Iterator[AtomsParts]:
    """The parts of each structure, in order; only one structure is in memory at a time."""
    with ExitStack() as stack:

        def reader(name: str) -> NpyReader:
            return NpyReader(stack.enter_context(open_file(name)))

        flat = {name: reader(f"{name}.npy") for name in FLAT}
        columns = [
            _ColumnReader(column, reader(f"column-{k}.npy"), reader(f"column-{k}-owners.npy"))
            for k, column in enumerate(_read_columns(open_file))
        ]
        rest = buffered(stack.enter_context(open_file("rest.jsonl")))
        start = int(flat["offsets"].read(1)[0])
        for k in range(flat["lattice"].n_rows):
            end = int(flat["offsets"].read(1)[0])
            count = end - start
            yield AtomsParts(
                lattice=flat["lattice"].read(1)[0],
                pbc=flat["pbc"].read(1)[0],
                numbers=flat["numbers"].read(count),
                positions=flat["positions"].read(count),
                sites={c.column: c.rows.read(count) for c in columns if c.owns(k)},
                rest=rest.readline().decode().rstrip("\n"),
            )
            start = end


def iter_structures(open_file: Open) -> "Iterator[Atoms]":
    """Each structure as `ase.Atoms`, in order, in bounded memory."""
    for parts in iter_parts(open_file):
        yield put_together(parts)


def _read_columns(open_file: Open) -> list[SiteArray]:
    with open_file("columns.json") as file:
        return [SiteArray(group, name, dtype, tuple(shape)) for group, name, dtype, shape in json.loads(file.read())]


class _ColumnReader:
    """A column and the next structure that has it."""

    def __init__(self, column: SiteArray, rows: NpyReader, owners: NpyReader) -> None:
        self.column = column
        self.rows = rows
        self._owners = owners
        self._left = owners.n_rows
        self._next = self._advance()

    def _advance(self) -> int:
        if self._left == 0:
            return -1
        self._left -= 1
        return int(self._owners.read(1)[0])

    def owns(self, k: int) -> bool:
        """Say whether structure k, the next one, has the column."""
        if k != self._next:
            return False
        self._next = self._advance()
        return True


class StructureTable:
    """All structures at hand, in any order; a million structures of ten atoms need about 550 MB."""

    def __init__(self, arrays: StructureArrays, open_file: Open) -> None:
        self.arrays = arrays
        counts = np.diff(self.arrays.offsets)
        self._columns = [_HeldColumn(column, k, open_file, counts) for k, column in enumerate(_read_columns(open_file))]
        with open_file("rest.jsonl") as file:
            self._rest = file.read().decode().split("\n")

    def parts(self, k: int) -> AtomsParts:
        """The parts of structure k, from 0."""
        start, end = self.arrays.offsets[k : k + 2].tolist()
        return AtomsParts(
            lattice=self.arrays.lattice[k],
            pbc=self.arrays.pbc[k],
            numbers=self.arrays.numbers[start:end],
            positions=self.arrays.positions[start:end],
            sites={c.column: c.rows_of(k, end - start) for c in self._columns if k in c.starts},
            rest=self._rest[k],
        )

    def atoms(self, k: int) -> "Atoms":
        """Structure k, from 0."""
        return put_together(self.parts(k))


class _HeldColumn:
    """A column in memory, and where the rows of each structure start in it."""

    def __init__(self, column: SiteArray, k: int, open_file: Open, n_atoms: Ints) -> None:
        self.column = column
        self._rows = _read_all(open_file, f"column-{k}.npy")
        owners = _read_all(open_file, f"column-{k}-owners.npy")
        counts = n_atoms[owners]
        self.starts = dict(zip(owners.tolist(), (np.cumsum(counts) - counts).tolist(), strict=True))

    def rows_of(self, k: int, count: int) -> AnyArray:
        start = self.starts[k]
        return self._rows[start : start + count]


def _read_all(open_file: Open, name: str) -> npt.NDArray[Any]:
    with open_file(name) as file:
        reader = NpyReader(file)
        rows = reader.read(reader.n_rows)
    rows.flags.writeable = False
    return rows

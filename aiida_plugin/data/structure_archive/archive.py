"""Many structures as a few flat files: written one structure at a time in bounded memory, read so or all at hand.

``lattice.npy`` (n, 3, 3) Å, ``pbc.npy`` (n, 3), ``offsets.npy`` (n + 1), ``numbers.npy`` and ``positions.npy``
(atoms, 3), Cartesian Å; ``hashes.npy`` (n,), by which a structure is found; ``ids.json``; ``rest.jsonl``, a line a
structure; ``columns.json`` names what only some structures have, of which ``column-0.npy`` holds the rows and
``column-0-owners.npy`` which structures have it. Equal structures in the same order give equal bytes.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from aiida_plugin.data.labels import SCHEME, LabelKind, is_converged, kind_of, scheme_of
from aiida_plugin.data.structure_archive.arrays import (
    FLAT,
    HASHES,
    NpyReader,
    NpyWriter,
    StructureArrays,
    buffered,
    hashes_of_arrays,
    structure_hash,
)
from aiida_plugin.data.structure_archive.atoms import AtomsParts, SiteArray, put_together, take_apart
from cgcnn_ase.core.arrays import AnyArray, Ints
from cgcnn_ase.graphs.crystal_graph import Geometry

if TYPE_CHECKING:
    from ase import Atoms

FORMAT_VERSION = 1  # raised when the files change their meaning
_FORMULAS = 5  # how many formulas a summary names


def write_structures(structures: "Iterable[Atoms]", ids: Sequence[str] | None, folder: Path) -> dict[str, object]:
    """Write structures one at a time into an empty folder; return the attributes of `StructureSetData.from_ase`."""
    names = None if ids is None else _checked_ids(ids)
    writer = _Writer(folder)
    with writer.open_files:
        for k, atoms in enumerate(structures):
            if names is not None and k >= len(names):
                raise ValueError(f"there are more structures than ids ({len(names)})")
            writer.append(atoms, str(k) if names is None else names[k])
    if writer.n == 0:
        raise ValueError("a structure set needs at least one structure; none was given")
    if names is not None and writer.n != len(names):
        raise ValueError(f"there are {len(names)} ids for {writer.n} structures")
    (folder / "ids.json").write_text(json.dumps([str(k) for k in range(writer.n)] if names is None else names), "utf-8")
    return writer.finish()


def _checked_ids(ids: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    names: Sequence[object] = ids
    for k, name in enumerate(names):
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(f"id {k} is {name!r}; allowed is a string that is not empty and holds no NUL")
        if name in seen:
            raise ValueError(f"the id {name!r} is given twice, to structures {seen[name]} and {k}")
        seen[str(name)] = k
    return list(seen)


class _Writer:
    """The files while they grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open_files = ExitStack()
        self.n = 0
        self._n_atoms = 0
        self._flat = {name: self._open(f"{name}.npy", *kind) for name, kind in FLAT.items()}
        self._flat["offsets"].append(np.zeros(1, dtype=np.int64))
        self._hashes = self._open(HASHES, "<u8", ())
        self._columns: dict[SiteArray, tuple[str, NpyWriter, NpyWriter]] = {}
        self._rest = self.open_files.enter_context((folder / "rest.jsonl").open("w", encoding="utf-8", newline="\n"))
        self._seen = np.zeros(256, dtype=bool)
        self._formulas: list[str] = []
        self._results: set[str] = set()
        self._labels_converged = True
        self._label_kinds: set[LabelKind] = set()

    def _open(self, name: str, dtype: str, shape: Sequence[int]) -> NpyWriter:
        return self.open_files.enter_context(NpyWriter(self.folder / name, dtype, shape))

    def append(self, atoms: "Atoms", name: str) -> None:
        parts = take_apart(atoms, f"structure {name!r}")
        self._n_atoms += len(parts.numbers)
        self._flat["lattice"].append(parts.lattice[None])
        self._flat["pbc"].append(parts.pbc[None])
        self._flat["offsets"].append(np.array([self._n_atoms]))
        self._flat["numbers"].append(parts.numbers)
        self._flat["positions"].append(parts.positions)
        content_hash = structure_hash(parts.lattice, parts.pbc, parts.numbers, parts.positions)
        self._hashes.append(np.array([content_hash], dtype=np.uint64))
        for column, array in parts.sites.items():
            if column not in self._columns:
                stem = f"growing-{len(self._columns)}"
                rows = self._open(f"{stem}.npy", column.dtype, column.shape)
                self._columns[column] = (stem, rows, self._open(f"{stem}-owners.npy", "<i8", ()))
            _, rows, owners = self._columns[column]
            rows.append(array)
            owners.append(np.array([self.n]))
        self._rest.write(parts.rest + "\n")
        self._seen[parts.numbers] = True
        if self.n < _FORMULAS:
            self._formulas.append(atoms.get_chemical_formula())
        names = _result_names(parts.rest) if '"results":{' in parts.rest else None
        self._results.update(names or ())
        if names is not None or SCHEME in atoms.info:
            self._label_kinds.add(kind_of(atoms.info.get(SCHEME)))
        self._labels_converged &= is_converged(scheme_of(atoms))
        self.n += 1

    def finish(self) -> dict[str, object]:
        """Name the columns in an order that does not depend on which structure came first, and sum up."""
        from ase.data import chemical_symbols

        columns = sorted(self._columns)
        for k, column in enumerate(columns):
            stem = self._columns[column][0]
            for end in (".npy", "-owners.npy"):
                (self.folder / f"{stem}{end}").rename(self.folder / f"column-{k}{end}")
        (self.folder / "columns.json").write_text(json.dumps(columns), "utf-8")
        of_sites = {group: {c.name for c in columns if c.group == group} for group in ("arrays", "results")}
        return {
            "format_version": FORMAT_VERSION,
            "n_structures": self.n,
            "n_atoms": self._n_atoms,
            "elements": [chemical_symbols[z] for z in np.flatnonzero(self._seen)],
            "formulas": self._formulas,
            "site_arrays": sorted(of_sites["arrays"]),
            "results": sorted(self._results | of_sites["results"]),
            "label_kinds": sorted(self._label_kinds),
            **({} if self._labels_converged else {"labels_converged": False}),
        }


def _result_names(rest: str) -> list[str] | None:
    """Names of the results that are not one an atom; None of a structure without a calculator."""
    results = json.loads(rest).get("results")
    return None if results is None else list(results)


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

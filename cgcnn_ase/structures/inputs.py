"""From what the user names (files, folders, globs, a list on stdin, objects) to a stream of structures."""

import glob
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from cgcnn_ase.structures.ordering import OrderDisordered
from cgcnn_ase.structures.packed import PackedStructures, count_packed, is_packed, load_packed
from cgcnn_ase.structures.readers import iter_file, record_of
from cgcnn_ase.structures.record import (
    FOREIGN_SUFFIXES,
    PACKED_SUFFIX,
    StructureError,
    StructureRecord,
    allowed,
    structure_id,
    suffix_of,
)
from cgcnn_ase.structures.validation import check_atoms, validation_error

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Molecule, Structure


MEMORY = "<memory>"
_log = logging.getLogger(__name__)

# formats whose files in a folder may be something else altogether (settings, inputs of other programs)
_ONLY_BY_NAME = (".in", ".pwi")
_JSON_SIGNS = (b'"@module"', b'"lattice"', b'"sites"', b'"nextid"', b'"cell"')


def collect_paths(inputs: str | Path | Sequence[str | Path]) -> list[Path]:
    """The structure files that the inputs name, in their order.

    They are files; folders (every structure file in them by suffix or name, sorted, not in subfolders); globs such as
    ``"runs/*/CONTCAR"``; ``"-"`` for a list of paths on stdin, one a line. A file named twice is taken once. Files
    listed on stdin are not looked for here: a missing one is a record with an error when it is read.

    A `StructureError` is raised if a file or folder is missing, a folder holds no structure file, a glob matches none,
    or a file has an unknown suffix.
    """
    paths: dict[Path, None] = {}
    for entry in [inputs] if isinstance(inputs, str | Path) else inputs:
        for path in _paths_of(entry):
            paths[path] = None
    return list(paths)


def _paths_of(entry: str | Path) -> Iterable[Path]:
    if str(entry) == "-":
        return [Path(line.strip()) for line in sys.stdin if line.strip()]
    path = Path(entry).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        if not suffix_of(path.name):
            raise StructureError(str(entry), f"has an unknown suffix; known are {allowed()}")
        return [path]
    if glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - absolute too
        files = [match for match in matches if suffix_of(match.name) and match.is_file()]
        if not files:
            what = "matches no structure file" if matches else "matches no file"
            raise StructureError(str(entry), f"{what}; known are {allowed()}")
        return files
    raise StructureError(
        str(entry), "no such file or folder; give structure files, folders, globs, or - for a list on stdin"
    )


def _in_folder(folder: Path) -> list[Path]:
    try:
        listed = sorted(folder.iterdir())
        files = [path for path in listed if _is_structure(path)]
    except PermissionError:
        raise StructureError(str(folder), "may not be read (permission denied)") from None
    left_out = [path.name for path in listed if path.name.lower().endswith((*FOREIGN_SUFFIXES, *_ONLY_BY_NAME))]
    if left_out and files:
        shown = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
        _log.warning("%s: left out %s; files of a folder are read if they are %s", folder, shown, allowed())
    if not files:
        raise StructureError(str(folder), f"the folder holds no structure file; known are {allowed()}")
    return files


def _is_structure(path: Path) -> bool:
    suffix = suffix_of(path.name)
    if not suffix or suffix in _ONLY_BY_NAME or path.name.startswith("."):
        return False
    if suffix == ".json" and path.name.lower().endswith(".json"):
        try:
            with path.open("rb") as file:
                head = file.read(4096)
        except OSError:
            return False
        return any(sign in head for sign in _JSON_SIGNS)
    return path.is_file() and (suffix != PACKED_SUFFIX or is_packed(path))


def read_structures(inputs: object, *, order_disordered: OrderDisordered = False) -> Iterator[StructureRecord]:
    """A stream of structures from files or objects, in order and in bounded memory.

    Parameters
    ----------
    inputs
        A path, folder, glob or ``"-"`` (see `collect_paths`); an `ase.Atoms`; a pymatgen ``Structure`` or ``Molecule``;
        an iterable of any of these, taken lazily; or a dict from names to them.
    order_disordered
        Make an ordered supercell where sites are partially occupied, rather than refuse: True, or the
        :class:`OrderingOptions` that say how; with ``num`` above 1 several. An `OrderingWarning` tells how each was
        made.

    Yields
    ------
    StructureRecord
        One for each structure. A bad file gives a record with its `error` and never costs the others; so does a file
        whose name was used before in the same folder; those of one name in different folders get their folders' names.

    Raises
    ------
    StructureError
        At once, if `inputs` is or holds (in a list or tuple) a folder or glob without structure files, or one path that
        is missing.
    """
    if isinstance(inputs, str | Path):
        listed = _PathList(collect_paths(inputs))
        return _unique(_of_entries([listed], order_disordered), listed)
    if _is_object(inputs):
        return _of_named([("0", inputs)], order_disordered)
    if isinstance(inputs, Mapping):
        return _of_named(inputs.items(), order_disordered)
    if not isinstance(inputs, Iterable):
        raise TypeError(
            f"cannot read structures from {type(inputs).__name__}: give paths, ase.Atoms or pymatgen structures"
        )
    if isinstance(inputs, list | tuple):
        inputs = [_expanded(entry) for entry in inputs]
        return _unique(_of_entries(inputs, order_disordered), _known_paths(inputs))
    return _unique(_of_entries(inputs, order_disordered), ())


def from_object(obj: object, *, order_disordered: OrderDisordered = False, source: str = MEMORY) -> "Atoms":
    """An `ase.Atoms`, or a pymatgen ``Structure`` or ``Molecule``, as a checked copy in `ase.Atoms` without calculator.

    One that is disordered and not to be ordered, or fails `check_atoms`, is a `StructureError`; anything else a
    `TypeError`.
    """
    return check_atoms(_converted(obj, order_disordered, source)[0], source)


def as_atoms(obj: "Atoms | Structure") -> "Atoms":
    """An `ase.Atoms` as it is, with its calculator and info; a pymatgen ``Structure`` as :func:`from_object` has it."""
    from ase import Atoms

    return obj if isinstance(obj, Atoms) else from_object(obj)


def to_structure(atoms: "Atoms") -> "Structure":
    """A pymatgen ``Structure`` of `ase.Atoms`, what is in ``atoms.info`` among its properties."""
    from pymatgen.io.ase import AseAtomsAdaptor

    structure: Structure = AseAtomsAdaptor.get_structure(atoms)
    return structure


def _converted(obj: object, order_disordered: OrderDisordered, source: str) -> "list[Atoms]":
    """The structure, or its orderings."""
    from ase import Atoms

    if isinstance(obj, Atoms):
        copy: Atoms = obj.copy()
        copy.calc = None
        return [copy]
    if not _is_object(obj):
        raise TypeError(f"{type(obj).__name__} is neither an ase.Atoms nor a pymatgen Structure or Molecule")
    from cgcnn_ase.structures.disorder import all_from_pymatgen

    try:
        return all_from_pymatgen(
            cast("Structure | Molecule", obj),
            order_disordered=order_disordered,
            source="" if source == MEMORY else source,
        )
    except ValueError as error:
        raise StructureError(source, str(error)) from error


def _is_object(entry: object) -> bool:
    """Say whether the input is one structure in memory (told without importing pymatgen)."""
    names = {base.__name__ for base in type(entry).__mro__}
    return "Atoms" in names or bool(names & {"SiteCollection", "IStructure", "IMolecule"})


class _PathList(list[Path]):
    """The files that one entry of the inputs stands for."""


def _expanded(entry: object) -> object:
    """An entry of a list: folders and globs as the files they stand for; a path with a known suffix as it is."""
    if not isinstance(entry, str | Path) or (suffix_of(Path(entry).name) and not glob.has_magic(str(entry))):
        return entry
    return _PathList(collect_paths(entry))


def _of_entries(entries: Iterable[object], order_disordered: OrderDisordered) -> Iterator[StructureRecord]:
    for i, entry in enumerate(entries):
        try:
            expanded = _expanded(entry)
        except StructureError as error:
            yield StructureRecord(str(entry), str(entry), None, error.reason)
            continue
        if isinstance(expanded, str | Path | _PathList):
            for path in expanded if isinstance(expanded, _PathList) else [expanded]:
                yield from iter_file(path, order_disordered=order_disordered)
        else:
            yield from _of_object(str(i), expanded, order_disordered)


def _of_named(named: Iterable[tuple[object, object]], order_disordered: OrderDisordered) -> Iterator[StructureRecord]:
    for key, entry in named:
        name = str(key)
        if isinstance(entry, str | Path):
            for record in iter_file(entry, order_disordered=order_disordered):
                yield record._replace(id=name + record.id[len(structure_id(entry)) :])
        else:
            yield from _of_object(name, entry, order_disordered)


def _of_object(name: str, obj: object, order_disordered: OrderDisordered) -> Iterator[StructureRecord]:
    try:
        structures = _converted(obj, order_disordered, MEMORY)
    except StructureError as error:
        yield StructureRecord(name, MEMORY, None, error.reason)
        return
    for k, atoms in enumerate(structures):
        reason = validation_error(atoms)
        each = name if len(structures) == 1 else f"{name}:{k}"
        yield StructureRecord(each, MEMORY, None if reason else atoms, reason)


def _unique(records: Iterable[StructureRecord], paths: Iterable[Path]) -> Iterator[StructureRecord]:
    """The records, each under a name of its own; `paths` are the files that are known beforehand."""
    return map(UniqueIds(paths).check, records)


def _known_paths(entries: Iterable[object]) -> Iterator[Path]:
    for entry in entries:
        if isinstance(entry, _PathList):
            yield from entry
        elif isinstance(entry, str | Path):
            yield Path(entry)


class UniqueIds:
    """The names used so far, so that none is used twice whoever read the files.

    Files of one name in different folders are told apart by their folders: ``001_final`` and ``002_final``. Keeps 64
    bits a name and, of its sources, only the text: about 200 bytes a file.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._sources: dict[int, str] = {}
        self._ids: dict[str, str] = {}  # by source, where its name is that of another file
        self.expect(paths)

    def expect(self, paths: Iterable[Path]) -> None:
        """Give those of the files to come that have one name the names of their folders, the first of them too."""
        paths = paths if isinstance(paths, list | tuple) else list(paths)
        seen: set[int] = set()
        twice: set[int] = set()
        hashes = [hash(structure_id(path)) for path in paths]
        for key in hashes:
            (twice if key in seen else seen).add(key)
        groups: dict[str, list[Path]] = {}
        if twice:
            for key, path in zip(hashes, paths, strict=True):
                if key in twice and suffix_of(path.name) != PACKED_SUFFIX:
                    groups.setdefault(structure_id(path), []).append(path)
        for stem, same in groups.items():
            for source, name in _ids_by_folder(stem, same).items():
                self._ids.setdefault(source, name)

    def check(self, record: StructureRecord) -> StructureRecord:
        """The record, under the name of its folder or with an error if its name was used before."""
        if record.source in self._ids:
            rest = record.id[len(structure_id(record.source)) :]
            record = record._replace(id=self._ids[record.source] + rest)
        first = self._sources.setdefault(hash(record.id), record.source)
        if first is record.source:
            return record
        # setdefault returns the very object that it stored: anything else was there before
        path, other = Path(record.source), Path(first)
        if MEMORY not in (record.source, first) and path.resolve().parent != other.resolve().parent:
            parts = _folders(path)
            for depth in range(1, len(parts) + 1):
                name = "_".join((*parts[-depth:], record.id))
                if hash(name) not in self._sources:
                    self._sources[hash(name)] = record.source
                    return record._replace(id=name)
        reason = f"the name {record.id!r} is used twice: by {first} and {record.source}; rename one"
        return record._replace(atoms=None, error=reason)


def _folders(path: Path) -> tuple[str, ...]:
    """The folders of a file that its name does not hold already, from the root."""
    folder = path.resolve().parent
    if structure_id(path) != structure_id(path.name):  # of a bare POSCAR it does
        folder = folder.parent
    return folder.parts[1:]


def _ids_by_folder(stem: str, paths: Sequence[Path]) -> dict[str, str]:
    """Names of files of one name, by as many of their folders as tell them apart; none if they are in one folder."""
    folders = {str(path): _folders(path) for path in paths}
    different = set(folders.values())
    if len(different) == 1:
        return {}
    depth = next(
        n for n in range(1, max(map(len, different)) + 1) if len({f[-n:] for f in different}) == len(different)
    )
    return {source: "_".join((*parts[-depth:], stem)) for source, parts in folders.items()}


class PackedWorkItem(NamedTuple):
    """Some rows of a packed file."""

    source: str
    rows: PackedStructures


WorkItem = Path | PackedWorkItem


def count_structures(paths: Iterable[Path]) -> int:
    """How many structures there are at least: those of packed files, and one for each other file."""
    return sum(count_packed(path) if suffix_of(path.name) == PACKED_SUFFIX else 1 for path in paths)


def iter_pieces(paths: Iterable[Path], size: int) -> Iterator[list[WorkItem]]:
    """The pieces of files in order, in lists of about `size` structures; a packed file is loaded when it is reached.

    One that cannot be read is a piece as a whole: `iter_piece` says what is wrong with it.
    """
    files: list[WorkItem] = []
    for path in paths:
        if suffix_of(path.name) == PACKED_SUFFIX and (packed := _loaded(path)) is not None:
            if files:
                yield files
                files = []
            for start in range(0, len(packed.ids), size):
                yield [PackedWorkItem(str(path), packed.rows(start, start + size))]
            continue
        files.append(path)
        if len(files) == size:
            yield files
            files = []
    if files:
        yield files


def iter_piece(piece: WorkItem, *, order_disordered: OrderDisordered = False) -> Iterator[StructureRecord]:
    """The structures of a piece, as `iter_file` gives them."""
    if isinstance(piece, Path):
        return iter_file(piece, order_disordered=order_disordered)
    return (record_of(name, piece.source, atoms) for name, atoms in piece.rows.atoms())


def _loaded(path: Path) -> PackedStructures | None:
    try:
        return load_packed(path, check_rows=False)
    except (StructureError, OSError):
        return None

"""Structure files by suffix, and reading one of them: the boundary where readers' errors become words."""

import gzip
import json
import logging
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.elements import symbols
from cgcnn_ase.structures import cif
from cgcnn_ase.structures.cif_text import blocks_with_atoms
from cgcnn_ase.structures.cif_values import (
    Contents,
    PartialOccupancyError,
    UncertainError,
    contents_problem,
    element_words,
)
from cgcnn_ase.structures.dft_text import read_poscar
from cgcnn_ase.structures.disorder import (
    all_from_pymatgen,
    crystal_of_atoms,
    crystal_of_cif,
    crystal_of_json,
    has_mixtures,
    partial_occupancies,
    read_cif_pymatgen,
    read_disordered_block,
)
from cgcnn_ase.structures.ordering import DisorderedCrystal, OrderDisordered
from cgcnn_ase.structures.packed import load_packed
from cgcnn_ase.structures.record import (
    ASE_FORMATS,
    CIF_SUFFIXES,
    PACKED_SUFFIX,
    SHELX_SUFFIXES,
    VASP_SUFFIXES,
    XYZ_SUFFIXES,
    RefusedError,
    StructureError,
    StructureRecord,
    allowed,
    head_of,
    is_zipped,
    one_line,
    refuse_no_text,
    structure_id,
    suffix_of,
    text_of,
    without_reader_warnings,
)
from cgcnn_ase.structures.shelx import shelx_block
from cgcnn_ase.structures.validation import validation_error

if TYPE_CHECKING:
    from ase import Atoms
    from gemmi import cif as gemmi_cif

_log = logging.getLogger(__name__)


class Item(NamedTuple):
    """One structure of a file, or the reason there is none."""

    name: str  # within the file
    entry: "Atoms | str"  # it, or the reason there is none
    site_names: Callable[[], list[str]] | None = None  # what the file calls the atoms, for messages
    notes: tuple[str, ...] = ()  # what was left out or taken as something else
    valid: bool = False  # checked already


@cache
def reader_errors() -> tuple[type[Exception], ...]:
    """Errors of readers on a bad file; anything else is a bug and shows as one.

    ASE's own are imported here, when something has been raised, to keep the import of this module light.
    """
    from ase.io import ParseError
    from ase.io.formats import UnknownFileTypeError

    general = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, SyntaxError)
    system = (OSError, EOFError, RuntimeError, MemoryError, StopIteration, sqlite3.Error, zlib.error)
    return (*general, *system, ParseError, UnknownFileTypeError)


def read_file(path: str | Path, *, order_disordered: OrderDisordered = False) -> list[StructureRecord]:
    """Every structure of one file, at least one; the record of one that could not be read holds the reason."""
    return list(iter_file(path, order_disordered=order_disordered))


def iter_file(path: str | Path, *, order_disordered: OrderDisordered = False) -> Iterator[StructureRecord]:
    """As `read_file`, one at a time: trajectories and databases are never held in memory whole."""
    if isinstance(path, str):
        path = Path(path)
    source, stem = str(path), structure_id(path)
    items = _items(path, source, order_disordered)
    held = next(items, None)
    if held is None:
        yield StructureRecord(stem, source, None, "has no structures")
        return
    suffix = suffix_of(path.name)
    if suffix == PACKED_SUFFIX and not isinstance(held.entry, str):
        for item in chain([held], items):
            yield record_of(item.name, source, item.entry)
        return
    following = next(items, None)
    if following is None and suffix != ".db":
        yield _noted(stem, source, held)
        return
    while held is not None:
        yield _noted(f"{stem}:{held.name}", source, held)
        held, following = following, next(items, None)


def _noted(name: str, source: str, item: Item) -> StructureRecord:
    """The record of an item; what was left out of a structure that is used is said on the log."""
    if item.valid and not isinstance(item.entry, str):
        record = StructureRecord(name, source, item.entry, None)
    else:
        record = record_of(name, source, item.entry, item.site_names)
    if record.error is None:
        for note in dict.fromkeys(item.notes):
            _log.warning("%s: %s", source, note)
    return record


def record_of(
    name: str, source: str, atoms: "Atoms | str", site_names: Callable[[], list[str]] | None = None
) -> StructureRecord:
    """A structure as it was read, checked, or what is wrong with it; `site_names` gives its atoms' names for that."""
    if isinstance(atoms, str):
        return StructureRecord(name, source, None, atoms)
    if atoms.calc is not None:  # energies and the like of the file stay, as plain values
        results = atoms.calc.results
        atoms.info = {**{key: value for key, value in results.items() if np.isscalar(value)}, **atoms.info}
        atoms.calc = None
    reason = validation_error(atoms, site_names)
    return StructureRecord(name, source, None if reason else atoms, reason)


def _items(path: Path, source: str, order_disordered: OrderDisordered) -> Iterator[Item]:
    """The structures of a file with what went wrong as words: the one place where readers' errors are caught."""
    reader = _READERS.get(suffix_of(path.name))
    if reader is None:
        yield Item("0", f"has an unknown suffix; known are {allowed()}")
        return
    done = 0
    try:
        for item in reader(source, order_disordered):
            yield item
            done += 1
    except reader_errors() as error:
        yield Item(str(done), error_message(error))


def error_message(error: BaseException) -> str:
    """The meaning of a reader's error, on one line."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a file"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    if isinstance(error, StructureError):
        return error.reason
    if isinstance(error, UnicodeDecodeError):
        return "is binary, not text"
    if isinstance(error, (gzip.BadGzipFile, zlib.error, EOFError)):
        return f"is cut off or not compressed by gzip ({one_line(error)})" if str(error) else "is cut off"
    notes = one_line(error)
    if isinstance(error, RefusedError):
        return notes
    if isinstance(error, KeyError) and error.args in (("D",), ("T",)):
        return element_words(error.args[0])
    if isinstance(error, KeyError) and " " not in notes:
        return f"cannot be read: {notes} is missing or unknown"
    word = re.search(r"could not convert string to float: (.+)|invalid literal for int\(\) with base 10: (.+)", notes)
    if word is not None:
        return f"cannot be read: {word[1] or word[2]} stands where a number is needed"
    # what a reader says of itself, in the words of Python, helps nobody
    if len(notes.split()) < 3 or _OF_PYTHON.search(notes):
        return "cannot be read: it does not follow the format that its name stands for, or was cut off"
    return f"cannot be read ({notes})"


_OF_PYTHON = re.compile(
    r"object|broadcast|unpack|index|iterable|subscript|argument|attribute|operand|NoneType|array|slice|dtype|callable|"
    r"Tried files|sequence|integer division|tuple|assert"
)


def _read_cif(source: str, order_disordered: OrderDisordered) -> Iterator[Item]:
    blocks, rare, notes = blocks_with_atoms(text_of(source))
    for i, block in enumerate(blocks):
        try:
            crystals = read_cif_block(block, rare=rare, order_disordered=order_disordered, source=source)
        except reader_errors() as error:  # noqa: PERF203 - one bad entry never costs the others
            yield Item(str(i), error_message(error))
        else:
            yield from _labelled(i, len(blocks), crystals, notes if i == 0 else ())


def _labelled(entry: int, n_entries: int, crystals: Sequence[cif.Crystal], notes: Sequence[str] = ()) -> Iterator[Item]:
    """The structures that one entry of a file gives, several where several orderings are asked for."""
    for k, crystal in enumerate(crystals):
        name = str(entry) if len(crystals) == 1 else str(k) if n_entries == 1 else f"{entry}-{k}"
        yield Item(name, crystal.atoms, crystal.site_names, (*notes, *crystal.notes), crystal.valid)


def read_cif_block(
    block: "gemmi_cif.Block", *, rare: bool = True, order_disordered: OrderDisordered = False, source: str = ""
) -> list[cif.Crystal]:
    """One block of a CIF: by gemmi, by pymatgen where gemmi cannot be certain.

    Several structures where several orderings of partially occupied sites are asked for. A block that is wrong is a
    `ValueError`, in words.
    """
    try:
        return [cif.read_block(block, rare=rare)]
    except PartialOccupancyError:
        if not order_disordered:
            raise
        return _crystals(read_disordered_block(block, order_disordered, source))
    except UncertainError:
        if has_mixtures(block):
            if not order_disordered:
                raise partial_occupancies(block) from None
            return _crystals(read_disordered_block(block, order_disordered, source))
        text = cif.with_operations(block, rare=rare)
        structures = read_cif_pymatgen(text, order_disordered=order_disordered, source=source)
        reason = contents_problem(Contents(block, symmetric=True), structures[0])
        if reason is not None and not order_disordered:
            raise RefusedError(reason) from None
        return _crystals(structures if order_disordered else structures[:1])


def _crystals(structures: "Sequence[Atoms]") -> list[cif.Crystal]:
    return [cif.Crystal(atoms, None) for atoms in structures]


def read_crystal(path: str | Path) -> DisorderedCrystal:
    """The one crystal of a file as sites with their occupants, of which there may be several or fewer than one.

    A file that cannot be read, or holds several structures, is a `StructureError`.
    """
    path = Path(path)
    try:
        suffix, block = suffix_of(path.name), None
        if suffix in CIF_SUFFIXES:
            blocks = blocks_with_atoms(text_of(str(path))).blocks
            if len(blocks) > 1:
                raise RefusedError(f"holds {len(blocks)} structures; give a file of one")
            block = blocks[0]
        if suffix in SHELX_SUFFIXES:
            block = shelx_block(text_of(str(path)))[0]
        if block is not None:
            return crystal_of_cif(block)
        if suffix == ".json":
            return crystal_of_json(json.loads(text_of(str(path))))
    except reader_errors() as error:
        raise StructureError(str(path), error_message(error)) from error
    records = read_file(path)
    if len(records) > 1:
        raise StructureError(str(path), f"holds {len(records)} structures; give a file of one")
    return crystal_of_atoms(records[0].unwrap())


def _read_vasp(source: str, _: OrderDisordered) -> Iterator[Item]:
    yield Item("0", read_poscar(text_of(source), source))


def _read_shelx(source: str, order_disordered: OrderDisordered) -> Iterator[Item]:
    block, title = shelx_block(text_of(source))
    crystals = read_cif_block(block, rare=False, order_disordered=order_disordered, source=source)
    for crystal in crystals:
        crystal.atoms.info.update(title)
    yield from _labelled(0, 1, crystals)


def _read_xyz(source: str, _: OrderDisordered) -> Iterator[Item]:
    """All frames; a frame that cannot be read costs itself only."""
    refuse_no_text(head_of(source))
    with (gzip.open if is_zipped(source) else open)(source, "rt", encoding="utf-8") as file:
        yield from _frames(file) if (plain := _plain_frame(file)) is None else [Item("0", plain)]


_PLAIN = re.compile(r'Lattice="((?:-?[\d.]+ ){8}-?[\d.]+)" Properties=species:S:1:pos:R:3 pbc="([TF] [TF] [TF])"')


def _plain_frame(file: IO[str]) -> "Atoms | None":
    """The only frame, of elements and positions alone, without ASE's readers, which take 0.3 s to import; or None."""
    from ase import Atoms

    with suppress(ValueError):
        n, match = int(file.readline()), _PLAIN.fullmatch(file.readline().strip())
        rows = [file.readline().split() for _ in range(n if match else 0)]
        if match and rows and not file.read(1) and all(len(row) == 4 and row[0] in symbols()[1:] for row in rows):
            positions = np.array([row[1:] for row in rows], dtype=float)
            cell, pbc = np.array(match[1].split(), dtype=float).reshape(3, 3), [c == "T" for c in match[2].split()]
            return Atoms([row[0] for row in rows], positions, cell=cell, pbc=pbc)
    return None


def _frames(file: IO[str]) -> Iterator[Item]:
    from ase.io.extxyz import read_xyz

    start = 0
    while True:
        file.seek(0)
        frames = read_xyz(file, index=slice(start, None))
        try:
            while True:
                with without_reader_warnings():
                    atoms = next(frames, None)
                if atoms is None:
                    return
                yield Item(str(start), atoms)
                start += 1
        except OSError:
            raise  # the file as a whole: wrong counts of lines
        except (ValueError, LookupError, TypeError, AssertionError, AttributeError) as error:
            yield Item(str(start), error_message(error))
            start += 1


def _read_db(source: str, _: OrderDisordered) -> Iterator[Item]:
    """The rows of an ASE database, SQLite or JSON."""
    from ase.db import connect

    head = head_of(source)
    kind = "db" if head.startswith(b"SQLite format 3") else "json"
    if kind == "json" and not head.lstrip().startswith(b"{"):
        raise RefusedError("is not an ASE database")
    with connect(source, type=kind, use_lock_file=False) as database:
        for row in database.select():
            atoms = row.toatoms()
            atoms.info.update(row.key_value_pairs)
            yield Item(str(row.id), atoms)


def _read_json(source: str, order_disordered: OrderDisordered) -> Iterator[Item]:
    """The ``as_dict`` of a pymatgen structure or molecule, a list of them, or an ASE database."""
    from pymatgen.core import Molecule, Structure

    content = json.loads(text_of(source))
    if isinstance(content, dict) and "ids" in content and "nextid" in content:
        yield from _read_db(source, order_disordered)
        return
    entries = content if isinstance(content, list) else [content]
    if not entries:
        raise RefusedError("has no structures")
    for i, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict) or "sites" not in entry:
                raise RefusedError("is JSON, but neither a pymatgen structure (or a list of them) nor an ASE database")
            with without_reader_warnings():
                result = Structure.from_dict(entry) if "lattice" in entry else Molecule.from_dict(entry)
            orderings = all_from_pymatgen(result, order_disordered=order_disordered, source=source)
        except reader_errors() as error:  # noqa: PERF203 - one bad entry never costs the others
            yield Item(str(i), error_message(error))
        else:
            yield from _labelled(i, len(entries), _crystals(orderings))


def _read_packed(source: str, _: OrderDisordered) -> Iterator[Item]:
    head_of(source)
    for name, atoms in load_packed(source, check_rows=False).atoms():
        yield Item(name, atoms)


def _read_ase(source: str, _: OrderDisordered) -> Iterator[Item]:
    from ase.io import iread

    head_of(source)
    path = Path(source)
    kind = "aims" if path.name.lower() == "geometry.in" else ASE_FORMATS[path.suffix.lower()]
    with without_reader_warnings():
        for i, atoms in enumerate(iread(source, format=kind)):
            yield Item(str(i), atoms)


_READERS: dict[str, Callable[[str, OrderDisordered], Iterator[Item]]] = {
    **dict.fromkeys(CIF_SUFFIXES, _read_cif),
    **dict.fromkeys(VASP_SUFFIXES, _read_vasp),
    **dict.fromkeys(XYZ_SUFFIXES, _read_xyz),
    **dict.fromkeys(SHELX_SUFFIXES, _read_shelx),
    **dict.fromkeys(ASE_FORMATS, _read_ase),
    ".db": _read_db,
    ".json": _read_json,
    PACKED_SUFFIX: _read_packed,
}

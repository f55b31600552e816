"""Structure files by suffix, and reading one of them: the boundary where readers' errors become words."""

import gzip
import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from cgcnn_ase.structures import cif
from cgcnn_ase.structures.cif_values import ContradictedError, PartialOccupancyError, UncertainError, element_words
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
from cgcnn_ase.structures.packed import PACKED_SUFFIX, load_packed
from cgcnn_ase.structures.record import (
    RefusedError,
    StructureError,
    StructureRecord,
    one_line,
    without_reader_warnings,
)
from cgcnn_ase.structures.validation import validation_error

if TYPE_CHECKING:
    from ase import Atoms
    from gemmi import cif as gemmi_cif

# what one structure of a file turned out to be: its label within the file, and it or the reason there is none
Item = tuple[str, "Atoms | str"]

# suffixes by what reads them; a trailing ``.gz`` is allowed for the first three and JSON
CIF_SUFFIXES = (".cif", ".mcif")
VASP_SUFFIXES = (".vasp", ".poscar", ".contcar")
XYZ_SUFFIXES = (".extxyz", ".xyz")
# suffix -> the name of the format in ASE
ASE_FORMATS = {
    ".traj": "traj",
    ".gen": "gen",
    ".xsf": "xsf",
    ".res": "res",
    ".in": "espresso-in",
    ".pwi": "espresso-in",
}
SUFFIXES = (*CIF_SUFFIXES, *VASP_SUFFIXES, *XYZ_SUFFIXES, ".db", ".json", PACKED_SUFFIX, *ASE_FORMATS)
# files of these names are VASP's, whatever their suffix
VASP_NAMES = ("POSCAR", "CONTCAR")


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


def allowed() -> str:
    """The file names that are read, in words."""
    return f"{', '.join(SUFFIXES)} (also .cif.gz, .vasp.gz, .xyz.gz, .json.gz) and POSCAR*, CONTCAR*"


def suffix_of(name: str) -> str:
    """The known suffix of a file name in lower case (``.vasp`` for POSCAR and CONTCAR); empty if it is not known.

    >>> suffix_of("LiNiO2.CIF"), suffix_of("CONTCAR_2"), suffix_of("a.cif.gz"), suffix_of("notes.txt")
    ('.cif', '.vasp', '.cif', '')
    """
    lower = name.lower()
    packed = lower.endswith(".gz")
    if packed:
        lower = lower[:-3]
    dot = lower.rfind(".")
    suffix = lower[dot:] if dot > 0 else ""
    if suffix in SUFFIXES and not (packed and (suffix in ASE_FORMATS or suffix in (".db", PACKED_SUFFIX))):
        return suffix
    return ".vasp" if name.startswith(VASP_NAMES) else ""


def structure_id(path: str | Path) -> str:
    """The name of the structure in a file: its stem. A bare POSCAR or CONTCAR is told apart by its folder.

    >>> structure_id("hosts/LiNiO2.cif"), structure_id("LiNiO2/CONTCAR"), structure_id("POSCAR")
    ('LiNiO2', 'LiNiO2_CONTCAR', 'POSCAR')
    """
    if isinstance(path, str):
        path = Path(path)
    name = path.name
    if name[-3:].lower() == ".gz":
        name = name[:-3]
    if name.startswith(VASP_NAMES) and not name.lower().endswith(VASP_SUFFIXES):
        folder = path.parent.name
        return f"{folder}_{name}" if name in VASP_NAMES and folder else name
    return name.rpartition(".")[0] or name


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
    if suffix == PACKED_SUFFIX and not isinstance(held[1], str):
        for name, entry in chain([held], items):
            yield record_of(name, source, entry)
        return
    following = next(items, None)
    if following is None and suffix != ".db":
        yield record_of(stem, source, held[1])
        return
    while held is not None:
        yield record_of(f"{stem}:{held[0]}", source, held[1])
        held, following = following, next(items, None)


def record_of(name: str, source: str, atoms: "Atoms | str") -> StructureRecord:
    """A structure as it was read, checked, or what is wrong with it."""
    if isinstance(atoms, str):
        return StructureRecord(name, source, None, atoms)
    if atoms.calc is not None:  # energies and the like of the file stay, as plain values
        results = atoms.calc.results
        atoms.info = {**{key: value for key, value in results.items() if np.isscalar(value)}, **atoms.info}
        atoms.calc = None
    reason = validation_error(atoms)
    return StructureRecord(name, source, None if reason else atoms, reason)


def _items(path: Path, source: str, order_disordered: OrderDisordered) -> Iterator[Item]:
    """The structures of a file with what went wrong as words: the one place where readers' errors are caught."""
    reader = _READERS.get(suffix_of(path.name))
    if reader is None:
        yield "0", f"has an unknown suffix; known are {allowed()}"
        return
    done = 0
    try:
        for item in reader(source, order_disordered):
            yield item
            done += 1
    except reader_errors() as error:
        yield str(done), error_message(error)


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
    return f"cannot be read ({type(error).__name__}: {notes})" if notes else f"cannot be read ({type(error).__name__})"


def _text(source: str) -> str:
    """The whole text of a file, unpacked."""
    data = gzip.decompress(Path(source).read_bytes()) if _zipped(source) else Path(source).read_bytes()
    _refuse_no_text(data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        control = sum(byte < 32 and byte not in b"\t\n\r\f" for byte in data[:4096])
        if control > 8:
            raise RefusedError("is binary, not text") from None
        return data.decode("latin-1")  # old files have accents in names of authors


def _refuse_no_text(data: bytes) -> None:
    if not data.strip():
        raise RefusedError("is empty")
    if b"\0" in data:
        raise RefusedError("is binary, not text")


def _zipped(source: str) -> bool:
    return source.lower().endswith(".gz")


def _head(source: str) -> bytes:
    """The first bytes of a file, unpacked, if there are any."""
    with gzip.open(source, "rb") if _zipped(source) else Path(source).open("rb") as file:
        head = file.read(4096)
    if not head:
        raise RefusedError("is empty")
    return head


def _read_cif(source: str, order_disordered: OrderDisordered) -> Iterator[Item]:
    blocks, rare = cif.blocks_with_atoms(_text(source))
    for i, block in enumerate(blocks):
        try:
            orderings = read_cif_block(block, rare=rare, order_disordered=order_disordered, source=source)
        except reader_errors() as error:  # noqa: PERF203 - one bad entry never costs the others
            yield str(i), error_message(error)
        else:
            yield from _labelled(i, len(blocks), orderings)


def _labelled(entry: int, n_entries: int, orderings: "Sequence[Atoms]") -> Iterator[Item]:
    """The structures that one entry of a file gives, several where several orderings are asked for."""
    for k, atoms in enumerate(orderings):
        if len(orderings) == 1:
            yield str(entry), atoms
        else:
            yield str(k) if n_entries == 1 else f"{entry}-{k}", atoms


def read_cif_block(
    block: "gemmi_cif.Block", *, rare: bool = True, order_disordered: OrderDisordered = False, source: str = ""
) -> "list[Atoms]":
    """One block of a CIF: by gemmi, by pymatgen where gemmi cannot be certain.

    Several structures where several orderings of partially occupied sites are asked for. A block that is wrong is a
    `ValueError`, in words.
    """
    try:
        return [cif.read_block(block, rare=rare)]
    except PartialOccupancyError:
        if not order_disordered:
            raise
        return read_disordered_block(block, order_disordered, source)
    except UncertainError as doubt:
        if has_mixtures(block):
            if not order_disordered:
                raise partial_occupancies(block) from None
            return read_disordered_block(block, order_disordered, source)
        structures = read_cif_pymatgen(block.as_string(), order_disordered=order_disordered, source=source)
        doubtful = isinstance(doubt, ContradictedError)
        reason = cif.block_formula_problem(block, structures[0].numbers, symmetric=True, doubtful=doubtful)
        if reason is not None and not order_disordered:
            raise RefusedError(reason) from None
        return structures if order_disordered else structures[:1]


def read_crystal(path: str | Path) -> DisorderedCrystal:
    """The one crystal of a file as sites with their occupants, of which there may be several or fewer than one.

    A file that cannot be read, or holds several structures, is a `StructureError`.
    """
    path = Path(path)
    try:
        if suffix_of(path.name) in CIF_SUFFIXES:
            blocks, _ = cif.blocks_with_atoms(_text(str(path)))
            if len(blocks) > 1:
                raise RefusedError(f"holds {len(blocks)} structures; give a file of one")
            return crystal_of_cif(blocks[0])
        if suffix_of(path.name) == ".json":
            return crystal_of_json(json.loads(_text(str(path))))
    except reader_errors() as error:
        raise StructureError(str(path), error_message(error)) from error
    records = read_file(path)
    if len(records) > 1:
        raise StructureError(str(path), f"holds {len(records)} structures; give a file of one")
    return crystal_of_atoms(records[0].unwrap())


def _read_vasp(source: str, _: OrderDisordered) -> Iterator[Item]:
    from io import StringIO

    from ase.io.vasp import read_vasp

    file = StringIO(_text(source))
    file.name = source  # where a file of VASP 4 names no elements, ASE looks for a POTCAR beside it
    with without_reader_warnings():
        atoms = read_vasp(file)
    atoms.set_constraint()
    yield "0", atoms


def _read_xyz(source: str, _: OrderDisordered) -> Iterator[Item]:
    """All frames; a frame that cannot be read costs itself only."""
    _refuse_no_text(_head(source))
    with gzip.open(source, "rt", encoding="utf-8") if _zipped(source) else Path(source).open(encoding="utf-8") as file:
        yield from _frames(file)


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
                yield str(start), atoms
                start += 1
        except OSError:
            raise  # the file as a whole: wrong counts of lines
        except (ValueError, LookupError, TypeError, AssertionError, AttributeError) as error:
            yield str(start), error_message(error)
            start += 1


def _read_db(source: str, _: OrderDisordered) -> Iterator[Item]:
    """The rows of an ASE database, SQLite or JSON."""
    from ase.db import connect

    head = _head(source)
    kind = "db" if head.startswith(b"SQLite format 3") else "json"
    if kind == "json" and not head.lstrip().startswith(b"{"):
        raise RefusedError("is not an ASE database")
    with connect(source, type=kind, use_lock_file=False) as database:
        for row in database.select():
            atoms = row.toatoms()
            atoms.info.update(row.key_value_pairs)
            yield str(row.id), atoms


def _read_json(source: str, order_disordered: OrderDisordered) -> Iterator[Item]:
    """The ``as_dict`` of a pymatgen structure or molecule, a list of them, or an ASE database."""
    from pymatgen.core import Molecule, Structure

    content = json.loads(_text(source))
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
            yield str(i), error_message(error)
        else:
            yield from _labelled(i, len(entries), orderings)


def _read_packed(source: str, _: OrderDisordered) -> Iterator[Item]:
    _head(source)
    yield from load_packed(source, check_rows=False).atoms()


def _read_ase(source: str, _: OrderDisordered) -> Iterator[Item]:
    from ase.io import iread

    _head(source)
    path = Path(source)
    kind = "aims" if path.name.lower() == "geometry.in" else ASE_FORMATS[path.suffix.lower()]
    with without_reader_warnings():
        for i, atoms in enumerate(iread(source, format=kind)):
            yield str(i), atoms


_READERS: dict[str, Callable[[str, OrderDisordered], Iterator[Item]]] = {
    **dict.fromkeys(CIF_SUFFIXES, _read_cif),
    **dict.fromkeys(VASP_SUFFIXES, _read_vasp),
    **dict.fromkeys(XYZ_SUFFIXES, _read_xyz),
    **dict.fromkeys(ASE_FORMATS, _read_ase),
    ".db": _read_db,
    ".json": _read_json,
    PACKED_SUFFIX: _read_packed,
}

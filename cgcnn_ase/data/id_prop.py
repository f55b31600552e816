"""Read ``id_prop.csv`` and the structure files in its folder."""

import csv as csv_module
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.parallel import available_cores
from cgcnn_ase.graphs.crystal_graph import Geometry, LazyStructures, geometry
from cgcnn_ase.structures.readers import read_file
from cgcnn_ase.structures.record import SUFFIXES, structure_id, suffix_of

_log = logging.getLogger(__name__)

# more structure files than this are read in parallel
PARALLEL_ABOVE = 500

_LISTED = 10
# the older projects keep their element table beside the structures
_NO_STRUCTURES = ("atom_init.json",)
# what the columns after the id are called where there is no header
_UNNAMED = ("target", "label")


class IdProp(NamedTuple):
    """The samples of an ``id_prop.csv``."""

    ids: list[str]
    names: list[str]  # of the columns after the id
    cells: list[list[str]]  # of these columns, as text, sample by sample
    labels: Floats  # (n, T) of the columns to learn
    structures: LazyStructures  # asking for one raises DatasetError with all that cannot be read and why


class _Row(NamedTuple):
    number: int  # line in the file, from 1
    cells: list[str]


def read_id_prop(csv: Path, target: str | Sequence[str] | None = None) -> IdProp:
    """Ids, labels and structures that an ``id_prop.csv`` names; structures are read when they are asked for.

    Its rows are id, target and possibly more columns, under a header or without one. The structure of an id is the file
    of that name, or of that name and any suffix that is read, in the same folder. The columns to learn are by default
    the second, which must then be the only one but for a label in the third. Where there is no header the columns are
    called ``target`` and ``label``. With several columns a cell may be empty, not all of a row.

    A `DatasetError` is raised if the file is empty or has no such column; or with all rows that cannot be used and why,
    those among them whose structure cannot be read.
    """
    files = _files_by_name(csv.parent)
    rows, names, has_header = _table(csv, files)
    _check_names(names, csv)
    asked = [target] if target is None or isinstance(target, str) else list(target)
    columns = [_column(names, name, csv, has_header=has_header) for name in asked]
    others = [name for k, name in enumerate(names) if k and k not in columns]
    if columns and others:
        _mention_others(csv, ", ".join(names[k] for k in columns), ", ".join(others))
    problems: dict[int, str] = {}
    usable: list[_Row] = []
    labels: list[tuple[float, ...]] = []
    paths: dict[int, Path] = {}
    row_of_file: dict[Path, int] = {}
    for row in rows:
        try:
            if len(row.cells) != len(names):
                raise ValueError(f"has {len(row.cells)} columns, not {len(names)}")
            path = _file_of(row.cells[0], files, csv.parent)
            if path in row_of_file:
                raise ValueError(f"id {row.cells[0]!r} repeats that of row {row_of_file[path]}")
            row_of_file[path] = row.number
            labels.append(_labels(row.cells, columns, names))
            usable.append(row)
            paths[row.number] = path
        except ValueError as error:  # noqa: PERF203  every bad row is reported, not the first
            problems[row.number] = str(error)
    structures = LazyStructures(len(usable), lambda: _structures(csv, paths, problems))
    if problems:
        _structures(csv, paths, problems)
    return IdProp(
        ids=[row.cells[0] for row in usable],
        names=names[1:],
        cells=[row.cells[1:] for row in usable],
        labels=np.array(labels, dtype=float).reshape(len(usable), len(columns)),
        structures=structures,
    )


@cache
def _mention_others(csv: Path, learned: str, others: str) -> None:
    """Say once which columns of a label file are not looked at."""
    _log.warning("%s: %s is learned; not looked at: %s (name another column to learn that)", csv, learned, others)


def _structures(csv: Path, paths: dict[int, Path], problems: dict[int, str]) -> list[Geometry]:
    """The structure of each row; an error names all rows that cannot be used."""
    structures = []
    problems = dict(problems)
    for (number, path), structure in zip(paths.items(), _read_all(list(paths.values())), strict=True):
        if isinstance(structure, str):
            problems[number] = f"structure {path.name} {structure}"
        else:
            structures.append(structure)
    if problems:
        raise DatasetError(_report(csv, problems))
    return structures


def column_names(csv: Path) -> list[str]:
    """Names of the columns after the id; raises as :func:`read_id_prop` does."""
    _, names, _ = _table(csv, _files_by_name(csv.parent))
    return names[1:]


def _table(csv: Path, files: dict[str, list[Path]]) -> tuple[list[_Row], list[str], bool]:
    """The rows below the header, the names of the columns, and whether there is a header."""
    rows = _rows(csv)
    if not _is_header(rows[0].cells, files):
        width = len(rows[0].cells)
        names = ["id", *_UNNAMED[: width - 1], *(f"column {k}" for k in range(4, width + 1))]
        return rows, names, False
    _log.info("%s: row 1 is taken as the header: %s", csv, ", ".join(rows[0].cells))
    if len(rows) == 1:
        raise DatasetError(f"{csv}: there is a header and no row below it")
    return rows[1:], rows[0].cells, True


def _rows(csv: Path) -> list[_Row]:
    try:
        with csv.open(newline="", encoding="utf-8-sig") as file:
            reader = csv_module.reader(file, strict=True)
            rows = [_Row(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{csv}: is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    except (OSError, csv_module.Error) as error:
        raise DatasetError(f"{csv}: cannot be read ({error})") from error
    rows = [row for row in rows if any(row.cells)]
    if not rows:
        raise DatasetError(f"{csv}: the file is empty; a row is: id, target")
    return rows


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    """The structure files of a folder under their stems and their full names."""
    files = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if suffix_of(path.name) and path.name not in _NO_STRUCTURES:
            for name in {structure_id(path.name), path.name}:
                files[name].append(path)
    return files


def _is_header(cells: list[str], files: dict[str, list[Path]]) -> bool:
    """Names only: no number, no gap, and the first is not that of a structure."""
    return len(cells) > 1 and all(cells) and cells[0] not in files and not any(map(is_number, cells[1:]))


def is_number(text: str) -> bool:
    """Say whether a cell holds a number."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python reads 1_0 as 10


def _check_names(names: list[str], csv: Path) -> None:
    if len(set(names)) < len(names):
        raise DatasetError(f"{csv}: two columns of the header have the same name: {', '.join(names)}")
    if len(names) < 2:
        raise DatasetError(f"{csv}: row 1: {names[0]!r} is one column; a row is: id, target")


def _column(names: list[str], target: str | None, csv: Path, *, has_header: bool) -> int:
    allowed = ", ".join(names[1:])
    if target is None:
        if len(names) > 3:
            raise DatasetError(f"{csv}: name the column to learn; there are {allowed}")
        return 1
    if target not in names[1:]:
        where = "no column" if has_header else "there is no header, so no column"
        raise DatasetError(f"{csv}: {where} {target!r}; allowed: {allowed}")
    return names.index(target, 1)


def _file_of(name: str, files: dict[str, list[Path]], folder: Path) -> Path:
    if not name:
        raise ValueError("the id is empty")
    if suffix_of(name) and (folder / name).is_file():  # also in a folder below
        return folder / name
    paths = files.get(name, [])
    if not paths:
        raise ValueError(f"no structure {name!r} in {folder} (a file of this name with a suffix: {' '.join(SUFFIXES)})")
    if len(paths) > 1:
        raise ValueError(f"id {name!r} names {len(paths)} files: {', '.join(p.name for p in paths)}; give the suffix")
    return paths[0]


def _labels(cells: list[str], columns: list[int], names: list[str]) -> tuple[float, ...]:
    """The numbers in these columns; of several, NaN where the cell is empty."""
    if len(columns) > 1 and any(cells[k] for k in columns):
        return tuple(_finite_number(cells[k], names[k]) if cells[k] else math.nan for k in columns)
    return tuple(_finite_number(cells[k], names[k]) for k in columns)


def _finite_number(text: str, column: str) -> float:
    if not text:
        raise ValueError(f"{column} is empty")
    if not is_number(text):
        raise ValueError(f"{column} {text!r} is not a number")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{column} {text!r} is not finite")
    return value


def _read_all(paths: list[Path]) -> Iterator[Geometry | str]:
    """Each file's structure, or the reason why there is none."""
    if len(paths) <= PARALLEL_ABOVE:
        yield from map(_read, paths)
        return
    with ProcessPoolExecutor(available_cores()) as pool:
        yield from pool.map(_read, paths, chunksize=64)


def _read(path: Path) -> Geometry | str:
    records = read_file(path)
    if len(records) > 1:
        return f"holds {len(records)} structures; give a file one"
    atoms, error = records[0].atoms, records[0].error
    return geometry(atoms) if atoms is not None else error or "holds no structure"


def _report(csv: Path, problems: dict[int, str]) -> str:
    lines = [f"row {number}: {problems[number]}" for number in sorted(problems)]
    if len(lines) == 1:
        return f"{csv}: {lines[0]}"
    more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return "\n  ".join([f"{csv}: {len(lines)} rows cannot be used:", *lines[:_LISTED], *more])

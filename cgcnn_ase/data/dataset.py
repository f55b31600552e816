"""Read data sets: packed npz folders and ``id_prop.csv`` folders become structures with a target each."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgcnn_ase.core.arrays import Floats, Ints, Strings
from cgcnn_ase.core.elements import MAX_NUMBER
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.formats import is_cgnn_folder, is_prepared
from cgcnn_ase.graphs.geometry import Geometry
from cgcnn_ase.structures.composition import formula_of

#: Å³ per atom; diamond has 5.7
_NO_VOLUME = 0.01


@dataclass(frozen=True)
class LabelledTable:
    """Structures with all that a data set says of them; row i of ``columns`` is structure i."""

    source: Path
    ids: list[str]
    structures: list[Geometry]
    columns: pd.DataFrame  #: numbers (NaN where there is none) and text (empty where there is none), without the id
    provenance: dict[str, Any] | None = None  #: what ``provenance.json`` beside the data says

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def numeric(self) -> list[str]:
        """Columns of numbers."""
        return [str(c) for c in self.columns if pd.api.types.is_numeric_dtype(self.columns[c])]

    def values(self, column: str) -> Floats:
        """A column of numbers, (n,), in its own unit; NaN where there is none.

        Raises
        ------
        DatasetError
            If there is no such column, or it holds text.
        """
        if column not in self.columns:
            raise DatasetError(f"{self.source}: no column {column!r}; allowed: {', '.join(self.numeric)}")
        if column not in self.numeric:
            raise DatasetError(f"{self.source}: column {column!r} holds text, not numbers")
        values = self.columns[column].to_numpy(dtype=float)
        return np.where(np.isfinite(values), values, np.nan)

    @cached_property
    def formulas(self) -> list[str]:
        """Reduced formulas, as ``LiNiO2``."""
        named: dict[str, str] = {}
        formulas = []
        for structure in self.structures:
            key = composition_key(structure.numbers)
            if key not in named:
                named[key] = formula_of(structure.numbers)
            formulas.append(named[key])
        return formulas

    @cached_property
    def n_atoms(self) -> Ints:
        """Atoms in each cell, (n,)."""
        return np.array([len(s.numbers) for s in self.structures], dtype=np.int64)

    @cached_property
    def volumes(self) -> Floats:
        """Volume per atom, Å³, (n,); NaN where a structure does not repeat in all directions."""
        return np.array([volume_per_atom(structure) for structure in self.structures])

    @cached_property
    def fractions(self) -> Floats:
        """Atomic fractions, (n, 101); column Z belongs to atomic number Z."""
        return atomic_fractions([s.numbers for s in self.structures])


def volume_per_atom(structure: Geometry) -> float:
    """Å³; NaN where a structure does not repeat in all directions."""
    return abs(float(np.linalg.det(structure.cell))) / len(structure.numbers) if structure.pbc.all() else np.nan


def atomic_fractions(numbers: "list[Ints]") -> Floats:
    """Atomic fractions of structures given by the atomic numbers of their atoms, (n, 101)."""
    counts = np.array([np.bincount(z, minlength=MAX_NUMBER + 1) for z in numbers], dtype=float)
    counts = counts.reshape(len(numbers), MAX_NUMBER + 1)
    fractions: Floats = counts / counts.sum(axis=1, keepdims=True)
    return fractions


def read_table(path: str | Path) -> LabelledTable:
    """Read a data set with all its columns.

    Parameters
    ----------
    path : path
        A folder with ``structures.npz`` and ``properties.csv(.gz)`` (packed), or one with ``id_prop.csv`` and the
        structure files that it names, or such a CSV file: what :func:`cgcnn_ase.data.dataset.load_dataset` reads.

    Raises
    ------
    DatasetError
        In words, if it is none of these, holds no structure, or a row of it cannot be read.
    """
    source = Path(path)
    if not source.exists():
        raise DatasetError(f"{source}: no such file or folder")
    if is_cgnn_folder(source) or is_prepared(source):
        raise DatasetError(f"{source}: holds graphs; to be inspected, a data set must hold structures")
    if (source / "structures.npz").exists():
        ids, structures, columns = _packed(source)
    else:
        ids, structures, columns = _id_prop(source)
    if not ids:
        raise DatasetError(f"{source}: holds no structures")
    return LabelledTable(source, ids, structures, columns, _provenance(source))


def _packed(folder: Path) -> tuple[list[str], list[Geometry], pd.DataFrame]:
    try:
        table, source = read_properties(folder)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, EOFError, OSError) as error:
        raise DatasetError(f"{folder}: its properties are not a table ({error})") from error
    try:
        ids, structures = read_packed(folder)
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
        raise DatasetError(
            f"{folder / 'structures.npz'}: is not a packed set of structures ({' '.join(str(error).split())})"
        ) from error
    check_rows(table, ids, source)
    for name, structure in zip(ids, structures, strict=True):
        if (reason := _problem(structure)) is not None:
            raise DatasetError(f"{folder / 'structures.npz'}: structure {name} {reason}")
    numeric = numeric_columns(table)
    columns = {str(c): table[c] if c in numeric else table[c].fillna("").astype(str) for c in table.columns[1:]}
    return [str(name) for name in ids], structures, pd.DataFrame(columns, index=range(len(ids)))


def _problem(structure: Geometry) -> str | None:
    """Why a packed structure is none; those of files were checked when they were read."""
    if not len(structure.numbers):
        return "has no atoms"
    if structure.numbers.min() < 1 or structure.numbers.max() > MAX_NUMBER:
        return f"has an atomic number that is not from 1 to {MAX_NUMBER}"
    if not (np.isfinite(structure.positions).all() and np.isfinite(structure.cell).all()):
        return "has a coordinate or a cell vector that is not a finite number"
    if structure.pbc.all() and volume_per_atom(structure) < _NO_VOLUME:
        return "is periodic but its cell has no volume"
    return None


def _id_prop(source: Path) -> tuple[list[str], list[Geometry], pd.DataFrame]:
    from cgcnn_ase.data.id_prop import is_number, read_cells
    from cgcnn_ase.structures.readers import suffix_of

    csv = csv_in(source)
    if suffix_of(csv.name):
        raise DatasetError(f"{csv}: is a file of structures; a data set is a folder with id_prop.csv or structures.npz")
    names, samples = read_cells(csv)
    columns: dict[str, Any] = {}
    for k, name in enumerate(names):
        cells = [row[k] for _, _, row in samples]
        numeric = any(cells) and all(is_number(cell) for cell in cells if cell)
        columns[name] = [float(cell) if cell else np.nan for cell in cells] if numeric else cells
    return (
        [name for name, _, _ in samples],
        [structure for _, structure, _ in samples],
        pd.DataFrame(columns, index=range(len(samples))),
    )


def _provenance(source: Path) -> dict[str, Any] | None:
    """What ``provenance.json`` says, None where there is none."""
    file = (source if source.is_dir() else source.parent) / "provenance.json"
    if not file.exists():
        return None
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{file}: not JSON: {error}") from error
    if not isinstance(result, dict):
        raise DatasetError(f"{file}: must hold values by name")
    return result


@dataclass(frozen=True)
class Dataset:
    """Structures, their targets, and the split each belongs to."""

    ids: list[str]
    structures: list[Geometry]
    targets: Floats  #: (n, T), each in its own unit; NaN where a structure has no label
    split: Strings | None  #: (n,) "train", "val" or "test"; None where the source has none
    formulas: list[str]  #: reduced formulas, what splits are grouped by

    def __len__(self) -> int:
        return len(self.ids)

    def hash_of(self, split: str) -> str:
        """sha256 of the ids and targets of one split, in order."""
        rows = np.arange(len(self)) if self.split is None else np.flatnonzero(self.split == split)
        return hash_of_samples([self.ids[k] for k in rows], self.targets[rows])


def hash_of_samples(ids: Sequence[str], targets: Floats) -> str:
    """sha256 of ids and targets, in order."""
    digest = hashlib.sha256()
    for name, row in zip(ids, targets, strict=True):
        values = ",".join(repr(float(value)) for value in row)
        digest.update(f"{name},{values}\n".encode())
    return digest.hexdigest()


def load_dataset(path: str | Path, *, target: str | Sequence[str] | None = None) -> Dataset:
    """Read a data set.

    Parameters
    ----------
    path : path
        A folder with ``structures.npz`` and ``properties.csv(.gz)`` (packed), or one with ``id_prop.csv`` and the
        structure files that it names, or such a CSV file.
    target : str or sequence of str, optional
        Column or columns to learn; needed where there are several. A structure may lack a label of some of several
        columns, not of all.

    Raises
    ------
    DatasetError
        In words, if anything in it cannot be used.
    """
    folder = Path(path)
    if not folder.exists():
        raise DatasetError(f"{folder}: no such file or folder")
    if (folder / "structures.npz").exists():
        return _load_packed(folder, target)
    return _load_id_prop(csv_in(folder), target)


def target_columns(path: str | Path) -> list[str]:
    """Columns of a data set that could be learned, in their order; raises as :func:`load_dataset` does."""
    folder = Path(path)
    if not folder.exists():
        raise DatasetError(f"{folder}: no such file or folder")
    if (folder / "structures.npz").exists():
        table, _ = read_properties(folder)
        return numeric_columns(table)
    from cgcnn_ase.data.id_prop import column_names

    return column_names(csv_in(folder))


def read_properties(folder: Path) -> tuple[pd.DataFrame, Path]:
    """The properties of a packed data set, and their file."""
    files = [folder / name for name in ("properties.csv.gz", "properties.csv") if (folder / name).exists()]
    if not files:
        raise DatasetError(f"{folder}: structures.npz has no properties.csv or properties.csv.gz beside it")
    return pd.read_csv(files[0], keep_default_na=False, na_values=[""], dtype={0: str}), files[0]


def csv_in(folder: Path) -> Path:
    """The id_prop.csv of a folder, or the file itself; raises DatasetError where there is none."""
    csv = folder / "id_prop.csv" if folder.is_dir() else folder
    if not csv.exists():
        raise DatasetError(f"{folder}: neither structures.npz nor id_prop.csv is in this folder")
    return csv


def numeric_columns(table: pd.DataFrame) -> list[str]:
    """The columns of numbers, but for the first, the id."""
    return [str(c) for c in table.columns[1:] if pd.api.types.is_numeric_dtype(table[c])]


def _load_packed(folder: Path, target: str | Sequence[str] | None) -> Dataset:
    table, source = read_properties(folder)
    named = [target] if target is None or isinstance(target, str) else list(target)
    columns = [_target_column(table, name, source) for name in named]
    ids, structures = read_packed(folder)
    check_rows(table, ids, source)
    values = table[columns].to_numpy(dtype=float)
    rows = np.flatnonzero(np.isfinite(values).any(axis=1))
    structures = [structures[i] for i in rows]
    kept = table.iloc[rows]
    formulas = (
        kept["reduced_formula"] if "reduced_formula" in kept else [composition_key(s.numbers) for s in structures]
    )
    return Dataset(
        ids=[str(ids[i]) for i in rows],
        structures=structures,
        targets=np.where(np.isfinite(values[rows]), values[rows], np.nan),
        split=kept["split"].to_numpy(dtype=str) if "split" in kept else None,
        formulas=[str(f) for f in formulas],
    )


def check_rows(table: pd.DataFrame, ids: Strings, source: Path) -> None:
    """Raise DatasetError where the properties are not those of these structures, row by row."""
    if len(table) != len(ids) or (table.iloc[:, 0].to_numpy() != ids).any():
        raise DatasetError(f"{source}: its rows are not the structures of structures.npz, in the same order")


def read_packed(folder: Path) -> tuple[Strings, list[Geometry]]:
    """Ids and structures of ``structures.npz``: lattice (n, 3, 3) in Å, offsets (n + 1), numbers, frac.

    Without ``pbc`` (n, 3) they repeat in all directions.
    """
    with np.load(folder / "structures.npz", allow_pickle=False) as packed:
        ids, lattice, offsets = packed["ids"].astype(str), packed["lattice"].astype(float), packed["offsets"]
        numbers, frac = packed["numbers"].astype(np.int64), packed["frac"].astype(float)
        pbc = packed["pbc"].astype(bool) if "pbc" in packed.files else np.ones((len(ids), 3), dtype=bool)
    return ids, [
        Geometry(numbers[a:b], frac[a:b] @ cell, cell, periodic)
        for cell, periodic, a, b in zip(lattice, pbc, offsets[:-1], offsets[1:], strict=True)
    ]


def _target_column(table: pd.DataFrame, target: str | None, source: Path) -> str:
    numeric = numeric_columns(table)
    if target is None and len(numeric) == 1:
        return numeric[0]
    if target is None:
        raise DatasetError(f"{source}: name the column to learn; there are {', '.join(numeric)}")
    if target not in table.columns:
        raise DatasetError(f"{source}: no column {target!r}; allowed: {', '.join(numeric)}")
    if target not in numeric:
        raise DatasetError(f"{source}: column {target!r} holds text, not numbers")
    return target


def _load_id_prop(csv: Path, target: str | Sequence[str] | None) -> Dataset:
    from cgcnn_ase.data.id_prop import read_id_prop

    rows = read_id_prop(csv, target)
    return Dataset(
        ids=[row.id for row in rows],
        structures=[row.structure for row in rows],
        targets=np.array([row.targets for row in rows]),
        split=None,
        formulas=[composition_key(row.structure.numbers) for row in rows],
    )


def composition_key(atomic_numbers: Ints) -> str:
    """A name that two structures share when their compositions are the same."""
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    counts //= np.gcd.reduce(counts)
    return "-".join(f"{z}:{n}" for z, n in zip(numbers, counts, strict=True))

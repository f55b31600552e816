"""A whole data set at once: every structure and every column, also rows that lack a label, and where it came from."""

import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cgcnn_ase.data.cgnn_folder import is_cgnn_folder
from cgcnn_ase.data.dataset import (
    check_rows,
    csv_in,
    numeric_columns,
    read_packed,
    read_properties,
    reduced_formula,
)
from cgcnn_ase.data.errors import DatasetError
from cgcnn_ase.data.formula import formula_of
from cgcnn_ase.data.prepared import is_prepared
from cgcnn_ase.elements import MAX_NUMBER
from cgcnn_ase.graphs.geometry import Geometry

Floats = npt.NDArray[np.float64]

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
            key = reduced_formula(structure.numbers)
            if key not in named:
                named[key] = formula_of(structure.numbers)
            formulas.append(named[key])
        return formulas

    @cached_property
    def n_atoms(self) -> npt.NDArray[np.int64]:
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


def atomic_fractions(numbers: "list[npt.NDArray[np.int64]]") -> Floats:
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
    from cgcnn_ase.structures.files import suffix_of

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
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{file}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{file}: must hold values by name")
    return found

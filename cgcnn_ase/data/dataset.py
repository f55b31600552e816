"""Data sets on disk, packed npz folders and ``id_prop.csv`` folders, as structures with labels."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgcnn_ase.core.arrays import Floats, Ints, Strings
from cgcnn_ase.core.elements import MAX_NUMBER, fetched_scale
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.calculations import ENERGY_UNITS, holds_calculations, read_calculations
from cgcnn_ase.data.id_prop import IdProp, column_names, is_number, read_id_prop
from cgcnn_ase.data.prepared import is_cgnn_folder, is_prepared
from cgcnn_ase.graphs.crystal_graph import Geometry, LazyStructures, geometry
from cgcnn_ase.structures.composition import composition_key, formula_of
from cgcnn_ase.structures.dft_outputs import Calculation
from cgcnn_ase.structures.packed import load_ids, load_packed
from cgcnn_ase.structures.record import StructureError, suffix_of

_PACKED = "structures.npz"
_FORMULA = "reduced_formula"


@dataclass(frozen=True)
class Dataset:
    """Structures with labels: labels and splits are there at once, structures are read when they are asked for."""

    ids: list[str]
    structures: Sequence[Geometry]
    targets: Floats  # (n, T) what is learned, each in its own unit; NaN where a structure has no label
    split: Strings | None = None  # (n,) "train", "val" or "test"; None where the source has none
    columns: pd.DataFrame = field(default_factory=pd.DataFrame)  # numbers (NaN: none) and text (empty: none), no id
    source: Path = Path("<memory>")
    provenance: Mapping[str, object] | None = None  # what ``provenance.json`` beside the data says
    # of finished calculations: each with its energy, and forces, stress and magnetic moments where the file states them
    calculations: Sequence[Calculation] | None = None
    labels_converged: bool = True  # False where a label is marked as not converged (AiiDA's protocol fast)
    scale: str | None = None  # of the energies to learn, by name, where the source states it

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Ints) -> "Dataset":
        """Some of the structures, in this order."""
        structures = self.structures
        return replace(
            self,
            ids=[self.ids[k] for k in rows],
            structures=LazyStructures(len(rows), lambda: [structures[k] for k in rows]),
            targets=self.targets[rows],
            split=None if self.split is None else self.split[rows],
            columns=self.columns.iloc[rows].reset_index(drop=True) if len(self.columns) else self.columns,
            calculations=None if self.calculations is None else [self.calculations[k] for k in rows],
        )

    def unit_of(self, column: str) -> str:
        """The unit of a column that was read with its unit, as energies of finished calculations; empty for others."""
        return "" if self.calculations is None else ENERGY_UNITS.get(column, "")

    def hash_of(self, split: str) -> str:
        """sha256 of the ids and targets of one split, in order."""
        rows = np.arange(len(self)) if self.split is None else np.flatnonzero(self.split == split)
        return hash_of_samples([self.ids[k] for k in rows], self.targets[rows])

    @property
    def numeric(self) -> list[str]:
        """Columns of numbers."""
        return _numeric(self.columns)

    def values(self, column: str) -> Floats:
        """A column of numbers, (n,), in its own unit, NaN where there is none; any other is a `DatasetError`."""
        _check_column(column, self.columns, self.source)
        values = self.columns[column].to_numpy(dtype=float)
        return np.where(np.isfinite(values), values, np.nan)

    @cached_property
    def groups(self) -> list[str]:
        """Names that a split keeps together: the reduced formula that the data set states, else the composition."""
        if _FORMULA in self.columns:
            return [str(formula) for formula in self.columns[_FORMULA]]
        return [composition_key(structure.numbers) for structure in self.structures]

    @cached_property
    def formulas(self) -> list[str]:
        """Reduced formulas of the structures, as ``LiNiO2``."""
        keys = [composition_key(structure.numbers) for structure in self.structures]
        names = {key: formula_of(s.numbers) for key, s in dict(zip(keys, self.structures, strict=True)).items()}
        return [names[key] for key in keys]

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


def hash_of_samples(ids: Sequence[str], targets: Floats) -> str:
    """sha256 of ids and targets, in order."""
    digest = hashlib.sha256()
    for name, row in zip(ids, targets, strict=True):
        values = ",".join(repr(float(value)) for value in row)
        digest.update(f"{name},{values}\n".encode())
    return digest.hexdigest()


def load_dataset(path: str | Path, *, target: str | Sequence[str] | None = None) -> Dataset:
    """Read a data set to learn from; its structures are read when they are asked for.

    It is a folder with ``structures.npz`` and ``properties.csv(.gz)`` (packed), or one with ``id_prop.csv`` and the
    structure files that it names, or such a CSV file. It may also be a folder of finished calculations, see
    :func:`cgcnn_ase.data.calculations.read_calculations`, or a file of them. The target is the column or columns to
    learn, needed where there are several. A structure may lack a label of some of several columns, not of all. A
    `DatasetError` says in words what cannot be used.
    """
    source = _existing(path)
    if _is_calculations(source):
        data = _calculated(source)
        table, file = data.columns, source
    elif not (source / _PACKED).exists():
        samples = read_id_prop(csv_in(source), target)
        return Dataset(samples.ids, samples.structures, samples.labels, source=source)
    else:
        table, file = read_properties(source)
        data = _packed(source, table, file)
        table = table.iloc[:, 1:]
    columns = [_target_column(table, name, file) for name in _listed(target)]
    values = table[columns].to_numpy(dtype=float)
    data = replace(data, scale=_stated_scale(table, columns, file))
    data = replace(data, targets=np.where(np.isfinite(values), values, np.nan))
    return data.take(np.flatnonzero(np.isfinite(values).any(axis=1)))


def read_table(path: str | Path) -> Dataset:
    """Read a data set with all its columns and structures, nothing of which is to be learned.

    Raises
    ------
    DatasetError
        In words, if there is none of those of :func:`load_dataset`, it holds no structure, or a row cannot be read.
    """
    source = _existing(path)
    if is_cgnn_folder(source) or is_prepared(source):
        raise DatasetError(f"{source}: holds graphs; to be inspected, a data set must hold structures")
    if (source / _PACKED).exists():
        data = _packed(source, *read_properties(source))
    elif _is_calculations(source):
        data = _calculated(source)
    else:
        csv = csv_in(source)
        if suffix_of(csv.name):
            raise DatasetError(f"{csv}: is a file of structures; a data set is a folder with id_prop.csv or {_PACKED}")
        samples = read_id_prop(csv, ())
        data = Dataset(samples.ids, samples.structures, samples.labels, columns=_columns(samples), source=source)
    about = (source if source.is_dir() else source.parent) / "provenance.json"
    return replace(data, structures=list(data.structures), provenance=json_values(about) if about.exists() else None)


def target_columns(path: str | Path) -> list[str]:
    """Columns of a data set that could be learned, in their order; raises as :func:`load_dataset` does."""
    source = _existing(path)
    if (source / _PACKED).exists():
        return _numeric(read_properties(source)[0].iloc[:, 1:])
    if _is_calculations(source):
        return _numeric(read_calculations(source).columns(source))
    return column_names(csv_in(source))


def read_packed(folder: Path) -> tuple[Strings, list[Geometry]]:
    """Ids and structures of the ``structures.npz`` in a folder.

    A `DatasetError` names file, array and structure, if it is damaged or holds a structure that cannot be used.
    """
    try:
        packed = load_packed(folder / _PACKED)
    except StructureError as error:
        raise DatasetError(str(error)) from error
    return packed.ids, [Geometry(*arrays) for arrays in packed.geometries()]


def read_properties(folder: Path) -> tuple[pd.DataFrame, Path]:
    """The properties of a packed data set, and their file."""
    files = [folder / name for name in ("properties.csv.gz", "properties.csv") if (folder / name).exists()]
    if not files:
        raise DatasetError(f"{folder}: {_PACKED} has no properties.csv or properties.csv.gz beside it")
    try:
        return pd.read_csv(files[0], keep_default_na=False, na_values=[""], dtype={0: str}), files[0]
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, EOFError, OSError) as error:
        raise DatasetError(f"{folder}: its properties are not a table ({error})") from error


def csv_in(folder: Path) -> Path:
    """The id_prop.csv of a folder, or the file itself; raises DatasetError where there is none."""
    csv = folder / "id_prop.csv" if folder.is_dir() else folder
    if not csv.exists():
        raise DatasetError(
            f"{folder}: neither {_PACKED} nor id_prop.csv is in this folder, nor in it or below an output of VASP, "
            "Quantum ESPRESSO, GPAW or CP2K or a file of structures with energies"
        )
    return csv


def _is_calculations(source: Path) -> bool:
    """Say whether a data set is finished calculations: what no table describes."""
    if source.is_dir() and ((source / _PACKED).exists() or (source / "id_prop.csv").exists()):
        return False
    return source.suffix != ".csv" and holds_calculations(source)


def _calculated(source: Path) -> Dataset:
    """All finished calculations below a path, none of their columns a target."""
    table = read_calculations(source)
    table.warn(source)
    if not table.calculations:
        raise DatasetError(f"{source}: none of its {len(table.failures)} calculations can be used")
    return Dataset(
        ids=[each.id for each in table.calculations],
        structures=[geometry(each.atoms) for each in table.calculations],
        targets=np.zeros((len(table.calculations), 0)),
        columns=table.columns(source),
        source=source,
        calculations=table.calculations,
        labels_converged=all(each.settings_converged for each in table.calculations),
    )


def _existing(path: str | Path) -> Path:
    if not Path(path).exists():
        raise DatasetError(f"{path}: no such file or folder")
    return Path(path)


def _listed(target: str | Sequence[str] | None) -> list[str | None]:
    return [target] if target is None or isinstance(target, str) else list(target)


def _packed(folder: Path, table: pd.DataFrame, file: Path) -> Dataset:
    """All rows of a packed data set with the given properties, none of them a target."""
    try:
        ids = load_ids(folder / _PACKED)
    except StructureError as error:
        raise DatasetError(str(error)) from error
    if len(table) != len(ids) or (table.iloc[:, 0].to_numpy() != ids).any():
        raise DatasetError(f"{file}: its rows are not the structures of {_PACKED}, in the same order")
    if not len(ids):
        raise DatasetError(f"{folder}: holds no structures")
    columns = table.iloc[:, 1:]
    text = [name for name in columns if str(name) not in _numeric(columns)]
    return Dataset(
        ids=ids.tolist(),
        structures=LazyStructures(len(ids), lambda: read_packed(folder)[1]),
        targets=np.zeros((len(ids), 0)),
        split=table["split"].to_numpy(dtype=str) if "split" in table else None,
        columns=columns.assign(**{str(name): columns[name].fillna("").astype(str) for name in text}),
        source=folder,
    )


def _columns(samples: IdProp) -> pd.DataFrame:
    """The cells of an id_prop.csv, as numbers where all in a column are."""
    columns: dict[str, list[float] | list[str]] = {}
    for name, cells in zip(samples.names, zip(*samples.cells, strict=True), strict=True):
        numeric = any(cells) and all(is_number(cell) for cell in cells if cell)
        columns[name] = [float(cell) if cell else np.nan for cell in cells] if numeric else list(cells)
    return pd.DataFrame(columns)


def _numeric(columns: pd.DataFrame) -> list[str]:
    return [str(c) for c in columns if pd.api.types.is_numeric_dtype(columns[c])]


def _target_column(table: pd.DataFrame, target: str | None, source: Path) -> str:
    numeric = _numeric(table)
    if target is None and len(numeric) != 1:
        raise DatasetError(f"{source}: name the column to learn; there are {', '.join(numeric)}")
    column = numeric[0] if target is None else target
    _check_column(column, table, source)
    return column


def _stated_scale(table: pd.DataFrame, columns: Sequence[str], source: Path) -> str | None:
    """Scale of the energies in some columns: of a column ``scale``, or as ``fetch`` writes their corrections."""
    energies = [name for name in columns if "energy" in name]
    stated = sorted({str(each) for each in table.get("scale", ()) if isinstance(each, str) and each})
    if len(stated) > 1:
        raise DatasetError(f"{source}: energies on several scales ({', '.join(stated)}) never mix; make a set of each")
    if stated and energies:
        return stated[0]
    fetched = table.reindex(columns=["corrections", "functional"], fill_value="").drop_duplicates()
    schemes = {(str(row.corrections), str(row.functional)) for row in fetched.itertuples()}
    scales = {
        fetched_scale(corrections, functional=functional, column=name)
        for corrections, functional in schemes
        for name in energies
    }
    return scales.pop() if len(scales) == 1 else None


def _check_column(column: str, table: pd.DataFrame, source: Path) -> None:
    """Raise DatasetError where there is no such column of numbers."""
    if column not in table:
        raise DatasetError(f"{source}: no column {column!r}; allowed: {', '.join(_numeric(table))}")
    if column not in _numeric(table):
        raise DatasetError(f"{source}: column {column!r} holds text, not numbers")


def json_values(file: Path) -> dict[str, Any]:
    """The values by name in a JSON file; a file of something else is a `DatasetError`."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{file}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DatasetError(f"{file}: must hold values by name")
    return values

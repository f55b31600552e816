"""Read data sets: packed npz folders and ``id_prop.csv`` folders become structures with a target each."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cgcnn_ase.data.errors import DatasetError
from cgcnn_ase.graphs.geometry import Geometry


@dataclass(frozen=True)
class Dataset:
    """Structures, their targets, and the split each belongs to."""

    ids: list[str]
    structures: list[Geometry]
    targets: npt.NDArray[np.float64]  #: (n, T), each in its own unit; NaN where a structure has no label
    split: npt.NDArray[np.str_] | None  #: (n,) "train", "val" or "test"; None where the source has none
    formulas: list[str]  #: reduced formulas, what splits are grouped by

    def __len__(self) -> int:
        return len(self.ids)

    def hash_of(self, split: str) -> str:
        """sha256 of the ids and targets of one split, in order."""
        rows = np.arange(len(self)) if self.split is None else np.flatnonzero(self.split == split)
        return hash_of_samples([self.ids[k] for k in rows], self.targets[rows])


def hash_of_samples(ids: Sequence[str], targets: npt.NDArray[np.float64]) -> str:
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
        kept["reduced_formula"] if "reduced_formula" in kept else [reduced_formula(s.numbers) for s in structures]
    )
    return Dataset(
        ids=[str(ids[i]) for i in rows],
        structures=structures,
        targets=np.where(np.isfinite(values[rows]), values[rows], np.nan),
        split=kept["split"].to_numpy(dtype=str) if "split" in kept else None,
        formulas=[str(f) for f in formulas],
    )


def check_rows(table: pd.DataFrame, ids: npt.NDArray[np.str_], source: Path) -> None:
    """Raise DatasetError where the properties are not those of these structures, row by row."""
    if len(table) != len(ids) or (table.iloc[:, 0].to_numpy() != ids).any():
        raise DatasetError(f"{source}: its rows are not the structures of structures.npz, in the same order")


def read_packed(folder: Path) -> tuple[npt.NDArray[np.str_], list[Geometry]]:
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
        formulas=[reduced_formula(row.structure.numbers) for row in rows],
    )


def reduced_formula(atomic_numbers: npt.NDArray[np.int64]) -> str:
    """A name that two structures share when their compositions are the same."""
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    counts //= np.gcd.reduce(counts)
    return "-".join(f"{z}:{n}" for z, n in zip(numbers, counts, strict=True))

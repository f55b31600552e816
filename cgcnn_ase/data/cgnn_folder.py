"""Read the data set folder of the CGNN code (https://github.com/Tony-Y/cgnn): graphs with their targets, no structures.

``targets.csv``
    A column ``name`` and the targets.
``graph_data.npz``
    For each name the species of the nodes and for each node the list of its neighbours.
``config.json``
    The vectors of the species, which are not read, and ``atomic_numbers``, which element each species is.
``split.json``
    Rows of ``targets.csv`` in ``train``, ``val`` and ``test``. Rows in none of them are left out. Without the file the
    split is by composition.
"""

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from cgcnn_ase.core.arrays import Ints, Strings
from cgcnn_ase.core.elements import check_numbers
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.dataset import hash_of_samples, json_values
from cgcnn_ase.data.graph_store import GraphStore
from cgcnn_ase.data.prepare import TaskName, asked_columns, target_specs
from cgcnn_ase.data.prepared import CGNN_CONFIG, CGNN_GRAPHS, CGNN_SPLIT, CGNN_TARGETS, PreparedData
from cgcnn_ase.data.splits import NAMES, group_split, hashed_split
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, renumbered
from cgcnn_ase.structures.composition import composition_key
from cgcnn_ase.structures.packed import read_npy_header

# how such graphs were made; of the coordinator's settings none can differ
GRAPH = GraphConfig(rule="coordinator")
_LISTED = 10
_CORE = ("numpy.core.multiarray", "numpy._core.multiarray")
_ADMITTED = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
        *((module, name) for module in _CORE for name in ("_reconstruct", "scalar")),
    }
)
# what a damaged file makes the readers of zip, npy and pickle raise
_DAMAGED = (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, EOFError, LookupError, TypeError, AttributeError)


class _Graph(NamedTuple):
    """One crystal."""

    numbers: Ints  # (N,)
    centers: Ints  # (E,)
    neighbors: Ints  # (E,)


def load_cgnn_folder(
    folder: Path,
    names: Sequence[str] = (),
    *,
    task: TaskName = "regression",
    unit: str = "",
    val: float = 0.1,
    test: float = 0.1,
    is_part: bool = False,
) -> PreparedData:
    """Read such a folder; names, task and unit as in :func:`cgcnn_ase.data.prepare.load_tasks`.

    Its graphs say who is bonded to whom. They have no distances (NaN), so that only networks that read none, such as
    CGNN, can learn from them. `val` and `test` are the parts of the data where there is no ``split.json``; of a part of
    a data set (`is_part`) the split of a formula does not depend on what else is in the folder. A `DatasetError` says
    in words what cannot be used.
    """
    for name in (CGNN_TARGETS, CGNN_GRAPHS, CGNN_CONFIG):
        if not (folder / name).exists():
            raise DatasetError(
                f"{folder}: {name} is missing; a CGNN data set is {CGNN_TARGETS}, {CGNN_GRAPHS} and {CGNN_CONFIG}"
            )
    table, numeric = _table(folder / CGNN_TARGETS)
    columns, kinds = asked_columns(folder, names, task, lambda: numeric)
    columns = columns or _single_column(numeric, folder / CGNN_TARGETS)
    if unknown := [name for name in columns if name not in numeric]:
        raise DatasetError(
            f"{folder / CGNN_TARGETS}: no column of numbers {unknown[0]!r}; allowed: {', '.join(numeric)}"
        )
    values = table[columns].to_numpy(dtype=float)
    split = _split(folder / CGNN_SPLIT, len(table))
    used = np.isfinite(values).any(axis=1) & (split != "")
    if not used.any():
        raise DatasetError(f"{folder / CGNN_TARGETS}: no row has a target and a split")
    ids = [str(name) for name in table["name"][used]]
    graphs = _graphs(folder, ids)
    split = split[used]
    if not (folder / CGNN_SPLIT).exists():
        by_formula = hashed_split if is_part else group_split
        split = by_formula([composition_key(graph.numbers) for graph in graphs], val=val, test=test)
    targets = np.where(np.isfinite(values[used]), values[used], np.nan)
    train = np.flatnonzero(split == "train")
    return PreparedData(
        ids=ids,
        targets=targets,
        split=split,
        graphs=GraphStore.from_graphs([_together(graphs)]),
        graph_config=GRAPH,
        specs=target_specs(columns, kinds, targets, unit),
        train_hash=hash_of_samples([ids[i] for i in train], targets[train]),
    )


def cgnn_columns(folder: Path) -> list[str]:
    """Columns of such a folder that could be learned; raises as :func:`load_cgnn_folder`."""
    if not (folder / CGNN_TARGETS).exists():
        raise DatasetError(f"{folder}: {CGNN_TARGETS} is missing")
    return _table(folder / CGNN_TARGETS)[1]


def _table(file: Path) -> tuple[pd.DataFrame, list[str]]:
    """The targets, and which columns hold numbers."""
    try:
        table = pd.read_csv(file, keep_default_na=False, na_values=[""], dtype={"name": str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: not a table: {error}") from error
    if "name" not in table.columns:
        raise DatasetError(f"{file}: no column 'name'; there are {', '.join(map(str, table.columns))}")
    if table["name"].duplicated().any():
        raise DatasetError(f"{file}: the name {table['name'][table['name'].duplicated()].iloc[0]!r} is there twice")
    numeric = [str(c) for c in table.columns if c != "name" and pd.api.types.is_numeric_dtype(table[c])]
    if not numeric:
        raise DatasetError(f"{file}: no column of numbers beside the names")
    return table, numeric


def _single_column(numeric: list[str], file: Path) -> list[str]:
    if len(numeric) > 1:
        raise DatasetError(f"{file}: name the column to learn; there are {', '.join(numeric)}")
    return numeric


def _split(file: Path, n: int) -> Strings:
    """Name of the split of each row, empty where it is in none; without a file all rows are in one."""
    if not file.exists():
        return np.full(n, "train")
    rows_of = json_values(file)
    split = np.full(n, "", dtype="<U5")
    for name in NAMES:
        rows = _whole(rows_of.get(name, []), f"{file}: {name}")
        if len(rows) and (rows.min() < 0 or rows.max() >= n):
            raise DatasetError(f"{file}: {name}: there is no row {rows.max() if rows.max() >= n else rows.min()}; "
                               f"{CGNN_TARGETS} has {n}")  # fmt: skip
        if (split[rows] != "").any():
            raise DatasetError(f"{file}: row {rows[split[rows] != ''][0]} is in {name} and in another split")
        split[rows] = name
    return split


def _graphs(folder: Path, ids: list[str]) -> list[_Graph]:
    """The graphs of these names, in this order."""
    file = folder / CGNN_GRAPHS
    try:
        graphs = read_object(file, "graph_dict")
    except ValueError as error:
        raise DatasetError(str(error)) from error
    if not isinstance(graphs, dict):
        raise DatasetError(f"{file}: graph_dict holds a {type(graphs).__name__}, not a graph for each name")
    by_name = {key.decode() if isinstance(key, bytes) else str(key): value for key, value in graphs.items()}
    if missing := [name for name in ids if name not in by_name]:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise DatasetError(f"{file}: no graph of {', '.join(missing[:_LISTED])}{more}, which {CGNN_TARGETS} names")
    elements = _elements(folder / CGNN_CONFIG)
    return [_graph(by_name[name], elements, f"{file}: {name}") for name in ids]


def _elements(file: Path) -> Ints:
    """Atomic number of each species."""
    config = json_values(file)
    if "atomic_numbers" not in config:
        raise DatasetError(
            f"{file}: has no atomic_numbers, so that no species can be told which element it is; add the list of "
            "atomic numbers in the order of the species"
        )
    numbers = _whole(config["atomic_numbers"], f"{file}: atomic_numbers")
    try:
        check_numbers(numbers)
    except ValueError as error:
        raise DatasetError(f"{file}: atomic_numbers: {error}") from error
    if len(config.get("node_vectors", numbers)) != len(numbers):
        raise DatasetError(f"{file}: {len(numbers)} atomic_numbers for {len(config['node_vectors'])} node_vectors")
    return numbers


def _graph(pair: object, elements: Ints, where: str) -> _Graph:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DatasetError(f"{where}: not a pair of the nodes and their neighbours")
    species = _whole(pair[0], f"{where}: nodes")
    lists = list(pair[1])
    if not len(species) or len(lists) != len(species):
        raise DatasetError(f"{where}: {len(species)} nodes with {len(lists)} lists of neighbours")
    _check_range(species, len(elements), f"{where}: node", f"{CGNN_CONFIG} has so many species")
    rows = [_whole(row, f"{where}: neighbours of node {k}") for k, row in enumerate(lists)]
    neighbors = np.concatenate(rows)
    _check_range(neighbors, len(species), f"{where}: neighbour", "so many nodes are there")
    return _Graph(elements[species], np.repeat(np.arange(len(rows)), [len(row) for row in rows]), neighbors)


def _check_range(values: Ints, n: int, where: str, reason: str) -> None:
    if len(values) and (values.min() < 0 or values.max() >= n):
        wrong = values.max() if values.max() >= n else values.min()
        raise DatasetError(f"{where} {wrong} is not from 0 to {n - 1}: {reason}")


def _whole(values: object, where: str) -> Ints:
    """A list of whole numbers."""
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.zeros(())
    if array.shape == (0,):
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DatasetError(f"{where}: not a list of whole numbers")
    return array.astype(np.int64)


def _together(graphs: list[_Graph]) -> CrystalGraph:
    """All graphs side by side."""
    n_nodes, n_edges = (torch.tensor([len(graph[k]) for graph in graphs]) for k in (0, 1))
    numbers, centers, neighbors = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*graphs, strict=True))
    graph = CrystalGraph(
        numbers=numbers,
        centers=centers,
        neighbors=neighbors,
        distances=torch.full((len(centers),), torch.nan),
        angular=torch.zeros(len(centers), 0),
        multiplicity=torch.ones(len(numbers)),
        n_nodes=n_nodes,
        n_edges=n_edges,
    )
    return renumbered(graph, 1)


class _Unpickler(pickle.Unpickler):
    """Builds arrays and plain Python values."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ADMITTED:
            raise _UnsafeError(
                f"it asks for {module}.{name}; only arrays, numbers, strings, lists and dicts are admitted"
            )
        return super().find_class(module, name)


class _UnsafeError(Exception):
    """The file asks for something that is not admitted."""


def read_object(file: Path, name: str) -> object:
    """The object that ``numpy.savez(file, name=object)`` wrote, in Python 2 or 3.

    A file without such an array, damaged, or asking for anything but plain data is a `ValueError`.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if f"{name}.npy" not in archive.namelist():
                others = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist()) or "nothing"
                raise _UnsafeError(f"it holds no {name}, but {others}")
            with archive.open(f"{name}.npy") as stream:
                shape, _, dtype = read_npy_header(stream)
                if shape != () or dtype != np.dtype(object):
                    raise _UnsafeError(f"{name} is an array of the shape {shape}, not one object")
                return _Unpickler(stream, encoding="latin1").load().item()
    except _UnsafeError as error:
        raise ValueError(f"{file}: {error}") from None
    except _DAMAGED as error:
        raise ValueError(f"{file}: damaged, or not written by numpy.savez ({error})") from error

"""Divide a data set into train, val and test; compositions of stored graphs, by which it is divided."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path

import numpy as np

from cgcnn_ase.core.arrays import AnyArray, Floats, Floats32, Ints, Strings
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.data.graph_store import GraphShards, GraphStore
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, composition

NAMES = ("train", "val", "test")
_BATCH = 256
#: the file of a run's folder that says which crystal was in which split
SPLIT_FILE = "split.csv"
#: what the ids of replayed crystals begin with
OLD_ID = "old:"


def random_split(n: int, *, val: float = 0.1, test: float = 0.1, seed: int = 0) -> Strings:
    """Name of the split of each of n samples, drawn at random."""
    return group_split(np.arange(n), val=val, test=test, seed=seed)


def group_split(groups: Sequence[object] | AnyArray, *, val: float = 0.1, test: float = 0.1, seed: int = 0) -> Strings:
    """Name of the split of each sample; samples of one group (a reduced formula, a host) stay together.

    Fractions that leave nothing to train on are a `ValueError`.
    """
    _check_fractions(val, test)
    group, n_groups = _numbered(groups)
    rank = np.random.default_rng(seed).permutation(n_groups)
    n_test, n_val = round(test * n_groups), round(val * n_groups)
    name = np.where(rank < n_test, "test", np.where(rank < n_test + n_val, "val", "train"))
    return name[group]


def hashed_split(groups: Sequence[str], *, val: float = 0.1, test: float = 0.1, seed: int = 0) -> Strings:
    """As :func:`group_split`, each group by a hash of its name: the same in every part of a data set."""
    _check_fractions(val, test)
    draws = {g: int.from_bytes(sha256(f"{seed}:{g}".encode()).digest()[:8], "big") / 2.0**64 for g in set(groups)}
    u = np.array([draws[g] for g in groups])
    return np.where(u < test, "test", np.where(u < test + val, "val", "train"))


def k_fold(groups: Sequence[object], *, k: int = 5, seed: int = 0) -> Iterator[Strings]:
    """Yield k splits into train and val with each group in val once; fewer groups than folds are a `ValueError`."""
    group, n_groups = _numbered(groups)
    if not 2 <= k <= n_groups:
        raise ValueError(f"k must lie between 2 and the number of groups, {n_groups}; got {k}")
    fold = np.random.default_rng(seed).permutation(n_groups) % k
    for held_out in range(k):
        yield np.where(fold == held_out, "val", "train")[group]


def compositions_of(graphs: GraphStore | GraphShards, rows: Ints, *, of_sites: bool = False) -> Floats32:
    """Atomic fractions in each crystal, (n, 101), or once for each of its sites."""
    fractions = np.concatenate([composition(batch).numpy() for batch in _batches(graphs, rows)])
    return np.repeat(fractions, graphs.n_nodes.numpy()[rows], axis=0) if of_sites else fractions


def site_numbers_of(graphs: GraphStore | GraphShards, rows: Ints) -> Ints:
    """Atomic numbers on the sites of some crystals, crystal by crystal."""
    return np.concatenate([batch.numbers.numpy() for batch in _batches(graphs, rows)])


def composition_groups(graphs: GraphStore | GraphShards, rows: Ints) -> Ints:
    """A number for each of some crystals, the same for equal compositions, (n,)."""
    _, group = np.unique(np.round(compositions_of(graphs, rows), 5), axis=0, return_inverse=True)
    numbered: Ints = group.ravel()
    return numbered


@dataclass(frozen=True)
class RunSplit:
    """The crystals of a training run, each by its id and composition, and the split it was in."""

    folder: Path
    splits: dict[tuple[str, str], str]

    @classmethod
    def of_run(cls, model: str | Path) -> "RunSplit | None":
        """That of a run's folder, or of the run that a ``best`` folder lies in; None where there is none.

        A damaged file is a `DatasetError`.
        """
        path = Path(model)
        file = next((folder / SPLIT_FILE for folder in (path, path.parent) if (folder / SPLIT_FILE).is_file()), None)
        if file is None or not path.is_dir():
            return None
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        if rows and not {"id", "composition", "split"} <= rows[0].keys():
            raise DatasetError(f"{file}: is no split of a run: its columns must be id, composition, split")
        names = ((row["id"].removeprefix(OLD_ID), row["composition"]) for row in rows)
        return cls(file.parent, {name: row["split"] for name, row in zip(names, rows, strict=True)})

    def of(self, ids: Sequence[str], fractions: Floats32 | Floats) -> Strings:
        """The split of crystals of these ids and atomic fractions, (n, 101); empty where the run had no such one."""
        names = zip(ids, map(_composition_name, fractions), strict=True)
        return np.array([self.splits.get(name, "") for name in names], dtype=str)


def write_run_split(folder: Path, ids: Sequence[str], split: Strings, graphs: GraphStore | GraphShards) -> None:
    """Write which crystal of a run is in which split, so that others can be told from those it has learned."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "composition", "split"])
    compositions = map(_composition_name, compositions_of(graphs, np.arange(len(ids))))
    writer.writerows(zip(ids, compositions, split.tolist(), strict=True))
    atomic_write(folder / SPLIT_FILE, text.getvalue())


def _composition_name(fractions: Floats32 | Floats) -> str:
    """``Li0.250 Ni0.250 O0.500``: the same for graphs and structures."""
    return " ".join(f"{symbols()[z]}{fractions[z]:.3f}" for z in np.flatnonzero(fractions > 0))


def _batches(graphs: GraphStore | GraphShards, rows: Ints) -> Iterator[CrystalGraph]:
    return (graphs.batch(rows[k : k + _BATCH].tolist()) for k in range(0, len(rows), _BATCH))


def _numbered(groups: Sequence[object] | AnyArray) -> tuple[Ints, int]:
    """The number of each sample's group, and how many groups there are."""
    names, group = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    return group, len(names)


def _check_fractions(val: float, test: float) -> None:
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(f"val and test must be fractions that leave something to train on, not {val} and {test}")

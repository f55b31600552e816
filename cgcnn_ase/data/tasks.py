"""Which columns of a data set are learned, and as what."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.dataset import Dataset, load_dataset, target_columns

TaskName = Literal["regression", "classification", "multi"]

#: what may follow a column's name and a colon
_KINDS = ("regression", "log10", "classification")


def load_tasks(
    path: str | Path, names: Sequence[str] = (), *, task: TaskName = "regression", unit: str = ""
) -> tuple[Dataset, tuple[TargetSpec, ...]]:
    """Read a data set with its targets.

    Parameters
    ----------
    names : sequence of str
        Columns to learn; ``NAME:KIND`` with the kind regression, log10 (a regression of the logarithm) or
        classification where it is not what the task says. Without names the only column, or for ``multi`` all columns.
    task : {"regression", "classification", "multi"}
        What the columns are; of ``multi`` the last is a classification and the others are regressions.
    unit : str
        Of the regressions; one that ends in ``/atom`` says that they are averages over atoms.

    Raises
    ------
    DatasetError
        In words, if the data set or a name in it cannot be used.
    ValueError
        If the task or a kind is none of the allowed.
    """
    columns, kinds = asked_columns(path, names, task, lambda: target_columns(path))
    dataset = load_dataset(path, target=columns or None)
    return dataset, target_specs(columns or ["target"], kinds, dataset.targets, unit)


def asked_columns(
    path: str | Path, names: Sequence[str], task: TaskName, known: Callable[[], list[str]]
) -> tuple[list[str], list[str]]:
    """Columns to learn, none where the only one is meant, and the kind of each; raises as :func:`load_tasks` does.

    ``known`` gives the columns that there are.
    """
    if task not in get_args(TaskName):
        raise ValueError(f"unknown task {task!r}; allowed: {', '.join(get_args(TaskName))}")
    if not names and task == "multi":
        names = known()
        if len(names) < 2:
            raise DatasetError(f"{path}: task multi needs at least two columns, there is {', '.join(names) or 'none'}")
    columns = [name.partition(":")[0] for name in names]
    kinds = [name.partition(":")[2] or _default_kind(k, len(names), task) for k, name in enumerate(names)]
    if len(set(columns)) < len(columns):
        raise ValueError(f"a column is named twice: {', '.join(columns)}")
    for kind in kinds:
        if kind not in _KINDS:
            raise ValueError(f"unknown kind of target {kind!r}; allowed: {', '.join(_KINDS)}")
    return columns, kinds or [_default_kind(0, 1, task)]


def target_specs(columns: Sequence[str], kinds: Sequence[str], targets: Floats, unit: str) -> tuple[TargetSpec, ...]:
    """What is learned of each column of ``targets``."""
    return tuple(
        _spec(name, kind, targets[:, k], unit) for k, (name, kind) in enumerate(zip(columns, kinds, strict=True))
    )


def _default_kind(k: int, n: int, task: TaskName) -> str:
    if task == "multi":
        return "classification" if k == n - 1 else "regression"
    return task


def _spec(name: str, kind: str, values: Floats, unit: str) -> TargetSpec:
    if kind == "classification":
        known = values[np.isfinite(values)]
        n_classes = max(2, int(known.max(initial=0)) + 1)
        return TargetSpec(name=name, unit="probability", task="classification", n_classes=n_classes)
    return TargetSpec(
        name=name, unit=unit, per_atom=unit.endswith("/atom"), transform="log10" if kind == "log10" else "none"
    )

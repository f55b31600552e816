"""From a data set to prepared data: which columns are learned and as what, graphs, splits."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.errors import DatasetError, unknown_name
from cgcnn_ase.core.targets import ALIASES, TargetSpec, column_of, known_targets
from cgcnn_ase.data.dataset import Dataset, load_dataset, target_columns
from cgcnn_ase.data.graph_store import build_store, cached_graphs
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.splits import group_split, hashed_split
from cgcnn_ase.graphs.builder import GraphConfig, build_graph
from cgcnn_ase.graphs.crystal_graph import Geometry

TaskName = Literal["regression", "classification", "multi"]

# what may follow a column's name and a colon
_KINDS = ("regression", "log10", "classification")


def load_tasks(
    path: str | Path, names: Sequence[str] = (), *, task: TaskName = "regression", unit: str = ""
) -> tuple[Dataset, tuple[TargetSpec, ...]]:
    """Read a data set with its targets.

    The names are the columns to learn; ``NAME:KIND`` with the kind regression, log10 (a regression of the logarithm) or
    classification where it is not what the task says. Without names the only column, or for ``multi`` all columns; of
    these the last is a classification and the others are regressions. The unit is that of the regressions; one that
    ends in ``/atom`` says that they are averages over atoms.

    A `DatasetError` says in words what cannot be used; a task or a kind that is none of the allowed is a `ValueError`.
    """
    columns, kinds = asked_columns(path, names, task, lambda: target_columns(path))
    dataset = load_dataset(path, target=columns or None)
    if not unit and len(columns) == 1:
        unit = dataset.unit_of(columns[0])
    return dataset, target_specs(columns or ["target"], kinds, dataset.targets, unit)


def asked_columns(
    path: str | Path, names: Sequence[str], task: TaskName, known: Callable[[], list[str]]
) -> tuple[list[str], list[str]]:
    """Columns to learn, none where the only one is meant, and the kind of each; raises as :func:`load_tasks` does.

    ``known`` gives the columns that there are.
    """
    if task not in get_args(TaskName):
        raise unknown_name("task", task, get_args(TaskName))
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
            raise unknown_name("kind of target", kind, _KINDS)
    return columns, kinds or [_default_kind(0, 1, task)]


def column_for(target: TargetSpec, names: Sequence[str], source: object) -> str | None:
    """Find the column that holds the target of a model, by its name or by another that data sets give to it.

    None where no name says so: then the only column is meant. A `DatasetError` if several could be meant, or the column
    that would be taken is known to hold something else.
    """
    matching = column_of(target.name, names)
    if len(matching) > 1:
        raise DatasetError(f"{source}: {', '.join(matching)} are names of {target.name}; say which with --target")
    if not matching and names and (others := known_targets(names[0])):
        raise DatasetError(
            f"{source}: no column is {target.name}, the model's target (also called "
            f"{', '.join(ALIASES.get(target.name, ())) or 'nothing else'}), and {names[0]!r} is {' or '.join(others)}; "
            "say which column is meant with --target"
        )
    return matching[0] if matching else None


def target_specs(columns: Sequence[str], kinds: Sequence[str], targets: Floats, unit: str) -> tuple[TargetSpec, ...]:
    """The target that each column of ``targets`` is."""
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


def prepare(
    dataset: Dataset,
    targets: TargetSpec | Sequence[TargetSpec],
    graph: GraphConfig,
    *,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    is_part: bool = False,
    cache: Path | None = None,
    progress: bool = False,
) -> PreparedData:
    """Build (or fetch from the cache) the graphs, and split by reduced formula where the data set has no split.

    Of a part of a data set the split of a formula does not depend on what else is in the part, and nothing is cached. A
    `DatasetError` names a structure that has no such graph.
    """
    if dataset.split is None:
        split = hashed_split if is_part else group_split
        dataset = replace(dataset, split=split(dataset.groups, val=val, test=test, seed=seed))
    assert dataset.split is not None
    structures = list(dataset.structures)
    try:
        if is_part:
            graphs = build_store(structures, graph, progress=progress)
        else:
            graphs = cached_graphs(structures, graph, folder=cache, progress=progress)
    except ValueError as error:
        raise _with_structure_id(error, dataset, graph) from error
    return PreparedData(
        ids=dataset.ids,
        targets=dataset.targets,
        split=dataset.split,
        graphs=graphs,
        graph_config=graph,
        specs=(targets,) if isinstance(targets, TargetSpec) else tuple(targets),
        train_hash=dataset.hash_of("train"),
        labels_converged=dataset.labels_converged,
        scale=dataset.scale,
    )


def _with_structure_id(error: ValueError, dataset: Dataset, graph: GraphConfig) -> ValueError:
    """The error with the id of the first structure that raises one."""
    problems = ((name, _problem(shape, graph)) for name, shape in zip(dataset.ids, dataset.structures, strict=True))
    return next((DatasetError(f"{name}: {problem}") for name, problem in problems if problem), error)


def _problem(structure: Geometry, graph: GraphConfig) -> str | None:
    try:
        build_graph(structure, graph)
    except ValueError as error:
        return str(error)
    return None

"""From a data set to prepared data."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.dataset import Dataset
from cgcnn_ase.data.graph_cache import build_store, cached_graphs
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.splits import group_split, hashed_split
from cgcnn_ase.graphs.builder import GraphConfig, build_graph
from cgcnn_ase.graphs.geometry import Geometry


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

    Of a part of a data set the split of a formula does not depend on what else is in the part, and nothing is cached.

    Raises
    ------
    DatasetError
        Naming a structure that has no such graph.
    """
    if dataset.split is None:
        split = hashed_split if is_part else group_split
        dataset = replace(dataset, split=split(dataset.formulas, val=val, test=test, seed=seed))
    assert dataset.split is not None
    try:
        if is_part:
            graphs = build_store(dataset.structures, graph, progress=progress)
        else:
            graphs = cached_graphs(dataset.structures, graph, folder=cache, progress=progress)
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

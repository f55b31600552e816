"""From a data set to prepared data."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cgcnn_ase.data.dataset import Dataset
from cgcnn_ase.data.graph_cache import cached_graphs
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.splits import group_split
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.targets import TargetSpec


def prepare(
    dataset: Dataset,
    targets: TargetSpec | Sequence[TargetSpec],
    graph: GraphConfig,
    *,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    cache: Path | None = None,
    progress: bool = False,
) -> PreparedData:
    """Build (or fetch from the cache) the graphs, and split by reduced formula where the data set has no split."""
    if dataset.split is None:
        dataset = replace(dataset, split=group_split(dataset.formulas, val=val, test=test, seed=seed))
    assert dataset.split is not None
    return PreparedData(
        ids=dataset.ids,
        targets=dataset.targets,
        split=dataset.split,
        graphs=cached_graphs(dataset.structures, graph, folder=cache, progress=progress),
        graph_config=graph,
        specs=(targets,) if isinstance(targets, TargetSpec) else tuple(targets),
        train_hash=dataset.hash_of("train"),
    )

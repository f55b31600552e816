"""k-fold cross-validation: each structure is in the test split of one training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.arrays import Strings
from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.splits import composition_groups
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.run import clear_run, train
from cgcnn_ase.training.start_model import Frozen

if TYPE_CHECKING:
    from cgcnn_ase.models.crystal_model import CrystalModel

# figures of the test splits that are averaged
_FIGURES = ("mae", "rmse", "r2", "auc", "accuracy", "f1", "coverage", "spearman")


def cross_validate(
    data: PreparedData,
    config: TrainConfig,
    output: Path,
    k: int,
    *,
    resume: bool = False,
    overwrite: bool = False,
    start: "CrystalModel | None" = None,
    frozen: Frozen = "none",
    workers: int = 1,
    progress: bool = True,
) -> dict[str, object]:
    """Train k models, each tested on the k-th part of the data that neither it nor its choice of epoch has seen.

    Structures of one composition are in one fold; fold i is the test split of run i, fold i + 1 its val. Options are as
    in :func:`cgcnn_ase.training.run.train`; ``output`` gets ``fold-0`` to ``fold-{k-1}``, a run each, and
    ``cross_validation.json``: mean and standard deviation over the folds of each figure, with several targets by
    target.
    """
    splits = k_splits(data, k, seed=config.seed)
    if overwrite:
        clear_run(output)
    result = []
    for i, split in enumerate(splits):
        train(
            replace(data, split=split), config, output / f"fold-{i}",
            resume=resume, start=start, frozen=frozen, workers=workers, progress=progress,
        )  # fmt: skip
        result.append(json.loads((output / f"fold-{i}" / "metrics.json").read_text()))
    summary: dict[str, object]
    names = [target.name for target in data.specs]
    if len(names) == 1:
        summary = _mean_over_folds([fold["test"] for fold in result])
    else:
        summary = {name: _mean_over_folds([fold[name]["test"] for fold in result]) for name in names}
    atomic_write(output / "cross_validation.json", json.dumps({"k": k, **summary}, indent=1) + "\n")
    return summary


def k_splits(data: PreparedData, k: int, *, seed: int) -> list[Strings]:
    """The split of each of k trainings; raises as :func:`cross_validate` does."""
    group = composition_groups(data.graphs, np.arange(len(data.ids)))
    n_groups = int(group.max()) + 1
    if not 3 <= k <= n_groups:
        raise ValueError(f"k must lie between 3 and the number of compositions, {n_groups}; got {k}")
    fold = (np.random.default_rng(seed).permutation(n_groups) % k)[group]
    return [np.where(fold == i, "test", np.where(fold == (i + 1) % k, "val", "train")) for i in range(k)]


def _mean_over_folds(folds: list[dict[str, float | None]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name in _FIGURES:
        values = [value for fold in folds if (value := fold.get(name)) is not None]
        if len(values) == len(folds):
            result[name] = {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "folds": values}
    return result

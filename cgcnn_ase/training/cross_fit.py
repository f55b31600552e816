"""Errors in the training split by networks that had not seen the structure, to learn where errors are large."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.data.compositions import composition_groups
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.nn.network import Network
from cgcnn_ase.targets import Scaler, output_slices
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.member import best_network, train_scalers

#: such a network is trained for this part of a member's epochs: where its errors are large shows early
EPOCHS = 0.25
_BATCH = 256


def fold_config(config: TrainConfig, fold: int) -> TrainConfig:
    """The settings of one fold's network: those of a member, but shorter."""
    epochs = max(1, round(EPOCHS * config.epochs))
    return replace(config, epochs=epochs, seed=config.seed + config.n_members + fold)


def fold_splits(data: PreparedData, n_folds: int, *, seed: int) -> list[npt.NDArray[np.str_]]:
    """For each fold the split in which its part of the training structures is ``val`` and the rest is ``train``.

    Structures of one composition are in one fold. What was val or test is in neither.
    """
    rows = data.rows("train")
    group = composition_groups(data.graphs, rows)
    fold = (np.random.default_rng(seed).permutation(group.max() + 1) % n_folds)[group]
    splits = []
    for k in range(n_folds):
        split = np.full(len(data.split), "none", dtype="<U5")
        split[rows] = np.where(fold == k, "val", "train")
        splits.append(split)
    return splits


def left_out_errors(
    data: PreparedData, config: TrainConfig, folders: list[Path], scalers: Sequence[Scaler] | None = None
) -> npt.NDArray[np.float64]:
    """Error of each training structure by the network of its fold, (n, T) in the order of ``data.rows("train")``.

    In what the network learns; NaN for a classification and where there is no label.
    """
    errors = np.full(data.targets.shape, np.nan)
    for k, split in enumerate(fold_splits(data, config.error_folds, seed=config.seed)):
        part = replace(data, split=split)
        network = best_network(part, fold_config(config, k), folders[k]).eval()
        rows = part.rows("val")
        out = _values(network, part, rows)
        own = scalers or train_scalers(part)
        for t, (target, columns) in enumerate(zip(data.specs, output_slices(data.specs), strict=True)):
            if target.task == "regression":
                learned = target.forward(torch.tensor(data.targets[rows, t]))
                errors[rows, t] = target.limited(own[t].unscale(out[:, columns.start].double())) - learned
    return errors[data.rows("train")]


def _values(network: Network, data: PreparedData, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    """All outputs of a network, (n, n_out)."""
    with torch.inference_mode():
        parts = [network(data.graphs.batch(rows[k : k + _BATCH].tolist())).value for k in range(0, len(rows), _BATCH)]
    return torch.cat(parts)

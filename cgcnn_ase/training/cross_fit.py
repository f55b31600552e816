"""Errors in the training split by networks that had not seen the structure, to learn where errors are large."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.graphs.crystal_graph import composition
from cgcnn_ase.nn.network import Network
from cgcnn_ase.targets import Scaler
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.member import best_network, train_scaler

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
    fractions = np.concatenate(
        [composition(data.graphs.batch(rows[k : k + _BATCH].tolist())).numpy() for k in range(0, len(rows), _BATCH)]
    )
    _, group = np.unique(np.round(fractions, 5), axis=0, return_inverse=True)
    group = group.ravel()
    fold = (np.random.default_rng(seed).permutation(group.max() + 1) % n_folds)[group]
    splits = []
    for k in range(n_folds):
        split = np.full(len(data.split), "none", dtype="<U5")
        split[rows] = np.where(fold == k, "val", "train")
        splits.append(split)
    return splits


def left_out_errors(
    data: PreparedData, config: TrainConfig, folders: list[Path], scaler: Scaler | None = None
) -> npt.NDArray[np.float64]:
    """Error of each training structure by the network of its fold, (n,) in the order of ``data.rows("train")``."""
    errors = np.full(len(data.ids), np.nan)
    learned = data.target.forward(torch.tensor(data.targets)).numpy()
    for k, split in enumerate(fold_splits(data, config.error_folds, seed=config.seed)):
        part = replace(data, split=split)
        network = best_network(part, fold_config(config, k), folders[k]).eval()
        rows = part.rows("val")
        values = (scaler or train_scaler(part)).unscale(_values(network, part, rows))
        errors[rows] = values.double().numpy() - learned[rows]
    return errors[data.rows("train")]


def _values(network: Network, data: PreparedData, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    with torch.inference_mode():
        parts = [
            network(data.graphs.batch(rows[k : k + _BATCH].tolist())).value[:, 0] for k in range(0, len(rows), _BATCH)
        ]
    return torch.cat(parts)

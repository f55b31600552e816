"""Train one network: the folder of one ensemble member."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cgcnn_ase.core.arrays import Floats, Strings
from cgcnn_ase.core.targets import Scaler, output_slices
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.splits import composition_groups
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.training.callbacks import BEST, HISTORY, LAST, make_trainer
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.module import TrainingModule, loader

#: such a network is trained for this part of a member's epochs: where its errors are large shows early
EPOCHS = 0.25
_BATCH = 256


def fold_config(config: TrainConfig, fold: int) -> TrainConfig:
    """The settings of one fold's network: those of a member, but shorter."""
    epochs = max(1, round(EPOCHS * config.epochs))
    return replace(config, epochs=epochs, seed=config.seed + config.n_members + fold)


def fold_splits(data: PreparedData, n_folds: int, *, seed: int) -> list[Strings]:
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


def out_of_fold_errors(
    data: PreparedData, config: TrainConfig, folders: list[Path], scalers: Sequence[Scaler] | None = None
) -> Floats:
    """Error of each training structure by the network of its fold, (n, T) in the order of ``data.rows("train")``.

    In what the network learns; NaN for a classification and where there is no label.
    """
    errors = np.full(data.targets.shape, np.nan)
    for k, split in enumerate(fold_splits(data, config.cross_fit_folds, seed=config.seed)):
        part = replace(data, split=split)
        network = best_network(part, fold_config(config, k), folders[k]).eval()
        rows = part.rows("val")
        with torch.inference_mode():
            batches = (data.graphs.batch(rows[i : i + _BATCH].tolist()) for i in range(0, len(rows), _BATCH))
            out = torch.cat([network(batch).value for batch in batches])
        model_scalers = scalers or train_scalers(part)
        for t, (target, columns) in enumerate(zip(data.specs, output_slices(data.specs), strict=True)):
            if target.task == "regression":
                learned = target.forward(torch.tensor(data.targets[rows, t]))
                errors[rows, t] = target.from_network(out[:, columns.start].double(), model_scalers[t]) - learned
    return errors[data.rows("train")]


def network_config(data: PreparedData, config: TrainConfig) -> NetworkConfig:
    """The sizes that the data and the configuration ask for."""
    return NetworkConfig(
        architecture=config.network.for_graph(data.graph_config),
        n_outputs=sum(target.n_outputs for target in data.specs),
        mean_variance=config.mean_variance,
        quantiles=config.quantiles,
    )


def new_network(data: PreparedData, config: TrainConfig) -> Network:
    """A network of these sizes, with random weights."""
    return Network(network_config(data, config))


def train_scalers(data: PreparedData) -> list[Scaler]:
    """The scaler of each target, from the labels of the training split."""
    values = torch.tensor(data.labels("train"))
    return [Scaler.of(target, v[v.isfinite()]) for target, v in zip(data.specs, values.unbind(dim=1), strict=True)]


def best_network(data: PreparedData, config: TrainConfig, folder: Path) -> Network:
    """The network of the epoch that counts, from the checkpoints that :func:`train_member` left in a folder."""
    checkpoint = torch.load(
        folder / (LAST if config.checkpoint == "last" else BEST), map_location="cpu", weights_only=False
    )
    network = new_network(data, config)
    prefix = "network."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    network.load_state_dict(state)
    return network


def train_member(
    data: PreparedData,
    config: TrainConfig,
    folder: Path,
    *,
    network: Network | None = None,
    scalers: Sequence[Scaler] | None = None,
    resume: bool = False,
    progress: bool = True,
    stop_after: int | None = None,
) -> Path:
    """Train one network and return its best checkpoint, ``folder/best.ckpt``.

    The same data, configuration and number of threads give the same weights, in one go or in several. Fine-tuning
    starts from a ``network`` and the ``scalers`` that came with it. ``resume`` goes on from ``folder/last.ckpt`` if it
    is there; ``stop_after`` so many epochs it stops as if interrupted, on the schedule of all ``config.epochs``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        for name in (BEST, LAST, HISTORY):
            (folder / name).unlink(missing_ok=True)
    with quiet_lightning(), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        scalers = scalers or train_scalers(data)
        module = TrainingModule(network or new_network(data, config), scalers, data.specs, config)
        module.train()  # a model to tune comes in evaluation, and Lightning would leave it so
        train = loader(data, data.rows("train"), config.batch_size, seed=config.seed)
        val = loader(data, data.rows("val"), 2 * config.batch_size)
        trainer = make_trainer(config, folder, progress=progress, stop_after=stop_after)
        checkpoint = folder / LAST
        trainer.fit(module, train, val, ckpt_path=checkpoint if resume and checkpoint.exists() else None)
    if not (folder / BEST).exists():
        raise ValueError(f"{folder}: the val error is not a finite number: the training diverged; lower learning_rate")
    return folder / BEST


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advertisements and its advice on data loaders out of the user's terminal."""
    names = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        for name in names:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)

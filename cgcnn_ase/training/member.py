"""Train one network: the folder of one ensemble member."""

import csv
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from torch.optim.swa_utils import get_ema_avg_fn

from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.nn.network import Network, NetworkConfig
from cgcnn_ase.targets import Scaler
from cgcnn_ase.training.batches import loader
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.module import TrainingModule


class History(Callback):
    """Write ``history.csv``: epoch, train_loss, val_mae, learning_rate."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One row an epoch; a resumed run replaces the rows that it repeats."""
        del pl_module
        rows = [row for row in read_history(self.file) if int(row["epoch"]) < trainer.current_epoch]
        metrics = trainer.callback_metrics
        rows.append(
            {
                "epoch": trainer.current_epoch,
                "train_loss": float(metrics.get("train_loss", math.nan)),
                "val_mae": float(metrics["val_mae"]),
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            }
        )
        with self.file.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[-1].keys())
            writer.writeheader()
            writer.writerows(rows)


def read_history(file: Path) -> list[dict[str, Any]]:
    """Rows of a ``history.csv``; none if there is no such file."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


class RandomState(Callback):
    """Keep torch's random state in the checkpoint, so that dropout goes on where it stopped."""

    def state_dict(self) -> dict[str, Any]:
        """Saved with each checkpoint."""
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restored with the checkpoint."""
        self.state = state_dict["torch"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning itself draws numbers while it starts; the state is put back after that."""
        del trainer, pl_module
        if (state := getattr(self, "state", None)) is not None:
            torch.set_rng_state(state.cpu())
            self.state = None


def new_network(data: PreparedData, config: TrainConfig) -> Network:
    """A network with the sizes that the data and the configuration ask for."""
    architecture = replace(config.network, n_angular=data.graph_config.n_angular)
    return Network(
        NetworkConfig(architecture=architecture, n_outputs=data.target.n_outputs, mean_variance=config.mean_variance)
    )


def train_scaler(data: PreparedData) -> Scaler:
    """The scaler of the training split's targets."""
    if data.target.task == "classification":
        return Scaler()
    return Scaler.fit(data.target.forward(torch.tensor(data.targets[data.rows("train")])))


def train_member(
    data: PreparedData,
    config: TrainConfig,
    folder: Path,
    *,
    network: Network | None = None,
    scaler: Scaler | None = None,
    resume: bool = False,
    progress: bool = True,
    stop_after: int | None = None,
) -> Path:
    """Train one network and return its best checkpoint, ``folder/best.ckpt``.

    Parameters
    ----------
    network : Network, optional
        Start from these weights (fine-tuning) instead of new ones.
    scaler : Scaler, optional
        The one that came with these weights; by default fitted on the training split.
    resume : bool
        Go on from ``folder/last.ckpt`` if it is there.
    stop_after : int, optional
        Stop after so many epochs, as if interrupted; the schedule is that of all ``config.epochs``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet():
        pl.seed_everything(config.seed, verbose=False)
        scaler = scaler or train_scaler(data)
        module = TrainingModule(network or new_network(data, config), scaler, data.target, config)
        targets = torch.tensor(data.targets, dtype=torch.float32)
        train = loader(data.graphs, targets, data.rows("train"), config.batch_size, seed=config.seed)
        val = loader(data.graphs, targets, data.rows("val"), 2 * config.batch_size)
        best = ModelCheckpoint(folder, "best", monitor="val_mae", enable_version_counter=False)
        last = ModelCheckpoint(folder, "last", save_top_k=1, enable_version_counter=False, every_n_epochs=1)
        callbacks: list[Callback] = [History(folder / "history.csv"), RandomState()]
        if config.ema_decay is not None:
            callbacks.append(WeightAveraging(avg_fn=get_ema_avg_fn(config.ema_decay)))
        if config.patience is not None:
            callbacks.append(EarlyStopping("val_mae", patience=config.patience))
        trainer = pl.Trainer(
            max_epochs=config.epochs,
            callbacks=[*callbacks, best, last],
            gradient_clip_val=config.gradient_clip,
            logger=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            use_distributed_sampler=False,
        )
        if stop_after is not None:
            trainer.callbacks.append(_StopAfter(stop_after))  # type: ignore[attr-defined]
        checkpoint = folder / "last.ckpt"
        trainer.fit(module, train, val, ckpt_path=checkpoint if resume and checkpoint.exists() else None)
    return folder / "best.ckpt"


class _StopAfter(Callback):
    def __init__(self, n_epochs: int) -> None:
        self.n_epochs = n_epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del pl_module
        trainer.should_stop = trainer.current_epoch + 1 >= self.n_epochs


@contextmanager
def _quiet() -> Iterator[None]:
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

"""Around each epoch of a training: random numbers, the record, the checkpoints."""

import csv
import math
import os
from pathlib import Path
from typing import cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging
from lightning.pytorch.loggers import Logger
from torch.optim.swa_utils import get_ema_avg_fn

from cgcnn_ase.core.errors import require
from cgcnn_ase.core.files import atomic_path
from cgcnn_ase.training.config import TrainConfig

#: set by torchrun, and by SLURM for each of its tasks: the processes are there already
_LAUNCHED = ("TORCHELASTIC_RUN_ID", "SLURM_PROCID")


def make_trainer(config: TrainConfig, folder: Path, *, progress: bool, stop_after: int | None = None) -> pl.Trainer:
    """The trainer that a configuration asks for; it writes into ``folder``.

    Several devices train by distributed data parallelism: each process takes its part of every batch of
    ``batch_size * devices * nodes`` crystals, and gradients are averaged. On one node the processes are started here;
    on several, start one a device with ``srun`` or ``torchrun``, or there is a ValueError.
    """
    return pl.Trainer(
        max_epochs=config.epochs,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=_strategy(config),
        precision=config.precision,
        callbacks=_callbacks(config, folder, stop_after),
        gradient_clip_val=config.gradient_clip,
        accumulate_grad_batches=config.accumulate,
        logger=_logger(folder) if config.tensorboard else False,
        log_every_n_steps=10,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        use_distributed_sampler=False,
    )


def device_of(config: TrainConfig) -> str:
    """Device that a run trains on: ``cpu``, or the GPU by name."""
    if config.accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_devices(config: TrainConfig) -> None:
    """Raise a ValueError unless there are the GPUs that the settings ask for, before a run begins."""
    n_gpus = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    if config.accelerator == "gpu" and not n_gpus:
        raise ValueError("accelerator gpu: torch finds no GPU on this machine; allowed here: cpu or auto")
    if config.accelerator != "cpu" and n_gpus and config.devices > n_gpus:
        raise ValueError(f"{config.devices} devices: this machine has {n_gpus}; allowed: devices up to that number")
    _strategy(config)


def _strategy(config: TrainConfig) -> str:
    if config.devices * config.nodes == 1:
        return "auto"
    launched = any(name in os.environ for name in _LAUNCHED)
    if config.nodes > 1 and not launched:
        raise ValueError(
            f"{config.nodes} nodes: start one process a device, with `srun` in a SLURM job or with `torchrun`; "
            "this one was started alone"
        )
    return "ddp" if launched else "ddp_spawn"


def _logger(folder: Path) -> Logger:
    require("tensorboard", "tensorboard: true")
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="", version="tensorboard")


def _callbacks(config: TrainConfig, folder: Path, stop_after: int | None) -> list[Callback]:
    callbacks: list[Callback] = [Reseed(config.seed), History(folder / HISTORY)]
    if config.ema_decay is not None:
        callbacks.append(WeightAveraging(avg_fn=get_ema_avg_fn(config.ema_decay)))
    if config.swa_start is not None:
        callbacks.append(StochasticWeightAverage(round(config.swa_start * config.epochs)))
    if stop_after is not None:
        callbacks.append(StopAfter(stop_after))
    return [*callbacks, KeepBestAndLast(folder, config.patience)]


class StochasticWeightAverage(WeightAveraging):
    """Equal-weight average of the weights after each epoch from ``first`` on (Izmailov et al., arXiv:1803.05407).

    Validation and the saved model see the average. Running statistics of norms are averaged, too.
    """

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After an epoch, not after a step."""
        del step_idx
        return epoch_idx is not None and epoch_idx >= self.first


BEST, LAST, HISTORY = "best.ckpt", "last.ckpt", "history.csv"


class History(Callback):
    """Write ``history.csv``: epoch, train_loss, val_error, that of each target if there are several, learning_rate."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One row an epoch; a resumed run replaces the rows that it repeats."""
        del pl_module
        if not trainer.is_global_zero:
            return
        rows: list[dict[str, object]] = [
            {**row} for row in read_history(self.file) if int(row["epoch"]) < trainer.current_epoch
        ]
        metrics = trainer.callback_metrics
        rows.append(
            {
                "epoch": trainer.current_epoch,
                "train_loss": float(metrics["train_loss"]),
                **{name: float(value) for name, value in metrics.items() if name.startswith("val_")},
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            }
        )
        with atomic_path(self.file) as tmp, tmp.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[-1].keys())
            writer.writeheader()
            writer.writerows(rows)


def read_history(file: Path) -> list[dict[str, str]]:
    """Rows of a ``history.csv``; none if there is no such file."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


class Reseed(Callback):
    """The random numbers of epoch k (dropout) depend on (seed, k) alone, so that a resumed run draws the same."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Before the first batch: Lightning calls no ``on_train_epoch_start`` in the first epoch after a resume."""
        del pl_module, batch
        if batch_idx == 0:
            seed = np.random.SeedSequence((self.seed, trainer.current_epoch, trainer.global_rank))
            torch.manual_seed(int(seed.generate_state(1)[0]))


class KeepBestAndLast(Checkpoint):
    """Write ``best.ckpt``, of the lowest val error, and ``last.ckpt``, to go on from; stop where nothing improves.

    The folder may be moved between a stop and a resume, which Lightning's own ``ModelCheckpoint`` does not follow.
    """

    def __init__(self, folder: Path, patience: int | None = None) -> None:
        self.folder, self.patience = folder, patience
        self.best, self.best_epoch, self.stopped = math.inf, -1, False

    def state_dict(self) -> dict[str, object]:
        """Saved with each checkpoint."""
        return {"best": self.best, "best_epoch": self.best_epoch, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Restored with the checkpoint."""
        state = cast("tuple[float, int, bool]", tuple(state_dict[name] for name in ("best", "best_epoch", "stopped")))
        self.best, self.best_epoch, self.stopped = state

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that had stopped by itself does not go on."""
        del pl_module
        if self.stopped:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; stop after ``patience`` epochs without a better error, or when the error is no number."""
        del pl_module
        error, epoch = float(trainer.callback_metrics["val_error"]), trainer.current_epoch
        better = error < self.best
        if better:
            self.best, self.best_epoch = error, epoch
        waited = self.patience is not None and epoch - self.best_epoch >= self.patience
        self.stopped = waited or not math.isfinite(error)
        if self.stopped:
            trainer.should_stop = True
        for name in (BEST, LAST) if better else (LAST,):
            if trainer.is_global_zero:
                with atomic_path(self.folder / name) as tmp:
                    trainer.save_checkpoint(tmp, weights_only=False)
            else:  # every process takes part, the first writes
                trainer.save_checkpoint(self.folder / name, weights_only=False)


class StopAfter(Callback):
    """Stop after some epochs, as if interrupted."""

    def __init__(self, n_epochs: int) -> None:
        self.n_epochs = n_epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the rest for a resume."""
        del pl_module
        if trainer.current_epoch + 1 >= self.n_epochs:
            trainer.should_stop = True

"""What happens around each epoch of a training: random numbers, the record, the checkpoints."""

import csv
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint

BEST, LAST, HISTORY = "best.ckpt", "last.ckpt", "history.csv"


class History(Callback):
    """Write ``history.csv``: epoch, train_loss, val_error, that of each target if there are several, learning_rate."""

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
                "train_loss": float(metrics["train_loss"]),
                **{name: float(value) for name, value in metrics.items() if name.startswith("val_")},
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            }
        )
        draft = self.file.with_name(f".{self.file.name}")
        with draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[-1].keys())
            writer.writeheader()
            writer.writerows(rows)
        draft.replace(self.file)


def read_history(file: Path) -> list[dict[str, Any]]:
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
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before the first batch: Lightning calls no ``on_train_epoch_start`` in the first epoch after a resume."""
        del pl_module, batch
        if batch_idx == 0:
            seed = np.random.SeedSequence((self.seed, trainer.current_epoch))
            torch.manual_seed(int(seed.generate_state(1)[0]))


class KeepBestAndLast(Checkpoint):
    """Write ``best.ckpt``, of the lowest val error, and ``last.ckpt``, to go on from; stop where nothing improves.

    The folder may be moved between a stop and a resume, which Lightning's own ``ModelCheckpoint`` does not follow.
    """

    def __init__(self, folder: Path, patience: int | None = None) -> None:
        self.folder, self.patience = folder, patience
        self.best, self.best_epoch, self.stopped = math.inf, -1, False

    def state_dict(self) -> dict[str, Any]:
        """Saved with each checkpoint."""
        return {"best": self.best, "best_epoch": self.best_epoch, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restored with the checkpoint."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]
        self.stopped = state_dict["stopped"]

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
            draft = self.folder / f".{name}"
            trainer.save_checkpoint(draft, weights_only=False)
            draft.replace(self.folder / name)


class StopAfter(Callback):
    """Stop after some epochs, as if interrupted."""

    def __init__(self, n_epochs: int) -> None:
        self.n_epochs = n_epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the rest for a resume."""
        del pl_module
        if trainer.current_epoch + 1 >= self.n_epochs:
            trainer.should_stop = True

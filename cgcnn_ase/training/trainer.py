"""The Lightning trainer of a run: devices, precision, callbacks, logger."""

import os
from importlib.util import find_spec
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.loggers import Logger
from torch.optim.swa_utils import get_ema_avg_fn

from cgcnn_ase.training.callbacks import HISTORY, History, KeepBestAndLast, Reseed, StopAfter
from cgcnn_ase.training.config import TrainConfig

#: set by torchrun, and by SLURM for each of its tasks: the processes are there already
_LAUNCHED = ("TORCHELASTIC_RUN_ID", "SLURM_PROCID")


def make_trainer(config: TrainConfig, folder: Path, *, progress: bool, stop_after: int | None = None) -> pl.Trainer:
    """The trainer that a configuration asks for; it writes into ``folder``.

    Several devices train by distributed data parallelism: each process takes its part of every batch of
    ``batch_size * devices * nodes`` crystals, and gradients are averaged. On one node the processes are started here;
    on several, start one a device with ``srun`` or ``torchrun``.

    Raises
    ------
    ValueError
        If several nodes are asked for and no launcher has started this process.
    ImportError
        If ``tensorboard`` is asked for and not installed.
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


def check_devices(config: TrainConfig) -> None:
    """See that there are the GPUs that the settings ask for, before a run begins.

    Raises
    ------
    ValueError
        In words, if there are not.
    """
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
    if find_spec("tensorboard") is None:
        raise ImportError('tensorboard: true needs TensorBoard; `pip install "cgcnn-ase[train]"`')
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

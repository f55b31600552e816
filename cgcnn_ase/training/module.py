"""The Lightning module of one network (loss, optimiser, schedule, validation) and the batches that it is fed."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler
from torchmetrics import MeanMetric

from cgcnn_ase.core.arrays import Ints
from cgcnn_ase.core.targets import Scaler, TargetSpec, output_slices
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.graphs.crystal_graph import CrystalGraph, to_device
from cgcnn_ase.nn.network import QUANTILES, Network, Output
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.start_model import eval_frozen_modules

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from typing_extensions import Self


class Batch(NamedTuple):
    """Graphs and their targets."""

    graph: CrystalGraph
    targets: Tensor  #: (B, T), or (N, T) for targets of sites; NaN where there is no label


class GraphSamples(Dataset[Batch]):
    """Hands out whole batches; a batch is cut from the flat arrays at once."""

    def __init__(self, data: PreparedData) -> None:
        self.data, self.targets = data, torch.tensor(data.targets, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.data.graphs)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        """The batch of these samples."""
        rows = torch.as_tensor(indices).sort().values  # neighbours on disk are read together
        return Batch(self.data.graphs.batch(rows), self.targets[self.data.target_rows(rows)])


class EpochSampler(Sampler[list[int]]):
    """Batches of indices; epoch k is shuffled by (seed, k) alone, so that a resumed run sees the same batches.

    Of several processes each takes every so-many-th batch of a training, all the same number of them, and every
    so-many-th row of what is only looked at.
    """

    def __init__(self, rows: Ints, batch_size: int, seed: int | None) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        rank, world = process()
        if self.seed is None:
            return -(-len(self.rows[rank::world]) // self.batch_size)
        whole = len(self.rows) // (self.batch_size * world)
        return max(1, whole) if world == 1 else whole

    def __iter__(self) -> Iterator[list[int]]:
        rank, world = process()
        rows, size = self.rows[rank::world], self.batch_size
        if self.seed is not None:
            rows = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
            of_step = size * world
            rows = np.concatenate([rows[k * of_step + rank * size :][:size] for k in range(len(self))])
        for k in range(len(self)):
            yield rows[k * size : (k + 1) * size].tolist()


def process() -> tuple[int, int]:
    """Number of this process and how many there are, of those that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def loader(data: PreparedData, rows: Ints, batch_size: int, seed: int | None = None) -> DataLoader[Batch]:
    """Batches of the given rows: shuffled, whole batches only, with a seed; in order, all of them, without.

    The sampler of batches stands in the place of one of samples (``batch_size=None``): Lightning tells the epoch to no
    other, and every epoch would have the same batches.
    """
    samples, sampler = GraphSamples(data), EpochSampler(rows, batch_size, seed)
    return DataLoader(samples, batch_size=None, sampler=sampler, collate_fn=_whole_batch)


def _whole_batch(batch: object) -> Batch:
    """There is nothing left to collate."""
    assert isinstance(batch, Batch)
    return batch


def target_loss(out: Output, values: Tensor, target: TargetSpec, scaler: Scaler, kind: str) -> Tensor:
    """Mean loss over the labelled samples of a batch; zero, with a gradient of zero, where there is none.

    ``values`` are (B,) labels in the target's unit, NaN where there is none; ``kind`` (l1, huber or mse) is of a
    regression, the loss of a classification is the cross-entropy.
    """
    labelled = values.isfinite()
    if not bool(labelled.all()):
        out, values = Output(*(None if part is None else part[labelled] for part in out)), values[labelled]  # type: ignore[arg-type]
    if not len(values):
        return out.value.sum() * 0.0
    if target.task == "classification":
        return F.cross_entropy(out.value, values.long())
    return regression_loss(out, scaler.scale(target.forward(values)), kind)


def regression_loss(out: Output, targets: Tensor, kind: str) -> Tensor:
    """Loss of the value, plus that of its predicted error where the head has one.

    The error is taken as given there: the value is trained by its own loss alone. A mean-variance head minimises the
    Laplace likelihood, a quantile head the pinball loss of both quantiles (Koenker and Bassett, 1978).
    """
    value = out.value[:, 0]
    loss = {"l1": F.l1_loss, "huber": F.smooth_l1_loss, "mse": F.mse_loss}[kind](value, targets)
    if out.below is not None and out.above is not None:
        low, high = value.detach() - out.below[:, 0], value.detach() + out.above[:, 0]
        return loss + pinball(targets - low, QUANTILES[0]) + pinball(targets - high, QUANTILES[1])
    if out.scale is not None:
        error = (value - targets).abs().detach()
        loss = loss + (error / out.scale[:, 0] + out.scale[:, 0].log()).mean()
    return loss


def pinball(excess: Tensor, q: float) -> Tensor:
    """max(q x, (q - 1) x), least on average where x = target - quantile is positive with probability 1 - q."""
    return torch.maximum(q * excess, (q - 1.0) * excess).mean()


#: what the val error is called in the record
VAL = "val_error"


class TrainingModule(pl.LightningModule):
    """Trains a :class:`Network` on one or several targets.

    ``val_error`` is the mean absolute error, in what the network learns, for a single regression; otherwise the
    weighted sum, over the targets, of the scaled mean absolute error of a regression and the share of wrong classes of
    a classification (its cross-entropy grows with confidence long after the classes are learned, and the temperature
    takes that back). Each target's own is recorded as ``val_NAME``.
    """

    def __init__(
        self, network: Network, scalers: Sequence[Scaler], targets: Sequence[TargetSpec], config: TrainConfig
    ) -> None:
        super().__init__()
        self.network, self.scalers, self.targets, self.config = network, tuple(scalers), tuple(targets), config
        self.slices = output_slices(self.targets)
        self.weights = [config.cls_weight if target.task == "classification" else 1.0 for target in targets]
        self.engine = "torch" if config.compile else config.engine
        self.val_errors = nn.ModuleList(MeanMetric(nan_strategy="disable") for _ in targets)
        if config.compile:
            self.network.compile(dynamic=True)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the graph and the targets."""
        del dataloader_idx
        return Batch(to_device(batch.graph, device), batch.targets.to(device))

    def train(self, mode: bool = True) -> "Self":
        """Into training or out of it; fixed layers keep their running statistics."""
        super().train(mode)
        eval_frozen_modules(self.network, norms=self.config.freeze_batchnorm_stats)
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        del batch_idx
        out = self.network(batch.graph, self.engine)
        losses = [
            weight * target_loss(out.of(columns), batch.targets[:, k], target, scaler, self.config.loss)
            for k, (target, scaler, columns, weight) in enumerate(self._each())
        ]
        loss = torch.stack(losses).sum()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.targets), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect errors; the metrics are over the whole set, not means over batches."""
        del batch_idx
        out = self.network(batch.graph, self.engine)
        for k, (target, scaler, columns, _) in enumerate(self._each()):
            values = batch.targets[:, k]
            labelled = values.isfinite()
            errors = sample_errors(out.of(columns), values, target, scaler)[labelled]
            if len(errors):
                self._metrics()[k].update(errors)

    def on_validation_epoch_end(self) -> None:
        """Record the error of each target and the one that decides which epoch is best."""
        errors = [metric.compute() for metric in self._metrics()]
        for metric in self._metrics():
            metric.reset()
        if len(self.targets) == 1:
            self.log(VAL, errors[0])
            return
        for target, error in zip(self.targets, errors, strict=True):
            self.log(f"val_{target.name}", error)
        scaled = [
            weight * error / (scaler.std if target.task == "regression" else 1.0)
            for (target, scaler, _, weight), error in zip(self._each(), errors, strict=True)
        ]
        self.log(VAL, torch.stack(scaled).sum())

    def _metrics(self) -> list[MeanMetric]:
        return [metric for metric in self.val_errors if isinstance(metric, MeanMetric)]

    def _each(self) -> list[tuple[TargetSpec, Scaler, slice, float]]:
        return list(zip(self.targets, self.scalers, self.slices, self.weights, strict=True))

    def configure_optimizers(self) -> "OptimizerLRScheduler":
        """AdamW without decay on norms, biases and embeddings; one cycle over all steps."""
        groups = parameter_groups(self.network, self.config)
        fused = self.config.precision == "32-true"  # in mixed precision Lightning clips no gradients of a fused one
        optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=fused)
        n_steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[self.config.learning_rate * group["factor"] for group in groups],
            total_steps=n_steps,
            pct_start=0.1 if n_steps > 10 else 0.0,  # a warm-up of one step is a division by zero
            div_factor=10.0,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def sample_errors(out: Output, values: Tensor, target: TargetSpec, scaler: Scaler) -> Tensor:
    """Absolute error, in what the network learns, or whether the class is wrong, of each sample, (B,)."""
    if target.task == "regression":
        learned = target.from_network(out.value[:, 0], scaler)
        return (learned - target.forward(values)).abs()
    return (out.value.argmax(dim=1) != values).float()


def parameter_groups(network: Network, config: TrainConfig) -> list[dict[str, Any]]:
    """Weight matrices of linear maps decay; biases, norms and element tables do not.

    With ``backbone_lr_scale`` other than one, embeddings and convolutions learn with so many times the learning rate.
    """
    backbone = {module for group in network.architecture.backbone for part in group for module in part.modules()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                decays = isinstance(module, nn.Linear) and name == "weight"
                groups.setdefault((decays, module in backbone and config.backbone_lr_scale != 1.0), []).append(
                    parameter
                )
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "factor": config.backbone_lr_scale if slow else 1.0,
        }
        for (decays, slow), parameters in sorted(groups.items(), key=lambda item: (not item[0][0], item[0][1]))
    ]

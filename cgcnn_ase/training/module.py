"""The Lightning module: loss, optimiser, schedule and validation of one network."""

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.regression import MeanAbsoluteError

from cgcnn_ase.graphs.crystal_graph import map_tensors
from cgcnn_ase.nn.heads import Output
from cgcnn_ase.nn.network import Network
from cgcnn_ase.targets import Scaler, TargetSpec
from cgcnn_ase.training.batches import Batch
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.finetune import hold_frozen

if TYPE_CHECKING:
    from typing_extensions import Self


class TrainingModule(pl.LightningModule):
    """Trains a :class:`Network` on one target. Validation errors are in the target's transformed unit."""

    def __init__(self, network: Network, scaler: Scaler, target: TargetSpec, config: TrainConfig) -> None:
        super().__init__()
        self.network, self.scaler, self.target, self.config = network, scaler, target, config
        self.engine = "torch" if config.compile else config.engine
        self.val_mae = MeanAbsoluteError()
        if config.compile:
            self.network.compile(dynamic=True)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the graph and the targets."""
        del dataloader_idx
        return Batch(map_tensors(batch.graph, lambda t: t.to(device, non_blocking=True)), batch.targets.to(device))

    def train(self, mode: bool = True) -> "Self":
        """Into training or out of it; fixed layers keep their running statistics."""
        super().train(mode)
        hold_frozen(self.network)
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        del batch_idx
        out = self.network(batch.graph, self.engine)
        loss = regression_loss(out, self.scaler.scale(self.target.forward(batch.targets)), self.config.loss)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.targets))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect errors; the metric is over the whole set, not a mean over batches."""
        del batch_idx
        out = self.network(batch.graph, self.engine)
        self.val_mae.update(self.scaler.unscale(out.value[:, 0]), self.target.forward(batch.targets))
        self.log("val_mae", self.val_mae, on_step=False, on_epoch=True, batch_size=len(batch.targets))

    def configure_optimizers(self) -> Any:
        """AdamW without decay on norms, biases and embeddings; one cycle over all steps."""
        optimizer = torch.optim.AdamW(parameter_groups(self.network, self.config.weight_decay), lr=1e-3, fused=True)
        n_steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.config.learning_rate,
            total_steps=n_steps,
            pct_start=0.1 if n_steps > 10 else 0.0,  # a warm-up of one step is a division by zero
            div_factor=10.0,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight matrices of linear maps decay; biases, norms and element tables do not."""
    decays: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                (decays if isinstance(module, nn.Linear) and name == "weight" else others).append(parameter)
    return [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def regression_loss(out: Output, targets: Tensor, kind: str) -> Tensor:
    """Loss of the value, plus the Laplace likelihood of its error where the head predicts one.

    The error is taken as given there: the value is trained by its own loss alone.
    """
    value = out.value[:, 0]
    loss = {"l1": F.l1_loss, "huber": F.smooth_l1_loss, "mse": F.mse_loss}[kind](value, targets)
    if out.scale is not None:
        error = (value - targets).abs().detach()
        loss = loss + (error / out.scale[:, 0] + out.scale[:, 0].log()).mean()
    return loss

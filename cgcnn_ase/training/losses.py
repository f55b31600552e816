"""The loss of one target, of those samples that have a label for it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cgcnn_ase.nn.heads import QUANTILES, Output
from cgcnn_ase.targets import Scaler, TargetSpec


def target_loss(out: Output, values: Tensor, target: TargetSpec, scaler: Scaler, kind: str) -> Tensor:
    """Mean loss over the labelled samples of a batch; zero, with a gradient of zero, where there is none.

    Parameters
    ----------
    out : Output
        The target's own outputs.
    values : Tensor
        (B,) labels in the target's unit; NaN where there is none.
    kind : {"l1", "huber", "mse"}
        Of a regression; the loss of a classification is the cross-entropy.
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

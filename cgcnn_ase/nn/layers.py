"""Activations, normalisations and dense layers by name."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WeightedBatchNorm(nn.BatchNorm1d):
    """Batch norm that counts each row as often as its weight says.

    y = g (x - m) / sqrt(s + eps) + b, where m and s are the weighted mean and variance of each column in training, and
    the running ones in evaluation. Outputs, gradients and running statistics are those of ``nn.BatchNorm1d`` on a batch
    that holds each row as many times, so that a graph with merged atoms trains as the graph of all atoms does.
    """

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(R, C), (R,) -> (R, C); without weights each row counts once."""
        if weights is None or not self.training or (len(x) < 2 and float(weights.sum()) < 2):
            if self.training and len(x) == 1:
                raise ValueError(
                    "a batch norm in training needs at least two rows, there is 1: "
                    "take larger batches (batch_size), or norms that need no batch (network.norm: layer)"
                )
            return super().forward(x)
        weights = weights.to(x.dtype)
        n = weights.sum()
        mean, variance = weighted_moments(x, weights / n)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * (n / (n - 1)), self.momentum)
        return standardise(x, mean, variance, self.weight, self.bias, self.eps)


def weighted_moments(x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each column for weights that sum to one: (R, C), (R,) -> (C,), (C,).

    m = sum_r p_r x_r and s = sum_r p_r (x_r - m)^2. The weights are taken for constants.
    """
    mean, variance = _WeightedMoments.apply(x, p)  # type: ignore[no-untyped-call]
    return mean, variance


class _WeightedMoments(torch.autograd.Function):
    """Its gradient in one pass, where autograd makes five: dm/dx_r = p_r and ds/dx_r = 2 p_r (x_r - m).

    The mean is saved as an output, so that it is part of the graph when the gradient is differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        mean = p @ x
        variance = p @ (x - mean).square_()
        ctx.save_for_backward(x, p, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, by_mean: Tensor, by_variance: Tensor) -> tuple[Tensor, None]:
        x, p, mean = ctx.saved_tensors
        slope = 2 * by_variance
        return torch.addcmul(by_mean - slope * mean, x, slope).mul_(p[:, None]), None


def standardise(x: Tensor, mean: Tensor, variance: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Gain times (x - m) / sqrt(s + eps) plus bias, by PyTorch's own kernel: (R, C) and four of (C,) -> (R, C).

    The kernel takes m and s for constants. Their gradients go through the gain and the bias instead, into which go a
    factor of value one and a summand of value zero: the result is the same function of m and s, to all orders.
    """
    fixed_mean, fixed_variance = mean.detach(), variance.detach()
    scale = torch.rsqrt(variance + eps)
    gain, bias = gain * (scale / scale.detach()), bias - gain * scale * (mean - fixed_mean)
    return F.batch_norm(x, fixed_mean, fixed_variance, gain, bias, eps=eps)


Activation = Literal["softplus", "ssp", "elu", "relu", "selu", "celu", "silu"]
Norm = Literal["batch", "layer", "none"]


def activation(name: Activation) -> nn.Module:
    """A module for an activation's name."""
    modules: dict[Activation, type[nn.Module]] = {
        "softplus": nn.Softplus,
        "ssp": ShiftedSoftplus,
        "elu": nn.ELU,
        "relu": nn.ReLU,
        "selu": nn.SELU,
        "celu": nn.CELU,
        "silu": nn.SiLU,
    }
    return modules[name]()


def norm(name: Norm, n_features: int) -> nn.Module:
    """A module that normalises (rows, n_features); its second argument, if any, says how often each row counts."""
    return {"batch": WeightedBatchNorm, "layer": LayerNorm, "none": NoNorm}[name](n_features)


class ShiftedSoftplus(nn.Module):
    """log(1 + e^x) - log 2, which is zero at zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Of each number."""
        return F.softplus(x) - math.log(2.0)


class LayerNorm(nn.LayerNorm):
    """Each row by itself, however often it counts."""

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(R, C) -> (R, C)."""
        del weights
        return super().forward(x)


class NoNorm(nn.Identity):
    """The rows as they are."""

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(R, C) -> (R, C)."""
        del weights
        return x


class Dense(nn.Module):
    """g(norm(x W + b)); a norm has a shift of its own and takes the place of b."""

    def __init__(self, n_in: int, n_out: int, act: Activation, kind: Norm = "none", *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out, bias=bias and kind == "none")
        self.norm = norm(kind, n_out)
        self.act = activation(act)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(R, n_in), (R,) -> (R, n_out); the weights say how often each row counts."""
        return self.act(self.norm(self.linear(x), weights))

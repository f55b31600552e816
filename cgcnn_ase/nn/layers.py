"""Activations, normalisations and dense layers by name."""

import math
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from cgcnn_ase.nn.batch_norm import WeightedBatchNorm

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

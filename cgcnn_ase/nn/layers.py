"""Activations and normalisations by name."""

from typing import Literal

from torch import Tensor, nn

from cgcnn_ase.nn.batch_norm import WeightedBatchNorm

Activation = Literal["softplus", "silu"]
Norm = Literal["batch", "layer", "none"]


def activation(name: Activation) -> nn.Module:
    """A module for an activation's name."""
    return {"softplus": nn.Softplus, "silu": nn.SiLU}[name]()


def norm(name: Norm, n_features: int) -> nn.Module:
    """A module that normalises (rows, n_features); its second argument, if any, says how often each row counts."""
    return {"batch": WeightedBatchNorm, "layer": LayerNorm, "none": NoNorm}[name](n_features)


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

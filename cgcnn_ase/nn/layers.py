"""Activations and normalisations by name."""

from typing import Literal

from torch import nn

Activation = Literal["softplus", "silu"]
Norm = Literal["batch", "layer", "none"]


def activation(name: Activation) -> nn.Module:
    """A module for an activation's name."""
    return {"softplus": nn.Softplus, "silu": nn.SiLU}[name]()


def norm(name: Norm, n_features: int) -> nn.Module:
    """A module that normalises (rows, n_features)."""
    if name == "batch":
        return nn.BatchNorm1d(n_features)
    return nn.LayerNorm(n_features) if name == "layer" else nn.Identity()

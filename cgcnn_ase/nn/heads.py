"""From the crystal vector to what a target needs."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Output(NamedTuple):
    """What a network says of each crystal, in scaled units."""

    value: Tensor  #: (B, n_out); logits of the classes for a classification
    scale: Tensor | None = None  #: (B, n_out) predicted size of the error (the b of a Laplace distribution)


class Head(nn.Module):
    """Linear map to the value, and for mean-variance models a small network for the size of its error.

    The error network reads the crystal vector without changing it (its gradient stops there), so the value is as
    accurate as without.
    """

    def __init__(self, n_hidden: int, n_out: int = 1, *, with_scale: bool = False) -> None:
        super().__init__()
        self.out = nn.Linear(n_hidden, n_out)
        self.scale = (
            nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_out)) if with_scale else None
        )

    def forward(self, crystal: Tensor) -> Output:
        """(B, n_hidden) -> value and scale, (B, n_out) each."""
        value = self.out(crystal)
        if self.scale is None:
            return Output(value)
        return Output(value, torch.exp(self.scale(crystal.detach()).clamp(-7.0, 4.0)))

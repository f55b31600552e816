"""From the crystal vector to what the targets need."""

from math import log
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: what a head says of its own error: nothing, the scale of a Laplace distribution, or the 5 % and 95 % quantiles
ErrorHead = Literal["none", "mean-variance", "quantile"]

#: between these probabilities the quantile heads' interval lies
QUANTILES = (0.05, 0.95)
#: width of that interval for a Laplace distribution of scale one
_LAPLACE_WIDTH = -2.0 * log(2.0 * QUANTILES[0])


class Output(NamedTuple):
    """What a network says of each crystal (or site), in scaled units."""

    value: Tensor  #: (B, n_out); logits of the classes for a classification
    scale: Tensor | None = None  #: (B, n_out) predicted size of the error (the b of a Laplace distribution)
    below: Tensor | None = None  #: (B, n_out) distance of the 5 % quantile below the value, for a quantile head
    above: Tensor | None = None  #: (B, n_out) distance of the 95 % quantile above it

    def of(self, columns: slice) -> "Output":
        """The outputs of one target."""
        return Output(*(None if part is None else part[:, columns] for part in self))  # type: ignore[arg-type]


class Head(nn.Module):
    """Linear map to the value, and a small network for the size of its error where that is asked for.

    The error network reads the crystal vector without changing it (its gradient stops there), so the value is as
    accurate as without.
    """

    def __init__(self, n_hidden: int, n_out: int = 1, *, error: ErrorHead = "none") -> None:
        super().__init__()
        self.error = error
        self.out = nn.Linear(n_hidden, n_out)
        n_error = {"none": 0, "mean-variance": n_out, "quantile": 2 * n_out}[error]
        self.scale = (
            nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_error)) if n_error else None
        )

    def forward(self, crystal: Tensor) -> Output:
        """(B, n_hidden) -> value and what is said of its error, (B, n_out) each."""
        value = self.out(crystal)
        if self.scale is None:
            return Output(value)
        error = self.scale(crystal.detach())
        if self.error == "mean-variance":
            return Output(value, torch.exp(error.clamp(-7.0, 4.0)))
        below, above = F.softplus(error).chunk(2, dim=1)
        return Output(value, ((below + above) / _LAPLACE_WIDTH).clamp(min=1e-3), below, above)

"""Networks: an architecture with its head, which is one member of an ensemble."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgcnn_ase.graphs.crystal_graph import CrystalGraph
from cgcnn_ase.nn.architecture import ArchitectureConfig
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.nn.messages import Engine

# what a head says of its own error: nothing, the scale of a Laplace distribution, or the 5 % and 95 % quantiles
ErrorHead = Literal["none", "mean-variance", "quantile"]

# between these probabilities the quantile heads' interval lies
QUANTILES = (0.05, 0.95)
# width of that interval for a Laplace distribution of scale one
_LAPLACE_WIDTH = -2.0 * log(2.0 * QUANTILES[0])


class Output(NamedTuple):
    """Outputs of a network for each crystal (or site), in scaled units."""

    value: Tensor  # (B, n_out); logits of the classes for a classification
    scale: Tensor | None = None  # (B, n_out) predicted size of the error (the b of a Laplace distribution)
    below: Tensor | None = None  # (B, n_out) distance of the 5 % quantile below the value, for a quantile head
    above: Tensor | None = None  # (B, n_out) distance of the 95 % quantile above it

    def of(self, columns: slice) -> "Output":
        """The outputs of one target."""
        return self.map(lambda part: part[:, columns])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Output":
        """The outputs with every tensor changed."""
        scale, below, above = (None if part is None else change(part) for part in self[1:])
        return Output(change(self.value), scale, below, above)


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


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """An architecture and the shape of its head."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    architecture: ArchitectureConfig = field(default_factory=CGCNNConfig)
    n_outputs: int = 1
    n_heads: int = 1  # linear maps of the same vector that are members of an ensemble (Kellner and Ceriotti, 2024)
    mean_variance: bool = False  # whether the head also predicts the size of its error
    quantiles: bool = False  # the same, as the 5 % and 95 % quantiles of the target

    def __post_init__(self) -> None:
        if self.mean_variance and self.quantiles:
            raise ValueError("a head has mean_variance or quantiles, not both")
        if self.n_heads < 1 or (self.n_heads > 1 and self.error != "none"):
            raise ValueError(f"n_heads must be 1 or, without mean_variance and quantiles, more, not {self.n_heads}")

    @property
    def error(self) -> ErrorHead:
        """Kind of error that the head predicts."""
        return "quantile" if self.quantiles else "mean-variance" if self.mean_variance else "none"


class Network(nn.Module):
    """Graph -> :class:`Output` in scaled units."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.architecture = config.architecture.build()
        self.head = Head(self.architecture.n_crystal, config.n_heads * config.n_outputs, error=config.error)

    def pooled(self, graph: CrystalGraph, engine: Engine = "auto") -> Tensor:
        """Crystal embedding before the head, (B, P): everything that dropout leaves alone."""
        return self.architecture.pool(graph, self.architecture.atoms(graph, engine))

    def read(self, pooled: Tensor, mask: Tensor | None = None) -> Output:
        """Head on the crystal embedding, the mean of several; a mask (C,) switches parts of it off, as dropout does."""
        heads = self.read_heads(pooled, mask)
        return heads[0] if len(heads) == 1 else Output(torch.stack([head.value for head in heads]).mean(dim=0))

    def read_heads(self, pooled: Tensor, mask: Tensor | None = None) -> list[Output]:
        """As :meth:`read`, each head for itself."""
        output: Output = self.head(self.architecture.crystal(pooled, mask))
        offset, n = self.architecture.offset(pooled), self.architecture.extensive_factor(pooled)
        if offset is not None:
            output = output._replace(value=output.value + offset)
        if n is not None:
            output = output.map(lambda part: part * n)
        n_out = self.config.n_outputs
        return [output.of(slice(k * n_out, (k + 1) * n_out)) for k in range(self.config.n_heads)]

    def forward(self, graph: CrystalGraph, engine: Engine = "auto") -> Output:
        """Value (and scale) of each crystal."""
        return self.read(self.pooled(graph, engine))

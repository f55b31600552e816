"""What a model predicts: name, unit and meaning of a target, and its scaling."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

Task = Literal["regression", "classification"]
Transform = Literal["none", "log10"]


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """One property.

    ``per_atom`` says that the quantity is an average over atoms (eV/atom); ``transform`` is what the network learns:
    with ``log10`` the value and the unit given here are those of the physical quantity, its logarithm is inside.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    unit: str
    task: Task = "regression"
    per_atom: bool = False
    transform: Transform = "none"
    n_classes: int = 2  #: for a classification

    @property
    def n_outputs(self) -> int:
        """Numbers that the network gives for each crystal."""
        return self.n_classes if self.task == "classification" else 1

    @property
    def learned_unit(self) -> str:
        """Unit of what the network learns, such as ``log10(GPa)``."""
        return f"log10({self.unit})" if self.transform == "log10" else self.unit

    def forward(self, values: Tensor) -> Tensor:
        """From physical units to what the network learns."""
        return values.log10() if self.transform == "log10" else values

    def inverse(self, values: Tensor) -> Tensor:
        """From what the network learns to physical units."""
        return 10.0**values if self.transform == "log10" else values


@dataclass(frozen=True)
class Scaler:
    """Subtract the mean and divide by the standard deviation of the training set's targets."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def fit(cls, targets: Tensor) -> "Scaler":
        """Fit on the training split, never on another.

        Raises
        ------
        ValueError
            If there are no targets or one is not finite.
        """
        if not len(targets) or not torch.isfinite(targets).all():
            raise ValueError("a scaler needs at least one target, all of them finite")
        std = float(targets.double().std(correction=0))
        return cls(float(targets.double().mean()), std if std > 0 else 1.0)

    def scale(self, values: Tensor) -> Tensor:
        """To zero mean and unit variance."""
        return (values - self.mean) / self.std

    def unscale(self, values: Tensor) -> Tensor:
        """Back to the target's own unit."""
        return values * self.std + self.mean

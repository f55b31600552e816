"""Targets of models: name, unit, meaning and scaling, and the way from a network's outputs to physical values."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from cgcnn_ase.core.arrays import Floats

Task = Literal["regression", "classification"]
Transform = Literal["none", "log10"]
Level = Literal["crystal", "site"]

#: other names that data sets give to the targets of models; case, spaces, hyphens, underscores and a unit in brackets
#: do not count. A name that two targets have (``Ef``) is that of the model at hand.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "formation_energy_per_atom": (
        "formation_energy", "form_energy", "e_form", "e_form_per_atom", "e_f", "h_form", "delta_e",
        "formation_enthalpy", "formation_enthalpy_per_atom",
    ),
    "total_energy_per_atom": ("energy_per_atom", "final_energy_per_atom", "e_per_atom", "e_tot_per_atom"),
    "band_gap": ("gap", "e_g", "e_gap", "gap_pbe"),
    "efermi": ("fermi_energy", "fermi_level", "fermi", "e_f"),
    "is_metal": ("metal", "metallic", "is_metallic"),
    "bulk_modulus": ("K_VRH", "bulk_modulus_vrh", "bulk_moduli"),
    "shear_modulus": ("G_VRH", "shear_modulus_vrh", "shear_moduli"),
    "poisson_ratio": ("poisson", "homogeneous_poisson"),
    "total_magnetization": ("magnetization", "magnetization_per_formula_unit", "total_magnetization_per_fu"),
}  # fmt: skip


def is_name_of(column: str, target: str) -> bool:
    """Say whether a column of this name holds a target: its own name, or one of :data:`ALIASES`.

    >>> is_name_of("Formation energy (eV/atom)", "formation_energy_per_atom"), is_name_of("gap", "efermi")
    (True, False)
    """
    return _letters(column) in {_letters(name) for name in (target, *ALIASES.get(target, ()))}


def known_targets(column: str) -> list[str]:
    """Targets that a column of this name may hold; none where the name is not known."""
    return [target for target in ALIASES if is_name_of(column, target)]


def column_of(target: str, columns: Iterable[str]) -> list[str]:
    """The columns that hold a target: that of its own name alone, else all of another of its names."""
    names = [name for name in columns if is_name_of(name, target)]
    return [target] if target in names else names


def _letters(name: str) -> str:
    """A name without what is written in one way here and in another there."""
    return re.sub(r"[\s_-]|\(.*\)|\[.*\]", "", name).casefold()


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """One property.

    ``per_atom`` says that the quantity is an average over atoms (eV/atom); ``transform`` is what the network learns:
    with ``log10`` the value and the unit given here are those of the physical quantity, its logarithm is inside. A
    prediction never leaves ``minimum`` to ``maximum``, in the target's own unit: a band gap is not negative. The
    ``level`` says whether a crystal has one value or each of its sites has its own.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    unit: str
    task: Task = "regression"
    per_atom: bool = False
    transform: Transform = "none"
    n_classes: int = 2  # for a classification
    minimum: float | None = None
    maximum: float | None = None
    level: Level = "crystal"

    def __post_init__(self) -> None:
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            raise ValueError(f"{self.name}: minimum {self.minimum:g} is not below maximum {self.maximum:g}")
        if self.task == "classification" and self.n_classes < 2:
            raise ValueError(f"{self.name}: a classification needs at least 2 classes, not {self.n_classes}")

    @property
    def n_outputs(self) -> int:
        """Numbers that the network gives for each crystal."""
        return self.n_classes if self.task == "classification" else 1

    @property
    def is_energy(self) -> bool:
        """True of energies, which are on a scale (formation energy, total energy, energy of a defect)."""
        return self.unit in ("eV", "eV/atom") and "energy" in self.name

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

    def clamp(self, learned: Tensor) -> Tensor:
        """Keep values between minimum and maximum; both sides in what the network learns."""
        ends = [
            None if end is None else self.forward(torch.tensor(end, dtype=learned.dtype))
            for end in (self.minimum, self.maximum)
        ]
        return learned if ends == [None, None] else learned.clamp(*ends)

    def from_network(self, outputs: Tensor, scaler: "Scaler") -> Tensor:
        """From scaled outputs of a network to what it learned, kept between minimum and maximum."""
        return self.clamp(scaler.unscale(outputs))

    def to_physical(self, learned: Floats) -> Floats:
        """From what the network learned to the target's own unit, kept between minimum and maximum."""
        values: Floats = self.inverse(self.clamp(torch.from_numpy(learned))).numpy()
        return values

    def slope(self, values: Floats) -> Floats:
        """By how much physical values change with what the network learned: a std there times this is one here."""
        return values * np.log(10.0) if self.transform == "log10" else np.ones_like(values)

    def validation_error(self, value: float) -> str | None:
        """Why a value cannot be one of this target, None if it can."""
        if self.task == "classification":
            ok = float(value).is_integer() and 0 <= value < self.n_classes
            return None if ok else f"is not a class; allowed: 0 to {self.n_classes - 1}"
        if not math.isfinite(value):
            return "is not finite"
        if self.transform == "log10" and value <= 0:
            return "has no logarithm"
        if self.minimum is not None and value < self.minimum:
            return f"is below {self.minimum:g}, the least possible"
        if self.maximum is not None and value > self.maximum:
            return f"is above {self.maximum:g}, the most possible"
        return None


def output_slices(targets: tuple[TargetSpec, ...]) -> list[slice]:
    """Slices of a network's outputs, one for each target."""
    ends = torch.tensor([target.n_outputs for target in targets]).cumsum(0).tolist()
    return [slice(end - target.n_outputs, end) for end, target in zip(ends, targets, strict=True)]


@dataclass(frozen=True)
class Scaler:
    """Subtract the mean and divide by the standard deviation of the training set's targets."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def fit(cls, targets: Tensor) -> "Scaler":
        """Fit on the training split, never on another; there must be targets, all of them finite."""
        if not len(targets) or not torch.isfinite(targets).all():
            raise ValueError("a scaler needs at least one target, all of them finite")
        std = float(targets.double().std(correction=0))
        return cls(float(targets.double().mean()), std if std > 0 else 1.0)

    @classmethod
    def of(cls, target: TargetSpec, values: Tensor) -> "Scaler":
        """The scaler of a target from its training values, in its own unit; classes are not scaled."""
        return cls() if target.task == "classification" else cls.fit(target.forward(values))

    def scale(self, values: Tensor) -> Tensor:
        """To zero mean and unit variance."""
        return (values - self.mean) / self.std

    def unscale(self, values: Tensor) -> Tensor:
        """Back to the target's own unit."""
        return values * self.std + self.mean

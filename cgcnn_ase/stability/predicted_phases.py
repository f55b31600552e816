r"""Competing phases whose energies are predicted, too: the error of the difference, not of one energy.

Errors of two similar crystals are alike and cancel. With :math:`c_j` of the atoms in each predicted phase that a
crystal falls apart into, its energy above the hull and its std are

.. math:: \Delta = E - \sum_j c_j E_j - E_\mathrm{known}, \qquad \sigma^2 = f^2\,\mathrm{var}_m \Delta_m

over the members m of the ensemble, f from the calibration of the single energies
(:meth:`cgcnn_ase.energies.interface.Energies.combine`). The mixture is the stable one by the predicted energies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.energies.interface import Energies
from cgcnn_ase.stability.phases import CompetingPhase, CompetingPhases, Hull, counts


@dataclass(frozen=True)
class DecompositionPart:
    """A phase that a crystal falls apart into."""

    formula: str
    id: str
    fraction: float  # of the atoms
    predicted: bool = False  # and not of DFT


@dataclass(frozen=True, eq=False)
class PredictedPhase:
    """A crystal with its predicted formation energy, eV/atom."""

    id: str
    formula: str  # reduced
    energy: float
    std: float | None
    lower: float | None  # ends of the 90 % interval
    upper: float | None
    members: Floats  # (M,) energies by each member of the ensemble, which may be shifted all alike


class AboveHull(NamedTuple):
    """How far a crystal lies above the hull, eV/atom, and what it falls apart into."""

    value: float
    std: float | None
    lower: float | None
    upper: float | None
    decomposition: tuple[DecompositionPart, ...]
    # by the id of a predicted phase: share of the variance that its DFT energy would take away
    explained: Mapping[str, float]


class Competition:
    """Known phases and predicted ones together.

    Parameters
    ----------
    known, predicted
        Both on one scale.
    leave_out
        Leave phases of a crystal's own formula out of its hull.
    """

    def __init__(
        self, known: CompetingPhases, predicted: Sequence[PredictedPhase] = (), *, leave_out: bool = False
    ) -> None:
        self.known, self.predicted, self.leave_out = known, list(predicted), leave_out
        self._formulas = known.formulas | {phase.formula for phase in self.predicted}
        self._by_elements: dict[tuple[int, ...], list[PredictedPhase]] = {}
        for phase in self.predicted:
            self._by_elements.setdefault(tuple(sorted(counts(phase.formula))), []).append(phase)
        self._hulls: dict[tuple[tuple[int, ...], str | None], _Mixed] = {}

    def above_hull(self, crystal: PredictedPhase) -> AboveHull:
        """The crystal against all phases but itself."""
        amounts = counts(crystal.formula)
        elements = tuple(sorted(amounts))
        mixed = self._hull(elements, crystal)
        fractions = np.array([amounts[z] for z in elements], dtype=float)
        fractions /= fractions.sum()
        (energy,), (plane,) = mixed.hull.energy(fractions[None])
        parts = mixed.hull.decomposition(fractions, int(plane))
        decomposition = tuple(
            DecompositionPart(phase.formula, phase.id, x, isinstance(phase, PredictedPhase))
            for phase, x in ((mixed.phases[k], x) for k, x in parts)
        )
        value = crystal.energy - float(energy)
        predicted = [(phase, x) for k, x in parts if isinstance(phase := mixed.phases[k], PredictedPhase)]
        if not predicted:
            lower, upper = (
                None if end is None else value + end - crystal.energy for end in (crystal.lower, crystal.upper)
            )
            return AboveHull(value, crystal.std, lower, upper, decomposition, {crystal.id: 1.0})
        return AboveHull(value, *_difference(crystal, predicted, value), decomposition, _explained(crystal, predicted))

    def hull(self, elements: tuple[int, ...]) -> Hull:
        """The hull of all phases of a chemical system, by atomic numbers in order."""
        return self._built(elements, None, None).hull

    def _hull(self, elements: tuple[int, ...], crystal: PredictedPhase) -> "_Mixed":
        """The hull without the crystal itself, which most often is not on it anyway."""
        without = crystal.formula if self.leave_out and crystal.formula in self._formulas else None
        key = elements, without
        if key not in self._hulls:
            self._hulls[key] = self._built(elements, without, None)
        mixed = self._hulls[key]
        if not self.predicted:
            return mixed
        on_hull = any(mixed.phases[k] is crystal for k in np.unique(mixed.hull.corners).tolist())
        return self._built(elements, without, crystal) if on_hull else mixed

    def _built(self, elements: tuple[int, ...], without: str | None, crystal: PredictedPhase | None) -> "_Mixed":
        hull, indices = self.known.hull(elements, without=without)
        known: list[CompetingPhase | PredictedPhase] = [
            self.known.phases[index] if index >= 0 else CompetingPhase("", symbols()[elements[k]], 0.0)
            for k, index in enumerate(indices)
        ]
        inside = [
            phase
            for size in range(1, len(elements) + 1)
            for part in combinations(elements, size)
            for phase in self._by_elements.get(part, ())
            if phase is not crystal and phase.formula != without
        ]
        if not inside:
            return _Mixed(hull, known)
        d = len(elements)
        amounts = [counts(phase.formula) for phase in inside]
        fractions = np.array([[each.get(z, 0.0) for z in elements] for each in amounts])
        fractions /= fractions.sum(axis=1, keepdims=True)
        energies = np.array([phase.energy for phase in inside])
        joined = Hull.of(np.vstack([hull.fractions[d:], fractions]), np.concatenate([hull.energies[d:], energies]))
        return _Mixed(joined, [*known, *inside])


class _Mixed(NamedTuple):
    hull: Hull
    phases: list[CompetingPhase | PredictedPhase]  # in the order of the hull; the elements have no id


def _difference(
    crystal: PredictedPhase, phases: "list[tuple[PredictedPhase, float]]", value: float
) -> tuple[float | None, float | None, float | None]:
    """Std and ends of the interval of a crystal less its predicted phases.

    Half widths of independent errors add in quadrature, the lower ones of the phases to the upper one of the crystal;
    both shrink as the std does by what the members share.
    """
    every = [crystal, *(phase for phase, _ in phases)]
    c = np.array([1.0, *(-x for _, x in phases)])
    stds = [each.std for each in every if each.std is not None]
    known = np.array(stds) if len(stds) == len(every) else None
    members = np.stack([each.members for each in every], axis=1).astype(float)
    std = Energies(np.array([each.energy for each in every]), members, known).combine(c).std
    ends = [
        (each.lower, each.energy, each.upper) for each in every if each.lower is not None and each.upper is not None
    ]
    if std is None or known is None or len(ends) < len(every):
        return std, None, None
    lower, energy, upper = np.array(ends, dtype=float).T
    down, up = np.where(c > 0, [energy - lower, upper - energy], [upper - energy, energy - lower])
    shrunk = std / float(np.sqrt(c**2 @ known**2))
    return std, value - shrunk * float(np.sqrt(c**2 @ down**2)), value + shrunk * float(np.sqrt(c**2 @ up**2))


def _explained(crystal: PredictedPhase, phases: "list[tuple[PredictedPhase, float]]") -> dict[str, float]:
    """Squared correlation, over the members, of the difference with each energy in it, adjusted for their number."""
    difference = crystal.members - sum(x * phase.members for phase, x in phases)
    n = len(difference)
    result: dict[str, float] = {}
    if n < 3 or not difference.std() > 0.0:
        return result
    for each in (crystal, *(phase for phase, _ in phases)):
        if each.members.std() > 0.0:
            r = float(np.corrcoef(difference, each.members)[0, 1])
            result[each.id] = max(0.0, 1.0 - (1.0 - r**2) * (n - 1) / (n - 2))
    return result

"""Labels of several trajectories together: a shift of the potential, the zero of the energy, usual errors.

The shift adds to the energy of each atom a linear function of the vector that the last convolution gives it, with
weights of its element. They are a ridge regression on all forces, and on energies as far as they differ within a
trajectory. The strength of the ridge is the one that foretells the forces of each trajectory best from the others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import MAX_NUMBER
from cgcnn_ase.learning.corrected import CorrectedSurface, error_ratio
from cgcnn_ase.learning.reference import ReferenceLabel
from cgcnn_ase.learning.surface import Features, SpringSurface, Surface, SurfacePoint, Weights

# force errors of a trajectory that has no label are those of others' labels times this
_UNSEEN = 1.5
# strengths that are tried: variance of what the shift adds to a force over that of what it cannot explain
_RATIOS = np.logspace(-4.0, 2.0, 25)
# the one that is taken where there is one trajectory, and nothing to foretell
_FIRST_RATIO = 0.03


class Shift(NamedTuple):
    """A shift of the potential, and how well it is known to work."""

    weights: Weights
    unshifted: float  # root mean square of the errors of forces without it, eV/Å
    foretold: float | None  # the same of trajectories that it was not fitted to; None where there was only one


class _Squares(NamedTuple):
    """Normal equations of one trajectory with C columns: of forces, and of energies."""

    forces: Floats  # (C, C)
    of_forces: Floats  # (C,)
    energies: Floats  # (C, C)
    of_energies: Floats  # (C,)
    missing: float  # sum of the squares of what forces lack
    n_forces: int


class SharedMemory:
    """Labels of many trajectories, beside the surface that they correct.

    Parameters
    ----------
    surface
        A potential; None where springs are all there is.
    """

    def __init__(self, surface: Surface | None) -> None:
        self.surface = surface
        self._points: dict[int, tuple[ReferenceLabel, SurfacePoint]] = {}
        self._features: dict[int, tuple[ReferenceLabel, Features | None]] = {}

    def corrected(
        self, labels: Sequence[ReferenceLabel], others: Sequence[ReferenceLabel], *, with_cell: bool
    ) -> CorrectedSurface:
        """The surface that explains the labels of a trajectory best, corrected by them.

        Candidates are the potential, the potential with the shift that labels of other trajectories ask for (unless it
        has foretold them worse than none), and springs; the one with the largest marginal likelihood is taken. Springs
        wait for a second label where the first is of a minimum of the potential, as there both lack the same forces.
        """
        factor = error_ratio([*others, *labels])
        if not labels:
            return self._unlabelled(others, factor, with_cell=with_cell)
        candidates: list[Surface] = []
        if self.surface is None or len(labels) > 1 or labels[0].force_error is None:
            candidates.append(SpringSurface(labels[0].structure))
        if self.surface is not None:
            candidates.append(self.surface)
            if (shift := self.shift(others)) is not None and (shift.foretold or 0.0) < shift.unshifted:
                candidates.append(self.surface.shifted(shift.weights))
        surfaces = [CorrectedSurface(each, labels, factor=factor, with_cell=with_cell) for each in candidates]
        return max(surfaces, key=lambda each: each.evidence)

    def _unlabelled(self, others: Sequence[ReferenceLabel], factor: float, *, with_cell: bool) -> CorrectedSurface:
        if self.surface is None or not others:
            raise ValueError("nothing is known of a structure before its first label")
        surface, expected = self.surface, self._errors(others)
        shift = self.shift(others)
        if shift is not None and shift.foretold is not None and shift.foretold < shift.unshifted:
            surface, expected = surface.shifted(shift.weights), shift.foretold
        return CorrectedSurface(
            surface,
            [],
            factor=factor,
            with_cell=with_cell,
            expected=_UNSEEN * expected,
            offsets=energy_offsets(surface, others),
        )

    def _point(self, label: ReferenceLabel) -> SurfacePoint:
        assert self.surface is not None
        if id(label) not in self._points:
            self._points[id(label)] = (label, self.surface(label.structure))
        return self._points[id(label)][1]

    def _of(self, label: ReferenceLabel) -> Features | None:
        assert self.surface is not None
        if id(label) not in self._features:
            self._features[id(label)] = (label, self.surface.features(label.structure))
        return self._features[id(label)][1]

    def _errors(self, labels: Sequence[ReferenceLabel]) -> float:
        """Root mean square of what the surface lacks in the forces of labels, eV/Å."""
        return float(np.sqrt(np.mean([np.mean((each.forces - self._point(each).forces) ** 2) for each in labels])))

    def shift(self, labels: Sequence[ReferenceLabel]) -> Shift | None:
        """The shift that labels ask for; None where there are none, or the surface has no vectors of atoms."""
        if not labels or any(self._of(label) is None for label in labels):
            return None
        numbers = np.unique(np.concatenate([label.atoms.numbers for label in labels]))
        names = sorted({label.trajectory for label in labels})
        parts = [self._squares([each for each in labels if each.trajectory == name], numbers) for name in names]
        columns = len(parts[0].of_forces)
        scale = float(np.mean([np.trace(part.forces) / part.n_forces for part in parts])) / columns
        ratio, foretold = _FIRST_RATIO, None
        if len(parts) > 1:
            errors = np.zeros(len(_RATIOS))
            for part in parts:
                w = _ridge([each for each in parts if each is not part], scale, _RATIOS)
                squares = part.missing - 2.0 * w @ part.of_forces + np.einsum("rc,cd,rd->r", w, part.forces, w)
                errors += squares / part.n_forces / len(parts)
            best = int(np.argmin(errors))
            ratio, foretold = float(_RATIOS[best]), float(np.sqrt(errors[best]))
        (flat,) = _ridge(parts, scale, np.array([ratio]))
        unshifted = float(np.sqrt(np.mean([part.missing / part.n_forces for part in parts])))
        weights = dict(zip(numbers.tolist(), flat.reshape(len(numbers), -1), strict=True))
        return Shift(weights, unshifted, foretold)

    def _squares(self, labels: Sequence[ReferenceLabel], numbers: Ints) -> _Squares:
        """Normal equations of the labels of one trajectory."""
        rows, lacking, energies, sums = [], [], [], []
        for label in labels:
            features, point = self._of(label), self._point(label)
            assert features is not None
            width = len(next(iter(features.energy.values())))
            none = np.zeros((len(label.forces), 3, width))
            of_forces = [features.forces.get(int(z), none) for z in numbers]
            rows.append(np.concatenate(of_forces, axis=2).reshape(3 * len(label.forces), -1))
            lacking.append((label.forces - point.forces).ravel())
            energies.append(label.energy - point.energy)
            sums.append(np.concatenate([features.energy.get(int(z), none[0, 0]) for z in numbers]))
        a, y = np.concatenate(rows), np.concatenate(lacking)
        e, v = np.array(sums) - np.mean(sums, axis=0), np.array(energies) - np.mean(energies)
        return _Squares(a.T @ a, a.T @ y, e.T @ e, e.T @ v, float(y @ y), len(y))


def _ridge(parts: Sequence[_Squares], scale: float, ratios: Floats) -> Floats:
    """Weights, (R, C), for each strength of the ridge; ``scale`` is a usual square of a feature."""
    values, vectors = eigh(sum(part.forces + part.energies for part in parts))
    right = vectors.T @ sum(part.of_forces + part.of_energies for part in parts)
    solved: Floats = (right / (values.clip(min=0.0) + scale / ratios[:, None])) @ vectors.T
    return solved


def energy_offsets(surface: Surface, labels: Sequence[ReferenceLabel]) -> Floats:
    """Energies of the elements, eV (101,), that bring the surface to the reference's zero, by least squares."""
    result = np.zeros(MAX_NUMBER + 1)
    counts = np.array([np.bincount(label.atoms.numbers, minlength=MAX_NUMBER + 1) for label in labels], dtype=float)
    apart = np.array([label.energy - surface(label.structure).energy for label in labels])
    result[:] = np.linalg.lstsq(counts, apart, rcond=None)[0]
    return result

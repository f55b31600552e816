"""Labels of several trajectories together: a shift of the last layer, the zero of the energy, usual errors."""

from collections.abc import Sequence

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.elements import MAX_NUMBER
from cgcnn_ase.learning.corrected import CorrectedSurface, error_ratio
from cgcnn_ase.learning.reference import ReferenceLabel
from cgcnn_ase.learning.surface import Features, SpringSurface, Surface, SurfacePoint

# force errors of a trajectory that has no label are those of others' first labels times this
_UNSEEN = 1.5


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

        Candidates are the potential, the potential with a last layer shifted by the labels of other trajectories, and
        springs; the one with the largest marginal likelihood is taken. Where the trajectory has no
        label, the shift is taken if it has foretold each other trajectory from the rest better than no shift.
        """
        factor = error_ratio([*others, *labels])
        if not labels:
            return self._unlabelled(others, factor, with_cell=with_cell)
        candidates: list[Surface] = [SpringSurface(labels[0].structure)]
        if self.surface is not None:
            candidates.append(self.surface)
            if others and (weights := self.weights(others)) is not None:
                candidates.append(self.surface.shifted(weights))
        surfaces = [CorrectedSurface(each, labels, factor=factor, with_cell=with_cell) for each in candidates]
        return max(surfaces, key=lambda each: each.evidence)

    def _unlabelled(self, others: Sequence[ReferenceLabel], factor: float, *, with_cell: bool) -> CorrectedSurface:
        if self.surface is None or not others:
            raise ValueError("nothing is known of a structure before its first label")
        surface, expected = self.surface, self._first_errors(others)
        names = sorted({label.trajectory for label in others})
        if len(names) > 1:
            foretold = self._foretold(others, names)
            if foretold is not None and foretold < expected:
                weights = self.weights(others)
                assert weights is not None
                surface, expected = self.surface.shifted(weights), foretold
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

    def _first_errors(self, labels: Sequence[ReferenceLabel]) -> float:
        """Root mean square of what the surface lacks in the forces of each trajectory's first label, eV/Å."""
        first = {label.trajectory: label for label in reversed(labels)}
        squares = [float(np.mean((label.forces - self._point(label).forces) ** 2)) for label in first.values()]
        return float(np.sqrt(np.mean(squares)))

    def _foretold(self, labels: Sequence[ReferenceLabel], names: Sequence[str]) -> float | None:
        """The same of the first label of each trajectory, by the shift that all others ask for."""
        squares = []
        for name in names:
            weights = self.weights([label for label in labels if label.trajectory != name])
            if weights is None:
                return None
            first = next(label for label in labels if label.trajectory == name)
            features = self._of(first)
            assert features is not None
            lacking = first.forces - self._point(first).forces - features.forces @ weights
            squares.append(float(np.mean(lacking**2)))
        return float(np.sqrt(np.mean(squares)))

    def weights(self, labels: Sequence[ReferenceLabel]) -> Floats | None:
        """Shift of the last layer, (F,) eV, that fits the labels, by Bayesian ridge regression; None if there is none.

        Energies count by their differences within a trajectory.
        """
        from sklearn.linear_model import BayesianRidge

        rows, values = [], []
        for name in sorted({label.trajectory for label in labels}):
            energies, features = [], []
            for label in labels:
                if label.trajectory != name:
                    continue
                of_label = self._of(label)
                if of_label is None:
                    return None
                point = self._point(label)
                rows.append(of_label.forces.reshape(-1, of_label.forces.shape[2]))
                values.append((label.forces - point.forces).ravel())
                energies.append(label.energy - point.energy)
                features.append(of_label.energy)
            rows.append(np.array(features) - np.mean(features, axis=0))
            values.append(np.array(energies) - np.mean(energies))
        fit = BayesianRidge(fit_intercept=False).fit(np.concatenate(rows), np.concatenate(values))
        weights: Floats = np.asarray(fit.coef_, dtype=float)
        return weights


def energy_offsets(surface: Surface, labels: Sequence[ReferenceLabel]) -> Floats:
    """Energies of the elements, eV (101,), that bring the surface to the reference's zero, by least squares."""
    result = np.zeros(MAX_NUMBER + 1)
    counts = np.array([np.bincount(label.atoms.numbers, minlength=MAX_NUMBER + 1) for label in labels], dtype=float)
    apart = np.array([label.energy - surface(label.structure).energy for label in labels])
    result[:] = np.linalg.lstsq(counts, apart, rcond=None)[0]
    return result

"""A surface with what the labels add to it: a shift of the last layer, and a Gaussian process along the trajectory."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.graphs.geometry import Geometry
from cgcnn_ase.learning.coordinates import Coordinates
from cgcnn_ase.learning.difference_process import NOISE, DifferenceProcess
from cgcnn_ase.learning.labels import ReferenceLabel
from cgcnn_ase.learning.surface import Pairs, SpringSurface, Surface

# rows of the process's covariance at most: the newest labels of a trajectory
_MAX_ROWS = 1200
# errors that are seen count against so many that are as large as expected
_TRUSTED, _EXPECTED_RATIO = 3.0, 1.5
# part of the change of a force since the nearest label that is uncertain in any case
_OF_CHANGE = 0.2
# the largest of many errors is about so many std
_USUAL_LARGEST = 2.0
# how much larger than usual the surface's own std may make that of the correction
_MAX_RATIO = 5.0


class CorrectedPoint(NamedTuple):
    """One structure on a corrected surface, in the reference's energies."""

    structure: Geometry
    energy: float  # eV
    forces: Floats  # (N, 3) eV/Å
    stress: Floats  # (3, 3) eV/Å^3
    energy_std: float  # eV a cell
    forces_std: Floats  # (N,) eV/Å
    domain_excess: float  # domain_score over the largest that a label has; above 1 outside
    domain_reason: str
    pairs: Pairs


class CorrectedSurface:
    """A surface along one trajectory, with a Gaussian process on what the labels of the trajectory say that it lacks.

    Parameters
    ----------
    surface
        What is corrected.
    labels
        Labels of this trajectory, in their order.
    factor
        By which the std of forces is too small, as labels have told; see :func:`error_ratio`.
    with_cell
        Whether the cell moves.
    expected
        Root mean square of the error of forces where there is no label of the trajectory, eV/Å.
    offsets
        Energies of the elements, eV (101,), that are added there.
    """

    evidence = -np.inf

    def __init__(
        self,
        surface: Surface,
        labels: Sequence[ReferenceLabel],
        *,
        factor: float,
        with_cell: bool,
        expected: float = np.inf,
        offsets: Floats | None = None,
    ) -> None:
        self.surface, self._factor, self._expected, self._offsets = surface, factor, expected, offsets
        self._process: DifferenceProcess | None = None
        self._usual_std, self._largest_score = 1.0, 1.0
        if not labels:
            return
        points = [surface(label.structure) for label in labels]
        self.coordinates = Coordinates(labels[0].structure, points[0].pairs, with_cell=with_cell)
        self._usual_std = float(np.mean([point.forces_std.mean() for point in points]))
        self._largest_score = max(1.0, *(point.domain_score for point in points))
        rows = slice(-max(1, _MAX_ROWS // (self.coordinates.n + 1)), None)
        us, energies, gradients = [], [], []
        for label, point in list(zip(labels, points, strict=True))[rows]:
            structure = label.structure
            us.append(self.coordinates.of(structure))
            energies.append(label.energy - point.energy)
            lacking = np.zeros((3, 3)) if label.stress is None else label.stress - np.nan_to_num(point.stress)
            gradients.append(self.coordinates.gradient(structure, label.forces - point.forces, lacking))
        self._process = DifferenceProcess(np.array(us), np.array(energies), np.array(gradients))
        self.evidence = self._process.evidence
        # one label far from the minimum says little of what is lacking there: a potential walks by itself first
        self._is_first_walk = len(labels) == 1 and not isinstance(surface, SpringSurface)
        self._known = (np.array(us), [label.forces for label in labels[rows]])

    def __call__(self, structure: Geometry) -> CorrectedPoint:
        """Energy and derivatives with their std."""
        point = self.surface(structure)
        ratio = np.clip(point.forces_std / self._usual_std, 1.0, _MAX_RATIO)
        if self._process is None:
            stds = self._expected * point.forces_std / max(float(point.forces_std.mean()), 1e-12)
            energy = point.energy + (0.0 if self._offsets is None else float(self._offsets[structure.numbers].sum()))
            n = len(structure.numbers)
            estimate = energy, point.forces, point.stress, float(self._expected * np.sqrt(n)), stds
        else:
            u = self.coordinates.of(structure)
            difference = self._process(u)
            if self._is_first_walk:
                difference = difference._replace(energy=self._process.mean, gradient=np.zeros_like(u))
            forces, stress = self.coordinates.forces_and_stress(structure, difference.gradient)
            change = self._change_of_force(u, point.forces + forces)
            variances = self.coordinates.force_variances(difference.prior, difference.explained).mean(axis=1)
            estimate = (
                point.energy + difference.energy,
                point.forces + forces,
                point.stress + stress,
                float(self._factor * ratio.mean() * difference.energy_std),
                self._factor * ratio * np.sqrt(variances + NOISE**2 + (_OF_CHANGE * change) ** 2),
            )
        return CorrectedPoint(
            structure, *estimate, point.domain_score / self._largest_score, point.domain_reason, point.pairs
        )

    def _change_of_force(self, u: Floats, forces: Floats) -> float:
        """Largest change of a component of a force since the nearest label, eV/Å."""
        nearest = int(np.argmin(np.linalg.norm(self._known[0] - u, axis=1)))
        return float(np.abs(forces - self._known[1][nearest]).max())


def error_ratio(labels: Sequence[ReferenceLabel]) -> float:
    """Factor that the labels ask for: the root of the mean squared ratio of the largest error and the largest std."""
    ratios = [
        min(label.force_error / label.force_std / _USUAL_LARGEST, _MAX_RATIO)
        for label in labels
        if label.force_error is not None and label.force_std is not None and label.force_std > 0
    ]
    return float(np.sqrt((_TRUSTED * _EXPECTED_RATIO**2 + np.square(ratios).sum()) / (_TRUSTED + len(ratios))))

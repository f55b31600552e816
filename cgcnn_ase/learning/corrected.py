r"""A surface with what the labels of a trajectory add to it: a Gaussian process on the difference to the reference.

One length scale must do for all directions, so a structure is described by coordinates in which it is about equally
stiff in all of them. Positions r and cell h of a trajectory are written with the deformation F from its first cell,
h = h_0 F, and the positions s that the atoms have before it, r = s F. With springs K between the atoms (those of
:mod:`cgcnn_ase.potential.minimizer`), K = L L^T, the coordinates are

.. math:: u = (L^T s, \; \sqrt{M V_0}\,(F - 1))

so that |u|^2 / 2 is about the energy of a displacement, eV.

Kernel and its derivatives are those of ASE's GPMin (E. Garijo del Río, J. J. Mortensen, K. W. Jacobsen, Phys. Rev. B
100, 104103 (2019)). Amplitude and length are those of the largest marginal likelihood on a grid: no descent that could
end elsewhere in a second run. The noise is that of single precision, unless near labels contradict each other: only
then is it fitted, as few labels of a smooth difference would be called noise else.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase.optimize.gpmin.kernel import SquaredExponential
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.graphs.crystal_graph import Geometry
from cgcnn_ase.learning.reference import ReferenceLabel
from cgcnn_ase.learning.surface import Pairs, SpringSurface, Surface
from cgcnn_ase.potential.minimizer import MODULUS, spring_matrix


class Coordinates:
    """Coordinates of all structures of one trajectory: N atoms of the same elements in the same order.

    Parameters
    ----------
    start
        The structure that deformations are counted from.
    pairs
        Its neighbours.
    with_cell
        Whether the cell moves, too: then there are 3 N + 9 coordinates, else 3 N.
    """

    def __init__(self, start: Geometry, pairs: Pairs, *, with_cell: bool) -> None:
        self.start, self.with_cell = start, with_cell
        self._lower: Floats = np.asarray(cholesky(spring_matrix(len(start.numbers), *pairs), lower=True), dtype=float)
        volume = abs(float(np.linalg.det(start.cell))) if with_cell else 1.0
        self._of_cell = float(np.sqrt(MODULUS * volume))

    @property
    def n(self) -> int:
        """Number of coordinates."""
        return 3 * len(self.start.numbers) + (9 if self.with_cell else 0)

    def _deformation(self, structure: Geometry) -> Floats:
        if not self.with_cell:
            return np.eye(3)
        deformation: Floats = np.asarray(np.linalg.solve(self.start.cell, structure.cell), dtype=float)
        return deformation

    def of(self, structure: Geometry) -> Floats:
        """Coordinates of a structure, (n,) √eV."""
        deformation = self._deformation(structure)
        before = np.asarray(np.linalg.solve(deformation.T, structure.positions.T).T, dtype=float)
        u: Floats = (self._lower.T @ before).ravel()
        return np.concatenate([u, (self._of_cell * (deformation - np.eye(3))).ravel()]) if self.with_cell else u

    def gradient(self, structure: Geometry, forces: Floats, stress: Floats) -> Floats:
        """Derivatives of the energy by the coordinates, (n,) √eV, from forces (eV/Å) and stress (eV/Å^3)."""
        deformation = self._deformation(structure)
        g = solve_triangular(self._lower, -forces @ deformation.T, lower=True).ravel()
        if not self.with_cell:
            return np.asarray(g)
        volume = abs(float(np.linalg.det(structure.cell)))
        return np.concatenate([g, (volume / self._of_cell * np.linalg.solve(deformation.T, stress)).ravel()])

    def forces_and_stress(self, structure: Geometry, gradient: Floats) -> tuple[Floats, Floats]:
        """Forces (N, 3) and stress (3, 3) that belong to derivatives by the coordinates; the inverse of the above."""
        n = len(self.start.numbers)
        deformation = self._deformation(structure)
        by_position = self._lower @ gradient[: 3 * n].reshape(n, 3)
        forces = -np.asarray(np.linalg.solve(deformation, by_position.T).T, dtype=float)
        if not self.with_cell:
            return forces, np.zeros((3, 3))
        volume = abs(float(np.linalg.det(structure.cell)))
        stress: Floats = self._of_cell / volume * deformation.T @ gradient[3 * n :].reshape(3, 3)
        return forces, 0.5 * (stress + stress.T)

    def force_variances(self, prior: float, explained: Floats) -> Floats:
        """Variance of each component of the forces, (N, 3), from that of the derivatives.

        Parameters
        ----------
        prior
            Variance of every derivative before any label.
        explained
            (R, n): the labels take ``explained.T @ explained`` off their covariance.
        """
        n = len(self.start.numbers)
        mapped = np.einsum("ij,rjc->ric", self._lower, explained[:, : 3 * n].reshape(-1, n, 3))
        before = prior * (self._lower**2).sum(axis=1)
        variances: Floats = np.clip(before[:, None] - (mapped**2).sum(axis=0), 0.0, None)
        return variances

    def force_std(self, noise: float) -> float:
        """Usual std of a component of a force, eV/Å, from the std of the derivatives, √eV."""
        return noise * float(np.sqrt((self._lower**2).sum(axis=1).mean()))


# lengths that are tried, √eV, and the one that the mean takes before there are so many labels
_LENGTHS, _MIN_LABELS, _FIRST_LENGTH = (0.75, 1.5, 3.0, 6.0), 2, 3.0
# amplitudes that are tried, over the length: of the derivatives, √eV
_SLOPES = np.logspace(-3.0, 2.0, 41)
# noise of energies (eV) and derivatives (√eV), of the reference and of single precision
NOISE = 0.001
# noises that are tried where near labels contradict each other: at least so many within this distance of the newest,
# √eV, of which alone the logarithm of the likelihood must be larger by so much with one of them
_ROUGH, _MIN_NEAR, _NEAR, _CLEARLY = NOISE * np.logspace(0.5, 2.5, 5), 4, 0.5 * _LENGTHS[0], 10.0
# variance of the constant between both energies, in units of the process's labels
_CONSTANT = 25.0


# lengths whose likelihood is smaller by this factor than the largest do not count in the std
_NEGLIGIBLE = 0.02


class Difference(NamedTuple):
    """The process at one structure."""

    energy: float  # eV
    gradient: Floats  # (n,) by the coordinates
    energy_std: float  # eV
    prior: float  # variance of each derivative before any label
    explained: Floats  # (R, n) see Coordinates.force_variances


class _Posterior(NamedTuple):
    """The process for one length."""

    length: float
    amplitude: float
    weight: float  # its part of the likelihood of all lengths
    lower: Floats  # Cholesky factor of the covariance of the labels
    solved: Floats  # covariance^-1 labels


class DifferenceProcess:
    """Posterior from K labels with n coordinates each.

    The mean is that of the likeliest length. The std is an average over the lengths by their likelihood, as few labels
    leave open how fast the difference changes.

    Parameters
    ----------
    points
        (K, n) coordinates.
    energies
        (K,) reference less surface, eV.
    gradients
        (K, n) the same of the derivatives.
    """

    def __init__(self, points: Floats, energies: Floats, gradients: Floats) -> None:
        self._points, self._n = points, points.shape[1]
        self.mean = float(energies.mean())
        rows = np.concatenate([(energies - self.mean)[:, None], gradients], axis=1).ravel()
        #: of energies (eV) and derivatives (√eV); above ``NOISE`` where near labels contradict each other
        self.noise = self._contradiction(energies, gradients)
        tried = [(*self._likelihood(rows, length, self.noise), length) for length in _LENGTHS]
        self.evidence = max(each[0] for each in tried)
        kept = [(np.exp(logarithm - self.evidence), *rest) for logarithm, *rest in tried]
        kept = [each for each in kept if each[0] > _NEGLIGIBLE]
        total = sum(weight for weight, *_ in kept)
        self._posteriors = [self._posterior(rows, weight / total, *rest) for weight, *rest in kept]
        if len(points) < _MIN_LABELS:  # nothing tells the lengths apart
            self._best = min(self._posteriors, key=lambda each: abs(each.length - _FIRST_LENGTH))
        else:
            self._best = max(self._posteriors, key=lambda each: each.weight)

    def _posterior(self, rows: Floats, weight: float, amplitude: float, length: float) -> _Posterior:
        covariance = amplitude**2 * self._covariance(self._points, length)
        covariance[np.diag_indices_from(covariance)] += self.noise**2
        lower = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        return _Posterior(length, amplitude, weight, lower, cho_solve((lower, True), rows))

    def _kernel(self, length: float) -> SquaredExponential:
        kernel = SquaredExponential(self._n)
        kernel.set_params([1.0, length])
        return kernel

    def _covariance(self, points: Floats, length: float) -> Floats:
        """Prior covariance of labels at points for an amplitude of 1, with that of the constant."""
        covariance: Floats = self._kernel(length).kernel_matrix(points)
        covariance[:: self._n + 1, :: self._n + 1] += _CONSTANT
        return covariance

    def _contradiction(self, energies: Floats, gradients: Floats) -> float:
        """Noise that the labels near the newest one ask for; ``NOISE`` where a smooth difference explains them.

        Labels farther away do not count: a difference that is curved otherwise there is no noise.
        """
        near = np.linalg.norm(self._points - self._points[-1], axis=1) < _NEAR
        if near.sum() < _MIN_NEAR:
            return NOISE
        points, centered = self._points[near], energies[near] - energies[near].mean()
        rows = np.concatenate([centered[:, None], gradients[near]], axis=1).ravel()
        spectra = [self._spectrum(points, rows, length) for length in _LENGTHS]
        noises = [NOISE, *_ROUGH]
        logs = [max(_log_likelihoods(*each, noise).max() for each in spectra) for noise in noises]
        best = int(np.argmax(logs))
        return float(noises[best]) if logs[best] - logs[0] > _CLEARLY else NOISE

    def _spectrum(self, points: Floats, rows: Floats, length: float) -> tuple[Floats, Floats]:
        """Variances along the eigenvectors of the covariance, for each amplitude, and squares of the labels there."""
        values, vectors = eigh(self._covariance(points, length), check_finite=False)
        return (length * _SLOPES[:, None]) ** 2 * values.clip(min=0.0), (vectors.T @ rows) ** 2

    def _likelihood(self, rows: Floats, length: float, noise: float) -> tuple[float, float]:
        """Largest logarithm of the marginal likelihood over the amplitudes, and that amplitude."""
        logs = _log_likelihoods(*self._spectrum(self._points, rows, length), noise)
        best = int(np.argmax(logs))
        return float(logs[best]), float(length * _SLOPES[best])

    def __call__(self, point: Floats) -> Difference:
        """Posterior at a point, (n,)."""
        value = np.zeros(1 + self._n)
        variance, prior, explained = 0.0, 0.0, []
        for posterior in self._posteriors:
            square = posterior.amplitude**2
            cross = square * self._kernel(posterior.length).kernel_vector(point, self._points, len(self._points))
            cross[0, :: self._n + 1] += square * _CONSTANT
            if posterior is self._best:
                value = cross @ posterior.solved
            known = solve_triangular(posterior.lower, cross.T, lower=True, check_finite=False)
            variance += posterior.weight * max(square * (1.0 + _CONSTANT) - float((known[:, 0] ** 2).sum()), 0.0)
            prior += posterior.weight * square / posterior.length**2
            explained.append(np.sqrt(posterior.weight) * known[:, 1:])
        return Difference(
            self.mean + float(value[0]), value[1:], float(np.sqrt(variance)), prior, np.concatenate(explained)
        )


def _log_likelihoods(variances: Floats, squares: Floats, noise: float) -> Floats:
    """Logarithm of the marginal likelihood for each amplitude."""
    total = variances + noise**2
    logs: Floats = -0.5 * (squares / total + np.log(total)).sum(axis=1)
    return logs


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
        #: std of a component of a force of the reference, eV/Å, as far as near labels contradict each other; else 0
        self.force_noise = 0.0
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
        if self._process.noise > NOISE:
            self.force_noise = self.coordinates.force_std(self._process.noise)
        # a start far from the minimum says little of what is lacking there: a potential walks by itself first
        is_start = len(labels) == 1 and labels[0].force_error is None
        self._is_first_walk = is_start and not isinstance(surface, SpringSurface)
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
                self._factor * ratio * np.sqrt(variances + self._process.noise**2 + (_OF_CHANGE * change) ** 2),
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

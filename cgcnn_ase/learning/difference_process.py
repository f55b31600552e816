r"""A Gaussian process on the difference between a reference and a surface, from energies and derivatives.

Kernel and its derivatives are those of ASE's GPMin (E. Garijo del Río, J. J. Mortensen, K. W. Jacobsen, Phys. Rev. B
100, 104103 (2019)), in the coordinates of :mod:`cgcnn_ase.learning.coordinates`. Amplitude and length are those of the
largest marginal likelihood on a grid: no descent that could end elsewhere in a second run.
"""

from typing import NamedTuple

import numpy as np
from ase.optimize.gpmin.kernel import SquaredExponential
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular

from cgcnn_ase.core.arrays import Floats

# lengths that are tried, √eV, and the one that the mean takes before there are so many labels
_LENGTHS, _MIN_LABELS, _FIRST_LENGTH = (0.75, 1.5, 3.0, 6.0), 2, 3.0
# amplitudes that are tried, over the length: of the derivatives, √eV
_SLOPES = np.logspace(-3.0, 2.0, 41)
# noise of energies (eV) and derivatives (√eV), of the reference and of single precision
NOISE = 0.001
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
        tried = [(*self._likelihood(rows, length), length) for length in _LENGTHS]
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
        covariance = amplitude**2 * self._covariance(length)
        covariance[np.diag_indices_from(covariance)] += NOISE**2
        lower = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        return _Posterior(length, amplitude, weight, lower, cho_solve((lower, True), rows))

    def _kernel(self, length: float) -> SquaredExponential:
        kernel = SquaredExponential(self._n)
        kernel.set_params([1.0, length])
        return kernel

    def _covariance(self, length: float) -> Floats:
        """Prior covariance of all labels for an amplitude of 1, with that of the constant."""
        covariance: Floats = self._kernel(length).kernel_matrix(self._points)
        covariance[:: self._n + 1, :: self._n + 1] += _CONSTANT
        return covariance

    def _likelihood(self, rows: Floats, length: float) -> tuple[float, float]:
        """Largest logarithm of the marginal likelihood over the amplitudes, and that amplitude."""
        values, vectors = eigh(self._covariance(length), check_finite=False)
        squares = (vectors.T @ rows) ** 2
        variances = (length * _SLOPES[:, None]) ** 2 * values.clip(min=0.0) + NOISE**2
        logs = -0.5 * (squares / variances + np.log(variances)).sum(axis=1)
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

"""A Gaussian process on the numbers of a point: smooth in composition, with noise for what composition leaves open."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.optimization.space.search_space import MISSING
from cgcnn_ase.optimization.surrogates.base import Pool, SurrogatePrediction

if TYPE_CHECKING:
    from skopt.learning import GaussianProcessRegressor
    from skopt.learning.gaussian_process.kernels import Kernel


#: labels below which the length scales stay as they start
_MIN_LABELS_TO_FIT_SCALES = 4
#: labels by which the kernel's parameters are found; of more, so many at random
_MAX_LABELS_TO_FIT = 120
#: labels beyond which one start finds them: their likelihood has one clear maximum
_MAX_LABELS_RESTARTS = 50
#: of a hyperparameter's search; it has converged or is lost
_STEPS = 60
#: random Fourier features of a sample
_WAVES = 1024
#: of a standardised label, so that the same label twice does no harm
_JITTER = 1e-6
#: bounds of standardised quantities: amplitude, length scales (of features between 0 and 1), variance of the noise
_AMPLITUDE, _LENGTH, _NOISE = (0.05, 20.0), (0.05, 20.0), (1e-5, 1.0)


class GaussianProcess:
    """scikit-optimize's regressor with a Matern 5/2 kernel, one length scale a feature, and white noise.

    Labels are standardised. The kernel's parameters are those of the highest marginal likelihood (of at most 120
    labels, drawn by the seed), from one start and, of few labels, some random ones. The white noise is what points of
    equal or near features differ by: the ordering of the metals, and the error of a label beyond its error bar.

    Parameters
    ----------
    n_restarts
        Random starts of the search for the kernel's parameters, of up to 50 labels.

    Raises
    ------
    ImportError
        If scikit-optimize is not installed.
    """

    def __init__(self, *, n_restarts: int = 2) -> None:
        self.n_restarts = n_restarts
        self._mean, self._scale = 0.0, 1.0
        self._last: tuple[Pool, Floats, Floats] | None = None

    def fit(self, pool: Pool, values: Floats, noise: Floats | None, *, seed: int) -> None:
        """Learn labels, see :class:`cgcnn_ase.optimization.surrogates.base.Surrogate`."""
        self._mean = float(np.mean(values))
        self._scale = float(np.std(values)) or 1.0
        errors = np.zeros(len(values)) if noise is None else noise / self._scale
        targets, alpha = (values - self._mean) / self._scale, errors**2 + _JITTER
        model = regressor(np.full(pool.features.shape[1], 0.5))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a length scale at its bound is a feature without influence: no concern
            if len(values) >= _MIN_LABELS_TO_FIT_SCALES:
                some = np.random.default_rng(seed).permutation(len(values))[:_MAX_LABELS_TO_FIT]
                model.set_params(
                    alpha=alpha[some],
                    optimizer=_search,
                    n_restarts_optimizer=self.n_restarts if len(values) <= _MAX_LABELS_RESTARTS else 0,
                    random_state=seed,
                )
                model.fit(pool.features[some], targets[some])
                model.set_params(kernel=found_kernel(model), optimizer=None, n_restarts_optimizer=0)
            model.set_params(alpha=alpha)
            model.fit(pool.features, targets)
        self._model: GaussianProcessRegressor = model
        self._last = None

    def predict(self, pool: Pool) -> SurrogatePrediction:
        """Mean and std: :math:`k^T K^{-1} y`, and the root of :math:`k_0 - k^T K^{-1} k`."""
        cross, half = self._projected(pool)
        mean = cross @ self._model.alpha_
        rows, which = pool.distinct
        variance = np.maximum(self._model.kernel_.diag(rows) - (half**2).sum(axis=0), 0.0)
        white = np.full(len(pool), self.white)
        return SurrogatePrediction(
            self._mean + self._scale * mean[which], self._scale * np.sqrt(variance)[which], white
        )

    @property
    def white(self) -> float:
        """One standard deviation of the white noise, in the unit of the labels."""
        return self._scale * float(np.sqrt(self._model.noise_))

    @property
    def length_scales(self) -> Floats:
        """(d,) by how much of its range each feature must change to matter."""
        return np.atleast_1d(np.asarray(self._model.kernel_.k1.k2.length_scale, dtype=float))

    def covariance(self, pool: Pool, others: Pool) -> Floats:
        """(n, k) posterior covariance of the smooth part."""
        _, half = self._projected(pool)
        _, half_others = self._project(others.features)
        rows, which = pool.distinct
        shared = self._model.kernel_(rows, others.features) - half.T @ half_others
        return np.asarray(self._scale**2 * shared[which], dtype=float)

    def sample(self, pool: Pool, seed: int) -> Floats:
        """One function of the posterior, without the white noise.

        A function of the prior, by random Fourier features, is corrected at the labels (Matheron's rule; Wilson et al.,
        ICML 2020): so a sample costs no more than a prediction, however many points there are.
        """
        from scipy.linalg import cho_solve

        model, rng = self._model, np.random.default_rng(seed)
        kernel = model.kernel_.k1
        dimension = pool.features.shape[1]
        # the spectral density of a Matern kernel with nu = 5/2 is a Student t with 5 degrees of freedom
        waves = rng.standard_normal((dimension, _WAVES)) / np.sqrt(rng.chisquare(5, _WAVES) / 5)
        waves /= self.length_scales[:, None]
        phases, weights = rng.uniform(0, 2 * np.pi, _WAVES), rng.standard_normal(_WAVES)

        def prior(features: Floats) -> Floats:
            amplitude = np.sqrt(2 * float(kernel.k1.constant_value) / _WAVES)
            return np.asarray(amplitude * np.cos(features @ waves + phases) @ weights, dtype=float)

        cross, _ = self._projected(pool)
        rows, which = pool.distinct
        errors = np.sqrt(model.alpha + model.noise_) * rng.standard_normal(len(model.X_train_))
        residual = model.y_train_ - prior(model.X_train_) - errors
        smooth = prior(rows) + cross @ cho_solve((model.L_, True), residual)
        return np.asarray(self._mean + self._scale * smooth[which], dtype=float)

    def _projected(self, pool: Pool) -> tuple[Floats, Floats]:
        """The same of a pool's distinct features; that of the last pool is kept."""
        if self._last is None or self._last[0] is not pool:
            self._last = (pool, *self._project(pool.distinct[0]))
        return self._last[1:]

    def _project(self, features: Floats) -> tuple[Floats, Floats]:
        r"""(n, t) covariance with the labels, :math:`k`, and (t, n) :math:`L^{-1} k` with :math:`L L^T = K`."""
        from scipy.linalg import solve_triangular

        cross = self._model.kernel_(features, self._model.X_train_)
        return cross, solve_triangular(self._model.L_, cross.T, lower=True, check_finite=False)


def regressor(
    lengths: "float | Floats",
    *,
    amplitude: tuple[float, float] = _AMPLITUDE,
    length: tuple[float, float] = _LENGTH,
    noise: tuple[float, float] = _NOISE,
) -> "GaussianProcessRegressor":
    """scikit-optimize's regressor with a Matern 5/2 kernel and white noise, before it has learned anything.

    Raises
    ------
    ImportError
        If scikit-optimize is not installed.
    """
    try:
        from skopt.learning import GaussianProcessRegressor
        from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    except ImportError as error:
        raise ImportError(MISSING) from error

    smooth = ConstantKernel(1.0, amplitude) * Matern(lengths, length, nu=2.5)
    return GaussianProcessRegressor(smooth + WhiteKernel(0.05, noise), optimizer=None, noise="gaussian")


def found_kernel(model: "GaussianProcessRegressor") -> "Kernel":
    """The kernel that was found, with the noise that scikit-optimize sets to 0 for predictions."""
    return model.kernel_.clone_with_theta(model.kernel_.theta).set_params(k2__noise_level=model.noise_)


def _search(objective: Callable[[Floats], tuple[float, Floats]], start: Floats, bounds: Floats) -> tuple[Floats, float]:
    """The kernel's parameters of the highest likelihood near a start."""
    from scipy.optimize import minimize

    result = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": _STEPS})
    return result.x, float(result.fun)

"""A Gaussian process on the numbers of a point: smooth in composition, with noise for what composition leaves open."""

import warnings
from collections.abc import Callable

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.optimization.space.search_space import needs_skopt
from cgcnn_ase.optimization.surrogates.base import Pool, SurrogateContext, SurrogatePrediction

# labels below which the length scales stay as they start
_MIN_LABELS_TO_FIT_SCALES = 4
# labels beyond which one start finds them: their likelihood has one clear maximum
_MAX_LABELS_RESTARTS = 50
# of a hyperparameter's search; it has converged or is lost
_STEPS = 60
# random Fourier features of a sample
_WAVES = 1024


class MaternProcess:
    """scikit-optimize's regressor with a Matern 5/2 kernel and white noise, on rows of numbers.

    Labels are standardised, and so are the bounds of ``amplitude``, ``length`` (scales) and ``noise`` (variance).
    ``jitter`` is the variance of a label, so that the same one twice does no harm. The kernel's parameters are those of
    the highest marginal likelihood of up to ``max_labels`` labels, drawn by the seed; of up to 50 the search has
    ``n_restarts`` random starts.
    """

    def __init__(
        self,
        *,
        amplitude: tuple[float, float] = (0.05, 20.0),
        length: tuple[float, float] = (0.05, 20.0),
        noise: tuple[float, float] = (1e-5, 1.0),
        jitter: float = 1e-6,
        max_labels: int = 120,
        n_restarts: int = 0,
    ) -> None:
        self._bounds, self._jitter, self._max_labels = (amplitude, length, noise), jitter, max_labels
        self._n_restarts = n_restarts
        self.mean, self.scale = 0.0, 1.0

    def fit(self, rows: Floats, values: Floats, noise: Floats | None, *, lengths: "float | Floats", seed: int) -> None:
        """Find the kernel's parameters, and with them take all labels: (n,) values of (n, d) rows, noise their std.

        The search starts from ``lengths``: one length scale, or one for each column.
        """
        with needs_skopt():
            from skopt.learning import GaussianProcessRegressor
            from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        self.mean = float(np.mean(values))
        self.scale = float(np.std(values)) or 1.0
        errors = np.zeros(len(values)) if noise is None else noise / self.scale
        targets, alpha = (values - self.mean) / self.scale, errors**2 + self._jitter
        amplitude, length, white = self._bounds
        smooth = ConstantKernel(1.0, amplitude) * Matern(lengths, length, nu=2.5)
        model = GaussianProcessRegressor(smooth + WhiteKernel(0.05, white), optimizer=None, noise="gaussian")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a length scale at its bound is a feature without influence: no concern
            if len(values) >= _MIN_LABELS_TO_FIT_SCALES:
                some = np.random.default_rng(seed).permutation(len(values))[: self._max_labels]
                model.set_params(
                    alpha=alpha[some],
                    optimizer=_search,
                    n_restarts_optimizer=self._n_restarts if len(values) <= _MAX_LABELS_RESTARTS else 0,
                    random_state=seed,
                )
                model.fit(rows[some], targets[some])
                # scikit-optimize sets the noise of the kernel to 0 for predictions
                kernel = model.kernel_.clone_with_theta(model.kernel_.theta).set_params(k2__noise_level=model.noise_)
                model.set_params(kernel=kernel, optimizer=None, n_restarts_optimizer=0)
            model.set_params(alpha=alpha)
            model.fit(rows, targets)
        self.model: GaussianProcessRegressor = model

    @property
    def white(self) -> float:
        """One standard deviation of the white noise, in the unit of the labels."""
        return self.scale * float(np.sqrt(self.model.noise_))

    def project(self, rows: Floats) -> tuple[Floats, Floats]:
        r"""(n, t) covariance with the labels, :math:`k`, and (t, n) :math:`L^{-1} k` with :math:`L L^T = K`."""
        from scipy.linalg import solve_triangular

        cross = self.model.kernel_(rows, self.model.X_train_)
        return cross, solve_triangular(self.model.L_, cross.T, lower=True, check_finite=False)

    def moments(self, rows: Floats, cross: Floats, half: Floats) -> tuple[Floats, Floats]:
        """(n,) mean :math:`k^T K^{-1} y` and std, the root of :math:`k_0 - k^T K^{-1} k`, of the smooth part."""
        variance = np.maximum(self.model.kernel_.diag(rows) - (half**2).sum(axis=0), 0.0)
        return self.mean + self.scale * (cross @ self.model.alpha_), self.scale * np.sqrt(variance)

    def covariance(self, rows: Floats, others: Floats, half: Floats, half_others: Floats) -> Floats:
        """(n, k) posterior covariance of the smooth part."""
        return np.asarray(self.scale**2 * (self.model.kernel_(rows, others) - half.T @ half_others), dtype=float)


class GaussianProcess:
    """A :class:`MaternProcess` of the features of points, one length scale a feature, as surrogate.

    The white noise is what points of equal or near features differ by: the ordering of the metals, and the error of a
    label beyond its error bar.
    """

    def __init__(self, *, n_restarts: int = 2) -> None:
        self.process = MaternProcess(n_restarts=n_restarts)
        self._last: tuple[Pool, Floats, Floats] | None = None

    def fit(self, pool: Pool, values: Floats, noise: Floats | None, *, seed: int) -> None:
        """Learn labels, see :class:`cgcnn_ase.optimization.surrogates.base.Surrogate`."""
        self.process.fit(pool.features, values, noise, lengths=np.full(pool.features.shape[1], 0.5), seed=seed)
        self._last = None

    def predict(self, pool: Pool) -> SurrogatePrediction:
        """Return mean and std of the smooth part, and the white noise as what labels cannot teach."""
        rows, which = pool.distinct
        mean, std = self.process.moments(rows, *self._projected(pool))
        return SurrogatePrediction(mean[which], std[which], np.full(len(pool), self.white))

    @property
    def white(self) -> float:
        """One standard deviation of the white noise, in the unit of the labels."""
        return self.process.white

    @property
    def length_scales(self) -> Floats:
        """(d,) by how much of its range each feature must change to matter."""
        return np.atleast_1d(np.asarray(self.process.model.kernel_.k1.k2.length_scale, dtype=float))

    def covariance(self, pool: Pool, others: Pool) -> Floats:
        """(n, k) posterior covariance of the smooth part."""
        rows, which = pool.distinct
        half, half_others = self._projected(pool)[1], self.process.project(others.features)[1]
        return self.process.covariance(rows, others.features, half, half_others)[which]

    def sample(self, pool: Pool, seed: int) -> Floats:
        """Draw one function of the posterior, without the white noise.

        A function of the prior, by random Fourier features, is corrected at the labels (Matheron's rule; Wilson et al.,
        ICML 2020): so a sample costs no more than a prediction, however many points there are.
        """
        from scipy.linalg import cho_solve

        process, model, rng = self.process, self.process.model, np.random.default_rng(seed)
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
        return np.asarray(process.mean + process.scale * smooth[which], dtype=float)

    def _projected(self, pool: Pool) -> tuple[Floats, Floats]:
        """Project a pool's distinct features; that of the last pool is kept."""
        if self._last is None or self._last[0] is not pool:
            self._last = (pool, *self.process.project(pool.distinct[0]))
        return self._last[1:]


def make_gaussian_process(context: SurrogateContext) -> GaussianProcess:
    """Make the surrogate ``gp``, which needs neither model nor structures."""
    del context
    return GaussianProcess()


def _search(objective: Callable[[Floats], tuple[float, Floats]], start: Floats, bounds: Floats) -> tuple[Floats, float]:
    """The kernel's parameters of the highest likelihood near a start."""
    from scipy.optimize import minimize

    result = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": _STEPS})
    return result.x, float(result.fun)

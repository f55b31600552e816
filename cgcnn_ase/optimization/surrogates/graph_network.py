"""A model of crystal graphs as surrogate: its calibrated mean and std, moved to the scale of the labels."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.optimization.space.variables import Point
from cgcnn_ase.optimization.surrogates.base import Pool, SurrogateContext, SurrogatePrediction

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.models.crystal_model import CrystalModel


# how alike the errors of a model are at two points: this much where their features are equal ...
_SHARED = 0.9

# ... and e^(-1/2) of it at this distance, features being between 0 and 1
_DISTANCE = 0.2


class GraphNetworkSurrogate:
    """A model of the zoo, or of the user, with a std: calibrated or of its members.

    Its predictions differ from the labels by the mean of what they differ by where both are known: another functional
    or other references shift all energies alike. A candidate is predicted once and never again.
    """

    def __init__(self, model: "str | Path | CrystalModel", structure: "Callable[[Point], Atoms]") -> None:
        from cgcnn_ase.prediction.predictor import Predictor

        self._predictor = Predictor(model, workers=1, population="hypothetical")
        self._structure = structure
        self._known: dict[str, tuple[float, float]] = {}
        self.offset = 0.0  # by how much the labels are above the model, in their unit

    def fit(self, pool: Pool, values: Floats, noise: Floats | None, *, seed: int = 0) -> None:  # noqa: ARG002
        """Take the mean offset of the labels; those with error bars count by their precision beside the model's."""
        mean, std = self.raw(pool)
        weights = None if noise is None else 1 / (noise**2 + std**2)
        self.offset = float(np.average(values - mean, weights=weights))

    def predict(self, pool: Pool) -> SurrogatePrediction:
        """Return the model's mean plus the offset, and its std."""
        mean, std = self.raw(pool)
        return SurrogatePrediction(mean + self.offset, std, np.zeros(len(pool)))

    def covariance(self, pool: Pool, others: Pool) -> Floats:
        """(n, k) as if errors were alike at near points, 0.9 of them at equal features and less by distance.

        A model says nothing of it; this keeps a batch from being one point many times (local penalisation).
        """
        from scipy.spatial.distance import cdist

        alike = _SHARED * np.exp(-0.5 * cdist(pool.features, others.features, "sqeuclidean") / _DISTANCE**2)
        alike[np.array(pool.keys)[:, None] == np.array(others.keys)[None, :]] = 1.0
        (_, std), (_, std_others) = self.raw(pool), self.raw(others)
        return np.asarray(std[:, None] * alike * std_others[None, :], dtype=float)

    def sample(self, pool: Pool, seed: int) -> Floats:
        """(n,) drawn for each point by itself."""
        mean, std, _ = self.predict(pool)
        return mean + std * np.random.default_rng(seed).standard_normal(len(pool))

    def raw(self, pool: Pool) -> tuple[Floats, Floats]:
        """(n,) what the model predicts, without offset, and its std; a ValueError where it cannot, or has no std."""
        missing = {key: point for key, point in zip(pool.keys, pool.points, strict=True) if key not in self._known}
        if missing:
            self._known.update(zip(missing, self._predictions(missing), strict=True))
        result = np.array([self._known[key] for key in pool.keys], dtype=float).reshape(-1, 2)
        return result[:, 0], result[:, 1]

    def _predictions(self, points: Mapping[str, Point]) -> Iterator[tuple[float, float]]:
        """Yield the value and std of each point, which stands under its name."""
        predictions = self._predictor.stream(self._structure(point) for point in points.values())
        for key, prediction in zip(points, predictions, strict=True):
            if prediction.error is not None or prediction.value is None:
                raise ValueError(f"{key}: {prediction.error}")
            if prediction.std is None:
                raise ValueError(f"the model {prediction.model!r} gives no std: a surrogate must say how sure it is")
            yield prediction.value, prediction.std


class Stacked:
    r"""A model of crystal graphs, and a Gaussian process that learns its errors.

    .. math:: y(x) = \mu(x) + b + \sigma(x) \, g(x)

    with the model's mean :math:`\mu`, its offset :math:`b`, its std :math:`\sigma`, and a process :math:`g` over the
    numbers of a point. So the prior of the error is as wide as the model says, and where labels are near it narrows to
    what they leave open; the two variances are not added, as that of the model is the process's prior.
    """

    def __init__(self, network: GraphNetworkSurrogate) -> None:
        from cgcnn_ase.optimization.surrogates.gaussian_process import GaussianProcess

        self._network, self._errors = network, GaussianProcess()

    def fit(self, pool: Pool, values: Floats, noise: Floats | None, *, seed: int) -> None:
        """Learn the offset, then the process of what remains."""
        self._network.fit(pool, values, noise, seed=seed)
        mean, std, _ = self._network.predict(pool)
        self._errors.fit(pool, (values - mean) / std, None if noise is None else noise / std, seed=seed)

    def predict(self, pool: Pool) -> SurrogatePrediction:
        """Return the model's mean plus the process of its errors."""
        mean, std, _ = self._network.predict(pool)
        error = self._errors.predict(pool)
        return SurrogatePrediction(mean + std * error.mean, std * error.epistemic, std * error.aleatoric)

    def covariance(self, pool: Pool, others: Pool) -> Floats:
        """(n, k) that of the process, times the model's stds."""
        (_, std), (_, std_others) = self._network.raw(pool), self._network.raw(others)
        return np.asarray(std[:, None] * self._errors.covariance(pool, others) * std_others[None, :], dtype=float)

    def sample(self, pool: Pool, seed: int) -> Floats:
        """(n,) one function of the process on top of the model."""
        mean, std, _ = self._network.predict(pool)
        return mean + std * self._errors.sample(pool, seed)


def make_network(context: SurrogateContext, name: str = "network") -> GraphNetworkSurrogate:
    """Make the surrogate ``network``; a ValueError where there is no model, or nothing makes structures."""
    if context.model is None and context.objective:
        raise ValueError(
            f"surrogate {name}: no pretrained model predicts {context.objective}; give `model`, or one for each "
            "objective by name, or take the surrogate gp"
        )
    if context.model is None or context.structure is None:
        raise ValueError(f"the surrogate {name!r} needs a model and what makes the structure of a point")
    return GraphNetworkSurrogate(context.model, context.structure)


def make_stacked(context: SurrogateContext) -> Stacked:
    """Make the surrogate ``stacked``, see :func:`make_network`."""
    return Stacked(make_network(context, "stacked"))

"""A model of crystal graphs as surrogate: its calibrated mean and std, moved to the scale of the labels."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.optimization.space.variables import Point
from cgcnn_ase.optimization.surrogates.base import Pool, Surrogate, SurrogatePrediction

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.models.crystal_model import CrystalModel


SurrogateName = Literal["gp", "network", "stacked"]


def make_surrogate(
    name: SurrogateName,
    *,
    model: "str | Path | CrystalModel | None" = None,
    structure: "Callable[[Point], Atoms] | None" = None,
    progress: bool = False,
) -> Surrogate:
    """The surrogate of one objective.

    Parameters
    ----------
    name
        ``gp``: a Gaussian process on the numbers of a point. ``network``: a model of crystal graphs. ``stacked``: a
        Gaussian process of that model's errors.
    model
        Of ``network`` and ``stacked``: what predicts the objective.
    structure
        Of ``network`` and ``stacked``: makes the structure of a point.
    progress
        Of these: whether to show a progress bar while they predict candidates.

    Raises
    ------
    ValueError
        If the name is none of these, or a network lacks its model or its structures.
    """
    if name not in get_args(SurrogateName):
        raise ValueError(f"no surrogate {name!r}; allowed: {', '.join(get_args(SurrogateName))}")
    if name == "gp":
        from cgcnn_ase.optimization.surrogates.gaussian_process import GaussianProcess

        return GaussianProcess()
    if model is None or structure is None:
        raise ValueError(f"the surrogate {name!r} needs a model and what makes the structure of a point")

    network = GraphNetworkSurrogate(model, structure, progress=progress)
    return network if name == "network" else Stacked(network)


#: how alike the errors of a model are at two points: this much where their features are equal ...
_SHARED = 0.9

#: ... and e^(-1/2) of it at this distance, features being between 0 and 1
_DISTANCE = 0.2


class GraphNetworkSurrogate:
    """A model of the zoo, or of the user, that says how sure it is.

    Its predictions differ from the labels by the mean of what they differ by where both are known: another functional
    or other references shift all energies alike. A candidate is predicted once and never again.

    Parameters
    ----------
    model
        A pretrained name, a model folder or a loaded model with a std, calibrated or of its members.
    structure
        Makes the structure of a point.
    progress
        Whether to show a progress bar on stderr while candidates are predicted.

    Raises
    ------
    UnknownModelError, CheckpointError
        If the model cannot be loaded.
    """

    def __init__(
        self,
        model: "str | Path | CrystalModel",
        structure: "Callable[[Point], Atoms]",
        *,
        progress: bool = False,
    ) -> None:
        from cgcnn_ase.prediction.predictor import Predictor

        self._predictor = Predictor(model, workers=1)
        self._structure, self._progress = structure, progress
        self._known: dict[str, tuple[float, float]] = {}
        self.offset = 0.0  #: by how much the labels are above the model, in their unit

    def fit(self, pool: Pool, values: Floats, noise: Floats | None, *, seed: int = 0) -> None:  # noqa: ARG002
        """Take the mean offset of the labels; those with error bars count by their precision beside the model's."""
        mean, std = self.raw(pool)
        weights = None if noise is None else 1 / (noise**2 + std**2)
        self.offset = float(np.average(values - mean, weights=weights))

    def predict(self, pool: Pool) -> SurrogatePrediction:
        """The model's mean plus the offset, and its std."""
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
        """(n,) what the model says, without offset, and its std; in its unit.

        Raises
        ------
        ValueError
            If a structure cannot be predicted, or the model gives no std.
        """
        missing = {key: point for key, point in zip(pool.keys, pool.points, strict=True) if key not in self._known}
        if missing:
            self._known.update(zip(missing, self._said(list(missing.items())), strict=True))
        result = np.array([self._known[key] for key in pool.keys], dtype=float).reshape(-1, 2)
        return result[:, 0], result[:, 1]

    def _said(self, points: Sequence[tuple[str, Point]]) -> Iterator[tuple[float, float]]:
        from rich.console import Console
        from rich.progress import track

        structures = (self._structure(point) for _, point in points)
        predictions = track(
            self._predictor.stream(structures),
            description="Predicting candidates",
            total=len(points),
            console=Console(stderr=True),
            disable=not self._progress,
        )
        for (key, _), prediction in zip(points, predictions, strict=True):
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

    Parameters
    ----------
    network
        The model.
    n_restarts
        As for :class:`cgcnn_ase.optimization.surrogates.gaussian_process.GaussianProcess`.
    """

    def __init__(self, network: GraphNetworkSurrogate, *, n_restarts: int = 2) -> None:
        from cgcnn_ase.optimization.surrogates.gaussian_process import GaussianProcess

        self._network, self._errors = network, GaussianProcess(n_restarts=n_restarts)

    def fit(self, pool: Pool, values: Floats, noise: Floats | None, *, seed: int) -> None:
        """Learn the offset, then the process of what remains."""
        self._network.fit(pool, values, noise, seed=seed)
        mean, std, _ = self._network.predict(pool)
        self._errors.fit(pool, (values - mean) / std, None if noise is None else noise / std, seed=seed)

    def predict(self, pool: Pool) -> SurrogatePrediction:
        """The model's mean plus the process of its errors."""
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

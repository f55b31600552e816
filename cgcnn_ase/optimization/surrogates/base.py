"""Surrogates: models that learn one objective from labels, and say how sure they are of the rest.

Each is a class and a function that makes it of a :class:`SurrogateContext`; other packages register theirs as entry
points of the group ``cgcnn_ase.surrogates``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.registry import Registry
from cgcnn_ase.optimization.space.search_space import SearchSpace
from cgcnn_ase.optimization.space.variables import Point, Value

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.models.crystal_model import CrystalModel

Integers = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Pool:
    """Points in a row."""

    points: tuple[Point, ...]  # (n,)
    keys: tuple[str, ...]  # (n,) their names
    features: Floats  # (n, d) their numbers between 0 and 1

    @classmethod
    def of(cls, space: SearchSpace, points: Iterable[Mapping[str, Value]]) -> "Pool":
        """The pool of some points of a space."""
        copies = tuple(dict(point) for point in points)
        return cls(copies, tuple(space.key(point) for point in copies), space.features(copies))

    def __len__(self) -> int:
        return len(self.points)

    def take(self, indices: Sequence[int] | Integers) -> "Pool":
        """Some of them, in this order."""
        chosen = np.asarray(indices, dtype=np.intp)
        return Pool(tuple(self.points[i] for i in chosen), tuple(self.keys[i] for i in chosen), self.features[chosen])

    def __add__(self, other: "Pool") -> "Pool":
        if not len(other):
            return self
        return Pool(self.points + other.points, self.keys + other.keys, np.concatenate([self.features, other.features]))

    @cached_property
    def index(self) -> dict[str, int]:
        """Row of each point, by its name."""
        return {key: i for i, key in enumerate(self.keys)}

    @cached_property
    def distinct(self) -> tuple[Floats, Integers]:
        """(u, d) the different features, and (n,) which of them each point has: orderings of one composition share."""
        rows, inverse = np.unique(self.features.round(9), axis=0, return_inverse=True)
        return rows, np.asarray(inverse, dtype=np.intp).reshape(-1)


class SurrogatePrediction(NamedTuple):
    """A surrogate's predictions of the points of a pool, in the unit of the labels."""

    mean: Floats  # (n,)
    epistemic: Floats  # (n,) one standard deviation of what labels of other points can teach
    aleatoric: Floats  # (n,) one standard deviation of what they cannot: a label about its mean


class Surrogate(Protocol):
    """A model of one objective."""

    def fit(self, pool: Pool, values: Floats, noise: Floats | None, *, seed: int) -> None:
        """Learn from the labels of a pool: (n,) values, and one standard deviation of the error of each where known.

        The same labels and seed give the same model.
        """

    def predict(self, pool: Pool) -> SurrogatePrediction:
        """Predict points."""

    def covariance(self, pool: Pool, others: Pool) -> Floats:
        """(n, k) how the epistemic errors of points vary together with those of others."""

    def sample(self, pool: Pool, seed: int) -> Floats:
        """(n,) one function that agrees with the labels, drawn at the points without aleatoric noise, by the seed."""


@dataclass(frozen=True)
class SurrogateContext:
    """All that a surrogate may be made of."""

    objective: str = ""  # name of what it is to predict; empty where nobody says
    model: "str | Path | CrystalModel | None" = None  # pretrained name, model folder or loaded model that predicts it
    structure: "Callable[[Point], Atoms] | None" = None  # makes the structure of a point, in a space that has any


SurrogateFactory = Callable[[SurrogateContext], Surrogate]
SURROGATES: Registry[SurrogateFactory] = Registry(
    "surrogate",
    "cgcnn_ase.surrogates",
    {
        "gp": "cgcnn_ase.optimization.surrogates.gaussian_process:make_gaussian_process",
        "network": "cgcnn_ase.optimization.surrogates.graph_network:make_network",
        "stacked": "cgcnn_ase.optimization.surrogates.graph_network:make_stacked",
    },
)


def make_surrogate(
    name: str,
    *,
    objective: str = "",
    model: "str | Path | CrystalModel | None" = None,
    structure: "Callable[[Point], Atoms] | None" = None,
) -> Surrogate:
    """Make the surrogate of one objective, see :class:`SurrogateContext`.

    ``gp`` is a Gaussian process on the numbers of a point, ``network`` a model of crystal graphs, ``stacked`` a
    Gaussian process of that model's errors; these two need `model` and `structure`. Other packages have others.
    """
    return SURROGATES.get(name)(SurrogateContext(objective, model, structure))

"""What a surrogate is: a model that learns one objective from labels and says how sure it is of the rest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.optimization.space.search_space import SearchSpace
from cgcnn_ase.optimization.space.variables import Point, Value

Integers = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Pool:
    """Points in a row.

    Attributes
    ----------
    points
        (n,) the points.
    keys
        (n,) their names.
    features
        (n, d) their numbers between 0 and 1.
    """

    points: tuple[Point, ...]
    keys: tuple[str, ...]
    features: Floats

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
        """Where each is, by its name."""
        return {key: i for i, key in enumerate(self.keys)}

    @cached_property
    def distinct(self) -> tuple[Floats, Integers]:
        """(u, d) the different features, and (n,) which of them each point has: orderings of one composition share."""
        rows, inverse = np.unique(self.features.round(9), axis=0, return_inverse=True)
        return rows, np.asarray(inverse, dtype=np.intp).reshape(-1)


class SurrogatePrediction(NamedTuple):
    """What a surrogate says of the points of a pool, in the unit of the labels."""

    mean: Floats  #: (n,)
    epistemic: Floats  #: (n,) one standard deviation of what labels of other points can teach
    aleatoric: Floats  #: (n,) one standard deviation of what they cannot: a label about its mean


class Surrogate(Protocol):
    """A model of one objective."""

    def fit(self, pool: Pool, values: Floats, noise: Floats | None, *, seed: int) -> None:
        """Learn from the labels of a pool.

        Parameters
        ----------
        pool
            The points.
        values
            (n,) their labels.
        noise
            (n,) one standard deviation of the error of each, or None where nothing is known of it.
        seed
            Same labels and seed, same model.
        """

    def predict(self, pool: Pool) -> SurrogatePrediction:
        """What it says of points."""

    def covariance(self, pool: Pool, others: Pool) -> Floats:
        """(n, k) how the epistemic errors of points vary together with those of others."""

    def sample(self, pool: Pool, seed: int) -> Floats:
        """(n,) one function that agrees with the labels, drawn at the points without aleatoric noise, by the seed."""

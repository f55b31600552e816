"""Points of a space with their names and features, made once and used in every round."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cgcnn_ase.active.space import SearchSpace
from cgcnn_ase.active.variables import Point, Value

Floats = npt.NDArray[np.float64]
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
        own = tuple(dict(point) for point in points)
        return cls(own, tuple(space.key(point) for point in own), space.features(own))

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

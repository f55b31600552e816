"""The error that is usual for a structure, from its raw signals and what it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cgcnn_ase.uncertainty.error_forest import ErrorForest
from cgcnn_ase.uncertainty.metrics import Floats

#: fewer calibration structures than this teach a forest nothing
MIN_SAMPLES = 500
#: groups of structures that take turns in being left out
N_FOLDS = 8
#: structures in a leaf, for the smaller calibration set and for the larger training set
MIN_LEAF, MIN_LEAF_OF_DIFFICULTY = 5, 30


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """Two forests, one after the other.

    Some structures are hard for all members alike, which their spread cannot show. ``difficulty`` reads composition
    and embedding and was grown on errors in the training set, made by networks that had not seen the structure.
    ``expected`` reads that, the raw signals, composition and embedding, and was grown on the ensemble's errors in the
    calibration set.
    """

    expected: ErrorForest
    difficulty: ErrorForest | None

    @classmethod
    def fit(
        cls,
        signals: Floats,
        composition: npt.ArrayLike,
        embedding: npt.ArrayLike,
        errors: Floats,
        *,
        difficulty: ErrorForest | None = None,
        seed: int = 0,
    ) -> "tuple[ErrorModel, Floats]":
        """Grow ``expected``, and say what it would have said of each structure without that structure.

        Parameters
        ----------
        signals, composition, embedding, errors
            (n, k), (n, 101), (n, F), (n,) of the calibration set.
        difficulty
            From :func:`difficulty_of`.

        Returns
        -------
        model
            Grown on the whole set.
        left_out
            (n,) expected errors by forests that saw neither the structure nor another of its composition: these and
            not the model's own may be calibrated on the same set.
        """
        columns = _columns(signals, composition, embedding, difficulty)
        _, group = np.unique(np.round(np.asarray(composition), 5), axis=0, return_inverse=True)
        group = group.ravel()
        fold = (np.random.default_rng(seed).permutation(group.max() + 1) % N_FOLDS)[group]
        left_out = np.empty(len(columns))
        for k in range(N_FOLDS):
            grown = ErrorForest.fit(columns[fold != k], errors[fold != k], min_leaf=MIN_LEAF, seed=seed)
            left_out[fold == k] = grown.apply(columns[fold == k])
        return cls(ErrorForest.fit(columns, errors, min_leaf=MIN_LEAF, seed=seed), difficulty), left_out

    def apply(self, signals: Floats, composition: npt.ArrayLike, embedding: npt.ArrayLike) -> Floats:
        """The expected absolute error, (n,), in the unit of the errors."""
        return self.expected.apply(_columns(signals, composition, embedding, self.difficulty))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Both forests as named arrays."""
        forests = {"expected": self.expected, "difficulty": self.difficulty}
        return {
            f"{name}.{key}": array
            for name, forest in forests.items()
            if forest is not None
            for key, array in forest.arrays().items()
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.ArrayLike]) -> "ErrorModel | None":
        """The inverse of :meth:`arrays`; None where there is no forest among them."""
        forests = {}
        for name in ("expected", "difficulty"):
            own = {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}
            forests[name] = ErrorForest.from_arrays(own) if own else None
        expected = forests["expected"]
        return None if expected is None else cls(expected, forests["difficulty"])


def difficulty_of(
    composition: npt.ArrayLike, embedding: npt.ArrayLike, errors: Floats, *, seed: int = 0
) -> ErrorForest:
    """Grow a forest on errors in the training set, made by networks that had not seen the structure.

    Parameters
    ----------
    composition, embedding
        (n, 101) and (n, F); the embeddings are those of the ensemble that shall be judged.
    errors
        (n,), in any unit.
    """
    return ErrorForest.fit(_described(composition, embedding), errors, min_leaf=MIN_LEAF_OF_DIFFICULTY, seed=seed)


def _described(composition: npt.ArrayLike, embedding: npt.ArrayLike) -> npt.NDArray[np.float32]:
    return np.concatenate([np.asarray(composition), np.asarray(embedding)], axis=1, dtype=np.float32)


def _columns(
    signals: Floats, composition: npt.ArrayLike, embedding: npt.ArrayLike, difficulty: ErrorForest | None
) -> npt.NDArray[np.float32]:
    described = _described(composition, embedding)
    hard = [] if difficulty is None else [difficulty.apply(described)[:, None]]
    return np.concatenate([signals, *hard, described], axis=1, dtype=np.float32)

"""The error that is usual for a structure, from its raw signals and what it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import AnyArray, Floats, Floats32

N_TREES = 64
MAX_DEPTH = 16

# share of the columns that each split chooses from
MAX_FEATURES = 0.3

# absolute errors below this quantile of the calibration set count as equal to it: their logarithms are noise
FLOOR_QUANTILE = 0.1


@dataclass(frozen=True, eq=False, kw_only=True)
class ErrorForest:
    r"""Extremely randomised trees (Geurts et al., Mach. Learn. 63, 3) that regress :math:`\log|error|`.

    They are grown by scikit-learn and kept as plain arrays, all trees one after another.
    """

    roots: npt.NDArray[np.int32]  # (T,) first node of each tree
    feature: npt.NDArray[np.int32]  # (K,) column that a node asks for; 0 in a leaf
    threshold: Floats32  # (K,) values up to this go left; infinite in a leaf
    left: npt.NDArray[np.int32]  # (K,) a leaf leads to itself
    right: npt.NDArray[np.int32]  # (K,)
    value: Floats32  # (K,) mean log|error| of the structures in the node

    @classmethod
    def fit(cls, features: npt.ArrayLike, errors: npt.ArrayLike, *, min_leaf: int = 5, seed: int = 0) -> "ErrorForest":
        """Grow the trees on features (n, k) and the errors (n,), any sign, of predictions that were not fitted to them.

        A leaf holds at least ``min_leaf`` structures. ImportError if scikit-learn is not installed.
        """
        from sklearn.ensemble import ExtraTreesRegressor

        forest = ExtraTreesRegressor(
            N_TREES, min_samples_leaf=min_leaf, max_depth=MAX_DEPTH, max_features=MAX_FEATURES, random_state=seed
        )
        forest.fit(np.asarray(features, dtype=np.float32), _log_size(errors))
        return cls._joined([estimator.tree_ for estimator in forest.estimators_])

    @classmethod
    def _joined(cls, trees: list[Any]) -> "ErrorForest":
        """All trees one after another, their leaves leading to themselves."""
        sizes = [tree.node_count for tree in trees]
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        leaf = np.concatenate([tree.children_left < 0 for tree in trees])
        indices = np.arange(leaf.size)

        def children(side: str) -> npt.NDArray[np.int32]:
            joined = np.concatenate([getattr(tree, side) + r for tree, r in zip(trees, roots, strict=True)])
            return np.where(leaf, indices, joined).astype(np.int32)

        exact = np.concatenate([tree.threshold for tree in trees])
        threshold = exact.astype(np.float32)
        # a float32 is at most the float64 threshold exactly if it is at most the next float32 below
        threshold = np.where(threshold > exact, np.nextafter(threshold, np.float32(-np.inf)), threshold)
        return cls(
            roots=roots.astype(np.int32),
            feature=np.where(leaf, 0, np.concatenate([tree.feature for tree in trees])).astype(np.int32),
            threshold=np.where(leaf, np.float32(np.inf), threshold),
            left=children("children_left"),
            right=children("children_right"),
            value=np.concatenate([tree.value[:, 0, 0] for tree in trees]).astype(np.float32),
        )

    def apply(self, features: npt.ArrayLike) -> Floats:
        """The geometric mean of |error| that is expected, (n,), in the unit of the errors."""
        x = np.asarray(features, dtype=np.float32)
        row = np.arange(len(x))[:, None]
        node = np.broadcast_to(self.roots, (len(x), self.roots.size))
        for _ in range(MAX_DEPTH):
            goes_left = x[row, self.feature[node]] <= self.threshold[node]
            node = np.where(goes_left, self.left[node], self.right[node])
        return np.asarray(np.exp(self.value[node].mean(axis=1, dtype=np.float64)))

    def arrays(self) -> dict[str, AnyArray]:
        """The trees as named arrays, ready for a safetensors file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.ArrayLike]) -> "ErrorForest":
        """The inverse of :meth:`arrays`; ValueError if an array is missing or they do not fit together."""
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in arrays]:
            raise ValueError(f"an error forest without {', '.join(missing)}")
        forest = cls(**{name: np.asarray(arrays[name]) for name in names})
        size = forest.value.size
        links = np.concatenate([forest.roots, forest.left, forest.right])
        if not (forest.feature.size == forest.threshold.size == forest.left.size == forest.right.size == size):
            raise ValueError("the arrays of an error forest differ in length")
        if not links.size or links.min() < 0 or links.max() >= size:
            raise ValueError("an error forest leads to nodes that it does not have")
        return forest


# fewer calibration structures than this teach a forest nothing
MIN_SAMPLES = 500

# groups of structures that take turns in being left out
N_FOLDS = 8

# structures in a leaf, for the smaller calibration set and for the larger training set
MIN_LEAF, MIN_LEAF_OF_DIFFICULTY = 5, 30

# penalty of the weights of the elements
PENALTY = 10.0


@dataclass(frozen=True, eq=False)
class Difficulty:
    """Errors that are usual for a structure whatever the network, read from composition and embedding.

    Learned from errors in the training set, made by networks that had not seen the structure: by a forest and, of the
    elements alone, by a linear regression of the logarithm of the error, which knows those of rare elements better.
    """

    forest: ErrorForest
    elements: Floats | None  # (102,) the constant, then the weight of each atomic number; None in older models

    @classmethod
    def fit(
        cls, composition: npt.ArrayLike, embedding: npt.ArrayLike, errors: Floats, *, seed: int = 0
    ) -> "Difficulty":
        """Learn from errors (n,) in any unit; ``composition`` is (n, 101), ``embedding`` (n, F) of the ensemble."""
        described = _described(composition, embedding)
        forest = ErrorForest.fit(described, errors, min_leaf=MIN_LEAF_OF_DIFFICULTY, seed=seed)
        return cls(forest, _line(_presence(composition), _log_size(errors), penalty=PENALTY))

    def apply(self, composition: npt.ArrayLike, embedding: npt.ArrayLike) -> Floats:
        """The expected errors by either, (n, 2), or by the forest alone, (n, 1)."""
        columns = [self.forest.apply(_described(composition, embedding))]
        if self.elements is not None:
            columns.append(np.exp(self.elements[0] + _presence(composition) @ self.elements[1:]))
        return np.stack(columns, axis=1)


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """The expected error of an ensemble, as the geometric mean of what a forest and a linear regression say.

    Some structures are hard for all members alike, which their spread cannot show: both read the raw signals and
    ``difficulty``, the forest ``expected`` composition and embedding too, the line the logarithms. They were fitted to
    the ensemble's errors in the calibration set.
    """

    expected: ErrorForest
    difficulty: Difficulty | None
    line: Floats | None = None  # the constant, then the power of each signal and difficulty; None in older models

    @classmethod
    def fit(
        cls,
        signals: Floats,
        composition: npt.ArrayLike,
        embedding: npt.ArrayLike,
        errors: Floats,
        *,
        difficulty: Difficulty | None = None,
        seed: int = 0,
    ) -> "tuple[ErrorModel, Floats]":
        """Fit on the calibration set; return the model and what it would say of unseen structures.

        The latter are (n,) expected errors by models that saw neither the structure nor another of its composition:
        these and not the model's own may be calibrated on the same set. ``signals`` (n, k) are positive,
        ``composition`` (n, 101), ``embedding`` (n, F) and ``errors`` (n,) are of the calibration set.
        """
        columns, logs = _inputs(signals, composition, embedding, difficulty)
        _, group = np.unique(np.round(np.asarray(composition), 5), axis=0, return_inverse=True)
        group = group.ravel()
        fold = (np.random.default_rng(seed).permutation(group.max() + 1) % N_FOLDS)[group]

        def learn(rows: npt.NDArray[np.bool_]) -> tuple[ErrorForest, Floats]:
            grown = ErrorForest.fit(columns[rows], errors[rows], min_leaf=MIN_LEAF, seed=seed)
            return grown, _line(logs[rows], _log_size(errors[rows]))

        left_out = np.empty(len(columns))
        for k in range(N_FOLDS):
            left_out[fold == k] = _mean(*learn(fold != k), columns[fold == k], logs[fold == k])
        forest, line = learn(np.ones(len(columns), dtype=bool))
        return cls(forest, difficulty, line), left_out

    def apply(self, signals: Floats, composition: npt.ArrayLike, embedding: npt.ArrayLike) -> Floats:
        """The expected absolute error, (n,), in the unit of the errors."""
        return _mean(self.expected, self.line, *_inputs(signals, composition, embedding, self.difficulty))

    def arrays(self) -> dict[str, AnyArray]:
        """All parts as named arrays."""
        forests = {"expected": self.expected} | (
            {} if self.difficulty is None else {"difficulty": self.difficulty.forest}
        )
        lines = {_ELEMENTS: None if self.difficulty is None else self.difficulty.elements, _LINE: self.line}
        return {
            f"{name}.{key}": array for name, forest in forests.items() for key, array in forest.arrays().items()
        } | {name: line for name, line in lines.items() if line is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.ArrayLike]) -> "ErrorModel | None":
        """The inverse of :meth:`arrays`; None where there is no forest among them."""
        forests, lines = {}, {}
        for name in ("expected", "difficulty"):
            model_arrays = {
                key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")
            }
            forests[name] = ErrorForest.from_arrays(model_arrays) if model_arrays else None
        for name in (_ELEMENTS, _LINE):
            lines[name] = np.asarray(arrays[name], dtype=np.float64) if name in arrays else None
        expected, hard = forests["expected"], forests["difficulty"]
        if expected is None:
            return None
        return cls(expected, None if hard is None else Difficulty(hard, lines[_ELEMENTS]), lines[_LINE])


# names of the lines among the arrays
_ELEMENTS, _LINE = "difficulty_of_elements", "expected_line"


def _log_size(errors: npt.ArrayLike) -> Floats:
    """Logarithms of the sizes of errors, (n,); small ones count as equal."""
    size = np.abs(np.asarray(errors, dtype=float))
    floor = np.quantile(size, FLOOR_QUANTILE)
    logs: Floats = np.log(np.maximum(size, floor if floor > 0 else np.finfo(float).tiny))
    return logs


def _line(features: npt.ArrayLike, values: Floats, *, penalty: float = 0.0) -> Floats:
    """The constant and the weights, (1 + k,), of a linear regression of values (n,) on features (n, k)."""
    from sklearn.linear_model import Ridge

    fitted = Ridge(penalty, solver="svd").fit(features, values)
    return np.concatenate([[fitted.intercept_], fitted.coef_])


def _mean(forest: ErrorForest, line: Floats | None, columns: Floats32, logs: Floats) -> Floats:
    """Geometric mean of what a forest and a line say, (n,); without a line the forest alone."""
    of_forest = forest.apply(columns)
    return of_forest if line is None else np.sqrt(of_forest * np.exp(line[0] + logs @ line[1:]))


def _inputs(
    signals: Floats, composition: npt.ArrayLike, embedding: npt.ArrayLike, difficulty: Difficulty | None
) -> tuple[Floats32, Floats]:
    """Signals, difficulties, composition and embedding for the forest, and logarithms of the first two for the line."""
    known = signals
    if difficulty is not None:
        known = np.concatenate([signals, difficulty.apply(composition, embedding)], axis=1)
    columns = np.concatenate([known, _described(composition, embedding)], axis=1, dtype=np.float32)
    return columns, np.log(np.maximum(known, np.finfo(np.float32).tiny))


def _presence(composition: npt.ArrayLike) -> Floats:
    """1 for the elements that are there, (n, 101)."""
    return (np.asarray(composition) > 0).astype(np.float64)


def _described(composition: npt.ArrayLike, embedding: npt.ArrayLike) -> Floats32:
    return np.concatenate([np.asarray(composition), np.asarray(embedding)], axis=1, dtype=np.float32)

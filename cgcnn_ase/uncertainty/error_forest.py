"""How large the error of such a structure usually is: regression trees on what the structure is."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from cgcnn_ase.uncertainty.metrics import Floats

N_TREES = 64
MAX_DEPTH = 16
#: share of the columns that each split chooses from
MAX_FEATURES = 0.3
#: absolute errors below this quantile of the calibration set count as equal to it: their logarithms are noise
FLOOR_QUANTILE = 0.1

Floats32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class ErrorForest:
    r"""Extremely randomised trees (Geurts et al., Mach. Learn. 63, 3) that regress :math:`\log|error|`.

    They are grown by scikit-learn and kept as plain arrays, all trees one after another.
    """

    roots: npt.NDArray[np.int32]  #: (T,) first node of each tree
    feature: npt.NDArray[np.int32]  #: (K,) column that a node asks for; 0 in a leaf
    threshold: Floats32  #: (K,) values up to this go left; infinite in a leaf
    left: npt.NDArray[np.int32]  #: (K,) a leaf leads to itself
    right: npt.NDArray[np.int32]  #: (K,)
    value: Floats32  #: (K,) mean log|error| of the structures in the node

    @classmethod
    def fit(cls, features: npt.ArrayLike, errors: npt.ArrayLike, *, min_leaf: int = 5, seed: int = 0) -> "ErrorForest":
        """Grow the trees.

        Parameters
        ----------
        features
            (n, k) finite numbers.
        errors
            (n,) of structures that the predictions were not fitted to, any sign.
        min_leaf
            Structures in a leaf, at least.
        seed
            Of the random splits.

        Raises
        ------
        ImportError
            If scikit-learn is not installed.
        """
        from sklearn.ensemble import ExtraTreesRegressor

        size = np.abs(np.asarray(errors, dtype=float))
        floor = np.quantile(size, FLOOR_QUANTILE)
        logs = np.log(np.maximum(size, floor if floor > 0 else np.finfo(float).tiny))
        forest = ExtraTreesRegressor(
            N_TREES, min_samples_leaf=min_leaf, max_depth=MAX_DEPTH, max_features=MAX_FEATURES, random_state=seed
        )
        forest.fit(np.asarray(features, dtype=np.float32), logs)
        return cls._joined([estimator.tree_ for estimator in forest.estimators_])

    @classmethod
    def _joined(cls, trees: list[Any]) -> "ErrorForest":
        """All trees one after another, their leaves leading to themselves."""
        sizes = [tree.node_count for tree in trees]
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        leaf = np.concatenate([tree.children_left < 0 for tree in trees])
        own = np.arange(leaf.size)

        def children(side: str) -> npt.NDArray[np.int32]:
            joined = np.concatenate([getattr(tree, side) + r for tree, r in zip(trees, roots, strict=True)])
            return np.where(leaf, own, joined).astype(np.int32)

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

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The trees as named arrays, ready for a safetensors file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.ArrayLike]) -> "ErrorForest":
        """The inverse of :meth:`arrays`.

        Raises
        ------
        ValueError
            If an array is missing or they do not fit together.
        """
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

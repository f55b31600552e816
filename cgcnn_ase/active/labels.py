"""What an optimizer was told: values with their error bars, and the points that failed."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cgcnn_ase.active.pool import Pool
from cgcnn_ase.active.space import SearchSpace
from cgcnn_ase.active.variables import Point, Value

Floats = npt.NDArray[np.float64]


class Labels:
    """Labels in the order of their points' names, whatever the order in which they came.

    Parameters
    ----------
    space
        Where the points are.
    n_objectives
        How many values each has.
    """

    def __init__(self, space: SearchSpace, n_objectives: int) -> None:
        self._space, self._m = space, n_objectives
        self._rows: list[tuple[str, tuple[float, ...], tuple[float, ...], Point]] = []
        self.failed: set[str] = set()
        self.pool = Pool.of(space, [])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def n_told(self) -> int:
        """Labels and failures."""
        return len(self._rows) + len(self.failed)

    @property
    def told(self) -> set[str]:
        """Names of the points with a label."""
        return set(self.pool.keys)

    @property
    def values(self) -> Floats:
        """(n, m) the labels."""
        return np.array([values for _, values, _, _ in self._rows], dtype=float).reshape(-1, self._m)

    def noise(self, k: int) -> Floats | None:
        """(n,) one standard deviation of the errors of an objective; None where no error bar was told."""
        errors = np.array([errors[k] for _, _, errors, _ in self._rows], dtype=float)
        return errors if errors.any() else None

    def add(
        self,
        points: Sequence[Mapping[str, Value]],
        values: npt.ArrayLike,
        noise: npt.ArrayLike | None,
        *,
        failed: Sequence[Mapping[str, Value]],
    ) -> list[str]:
        """Take labels and failures, or none of them where one is wrong; names of all their points."""
        table = self._table(values, len(points), "values")
        errors = np.zeros_like(table) if noise is None else self._table(noise, len(points), "error bars")
        if (errors < 0).any():
            raise ValueError(f"an error bar is negative: {errors.min()}")
        keys = [self._space.checked_key(point) for point in points]
        lost = [self._space.checked_key(point) for point in failed]
        rows = zip(keys, map(tuple, table.tolist()), map(tuple, errors.tolist()), map(dict, points), strict=True)
        self._rows = sorted([*self._rows, *rows], key=lambda row: row[:3])
        self.failed |= set(lost)
        self.pool = Pool.of(self._space, [point for _, _, _, point in self._rows])
        return keys + lost

    def _table(self, given: npt.ArrayLike, n: int, what: str) -> Floats:
        table = np.asarray(given, dtype=float)
        if table.shape == (n,) and self._m == 1:
            table = table[:, None]
        if not n and not table.size:
            table = np.zeros((0, self._m))
        if table.shape != (n, self._m):
            raise ValueError(f"{what} of shape {table.shape}; {n} points of {self._m} objectives need ({n}, {self._m})")
        if not np.isfinite(table).all():
            raise ValueError(f"the {what} are not all finite numbers; a point without a value is told as failed")
        return table

"""Ask which points to compute, tell what came out: scikit-optimize's way, over the points a space can realise."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.optimization.acquisition import Acquisition, Goal, check_wanted
from cgcnn_ase.optimization.batch import AcquisitionSettings, Proposal, propose
from cgcnn_ase.optimization.pareto import costs_of, pareto_front
from cgcnn_ase.optimization.space.search_space import MISSING, SearchSpace, neighbors
from cgcnn_ase.optimization.space.variables import Point, Value
from cgcnn_ase.optimization.surrogates.base import Pool, Surrogate
from cgcnn_ase.optimization.surrogates.graph_network import SurrogateName, make_surrogate

Initial = Literal["sobol", "random", "lhs", "grid"]

#: Latin hypercubes tried for the one whose nearest points are furthest apart
_HYPERCUBES = 100


def initial_points(space: SearchSpace, n: int, *, kind: Initial = "sobol", seed: int = 0) -> list[Point]:
    """Different points that cover the space, by one of scikit-optimize's samplers of the unit cube.

    Parameters
    ----------
    space
        The space.
    n
        How many; fewer come where the space has no more.
    kind
        ``sobol``: a shifted Sobol sequence; ``lhs``: a Latin hypercube; ``grid``: a regular grid; ``random``.
    seed
        Same seed, same points.

    Raises
    ------
    ValueError
        If the kind is none of these, or n negative.
    ImportError
        If scikit-optimize is not installed.
    """
    if kind not in get_args(Initial):
        raise ValueError(f"no initial points by {kind!r}; allowed: {', '.join(get_args(Initial))}")
    if n < 0:
        raise ValueError(f"the number of initial points must be 0 or more, not {n}")
    result: dict[str, Point] = {}
    if kind != "random" and n:
        for point in space.from_unit(_unit_cube(kind, n, space.n_unit, seed)):
            result.setdefault(space.key(point), point)
    if len(result) < n:  # several of the sampler's points became one
        for point in space.sample(2 * n, seed):
            result.setdefault(space.key(point), point)
    return list(result.values())[:n]


def _unit_cube(kind: Initial, n: int, dimension: int, seed: int) -> list[list[float]]:
    try:
        from skopt.sampler import Grid, Lhs, Sobol
    except ImportError as error:
        raise ImportError(MISSING) from error

    # a Sobol sequence is balanced for powers of two
    size = 1 << (n - 1).bit_length() if kind == "sobol" else n
    sampler = {"sobol": Sobol, "grid": Grid}[kind]() if kind != "lhs" else Lhs(iterations=_HYPERCUBES)
    points: list[list[float]] = sampler.generate([(0.0, 1.0)] * dimension, size, random_state=seed)
    return points[:n]


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

    def _table(self, values: npt.ArrayLike, n: int, what: str) -> Floats:
        table = np.asarray(values, dtype=float)
        if table.shape == (n,) and self._m == 1:
            table = table[:, None]
        if not n and not table.size:
            table = np.zeros((0, self._m))
        if table.shape != (n, self._m):
            raise ValueError(f"{what} of shape {table.shape}; {n} points of {self._m} objectives need ({n}, {self._m})")
        if not np.isfinite(table).all():
            raise ValueError(f"the {what} are not all finite numbers; a point without a value is told as failed")
        return table


#: a surrogate by its name, one, or one for each objective
SurrogateLike = SurrogateName | Surrogate | list[Surrogate] | tuple[Surrogate, ...]

#: labels that a surrogate needs
_FEWEST = 2

#: of a space too large to list: how many of the best points have their neighbours among the candidates
_LOCAL = 5


class Optimizer:
    """Proposes points, and learns from their values.

    What it proposes follows from its settings and seed, what it was told (in any order), and what is pending: asked for
    and not yet told. Nothing else is remembered, so a new optimizer that is told the same, and asked in the same
    rounds, proposes the same.

    Parameters
    ----------
    space
        The points there are.
    surrogate
        ``gp``, or a surrogate, or one for each objective: see
        :func:`cgcnn_ase.optimization.surrogates.graph_network.make_surrogate`.
    acquisition
        See :func:`cgcnn_ase.optimization.acquisition.acquire`.
    goals
        For each objective ``min``, ``max``, or a number that its value shall be near to. With several the acquisition
        is of their random scalarisation, another one for each proposal (ParEGO).
    seed
        Same seed, same proposals.
    n_initial
        Points that cover the space before the surrogate is asked; labels told earlier count as such.
    initial
        How these cover it: ``sobol``, ``random``, ``lhs`` or ``grid``.
    candidates
        The only points to propose, such as those of a table; by default those of the space.
    n_candidates
        Of a space of more points, so many drawn at random are the candidates, and the neighbours of the best known.
    kappa
        Of the acquisition ``lcb``.

    Raises
    ------
    ValueError
        If a name or a goal is none of the allowed, there are not as many surrogates as goals, or a number is negative.
    ImportError
        If scikit-optimize is not installed.

    Examples
    --------
    >>> space = SearchSpace.from_dict({"variables": {"x": {"low": 0, "high": 1, "sites": 100}}})
    >>> optimizer = Optimizer(space, n_initial=4, seed=1)
    >>> for _ in range(12):
    ...     points = optimizer.ask()
    ...     optimizer.tell(points, [(point["x"] - 0.37) ** 2 for point in points])
    >>> optimizer.best()[0]
    {'x': 0.37}
    """

    def __init__(
        self,
        space: SearchSpace,
        surrogate: SurrogateLike = "gp",
        acquisition: Acquisition = "ei",
        goals: Sequence[Goal] = ("min",),
        *,
        seed: int = 0,
        n_initial: int = 8,
        initial: Initial = "sobol",
        candidates: Sequence[Mapping[str, Value]] | None = None,
        n_candidates: int = 10_000,
        kappa: float = 2.0,
    ) -> None:
        if acquisition not in get_args(Acquisition):
            raise ValueError(f"no acquisition {acquisition!r}; allowed: {', '.join(get_args(Acquisition))}")
        if isinstance(goals, str) or not goals:
            raise ValueError(f"goals must be a list with one for each objective, not {goals!r}")
        for goal in goals:
            check_wanted(goal)
        if n_initial < 0 or n_candidates < 1 or kappa < 0 or seed < 0:
            raise ValueError("n_initial, kappa and the seed must be 0 or more, n_candidates at least 1")
        self.space, self.seed, self.n_initial = space, seed, n_initial
        self.aim = AcquisitionSettings(acquisition, tuple(goals), kappa, of_structures=space.has_replicas)
        self.surrogates = _surrogates(surrogate, len(goals))
        self.labels = Labels(space, len(goals))
        self._pending: dict[str, Point] = {}
        self._listed = candidates is not None or (space.count is not None and space.count <= n_candidates)
        if candidates is not None:
            points = list({space.checked_key(point): dict(point) for point in candidates}.values())
        else:
            points = space.candidates() if self._listed else space.sample(n_candidates, [seed, 1])
        self._candidates = Pool.of(space, points)
        self._design = _design(space, self._candidates if candidates is not None else None, n_initial, initial, seed)
        self._fitted = 0  # so many labels the surrogates know

    @property
    def pending(self) -> list[Point]:
        """Points that were asked for and not yet told."""
        return list(self._pending.values())

    def ask(self, n_points: int | None = None) -> list[Point]:
        """Points to compute: one, or so many.

        None is one that was told, failed or is pending. Fewer come, in the end none, where no more candidates are left.
        """
        return [proposal.point for proposal in self.propose(1 if n_points is None else n_points)]

    def propose(self, n: int = 1) -> list[Proposal]:
        """As :meth:`ask`, with what the surrogates say of each point and why it was chosen.

        Raises
        ------
        ValueError
            If n is not positive.
        """
        if n < 1:
            raise ValueError(f"the number of points to ask for must be at least 1, not {n}")
        result: list[Proposal] = []
        while len(result) < n and (point := self._initial_point()) is not None:
            self._pending[self.space.key(point)] = point
            result.append(Proposal(point, "initial"))
        if len(result) < n and len(self.labels) >= _FEWEST:
            for proposal in self._best_next(n - len(result)):
                self._pending[self.space.key(proposal.point)] = proposal.point
                result.append(proposal)
        return result

    def tell(
        self,
        points: Sequence[Mapping[str, Value]],
        values: npt.ArrayLike,
        noise: npt.ArrayLike | None = None,
        *,
        failed: Sequence[Mapping[str, Value]] = (),
    ) -> None:
        """Learn what came out.

        Parameters
        ----------
        points
            Those computed or measured; they need not have been asked for, nor be realisable.
        values
            (n, m) the value of each objective, or (n,) of the only one.
        noise
            Of the same shape: one standard deviation of the error of each value, in its unit.
        failed
            Points that have no value. They are never proposed again, and no number stands for them.

        Raises
        ------
        ValueError
            If shapes do not agree, a value is not finite, an error bar negative, or a point not of this space.
        """
        for key in self.labels.add(points, values, noise, failed=failed):
            self._pending.pop(key, None)

    def best(self) -> tuple[Point, tuple[float, ...]]:
        """The best point told, and its values; of several objectives the first on the Pareto front.

        Raises
        ------
        ValueError
            If nothing was told.
        """
        return self.front()[0]

    def front(self) -> list[tuple[Point, tuple[float, ...]]]:
        """The points told that no other one beats, and their values; of one objective the best.

        Raises
        ------
        ValueError
            If nothing was told.
        """
        if not len(self.labels):
            raise ValueError("no value was told yet")
        values = self.labels.values
        front = np.flatnonzero(pareto_front(values, self.aim.goals))
        return [(self.labels.pool.points[i], tuple(values[i].tolist())) for i in front]

    # how points are chosen

    def _taken(self) -> set[str]:
        return {*self.labels.told, *self.labels.failed, *self._pending}

    def _initial_point(self) -> Point | None:
        """The next point that covers the space, while there are too few labels for a surrogate."""
        n = len(self.labels)
        if n >= _FEWEST and n + len(self._pending) >= self.n_initial:
            return None
        taken = self._taken()
        for point in self._design:
            if self.space.key(point) not in taken:
                return point
        free = [i for i, key in enumerate(self._candidates.keys) if key not in taken]
        if not free:
            return None
        rng = np.random.default_rng([self.seed, 2, len(taken)])
        return self._candidates.points[free[int(rng.integers(len(free)))]]

    def _best_next(self, n: int) -> list[Proposal]:
        self._fit()
        pool = self._pool()
        taken = self._taken()
        return propose(
            n,
            self.surrogates,
            pool,
            self.aim,
            free=np.array([key not in taken for key in pool.keys], dtype=bool),
            pending=[pool.index[key] for key in self._pending],
            known=self._known(),
            seed=[self.seed, 3, self.labels.n_told],
        )

    def _fit(self) -> None:
        """Fit the surrogates, unless they are."""
        if self._fitted == len(self.labels):
            return
        for k, surrogate in enumerate(self.surrogates):
            surrogate.fit(self.labels.pool, self.labels.values[:, k], self.labels.noise(k), seed=self.seed)
        self._fitted = len(self.labels)

    def _pool(self) -> Pool:
        """The candidates, and pending points that are none."""
        pool = self._candidates
        if not self._listed:
            front = pareto_front(self.labels.values, self.aim.goals)
            order = np.argsort(costs_of(self.labels.values, self.aim.goals).sum(axis=1), kind="stable")
            best = sorted(order.tolist(), key=lambda i: not front[i])[:_LOCAL]
            near = {
                self.space.key(point): point
                for i in best
                for point in neighbors(self.space, self.space.snap(self.labels.pool.points[i]))
            }
            pool = pool + Pool.of(self.space, [point for key, point in near.items() if key not in pool.index])
        return pool + Pool.of(self.space, [point for key, point in self._pending.items() if key not in pool.index])

    def _known(self) -> Floats:
        """(t, m) the values to improve on: those told, or where they have error bars what is believed of them."""
        values = self.labels.values
        for k, surrogate in enumerate(self.surrogates):
            noise = self.labels.noise(k)
            if noise is not None:
                values[:, k] = np.where(noise > 0, surrogate.predict(self.labels.pool).mean, values[:, k])
        return values


def _surrogates(surrogates: SurrogateLike, n_goals: int) -> tuple[Surrogate, ...]:
    if isinstance(surrogates, str):
        return tuple(make_surrogate(surrogates) for _ in range(n_goals))
    several = tuple(surrogates) if isinstance(surrogates, list | tuple) else (surrogates,)
    if len(several) != n_goals:
        raise ValueError(f"{len(several)} surrogates and {n_goals} goals; needed is one surrogate for each goal")
    return several


def _design(space: SearchSpace, only: Pool | None, n: int, initial: Initial, seed: int) -> list[Point]:
    """The initial points; of a list of candidates, the nearest to those that would cover the space."""
    points = initial_points(space, n, kind=initial, seed=seed)
    if only is None or not len(only):
        return points
    result: list[int] = []
    left = only.features.copy()
    for wanted in space.features(points)[: len(only)]:
        result.append(int(((left - wanted) ** 2).sum(axis=1).argmin()))
        left[result[-1]] = np.inf
    return [only.points[i] for i in result]

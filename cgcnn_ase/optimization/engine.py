"""Search engines: what ask and tell needs whatever decides the next point, the engines by name, and our own.

An engine is a class with the constructor of :class:`AskTell`, which other packages register as an entry point of the
group ``cgcnn_ase.search_engines``; our own are ``native`` (surrogates of each objective, and an acquisition over the
candidates) and ``skopt`` (scikit-optimize's ``Optimizer``).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.registry import Registry
from cgcnn_ase.optimization.acquisition import ACQUISITIONS, AcquisitionSettings, Proposal, propose
from cgcnn_ase.optimization.pareto import Goal, check_goal, costs_of, pareto_front
from cgcnn_ase.optimization.space.search_space import Initial, SearchSpace, initial_points, neighbors
from cgcnn_ase.optimization.space.variables import Point, Value
from cgcnn_ase.optimization.surrogates.base import Pool, Surrogate, make_surrogate

# labels that a surrogate needs
_FEWEST = 2


class SearchEngine(Protocol):
    """Proposes points and learns from their values."""

    def propose(self, n: int = 1) -> list[Proposal]:
        """Return points to compute, none that was told, failed or is pending; fewer where no more are left."""

    def tell(
        self,
        points: Sequence[Mapping[str, Value]],
        values: npt.ArrayLike,
        noise: npt.ArrayLike | None = None,
        *,
        failed: Sequence[Mapping[str, Value]] = (),
    ) -> None:
        """Learn what came out, see :meth:`AskTell.tell`."""


ENGINES: Registry[Callable[..., SearchEngine]] = Registry(
    "search engine",
    "cgcnn_ase.search_engines",
    {
        "native": "cgcnn_ase.optimization.engine:Optimizer",
        "skopt": "cgcnn_ase.optimization.skopt_engine:SkoptEngine",
    },
)


# a surrogate by its name, one, or one for each objective
SurrogateLike = str | Surrogate | list[Surrogate] | tuple[Surrogate, ...]


class AskTell(ABC):
    """Labels, pending points and the initial design of an engine; a subclass chooses the points after these.

    Parameters
    ----------
    space
        The points there are.
    surrogate
        ``gp``, or a surrogate, or one for each objective: see
        :func:`cgcnn_ase.optimization.surrogates.base.make_surrogate`.
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
        Of a space of more points, so many drawn at random are the candidates.
    kappa
        Of the acquisition ``lcb``.

    Raises
    ------
    ValueError
        If a name or a goal is none of the allowed, there are not as many surrogates as goals, or a number is negative.
    ImportError
        If scikit-optimize is not installed.
    """

    def __init__(
        self,
        space: SearchSpace,
        surrogate: SurrogateLike = "gp",
        acquisition: str = "ei",
        goals: Sequence[Goal] = ("min",),
        *,
        seed: int = 0,
        n_initial: int = 8,
        initial: Initial = "sobol",
        candidates: Sequence[Mapping[str, Value]] | None = None,
        n_candidates: int = 10_000,
        kappa: float = 2.0,
    ) -> None:
        ACQUISITIONS.check(acquisition)
        if isinstance(goals, str) or not goals:
            raise ValueError(f"goals must be a list with one for each objective, not {goals!r}")
        for goal in goals:
            check_goal(goal)
        if n_initial < 0 or n_candidates < 1 or kappa < 0 or seed < 0:
            raise ValueError("n_initial, kappa and the seed must be 0 or more, n_candidates at least 1")
        self.space, self.seed, self.n_initial = space, seed, n_initial
        self.acquisition, self.goals, self.kappa = acquisition, tuple(goals), kappa
        self._set_up(surrogate)
        self.labels = Labels(space, len(goals))
        self._pending: dict[str, Point] = {}
        self._listed = candidates is not None or (space.count is not None and space.count <= n_candidates)
        if candidates is not None:
            points = list({space.checked_key(point): dict(point) for point in candidates}.values())
        else:
            points = space.candidates() if self._listed else space.sample(n_candidates, [seed, 1])
        self._candidates = Pool.of(space, points)
        self._design = initial_points(space, n_initial, kind=initial, seed=seed)
        if candidates:
            self._design = _nearest(self._candidates, space.features(self._design)[: len(self._candidates)])

    @abstractmethod
    def _set_up(self, surrogate: SurrogateLike) -> None:
        """Take the surrogate, and see that the engine has the acquisition and the goals."""

    @property
    def pending(self) -> list[Point]:
        """Points that were asked for and not yet told."""
        return list(self._pending.values())

    def ask(self, n_points: int | None = None) -> list[Point]:
        """Return points to compute: one, or so many.

        None is one that was told, failed or is pending. Fewer come, in the end none, where no more candidates are left.
        """
        return [proposal.point for proposal in self.propose(1 if n_points is None else n_points)]

    def propose(self, n: int = 1) -> list[Proposal]:
        """As :meth:`ask`, with what the surrogates say of each point and why it was chosen."""
        if n < 1:
            raise ValueError(f"the number of points to ask for must be at least 1, not {n}")
        chosen: list[Proposal] = []
        while len(chosen) < n and (point := self._initial_point()) is not None:
            self._pending[self.space.key(point)] = point
            chosen.append(Proposal(point, "initial"))
        if len(chosen) < n and len(self.labels) >= _FEWEST:
            for proposal in self._best_next(n - len(chosen)):
                self._pending[self.space.key(proposal.point)] = proposal.point
                chosen.append(proposal)
        return chosen

    def tell(
        self,
        points: Sequence[Mapping[str, Value]],
        values: npt.ArrayLike,
        noise: npt.ArrayLike | None = None,
        *,
        failed: Sequence[Mapping[str, Value]] = (),
    ) -> None:
        """Learn what came out: all, or nothing and a ValueError where a value or a point is none.

        ``points`` need not have been asked for, nor be realisable; ``values`` are (n, m), or (n,) of the only
        objective, and ``noise``, of the same shape, one standard deviation of the error of each in its unit. ``failed``
        points have no value: they are never proposed again, and no number stands for them.
        """
        for key in self.labels.add(points, values, noise, failed=failed):
            self._pending.pop(key, None)

    def best(self) -> tuple[Point, tuple[float, ...]]:
        """Return the best point told, and its values; of several objectives the first on the Pareto front."""
        return self.front()[0]

    def front(self) -> list[tuple[Point, tuple[float, ...]]]:
        """Return the points told that no other one beats, and their values; of one objective the best."""
        if not len(self.labels):
            raise ValueError("no value was told yet")
        values = self.labels.values
        front = np.flatnonzero(pareto_front(values, self.goals))
        return [(self.labels.pool.points[i], tuple(values[i].tolist())) for i in front]

    @abstractmethod
    def _best_next(self, n: int) -> list[Proposal]:
        """Return up to n points that are neither known nor pending; two labels or more are known."""

    def _taken(self) -> set[str]:
        return {*self.labels.pool.keys, *self.labels.failed, *self._pending}

    def _initial_point(self) -> Point | None:
        """Return the next point that covers the space, while there are too few labels for a surrogate."""
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


class Labels:
    """Labels in the order of their points' names, whatever the order in which they came."""

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
        """Take labels and failures, or none of them where one is wrong; return the names of all their points."""
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

    def _table(self, numbers: npt.ArrayLike, n: int, what: str) -> Floats:
        table = np.asarray(numbers, dtype=float)
        if table.shape == (n,) and self._m == 1:
            table = table[:, None]
        if not n and not table.size:
            table = np.zeros((0, self._m))
        if table.shape != (n, self._m):
            raise ValueError(f"{what} of shape {table.shape}; {n} points of {self._m} objectives need ({n}, {self._m})")
        if not np.isfinite(table).all():
            raise ValueError(f"the {what} are not all finite numbers; a point without a value is told as failed")
        return table


def _nearest(pool: Pool, features: Floats) -> list[Point]:
    """Return the nearest point of a pool to each row of features, each point once."""
    chosen: list[int] = []
    left = pool.features.copy()
    for row in features:
        chosen.append(int(((left - row) ** 2).sum(axis=1).argmin()))
        left[chosen[-1]] = np.inf
    return [pool.points[i] for i in chosen]


# of a space too large to list: how many of the best points have their neighbours among the candidates
_LOCAL = 5


class Optimizer(AskTell):
    """Proposes points, and learns from their values: scikit-optimize's way, over the points a space can realise.

    What it proposes follows from its settings and seed, what it was told (in any order), and what is pending: asked for
    and not yet told. Nothing else is remembered, so a new optimizer that is told the same, and asked in the same
    rounds, proposes the same.

    The parameters are those of :class:`~cgcnn_ase.optimization.engine.AskTell`. Of a space of more than `n_candidates`
    points, the neighbours of the best known are candidates, too.

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

    def _set_up(self, surrogate: SurrogateLike) -> None:
        self.aim = AcquisitionSettings(self.acquisition, self.goals, self.kappa, of_structures=self.space.has_replicas)
        self.surrogates = _surrogates(surrogate, len(self.goals))
        self._fitted = 0  # so many labels the surrogates know

    def _best_next(self, n: int) -> list[Proposal]:
        if self._fitted != len(self.labels):
            for k, surrogate in enumerate(self.surrogates):
                surrogate.fit(self.labels.pool, self.labels.values[:, k], self.labels.noise(k), seed=self.seed)
            self._fitted = len(self.labels)
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

    def _pool(self) -> Pool:
        """Return the candidates, and pending points that are none."""
        pool = self._candidates
        if not self._listed:
            front = pareto_front(self.labels.values, self.goals)
            order = np.argsort(costs_of(self.labels.values, self.goals).sum(axis=1), kind="stable")
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

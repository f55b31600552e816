"""Ask which points to compute, tell what came out: scikit-optimize's way, over the points a space can realise."""

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt

from cgcnn_ase.active.acquisition import Acquisition
from cgcnn_ase.active.batch import Aim, Proposal, propose
from cgcnn_ase.active.goals import Wanted, check_wanted
from cgcnn_ase.active.initial import Initial, initial_points
from cgcnn_ase.active.labels import Labels
from cgcnn_ase.active.neighbors import neighbors
from cgcnn_ase.active.pareto import costs_of, pareto_front
from cgcnn_ase.active.pool import Pool
from cgcnn_ase.active.space import SearchSpace
from cgcnn_ase.active.surrogate import Surrogate
from cgcnn_ase.active.surrogates import SurrogateName, make_surrogate
from cgcnn_ase.active.variables import Point, Value

Floats = npt.NDArray[np.float64]

#: a surrogate by its name, one, or one for each objective
Given = SurrogateName | Surrogate | list[Surrogate] | tuple[Surrogate, ...]

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
        ``gp``, or a surrogate, or one for each objective: see :func:`cgcnn_ase.active.surrogates.make_surrogate`.
    acquisition
        See :func:`cgcnn_ase.active.acquisition.acquire`.
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
        surrogate: Given = "gp",
        acquisition: Acquisition = "ei",
        goals: Sequence[Wanted] = ("min",),
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
        self.aim = Aim(acquisition, tuple(goals), kappa, of_structures=space.has_replicas)
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
        found: list[Proposal] = []
        while len(found) < n and (point := self._initial_point()) is not None:
            self._pending[self.space.key(point)] = point
            found.append(Proposal(point, "initial"))
        if len(found) < n and len(self.labels) >= _FEWEST:
            for proposal in self._best_next(n - len(found)):
                self._pending[self.space.key(proposal.point)] = proposal.point
                found.append(proposal)
        return found

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


def _surrogates(given: Given, n_goals: int) -> tuple[Surrogate, ...]:
    if isinstance(given, str):
        return tuple(make_surrogate(given) for _ in range(n_goals))
    several = tuple(given) if isinstance(given, list | tuple) else (given,)
    if len(several) != n_goals:
        raise ValueError(f"{len(several)} surrogates and {n_goals} goals; needed is one surrogate for each goal")
    return several


def _design(space: SearchSpace, only: Pool | None, n: int, initial: Initial, seed: int) -> list[Point]:
    """The initial points; of a list of candidates, the nearest to those that would cover the space."""
    points = initial_points(space, n, kind=initial, seed=seed)
    if only is None or not len(only):
        return points
    found: list[int] = []
    left = only.features.copy()
    for wanted in space.features(points)[: len(only)]:
        found.append(int(((left - wanted) ** 2).sum(axis=1).argmin()))
        left[found[-1]] = np.inf
    return [only.points[i] for i in found]

"""The package's own search engine: surrogates of each objective, and an acquisition over the candidates."""

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.optimization.batch import AcquisitionSettings, Proposal, propose
from cgcnn_ase.optimization.engine import AskTell, SurrogateLike
from cgcnn_ase.optimization.pareto import costs_of, pareto_front
from cgcnn_ase.optimization.space.sampling import neighbors
from cgcnn_ase.optimization.surrogates.base import Pool, Surrogate, make_surrogate

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

"""Several proposals at once, each made as if the ones before it, and those still pending, had come out as believed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cgcnn_ase.core.arrays import Bools, Floats
from cgcnn_ase.optimization.acquisition import acquire
from cgcnn_ase.optimization.pareto import Goal, cost_moments, costs_of, random_weights, scalarise
from cgcnn_ase.optimization.space.variables import Point
from cgcnn_ase.optimization.surrogates.base import Pool, Surrogate

# draws by which the distribution of several objectives becomes that of one
_DRAWS = 64
# of the mean std: the least noise that a label is taken to have where its information is reckoned
_LEAST_NOISE = 0.01


@dataclass(frozen=True)
class Proposal:
    """A point to compute, and why."""

    point: Point
    acquisition: str  # by what it was chosen: an acquisition, or ``initial`` before there is a surrogate
    gain: float | None = None  # the value of the acquisition; None for an initial point
    mean: tuple[float, ...] = ()  # predicted value of each objective, in its unit; empty for an initial point
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class AcquisitionSettings:
    """The acquisition, and the goal of each objective."""

    acquisition: str
    goals: tuple[Goal, ...]
    kappa: float = 2.0  # of ``lcb``
    # whether the value of a structure itself counts, with what sets it apart from others of equal features (their
    # orderings); else the mean of those
    of_structures: bool = False


class BatchPosterior:
    r"""The surrogates' posterior of the points of a pool, and after labels that come out as predicted.

    A label at the predicted mean leaves all means as they are (kriging believer: Ginsbourger, Le Riche & Carraro, in
    Computational Intelligence in Expensive Optimization Problems, 131, 2010); variances fall by
    :math:`c^2 / (c_{xx} + \sigma_n^2)`, :math:`c` being the covariance with the point x.
    """

    def __init__(self, surrogates: Sequence[Surrogate], pool: Pool) -> None:
        self.pool, self._surrogates = pool, tuple(surrogates)
        predictions = [surrogate.predict(pool) for surrogate in surrogates]
        self.mean = np.stack([s.mean for s in predictions], axis=1)  # (n, m)
        self.noise = np.stack([s.aleatoric for s in predictions], axis=1)  # (n, m)
        self._variance = np.stack([s.epistemic for s in predictions], axis=1) ** 2  # (n, m)
        self._steps: list[Floats] = []  # each (n, m)

    @property
    def epistemic(self) -> Floats:
        """(n, m) one standard deviation of what labels can still teach."""
        return np.asarray(np.sqrt(np.maximum(self._variance, 0.0)), dtype=float)

    def std(self, *, of_structures: bool) -> Floats:
        """(n, m) one standard deviation of the value, see :class:`AcquisitionSettings`."""
        return np.hypot(self.epistemic, self.noise) if of_structures else self.epistemic

    def drawn(self, seed: int) -> Floats:
        """(n, m) one function of each surrogate, drawn at the points."""
        return np.stack([s.sample(self.pool, seed + k) for k, s in enumerate(self._surrogates)], axis=1)

    def observe(self, index: int) -> None:
        """Take the label of a point for known."""
        chosen = self.pool.take([index])
        shared = np.stack([s.covariance(self.pool, chosen)[:, 0] for s in self._surrogates], axis=1)
        for step in self._steps:
            shared = shared - step * step[index]
        label = shared[index] + self.noise[index] ** 2
        step = shared / np.sqrt(np.where(label > 0, label, np.inf))
        self._steps.append(step)
        self._variance = self._variance - step**2


def propose(
    n: int,
    surrogates: Sequence[Surrogate],
    pool: Pool,
    aim: AcquisitionSettings,
    *,
    free: Bools,
    pending: Sequence[int] = (),
    known: Floats,
    seed: int | Sequence[int] = 0,
) -> list[Proposal]:
    """Choose the best n points of a pool to compute next, all different; fewer come where no more are free.

    Of ``surrogates`` there is a fitted one for each objective. ``free`` are (p,) which of the pool may be proposed,
    ``pending`` where in it those are that are being computed, in the order in which they were proposed, and ``known``
    (t, m) the values known so far. The seed is of Thompson's samples and of the weights of several objectives.
    """
    belief, free = BatchPosterior(surrogates, pool), free.copy()
    costs = costs_of(known, aim.goals)
    for index in pending:
        free[index] = False
        belief.observe(index)
        costs = np.vstack([costs, costs_of(belief.mean[[index]], aim.goals)])
    result: list[Proposal] = []
    root = [seed] if isinstance(seed, int) else list(seed)
    while len(result) < n and free.any():
        gains, cost = _gains(belief, aim, costs, seed=[*root, len(pending) + len(result)])
        left = np.flatnonzero(free)
        # of equal gains (no improvement is to be expected anywhere) the lowest expected cost decides
        index = int(left[np.lexsort((cost[left], -gains[left]))[0]])
        std = belief.std(of_structures=aim.of_structures)[index]
        mean = belief.mean[index]
        moments = tuple(mean.tolist()), tuple(std.tolist())
        result.append(Proposal(pool.points[index], aim.acquisition, float(gains[index]), *moments))
        free[index] = False
        if len(result) < n:
            belief.observe(index)
            costs = np.vstack([costs, costs_of(belief.mean[[index]], aim.goals)])
    return result


def _gains(
    belief: BatchPosterior, aim: AcquisitionSettings, costs: Floats, seed: Sequence[int]
) -> tuple[Floats, Floats]:
    """(n,) the acquisition of each point of the pool, and the cost that is expected there."""
    if aim.acquisition == "information":
        # greedy choice of these sums is greedy growth of the log determinant of the labels' covariance
        parts = []
        for std, noise in zip(belief.epistemic.T, belief.noise.T, strict=True):
            least = _LEAST_NOISE * float(std.mean()) or 1.0
            parts.append(acquire("information", np.zeros_like(std), std, noise=np.maximum(noise, least)))
        return np.sum(parts, axis=0), np.zeros(len(belief.pool))
    rng = np.random.default_rng(seed)
    if aim.acquisition == "thompson":
        drawn = belief.drawn(int(rng.integers(2**31)))
        if aim.of_structures:
            drawn = drawn + belief.noise * rng.standard_normal(drawn.shape)
        mean = costs_of(drawn, aim.goals)
        std = np.zeros_like(mean)
    else:
        spread = belief.std(of_structures=aim.of_structures)
        moments = [cost_moments(m, s, g) for m, s, g in zip(belief.mean.T, spread.T, aim.goals, strict=True)]
        mean, std = (np.stack(columns, axis=1) for columns in zip(*moments, strict=True))
    best = costs.min(axis=0)
    if mean.shape[1] > 1:
        # the lowest cost may be still to come: below it the Chebyshev function would turn its weights round
        ideal, nadir = np.minimum(costs.min(axis=0), mean.min(axis=0)), costs.max(axis=0)
        weights = random_weights(mean.shape[1], rng)
        half = rng.standard_normal((_DRAWS // 2, mean.shape[1]))
        draws = [scalarise(mean + std * z, weights, ideal, nadir) for z in (*half, *-half)]
        mean, std = np.mean(draws, axis=0)[:, None], np.std(draws, axis=0)[:, None]
        best = scalarise(costs, weights, ideal, nadir).min(keepdims=True)
    gains = acquire(aim.acquisition, mean[:, 0], std[:, 0], kappa=aim.kappa, best=float(best[0]))
    return gains, mean[:, 0]

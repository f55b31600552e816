"""Acquisition functions: how much is to be gained from computing a candidate; and several proposals at once by them.

Each is one function of the candidates' costs, from their predicted values and stds, registered under its name; larger
is better. Other packages register theirs as entry points of the group ``cgcnn_ase.acquisitions``. Each of several
proposals is made as if the ones before it, and those still pending, had come out as believed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Bools, Floats
from cgcnn_ase.core.registry import Registry
from cgcnn_ase.optimization.pareto import Goal, cost_moments, costs_of, random_weights, scalarise
from cgcnn_ase.optimization.space.variables import Point
from cgcnn_ase.optimization.surrogates.base import Pool, Surrogate

Direction = Literal["min", "max"]


@dataclass(frozen=True)
class CandidateCosts:
    """Predictions of n candidates as costs, which are to be low."""

    cost: Floats  # (n,) in one unit with the next two
    std: Floats  # (n,) one standard deviation of each
    best: float  # the lowest cost known so far
    kappa: float  # how much an uncertain candidate is preferred
    noise: Floats  # one standard deviation of a label's error; of all or (n,)
    rng: np.random.Generator  # for what is drawn


AcquisitionFunction = Callable[[CandidateCosts], Floats]
ACQUISITIONS: Registry[AcquisitionFunction] = Registry("acquisition", "cgcnn_ase.acquisitions")


def acquire(
    name: str,
    mean: npt.ArrayLike,
    std: npt.ArrayLike,
    *,
    goal: Direction = "min",
    kappa: float = 2.0,
    best: float | None = None,
    noise: npt.ArrayLike = 1.0,
    seed: int | Sequence[int] = 0,
) -> Floats:
    """Rate each candidate by an acquisition.

    Parameters
    ----------
    name
        Of the acquisition: ``best``, ``uncertain``, ``lcb``, ``ei``, ``pi``, ``thompson``, ``information``, or one of
        another package.
    mean, std
        (n,) predicted values and one standard deviation of each, in one unit.
    goal
        Whether a low or a high value is wanted.
    kappa
        Of ``lcb``: how much an uncertain candidate is preferred.
    best
        Of ``ei`` and ``pi``: the best value known so far; by default the best of `mean`.
    noise
        Of ``information``: one standard deviation of a label's error, in the unit of the values; of all or (n,).
    seed
        Of ``thompson``.

    Returns
    -------
    ndarray
        (n,), larger is better; in the unit of the values, but ``pi`` and ``information``, which have none.

    Raises
    ------
    ValueError
        If the name or the goal is none of the allowed, a number is not finite, a std negative, the noise not positive,
        or lengths differ.

    Examples
    --------
    >>> acquire("lcb", [0.0, 0.1], [0.0, 0.2]).round(3)
    array([0. , 0.3])
    """
    function = ACQUISITIONS.get(name)
    if goal not in get_args(Direction):
        raise ValueError(f"goal {goal!r}; allowed: {', '.join(get_args(Direction))}")
    values, spread = _checked(mean, std)
    cost = values if goal == "min" else -values
    known = float(cost.min(initial=np.inf)) if best is None else (best if goal == "min" else -best)
    rng = np.random.default_rng(seed)
    gain = np.asarray(function(CandidateCosts(cost, spread, known, kappa, np.asarray(noise, dtype=float), rng)), float)
    if gain.shape != cost.shape or np.isnan(gain).any():
        raise ValueError(f"the acquisition {name!r} must give one number for each of {len(cost)} candidates")
    return gain


@ACQUISITIONS.register("best")
def lowest_cost(candidates: CandidateCosts) -> Floats:
    """Prefer the lowest predicted cost."""
    return -candidates.cost


@ACQUISITIONS.register("uncertain")
def largest_std(candidates: CandidateCosts) -> Floats:
    """Prefer the largest std (uncertainty sampling)."""
    return candidates.std


@ACQUISITIONS.register("lcb")
def lower_confidence_bound(candidates: CandidateCosts) -> Floats:
    """Prefer the lowest cost less `kappa` std (Srinivas et al., ICML 2010)."""
    return candidates.kappa * candidates.std - candidates.cost


@ACQUISITIONS.register("ei")
def expected_improvement(candidates: CandidateCosts) -> Floats:
    """Return E[max(0, best - cost)] of normally distributed costs (Jones et al., J. Glob. Optim. 13, 455)."""
    from scipy.stats import norm

    gain, std = candidates.best - candidates.cost, candidates.std
    z = _ratio(gain, std)
    return np.where(std > 0, gain * norm.cdf(z) + std * norm.pdf(z), np.maximum(gain, 0.0))


@ACQUISITIONS.register("pi")
def probability_of_improvement(candidates: CandidateCosts) -> Floats:
    """Return P[cost < best] of normally distributed costs (Jones et al., J. Glob. Optim. 13, 455)."""
    from scipy.stats import norm

    gain, std = candidates.best - candidates.cost, candidates.std
    return np.where(std > 0, norm.cdf(_ratio(gain, std)), (gain > 0).astype(float))


@ACQUISITIONS.register("thompson")
def thompson_sample(candidates: CandidateCosts) -> Floats:
    """Draw a cost from each prediction by itself (Thompson, Biometrika 25, 285).

    Where the surrogate can draw all together, its sample comes as the costs, with a std of 0.
    """
    return -(candidates.cost + candidates.std * candidates.rng.standard_normal(len(candidates.cost)))


@ACQUISITIONS.register("information")
def information(candidates: CandidateCosts) -> Floats:
    r"""Return what a label tells of the value, in nat.

    .. math:: \frac{1}{2} \log(1 + \sigma^2 / \sigma_\mathrm{noise}^2)

    (Krause et al., JMLR 9, 235).
    """
    if not (candidates.noise > 0).all():
        raise ValueError(f"the noise of a label must be positive, not {candidates.noise.min()}")
    return 0.5 * np.log1p((candidates.std / candidates.noise) ** 2)


def _ratio(gain: Floats, std: Floats) -> Floats:
    return np.divide(gain, std, out=np.zeros_like(gain), where=std > 0)


def _checked(mean: npt.ArrayLike, std: npt.ArrayLike) -> tuple[Floats, Floats]:
    values, spread = np.asarray(mean, dtype=float), np.asarray(std, dtype=float)
    if values.ndim != 1 or values.shape != spread.shape:
        raise ValueError(f"values of shape {values.shape} and stds of shape {spread.shape}; needed are two equal rows")
    if not (np.isfinite(values).all() and np.isfinite(spread).all()):
        raise ValueError("a predicted value or its std is not a finite number")
    if (spread < 0).any():
        raise ValueError(f"a std is negative: {spread.min()}")
    return values, spread


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

"""Acquisition functions: how much is to be gained from computing a candidate, from its predicted value and its std.

Each is one function of the candidates' costs, registered under its name; larger is better. Other packages register
theirs as entry points of the group ``cgcnn_ase.acquisitions``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.registry import Registry

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

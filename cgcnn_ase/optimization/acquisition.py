"""Acquisition functions: how much is to be gained from computing a candidate, from its predicted value and its std.

Each is larger for what should be computed first. They are written for a value that is to be as low as possible; where
it is to be high, the values' signs are turned.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats

#: low, high, or as near as possible to a number
Goal = Literal["min", "max"] | float


def check_wanted(wanted: Goal) -> None:
    """That a goal is one of the allowed.

    Raises
    ------
    ValueError
        If it is neither min, max nor a finite number.
    """
    number = isinstance(wanted, int | float) and not isinstance(wanted, bool) and np.isfinite(wanted)
    if wanted not in ("min", "max") and not number:
        raise ValueError(f"goal {wanted!r}; allowed: min, max, or a number that the value shall be near to")


def as_cost(values: npt.ArrayLike, wanted: Goal) -> Floats:
    """Values as costs in their own unit: themselves, with the sign turned, or their distance from the target.

    >>> as_cost([1.0, 3.0], "max"), as_cost([1.0, 3.0], 2.5)
    (array([-1., -3.]), array([1.5, 0.5]))
    """
    check_wanted(wanted)
    array = np.asarray(values, dtype=float)
    if isinstance(wanted, str):
        return array if wanted == "min" else -array
    return np.abs(array - wanted)


def cost_moments(mean: npt.ArrayLike, std: npt.ArrayLike, wanted: Goal) -> tuple[Floats, Floats]:
    r"""Mean and std of the cost of a normally distributed value.

    The distance from a target is folded normal: with :math:`d = \mu - t`,
    :math:`E = \sigma \sqrt{2/\pi} \, e^{-d^2 / 2\sigma^2} + d \, (1 - 2 \Phi(-d/\sigma))` and
    :math:`\mathrm{var} = d^2 + \sigma^2 - E^2` (Leone, Nelson & Nottingham, Technometrics 3, 543, 1961).
    """
    values, spread = np.asarray(mean, dtype=float), np.asarray(std, dtype=float)
    if isinstance(wanted, str):
        return as_cost(values, wanted), spread
    from scipy.stats import norm

    distance = as_cost(values, wanted)
    z = np.divide(distance, spread, out=np.full_like(distance, np.inf), where=spread > 0)
    expected = 2 * spread * norm.pdf(z) + distance * (1 - 2 * norm.cdf(-z))
    return expected, np.sqrt(np.maximum(distance**2 + spread**2 - expected**2, 0.0))


Acquisition = Literal["best", "uncertain", "lcb", "ei", "pi", "thompson", "information"]
Direction = Literal["min", "max"]


def acquire(
    name: Acquisition,
    mean: npt.ArrayLike,
    std: npt.ArrayLike,
    *,
    goal: Direction = "min",
    kappa: float = 2.0,
    best: float | None = None,
    noise: npt.ArrayLike = 1.0,
    seed: int | Sequence[int] = 0,
) -> Floats:
    r"""The acquisition of each candidate.

    Parameters
    ----------
    name
        ``best``: the predicted value. ``uncertain``: the std (uncertainty sampling). ``lcb``: the value less `kappa`
        std, the lower confidence bound (Srinivas et al., ICML 2010). ``ei``: the expected improvement on `best`, and
        ``pi``: the probability of one (Jones, Schonlau & Welch, J. Glob. Optim. 13, 455). ``thompson``: a value drawn
        from the prediction (Thompson, Biometrika 25, 285), each candidate by itself; where the surrogate can draw all
        together, its sample comes as `mean`, with a std of 0. ``information``: what a label tells of the value, in nat,
        :math:`\frac{1}{2} \log(1 + \sigma^2 / \sigma_\mathrm{noise}^2)` (Krause et al., JMLR 9, 235).
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
    if name not in get_args(Acquisition):
        raise ValueError(f"no acquisition {name!r}; allowed: {', '.join(get_args(Acquisition))}")
    if goal not in get_args(Direction):
        raise ValueError(f"goal {goal!r}; allowed: {', '.join(get_args(Direction))}")
    values, spread = _checked(mean, std)
    cost = values if goal == "min" else -values
    if name == "best":
        return -cost
    if name == "uncertain":
        return spread
    if name == "information":
        return _information(spread, np.asarray(noise, dtype=float))
    if name == "thompson":
        return -(cost + spread * np.random.default_rng(seed).standard_normal(len(cost)))
    if name == "lcb":
        return kappa * spread - cost
    known = cost.min(initial=np.inf) if best is None else (best if goal == "min" else -best)
    return _expected_improvement(known - cost, spread) if name == "ei" else _probability(known - cost, spread)


def _expected_improvement(gain: Floats, std: Floats) -> Floats:
    """E[max(0, gain + std Z)] of a standard normal Z."""
    from scipy.stats import norm

    z = _ratio(gain, std)
    certain = np.maximum(gain, 0.0)
    return np.where(std > 0, gain * norm.cdf(z) + std * norm.pdf(z), certain)


def _probability(gain: Floats, std: Floats) -> Floats:
    """P[gain + std Z > 0]."""
    from scipy.stats import norm

    return np.where(std > 0, norm.cdf(_ratio(gain, std)), (gain > 0).astype(float))


def _information(std: Floats, noise: Floats) -> Floats:
    if not (noise > 0).all():
        raise ValueError(f"the noise of a label must be positive, not {noise.min()}")
    return 0.5 * np.log1p((std / noise) ** 2)


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

"""Goals as costs, which are to be low; of several the Pareto front, its volume, and a random scalarisation."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Bools, Floats

# weight of the sum beside the largest term (Knowles 2006)
_AUGMENTATION = 0.05

# low, high, or as near as possible to a number
Goal = Literal["min", "max"] | float


def check_goal(goal: Goal) -> None:
    """Raise a ValueError if a goal is neither min, max nor a finite number."""
    number = isinstance(goal, int | float) and not isinstance(goal, bool) and np.isfinite(goal)
    if goal not in ("min", "max") and not number:
        raise ValueError(f"goal {goal!r}; allowed: min, max, or a number that the value shall be near to")


def as_cost(values: npt.ArrayLike, goal: Goal) -> Floats:
    """Values as costs in their own unit: themselves, with the sign turned, or their distance from the target.

    >>> as_cost([1.0, 3.0], "max"), as_cost([1.0, 3.0], 2.5)
    (array([-1., -3.]), array([1.5, 0.5]))
    """
    check_goal(goal)
    array = np.asarray(values, dtype=float)
    if isinstance(goal, str):
        return array if goal == "min" else -array
    return np.abs(array - goal)


def cost_moments(mean: npt.ArrayLike, std: npt.ArrayLike, goal: Goal) -> tuple[Floats, Floats]:
    r"""Mean and std of the cost of a normally distributed value.

    The distance from a target is folded normal: with :math:`d = \mu - t`,
    :math:`E = \sigma \sqrt{2/\pi} \, e^{-d^2 / 2\sigma^2} + d \, (1 - 2 \Phi(-d/\sigma))` and
    :math:`\mathrm{var} = d^2 + \sigma^2 - E^2` (Leone, Nelson & Nottingham, Technometrics 3, 543, 1961).
    """
    values, spread = np.asarray(mean, dtype=float), np.asarray(std, dtype=float)
    if isinstance(goal, str):
        return as_cost(values, goal), spread
    from scipy.stats import norm

    distance = as_cost(values, goal)
    z = np.divide(distance, spread, out=np.full_like(distance, np.inf), where=spread > 0)
    expected = 2 * spread * norm.pdf(z) + distance * (1 - 2 * norm.cdf(-z))
    return expected, np.sqrt(np.maximum(distance**2 + spread**2 - expected**2, 0.0))


def pareto_front(values: npt.ArrayLike, goals: Sequence[Goal]) -> Bools:
    """Mark the rows that no other row beats: none is as good in every objective and better in one.

    Of (n, m) finite values; (n,) True on the front, of equal rows for all.

    >>> pareto_front([[1, 4], [2, 2], [3, 3]], ["min", "min"])
    array([ True,  True, False])
    """
    costs = costs_of(values, goals)
    order = np.lexsort(costs.T[::-1])  # by the first objective, then the next: only an earlier row can beat a later
    front: list[int] = []
    for i in order.tolist():
        kept = costs[front]
        beaten = (kept <= costs[i]).all(axis=1) & (kept < costs[i]).any(axis=1)
        if not beaten.any():
            front.append(i)
    mask = np.zeros(len(costs), dtype=bool)
    mask[front] = True
    return mask


def hypervolume(values: npt.ArrayLike, goals: Sequence[Goal], reference: npt.ArrayLike) -> float:
    """Return the volume between the rows and a reference that some row beats (Zitzler & Thiele, PPSN V, 292, 1998).

    By slices along one objective after the other, exact; meant for fronts of up to some hundred rows. `reference` has
    the (m,) worst values that count: of the (n, m) rows those that do not beat it in every objective add nothing. The
    volume is in the product of the objectives' units.

    >>> hypervolume([[1, 3], [2, 1]], ["min", "min"], [4, 4])
    7.0
    """
    worst = costs_of(np.asarray(reference, dtype=float)[None], goals)[0]
    costs = costs_of(values, goals)
    return _volume(costs[(costs < worst).all(axis=1)], worst)


def scalarise(costs: npt.ArrayLike, weights: npt.ArrayLike, ideal: npt.ArrayLike, nadir: npt.ArrayLike) -> Floats:
    r"""One cost of several: the augmented Chebyshev function of ParEGO.

    .. math:: \max_k w_k z_k + 0.05 \sum_k w_k z_k, \qquad z = (c - c^{ideal}) / (c^{nadir} - c^{ideal})

    For every point of the front, convex or not, there are weights for which it has the lowest (Knowles, IEEE Trans.
    Evol. Comput. 10, 50, 2006). Costs are (..., m), all else (m,); `ideal` is the lowest cost that is known or
    expected, `nadir` the highest known.
    """
    low, high = np.asarray(ideal, dtype=float), np.asarray(nadir, dtype=float)
    relative = (np.asarray(costs, dtype=float) - low) / np.where(high > low, high - low, 1)
    scaled: Floats = np.asarray(weights, dtype=float) * relative
    return np.asarray(scaled.max(axis=-1) + _AUGMENTATION * scaled.sum(axis=-1), dtype=float)


def random_weights(m: int, rng: np.random.Generator) -> Floats:
    """(m,) weights that add up to 1, uniform among all such."""
    return rng.dirichlet(np.ones(m))


def costs_of(values: npt.ArrayLike, goals: Sequence[Goal]) -> Floats:
    """(n, m) values as costs, each objective by its goal; all must be finite."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or array.shape[1] != len(goals):
        raise ValueError(f"values of shape {array.shape} and {len(goals)} goals; needed is one column for each goal")
    if not np.isfinite(array).all():
        raise ValueError("a value is not a finite number")
    return np.stack([as_cost(column, goal) for column, goal in zip(array.T, goals, strict=True)], axis=1)


def _volume(costs: Floats, worst: Floats) -> float:
    """Return the volume of rows that all beat the worst."""
    if not len(costs):
        return 0.0
    if len(worst) == 1:
        return float(worst[0] - costs.min())
    costs = costs[np.argsort(costs[:, -1], kind="stable")]
    ends = np.append(costs[1:, -1], worst[-1])
    volume = 0.0
    for i, thickness in enumerate(ends - costs[:, -1]):
        if thickness > 0:
            slice_ = costs[: i + 1, :-1]
            volume += thickness * _volume(slice_[pareto_front(slice_, ["min"] * slice_.shape[1])], worst[:-1])
    return float(volume)

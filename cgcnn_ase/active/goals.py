"""What is wanted of an objective - low, high, or near a target - as a cost that is to be low."""

from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: low, high, or as near as possible to a number
Wanted = Literal["min", "max"] | float


def check_wanted(wanted: Wanted) -> None:
    """That a goal is one of the allowed.

    Raises
    ------
    ValueError
        If it is neither min, max nor a finite number.
    """
    number = isinstance(wanted, int | float) and not isinstance(wanted, bool) and np.isfinite(wanted)
    if wanted not in ("min", "max") and not number:
        raise ValueError(f"goal {wanted!r}; allowed: min, max, or a number that the value shall be near to")


def as_cost(values: npt.ArrayLike, wanted: Wanted) -> Floats:
    """Values as costs in their own unit: themselves, with the sign turned, or their distance from the target.

    >>> as_cost([1.0, 3.0], "max"), as_cost([1.0, 3.0], 2.5)
    (array([-1., -3.]), array([1.5, 0.5]))
    """
    check_wanted(wanted)
    array = np.asarray(values, dtype=float)
    if isinstance(wanted, str):
        return array if wanted == "min" else -array
    return np.abs(array - wanted)


def cost_moments(mean: npt.ArrayLike, std: npt.ArrayLike, wanted: Wanted) -> tuple[Floats, Floats]:
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

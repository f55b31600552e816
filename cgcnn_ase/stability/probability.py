r"""The probability that a value lies below a limit, from a prediction's value and its 90 % interval.

Errors have heavier tails than a normal distribution, and may be larger on one side. Each side is half of a Student t
distribution with few degrees of freedom, whose 95 % point is the end of the interval:

.. math:: P(E < e) = T_\nu\left(t_{\nu, 0.95}\, \frac{e - \mu}{u - \mu}\right), \quad e > \mu

and with :math:`\mu - l` in place of :math:`u - \mu` below, where [l, u] is the interval.
"""

import numpy as np
from scipy.special import stdtr, stdtrit

from cgcnn_ase.core.arrays import Floats

#: degrees of freedom; of 2, 3, 4, 6 and infinitely many these give the lowest Brier score on val crystals
DEGREES = 3.0
_LEVEL = 0.95


def probability_below(
    limit: Floats, value: Floats, lower: Floats, upper: Floats, *, degrees: float = DEGREES
) -> Floats:
    """P(E < limit), (n,), of predictions with a 90 % interval; NaN where there is none."""
    width = np.where(limit >= value, upper - value, value - lower)
    end = stdtrit(degrees, _LEVEL)
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Floats = stdtr(degrees, end * (limit - value) / width)
    return np.where(np.isfinite(width), result, np.nan)

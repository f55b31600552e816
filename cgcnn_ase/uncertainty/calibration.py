"""From raw uncertainty signals (ensemble spread, predicted std, a distance) to one calibrated standard deviation."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.uncertainty.metrics import as_vector

MIN_SAMPLES = 20
# signals below this quantile of the calibration set count as equal to it
FLOOR_QUANTILE = 0.01
# beyond this quantile of the calibration set, where few errors are known, a signal counts with half its exponent
CEILING_QUANTILE = 0.95
# weight of the ridge on the exponents of the standardised log signals
RIDGE = 1e-3
N_KNOTS = 6
N_FOLDS = 5
# squared errors, in units of the variance, count up to this quantile
CLIP = 0.998

Likelihood = Literal["laplace", "gaussian"]
Method = Literal["scale", "power"]
Knots = tuple[tuple[float, float], ...]


class StdCalibrator(BaseModel):
    r"""One standard deviation from k positive signals :math:`s_k`.

    .. math:: \log\sigma = b_0 + \sum_k b_k \log\max(s_k, f_k), \qquad b_k \ge 0

    with :math:`\sqrt{s_k c_k}` in the place of an :math:`s_k` beyond :math:`c_k`, followed, where there are knots, by
    a monotone piecewise linear map of :math:`\log\sigma`. More of any signal never means a smaller std.
    ``method="scale"`` is plain scaling of one signal, :math:`b_1 = 1` (Levi et al., Sensors 22, 5540; Laves et al.,
    arXiv:2006.13092).

    The signals are floored at :math:`f_k`, the 1st percentile of the calibration set: an ensemble that agrees by chance
    is not certain. Beyond :math:`c_k`, the 95th percentile, the error grows more slowly than the signal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Method
    names: tuple[str, ...] = Field(min_length=1)
    intercept: float
    exponents: tuple[float, ...]
    floors: tuple[float, ...]
    ceilings: tuple[float, ...] = ()  # none by default
    knots: Knots = ()
    n_samples: int = Field(ge=MIN_SAMPLES)

    @model_validator(mode="after")
    def _consistent(self) -> "StdCalibrator":
        if not len(self.names) == len(self.exponents) == len(self.floors):
            raise ValueError("names, exponents and floors must have one entry a signal")
        if self.ceilings and (
            len(self.ceilings) != len(self.floors)
            or any(c < f for c, f in zip(self.ceilings, self.floors, strict=True))
        ):
            raise ValueError("there must be one ceiling a signal, not below its floor")
        if any(b < 0 for b in self.exponents) or any(f <= 0 for f in self.floors):
            raise ValueError("exponents must not be negative and floors must be positive")
        x, y = np.diff(self.knots, axis=0).T if self.knots else np.empty((2, 0))
        if self.knots and (len(self.knots) < 2 or (x <= 0).any() or (y < 0).any()):
            raise ValueError("knots must be at least two, increasing in x and not decreasing in y")
        return self

    @classmethod
    def fit(
        cls,
        signals: npt.ArrayLike,
        errors: npt.ArrayLike,
        *,
        names: Sequence[str] | None = None,
        method: Method = "power",
        likelihood: Likelihood = "laplace",
    ) -> "StdCalibrator":
        """Fit to held-out data: signals (n, k), or (n,) for one, and errors (n,) target - prediction.

        The exponents maximise the likelihood of the errors; ``b_0`` then minimises the Gaussian negative log
        likelihood, which makes the mean of (error / std)² equal to one; signals have any unit, the std that of the
        errors. The default likelihood of the exponents is Laplace's: regression errors have heavy tails, and under the
        Gaussian one a handful of outliers decides the exponents. The monotone map is kept only where it improves the
        likelihood in 5-fold cross-validation.

        ValueError if the shapes do not fit, there are fewer than 20 samples, or a value is negative or not finite.
        """
        error = as_vector(errors, name="errors")
        signal = _as_signals(signals)
        n, k = signal.shape
        if n != error.size:
            raise ValueError(f"{n} rows of signals but {error.size} errors")
        if n < MIN_SAMPLES:
            raise ValueError(f"calibration needs at least {MIN_SAMPLES} held-out samples, got {n}")
        if method == "scale" and k != 1:
            raise ValueError(f"method 'scale' takes one signal, got {k}; use method 'power'")
        names = tuple(names) if names is not None else tuple(f"signal_{i}" for i in range(k))
        if len(names) != k:
            raise ValueError(f"{len(names)} names for {k} signals")
        if not error.any():
            raise ValueError("all errors are zero: there is nothing to calibrate on")

        floors = _floors(signal, names)
        ceilings = np.quantile(signal, CEILING_QUANTILE, axis=0) if method == "power" else np.empty(0)
        ceilings = np.maximum(ceilings, floors[: ceilings.size])
        logs = _bounded_logs(signal, floors, ceilings)
        knots: Knots = ()
        if method == "scale":
            exponents = np.ones(1)
        else:
            exponents = _fit_exponents(logs, error, likelihood)
            if _map_helps(logs, error, likelihood):
                knots = _knots(logs @ exponents, error)
        log_std = _mapped(logs @ exponents, knots)
        intercept = _log_scale(log_std, error)
        if knots:  # the map comes last, so the constant goes into it
            knots, intercept = tuple((x, y + intercept) for x, y in knots), 0.0
        return cls(
            method=method,
            names=names,
            intercept=intercept,
            exponents=tuple(exponents.tolist()),
            floors=tuple(floors.tolist()),
            ceilings=tuple(ceilings.tolist()),
            knots=knots,
            n_samples=n,
        )

    def apply(self, signals: npt.ArrayLike) -> Floats:
        """The calibrated standard deviation, (n,), in the unit of the errors."""
        signal = _as_signals(signals)
        if signal.shape[1] != len(self.names):
            raise ValueError(
                f"{signal.shape[1]} signals, but calibrated for {len(self.names)}: {', '.join(self.names)}"
            )
        logs = _bounded_logs(signal, np.asarray(self.floors), np.asarray(self.ceilings))
        return np.asarray(np.exp(_mapped(self.intercept + logs @ np.asarray(self.exponents), self.knots)))

    def widened(self, factor: float) -> "StdCalibrator":
        """Return the calibrator whose std is so many times as large."""
        shift = float(np.log(factor))
        if not self.knots:
            return self.model_copy(update={"intercept": self.intercept + shift})
        return self.model_copy(update={"knots": tuple((x, y + shift) for x, y in self.knots)})


def _as_signals(signals: npt.ArrayLike) -> Floats:
    array = np.asarray(signals, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"signals must have the shape (n, k), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("signals hold values that are not finite")
    if (array < 0).any():
        raise ValueError("signals hold negative values")
    return array


def _floors(signals: Floats, names: Sequence[str]) -> Floats:
    floors = []
    for column, name in zip(signals.T, names, strict=True):
        positive = column[column > 0]
        if not positive.size:
            raise ValueError(f"signal {name!r} is zero everywhere")
        floors.append(np.quantile(positive, FLOOR_QUANTILE))
    return np.array(floors)


def _bounded_logs(signals: Floats, floors: Floats, ceilings: Floats) -> Floats:
    """Log s, constant below the floor, and with half the slope beyond the ceiling."""
    logs = np.log(np.maximum(signals, floors))
    return logs if not ceilings.size else np.asarray(logs - 0.5 * np.maximum(logs - np.log(ceilings), 0.0))


def _fit_exponents(logs: Floats, errors: Floats, likelihood: Likelihood) -> Floats:
    """Minimise the mean negative log likelihood, convex in the exponents, on standardised log signals."""
    from scipy.optimize import minimize

    spread = logs.std(axis=0)
    spread[spread < 1e-12] = np.inf  # a constant signal says nothing: exponent 0
    x = (logs - logs.mean(axis=0)) / spread
    size = np.abs(errors) / np.sqrt(np.mean(errors**2))

    def objective(b: Floats) -> tuple[float, Floats]:
        log_std = b[0] + x @ b[1:]
        inverse = np.exp(np.clip(-log_std, -200, 200))
        if likelihood == "laplace":
            loss = np.sqrt(2) * size * inverse
            slope = 1 - loss
        else:
            loss = 0.5 * (size * inverse) ** 2
            slope = 1 - 2 * loss
        value = float(np.mean(log_std + loss) + RIDGE * np.sum(b[1:] ** 2))
        gradient = np.concatenate([[slope.mean()], slope @ x / len(size) + 2 * RIDGE * b[1:]])
        return value, gradient

    k = logs.shape[1]
    bounds = [(None, None)] + [(0.0, None)] * k
    result = minimize(objective, np.array([0.0] + [0.3] * k), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(np.maximum(result.x[1:], 0.0) / spread)


def _log_scale(log_std: Floats, errors: Floats) -> float:
    """The constant b that makes the mean of (error / exp(log_std + b))² one: the Gaussian maximum likelihood.

    The squares are clipped at their 99.8th percentile: one wrong label in a set of thousands would otherwise set the
    std of everything.
    """
    squares = (errors * np.exp(-log_std)) ** 2
    return float(0.5 * np.log(np.minimum(squares, np.quantile(squares, CLIP)).mean()))


def _knots(log_std: Floats, errors: Floats) -> Knots:
    """Isotonic regression of the log RMSE on log std in equal-count bins."""
    from scipy.optimize import isotonic_regression  # slow to import, and predictions do without

    order = np.argsort(log_std, kind="stable")
    bins = [b for b in np.array_split(order, N_KNOTS) if b.size]
    x = np.array([log_std[b].mean() for b in bins])
    squares = isotonic_regression([np.mean(errors[b] ** 2) for b in bins], weights=[b.size for b in bins]).x
    # ties in std give bins of one x; a bin without any error has no logarithm
    keep = np.concatenate([[True], np.diff(x) > 1e-9]) & (squares > 0)
    if keep.sum() < 2:
        return ()
    return tuple(zip(x[keep].tolist(), (0.5 * np.log(squares[keep])).tolist(), strict=True))


def _mapped(log_std: Floats, knots: Knots) -> Floats:
    """Interpolate between the knots; beyond them go on with slope one."""
    if not knots:
        return log_std
    x, y = np.array(knots).T
    beyond = log_std - np.clip(log_std, x[0], x[-1])
    return np.asarray(np.interp(log_std, x, y) + beyond)


def _map_helps(logs: Floats, errors: Floats, likelihood: Likelihood) -> bool:
    """Return whether the monotone map raises the Laplace likelihood of errors that neither it nor the exponents saw."""
    fold = np.random.default_rng(0).permutation(len(errors)) % N_FOLDS
    gain = 0.0
    for k in range(N_FOLDS):
        seen = fold != k
        if not errors[seen].any():
            return False
        log_std = logs @ _fit_exponents(logs[seen], errors[seen], likelihood)
        knots = _knots(log_std[seen], errors[seen])
        plain = log_std + _log_scale(log_std[seen], errors[seen])
        mapped = _mapped(log_std, knots)
        mapped = mapped + _log_scale(mapped[seen], errors[seen])
        size = np.sqrt(2) * np.abs(errors[~seen])
        loss_plain = plain[~seen] + size * np.exp(-plain[~seen])
        loss_mapped = mapped[~seen] + size * np.exp(-mapped[~seen])
        gain += float(np.sum(loss_plain - loss_mapped))
    return gain > 0

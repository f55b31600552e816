"""How good predictions and their uncertainties are, over a whole set.

The figure that says first whether a std is right is the mean squared z-score with its bootstrap interval: 1 must lie in
it. The calibration error in bins (ENCE) is kept beside it. Where errors or uncertainties have heavy tails, as here, it
depends on the number of bins and on a few structures, and cannot tell a calibrated std from another (Pernot,
arXiv:2402.10043).
"""

from math import log, pi
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from cgcnn_ase.core.arrays import Floats, Ints

# numbers that are drawn at once
_DRAWN = 4_000_000


class CalibrationCurve(NamedTuple):
    """Expected and observed share of targets below each predicted quantile."""

    expected: Floats
    observed: Floats


class ReliabilityBins(NamedTuple):
    """Groups of equal count, sorted by std."""

    std: Floats  # root mean square of the predicted std in each bin
    rmse: Floats  # root mean square error in each bin
    rmse_error: Floats  # standard error of that
    n: Ints


class UncertaintyMetrics(BaseModel):
    """Figures over a whole set. Energies and the like in the unit of the target; the rest are pure numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    mae: float
    rmse: float
    r2: float | None  # None where all targets are equal
    mean_squared_z: float  # mean of ((target - mean) / std)^2, 1 where the std is calibrated, larger where too small
    mean_squared_z_low: float  # ends of its
    mean_squared_z_high: float  # 95 % bootstrap interval
    level: float  # nominal coverage of the interval
    coverage: float | None  # share of the targets inside it, its ends included
    interval_width: float | None  # mean of upper - lower
    sharpness: float  # mean std
    std_cv: float  # coefficient of variation of std: 0 if all structures get the same
    miscalibration_area: float  # 0 best, 0.5 worst
    ence: float  # expected normalised calibration error, 0 best
    ence_noise: float  # the ENCE that a perfectly calibrated std would show on a set of this size and these tails
    n_bins: int  # of the ENCE
    nll: float  # mean Gaussian negative log likelihood, lower is better
    spearman: float | None  # rank correlation of std and absolute error; None where all std are equal


def evaluate(
    target: npt.ArrayLike,
    mean: npt.ArrayLike,
    std: npt.ArrayLike,
    lower: npt.ArrayLike | None = None,
    upper: npt.ArrayLike | None = None,
    *,
    level: float = 0.9,
    n_bins: int = 10,
) -> UncertaintyMetrics:
    """Measure predictions, (n,) each, against their targets.

    Without ``lower`` and ``upper`` the interval is the central Gaussian one of the given level. Where both are NaN a
    prediction has no interval, and coverage and width are those of the others, None where there are none. ValueError if
    lengths differ, another value is not finite, a std is not positive, or there are fewer samples than bins.
    """
    y, m, s = _triple(target, mean, std)
    if (lower is None) != (upper is None):
        raise ValueError("give both ends of the interval or neither")
    half = NormalDist().inv_cdf((1 + level) / 2) * s
    low = m - half if lower is None else np.asarray(lower, dtype=np.float64)
    high = m + half if upper is None else np.asarray(upper, dtype=np.float64)
    has = ~(np.isnan(low) & np.isnan(high))
    as_vector(low[has], name="lower")
    as_vector(high[has], name="upper")
    if low.shape != y.shape or high.shape != y.shape:
        raise ValueError(f"{y.size} targets need as many ends of intervals, not {low.size} and {high.size}")
    error = y - m
    z_low, z_high = mean_squared_z_interval(y, m, s)
    return UncertaintyMetrics(
        n=y.size,
        mae=mae(y, m),
        rmse=rmse(y, m),
        r2=r2(y, m),
        mean_squared_z=mean_squared_z(y, m, s),
        mean_squared_z_low=z_low,
        mean_squared_z_high=z_high,
        level=level,
        coverage=float(np.mean(((low <= y) & (y <= high))[has])) if has.any() else None,
        interval_width=float(np.mean((high - low)[has])) if has.any() else None,
        sharpness=float(np.mean(s)),
        std_cv=float(np.std(s, ddof=1) / np.mean(s)) if s.size > 1 else 0.0,
        miscalibration_area=miscalibration_area(y, m, s),
        ence=ence(y, m, s, n_bins=n_bins),
        ence_noise=ence_noise(y, m, s, n_bins=n_bins),
        n_bins=n_bins,
        nll=float(np.mean(np.log(s) + 0.5 * (error / s) ** 2) + 0.5 * log(2 * pi)),
        spearman=spearman(s, np.abs(error)),
    )


def mean_squared_z(target: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike) -> float:
    r"""Return :math:`\langle z^2 \rangle, z = (y - \mu) / \sigma`: 1 where the std is calibrated on average.

    Unlike the errors in bins (:func:`ence`) it has no setting, and an interval that says what 1 may be missed by
    (Pernot, arXiv:2402.10043).
    """
    y, m, s = _triple(target, mean, std)
    return float(np.mean(((y - m) / s) ** 2))


def mean_squared_z_interval(
    target: npt.ArrayLike,
    mean: npt.ArrayLike,
    std: npt.ArrayLike,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return both ends of the bootstrap interval of :func:`mean_squared_z`.

    It is bias-corrected and accelerated (Efron, J. Am. Stat. Assoc. 82, 171), as the squares are far from symmetric:
    the percentiles of the resampled means are moved by their median bias and by the skewness of the squares. With very
    heavy tails it covers less often than stated (Pernot, arXiv:2402.10043).
    """
    y, m, s = _triple(target, mean, std)
    squares = ((y - m) / s) ** 2
    average = float(squares.mean())
    apart = squares - average
    spread = float(np.sum(apart**2))
    if spread == 0:
        return average, average
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWN // squares.size)
    sizes = [min(at_once, n_resamples - start) for start in range(0, n_resamples, at_once)]
    means = np.concatenate([rng.choice(squares, (size, squares.size)).mean(axis=1) for size in sizes])
    normal = NormalDist()
    below = (np.sum(means < average) + 0.5 * np.sum(means == average)) / n_resamples
    bias = normal.inv_cdf(min(max(float(below), 1 / n_resamples), 1 - 1 / n_resamples))
    skew = float(np.sum(apart**3)) / (6 * spread**1.5)

    def end(share: float) -> float:
        moved = bias + normal.inv_cdf(share)
        return float(np.quantile(means, normal.cdf(bias + moved / (1 - skew * moved))))

    return end((1 - level) / 2), end((1 + level) / 2)


def mae(target: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """Return the mean absolute error."""
    return float(np.mean(np.abs(np.subtract(target, prediction, dtype=float))))


def rmse(target: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """Return the root of the mean squared error."""
    return float(np.sqrt(np.mean(np.subtract(target, prediction, dtype=float) ** 2)))


def r2(target: npt.ArrayLike, prediction: npt.ArrayLike) -> float | None:
    """Return the coefficient of determination; None where all targets are equal."""
    variance = float(np.var(np.asarray(target, dtype=float)))
    return 1 - rmse(target, prediction) ** 2 / variance if variance > 0 else None


def errors(target: npt.ArrayLike, prediction: npt.ArrayLike) -> dict[str, float | None]:
    """Return number, MAE, RMSE and R2 of predictions that have no std."""
    n = np.asarray(target).size
    return {"n": n, "mae": mae(target, prediction), "rmse": rmse(target, prediction), "r2": r2(target, prediction)}


def class_metrics(labels: Ints, probabilities: Floats) -> dict[str, float | int | list[list[int]] | None]:
    """Return figures of probabilities (n, K): accuracy, AUC, F1, likelihood, calibration error, confusion matrix.

    F1 is that of class 1 of two, else the mean over the classes.
    """
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    n_classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    average = "binary" if n_classes == 2 else "macro"
    return {
        "n": len(labels),
        "accuracy": float(accuracy_score(labels, predicted)),
        "auc": auc(labels, probabilities),
        "f1": float(f1_score(labels, predicted, average=average, zero_division=0.0)),
        "nll": float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean()),
        "ece": calibration_error(labels, probabilities),
        "confusion": confusion_matrix(labels, predicted, labels=list(range(n_classes))).tolist(),
    }


def auc(labels: Ints, probabilities: Floats) -> float | None:
    """Return the area under the receiver operating characteristic; None where a class does not occur.

    Of several classes it is the mean of each against the rest.
    """
    from sklearn.metrics import roc_auc_score

    n_classes = probabilities.shape[1]
    if len(np.unique(labels)) < n_classes:
        return None
    if n_classes == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(roc_auc_score(labels, probabilities, multi_class="ovr", labels=list(range(n_classes))))


def calibration_error(labels: Ints, probabilities: Floats, *, n_bins: int = 10) -> float:
    """Expected calibration error: mean gap between stated probability and frequency, bins of equal count, all classes.

    Over (sample, class) pairs; Naeini et al. (AAAI 2015) with bins of equal count (Nixon et al., arXiv:1904.01685).
    """
    p = probabilities.ravel()
    hit = (labels[:, None] == np.arange(probabilities.shape[1])).ravel()
    bins = np.array_split(np.argsort(p, kind="stable"), min(n_bins, len(p)))
    return float(sum(len(b) * abs(p[b].mean() - hit[b].mean()) for b in bins) / len(p))


def calibration_curve(
    target: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike, *, n_levels: int = 101
) -> CalibrationCurve:
    """The share of targets below the p-quantile of N(mean, std²), for p from 0 to 1.

    On the diagonal for a calibrated model (Kuleshov et al., arXiv:1807.00263; Tran et al., MLST 1, 025006).
    """
    y, m, s = _triple(target, mean, std)
    if n_levels < 3:
        raise ValueError(f"a calibration curve needs at least 3 levels, got {n_levels}")
    expected = np.linspace(0, 1, n_levels)
    quantiles = [NormalDist().inv_cdf(p) for p in expected[1:-1].tolist()]
    below = np.searchsorted(np.sort((y - m) / s), quantiles, side="right") / y.size
    return CalibrationCurve(expected, np.concatenate([[0.0], below, [1.0]]))


def miscalibration_area(target: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike) -> float:
    """The area between calibration curve and diagonal (Tran et al., MLST 1, 025006)."""
    expected, observed = calibration_curve(target, mean, std, n_levels=501)
    gap = np.abs(observed - expected)
    return float(np.diff(expected) @ (gap[1:] + gap[:-1]) / 2)


def reliability_bins(
    target: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike, *, n_bins: int = 10
) -> ReliabilityBins:
    """Predicted std against the error it came with, in bins of equal count sorted by std."""
    y, m, s = _triple(target, mean, std)
    bins = _equal_bins(s, n_bins)
    squares = [(y[b] - m[b]) ** 2 for b in bins]
    rmse = np.array([np.sqrt(q.mean()) for q in squares])
    spread = np.array([q.std() / np.sqrt(q.size) for q in squares])  # standard error of the mean square
    return ReliabilityBins(
        std=np.array([np.sqrt(np.mean(s[b] ** 2)) for b in bins]),
        rmse=rmse,
        rmse_error=spread / np.maximum(2 * rmse, np.finfo(float).tiny),
        n=np.array([b.size for b in bins]),
    )


def ence(target: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike, *, n_bins: int = 10) -> float:
    r"""Expected normalised calibration error :math:`\frac1B \sum_b |RMV_b - RMSE_b| / RMV_b`.

    RMV is the root mean predicted variance (Levi et al., Sensors 22, 5540). It is never zero on a finite set:
    compare with :func:`ence_noise`. With heavy tails it is mostly noise (Pernot, arXiv:2402.10043): go by
    :func:`mean_squared_z`.
    """
    bins = reliability_bins(target, mean, std, n_bins=n_bins)
    return float(np.mean(np.abs(bins.std - bins.rmse) / bins.std))


def ence_noise(
    target: npt.ArrayLike,
    mean: npt.ArrayLike,
    std: npt.ArrayLike,
    *,
    n_bins: int = 10,
    n_repeats: int = 100,
    seed: int = 0,
) -> float:
    """The mean ENCE of a perfect std on sets of this size, with errors as heavy-tailed as these.

    Every std gets a new error: itself times a draw from all (target - mean) / std, scaled to unit mean square.
    """
    y, m, s = _triple(target, mean, std)
    z = (y - m) / s
    if not z.any():
        return 0.0
    squares = z**2 / np.mean(z**2)
    bins = _equal_bins(s, n_bins)
    rng = np.random.default_rng(seed)
    drawn_ence = []
    for _ in range(n_repeats):
        drawn = s**2 * rng.choice(squares, s.size)
        drawn_ence.append([abs(1 - np.sqrt(drawn[b].mean() / np.mean(s[b] ** 2))) for b in bins])
    return float(np.mean(drawn_ence))


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None if one of the two is constant."""
    x = as_vector(a, name="a")
    x, y = _ranks(x), _ranks(as_vector(b, name="b", size=x.size))
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt(np.sum(x**2) * np.sum(y**2)))
    return float(x @ y / scale) if scale > 0 else None


def as_vector(values: npt.ArrayLike, *, name: str, size: int | None = None) -> Floats:
    """The values as finite float64, shape (n,); ValueError if they are not that, or not ``size`` many."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got the shape {array.shape}")
    if size is not None and array.size != size:
        raise ValueError(f"{name} has {array.size} values where {size} are needed")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array


def as_positive(values: npt.ArrayLike, *, name: str, size: int | None = None) -> Floats:
    """As :func:`as_vector`, and all greater than zero."""
    array = as_vector(values, name=name, size=size)
    if (array <= 0).any():
        raise ValueError(f"{name} must be positive everywhere")
    return array


def _triple(target: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    y = as_vector(target, name="target")
    if not y.size:
        raise ValueError("target is empty")
    return y, as_vector(mean, name="mean", size=y.size), as_positive(std, name="std", size=y.size)


def _equal_bins(std: Floats, n_bins: int) -> list[npt.NDArray[np.intp]]:
    if not 1 <= n_bins <= std.size:
        raise ValueError(f"{n_bins} bins cannot be made of {std.size} samples")
    return np.array_split(np.argsort(std, kind="stable"), n_bins)


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])

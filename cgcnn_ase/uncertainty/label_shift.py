"""Move a calibrated model onto the scale of a user's own labels: shift, factor of the std, interval; weights stay."""

import hashlib
import json
from math import ceil
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cgcnn_ase.core.arrays import AnyArray, Floats, Ints
from cgcnn_ase.core.elements import symbols
from cgcnn_ase.uncertainty.conformal import conformal_quantile
from cgcnn_ase.uncertainty.metrics import as_vector
from cgcnn_ase.uncertainty.protocol import CalibratedPrediction

OffsetsChoice = Literal["auto"] | bool

# fewer labels than this are refused
MIN_LABELS = 20
# up to so many labels each is left out in turn; of more, one of N_FOLDS parts at a time
MAX_LEAVE_ONE_OUT, N_FOLDS = 60, 20
# numbers in the compositions of the sets of labels that are fitted at once
MAX_AT_ONCE = 2_000_000
# residuals beyond so many standard deviations count with their size, not its square (Huber, 1964)
HUBER_K = 1.345
MAD_TO_STD = 1.4826
# offsets of elements are kept if the mean left-out error is less than this part of that of a constant
MAX_ERROR_RATIO = 0.95
# ridge penalties of the offsets, in labels
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
# scatter of the labels that is tried, as parts of what explains the errors alone
SCATTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
# ends of the range of coverage that is told: 9 of 10 sets of labels lie in it
RANGE = (0.05, 0.95)
# variance of the coverage over sets of labels, in that of labels that only calibrate: 1.5 to 1.9 was measured with 20
# and 50 made-up labels, with and without offsets
VARIANCE_RATIO = 1.6


class ExpectedCoverage(NamedTuple):
    """Coverage of new structures: mean over sets of labels, and the range in which 9 of 10 sets lie."""

    mean: float
    low: float
    high: float


class LabelShift(BaseModel):
    r"""Change of the predictions of a calibrated regression by a user's labels.

    The mean becomes :math:`\mu + c + \sum_e x_e b_e` with a constant c, offsets b of the elements and atomic fractions
    x; so do the predictions of the members. With :math:`t = \sqrt{\sigma^2 + s^2} / \sigma` (s is the scatter that the
    labels have beside what the model expects) the std becomes :math:`f t \sigma`, and each side of the interval is
    multiplied by :math:`q t`, so that an interval that is wider on one side stays so.

    Shift, s, f and q come from one set of labels, so f and q are taken from errors of labels that were left out when
    the shift was fitted: f is their root mean square in units of :math:`t \sigma`, q the conformal quantile in units of
    the old interval's sides (cross-conformal prediction: Vovk, Ann. Math. Artif. Intell. 74, 9; the jackknife of
    Barber et al., Ann. Stat. 49, 486). The elements' offsets are chosen again without each left-out label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    constant: float  # in what the network learned, like all but factors and counts
    offsets: dict[str, float] = {}  # by element; others have none
    scatter: float = Field(ge=0)
    std_factor: float = Field(gt=0)
    interval_factor: float = Field(ge=0)
    level: float = Field(gt=0, lt=1)
    n_labels: int = Field(ge=MIN_LABELS)
    mae_before: float = Field(ge=0)  # on the labels
    mae_after: float = Field(ge=0)  # of labels that were left out when the shift was fitted

    @field_validator("offsets")
    @classmethod
    def _elements(cls, offsets: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(offsets) - set(symbols()[1:])):
            raise ValueError(f"offsets of {', '.join(unknown)}: no elements")
        return offsets

    @classmethod
    def fit(
        cls,
        prediction: CalibratedPrediction,
        labels: npt.ArrayLike,
        composition: npt.ArrayLike,
        *,
        level: float,
        element_offsets: OffsetsChoice = "auto",
        seed: int = 0,
    ) -> "LabelShift":
        """Fit on n labels of structures that the model has not learned.

        Parameters
        ----------
        prediction : CalibratedPrediction
            Of the n structures, with std and interval; those that have no interval (NaN) are left out.
        labels : array_like
            (n,) in what the network learned.
        composition : array_like
            (n, 101) atomic fractions.
        level : float
            Nominal coverage of the interval.
        element_offsets : {"auto", True, False}
            Whether elements get offsets; ``auto`` keeps them where they lower the left-out error.
        seed : int
            Decides which labels are left out together, where there are more than 60.

        Raises
        ------
        ValueError
            If there are too few labels, one is not finite, or the labels are the model's own predictions.
        """
        assert prediction.std is not None
        assert prediction.lower is not None
        assert prediction.upper is not None
        every_error = as_vector(labels, name="labels", size=prediction.value.size) - prediction.value
        has = np.isfinite(prediction.lower) & np.isfinite(prediction.upper)
        error, x, std = every_error[has], np.asarray(composition, dtype=float)[has], prediction.std[has]
        above, below = (prediction.upper - prediction.value)[has], (prediction.value - prediction.lower)[has]
        need = max(MIN_LABELS, ceil(level / (1 - level) - 1e-9))
        if error.size < need:
            n_far = has.size - error.size
            far = f" beside {n_far} that are so far outside the domain that they have no interval" if n_far else ""
            raise ValueError(f"an interval of {level:.0%} needs at least {need} labels, there are {error.size}{far}")
        if not error.any():
            raise ValueError("the labels are the model's own predictions: there is nothing to calibrate on")
        folds = _folds(error.size, seed)
        left_out = _left_out(x, error, folds, element_offsets)
        size = np.abs(left_out)
        if size.max() <= 1e-9 * max(1.0, float(np.abs(error).max())):
            raise ValueError("the labels are the model's own predictions, shifted: there is nothing to calibrate on")
        widening = np.empty_like(error)
        for fold in np.unique(folds):
            rest = folds != fold
            widening[~rest] = _widening(std[~rest], _scatter(size[rest], std[rest]))
        side = np.where(left_out > 0, above, below)
        (constant,), (offsets,) = _fit_shifts(x[None], error[None], element_offsets)
        return cls(
            constant=float(constant),
            offsets={symbols()[z]: float(offsets[z]) for z in np.flatnonzero(offsets).tolist()},
            scatter=_scatter(size, std),
            std_factor=float(np.sqrt(np.mean((left_out / (std * widening)) ** 2))),
            interval_factor=conformal_quantile(size / (side * widening), level),
            level=level,
            n_labels=error.size,
            mae_before=float(np.abs(error).mean()),
            mae_after=float(size.mean()),
        )

    def shift(self, composition: npt.ArrayLike) -> Floats:
        """Sum of constant and offsets of compositions, (n,), from atomic fractions (n, 101)."""
        x = np.asarray(composition, dtype=float)
        return np.asarray(self.constant + x @ np.array([self.offsets.get(name, 0.0) for name in symbols()]))

    def apply(self, prediction: CalibratedPrediction, composition: npt.ArrayLike) -> CalibratedPrediction:
        """Return predictions (n,) on the scale of the labels; an empty interval (NaN) stays so."""
        value, std, lower, upper = prediction.value, prediction.std, prediction.lower, prediction.upper
        assert std is not None
        assert lower is not None
        assert upper is not None
        shift, widening = self.shift(composition), _widening(std, self.scatter)
        factor = self.interval_factor * widening
        return prediction._replace(
            value=value + shift,
            members=prediction.members + shift,
            std=self.std_factor * widening * std,
            lower=value + shift - factor * (value - lower),
            upper=value + shift + factor * (upper - value),
        )

    @property
    def expected_coverage(self) -> ExpectedCoverage:
        """How often the interval holds the label of a new structure that is drawn like the labelled ones.

        Of labels that calibrate and do nothing else the coverage has the beta distribution of the k-th of n order
        statistics, k = ceil((n + 1) level) (Vovk, JMLR W&CP 25, 475). Here the same labels fit the shift: its mean
        stays, its variance is larger by :data:`VARIANCE_RATIO`, and so is that of the beta distribution here.
        """
        from scipy.stats import beta  # slow to import, and predictions do without

        mean = ceil((self.n_labels + 1) * self.level - 1e-9) / (self.n_labels + 1)
        weight = (self.n_labels + 1) / VARIANCE_RATIO
        low, high = beta.ppf(RANGE, mean * weight, (1 - mean) * weight).tolist()
        return ExpectedCoverage(mean, low, high)

    def fingerprint(self) -> AnyArray:
        """Sha256 as 32 bytes, which make the file of the weights, and so the model's own sha256, another one."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8).copy()


def _folds(n: int, seed: int) -> Ints:
    """Number of the part, (n,), that each label is left out with."""
    if n <= MAX_LEAVE_ONE_OUT:
        return np.arange(n)
    return np.asarray(np.random.default_rng(seed).permutation(n) % N_FOLDS)


def _left_out(x: Floats, error: Floats, folds: Ints, element_offsets: OffsetsChoice) -> Floats:
    """Return what the shift that is fitted without its part leaves of each error, (n,); many are fitted at once."""
    result = np.empty_like(error)
    names, counts = np.unique(folds, return_counts=True)
    n_at_once = max(1, MAX_AT_ONCE // x.size)
    for count in np.unique(counts).tolist():
        alike = names[counts == count]
        for start in range(0, len(alike), n_at_once):
            some = alike[start : start + n_at_once]
            rest = np.array([np.flatnonzero(folds != fold) for fold in some])
            constants, offsets = _fit_shifts(x[rest], error[rest], element_offsets)
            for fold, constant, each in zip(some, constants, offsets, strict=True):
                out = folds == fold
                result[out] = error[out] - constant - x[out] @ each
    return result


def _fit_shifts(x: Floats, error: Floats, element_offsets: OffsetsChoice) -> tuple[Floats, Floats]:
    """Return the constants, (k,), and offsets, (k, 101), of k sets of n labels: x is (k, n, 101), error (k, n).

    Offsets are zero where the labels do not support them.
    """
    present = x.any(axis=1)
    offsets = np.zeros(present.shape)
    ones = np.ones((*error.shape, 1))
    solution, left_out = _huber_ridge(ones, error, 0.0)
    constants = solution[:, 0]
    limit = np.abs(left_out).mean(axis=1) * (MAX_ERROR_RATIO if element_offsets == "auto" else np.inf)
    if element_offsets is not False:
        several = present.sum(axis=1) > 1
        used = np.flatnonzero(present.any(axis=0))
        columns = np.concatenate([ones, x[:, :, used]], axis=2)
        for penalty in PENALTIES:
            solution, left_out = _huber_ridge(columns, error, penalty)
            mean_error = np.abs(left_out).mean(axis=1)
            better = np.flatnonzero(several & (mean_error < limit))
            constants[better], limit[better] = solution[better, 0], mean_error[better]
            offsets[np.ix_(better, used)] = solution[better, 1:]
    return constants, np.where(present, offsets, 0.0)


def _huber_ridge(columns: Floats, y: Floats, penalty: float) -> tuple[Floats, Floats]:
    """Solve k problems by Huber's loss, with a penalty on all but the first column: columns (k, n, c), y (k, n).

    Returns solutions and left-out residuals, which are exact for the weights that the residuals of the fit give (Allen,
    Technometrics 16, 125, 1974).
    """
    n_columns = columns.shape[2]
    ridge = np.diag(np.r_[0.0, np.full(n_columns - 1, penalty)])
    solution, weight = np.zeros((len(y), n_columns)), np.empty_like(y)
    inverse = np.empty((len(y), n_columns, n_columns))
    solution[:, 0] = np.median(y, axis=1)
    smallest = 1e-12 * np.maximum(1.0, np.abs(y).max(axis=1))
    todo = np.arange(len(y))
    for _ in range(30):
        of, labels, before = columns[todo], y[todo], solution[todo]
        residual = np.abs(labels - _times(of, before))
        scale = np.maximum(MAD_TO_STD * np.median(residual, axis=1), smallest[todo])[:, None]
        weight[todo] = HUBER_K / np.maximum(residual / scale, HUBER_K)
        weighted = weight[todo][:, :, None] * of
        inverse[todo] = np.linalg.inv(np.swapaxes(of, 1, 2) @ weighted + ridge)
        solution[todo] = _times(inverse[todo], _times(np.swapaxes(weighted, 1, 2), labels))
        moved = np.abs(solution[todo] - before).max(axis=1)
        todo = todo[moved > 1e-4 * np.maximum(np.abs(solution[todo]).max(axis=1), smallest[todo])]
        if not todo.size:
            break
    leverage = weight * ((columns @ inverse) * columns).sum(axis=2)
    return solution, (y - _times(columns, solution)) / np.maximum(1 - leverage, 1e-6)


def _times(matrices: Floats, vectors: Floats) -> Floats:
    """Multiply k matrices with as many vectors."""
    return np.asarray((matrices @ vectors[:, :, None])[:, :, 0])


def _scatter(size: Floats, std: Floats) -> float:
    """Return the s for which errors of these sizes are most likely, Laplace's of scale in ratio to sqrt(std² + s²).

    It is at most what explains them without a factor: more would ask for a factor below one, which would narrow the std
    of structures that are far outside, of which the labels tell nothing.
    """

    def ratio(scatter: float) -> float:
        return float(np.sqrt(2) * (size / np.hypot(std, scatter)).mean())

    def loss(scatter: float) -> float:
        return float(np.log(np.hypot(std, scatter)).mean()) + float(np.log(ratio(scatter)))

    if ratio(0.0) <= 1:
        return 0.0
    low, high = 0.0, float(2 * size.mean())
    for _ in range(30):  # the ratio falls with the scatter, and is below one at the upper end
        middle = (low + high) / 2
        low, high = (middle, high) if ratio(middle) > 1 else (low, middle)
    return min((low * part for part in SCATTERS), key=loss)


def _widening(std: Floats, scatter: float) -> Floats:
    return np.asarray(np.hypot(std, scatter) / std)

"""The error that unusual geometry adds: fitted where a potential knows the truth, one-sided, without saturation."""

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.uncertainty.calibration import MIN_SAMPLES
from cgcnn_ase.uncertainty.conformal import conformal_quantile
from cgcnn_ase.uncertainty.geometry_domain import GeometrySignals

Signal = Literal["contact", "compressed", "expanded", "spread"]
SIGNALS: tuple[Signal, ...] = ("contact", "compressed", "expanded", "spread")
# signals up to this quantile of ordinary held-out structures add nothing
_START_QUANTILE = 0.98
# an ordinary structure weighs so many times as much as a perturbed one
_WEIGHT_OF_ORDINARY = 5.0
# larger errors, in units of the median of the perturbed structures, count as so large: where atoms overlap a potential
# says anything
_LARGEST = 100.0
# nominal level of the interval where the term is the larger part: errors of distorted structures have heavy tails, and
# users distort in more ways than were tried
_LEVEL_OUTSIDE = 0.95
_MIN_EXPONENT, _MAX_EXPONENT = 0.5, 3.0
_LOG_SCALES = (-6.0, 7.0)
_LOG_POWERS = (-0.3, 1.1)


class GeometricError(BaseModel):
    r"""Standard deviation of the error that geometry unlike any in training adds to a prediction.

    .. math:: \sigma_g = \left(\sum_k a_k \max(s_k - t_k, 0)^{b_k}\right)^c

    over the signals: how much too short the shortest contact is, how much smaller and larger than usual the logarithm
    of the volume per atom is, and the logarithm of the members' spread. Each starts at the 98th percentile of ordinary
    structures, and with c above 1 several together count for more than each alone, as they do in structures that are
    truly distorted and not in ordinary ones. A network that has seen relaxed crystals only takes distorted ones for
    relaxed, so the true energy is higher than predicted: the term widens the upper side of the interval, and the std.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    starts: tuple[float, ...] = Field(min_length=len(SIGNALS), max_length=len(SIGNALS))
    scales: tuple[float, ...] = Field(min_length=len(SIGNALS), max_length=len(SIGNALS))  # in the unit of the target
    exponents: tuple[float, ...] = Field(min_length=len(SIGNALS), max_length=len(SIGNALS))
    power: float = Field(gt=0)  # c, of the sum
    factor: float = Field(gt=0)  # half width of the interval over the std, of structures that are far outside
    truth: str  # the potential whose energies were taken for true
    n_samples: int = Field(ge=MIN_SAMPLES)

    @model_validator(mode="after")
    def _consistent(self) -> "GeometricError":
        if min(self.scales) < 0 or min(self.exponents) <= 0:
            raise ValueError("scales must not be negative and exponents must be positive")
        return self

    @classmethod
    def fit(
        cls,
        perturbed: Floats,
        errors: npt.ArrayLike,
        std: npt.ArrayLike,
        *,
        ordinary: Floats,
        ordinary_errors: npt.ArrayLike,
        ordinary_std: npt.ArrayLike,
        truth: str,
    ) -> "GeometricError":
        """Fit to perturbed structures, and to ordinary ones that shall not be widened.

        Parameters
        ----------
        perturbed, ordinary : (n, 4) and (m, 4) float
            Columns of :func:`signal_columns`.
        errors, ordinary_errors : (n,) and (m,) float
            True value less predicted value, of structures that are not in the training set as they are.
        std, ordinary_std : (n,) and (m,) float
            Calibrated std without this term.
        truth : str
            The potential that the true values of the perturbed structures come from.

        Raises
        ------
        ValueError
            If there are too few structures for an interval.
        """
        from scipy.optimize import minimize

        largest = _LARGEST * float(np.median(np.abs(np.asarray(errors))))
        parts = [
            (np.asarray(perturbed), np.minimum(np.abs(np.asarray(errors)), largest), np.asarray(std), 1.0),
            (np.asarray(ordinary), np.abs(np.asarray(ordinary_errors)), np.asarray(ordinary_std), _WEIGHT_OF_ORDINARY),
        ]
        starts = np.quantile(ordinary, _START_QUANTILE, axis=0)
        k = len(SIGNALS)

        def loss(parameters: Floats) -> tuple[float, Floats]:
            scales, exponents, power = np.exp(parameters[:k]), parameters[k : 2 * k], np.exp(parameters[-1])
            total, slope = 1e-3 * float(np.sum((exponents - 1) ** 2)), np.zeros(2 * k + 1)
            slope[k : 2 * k] = 2e-3 * (exponents - 1)
            for signals, error, spread, weight in parts:
                beyond = np.maximum(signals - starts, 0.0)
                terms = scales * beyond**exponents  # (n, k)
                sums = terms.sum(axis=1)
                above = np.where(sums > 0, sums, 1.0)
                added = np.where(sums > 0, above**power, 0.0)
                sigma = np.sqrt(spread**2 + added**2)
                total += weight * float(np.mean(np.log(sigma) + np.sqrt(2) * error / sigma))  # Laplace
                of_added = (1 - np.sqrt(2) * error / sigma) / sigma**2 * added  # derivative by the term
                of_log_scale = terms * (of_added * power * added / above)[:, None]
                of_exponent = of_log_scale * np.log(np.where(beyond > 0, beyond, 1.0))
                of_log_power = of_added * added * np.log(above) * power
                slope += weight * np.concatenate(
                    [of_log_scale.mean(axis=0), of_exponent.mean(axis=0), [of_log_power.mean()]]
                )
            return total, slope

        bounds = [_LOG_SCALES] * k + [(_MIN_EXPONENT, _MAX_EXPONENT)] * k + [_LOG_POWERS]
        first = [np.concatenate([np.full(k, a), np.ones(k), [0.0]]) for a in (0.0, 1.0, 2.0)]
        best = min(
            (minimize(loss, x, jac=True, method="L-BFGS-B", bounds=bounds) for x in first), key=lambda r: float(r.fun)
        )
        scales, exponents, power = np.exp(best.x[:k]), best.x[k : 2 * k], float(np.exp(best.x[-1]))
        added = _std(np.asarray(perturbed), starts, scales, exponents, power)
        outside = added > np.asarray(std)
        factor = conformal_quantile(np.maximum(np.asarray(errors), 0.0)[outside] / added[outside], _LEVEL_OUTSIDE)
        return cls(
            starts=tuple(starts.tolist()),
            scales=tuple(scales.tolist()),
            exponents=tuple(exponents.tolist()),
            power=power,
            factor=factor,
            truth=truth,
            n_samples=len(perturbed),
        )

    def std(self, signals: Floats) -> Floats:
        """Std that is added to the other, in squares: (n,) from columns (n, 4) of :func:`signal_columns`."""
        starts, scales, exponents = (np.asarray(each) for each in (self.starts, self.scales, self.exponents))
        return _std(signals, starts, scales, exponents, self.power)

    def less(self, errors: npt.ArrayLike, signals: Floats) -> Floats:
        """Errors (n,), true value less predicted value, without the part that the upper end of the interval covers.

        An interval that holds these without the term holds the errors themselves with it.
        """
        error = np.asarray(errors, dtype=np.float64)
        covered = self.factor * self.std(signals)
        return np.where(error > 0, np.sqrt(np.maximum(error**2 - covered**2, 0.0)), error)


def signal_columns(geometry: GeometrySignals, epistemic: Floats) -> Floats:
    """The signals of n structures as columns, (n, 4); what is not known says nothing."""
    volume = np.nan_to_num(geometry.volume)
    return np.column_stack([geometry.contact, -volume, volume, np.log(np.maximum(epistemic, 1e-12))])


def _std(signals: Floats, starts: Floats, scales: Floats, exponents: Floats, power: float) -> Floats:
    beyond = np.maximum(signals - starts, 0.0)
    return np.asarray(np.sum(scales * beyond**exponents, axis=1) ** power)

"""All that a model was calibrated with: how its signals become std, interval and in_domain."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.uncertainty.calibration import StdCalibrator
from cgcnn_ase.uncertainty.conformal import ConformalInterval
from cgcnn_ase.uncertainty.domain import Domain, DomainVerdict, elements_of
from cgcnn_ase.uncertainty.error_model import MIN_SAMPLES, ErrorForest, ErrorModel
from cgcnn_ase.uncertainty.estimators import Estimate, signal_names, signals


class CalibratedPrediction(NamedTuple):
    """What is said of each prediction, in the unit of the estimate."""

    std: Floats
    lower: Floats
    upper: Floats
    domain: list[DomainVerdict]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibrator, conformal interval, domain and, if there was enough to learn it from, error model of one model."""

    calibrator: StdCalibrator
    interval: ConformalInterval
    domain: Domain
    errors: ErrorModel | None = None

    @classmethod
    def fit(
        cls,
        estimate: Estimate,
        target: npt.ArrayLike,
        *,
        embedding: npt.ArrayLike,
        composition: npt.ArrayLike,
        training_embedding: npt.ArrayLike,
        training_composition: npt.ArrayLike,
        difficulty: ErrorForest | None = None,
        site_elements: Collection[int] = (),
        groups: Ints | None = None,
        level: float = 0.9,
    ) -> "Calibration":
        """Calibrate on held-out data.

        Parameters
        ----------
        estimate, target, embedding, composition
            Predictions, true values, embeddings and atomic fractions of the held-out (val) set.
        training_embedding, training_composition
            (n, F) embeddings and (n, 101) atomic fractions of the training set.
        difficulty
            What errors in the training set taught, see :class:`ErrorModel`.
        site_elements
            Of a target of sites: atomic numbers on the labelled sites of the training set.
        groups
            (n,) of a target of sites: the host of each held-out site, whose errors are alike.
        level : float
            Nominal coverage of the interval.
        """
        elements = set().union(*elements_of(training_composition))
        domain = Domain.fit(training_embedding, embedding, elements=elements, site_elements=site_elements)
        error = np.asarray(target, dtype=float) - estimate.mean
        columns, names = signals(estimate, domain.distance(embedding)), signal_names(estimate, with_distance=True)
        errors = None
        if error.size >= MIN_SAMPLES:
            errors, left_out = ErrorModel.fit(columns, composition, embedding, error, difficulty=difficulty)
            columns, names = np.column_stack([columns, left_out]), (*names, "expected")
        calibrator = StdCalibrator.fit(columns, error, names=names)
        interval = ConformalInterval.fit(calibrator.apply(columns), error, level=level, groups=groups)
        return cls(calibrator, interval, domain, errors)

    def apply(
        self,
        estimate: Estimate,
        embedding: npt.ArrayLike,
        composition: npt.ArrayLike,
        site_numbers: Ints | None = None,
    ) -> CalibratedPrediction:
        """Std, interval and domain of each prediction, from embeddings (n, F) and atomic fractions (n, 101).

        Of sites, the atomic fractions are those of their hosts, ``site_numbers`` (n,) what is on the sites.
        """
        verdicts = self.domain.check(embedding, elements=elements_of(composition), site_numbers=site_numbers)
        columns = signals(estimate, np.array([verdict.distance for verdict in verdicts]))
        if self.errors is not None:
            columns = np.column_stack([columns, self.errors.apply(columns, composition, embedding)])
        std = self.calibrator.apply(columns)
        interval = self.interval.apply(estimate.mean, std)
        return CalibratedPrediction(std, interval.lower, interval.upper, verdicts)

    def to_config(self) -> dict[str, Any]:
        """The part that goes into ``config.json``."""
        return {"calibrator": self.calibrator.model_dump(), "interval": self.interval.model_dump()}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The part that goes into the safetensors file."""
        return self.domain.arrays() | ({} if self.errors is None else self.errors.arrays())

    @classmethod
    def from_files(cls, config: Mapping[str, Any], arrays: Mapping[str, npt.ArrayLike]) -> "Calibration":
        """The inverse of :meth:`to_config` and :meth:`arrays`."""
        return cls(
            StdCalibrator.model_validate(config["calibrator"]),
            ConformalInterval.model_validate(config["interval"]),
            Domain.from_arrays(arrays),
            ErrorModel.from_arrays(arrays),
        )

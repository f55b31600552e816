"""All that a model was calibrated with: how its signals become std, interval and in_domain."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.uncertainty.calibration import StdCalibrator
from cgcnn_ase.uncertainty.conformal import ConformalInterval
from cgcnn_ase.uncertainty.domain import Domain, DomainVerdict
from cgcnn_ase.uncertainty.estimators import Estimate, signal_names, signals

Floats = npt.NDArray[np.float64]


class Judgement(NamedTuple):
    """What is said of each prediction, in the unit of the estimate."""

    std: Floats
    lower: Floats
    upper: Floats
    domain: list[DomainVerdict]


@dataclass(frozen=True, eq=False)
class Trust:
    """Calibrator, conformal interval and domain of one model."""

    calibrator: StdCalibrator
    interval: ConformalInterval
    domain: Domain

    @classmethod
    def fit(
        cls,
        estimate: Estimate,
        target: npt.ArrayLike,
        *,
        embedding: npt.ArrayLike,
        training_embedding: npt.ArrayLike,
        elements: Collection[int],
        level: float = 0.9,
    ) -> "Trust":
        """Calibrate on held-out data.

        Parameters
        ----------
        estimate, target, embedding
            Predictions, true values and embeddings of the held-out (val) set.
        training_embedding
            (n, F) embeddings of the training set.
        elements
            Atomic numbers in the training set.
        level : float
            Nominal coverage of the interval.
        """
        domain = Domain.fit(training_embedding, embedding, elements=elements)
        errors = np.asarray(target, dtype=float) - estimate.mean
        columns = signals(estimate, domain.distance(embedding))
        calibrator = StdCalibrator.fit(columns, errors, names=signal_names(estimate, with_distance=True))
        interval = ConformalInterval.fit(calibrator.apply(columns), errors, level=level)
        return cls(calibrator, interval, domain)

    def judge(self, estimate: Estimate, embedding: npt.ArrayLike, elements: Sequence[Collection[int]]) -> Judgement:
        """Std, interval and domain of each prediction."""
        verdicts = self.domain.check(embedding, elements=elements)
        distance = np.array([verdict.distance for verdict in verdicts])
        std = self.calibrator.apply(signals(estimate, distance))
        interval = self.interval.apply(estimate.mean, std)
        return Judgement(std, interval.lower, interval.upper, verdicts)

    def to_config(self) -> dict[str, Any]:
        """The part that goes into ``config.json``."""
        return {"calibrator": self.calibrator.model_dump(), "interval": self.interval.model_dump()}

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """The part that goes into the safetensors file."""
        return self.domain.arrays()

    @classmethod
    def from_files(cls, config: Mapping[str, Any], arrays: Mapping[str, npt.ArrayLike]) -> "Trust":
        """The inverse of :meth:`to_config` and :meth:`arrays`."""
        return cls(
            StdCalibrator.model_validate(config["calibrator"]),
            ConformalInterval.model_validate(config["interval"]),
            Domain.from_arrays(arrays),
        )

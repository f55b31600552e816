"""The calibration of a regression: how its signals become std, interval and domain."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import AnyArray, Ints
from cgcnn_ase.uncertainty.calibration import StdCalibrator
from cgcnn_ase.uncertainty.conformal import ConformalInterval, HeldOutSignals, PopulationFactors
from cgcnn_ase.uncertainty.contacts import StructureGeometry
from cgcnn_ase.uncertainty.domain import Domain, elements_of
from cgcnn_ase.uncertainty.error_model import MIN_SAMPLES, Difficulty, ErrorModel
from cgcnn_ase.uncertainty.geometric_error import GeometricError, signal_columns
from cgcnn_ase.uncertainty.label_shift import LabelShift
from cgcnn_ase.uncertainty.protocol import (
    CalibratedPrediction,
    CalibrationData,
    MemberOutputs,
    Population,
    fit_domain,
    fit_held_out,
    signal_names,
    signals,
)

# from this domain score on, where no errors of distorted structures are known, an interval would be wrong
FAR = 2.0
NO_INTERVAL = "no interval: this far outside nothing is known of the errors"
# what a reused calibration weighs, in held-out labels: as much as would have been enough for a new one
PRIOR = 20
# where the shift to a user's labels stands in ``config.json``, and its sha256 among the arrays
LABELS, _FINGERPRINT = "labels", "labels.sha256"


@dataclass(frozen=True, eq=False)
class RegressionCalibration:
    """Calibrator, conformal interval, domain and, if there was enough to learn it from, error model of one model.

    Where the errors of distorted structures are known from a potential, ``geometric`` widens the std and the upper end
    of the interval. Where they are not, structures that are far outside get no interval (NaN).
    """

    calibrator: StdCalibrator
    interval: ConformalInterval
    domain: Domain
    errors: ErrorModel | None = None
    geometric: GeometricError | None = None
    hypothetical: PopulationFactors | None = None
    held_out: HeldOutSignals | None = None  # None of models made before batches were compared
    labels: LabelShift | None = None  # what a user's own labels change in all of it

    @classmethod
    def fit(cls, outputs: MemberOutputs, data: CalibrationData, *, level: float = 0.9) -> "RegressionCalibration":
        """Calibrate on held-out data.

        The errors in the training set teach which structures are hard for all members alike, see :class:`ErrorModel`.
        """
        estimate, embedding = outputs.estimate, outputs.embedding.numpy()
        domain = fit_domain(embedding, data)
        error = np.asarray(data.labels, dtype=float) - estimate.mean
        columns, names = signals(estimate, domain.distance(embedding)), signal_names(estimate, with_distance=True)
        errors = None
        if error.size >= MIN_SAMPLES:
            difficulty = None
            if data.training_errors is not None:
                difficulty = Difficulty.fit(data.training_composition, data.training_embedding, data.training_errors)
            errors, left_out = ErrorModel.fit(columns, data.composition, embedding, error, difficulty=difficulty)
            columns, names = np.column_stack([columns, left_out]), (*names, "expected")
        calibrator = StdCalibrator.fit(columns, error, names=names)
        interval = ConformalInterval.fit(calibrator.apply(columns), error, level=level, groups=data.groups)
        held_out = fit_held_out(domain, embedding, estimate.epistemic, data)
        return cls(calibrator, interval, domain, errors, held_out=held_out)

    @classmethod
    def uncalibrated(cls, outputs: MemberOutputs) -> CalibratedPrediction:
        """Predict with the members' spread for the std; one member has none."""
        mean, spread, aleatoric = outputs.estimate
        epistemic = spread if len(outputs.values) > 1 else None
        members = outputs.values.double().numpy()
        return CalibratedPrediction(mean, members, epistemic, epistemic=epistemic, aleatoric=aleatoric)

    def apply(
        self,
        outputs: MemberOutputs,
        composition: npt.ArrayLike,
        site_numbers: Ints | None = None,
        geometry: StructureGeometry | None = None,
        population: Population = "known",
    ) -> CalibratedPrediction:
        """Predict with calibrated std, interval and domain."""
        raw, embedding = self.uncalibrated(outputs), outputs.embedding.numpy()
        shape = self.domain.signals(geometry, composition)
        verdicts = self.domain.check(
            embedding, elements=elements_of(composition), site_numbers=site_numbers, geometry=geometry, signals=shape
        )
        columns = signals(outputs.estimate, np.array([verdict.distance for verdict in verdicts]))
        if self.errors is not None:
            columns = np.column_stack([columns, self.errors.apply(columns, composition, embedding)])
        std = self.calibrator.apply(columns)
        lower, upper = self.interval.apply(raw.value, std)
        if self.hypothetical is None:
            population = "known"
        elif population == "hypothetical":
            std, upper = self.hypothetical.apply(raw.value, std)
        if shape is not None and self.geometric is not None:
            added = self.geometric.std(signal_columns(shape, outputs.estimate.epistemic))
            upper = raw.value + np.hypot(upper - raw.value, self.geometric.factor * added)
            std = np.hypot(std, added)
        elif shape is not None:
            far = np.array([verdict.score > FAR for verdict in verdicts])
            lower, upper = np.where(far, np.nan, lower), np.where(far, np.nan, upper)
            verdicts = [
                verdict._replace(reason=f"{verdict.reason}; {NO_INTERVAL}") if is_far else verdict
                for verdict, is_far in zip(verdicts, far.tolist(), strict=True)
            ]
        prediction = raw._replace(std=std, lower=lower, upper=upper, domain=verdicts, population=population)
        return prediction if self.labels is None else self.labels.apply(prediction, composition)

    def reuse(self, outputs: MemberOutputs, data: CalibrationData) -> "tuple[RegressionCalibration, float]":
        r"""Adapt the calibration to a tuned model; ValueError if that has other signals of its error than the old one.

        The std is multiplied by :math:`s = \max(1, \sqrt{(n_0 + \sum z^2) / (n_0 + n)})` with z the n held-out errors
        divided by the old std and :math:`n_0 = 20`: a few errors that are larger than expected widen it, none narrows
        it. A shift to a user's labels is left out, as the tuned model learned its own.
        """
        names = signal_names(outputs.estimate, with_distance=True) + (() if self.errors is None else ("expected",))
        if names != self.calibrator.names:
            raise ValueError(
                f"the calibration of the model to tune reads {', '.join(self.calibrator.names)}, "
                f"the tuned one has {', '.join(names)}"
            )
        base = replace(self, labels=None)
        prediction = base.apply(outputs, data.composition, geometry=data.geometry)
        assert prediction.std is not None
        squares = ((np.asarray(data.labels, dtype=float) - prediction.value) / prediction.std) ** 2
        factor = max(1.0, float(np.sqrt((PRIOR + squares.sum()) / (PRIOR + squares.size))))
        elements = self.domain.elements.union(*elements_of(data.training_composition))
        widened = self.calibrator.widened(factor)
        return replace(self, calibrator=widened, domain=replace(self.domain, elements=elements), labels=None), factor

    def to_config(self) -> dict[str, object]:
        """Return the part that goes into ``config.json``."""
        optional = {
            "geometric": self.geometric,
            "hypothetical": self.hypothetical,
            "held_out": self.held_out,
            LABELS: self.labels,
        }
        return {
            "calibrator": self.calibrator.model_dump(),
            "interval": self.interval.model_dump(),
            **{name: part.model_dump() for name, part in optional.items() if part is not None},
        }

    def arrays(self) -> dict[str, AnyArray]:
        """Return the part that goes into the safetensors file."""
        labels = {} if self.labels is None else {_FINGERPRINT: self.labels.fingerprint()}
        return {**self.domain.arrays(), **({} if self.errors is None else self.errors.arrays()), **labels}

    @classmethod
    def from_files(cls, config: Mapping[str, object], arrays: Mapping[str, npt.ArrayLike]) -> "RegressionCalibration":
        """Invert :meth:`to_config` and :meth:`arrays`."""
        labels = LabelShift.model_validate(config[LABELS]) if LABELS in config else None
        if not np.array_equal(arrays.get(_FINGERPRINT, ()), () if labels is None else labels.fingerprint()):
            raise ValueError("the shift to a user's labels is not the one that the weights were saved with")
        return cls(
            StdCalibrator.model_validate(config["calibrator"]),
            ConformalInterval.model_validate(config["interval"]),
            Domain.from_arrays(arrays),
            ErrorModel.from_arrays(arrays),
            GeometricError.model_validate(config["geometric"]) if "geometric" in config else None,
            PopulationFactors.model_validate(config["hypothetical"]) if "hypothetical" in config else None,
            held_out=HeldOutSignals.model_validate(config["held_out"]) if "held_out" in config else None,
            labels=labels,
        )

"""How far to trust a prediction: calibrated std, conformal intervals, the training domain, and how good they are."""

from cgcnn_ase.uncertainty.calibration import StdCalibrator
from cgcnn_ase.uncertainty.conformal import ConformalInterval
from cgcnn_ase.uncertainty.domain import Domain, DomainVerdict
from cgcnn_ase.uncertainty.metrics import (
    UncertaintyMetrics,
    calibration_curve,
    ence,
    ence_noise,
    evaluate,
    reliability_bins,
)

__all__ = [
    "ConformalInterval",
    "Domain",
    "DomainVerdict",
    "StdCalibrator",
    "UncertaintyMetrics",
    "calibration_curve",
    "ence",
    "ence_noise",
    "evaluate",
    "reliability_bins",
]

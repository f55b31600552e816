"""How far to trust a prediction: calibrated std, conformal intervals, the training domain, and how good they are."""

from collections.abc import Mapping

from cgcnn_ase.uncertainty.classification_calibration import ClassificationCalibration
from cgcnn_ase.uncertainty.conformal import ConformalInterval
from cgcnn_ase.uncertainty.domain import Domain
from cgcnn_ase.uncertainty.metrics import evaluate
from cgcnn_ase.uncertainty.protocol import CalibratedPrediction, Calibration, CalibrationData
from cgcnn_ase.uncertainty.regression_calibration import RegressionCalibration

__all__ = [
    "CALIBRATIONS",
    "CalibratedPrediction",
    "Calibration",
    "CalibrationData",
    "ClassificationCalibration",
    "ConformalInterval",
    "Domain",
    "RegressionCalibration",
    "evaluate",
]

# the class of a model's calibration, by the task of its target
CALIBRATIONS: Mapping[str, type[Calibration]] = {
    "regression": RegressionCalibration,
    "classification": ClassificationCalibration,
}

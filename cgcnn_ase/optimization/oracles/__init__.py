"""Oracles say what the value of a point is: a potential, DFT, a table of measurements, a function."""

from cgcnn_ase.optimization.oracles.base import ORACLES, BatchOracle, Oracle, RecordingOracle, make_oracle
from cgcnn_ase.optimization.records import Evaluation, OracleError

__all__ = [
    "ORACLES",
    "BatchOracle",
    "Evaluation",
    "Oracle",
    "OracleError",
    "RecordingOracle",
    "make_oracle",
]

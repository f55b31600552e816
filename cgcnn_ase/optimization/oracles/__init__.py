"""Who says what the value of a point is: an interatomic potential, DFT, a table of measurements, a function."""

from cgcnn_ase.optimization.oracles.base import BatchOracle, Oracle, RecordingOracle
from cgcnn_ase.optimization.oracles.registry import make_oracle, oracle_names
from cgcnn_ase.optimization.records import Evaluation, OracleError

__all__ = [
    "BatchOracle",
    "Evaluation",
    "Oracle",
    "OracleError",
    "RecordingOracle",
    "make_oracle",
    "oracle_names",
]

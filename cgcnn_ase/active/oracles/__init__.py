"""Who says what the value of a point is: an interatomic potential, DFT, a table of measurements, a function."""

from cgcnn_ase.active.oracles.oracle import BatchOracle, Evaluation, Oracle, OracleError, RecordingOracle
from cgcnn_ase.active.oracles.registry import make_oracle, oracle_names

__all__ = [
    "BatchOracle",
    "Evaluation",
    "Oracle",
    "OracleError",
    "RecordingOracle",
    "make_oracle",
    "oracle_names",
]

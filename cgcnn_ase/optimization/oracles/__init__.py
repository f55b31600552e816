"""Oracles say what the value of a point is: a potential, DFT, a table of measurements, a function."""

from cgcnn_ase.optimization.oracles.base import ORACLES, BatchOracle, Evaluation, Oracle, OracleError, make_oracle

__all__ = ["ORACLES", "BatchOracle", "Evaluation", "Oracle", "OracleError", "make_oracle"]

"""An acquisition: what is good even if the prediction is too optimistic."""

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.optimization.acquisition import CandidateCosts


def cautious(candidates: CandidateCosts) -> Floats:
    """Prefer the lowest cost plus `kappa` std."""
    return -(candidates.cost + candidates.kappa * candidates.std)

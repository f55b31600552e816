"""Crystal-graph property prediction with calibrated uncertainty.

>>> from cgcnn_ase import CGCNNCalculator, load_model, predict  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgcnn_ase.calculator import CGCNNCalculator
    from cgcnn_ase.models.registry import load_model
    from cgcnn_ase.prediction.predictor import Predictor, predict
    from cgcnn_ase.training.finetune import finetune

_HOMES = {
    "CGCNNCalculator": "cgcnn_ase.calculator",
    "Predictor": "cgcnn_ase.prediction.predictor",
    "finetune": "cgcnn_ase.training.finetune",
    "load_model": "cgcnn_ase.models.registry",
    "predict": "cgcnn_ase.prediction.predictor",
}

__all__ = ["CGCNNCalculator", "Predictor", "finetune", "load_model", "predict"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package costs nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cgcnn_ase' has no attribute {name!r}")

"""Crystal-graph property prediction with calibrated uncertainty.

>>> from cgcnn_ase import CGCNNCalculator, load_model, predict  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgcnn_ase.calculator import CGCNNCalculator
    from cgcnn_ase.inspection.second_opinion import SecondOpinions, predict
    from cgcnn_ase.learning.calculator import LearningCalculator
    from cgcnn_ase.learning.relax import relax
    from cgcnn_ase.models.registry import load_model
    from cgcnn_ase.prediction.predictor import Predictor
    from cgcnn_ase.stability.predictor import stability
    from cgcnn_ase.training.calibrate import calibrate
    from cgcnn_ase.training.finetune import finetune

    __version__: str

_HOMES = {
    "CGCNNCalculator": "cgcnn_ase.calculator",
    "LearningCalculator": "cgcnn_ase.learning.calculator",
    "Predictor": "cgcnn_ase.prediction.predictor",
    "SecondOpinions": "cgcnn_ase.inspection.second_opinion",
    "calibrate": "cgcnn_ase.training.calibrate",
    "finetune": "cgcnn_ase.training.finetune",
    "load_model": "cgcnn_ase.models.registry",
    "predict": "cgcnn_ase.inspection.second_opinion",
    "relax": "cgcnn_ase.learning.relax",
    "stability": "cgcnn_ase.stability.predictor",
}

__all__ = [
    "CGCNNCalculator", "LearningCalculator", "Predictor", "SecondOpinions", "__version__", "calibrate", "finetune",
    "load_model", "predict", "relax", "stability",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package costs nothing."""
    if name == "__version__":
        from cgcnn_ase.core.environment import package_version

        return package_version()
    if name in _HOMES:
        try:
            return getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            from cgcnn_ase.core.errors import missing_extra

            raise missing_extra(error, f"cgcnn_ase.{name}") from error
    raise AttributeError(f"module 'cgcnn_ase' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, those not imported yet too."""
    return sorted({*globals(), *__all__})

"""A pretrained model as oracle: cheap labels with their own error bars."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgcnn_ase.core.settings import Settings, parse_settings
from cgcnn_ase.optimization.records import Evaluation, OracleError

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.optimization.space.variables import Point


class ModelSettings(Settings):
    """Of ``model``."""

    model: str = "formation-energy-per-atom"


class ModelOracle:
    """What a crystal-graph model predicts, with its calibrated standard deviation.

    Parameters
    ----------
    model
        A pretrained name or a model folder.
    """

    def __init__(self, model: str) -> None:
        from cgcnn_ase.prediction.predictor import Predictor

        self.name = "model"
        self.references: Mapping[str, float] | None = None
        self._model = model
        self._predictor = Predictor(model)
        self.properties = [result.target.name for result in self._predictor.inference().models]
        self._sha256 = [result.sha256 for result in self._predictor.inference().models]

    def describe(self) -> dict[str, Any]:
        """The model's name and sha256."""
        return {"name": self.name, "what": f"the model {self._model}, not DFT", "sha256": self._sha256}

    def evaluate(self, point: "Point", atoms: "Atoms | None") -> Evaluation:
        """Each property that the model predicts.

        Raises
        ------
        OracleError
            If there is no structure, or it cannot be predicted.
        """
        del point
        if atoms is None:
            raise OracleError("a model needs a structure, and the configuration makes none: give `structure`")
        values: dict[str, float] = {}
        stds: dict[str, float] = {}
        for prediction in self._predictor.stream([atoms]):
            if prediction.error is not None or prediction.value is None:
                raise OracleError(f"{self._model}: {prediction.error}")
            name = prediction.property
            values[name] = prediction.value
            if prediction.std is not None:
                stds[name] = prediction.std
        return Evaluation(values, stds)


def model_oracle(options: Mapping[str, Any], *, folder: Path) -> ModelOracle:
    """``model``, with ``model: NAME`` or a model folder beside the configuration."""
    model = parse_settings(ModelSettings, options, "oracle").model
    beside = folder / model
    return ModelOracle(str(beside) if beside.exists() else model)

"""``cgcnn.predict_in_process``: a handful of structures predicted here and now, without a job."""

import warnings

from aiida.engine import calcfunction
from aiida.orm import Dict, Str, StructureData

from aiida_plugin.calculations.functions import node_default
from aiida_plugin.calculations.predict import settings_problem
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData, as_set
from cgcnn_ase.core.environment import package_version as version

_VERSION = node_default(version(), Str)


@calcfunction
def predict_in_process(
    model: CGCNNModelData,
    structures: StructureSetData | StructureData,
    settings: Dict | None = None,
    package_version: Str = _VERSION,  # noqa: ARG001
) -> PredictionsData:
    """Predict a set in this process: no code, no computer, no job; for what takes seconds.

    Parameters
    ----------
    model
        Of a single model.
    structures
        What to predict: a set, or one structure.
    settings
        As those of ``cgcnn.predict``.
    package_version
        Of what predicts, so that caching tells versions apart; filled in.

    Returns
    -------
    PredictionsData
        With the structures that could not be predicted, and why.

    Raises
    ------
    ValueError
        If the node holds several models, a setting is none of the allowed, or no structure could be predicted.
    CheckpointError
        If a file of the model's node was changed.
    """
    from cgcnn_ase.inspection.second_opinion import as_second_opinions
    from cgcnn_ase.prediction.predictor import Predictor
    from cgcnn_ase.prediction.results import BatchWarning, Predictions, member_values

    options = {} if settings is None else settings.get_dict()
    if reason := settings_problem(options):
        raise ValueError(reason)
    if len(model.names) > 1:
        raise ValueError(f"the node holds {len(model.names)} models: {', '.join(model.names)}; cgcnn.predict takes all")
    of_set = as_set(structures)
    options["second_opinion"] = as_second_opinions(options.get("second_opinion") or None)
    predictor = Predictor(model.load(), **options)
    pairs = list(predictor.stream_with(member_values, dict(zip(of_set.ids, of_set.iter_atoms(), strict=True))))
    tally = predictor.tally()
    result = Predictions(tally.counted(prediction for prediction, _ in pairs))
    if not result.all:
        raise ValueError(f"no structure could be predicted; the first: {result.failures[0].error}")
    for note in tally.notes():
        warnings.warn(note, BatchWarning, stacklevel=2)
    members = [None if row is None else row.tolist() for prediction, row in pairs if prediction.error is None]
    return PredictionsData.from_predictions(result, None if options.get("n_dropout") is not None else members)

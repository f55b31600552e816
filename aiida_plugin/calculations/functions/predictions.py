"""Predictions: made in this process, cut and joined in shards, chosen from, and compared with labels of later."""

import csv
import math
import warnings
from collections.abc import Mapping
from io import StringIO
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, get_args

from aiida.engine import calcfunction
from aiida.orm import Dict, FolderData, Int, List, Str, StructureData

from aiida_plugin.calculations.functions import node_default
from aiida_plugin.calculations.predict import FAILURES, settings_problem
from aiida_plugin.data.labels import labels_of, only_scheme
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData, as_set
from cgcnn_ase.core.environment import package_version as version
from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.optimization.acquisition import ACQUISITIONS, Direction, acquire

if TYPE_CHECKING:
    import pandas as pd

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


def shard_name(k: int) -> str:
    """Name shard `k`, from 0; names sort as numbers do."""
    return f"shard_{k:04d}"


@calcfunction
def cut(structures: StructureSetData, n_shards: Int) -> dict[str, StructureSetData]:
    """Cut a set into consecutive parts, under the same ids, of sizes that differ by one at most.

    Parameters
    ----------
    structures
        The set; it is read once, in bounded memory.
    n_shards
        How many parts; at most as many as there are structures.

    Returns
    -------
    dict
        From ``shard_0000`` on.

    Raises
    ------
    ValueError
        If there are to be none, or more than structures.
    """
    n, total = n_shards.value, len(structures)
    if not 1 <= n <= total:
        raise ValueError(f"{total} structures cannot be cut into {n} shards; allowed are 1 to {total}")
    bounds = [k * total // n for k in range(n + 1)]
    atoms, ids = structures.iter_atoms(), structures.ids
    return {
        shard_name(k): StructureSetData.from_ase(islice(atoms, stop - start), ids[start:stop])
        for k, (start, stop) in enumerate(pairwise(bounds))
    }


@calcfunction
def join(**shards: PredictionsData | FolderData) -> PredictionsData:
    """Join the predictions of shards into one node, in the order of the shards' names.

    Parameters
    ----------
    **shards
        The predictions of each shard; of one in which no structure could be predicted, what its job retrieved.

    Raises
    ------
    ValueError
        If none of them has predictions, or they are not all of one model.
    """
    parts = [shards[name] for name in sorted(shards)]
    predicted = [part for part in parts if isinstance(part, PredictionsData)]
    if not predicted:
        raise ValueError("none of the shards has predictions")
    failures: list[tuple[str, str]] = []
    for part in parts:
        failures += part.failures if isinstance(part, PredictionsData) else failures_of(part)
    return PredictionsData.joined(predicted, failures)


def failures_of(retrieved: FolderData) -> list[tuple[str, str]]:
    """Read id and error of each structure that a prediction job could not predict."""
    text = retrieved.base.repository.get_object_content(FAILURES, "r")
    return [(row["id"], row["error"]) for row in csv.DictReader(StringIO(text))]


# settings of a selection and their defaults
SELECTION: dict[str, Any] = {"take": {"best": 3, "uncertain": 3}, "goal": "min", "kappa": 2.0, "in_domain": False}


@calcfunction
def select(
    predictions: PredictionsData, settings: Dict, labelled: StructureSetData | None = None, at_most: Int | None = None
) -> dict[str, List | Dict]:
    """Choose structures by one acquisition function after the other; none twice.

    Parameters
    ----------
    predictions
        Of whole structures.
    settings
        ``take``: how many by each acquisition (see :func:`~cgcnn_ase.optimization.acquisition.acquire`), in this order;
        ``goal``: min or max; ``kappa`` of lcb; ``in_domain``: whether structures outside the model's domain are passed
        over.
    labelled
        Structures that are not to be chosen again, by id.
    at_most
        Choose no more than so many in all.

    Returns
    -------
    dict
        ``indices``: the ids, for ``cgcnn.label``; ``chosen``: under ``rows`` id, value, std, and why, of each.

    Raises
    ------
    ValueError
        If a setting is none of the allowed, predictions are of sites or have no std, or nothing is left to choose.
    """
    options = SELECTION | settings.get_dict()
    if problem := selection_problem(options):
        raise ValueError(problem)
    if predictions.base.attributes.get("of_sites"):
        raise ValueError("these are predictions of sites; structures can be chosen by predictions of structures only")
    frame = predictions.to_frame()
    frame = frame[~frame["id"].isin(() if labelled is None else labelled.ids)]
    if options["in_domain"]:
        frame = frame[frame["in_domain"].fillna(False).astype(bool)]
    if frame.empty:
        raise ValueError("no structure is left to choose: all are labelled, failed, or outside the model's domain")
    rows = _choose(frame, options)[: None if at_most is None else at_most.value]
    return {"indices": List([row["id"] for row in rows]), "chosen": Dict({"rows": rows, "n_candidates": len(frame)})}


def largest_std(predictions: PredictionsData) -> float:
    """Return the std of the least certain prediction; infinite where the model gives none."""
    std = predictions.to_frame()["std"]
    return float("inf") if std.isna().any() else float(std.max())


def selection_problem(settings: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the settings of a selection; None if nothing is."""
    if unknown := sorted(set(settings) - set(SELECTION)):
        return f"unknown settings {', '.join(unknown)}; allowed: {', '.join(SELECTION)}"
    take = settings.get("take", SELECTION["take"])
    if not isinstance(take, Mapping) or not take:
        return f"take must say how many by each acquisition, such as {SELECTION['take']}, not {take!r}"
    if other := sorted(set(take) - set(ACQUISITIONS.names())):
        return str(unknown_name("acquisition", other[0], ACQUISITIONS.names()))
    if bad := [n for n in take.values() if not isinstance(n, int) or n < 0]:
        return f"how many to take must be a whole number, not {bad[0]!r}"
    if not sum(take.values()):
        return "take must name at least one structure"
    if settings.get("goal", "min") not in get_args(Direction):
        return f"goal {settings['goal']!r}; allowed: {', '.join(get_args(Direction))}"
    kappa = settings.get("kappa", 2.0)
    return None if isinstance(kappa, int | float) and kappa >= 0 else f"kappa must be 0 or more, not {kappa!r}"


def check_selection(settings: Dict, _: object) -> str | None:
    """Check the settings as the validator of an input."""
    return selection_problem(settings.get_dict())


def _choose(frame: "pd.DataFrame", options: Mapping[str, Any]) -> list[dict[str, object]]:
    if frame["std"].isna().any() and set(options["take"]) != {"best"}:
        raise ValueError("the model gives no std (it is not calibrated); only the acquisition best can be used")
    frame = frame.assign(std=frame["std"].astype(float))
    std = frame["std"].fillna(0.0)
    rows: dict[str, dict[str, object]] = {}
    for name, n in options["take"].items():
        gain = acquire(name, frame["value"], std, goal=options["goal"], kappa=options["kappa"])
        order = frame.assign(gain=gain).sort_values(["gain", "id"], ascending=[False, True])
        for row in order[~order["id"].isin(rows)].head(n).to_dict("records"):
            known = {} if math.isnan(row["std"]) else {"std": float(row["std"])}
            rows[row["id"]] = {"id": row["id"], "value": float(row["value"]), **known, "why": name}
    return list(rows.values())


# figures of a round's errors that the report repeats, and of its retraining
_OF_ERRORS = ("n", "mae", "mae_without_offset", "offset", "spearman", "coverage")
_OF_RETRAINING = ("before", "after", "n_train", "n_test")
_MIN_ORDER = 3  # fewer pairs say nothing of an order


@calcfunction
def prediction_errors(predictions: PredictionsData, labelled: StructureSetData) -> Dict:
    """Compare predicted values with computed ones, structure by structure, by id.

    Returns
    -------
    Dict
        ``rows`` (id, predicted, std, label, error), ``n``, ``unit``, ``mae``, ``rmse``, ``offset`` (the mean error:
        labels of another functional are shifted), ``mae_without_offset`` (the error of differences between structures,
        from two on), ``coverage`` (part of the labels within their intervals), ``spearman`` (of the order, from three
        structures on), and the ``label_scheme``. If no label is of the predicted property, ``n`` is 0 and ``reason``
        says so.

    Raises
    ------
    ValueError
        If predictions are of sites, or the labels of different kinds.
    """
    if predictions.base.attributes.get("of_sites"):
        raise ValueError("these are predictions of sites; labels are of whole structures")
    target, unit = predictions.base.attributes.get("property"), predictions.base.attributes.get("unit")
    labels = dict(zip(labelled.ids, labels_of(labelled, target), strict=True))
    frame = predictions.to_frame()
    frame["label"] = frame["id"].map(labels).astype(float)
    frame = frame[frame["label"].notna()]
    scheme = only_scheme(labelled)
    result = {"property": target, "unit": unit, "n": len(frame)} | ({} if scheme is None else {"label_scheme": scheme})
    figures = {"reason": f"no predicted structure has a label {target}"} if frame.empty else _figures(frame)
    return Dict(result | figures)


def _figures(frame: "pd.DataFrame") -> dict[str, object]:
    error = frame["value"] - frame["label"]
    figures: dict[str, object] = {
        "mae": float(error.abs().mean()),
        "rmse": float((error**2).mean() ** 0.5),
        "offset": float(error.mean()),
    }
    if len(frame) > 1:
        figures["mae_without_offset"] = float((error - error.mean()).abs().mean())
    if frame["lower"].notna().all():
        figures["coverage"] = float(frame["label"].between(frame["lower"], frame["upper"]).mean())
    if len(frame) >= _MIN_ORDER and frame["label"].nunique() > 1 and frame["value"].nunique() > 1:
        figures["spearman"] = float(frame["value"].corr(frame["label"], method="spearman"))
    columns = {"id": "id", "value": "predicted", "std": "std", "label": "label"}
    table = frame[list(columns)].rename(columns=columns).assign(error=error)
    figures["rows"] = [{k: v for k, v in row.items() if v == v} for row in table.to_dict("records")]
    return figures


@calcfunction
def learning_report(ended: Dict, **rounds: Dict) -> Dict:
    """Make one row a round, of the errors of its predictions against the labels that followed, and of the retraining.

    Parameters
    ----------
    ended
        ``reason`` why the loop ended.
    **rounds
        ``agreement_1`` and ``finetune_1``, and so on: what came out of each round.

    Returns
    -------
    Dict
        ``rows`` with ``round``, ``n_labels`` so far, figures of the predictions made before the labels were known
        (``mae``, ``offset``, ...), and ``before`` and ``after`` of the retraining on the test set, where there is one.
    """
    rows = []
    n_labels = 0
    for k in sorted({int(name.rpartition("_")[2]) for name in rounds}):
        errors, retraining = (
            rounds[name].get_dict() if name in rounds else {} for name in (f"agreement_{k}", f"finetune_{k}")
        )
        n_labels += errors.get("n", 0)
        figures = {name: errors[name] for name in _OF_ERRORS if name in errors}
        learned = {name: retraining[name] for name in _OF_RETRAINING if name in retraining}
        rows.append({"round": k, **figures, "n_labels": n_labels, **learned})
    return Dict({"rows": rows, **ended.get_dict()})

"""Errors of predictions against labels that were computed afterwards."""

from typing import TYPE_CHECKING

from aiida.engine import calcfunction
from aiida.orm import Dict

from aiida_plugin.data.labels import labels_of, only_scheme
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    import pandas as pd

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

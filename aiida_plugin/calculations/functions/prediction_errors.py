"""How well predictions agree with labels that were computed afterwards."""

from typing import TYPE_CHECKING, Any

from aiida.engine import calcfunction
from aiida.orm import Dict

from aiida_plugin.data.label_scheme import only_scheme
from aiida_plugin.data.labels import labels_of
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    import pandas as pd


#: figures of a round's agreement that the report repeats
_FIGURES = ("n", "mae", "mae_without_offset", "offset", "spearman", "coverage")


@calcfunction
def learning_report(ended: Dict, **rounds: Dict) -> Dict:
    """One row a round, from the agreement of its predictions with the labels that followed, and of the retraining.

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
    rows: list[dict[str, Any]] = []
    n_labels = 0
    numbers = sorted({int(name.rpartition("_")[2]) for name in rounds})
    for k in numbers:
        row: dict[str, Any] = {"round": k}
        if (result := rounds.get(f"agreement_{k}")) is not None:
            n_labels += result["n"]
            row |= {name: result[name] for name in _FIGURES if name in result.get_dict()}
        row["n_labels"] = n_labels
        if (tuned := rounds.get(f"finetune_{k}")) is not None:
            row |= {name: tuned[name] for name in ("before", "after", "n_train", "n_test") if name in tuned.get_dict()}
        rows.append(row)
    return Dict({"rows": rows, **ended.get_dict()})


#: fewer pairs than this say nothing of an order
_MIN_LABELS = 3


@calcfunction
def agreement(predictions: PredictionsData, labelled: StructureSetData) -> Dict:
    """Compare what was predicted with what was computed, structure by structure, by id.

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
    result: dict[str, Any] = {"property": target, "unit": unit, "n": len(frame)}
    if (scheme := only_scheme(labelled)) is not None:
        result["label_scheme"] = scheme
    if frame.empty:
        return Dict(result | {"reason": f"no predicted structure has a label {target}"})
    return Dict(result | _figures(frame))


def _figures(frame: "pd.DataFrame") -> dict[str, Any]:
    error = frame["value"] - frame["label"]
    figures: dict[str, Any] = {
        "mae": float(error.abs().mean()),
        "rmse": float((error**2).mean() ** 0.5),
        "offset": float(error.mean()),
    }
    if len(frame) > 1:
        figures["mae_without_offset"] = float((error - error.mean()).abs().mean())
    if frame["lower"].notna().all():
        figures["coverage"] = float(frame["label"].between(frame["lower"], frame["upper"]).mean())
    if len(frame) >= _MIN_LABELS and frame["label"].nunique() > 1 and frame["value"].nunique() > 1:
        figures["spearman"] = float(frame["value"].corr(frame["label"], method="spearman"))
    columns = {"id": "id", "value": "predicted", "std": "std", "label": "label"}
    table = frame[list(columns)].rename(columns=columns).assign(error=error)
    figures["rows"] = [{k: v for k, v in row.items() if v == v} for row in table.to_dict("records")]
    return figures

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

#: fewer pairs than this say nothing of an order
_FEW = 3


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
    found: dict[str, Any] = {"property": target, "unit": unit, "n": len(frame)}
    if (scheme := only_scheme(labelled)) is not None:
        found["label_scheme"] = scheme
    if frame.empty:
        return Dict(found | {"reason": f"no predicted structure has a label {target}"})
    return Dict(found | _figures(frame))


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
    if len(frame) >= _FEW and frame["label"].nunique() > 1 and frame["value"].nunique() > 1:
        figures["spearman"] = float(frame["value"].corr(frame["label"], method="spearman"))
    columns = {"id": "id", "value": "predicted", "std": "std", "label": "label"}
    table = frame[list(columns)].rename(columns=columns).assign(error=error)
    figures["rows"] = [{k: v for k, v in row.items() if v == v} for row in table.to_dict("records")]
    return figures

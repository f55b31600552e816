"""Choice of the structures of a predicted set to compute next, each with the reason."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from aiida.engine import calcfunction
from aiida.orm import Dict, Int, List

from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.optimization.acquisition import ACQUISITIONS, Direction, acquire

if TYPE_CHECKING:
    import pandas as pd

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

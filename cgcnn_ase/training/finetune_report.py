"""What fine-tuning has changed: the model before and after it, on the new test set and on the old."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.models.checkpoint import load_models
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.prediction.evaluation import RegressionEvaluation, evaluate_model
from cgcnn_ase.training.finetune import can_reuse_head
from cgcnn_ase.training.replay import OLD_TEST

if TYPE_CHECKING:
    from cgcnn_ase.prediction.evaluation import ClassEvaluation

FILE = "before_after.json"
#: sets that are measured, by split
_SETS = {"test": "new", OLD_TEST: "old"}


def write_before_after(data: PreparedData, start: CrystalModel, best: Path, output: Path) -> list[dict[str, Any]]:
    """Measure, write ``before_after.json`` and, of each set, ``before_after_SET.png``.

    Parameters
    ----------
    data
        What the model was tuned on; its split ``test`` is the new test set, ``old test`` that of replayed data.
    start
        The model before.
    best
        Folder of the tuned model.
    output
        Where to write.

    Returns
    -------
    list of dict
        A row for each target and set: ``target``, ``set`` (new or old), ``n``, ``unit``, and of each model, in what it
        learned, ``mae``, ``bias`` (mean of prediction less label), ``coverage`` of the 90 % interval where it has one.
        Where the model did not know the target, ``before`` is what the mean of the training labels gives. A
        classification has ``accuracy`` in their place, and the most frequent class.
    """
    rows = []
    for t, tuned in enumerate(load_models(best)):
        target = data.specs[t]
        models = [start, tuned] if can_reuse_head(start, (target,)) else [tuned]
        for split, name in _SETS.items():
            labels = data.labels(split)[:, t]
            if not np.isfinite(labels).any():
                continue
            ids = data.sample_names(split)
            result = [evaluate_model(model, data.graphs, data.rows(split), ids, labels) for model in models]
            before = (
                _figures(result[0]) if len(result) > 1 else _constant(result[-1], data.labels("train")[:, t], target)
            )
            rows.append(
                {"target": target.name, "set": name, "n": len(result[-1].ids), "unit": target.learned_unit}
                | {"knew": len(result) > 1, "before": before, "after": _figures(result[-1])}
            )
            if isinstance(result[-1], RegressionEvaluation):
                _draw(result, target, output / (f"before_after_{name}.png"))
    (output / FILE).write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def describe(row: dict[str, Any]) -> str:
    """A row on a line."""
    before, after = row["before"], row["after"]
    what = "before" if row["knew"] else "labels' mean" if "mae" in after else "most frequent class"
    if "accuracy" in after:
        figures = f"accuracy {after['accuracy']:.1%} ({what}: {before['accuracy']:.1%})"
    else:
        change = f"{after['mae'] / before['mae'] - 1:+.0%}" if before["mae"] else "was exact"
        figures = f"MAE {after['mae']:.4f} {row['unit']} ({what}: {before['mae']:.4f}, {change})"
    covered = "" if after["coverage"] is None else f", 90 % interval covers {after['coverage']:.1%}"
    return f"{row['target']}, {row['set']} test set of {row['n']}: {figures}{covered}"


def _figures(evaluation: "RegressionEvaluation | ClassEvaluation") -> dict[str, float | None]:
    metrics = evaluation.metrics()
    coverage = metrics.get("coverage")
    if not isinstance(evaluation, RegressionEvaluation):
        return {"accuracy": metrics["accuracy"], "coverage": coverage}
    bias = float(np.mean(evaluation.estimate.mean - evaluation.target))
    return {"mae": metrics["mae"], "bias": bias, "coverage": coverage}


def _constant(
    after: "RegressionEvaluation | ClassEvaluation", labels: Floats, target: TargetSpec
) -> dict[str, float | None]:
    """What a guess gives that knows the training labels alone."""
    known = labels[np.isfinite(labels)]
    if not isinstance(after, RegressionEvaluation):
        most = np.bincount(known.astype(int)).argmax()
        return {"accuracy": float(np.mean(after.labels == most)), "coverage": None}
    off = float(target.forward(torch.from_numpy(known)).mean()) - after.target
    return {"mae": float(np.abs(off).mean()), "bias": float(off.mean()), "coverage": None}


def _draw(result: "Sequence[RegressionEvaluation | ClassEvaluation]", target: TargetSpec, file: Path) -> None:
    """Parity before, where the model knew the target, and after; nothing without matplotlib."""
    if find_spec("matplotlib") is None:
        return
    from cgcnn_ase.plotting import model_plots as plots

    shown = [each for each in result if isinstance(each, RegressionEvaluation)]
    titles = ["before", "after"][-len(shown) :]
    pairs = [(title, each.target, each.estimate.mean, each.std) for title, each in zip(titles, shown, strict=True)]
    plots.save(plots.parities(pairs, name=target.name.replace("_", " "), unit=target.learned_unit), file)

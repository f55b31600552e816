"""What fine-tuning has changed: the model before and after it, on the new test set and on the old."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np
import torch

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.prediction.evaluation import ClassEvaluation, RegressionEvaluation, evaluate_model
from cgcnn_ase.training.replay import OLD_TEST
from cgcnn_ase.training.start_model import can_reuse_head

AnyEvaluation: TypeAlias = RegressionEvaluation | ClassEvaluation


class Figures(TypedDict, total=False):
    """Errors of one model on one set, in what it learned."""

    mae: float
    bias: float
    accuracy: float
    coverage: float | None


class Row(TypedDict):
    """Errors before and after, of one target on one set."""

    target: str
    set: str
    n: int
    unit: str
    knew: bool  # whether the model knew the target before
    before: Figures
    after: Figures


FILE = "before_after.json"
# sets that are measured, by split
_SETS = {"test": "new", OLD_TEST: "old"}


def write_before_after(
    data: PreparedData,
    start: CrystalModel,
    tuned: Sequence[CrystalModel],
    output: Path,
    evaluations: Sequence[Mapping[str, AnyEvaluation]] | None = None,
) -> list[Row]:
    """Measure, write ``before_after.json`` and, of each set, ``before_after_SET.png``.

    Parameters
    ----------
    data
        What the model was tuned on; its split ``test`` is the new test set, ``old test`` that of replayed data.
    start
        The model before.
    tuned
        The models after, one for each target.
    output
        Where to write.
    evaluations
        Of each tuned model by split, as far as they are known already.

    Returns
    -------
    list of dict
        A row for each target and set: ``target``, ``set`` (new or old), ``n``, ``unit``, and of each model, in what it
        learned, ``mae``, ``bias`` (mean of prediction less label), ``coverage`` of the 90 % interval where it has one.
        Where the model did not know the target, ``before`` is what the mean of the training labels gives. A
        classification has ``accuracy`` in their place, and the most frequent class.
    """
    rows: list[Row] = []
    for t, (model, target) in enumerate(zip(tuned, data.specs, strict=True)):
        for split, name in _SETS.items():
            labels = data.labels(split)[:, t]
            if not np.isfinite(labels).any():
                continue
            sample = (data.graphs, data.rows(split), data.sample_names(split), labels)
            after = None if evaluations is None else evaluations[t].get(split)
            after = evaluate_model(model, *sample) if after is None else after
            shown = [evaluate_model(start, *sample), after] if can_reuse_head(start, (target,)) else [after]
            before = _figures(shown[0]) if len(shown) > 1 else _constant(after, data.labels("train")[:, t], target)
            row = Row(
                target=target.name, set=name, n=len(after.ids), unit=target.learned_unit, knew=len(shown) > 1,
                before=before, after=_figures(after),
            )  # fmt: skip
            rows.append(row)
            if isinstance(after, RegressionEvaluation):
                _draw(shown, target, output / (f"before_after_{name}.png"))
    atomic_write(output / FILE, json.dumps(rows, indent=1) + "\n")
    return rows


def describe(row: Row) -> str:
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


def _figures(evaluation: AnyEvaluation) -> Figures:
    metrics = evaluation.metrics()
    coverage = metrics.get("coverage")
    if not isinstance(evaluation, RegressionEvaluation):
        return {"accuracy": metrics["accuracy"], "coverage": coverage}
    bias = float(np.mean(evaluation.estimate.mean - evaluation.target))
    return {"mae": metrics["mae"], "bias": bias, "coverage": coverage}


def _constant(after: AnyEvaluation, labels: Floats, target: TargetSpec) -> Figures:
    """What a guess gives that knows the training labels alone."""
    known = labels[np.isfinite(labels)]
    if not isinstance(after, RegressionEvaluation):
        most = np.bincount(known.astype(int)).argmax()
        return {"accuracy": float(np.mean(after.labels == most)), "coverage": None}
    off = float(target.forward(torch.from_numpy(known)).mean()) - after.target
    return {"mae": float(np.abs(off).mean()), "bias": float(off.mean()), "coverage": None}


def _draw(result: Sequence[AnyEvaluation], target: TargetSpec, file: Path) -> None:
    """Parity before, where the model knew the target, and after; nothing without matplotlib."""
    if find_spec("matplotlib") is None:
        return
    from cgcnn_ase.plotting import model_plots as plots

    shown = [each for each in result if isinstance(each, RegressionEvaluation)]
    titles = ["before", "after"][-len(shown) :]
    pairs = [(title, each.target, each.estimate.mean, each.std) for title, each in zip(titles, shown, strict=True)]
    plots.save(plots.parities(pairs, name=target.name.replace("_", " "), unit=target.learned_unit), file)

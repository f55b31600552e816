"""Errors that fine-tuning has changed: the model before and after it, on the new test set and on the old."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch

from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.splits import OLD_ID
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.prediction.evaluation import ModelEvaluation, RegressionEvaluation, evaluate_model
from cgcnn_ase.training.finetune_defaults import OLD_TEST
from cgcnn_ase.training.start_model import can_reuse_head


class Row(TypedDict):
    """Errors before and after, of one target on one set."""

    target: str
    set: str
    n: int
    unit: str
    knew: bool  # whether the model knew the target before
    before: dict[str, float | None]  # see `ModelEvaluation.report`
    after: dict[str, float | None]
    # mean of label less prediction of the model before, on the training crystals of the set; None where it did not know
    # the target, is a classification or has learned the set itself
    offset: float | None
    # ``before`` with the offset added to each prediction: what is left to be learned beside a constant
    before_without_offset: dict[str, float | None] | None


class FitResult(NamedTuple):
    """Outcome of a training."""

    model: Path  # folder of the model; of a cross-validation that of the runs
    targets: tuple[TargetSpec, ...]
    metrics: dict[str, object]  # by split, or by target and split; of a cross-validation by figure
    before_after: list[Row]  # of a fine-tuning, see `write_before_after`


FILE = "before_after.json"
# training crystals that an offset is taken from, at most
_MAX_FOR_OFFSET = 2000
# sets that are measured, by split
_SETS = {"test": "new", OLD_TEST: "old"}


def write_before_after(
    data: PreparedData,
    start: CrystalModel,
    tuned: Sequence[CrystalModel],
    output: Path,
    evaluations: Sequence[Mapping[str, ModelEvaluation]] | None = None,
) -> list[Row]:
    """Measure, write ``before_after.json`` and, of each set, ``before_after_SET.png``.

    The split ``test`` of ``data`` is the new test set, ``old test`` that of replayed data; ``evaluations`` are those of
    each tuned model by split, as far as they are known already. Errors are in what a model learned: ``mae``, ``bias``
    (mean of prediction less label), ``coverage`` of the 90 % interval where it has one. Where the model did not know
    the target, ``before`` is what the mean of the training labels gives. A classification has ``accuracy`` in their
    place, and the most frequent class. New labels on another scale differ from the model by a constant most of all:
    ``before_without_offset`` is the model with that constant, the mean difference on the new training crystals, added.
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
            before = shown[0] if len(shown) > 1 else None
            offset, shifted = None, None
            if name == "new" and isinstance(before, RegressionEvaluation):
                offset = _offset(start, data, t)
                shifted = _shifted(before, offset).report()
            known = data.labels("train")[:, t]
            learned = target.forward(torch.from_numpy(known[np.isfinite(known)])).numpy()
            row = Row(
                target=target.name, set=name, n=len(after.ids), unit=target.learned_unit, knew=len(shown) > 1,
                before=after.baseline(learned) if before is None else before.report(), after=after.report(),
                offset=offset, before_without_offset=shifted,
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
        old, new = before["mae"] or 0.0, after["mae"] or 0.0
        figures = f"MAE {new:.4f} {row['unit']} ({what}: {old:.4f}, {_change(old, new)}"
        shifted = row["before_without_offset"]
        if shifted is not None:
            rest = shifted["mae"] or 0.0
            constant = f"{row['offset']:+.4f}"
            figures += f"; before with the constant {constant} added: {rest:.4f}, {_change(rest, new)}"
        figures += ")"
    covered = "" if after["coverage"] is None else f", 90 % interval covers {after['coverage']:.1%}"
    return f"{row['target']}, {row['set']} test set of {row['n']}: {figures}{covered}"


def _change(old: float, new: float) -> str:
    return f"{new / old - 1:+.0%}" if old else "was exact"


def _offset(start: CrystalModel, data: PreparedData, t: int) -> float:
    """Mean of label less prediction on the training crystals, the replayed ones left out; of many an even choice."""
    rows = np.array([k for k in data.rows("train") if not data.ids[k].startswith(OLD_ID)])
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MAX_FOR_OFFSET)).astype(int))]
    labels = data.targets[data.target_rows(torch.from_numpy(rows)).numpy(), t]
    known = evaluate_model(start, data.graphs, rows, [""] * len(labels), labels)
    assert isinstance(known, RegressionEvaluation)
    return float(np.mean(known.target - known.mean))


def _shifted(evaluation: RegressionEvaluation, offset: float) -> RegressionEvaluation:
    """An evaluation with a constant added to all predictions and their intervals."""
    lower = None if evaluation.lower is None else evaluation.lower + offset
    upper = None if evaluation.upper is None else evaluation.upper + offset
    return replace(evaluation, mean=evaluation.mean + offset, lower=lower, upper=upper)


def _draw(result: Sequence[ModelEvaluation], target: TargetSpec, file: Path) -> None:
    """Parity before, where the model knew the target, and after; nothing without matplotlib."""
    if find_spec("matplotlib") is None:
        return
    from cgcnn_ase.plotting import model_plots as plots

    shown = [each for each in result if isinstance(each, RegressionEvaluation)]
    titles = ["before", "after"][-len(shown) :]
    pairs = [(title, each.target, each.mean, each.std) for title, each in zip(titles, shown, strict=True)]
    plots.save(plots.parities(pairs, name=target.name.replace("_", " "), unit=target.learned_unit), file)

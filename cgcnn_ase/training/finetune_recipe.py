"""The recipe of a fine-tuning, the old data that it replays, and the errors that it changed.

The recipe goes by how many labels there are and whether the model has learned the property before. Old data learned
beside new keeps a model from forgetting what it knew (rehearsal; Robins, 1995). The report holds the errors of the
model before and after it, on the new test set and on the old.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch

from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.core.yaml_settings import Plain
from cgcnn_ase.data.prepared import PreparedData, join
from cgcnn_ase.data.splits import OLD_ID, composition_groups
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.nn.pooling import PoolingName
from cgcnn_ase.prediction.evaluation import ModelEvaluation, RegressionEvaluation, evaluate_model
from cgcnn_ase.training.start_model import Frozen, can_reuse_head

# fewer labels than this cannot choose an epoch, nor move convolutions to a better place
MIN_TO_CHOOSE_EPOCH = 50
# up to this many labels the number of steps is fixed, not that of epochs
MAX_FIXED_STEPS = 300
# from this many labels on all layers learn alike
MIN_FOR_ALL_LAYERS = 3000
# replayed crystals where the new labels are fewer
MIN_REPLAYED = 500
# the split of old crystals that tell what was forgotten, and of those that are not used
OLD_TEST, UNUSED = "old test", "unused"


@dataclass(frozen=True)
class FinetuneRecipe:
    """Settings of a fine-tuning: fields of :class:`~cgcnn_ase.training.config.TrainConfig`, and what stays fixed."""

    frozen: Frozen
    settings: Plain


def recipe_for(
    n_labels: int,
    *,
    same_target: bool,
    pooling: PoolingName = "mean",
    n_replayed: int = 0,
    epochs_factor: float = 1.0,
) -> FinetuneRecipe:
    """FinetuneRecipe for so many training labels; docs/how_to/finetune.md says what it gives.

    For another property than the model's own, a network with up to 3,000 labels reads the vectors of all its layers
    (``pooling: layers``) where its pooling is the mean: the last have given up for the old property what the new one
    needs. Batch norms keep the statistics of the old data unless there are many new ones. ``n_labels`` is without the
    ``n_replayed`` old ones, which make fewer epochs of a number of steps.

    >>> recipe_for(40, same_target=True).frozen
    'convolutions'
    >>> recipe_for(10_000, same_target=True).settings["learning_rate"]
    0.0005
    """
    if n_labels < 1:
        raise ValueError(f"fine-tuning needs labels, there are {n_labels}")
    if not epochs_factor > 0:
        raise ValueError(f"epochs_factor must be positive, not {epochs_factor}")
    frozen: Frozen = "none"
    if n_labels >= MIN_FOR_ALL_LAYERS:
        epochs = 20 if same_target else 30
        settings: Plain = {"learning_rate": 5e-4 if same_target else 1e-3, "batch_size": 64}
    elif n_labels >= MAX_FIXED_STEPS:
        epochs = 20
        settings = {"learning_rate": 1e-3 if same_target else 2e-3, "batch_size": 16, "backbone_lr_scale": 0.1}
    else:
        rate, n_steps, batch = 1e-3 if same_target else 3e-3, 300 if same_target else 400, 8
        epochs = max(5, ceil(n_steps / max(1, (n_labels + n_replayed) // batch)))
        settings = {"learning_rate": rate, "batch_size": batch}
        if same_target or n_labels < MIN_TO_CHOOSE_EPOCH:
            frozen = "convolutions"
        else:
            settings["backbone_lr_scale"] = 0.1
        if n_labels < MIN_TO_CHOOSE_EPOCH:
            settings["checkpoint"] = "last"
    settings["epochs"] = max(1, round(epochs * epochs_factor))
    if n_labels < MIN_FOR_ALL_LAYERS:
        settings["freeze_batchnorm_stats"] = True
        if not same_target and pooling == "mean":
            settings["network"] = {"pooling": "layers"}
    return FinetuneRecipe(frozen, settings)


def recipe_of(
    model: "CrystalModel", data: PreparedData, *, n_replayed: int = 0, epochs_factor: float = 1.0
) -> FinetuneRecipe:
    """FinetuneRecipe for a model to tune and its new data, beside so many replayed crystals."""
    return recipe_for(
        int(np.isfinite(data.labels("train")).any(axis=1).sum()),
        same_target=can_reuse_head(model, data.specs),
        pooling=model.networks[0].config.architecture.pooling,
        n_replayed=n_replayed,
        epochs_factor=epochs_factor,
    )


def with_replay(new: PreparedData, old: PreparedData, *, n: int | None = None, seed: int = 0) -> PreparedData:
    """The new data, with some of the old in its train and val splits and the old test split beside its own.

    Old crystals are drawn at random: `n` of their train split (by default as many as there are new ones, at least 500),
    and of their val split as many as the new data has for val, so that the chosen epoch and the calibration serve both.
    None of a composition that the new data holds out for val or test is learned, and a crystal in both sets counts as
    new. Further splits are ``old test`` and ``unused``; the ids of the old data begin with ``old:``.
    """
    if n is not None and n < 1:
        raise ValueError(f"replayed crystals: must be at least 1, not {n}")
    known = set(new.ids)
    taken = np.array([name in known for name in old.ids])
    both = join([new, replace(old, ids=[f"{OLD_ID}{name}" for name in old.ids])])
    is_old = np.arange(len(both.ids)) >= len(new.ids)
    only_old = is_old.copy()
    only_old[is_old] = ~taken
    rng = np.random.default_rng(seed)
    split = np.where(is_old, UNUSED, both.split).astype(object)
    split[only_old & (both.split == "test")] = OLD_TEST
    group = composition_groups(both.graphs, np.arange(len(both.ids)))
    held_out = np.isin(group, group[~is_old & np.isin(both.split, ["val", "test"])])
    free = only_old & ~held_out
    n_train = max(MIN_REPLAYED, len(new.rows("train"))) if n is None else n
    for name, n_rows in (("train", n_train), ("val", len(new.rows("val")))):
        pool = np.flatnonzero(free & (both.split == name))
        if not len(pool):
            raise ValueError(
                f"nothing of the old data's {name} split can be replayed: it is all in the new data or held out there"
            )
        split[rng.permutation(pool)[:n_rows]] = name
    return replace(both, split=split.astype(str))


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

"""From trained members to the model that is used: assemble, calibrate on val, evaluate on test, write and draw."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.targets import Scaler, output_slices
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.splits import compositions_of, site_numbers_of
from cgcnn_ase.models.checkpoint import save_models
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.plotting.write_evaluation import draw
from cgcnn_ase.prediction.evaluation import embeddings_of, evaluate_model, outputs_of
from cgcnn_ase.training.callbacks import HISTORY, read_history
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.member import best_network, out_of_fold_errors, train_scalers
from cgcnn_ase.training.weight_interpolation import blend
from cgcnn_ase.uncertainty.calibration_reuse import reuse_calibration
from cgcnn_ase.uncertainty.classification_calibration import ClassificationCalibration
from cgcnn_ase.uncertainty.error_model import difficulty_of
from cgcnn_ase.uncertainty.estimators import combine
from cgcnn_ase.uncertainty.regression_calibration import Calibration

#: samples of Monte Carlo dropout with which it is calibrated
N_DROPOUT = 50


def finish_run(
    data: PreparedData,
    config: TrainConfig,
    output: Path,
    members: list[Path],
    folds: list[Path],
    *,
    scalers: Sequence[Scaler] | None = None,
    start: CrystalModel | None = None,
    name: str = "",
    suffix: str = "",
) -> Path:
    """Write ``best/``, ``metrics.json``, ``test_results.csv`` and the pictures; return ``output / "best"``.

    ``members`` and ``folds`` are the folders of the trained networks. ``start`` is the model whose target they have
    learned on: the weights are blended with its own (:func:`~cgcnn_ase.training.weight_interpolation.blend`), and where
    too few held-out labels are there to calibrate, its calibration is kept (:func:`reuse_calibration`).

    Without a test split the results and the pictures are of val, and the file is ``val_results.csv``. With several
    targets the metrics are by target, and results and pictures lie in a folder for each.
    """
    own_name = name or output.resolve().name
    trained = [best_network(data, config, folder) for folder in members]
    networks, blended = (nn.ModuleList(trained), None) if start is None else blend(trained, start, data)
    model_scalers = scalers or train_scalers(data)
    models = [
        CrystalModel(
            networks,
            graph=data.graph_config,
            target=target,
            scaler=scaler,
            name=own_name if len(data.specs) == 1 else target.name.replace("_", "-") + suffix,
            first_output=columns.start,
        )
        for target, scaler, columns in zip(data.specs, model_scalers, output_slices(data.specs), strict=True)
    ]
    known = {
        split: embeddings_of(models[0], data.graphs, data.rows(split))
        for split in ("val", "test")
        if split in data.split
    }
    train = embeddings_of(first_member(models[0]), data.graphs, data.rows("train"))[0]
    left_out = out_of_fold_errors(data, config, folds, scalers) if folds else None
    metrics: dict[str, Any] = {}
    for t, model in enumerate(models):
        path = output if len(models) == 1 else output / model.target.name
        path.mkdir(exist_ok=True)
        errors = None if left_out is None or model.target.task == "classification" else left_out[:, t]
        model.trust, factor = _calibrated(model, data, t, known["val"], train, errors, start)
        if model.dropout and model.trust is not None:
            model.dropout_trust, _ = _calibrated(
                model, data, t, known["val"], train, errors, start, n_dropout=N_DROPOUT
            )
        own_metrics = _measure(model, data, t, known, path)
        if factor is not None and start is not None:
            own_metrics["calibration"] = {"kept_from": start.name, "sha256": start.sha256, "std_factor": factor}
        if blended is not None:
            own_metrics["blend"] = {"part": blended.part, "val_mae": {str(a): e for a, e in blended.val_errors.items()}}
        metrics |= own_metrics if len(models) == 1 else {model.target.name: own_metrics}
        model.training_record = {
            "train_hash": data.train_hash,
            **{f"n_{split}": int(np.isfinite(data.labels(split)[:, t]).sum()) for split in ("train", "val", "test")},
            "recipe": asdict(config),
            **own_metrics,
        }
    save_models(models, output / "best", name=own_name)
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    unit = data.specs[0].learned_unit if len(models) == 1 and data.specs[0].task == "regression" else ""
    draw_history(members[0] / HISTORY, unit, output / "learning_curve.png")
    return output / "best"


def _measure(
    model: CrystalModel, data: PreparedData, t: int, known: dict[str, list[torch.Tensor]], path: Path
) -> dict[str, Any]:
    """Metrics of val and test; results and pictures of the last of them go into a folder."""
    metrics: dict[str, Any] = {}
    for split, embeddings in known.items():
        rows, targets = data.rows(split), data.labels(split)[:, t]
        if not np.isfinite(targets).any():
            continue
        names = data.sample_names(split)
        last = evaluate_model(model, data.graphs, rows, names, targets, embeddings=embeddings)
        metrics[split] = last.summary()
    split = list(metrics)[-1]
    last.to_frame().to_csv(path / f"{split}_results.csv", index=False)
    draw(last, model.target, path)
    return metrics


def first_member(model: CrystalModel) -> CrystalModel:
    """The first network alone, whose embeddings the domain and the error model read."""
    return CrystalModel(
        model.networks[:1],
        graph=model.graph,
        target=model.target,
        scaler=model.scaler,
        first_output=model.outputs.start,
    )


def _calibrated(
    model: CrystalModel,
    data: PreparedData,
    t: int,
    val: list[torch.Tensor],
    train: torch.Tensor,
    left_out: Floats | None,
    start: CrystalModel | None = None,
    *,
    n_dropout: int | None = None,
) -> tuple[Calibration | ClassificationCalibration | None, float | None]:
    """A new calibration, else that of the model to tune and the factor of its std, else none; the latter in words."""
    try:
        return calibrate(model, data, t, val, train, left_out, n_dropout=n_dropout), None
    except ValueError as error:
        reason = str(error)
    old = None if start is None else start.trust if n_dropout is None else start.dropout_trust
    if start is not None and isinstance(old, Calibration) and not data.of_sites:
        try:
            kept, factor = _kept(model, old, data, t, val, n_dropout=n_dropout)
        except ValueError as error:
            reason += f"; {error}"
        else:
            warnings.warn(
                f"the calibration is that of {start.name}, with its std times {factor:.2f}: {reason}", stacklevel=3
            )
            return kept, factor
    warnings.warn(
        f"the model is not calibrated: {reason}. Its predictions have no calibrated std, no interval and no word on "
        "whether a structure is in its domain",
        stacklevel=3,
    )
    return None, None


def _kept(
    model: CrystalModel, old: Calibration, data: PreparedData, t: int, val: list[torch.Tensor], *, n_dropout: int | None
) -> tuple[Calibration, float]:
    """The calibration of the model to tune, held against the held-out errors."""
    labels = data.labels("val")[:, t]
    has, train_mask = np.isfinite(labels), np.isfinite(data.labels("train")[:, t])
    out = outputs_of(model, [embedding[torch.from_numpy(has)] for embedding in val], n_dropout=n_dropout)
    return reuse_calibration(
        old,
        combine(out.values.numpy(), None if out.stds is None else out.stds.numpy()),
        data.specs[t].forward(torch.from_numpy(labels[has])).numpy(),
        embedding=out.embedding.numpy(),
        composition=compositions_of(data.graphs, data.rows("val"))[has],
        training_composition=compositions_of(data.graphs, data.rows("train"))[train_mask],
    )


def calibrate(
    model: CrystalModel,
    data: PreparedData,
    t: int,
    val: list[torch.Tensor],
    train: torch.Tensor,
    left_out: Floats | None = None,
    *,
    n_dropout: int | None = None,
) -> Calibration | ClassificationCalibration:
    """Fit calibration and domain of target t: embeddings of the training split, errors of the val split.

    ``val`` are the embeddings of the val split by each member, ``train`` those of the training split by the first.
    ``left_out`` are errors of the training structures by networks that had not seen them; they teach the difficulty.
    With ``n_dropout`` it is Monte Carlo dropout with so many samples that is calibrated.
    """
    labels = data.labels("val")[:, t]
    has, train_mask = np.isfinite(labels), np.isfinite(data.labels("train")[:, t])
    out = outputs_of(model, [embedding[torch.from_numpy(has)] for embedding in val], n_dropout=n_dropout)
    training_embedding = train.numpy()[train_mask]
    training_composition = compositions_of(data.graphs, data.rows("train"), of_sites=data.of_sites)[train_mask]
    of_val = compositions_of(data.graphs, data.rows("val"), of_sites=data.of_sites)[has]
    on_sites = site_numbers_of(data.graphs, data.rows("train"))[train_mask] if data.of_sites else np.empty(0, np.int64)
    site_elements = set(on_sites.tolist())
    if out.logits is not None:
        return ClassificationCalibration.fit(
            out.logits.numpy(),
            labels[has],
            embedding=out.embedding.numpy(),
            training_embedding=training_embedding,
            training_composition=training_composition,
            site_elements=site_elements,
        )
    difficulty = None
    if left_out is not None:
        difficulty = difficulty_of(training_composition, training_embedding, left_out[train_mask])
    return Calibration.fit(
        combine(out.values.numpy(), None if out.stds is None else out.stds.numpy()),
        data.specs[t].forward(torch.from_numpy(labels[has])).numpy(),
        embedding=out.embedding.numpy(),
        composition=of_val,
        training_embedding=training_embedding,
        training_composition=training_composition,
        difficulty=difficulty,
        site_elements=site_elements,
        groups=data.owners("val")[has] if data.of_sites else None,
    )


def draw_history(history: Path, unit: str, file: Path) -> None:
    """The learning curve of one member, where matplotlib is installed."""
    if find_spec("matplotlib") is None:
        return
    from cgcnn_ase.plotting import model_plots as plots

    rows = read_history(history)
    figure = plots.learning_curve(
        [int(row["epoch"]) for row in rows],
        train_loss=[float(row["train_loss"]) for row in rows],
        val_mae=[float(row["val_error"]) for row in rows],
        unit=unit,
        best_epoch=int(np.argmin([float(row["val_error"]) for row in rows])),
    )
    plots.save(figure, file)

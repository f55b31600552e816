"""From trained members to the model that is used: assemble, calibrate on val, evaluate on test, write and draw."""

import json
import warnings
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cgcnn_ase.checkpoint import save_model
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.evaluation import compositions_of, draw, evaluate_model, outputs_of
from cgcnn_ase.nn.model import CrystalModel
from cgcnn_ase.targets import Scaler
from cgcnn_ase.training.callbacks import HISTORY, read_history
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.cross_fit import left_out_errors
from cgcnn_ase.training.member import best_network, train_scaler
from cgcnn_ase.uncertainty.error_model import difficulty_of
from cgcnn_ase.uncertainty.estimators import combine
from cgcnn_ase.uncertainty.trust import Trust

Floats = npt.NDArray[np.float64]

#: samples of Monte Carlo dropout with which it is calibrated
N_DROPOUT = 50


def finish_run(
    data: PreparedData,
    config: TrainConfig,
    output: Path,
    members: list[Path],
    folds: list[Path],
    *,
    scaler: Scaler | None = None,
    name: str = "",
) -> Path:
    """Write ``best/``, ``metrics.json``, ``test_results.csv`` and the pictures; return ``output / "best"``.

    ``members`` and ``folds`` are the folders of the trained networks.

    Without a test split the results and the pictures are of val, and the file is ``val_results.csv``.
    """
    model = CrystalModel(
        [best_network(data, config, folder) for folder in members],
        graph=data.graph_config,
        target=data.target,
        scaler=scaler or train_scaler(data),
        name=name or output.resolve().name,
    )
    left_out = left_out_errors(data, config, folds, scaler) if folds else None
    model.trust = _calibrated(model, data, left_out)
    if model.dropout and model.trust is not None:
        model.dropout_trust = _calibrated(model, data, left_out, n_dropout=N_DROPOUT)
    metrics: dict[str, Any] = {}
    for split in ("val", "test"):
        rows = data.rows(split)
        if len(rows):
            last = evaluate_model(model, data.graphs, rows, [data.ids[i] for i in rows], data.targets[rows])
            metrics[split] = last.summary()
    model.training_record = {
        "train_hash": data.train_hash,
        "n_train": len(data.rows("train")),
        "n_val": len(data.rows("val")),
        "n_test": len(data.rows("test")),
        "recipe": asdict(config),
        **metrics,
    }
    save_model(model, output / "best")
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    split_of_last = list(metrics)[-1]
    last.to_frame().to_csv(output / f"{split_of_last}_results.csv", index=False)
    draw(last, data.target, output)
    draw_history(members[0] / HISTORY, data.target.learned_unit, output / "learning_curve.png")
    return output / "best"


def _calibrated(
    model: CrystalModel, data: PreparedData, left_out: Floats | None, *, n_dropout: int | None = None
) -> Trust | None:
    try:
        return calibrate(model, data, left_out, n_dropout=n_dropout)
    except ValueError as error:
        warnings.warn(
            f"the model is not calibrated: {error}. Its predictions have no calibrated std, no interval and no word on "
            "whether a structure is in its domain",
            stacklevel=3,
        )
        return None


def calibrate(
    model: CrystalModel, data: PreparedData, left_out: Floats | None = None, *, n_dropout: int | None = None
) -> Trust:
    """Fit calibration and domain: embeddings of the training split, errors of the val split.

    ``left_out`` are errors of the training structures by networks that had not seen them; they teach the difficulty.
    With ``n_dropout`` it is Monte Carlo dropout with so many samples that is calibrated.
    """
    val, train = data.rows("val"), data.rows("train")
    out = outputs_of(model, data.graphs, val, n_dropout=n_dropout)
    first = CrystalModel(model.networks[:1], graph=model.graph, target=model.target, scaler=model.scaler)
    training_embedding = outputs_of(first, data.graphs, train).embedding.numpy()
    training_composition = compositions_of(data.graphs, train)
    return Trust.fit(
        combine(out.values.numpy(), None if out.stds is None else out.stds.numpy()),
        data.target.forward(torch.from_numpy(data.targets[val])).numpy(),
        embedding=out.embedding.numpy(),
        composition=compositions_of(data.graphs, val),
        training_embedding=training_embedding,
        training_composition=training_composition,
        difficulty=None if left_out is None else difficulty_of(training_composition, training_embedding, left_out),
    )


def draw_history(history: Path, unit: str, file: Path) -> None:
    """The learning curve of one member, where matplotlib is installed."""
    if find_spec("matplotlib") is None:
        return
    from cgcnn_ase import plots

    rows = read_history(history)
    figure = plots.learning_curve(
        [int(row["epoch"]) for row in rows],
        train_loss=[float(row["train_loss"]) for row in rows],
        val_mae=[float(row["val_mae"]) for row in rows],
        unit=unit,
        best_epoch=int(np.argmin([float(row["val_mae"]) for row in rows])),
    )
    plots.save(figure, file)

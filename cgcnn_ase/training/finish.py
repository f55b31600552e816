"""From trained members to the model that is used: assemble, calibrate on val, evaluate on test, write and draw."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgcnn_ase.checkpoint import save_model
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.evaluation import Evaluation, elements_of, evaluate_model, outputs_of
from cgcnn_ase.nn.model import CrystalModel
from cgcnn_ase.nn.network import Network
from cgcnn_ase.targets import Scaler
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.member import new_network, read_history, train_scaler
from cgcnn_ase.uncertainty.estimators import combine
from cgcnn_ase.uncertainty.trust import Trust


def finish_run(
    data: PreparedData,
    config: TrainConfig,
    output: Path,
    members: list[Path],
    *,
    scaler: Scaler | None = None,
    name: str = "",
) -> Path:
    """Write ``best/``, ``metrics.json``, ``test_results.csv`` and the pictures; return ``output / "best"``."""
    model = CrystalModel(
        [_best_network(data, config, folder) for folder in members],
        graph=data.graph_config,
        target=data.target,
        scaler=scaler or train_scaler(data),
        name=name or output.name,
    )
    if data.target.task == "regression":
        model.trust = calibrate(model, data)
    metrics: dict[str, Any] = {}
    evaluations = {}
    for split in ("val", "test"):
        rows = data.rows(split)
        if len(rows):
            evaluations[split] = evaluate_model(
                model, data.graphs, rows, [data.ids[i] for i in rows], data.targets[rows]
            )
            metrics[split] = evaluations[split].summary()
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
    last = evaluations.get("test", evaluations["val"])
    last.to_frame().to_csv(output / "test_results.csv", index=False)
    draw(last, data, members, output)
    return output / "best"


def calibrate(model: CrystalModel, data: PreparedData) -> Trust:
    """Fit calibration and domain: embeddings of the training split, errors of the val split."""
    val, train = data.rows("val"), data.rows("train")
    out = outputs_of(model, data.graphs, val)
    first = CrystalModel(model.networks[:1], graph=model.graph, target=model.target, scaler=model.scaler)
    return Trust.fit(
        combine(out.values.numpy(), None if out.stds is None else out.stds.numpy()),
        data.target.forward(torch.from_numpy(data.targets[val])).numpy(),
        embedding=out.embedding.numpy(),
        training_embedding=outputs_of(first, data.graphs, train).embedding.numpy(),
        elements=sorted({z for elements in elements_of(data.graphs, train) for z in elements}),
    )


def draw(evaluation: Evaluation, data: PreparedData, members: list[Path], output: Path) -> None:
    """``parity.png``, ``calibration.png`` and ``learning_curve.png``, where matplotlib is installed."""
    try:
        from cgcnn_ase import plots
    except ImportError:
        return
    target = data.target
    unit = f"log10({target.unit})" if target.transform == "log10" else target.unit
    name = target.name.replace("_", " ")
    mean, std = evaluation.estimate.mean, evaluation.std
    plots.save(plots.parity(evaluation.target, mean, std, name=name, unit=unit), output / "parity.png")
    plots.save(
        plots.summary(evaluation.target, mean, std, evaluation.lower, evaluation.upper, name=name, unit=unit),
        output / "calibration.png",
    )
    history = read_history(members[0] / "history.csv")
    plots.save(
        plots.learning_curve(
            [int(row["epoch"]) for row in history],
            train_loss=[float(row["train_loss"]) for row in history],
            val_mae=[float(row["val_mae"]) for row in history],
            unit=unit,
            best_epoch=int(np.argmin([float(row["val_mae"]) for row in history])),
        ),
        output / "learning_curve.png",
    )


def _best_network(data: PreparedData, config: TrainConfig, folder: Path) -> Network:
    """The network of a member's best checkpoint."""
    checkpoint = torch.load(folder / "best.ckpt", map_location="cpu", weights_only=False)
    network = new_network(data, config)
    prefix = "network."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    network.load_state_dict(state)
    return network

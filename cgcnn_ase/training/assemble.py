"""From trained members to the model that is used: assemble, calibrate on val, evaluate on test, write and draw.

A tuned model goes from the old weights to the tuned ones as far as the held-out labels ask for, and no farther.
"""

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.environment import package_version
from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.core.targets import Scaler, output_slices
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.splits import compositions_of, site_numbers_of
from cgcnn_ase.models.checkpoint import save_models
from cgcnn_ase.models.crystal_model import CrystalModel
from cgcnn_ase.models.folder import CARD
from cgcnn_ase.nn.network import Network
from cgcnn_ase.plotting.prediction_plots import draw
from cgcnn_ase.prediction.evaluation import ModelEvaluation, embeddings_of, evaluate_model, geometry_of, outputs_of
from cgcnn_ase.structures.record import NOT_CONVERGED, NOT_CONVERGED_STD
from cgcnn_ase.training.callbacks import HISTORY, read_history
from cgcnn_ase.training.config import TrainConfig
from cgcnn_ase.training.member import best_network, out_of_fold_errors, train_scalers
from cgcnn_ase.training.start_model import finetune_member
from cgcnn_ase.uncertainty import CALIBRATIONS, Calibration, CalibrationData
from cgcnn_ase.uncertainty.contacts import StructureGeometry
from cgcnn_ase.uncertainty.metrics import mae

# samples of Monte Carlo dropout with which it is calibrated
N_DROPOUT = 50


class Assembled(NamedTuple):
    """The models of a run, one for each target, and what they were measured on."""

    folder: Path  # ``best/``
    models: list[CrystalModel]
    evaluations: list[dict[str, ModelEvaluation]]  # of each model by split


def assemble(
    data: PreparedData,
    config: TrainConfig,
    output: Path,
    members: list[Path],
    folds: list[Path],
    *,
    scalers: Sequence[Scaler] | None = None,
    start: CrystalModel | None = None,
    beside: PreparedData | None = None,
    name: str = "",
    suffix: str = "",
) -> Assembled:
    """Write ``best/``, ``metrics.json``, ``test_results.csv`` and the pictures.

    ``members`` and ``folds`` are the folders of the trained networks. ``start`` is the model whose target they have
    learned on: the weights are blended with its own (:func:`~cgcnn_ase.training.assemble.blend`) unless
    other structures were learned ``beside`` the data, and where too few held-out labels are there to calibrate, its
    calibration is kept.

    Without a test split the results and the pictures are of val, and the file is ``val_results.csv``. With several
    targets the metrics are by target, and results and pictures lie in a folder for each.
    """
    run_name = name or output.resolve().name
    trained = [best_network(data, config, folder) for folder in members]
    networks, blended = (
        (nn.ModuleList(trained), None) if start is None or beside is not None else blend(trained, start, data)
    )
    models = [
        CrystalModel(
            networks,
            graph=data.graph_config,
            target=target,
            scaler=scaler,
            name=run_name if len(data.specs) == 1 else target.name.replace("_", "-") + suffix,
            first_output=columns.start,
        )
        for target, scaler, columns in zip(
            data.specs, scalers or train_scalers(data), output_slices(data.specs), strict=True
        )
    ]
    known = {
        split: embeddings_of(models[0], data.graphs, data.rows(split))
        for split in ("val", "test")
        if split in data.split and (blended is None or split != "val")
    }
    if blended is not None:
        known = {"val": blended.val_embeddings} | known
    # of the first network alone, whose embeddings the domain and the error model read
    first = CrystalModel.like(models[0], models[0].networks[:1])
    train = embeddings_of(first, data.graphs, data.rows("train"))[0]
    shapes = {split: geometry_of(data.graphs, data.rows(split), of_sites=data.of_sites) for split in ("train", *known)}
    left_out = out_of_fold_errors(data, config, folds, scalers) if folds else None
    metrics: dict[str, object] = {}
    evaluations = []
    for t, model in enumerate(models):
        factor = _set_calibration(model, *_held_out(data, t, known["val"], train, left_out, shapes), start)
        measured = _measure(model, data, t, known, shapes)
        _write_results(model, measured, output if len(models) == 1 else output / model.target.name)
        model_metrics: dict[str, object] = {split: each.summary() for split, each in measured.items()}
        if factor is not None and start is not None:
            model_metrics["calibration"] = {"kept_from": start.name, "sha256": start.sha256, "std_factor": factor}
        if blended is not None:
            errors_by_part = {str(part): error for part, error in blended.val_errors.items()}
            model_metrics["blend"] = {"part": blended.part, "val_mae": errors_by_part}
        metrics |= model_metrics if len(models) == 1 else {model.target.name: model_metrics}
        model.training_record = {
            "train_hash": data.train_hash,
            **({} if data.labels_converged else {"labels_converged": False}),
            **({"scale": data.scale} if data.scale is not None and model.target.is_energy else {}),
            **{f"n_{split}": int(np.isfinite(data.labels(split)[:, t]).sum()) for split in ("train", "val", "test")},
            **({} if beside is None else {"beside": {"n": len(beside.ids), "hash": beside.train_hash}}),
            "recipe": asdict(config),
            **model_metrics,
        }
        evaluations.append(measured)
    save_models(models, output / "best", name=run_name)
    atomic_write(output / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    unit = data.specs[0].learned_unit if len(models) == 1 and data.specs[0].task == "regression" else ""
    draw_history(members[0] / HISTORY, unit, output / "learning_curve.png")
    return Assembled(output / "best", models, evaluations)


def write_card(best: Assembled, data: PreparedData, starts: Sequence[CrystalModel]) -> None:
    """Write ``README.md`` of the models of a run: what they were made of, and what their users must know."""
    tuned = ", ".join(f"{start.name} (sha256 {start.sha256[:12]})" for start in starts)
    lines = [f"# {', '.join(model.name for model in best.models)}", ""]
    if not data.labels_converged:
        lines += [f"**Not converged:** {NOT_CONVERGED}. {NOT_CONVERGED_STD}.", ""]
    n_members = len(best.models[0].members)
    lines += [
        f"{'One network' if n_members == 1 else f'{n_members} networks together'}, "
        f"{f'tuned from {tuned}' if tuned else 'trained from scratch'} by cgcnn-ase {package_version()}. `config.json` "
        "holds the settings, the figures of validation and test, and the sha256 of the training set.",
        "",
        "| target | unit | scale | labels to learn from | to validate | to test |",
        "|---|---|---|---|---|---|",
    ]
    for model in best.models:
        counts = [str(model.training_record[f"n_{split}"]) for split in ("train", "val", "test")]
        lines.append(f"| {' | '.join([model.target.name, model.target.unit, model.scale or '–', *counts])} |")
    atomic_write(best.folder / CARD, "\n".join(lines) + "\n")


def _measure(
    model: CrystalModel,
    data: PreparedData,
    t: int,
    known: dict[str, list[torch.Tensor]],
    shapes: dict[str, StructureGeometry | None],
) -> dict[str, ModelEvaluation]:
    """Predictions of the splits that have labels beside these."""
    return {
        split: evaluate_model(
            model,
            data.graphs,
            data.rows(split),
            data.sample_names(split),
            targets,
            embeddings=embeddings,
            geometry=shapes[split],
        )
        for split, embeddings in known.items()
        if np.isfinite(targets := data.labels(split)[:, t]).any()
    }


def _write_results(model: CrystalModel, measured: dict[str, ModelEvaluation], folder: Path) -> None:
    """Write results and pictures of the last split, test where there is one."""
    split, last = list(measured.items())[-1]
    folder.mkdir(exist_ok=True)
    last.to_frame().to_csv(folder / f"{split}_results.csv", index=False)
    draw(last, model.target, folder)


def _held_out(
    data: PreparedData,
    t: int,
    val: list[torch.Tensor],
    train: torch.Tensor,
    left_out: Floats | None,
    shapes: dict[str, StructureGeometry | None],
) -> tuple[list[torch.Tensor], CalibrationData]:
    """Embeddings of val by each member, and what calibrates a target: crystals (or sites) that have a label.

    The training set is as the first member embeds it.
    """
    labels, of_sites = data.labels("val")[:, t], data.of_sites
    has, learned = np.isfinite(labels), np.isfinite(data.labels("train")[:, t])
    held, known = shapes["val"], shapes["train"]
    sites = site_numbers_of(data.graphs, data.rows("train"))[learned] if of_sites else np.empty(0, np.int64)
    return [embedding[torch.from_numpy(has)] for embedding in val], CalibrationData(
        labels=data.specs[t].forward(torch.from_numpy(labels[has])).numpy(),
        composition=compositions_of(data.graphs, data.rows("val"), of_sites=of_sites)[has],
        training_embedding=train.numpy()[learned],
        training_composition=compositions_of(data.graphs, data.rows("train"), of_sites=of_sites)[learned],
        training_errors=None if left_out is None else left_out[learned, t],
        site_elements=set(sites.tolist()),
        groups=data.owners("val")[has] if of_sites else None,
        geometry=None if held is None else held.select(has),
        training_geometry=None if known is None else known.select(learned),
    )


def _set_calibration(
    model: CrystalModel, val: list[torch.Tensor], held: CalibrationData, start: CrystalModel | None
) -> float | None:
    """Calibrate a model and its dropout; return the factor of the std where the calibration is that of ``start``."""
    model.calibration, factor = _calibrated(model, val, held, start)
    if model.dropout and model.calibration is not None:
        model.dropout_calibration, _ = _calibrated(model, val, held, start, n_dropout=N_DROPOUT)
    return factor


def _calibrated(
    model: CrystalModel,
    val: list[torch.Tensor],
    held: CalibrationData,
    start: CrystalModel | None,
    *,
    n_dropout: int | None = None,
) -> tuple[Calibration | None, float | None]:
    """Fit a calibration, else keep that of the model to tune, with the factor of its std, else none; say so."""
    out = outputs_of(model, val, n_dropout=n_dropout)
    try:
        return CALIBRATIONS[model.target.task].fit(out, held), None
    except ValueError as error:
        reason = str(error)
    old = None if start is None else start.calibration if n_dropout is None else start.dropout_calibration
    if start is not None and old is not None and held.groups is None:
        try:
            kept, factor = old.reuse(out, held)
        except ValueError as error:
            reason += f"; {error}"
        else:
            warnings.warn(
                f"the calibration is that of {start.name}, with its std times {factor:.2f}: {reason}", stacklevel=4
            )
            return kept, factor
    warnings.warn(
        f"the model is not calibrated: {reason}. Its predictions have no calibrated std, no interval and no word on "
        "whether a structure is in its domain",
        stacklevel=4,
    )
    return None, None


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


# parts of the way that are tried, the nearest first
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
# held-out labels below which they cannot tell, and all of the way is taken
MIN_VAL_LABELS = 10


class Blend(NamedTuple):
    """How far to go, and what was tried."""

    part: float  # of the way, 0: the old weights, 1: the tuned ones
    val_errors: dict[float, float]  # mean absolute error of the val split by part of the way, in what is learned
    val_embeddings: list[Tensor]  # of the val split by each member that was taken


def blend(networks: Sequence[Network], start: CrystalModel, data: PreparedData) -> tuple[nn.ModuleList, Blend | None]:
    """Members with the weights :math:`(1 - a) w_0 + a w` of the lowest val error (Wortsman et al., CVPR 2022, 7949).

    Between a model and one tuned from it lie models that have learned much of the new and forgotten less of the old;
    with a val split of both, one of them is chosen. Where tuning brought nothing, a is 0 and the model stays what it
    was. With fewer than 10 val labels a is 1, and there is no :class:`Blend`.
    """
    labels = data.labels("val")[:, 0]
    known = np.isfinite(labels)
    if known.sum() < MIN_VAL_LABELS or data.of_sites or data.specs[0].task != "regression":
        return nn.ModuleList(networks), None
    learned = data.specs[0].forward(torch.from_numpy(labels[known])).numpy()
    old = [finetune_member(start, k).state_dict() for k in range(len(networks))]
    ways = [[_between(network, before, part) for network, before in zip(networks, old, strict=True)] for part in STEPS]

    def model_of(members: Sequence[Network]) -> CrystalModel:
        return CrystalModel(members, graph=data.graph_config, target=data.specs[0], scaler=start.scaler)

    every = embeddings_of(model_of([network for way in ways for network in way]), data.graphs, data.rows("val"))
    embeddings = [every[k : k + len(networks)] for k in range(0, len(every), len(networks))]
    errors = {}
    for part, way, pooled in zip(STEPS, ways, embeddings, strict=True):
        values = outputs_of(model_of(way), [each[torch.from_numpy(known)] for each in pooled]).values.mean(dim=0)
        errors[part] = mae(learned, values.numpy())
    best = min(range(len(STEPS)), key=lambda k: errors[STEPS[k]])
    return nn.ModuleList(ways[best]), Blend(STEPS[best], errors, embeddings[best])


def _between(network: Network, before: dict[str, Tensor], part: float) -> Network:
    after = network.state_dict()
    mixed = copy.deepcopy(network)
    mixed.load_state_dict({k: torch.lerp(before[k], w, part) if w.is_floating_point() else w for k, w in after.items()})
    return mixed

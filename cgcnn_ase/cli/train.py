"""``cgcnn-ase train`` and ``cgcnn-ase finetune``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cgcnn_ase.cli.command import echo_note, errors_as_usage
from cgcnn_ase.cli.options import PRESET_NAMES, Overwrite, Targets, Task, Test, Unit, Val
from cgcnn_ase.core.progress import is_terminal

if TYPE_CHECKING:
    from cgcnn_ase.data.prepare import TaskName
    from cgcnn_ase.training.finetune_recipe import FitResult
    from cgcnn_ase.training.start_model import Frozen

Data = Annotated[
    Path,
    typer.Argument(
        help="Folder with id_prop.csv and structures, a packed data set, that of CGNN, what `prepare` wrote, or "
        "outputs of DFT programs, extxyz or ASE databases with energies."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")]
Config = Annotated[
    Path | None, typer.Option(help="YAML with settings of a run, or ALIGNN's config.json; options override it.")
]
Freeze = Annotated[
    str | None,
    typer.Option(help="Layers of --from that stay: none, embedding or convolutions; by default by the labels."),
]
Scale = Annotated[
    str | None,
    typer.Option(
        help="Of energies: uncorrected, mp-legacy, mp2020 or other:LABEL; by default what the data, or else the model "
        "of --from, states."
    ),
]
EpochsFactor = Annotated[float, typer.Option(help="Epochs of a fine-tuning, in units of those of its recipe.")]
Replay = Annotated[
    Path | None, typer.Option(help="Data that the model of --from has learned, some of it to be learned beside.")
]
NReplay = Annotated[
    int | None, typer.Option(help="Of --replay: so many.  [default: as many as new ones, at least 500]")
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training split.")]
BatchSize = Annotated[int | None, typer.Option(help="Crystals in a batch.")]
LearningRate = Annotated[float | None, typer.Option(help="Highest learning rate of the one-cycle schedule.")]
Name = Annotated[str, typer.Option(help="Name of the model.  [default: that of the run's folder]")]
Seed = Annotated[int | None, typer.Option(help="Decides weights and order; member k has seed + k.")]
Workers = Annotated[int, typer.Option(help="Members trained at the same time.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in OUTPUT.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines: the metrics as JSON.")]


def train(
    data: Data,
    output: Output,
    target: Targets = None,
    task: Task = "regression",
    unit: Unit = "",
    scale: Scale = None,
    cls_weight: Annotated[float | None, typer.Option(help="Weight of a classification's loss beside others.")] = None,
    config: Config = None,
    preset: Annotated[str | None, typer.Option(help=f"Network and graph by name: {PRESET_NAMES}.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Fine-tune a model: pretrained name, folder, or original .pth.tar.")
    ] = None,
    freeze: Freeze = None,
    epochs_factor: EpochsFactor = 1.0,
    replay: Replay = None,
    n_replay: NReplay = None,
    members: Annotated[int | None, typer.Option(help="Networks in the ensemble.")] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better val error.")] = None,
    name: Name = "",
    seed: Seed = None,
    val: Val = None,
    test: Test = None,
    k_fold: Annotated[int | None, typer.Option(help="Cross-validate with so many folds, a run each in OUTPUT.")] = None,
    workers: Workers = 1,
    accumulate: Annotated[int | None, typer.Option(help="Batches whose gradients add up to a step.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu or gpu.")] = None,
    devices: Annotated[int | None, typer.Option(help="GPUs, or processes on a CPU, of each node.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes; start one process a device with srun or torchrun.")] = None,
    precision: Annotated[str | None, typer.Option(help="32-true, 16-mixed or bf16-mixed.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write the record for TensorBoard.")] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on structures with a known property; splits keep equal formulas together."""
    options = {
        "n_members": members, "epochs": epochs, "batch_size": batch_size, "learning_rate": lr, "patience": patience,
        "seed": seed, "cls_weight": cls_weight, "accumulate": accumulate, "accelerator": accelerator,
        "devices": devices, "nodes": nodes, "precision": precision, "tensorboard": tensorboard or None,
    }  # fmt: skip
    with errors_as_usage():
        from cgcnn_ase.training.fit import fit

        result = fit(
            data, output, start=start, target=target or (), task=cast("TaskName", task), unit=unit, scale=scale,
            config=config, preset=preset, settings={key: value for key, value in options.items() if value is not None},
            freeze=cast("Frozen | None", freeze), epochs_factor=epochs_factor, replay=replay, n_replay=n_replay,
            val=val, test=test, k_fold=k_fold, name=name, workers=workers, resume=resume, overwrite=overwrite,
            progress=is_terminal(), tell=echo_note,
        )  # fmt: skip
    _echo(result, as_json=as_json, cross_validated=k_fold is not None)


def finetune(
    model: Annotated[str, typer.Argument(help="Pretrained name, model or run folder, or original .pth.tar.")],
    data: Data,
    output: Output,
    target: Targets = None,
    task: Task = "regression",
    unit: Unit = "",
    scale: Scale = None,
    config: Config = None,
    freeze: Freeze = None,
    epochs_factor: EpochsFactor = 1.0,
    replay: Replay = None,
    n_replay: NReplay = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    name: Name = "",
    seed: Seed = None,
    val: Val = None,
    test: Test = None,
    workers: Workers = 1,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Tune a model on structures with a known property, by a recipe that goes by their number; `train --from`."""
    train(
        data, output, target, task, unit, scale, config=config, start=model, freeze=freeze, epochs_factor=epochs_factor,
        replay=replay, n_replay=n_replay, epochs=epochs, batch_size=batch_size, lr=lr, name=name, seed=seed, val=val,
        test=test, workers=workers, resume=resume, overwrite=overwrite, as_json=as_json,
    )  # fmt: skip


def _echo(result: "FitResult", *, as_json: bool, cross_validated: bool) -> None:
    """Print the figures of a run, or of a cross-validation, and where the model is."""
    import json

    from cgcnn_ase.training.finetune_recipe import describe

    metrics, rows = result.metrics, result.before_after
    if as_json:
        run = {} if cross_validated else {"model": str(result.model)}
        typer.echo(json.dumps(run | metrics | ({"before_after": rows} if rows else {}), indent=1))
        return
    for spec in result.targets:
        of_target = metrics if len(result.targets) == 1 else metrics.get(spec.name, {})
        figures = cast("dict[str, dict[str, float | None]]", of_target)
        if cross_validated:
            prefix = "" if len(result.targets) == 1 else f"{spec.name}, "
            for figure, over in figures.items():
                typer.echo(f"{prefix}{figure}: {over['mean']:.4f} ± {over['std']:.4f} over the folds")
            continue
        for split in ("val", "test"):
            if split in figures:
                typer.echo(f"{spec.name}, {split}: {_describe(figures[split], spec.learned_unit)}")
    for row in rows:
        typer.echo(describe(row))
    if not cross_validated:
        typer.echo(f"model: {result.model}")


def _describe(values: Mapping[str, float | None], unit: str) -> str:
    """The figures that matter most."""
    if "accuracy" in values:
        area = "" if values["auc"] is None else f", AUC {values['auc']:.4f}"
        text = f"accuracy {values['accuracy']:.1%}{area}"
    else:
        text = f"MAE {values['mae']:.4f} {unit}".rstrip()
    return f"{text}, 90 % interval covers {values['coverage']:.1%}" if values.get("coverage") is not None else text

"""``cgcnn-ase train``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cgcnn_ase.cli.messages import echo_stderr, errors_as_usage, is_terminal
from cgcnn_ase.cli.options import PRESET_NAMES, Targets, Task, Test, Unit, Val


def train(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with id_prop.csv and structures, a packed data set, that of CGNN, or what `prepare` wrote."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the run.")],
    target: Targets = None,
    task: Task = "regression",
    unit: Unit = "",
    cls_weight: Annotated[float | None, typer.Option(help="Weight of a classification's loss beside others.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with settings of a run, or ALIGNN's config.json; options override it.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"Network and graph by name: {PRESET_NAMES}.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Fine-tune a model: pretrained name, folder, or original .pth.tar.")
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(help="Layers of --from that stay: none, embedding or convolutions; by default by the labels."),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Data that the model of --from has learned, some of it to be learned beside.")
    ] = None,
    n_replay: Annotated[
        int | None, typer.Option(help="Of --replay: so many.  [default: as many as new ones, at least 500]")
    ] = None,
    members: Annotated[int | None, typer.Option(help="Networks in the ensemble.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crystals in a batch.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate of the one-cycle schedule.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better val error.")] = None,
    name: Annotated[str, typer.Option(help="Name of the model.  [default: that of the run's folder]")] = "",
    seed: Annotated[int | None, typer.Option(help="Decides weights and order; member k has seed + k.")] = None,
    val: Val = None,
    test: Test = None,
    k_fold: Annotated[int | None, typer.Option(help="Cross-validate with so many folds, a run each in OUTPUT.")] = None,
    workers: Annotated[int, typer.Option(help="Members trained at the same time.")] = 1,
    accumulate: Annotated[int | None, typer.Option(help="Batches whose gradients add up to a step.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu or gpu.")] = None,
    devices: Annotated[int | None, typer.Option(help="GPUs, or processes on a CPU, of each node.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes; start one process a device with srun or torchrun.")] = None,
    precision: Annotated[str | None, typer.Option(help="32-true, 16-mixed or bf16-mixed.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write the record for TensorBoard.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUTPUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the metrics as JSON.")] = False,
) -> None:
    """Train a model on structures with a known property; splits keep equal formulas together."""
    import json

    with errors_as_usage():
        from cgcnn_ase.models.registry import load_model
        from cgcnn_ase.training.run import train as run_training
        from cgcnn_ase.training.run_config import (
            load_prepared,
            load_with_replay,
            only_classes,
            parts,
            read_settings,
            tuning_of,
        )

        if replay is None and n_replay is not None:
            raise ValueError("--n-replay says how many of --replay; give its data, too")
        if replay is not None and k_fold is not None:
            raise ValueError("--replay and --k-fold do not go together: old data would be tested on")
        tuned = None if start is None else load_model(start)
        flags = {
            "n_members": members, "epochs": epochs, "batch_size": batch_size, "learning_rate": lr,
            "patience": patience, "seed": seed, "cls_weight": cls_weight, "accumulate": accumulate,
            "accelerator": accelerator, "devices": devices, "nodes": nodes, "precision": precision,
            "tensorboard": tensorboard or None,
        }  # fmt: skip
        layers = read_settings(
            data, config, {k: v for k, v in flags.items() if v is not None}, tuned,
            preset=preset, only_classes=only_classes(data, target or [], task),
        )  # fmt: skip
        settings = layers.config()
        val, test = parts(config, val, test)
        prepared = load_prepared(data, target or [], task, unit, settings, tuned, val=val, test=test)
        new = prepared
        if replay is not None:
            prepared = load_with_replay(new, replay, target or [], settings, tuned, n=n_replay)
        if tuned is not None:
            defaults = tuning_of(tuned, new, n_replayed=len(prepared.rows("train")) - len(new.rows("train")))
            freeze = freeze or defaults.frozen
            settings = layers.config(defaults.settings)
        counts = {split: len(prepared.rows(split)) for split in ("train", "val", "test")}
        echo_stderr(f"{sum(counts.values())} structures: " + ", ".join(f"{n} {split}" for split, n in counts.items()))
        options: dict[str, Any] = {"resume": resume, "start": tuned, "frozen": freeze or "none", "workers": workers}
        options["progress"] = is_terminal()
        if k_fold is not None:
            from cgcnn_ase.training.cross_validation import cross_validate

            summary = cross_validate(prepared, settings, output, k_fold, **options)
            typer.echo(json.dumps(summary, indent=1) if as_json else _folds_in_words(summary))
            return
        best = run_training(prepared, settings, output, name=name, **options)
    from cgcnn_ase.training.finetune_report import FILE, describe

    rows = json.loads((output / FILE).read_text()) if (output / FILE).exists() else []
    file = output / "metrics.json"
    metrics = json.loads(file.read_text()) if file.exists() else {}
    if as_json:
        typer.echo(json.dumps({"model": str(best), **metrics} | ({"before_after": rows} if rows else {}), indent=1))
        return
    for spec in prepared.specs:
        for split, values in (metrics if len(prepared.specs) == 1 else metrics.get(spec.name, {})).items():
            if split not in ("val", "test"):
                continue
            typer.echo(f"{spec.name}, {split}: {_describe(values, spec.learned_unit)}")
    for row in rows:
        typer.echo(describe(row))
    typer.echo(f"model: {best}")


def _describe(values: dict[str, Any], unit: str) -> str:
    """The figures that matter most."""
    if "accuracy" in values:
        area = "" if values["auc"] is None else f", AUC {values['auc']:.4f}"
        text = f"accuracy {values['accuracy']:.1%}{area}"
    else:
        text = f"MAE {values['mae']:.4f} {unit}".rstrip()
    return f"{text}, 90 % interval covers {values['coverage']:.1%}" if "coverage" in values else text


def _folds_in_words(summary: dict[str, Any]) -> str:
    """Each figure's mean and standard deviation over the folds."""
    by_target = summary if "folds" not in next(iter(summary.values())) else {"": summary}
    return "\n".join(
        f"{name + ', ' if name else ''}{figure}: {values['mean']:.4f} ± {values['std']:.4f} over the folds"
        for name, figures in by_target.items()
        for figure, values in figures.items()
    )

"""``cgcnn-ase train``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgcnn_ase.cli.messages import errors_as_usage, is_terminal, say
from cgcnn_ase.cli.options import PRESET_NAMES, Targets, Task, Test, Unit, Val

if TYPE_CHECKING:
    from cgcnn_ase.data.prepared import PreparedData
    from cgcnn_ase.nn.model import CrystalModel
    from cgcnn_ase.training.config import TrainConfig


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
    freeze: Annotated[str, typer.Option(help="Layers of --from that stay: none, embedding or convolutions.")] = "none",
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
        from cgcnn_ase.registry import load_model
        from cgcnn_ase.training.run import train as run_training

        tuned = None if start is None else load_model(start)
        given = {
            "n_members": members, "epochs": epochs, "batch_size": batch_size, "learning_rate": lr,
            "patience": patience, "seed": seed, "cls_weight": cls_weight, "accumulate": accumulate,
            "accelerator": accelerator, "devices": devices, "nodes": nodes, "precision": precision,
            "tensorboard": tensorboard or None,
        }  # fmt: skip
        settings = read_settings(
            data, config, {k: v for k, v in given.items() if v is not None}, tuned,
            preset=preset, only_classes=only_classes(data, target or [], task),
        )  # fmt: skip
        val, test = parts(config, val, test)
        prepared = load_prepared(data, target or [], task, unit, settings, tuned, val=val, test=test)
        say(
            f"{len(prepared.ids)} structures: "
            + ", ".join(f"{len(prepared.rows(s))} {s}" for s in ("train", "val", "test"))
        )
        options: dict[str, Any] = {"resume": resume, "start": tuned, "frozen": freeze, "workers": workers}
        options["progress"] = is_terminal()
        if k_fold is not None:
            from cgcnn_ase.training.cross_validation import cross_validate

            summary = cross_validate(prepared, settings, output, k_fold, **options)
            typer.echo(json.dumps(summary, indent=1) if as_json else _folds_in_words(summary))
            return
        best = run_training(prepared, settings, output, name=name, **options)
    file = output / "metrics.json"
    metrics = json.loads(file.read_text()) if file.exists() else {}
    if as_json:
        typer.echo(json.dumps({"model": str(best), **metrics}, indent=1))
        return
    for spec in prepared.specs:
        for split, values in (metrics if len(prepared.specs) == 1 else metrics.get(spec.name, {})).items():
            if split not in ("val", "test"):
                continue
            typer.echo(f"{spec.name}, {split}: {_in_words(values, spec.learned_unit)}")
    typer.echo(f"model: {best}")


def _in_words(values: dict[str, Any], unit: str) -> str:
    """The figures that matter most."""
    if "accuracy" in values:
        area = "" if values["auc"] is None else f", AUC {values['auc']:.4f}"
        found = f"accuracy {values['accuracy']:.1%}{area}"
    else:
        found = f"MAE {values['mae']:.4f} {unit}".rstrip()
    return f"{found}, 90 % interval covers {values['coverage']:.1%}" if "coverage" in values else found


def _folds_in_words(summary: dict[str, Any]) -> str:
    """Each figure's mean and standard deviation over the folds."""
    by_target = summary if "folds" not in next(iter(summary.values())) else {"": summary}
    return "\n".join(
        f"{name + ', ' if name else ''}{figure}: {values['mean']:.4f} ± {values['std']:.4f} over the folds"
        for name, figures in by_target.items()
        for figure, values in figures.items()
    )


def only_classes(data: Path, names: list[str], task: str) -> bool:
    """Whether there is nothing to learn but classifications."""
    from cgcnn_ase.data.prepared import PreparedData, is_prepared

    if is_prepared(data):
        return all(target.task == "classification" for target in PreparedData.load(data).specs)
    return all((name.partition(":")[2] or task) == "classification" for name in names or [""])


def read_settings(
    data: Path,
    file: Path | None,
    given: dict[str, Any],
    tuned: "CrystalModel | None" = None,
    *,
    preset: str | None = None,
    only_classes: bool = False,
) -> "TrainConfig":
    """Settings of a run: the defaults, then each over those before it.

    They are those of prepared data, of the preset or of the model to tune, the file's, and the command line's. Of a
    model to tune the head that learns its error is left out where there are ``only_classes``.

    Raises
    ------
    ValueError
        Naming the setting and what is allowed.
    """
    from dataclasses import asdict

    from cgcnn_ase.data.cgnn_folder import GRAPH, is_cgnn_folder
    from cgcnn_ase.data.prepared import PreparedData, is_prepared
    from cgcnn_ase.training.config import TrainConfig
    from cgcnn_ase.training.settings import merged, settings_from

    start: dict[str, Any] = {}
    if is_prepared(data):
        start = {"graph": asdict(PreparedData.load(data).graph_config)}
    elif is_cgnn_folder(data):
        start = {"graph": asdict(GRAPH), "network": {"architecture": "cgnn"}}
    if preset is not None:
        start = _of_preset(preset, tuned)
    if tuned is not None:
        network = tuned.networks[0].config
        start = {
            "graph": asdict(tuned.graph), "network": asdict(network.architecture),
            "mean_variance": network.mean_variance and not only_classes,
            "quantiles": network.quantiles and not only_classes,
            "n_members": len(tuned.members), "learning_rate": 5e-4,
        }  # fmt: skip
    try:
        asked = {} if file is None else read_file(file)
        if tuned is not None or preset is not None:
            _check_architecture(start, asked, "the model to tune" if tuned is not None else f"the preset {preset}")
        settings_from(TrainConfig, merged(start, asked))
    except ValueError as error:
        raise error if file is None or str(file) in str(error) else ValueError(f"{file}: {error}") from error
    return settings_from(TrainConfig, merged(start, asked, given))


def _of_preset(name: str, tuned: "CrystalModel | None") -> dict[str, Any]:
    """A preset as plain values; beside a model to tune it must be the model's own."""
    from dataclasses import asdict

    from cgcnn_ase.nn.presets import preset

    graph, network = preset(name)
    if tuned is not None and (graph, network) != (tuned.graph, tuned.networks[0].config.architecture):
        raise ValueError(
            f"--preset {name}: the model to tune has another network or graph, and keeps it; leave out --preset"
        )
    return {"graph": asdict(graph), "network": asdict(network)}


def _check_architecture(start: dict[str, Any], asked: dict[str, Any], what: str) -> None:
    """An architecture has its own settings: another one cannot be laid over them."""
    network = asked.get("network")
    if "network" not in start or not isinstance(network, dict) or "architecture" not in network:
        return
    has, wanted = start["network"]["architecture"], network["architecture"]
    if has != wanted:
        raise ValueError(f"network.architecture: {what} is of the architecture {has}, the settings ask for {wanted}")


def read_file(file: Path) -> dict[str, Any]:
    """Settings by name, those of ALIGNN translated."""
    from cgcnn_ase.training.alignn_settings import is_alignn, translate
    from cgcnn_ase.training.settings import read_yaml

    values = read_yaml(file)
    if not is_alignn(values):
        return values
    wanted = translate(values)
    if wanted.unused:
        say(f"{file}: settings of ALIGNN; without meaning here: {', '.join(wanted.unused)}")
    return wanted.settings


def parts(file: Path | None, val: float | None, test: float | None) -> tuple[float, float]:
    """The parts for validation and test: those given, else those of ALIGNN's settings, else a tenth each."""
    from cgcnn_ase.training.alignn_settings import is_alignn, translate
    from cgcnn_ase.training.settings import read_yaml

    own = (0.1, 0.1)
    if file is not None and is_alignn(values := read_yaml(file)):
        wanted = translate(values)
        own = (wanted.val, wanted.test)
    return own[0] if val is None else val, own[1] if test is None else test


def load_prepared(
    data: Path,
    names: list[str],
    task: str,
    unit: str,
    settings: "TrainConfig",
    tuned: "CrystalModel | None" = None,
    *,
    val: float,
    test: float,
    is_part: bool = False,
) -> "PreparedData":
    """Prepared data as it is, or a data set with its graphs built.

    Without a unit, and with no name or that of its target, the target is that of the model to tune.
    """
    from dataclasses import replace

    from cgcnn_ase.data.cgnn_folder import is_cgnn_folder, load_cgnn_folder
    from cgcnn_ase.data.prepare import prepare
    from cgcnn_ase.data.prepared import PreparedData, is_prepared
    from cgcnn_ase.data.tasks import load_tasks

    if is_prepared(data):
        prepared = PreparedData.load(data)
        has = [target.name for target in prepared.specs]
        if names and names != has:
            raise ValueError(f"{data}: was prepared for {', '.join(has)}, not {', '.join(names)}")
        return prepared
    its_own = tuned is not None and names in ([], [tuned.target.name])
    same_target = tuned is not None and its_own and not unit and task == tuned.target.task
    if is_cgnn_folder(data):
        wanted = [tuned.target.name] if tuned is not None and same_target else names
        graphs = load_cgnn_folder(
            data, wanted, task=task, unit=unit, val=val, test=test, is_part=is_part  # type: ignore[arg-type]
        )  # fmt: skip
        return replace(graphs, specs=(tuned.target,)) if tuned is not None and same_target else graphs
    dataset, specs = load_tasks(data, names, task=task, unit=unit)  # type: ignore[arg-type]
    if tuned is not None and same_target:
        specs = (tuned.target,)
    return prepare(dataset, specs, settings.graph, val=val, test=test, is_part=is_part, progress=is_terminal())

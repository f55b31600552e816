"""``cgcnn-ase train``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgcnn_ase.cli.messages import errors_as_usage, is_terminal, say

if TYPE_CHECKING:
    from cgcnn_ase.nn.model import CrystalModel
    from cgcnn_ase.training.config import TrainConfig


def train(
    data: Annotated[
        Path,
        typer.Argument(help="Folder with id_prop.csv and structures, a packed data set, or what `prepare` wrote."),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the run.")],
    target: Annotated[str | None, typer.Option(help="Column to learn, where the data set has several.")] = None,
    unit: Annotated[str, typer.Option(help="Unit of the target.")] = "",
    config: Annotated[
        Path | None, typer.Option(help="YAML with any of the settings of a run; options override it.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Fine-tune a model: pretrained name, folder, or original .pth.tar.")
    ] = None,
    freeze: Annotated[str, typer.Option(help="Layers of --from that stay: none, embedding or convolutions.")] = "none",
    members: Annotated[int | None, typer.Option(help="Networks in the ensemble.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crystals in a batch.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate of the one-cycle schedule.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better val error.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides weights and order; member k has seed + k.")] = None,
    val: Annotated[float, typer.Option(help="Part for validation, where the data set has no split.")] = 0.1,
    test: Annotated[float, typer.Option(help="Part for the test, where the data set has no split.")] = 0.1,
    workers: Annotated[int, typer.Option(help="Members trained at the same time.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUTPUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the metrics as JSON.")] = False,
) -> None:
    """Train a model on structures with a known property; splits keep equal formulas together."""
    import json

    from cgcnn_ase.targets import TargetSpec

    with errors_as_usage():
        from cgcnn_ase.registry import load_model
        from cgcnn_ase.training.run import train as run_training

        tuned = None if start is None else load_model(start)
        given = {
            "n_members": members, "epochs": epochs, "batch_size": batch_size, "learning_rate": lr,
            "patience": patience, "seed": seed,
        }  # fmt: skip
        settings = read_settings(config, {key: value for key, value in given.items() if value is not None}, tuned)
        if tuned is not None and target is None and not unit:
            spec = tuned.target
        else:
            spec = TargetSpec(name=target or "target", unit=unit)
        prepared = load_prepared(data, target, spec, settings, val=val, test=test)
        say(
            f"{len(prepared.ids)} structures: "
            + ", ".join(f"{len(prepared.rows(s))} {s}" for s in ("train", "val", "test"))
        )
        best = run_training(
            prepared, settings, output, resume=resume, start=tuned, frozen=freeze,  # type: ignore[arg-type]
            workers=workers, progress=is_terminal(),
        )  # fmt: skip
    metrics = json.loads((output / "metrics.json").read_text())
    if as_json:
        typer.echo(json.dumps({"model": str(best), **metrics}, indent=1))
        return
    for split, values in metrics.items():
        typer.echo(f"{split}: MAE {values['mae']:.4f} {spec.unit}, 90 % interval covers {values['coverage']:.1%}")
    typer.echo(f"model: {best}")


def read_settings(file: Path | None, given: dict[str, Any], tuned: "CrystalModel | None") -> "TrainConfig":
    """Settings of a run: the defaults (of the model to tune, if there is one), the file's, the command line's.

    Raises
    ------
    ValueError
        Naming the key and what is allowed.
    """
    from dataclasses import asdict

    import yaml
    from pydantic import TypeAdapter, ValidationError

    from cgcnn_ase.training.config import TrainConfig

    settings: dict[str, Any] = {}
    if tuned is not None:
        network = tuned.networks[0].config
        settings = {
            "graph": asdict(tuned.graph), "network": asdict(network.architecture),
            "mean_variance": network.mean_variance, "n_members": len(tuned.members), "learning_rate": 5e-4,
        }  # fmt: skip
    if file is not None:
        try:
            read = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{file}: not YAML: {error}") from error
        if not isinstance(read, dict):
            raise ValueError(f"{file}: must hold settings by name, such as `epochs: 30`")
        settings |= read
    try:
        checked: TrainConfig = TypeAdapter(TrainConfig).validate_python(settings | given)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}, not {e['input']!r}" for e in error.errors()]
        raise ValueError(f"{file or 'settings'}: " + "; ".join(lines)) from error
    return checked


def load_prepared(
    data: Path, target: str | None, spec: Any, settings: "TrainConfig", *, val: float, test: float
) -> Any:
    """Prepared data as it is, or a data set with its graphs built."""
    from cgcnn_ase.data.prepared import PreparedData, is_prepared

    if is_prepared(data):
        prepared = PreparedData.load(data)
        if prepared.graph_config != settings.graph:
            raise ValueError(
                f"{data}: was prepared with {prepared.graph_config}, the settings ask for {settings.graph}"
            )
        return prepared
    from cgcnn_ase.data.dataset import load_dataset
    from cgcnn_ase.data.prepare import prepare

    dataset = load_dataset(data, target=target)
    return prepare(dataset, spec, settings.graph, val=val, test=test, progress=is_terminal())

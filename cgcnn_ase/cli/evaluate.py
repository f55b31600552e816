"""``cgcnn-ase evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.messages import echo_note, errors_as_usage, is_terminal

if TYPE_CHECKING:
    from cgcnn_ase.core.arrays import Ints, Strings
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.prediction.evaluation import ModelEvaluation


def evaluate(
    model: Annotated[str, typer.Argument(help="Pretrained name, model or run folder, or original .pth.tar.")],
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with id_prop.csv and structures, a packed data set, that of CGNN, or what `prepare` wrote."
        ),
    ],
    target: Annotated[str | None, typer.Option(help="Column with the true values, where there are several.")] = None,
    split: Annotated[str, typer.Option(help="Part of the data set: all, train, val or test.")] = "all",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for metrics.json, results.csv and the pictures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the metrics as JSON.")] = False,
) -> None:
    """Hold a model against known values: metrics, calibration and the plots."""
    import json

    with errors_as_usage():
        from cgcnn_ase.models.registry import load_model
        from cgcnn_ase.plotting.write_evaluation import draw

        loaded = load_model(model)
        loaded.check_level("crystal", "evaluate")
        evaluation = _evaluate(loaded, data, target, split)
        summary = evaluation.summary()
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            (output / "metrics.json").write_text(json.dumps(summary, indent=1) + "\n")
            evaluation.to_frame().to_csv(output / "results.csv", index=False)
            draw(evaluation, loaded.target, output)
            echo_note(f"written to {output}")
    if as_json:
        typer.echo(json.dumps(summary, indent=1))
        return
    for key, value in summary.items():
        typer.echo(f"{key:22s} {value:.4f}" if isinstance(value, float) else f"{key:22s} {value}")


def _evaluate(model: "CrystalModel", data: Path, target: str | None, split: str) -> "ModelEvaluation":
    import numpy as np

    from cgcnn_ase.data.cgnn_folder import load_cgnn_folder
    from cgcnn_ase.data.dataset import load_dataset
    from cgcnn_ase.data.formats import is_cgnn_folder, is_prepared
    from cgcnn_ase.data.graph_cache import cached_graphs
    from cgcnn_ase.data.prepared import PreparedData
    from cgcnn_ase.prediction.evaluation import evaluate_model

    if is_prepared(data) or is_cgnn_folder(data):
        asked = f"{target or model.target.name}:{model.target.task}"
        prepared = PreparedData.load(data) if is_prepared(data) else load_cgnn_folder(data, [asked])
        prepared.check_distances(model.networks[0].config.architecture)
        if prepared.graph_config != model.graph:
            raise ValueError(f"{data}: was prepared with {prepared.graph_config}, the model reads {model.graph}")
        column = _column([target.name for target in prepared.specs], model.target.name)
        rows = _rows(prepared.split, len(prepared.ids), split, data)
        ids = [prepared.ids[i] for i in rows]
        return evaluate_model(model, prepared.graphs, rows, ids, prepared.targets[rows, column])
    dataset = load_dataset(data, target=target)
    rows = _rows(dataset.split, len(dataset), split, data)
    graphs = cached_graphs([dataset.structures[i] for i in rows], model.graph, progress=is_terminal())
    return evaluate_model(model, graphs, np.arange(len(rows)), [dataset.ids[i] for i in rows], dataset.targets[rows, 0])


def _column(names: list[str], name: str) -> int:
    """Find the target of prepared data that the model predicts: that of its name, or the only one."""
    if name in names:
        return names.index(name)
    if len(names) > 1:
        raise ValueError(f"the data was prepared for {', '.join(names)}, the model predicts {name}")
    return 0


def _rows(splits: "Strings | None", n: int, split: str, data: Path) -> "Ints":
    """Indices of a split; a ValueError if the data has none of that name."""
    import numpy as np

    if split == "all":
        return np.arange(n)
    if splits is None or split not in splits:
        names = "all" if splits is None else ", ".join(["all", *np.unique(splits)])
        raise ValueError(f"{data}: has no split {split!r}; allowed: {names}")
    return np.flatnonzero(splits == split)

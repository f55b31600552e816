"""``cgcnn-ase evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from cgcnn_ase.cli.messages import errors_as_usage, is_terminal, say


def evaluate(
    model: Annotated[str, typer.Argument(help="Pretrained name, model or run folder, or original .pth.tar.")],
    data: Annotated[Path, typer.Argument(help="Folder with id_prop.csv and structures, or a packed data set.")],
    target: Annotated[str | None, typer.Option(help="Column with the true values, where there are several.")] = None,
    split: Annotated[str, typer.Option(help="Part of the data set: all, train, val or test.")] = "all",
    output: Annotated[Path | None, typer.Option(help="Folder for metrics.json, results.csv and the pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the metrics as JSON.")] = False,
) -> None:
    """Hold a model against known values: metrics, calibration and the plots."""
    import json

    import numpy as np

    with errors_as_usage():
        from cgcnn_ase.data.dataset import load_dataset
        from cgcnn_ase.data.graph_cache import cached_graphs
        from cgcnn_ase.evaluation import evaluate_model
        from cgcnn_ase.registry import load_model

        loaded = load_model(model)
        dataset = load_dataset(data, target=target)
        rows = np.arange(len(dataset))
        if split != "all":
            if dataset.split is None or split not in dataset.split:
                raise ValueError(f"{data}: has no split {split!r}")
            rows = np.flatnonzero(dataset.split == split)
        structures = [dataset.structures[i] for i in rows]
        graphs = cached_graphs(structures, loaded.graph, progress=is_terminal())
        ids = [dataset.ids[i] for i in rows]
        evaluation = evaluate_model(loaded, graphs, np.arange(len(rows)), ids, dataset.targets[rows])
    summary = evaluation.summary()
    if output is not None:
        from cgcnn_ase import plots

        output.mkdir(parents=True, exist_ok=True)
        (output / "metrics.json").write_text(json.dumps(summary, indent=1) + "\n")
        evaluation.to_frame().to_csv(output / "results.csv", index=False)
        name, unit, mean = loaded.target.name.replace("_", " "), loaded.target.unit, evaluation.estimate.mean
        plots.save(plots.parity(evaluation.target, mean, evaluation.std, name=name, unit=unit), output / "parity.png")
        figure = plots.summary(
            evaluation.target, mean, evaluation.std, evaluation.lower, evaluation.upper, name=name, unit=unit
        )
        plots.save(figure, output / "calibration.png")
        say(f"written to {output}")
    if as_json:
        typer.echo(json.dumps(summary, indent=1))
        return
    for key, value in summary.items():
        typer.echo(f"{key:22s} {value:.4f}" if isinstance(value, float) else f"{key:22s} {value}")

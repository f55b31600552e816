"""``cgcnn-ase evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.command import echo_note, echo_stderr, errors_as_usage, is_terminal
from cgcnn_ase.cli.options import Overwrite

if TYPE_CHECKING:
    from cgcnn_ase.core.arrays import Floats, Ints, Strings
    from cgcnn_ase.data.splits import RunSplit
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.prediction.evaluation import GroupFigures, ModelEvaluation

# elements whose figures are shown; all are in the JSON
_ELEMENTS = 8


def evaluate(
    model: Annotated[str, typer.Argument(help="Pretrained name, model or run folder, or original .pth.tar.")],
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with id_prop.csv and structures, a packed data set, that of CGNN, what `prepare` wrote, or "
            "outputs of DFT programs, extxyz or ASE databases with energies."
        ),
    ],
    target: Annotated[str | None, typer.Option(help="Column with the true values, where there are several.")] = None,
    split: Annotated[
        str,
        typer.Option(help="Part of the data set, by its column `split` or as the run has split it: train, val, test."),
    ] = "all",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for metrics.json, results.csv and the pictures.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the metrics as JSON.")] = False,
) -> None:
    """Hold a model against known values: metrics, calibration and the plots.

    A std is calibrated where 1 lies in the 95 % interval of the mean squared z-score. Coverage and errors are also told
    apart by element, by domain score (1 is the limit of the domain), and by a column e_above_hull of the data.
    """
    import json

    with errors_as_usage():
        if output is not None:
            _check_output(output, overwrite=overwrite)
        from cgcnn_ase.data.splits import RunSplit
        from cgcnn_ase.models.registry import load_model
        from cgcnn_ase.plotting.prediction_plots import draw
        from cgcnn_ase.prediction.evaluation import RegressionEvaluation

        loaded = load_model(model)
        loaded.check_level("crystal", "evaluate")
        evaluation = _evaluate(loaded, data, target, split, RunSplit.of_run(model))
        summary = evaluation.summary()
        groups = evaluation.coverage_by() if isinstance(evaluation, RegressionEvaluation) else {}
        figures = summary | {f"coverage_by_{name}": rows for name, rows in groups.items()}
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            (output / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n")
            evaluation.to_frame().to_csv(output / "results.csv", index=False)
            draw(evaluation, loaded.target, output)
            echo_note(f"written to {output}")
    if as_json:
        typer.echo(json.dumps(figures, indent=1))
        return
    for key, value in summary.items():
        typer.echo(f"{key:22s} {value:.4f}" if isinstance(value, float) else f"{key:22s} {value}")
    _show_groups(groups)


def _check_output(output: Path, *, overwrite: bool) -> None:
    """See that figures of an earlier evaluation are written over only if asked for, and those of a run never."""
    if (output / "split.csv").exists() or (output / "last.ckpt").exists():
        raise ValueError(
            f"--output {output}: holds a training run, whose own metrics.json is there; name another folder"
        )
    if not overwrite and any((output / name).exists() for name in ("metrics.json", "results.csv")):
        raise ValueError(
            f"--output {output}: it holds an evaluation already; choose another folder, or add --overwrite"
        )


def _show_groups(groups: "GroupFigures") -> None:
    """Tables of coverage; of many elements those where it is lowest."""
    for name, rows in groups.items():
        shown = rows
        if name == "element" and len(rows) > _ELEMENTS:
            shown = sorted(rows, key=lambda row: float(row["coverage"] or 0.0))[:_ELEMENTS]
        lowest = f", the lowest of {len(rows)}" if len(shown) < len(rows) else ""
        typer.echo(f"\n{f'by {name}{lowest}':28s} {'n':>7s} {'mae':>8s} {'coverage':>9s} {'mean_squared_z':>15s}")
        for row in shown:
            group = str(row["element"]) if "element" in row else _range(row["from"], row["to"])
            covered = "none" if row["coverage"] is None else f"{row['coverage']:.3f}"
            typer.echo(f"{group:28s} {row['n']:7d} {row['mae']:8.4f} {covered:>9s} {row['mean_squared_z']:15.2f}")


def _range(low: object, high: object) -> str:
    if low is None:
        return f"up to {high:g}"
    return f"above {low:g}" if high is None else f"{low:g} to {high:g}"


def _evaluate(
    model: "CrystalModel", data: Path, target: str | None, split: str, run: "RunSplit | None"
) -> "ModelEvaluation":
    import numpy as np

    from cgcnn_ase.data.cgnn_folder import cgnn_columns, load_cgnn_folder
    from cgcnn_ase.data.dataset import load_dataset, target_columns
    from cgcnn_ase.data.graph_store import cached_graphs
    from cgcnn_ase.data.prepare import column_for
    from cgcnn_ase.data.prepared import PreparedData, is_cgnn_folder, is_prepared
    from cgcnn_ase.data.splits import compositions_of
    from cgcnn_ase.prediction.evaluation import evaluate_model

    if is_prepared(data) or is_cgnn_folder(data):
        if is_prepared(data):
            prepared = PreparedData.load(data)
        else:
            name = target or column_for(model.target, cgnn_columns(data), data) or model.target.name
            prepared = load_cgnn_folder(data, [f"{name}:{model.target.task}"])
        prepared.check_distances(model.networks[0].config.architecture)
        if prepared.graph_config != model.graph:
            raise ValueError(f"{data}: was prepared with {prepared.graph_config}, the model reads {model.graph}")
        column = _column([each.name for each in prepared.specs], target, model.target.name)
        fractions = compositions_of(prepared.graphs, np.arange(len(prepared.ids)))
        of_run = None if run is None else run.of(prepared.ids, fractions)
        rows = _rows(prepared.ids, prepared.split, of_run, split, data)
        ids = [prepared.ids[i] for i in rows]
        return evaluate_model(model, prepared.graphs, rows, ids, prepared.targets[rows, column])
    target = target or column_for(model.target, target_columns(data), data)
    dataset = load_dataset(data, target=target)
    of_run = None if run is None else run.of(dataset.ids, dataset.fractions)
    rows = _rows(dataset.ids, dataset.split, of_run, split, data)
    graphs = cached_graphs([dataset.structures[i] for i in rows], model.graph, progress=is_terminal())
    ids = [dataset.ids[i] for i in rows]
    return evaluate_model(
        model, graphs, np.arange(len(rows)), ids, dataset.targets[rows, 0], e_above_hull=_e_above_hull(data, ids)
    )


def _e_above_hull(data: Path, ids: list[str]) -> "Floats | None":
    """Energies above hull of structures, eV/atom, where the data set has such a column; NaN where a row has none."""
    import numpy as np

    from cgcnn_ase.data.dataset import read_table, target_columns

    if "e_above_hull" not in target_columns(data):
        return None
    table = read_table(data)
    known = dict(zip(table.ids, table.values("e_above_hull").tolist(), strict=True))
    return np.array([known.get(name, np.nan) for name in ids])


def _column(names: list[str], asked: str | None, target: str) -> int:
    """Find the column of prepared data: the one asked for, else that of the model's target, else the only one."""
    from cgcnn_ase.core.targets import column_of

    if asked is not None and asked not in names:
        raise ValueError(f"--target {asked}: the data was prepared for {', '.join(names)}")
    matching = [asked] if asked is not None else column_of(target, names)
    if len(matching) == 1:
        return names.index(matching[0])
    if len(names) > 1:
        raise ValueError(f"the data was prepared for {', '.join(names)}, the model predicts {target}")
    return 0


def _rows(ids: list[str], of_data: "Strings | None", of_run: "Strings | None", split: str, data: Path) -> "Ints":
    """Indices of a split, by the data's own column or else by the run's; say where the run has learned some of them."""
    import numpy as np

    splits = of_data if of_data is not None else of_run
    rows = np.arange(len(ids)) if split == "all" else np.flatnonzero([] if splits is None else splits == split)
    if split != "all" and not len(rows):
        names = [] if splits is None else [str(name) for name in np.unique(splits) if name]
        reason = f"allowed: {', '.join(['all', *names])}"
        if not names:
            reason += "; the data have no column `split`, and " + (
                "the model is no run whose folder says which crystals it was trained on"
                if of_run is None
                else "none of their structures was in the run"
            )
        raise ValueError(f"{data}: has no split {split!r}; {reason}")
    if of_run is None:
        return rows
    learned = {name: int((of_run[rows] == name).sum()) for name in ("train", "val")}
    if learned["train"] and split != "train":
        more = "; --split test leaves them out" if split == "all" else ""
        echo_stderr(
            f"cgcnn-ase: warning: {learned['train']} of these {len(rows)} structures are training crystals of this run "
            f"(and {learned['val']} its validation crystals), so the errors are smaller than on new ones{more}"
        )
    return rows

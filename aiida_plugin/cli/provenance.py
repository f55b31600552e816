"""``aiida-cgcnn provenance``: questions to the graph, and their answers as tables and JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from aiida.cmdline.groups import VerdiCommandGroup
from aiida.cmdline.params import arguments, options, types
from aiida.cmdline.utils import decorators, echo

from aiida_plugin.cli.data import errors_in_words, node_argument

if TYPE_CHECKING:
    import pandas as pd
    from aiida.orm import Node
    from ase import Atoms

    from aiida_plugin.data.model import CGCNNModelData
    from aiida_plugin.data.predictions import PredictionsData
    from aiida_plugin.data.structures import StructureSetData
    from aiida_plugin.provenance.label_kinds import LabelsBehind
    from aiida_plugin.provenance.lineage import NodeRow
    from aiida_plugin.provenance.origin import Origin, Use
    from aiida_plugin.provenance.picture import PictureDirection

_MODEL = node_argument("MODEL", "model")
_JSON = click.option("--json", "as_json", is_flag=True, help="For machines: JSON on stdout.")


@click.group("provenance", cls=VerdiCommandGroup)
@options.PROFILE(type=types.ProfileParamType(load_profile=True), expose_value=False)
def provenance() -> None:
    """Answer where numbers come from, what used a model, and how far predictions were off."""


@provenance.command("origin")
@node_argument("PREDICTIONS", "predictions")
@click.argument("id", required=False)
@_JSON
@decorators.with_dbenv()
def origin(node: "PredictionsData", id: str | None, as_json: bool) -> None:
    """Show where PREDICTIONS (or that of one ID) come from: job, model, training, DFT runs, structures."""
    from aiida_plugin.provenance.origin import origin

    with errors_in_words():
        result = origin(node, id)
    print_answer(result, origin_rows(result), as_json=as_json)


@provenance.command("predictions-of")
@click.argument("structure")
@click.option(
    "--in",
    "structures",
    metavar="SET",
    type=types.DataParamType(sub_classes=("aiida.data:cgcnn.structures",)),
    help="Take the structure of this id in a set, and find it by its content.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1e-3,
    show_default=True,
    metavar="Å",
    help="Distance of sites and cell vectors that is the same structure; 0: same cell and order of atoms.",
)
@_JSON
@decorators.with_dbenv()
def predictions_of(structure: str, structures: "StructureSetData | None", tolerance: float, as_json: bool) -> None:
    """List all predictions of a STRUCTURE by every model: a file with one structure, or an id.

    Exit code 1: not found among what was predicted. 2: there is no such file, or no such id.
    """
    from aiida_plugin.provenance.same_structure import is_known_id, predictions_of

    with errors_in_words():
        named = structure_named(structure, structures)
        table = predictions_of(named, tolerance=tolerance, progress=sys.stderr.isatty())
        if table.empty and isinstance(named, str) and not is_known_id(named):
            raise ValueError(unknown_structure(structure))
    for pk, name, reason in table.attrs["failures"]:
        echo.echo_warning(f"predictions {pk}: {name} failed: {reason}", err=True)
    if more := table.attrs["not_compared"]:
        echo.echo_warning(f"{more} further structures of this composition and volume were not compared", err=True)
    columns = [
        "id", "formula", "value", "std", "in_domain", "unit", "property", "model", "match", "predictions_pk", "model_pk"
    ]  # fmt: skip
    print_frame(table, columns, as_json=as_json)
    if table.empty and not table.attrs["failures"]:
        compared = f"; {table.attrs['n_compared']} of its composition and volume were compared" * (
            not isinstance(named, str)
        )
        echo.echo_warning(f"not found: {structure} was not predicted in this profile{compared}", err=True)
        raise click.exceptions.Exit(1)


@provenance.command("used-by")
@_MODEL
@_JSON
@decorators.with_dbenv()
def used_by(node: "CGCNNModelData", as_json: bool) -> None:
    """List everything that used MODEL: predictions, structures selected by them, labels, later models."""
    from aiida_plugin.provenance.origin import used_by

    with errors_in_words():
        result = used_by(node)
    print_answer(result, use_rows(result), as_json=as_json)


@provenance.command("errors")
@node_argument("NODE", "predictions", "model")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Also draw them: .png, .pdf or .svg.")
@click.option("--include-trained", is_flag=True, help="Also of structures that the model was trained on.")
@click.option("--dft-only", is_flag=True, help="Only against labels that are DFT.")
@_JSON
@decorators.with_dbenv()
def errors(
    node: "PredictionsData | CGCNNModelData", plot: Path | None, include_trained: bool, dft_only: bool, as_json: bool
) -> None:
    """List errors of predictions (of a predictions NODE, or of a model) against labels that were computed later.

    Structures that the model was trained on are left out, unless they are asked for.
    """
    from aiida_plugin.provenance.errors import errors, parity_plot

    with errors_in_words():
        table = errors(node, include_trained=include_trained, dft_only=dft_only)
        if plot is not None:
            parity_plot(table, plot)
    for reason, count in table.attrs["left_out"].items():
        echo.echo_warning(f"{count} labels are left out: they {reason}", err=True)
    columns = [
        "id",
        "predicted",
        "std",
        "label",
        "error",
        "trained_on",
        "in_domain",
        "unit",
        "kind",
        "scheme",
        "labelled_pk",
    ]
    print_frame(table, columns, as_json=as_json)


@provenance.command("dft-only")
@node_argument("NODE", "predictions", "model", "structures")
@_JSON
@decorators.with_dbenv()
def dft_only(node: "PredictionsData | CGCNNModelData | StructureSetData", as_json: bool) -> None:
    """Tell whether all labels behind NODE (predictions, a model or a set) are DFT, by what they say of themselves.

    Exit code 0: they are. 1: some are of a machine-learned potential, empirical or of unknown kind; or a model was
    imported, whose labels this profile does not know.
    """
    from aiida_plugin.provenance.label_kinds import labels_behind

    with errors_in_words():
        result = labels_behind(node)
    print_answer(result, label_rows(result), as_json=as_json)
    if result.only_dft:
        echo.echo_success("all labels are DFT", err=True)
        return
    reasons = [f"there are labels of other kinds: {', '.join(result.other_kinds)}"] if result.other_kinds else []
    reasons += [f"what model {model.pk} ({model.title}) learned from is not known here" for model in result.imported]
    echo.echo_warning("; ".join(reasons) or f"node {node.pk} has no labels behind it", err=True)
    raise click.exceptions.Exit(1)


@provenance.command("picture")
@arguments.NODE()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--direction", type=click.Choice(["ancestors", "descendants", "both"]), default="ancestors", show_default=True
)
@click.option("--depth", type=click.IntRange(min=1), help="So many links away at most.")
@decorators.with_dbenv()
def picture(node: "Node", path: Path, direction: "PictureDirection", depth: int | None) -> None:
    """Draw the graph around NODE into PATH: .png, .svg, .pdf, or .dot."""
    from aiida_plugin.provenance.picture import graph_picture

    with errors_in_words():
        echo.echo_success(str(graph_picture(node, path, direction=direction, depth=depth)))


@provenance.command("mark-bad")
@_MODEL
@click.argument("reason", required=False)
@click.option("--undo", is_flag=True, help="Take the mark back.")
@decorators.with_dbenv()
def mark_bad(node: "CGCNNModelData", reason: str | None, undo: bool) -> None:
    """Say why MODEL must not be trusted; origin and used-by then tell."""
    from aiida_plugin.provenance.origin import mark_bad, unmark, used_by

    with errors_in_words():
        if undo == (reason is not None):
            raise ValueError("give either a REASON or --undo")
        if reason is None:
            unmark(node)
            echo.echo_success(f"model {node.pk} is no longer marked")
            return
        mark_bad(node, reason)
        use = used_by(node)
    echo.echo_success(
        f"model {node.pk} is marked; {len(use.predictions)} predictions nodes, {len(use.labelled)} labelled sets and "
        f"{len(use.models)} later models came of it: aiida-cgcnn provenance used-by {node.pk}"
    )


@provenance.command("bad-models")
@decorators.with_dbenv()
def bad_models() -> None:
    """List the models that were marked bad."""
    from aiida_plugin.provenance.lineage import BAD
    from aiida_plugin.provenance.origin import bad_models

    rows = [[node.pk, node.label, node.sha256[:12], node.base.extras.get(BAD)["reason"]] for node in bad_models()]
    echo.echo_tabulate(rows, headers=["PK", "Label", "sha256", "Reason"])


Row = tuple[str, int | None, str, str]  # what, pk, name, and what else is to be said
_FILES = (".cif", ".extxyz", ".xyz", ".vasp", ".poscar", ".json", ".db", ".traj", ".npz", ".xsf", ".res", ".gz")
_SHOWN = 20  # rows of one kind that are shown; the rest is counted


def print_answer(answer: "Origin | Use | LabelsBehind", rows: Sequence[Row], *, as_json: bool) -> None:
    """Print a table of nodes, or all as JSON, in which nodes are objects."""
    if as_json:
        echo.echo(json.dumps(_json_value(answer), indent=1))
    else:
        echo.echo_tabulate(rows, headers=["What", "PK", "Name", ""])


def print_frame(table: "pd.DataFrame", columns: Sequence[str], *, as_json: bool) -> None:
    """Print all columns as JSON, or those that people read."""
    if as_json:
        echo.echo(table.to_json(orient="records", indent=1, double_precision=15))
        return
    shown = table[[name for name in columns if name in table]]
    echo.echo_tabulate(shown.to_numpy(dtype=object).tolist(), headers=list(shown.columns), floatfmt=".4f")


def structure_named(structure: str, structures: "StructureSetData | None") -> "Atoms | str":
    """Find the structure of this id in a set, the one structure of a file, or else an id."""
    if structures is not None:
        return structures.atoms(structure)
    if not Path(structure).exists():
        return structure
    from cgcnn_ase.structures import read_structures

    records = list(read_structures([structure]))
    if len(records) != 1:
        raise ValueError(f"{structure}: holds {len(records)} structures; give a file with one, or an id")
    return records[0].unwrap()


def unknown_structure(structure: str) -> str:
    """Say of what is neither a file nor an id which of the two it looks like."""
    if "/" in structure or Path(structure).suffix in _FILES:
        return f"no such file: {structure} (nor does any stored set have a structure of this id)"
    return f"no such id: no stored set has a structure {structure!r} (nor is there such a file)"


def origin_rows(origin: "Origin") -> list[Row]:
    """Make rows from the number back to DFT and to the hosts."""
    rows: list[Row] = []
    if (row := origin.row) is not None:
        std = "" if row["std"] is None else f" ± {row['std']:.4f}"
        rows.append(("prediction", None, row["id"], f"{row['property']} = {row['value']:.4f}{std} {row['unit']}"))
    rows.append(_row("predictions", origin.predictions, f"{origin.predictions.n_structures} structures"))
    rows += _node_rows("predicted by", origin.jobs)
    rows += [_row("model", model, f"sha256 {(model.sha256 or '')[:12]}") for model in origin.models]
    for training in origin.trainings:
        rows.append(_row("trained by", training.job, f"gave model {training.model.pk}"))
        rows += [_row("began with model", model, "") for model in training.started_from]
        rows += [_row("trained on", row, f"{row.n_structures} structures") for row in training.labelled]
        rows.append(("DFT runs", None, f"{training.n_dft_runs} behind its labels", _no_dft(training.n_other_runs)))
    if not origin.trainings:
        rows.append(("trained by", None, "not in this profile", "the model was imported"))
    rows += _node_rows("DFT run", origin.dft_runs)
    for kind, nodes in origin.other_runs.items():
        rows += _node_rows(f"no DFT: {kind}", nodes)
    rows += [_row("structures", row, f"{row.n_structures} structures") for row in origin.structures]
    rows += _node_rows("structures by", origin.structure_steps)
    rows += _node_rows("host", origin.hosts)
    rows += [_row("BAD", row, row.bad or "") for row in origin.bad]
    return rows


def use_rows(use: "Use") -> list[Row]:
    """Make rows of what came of a model."""
    bad = "" if use.model.bad is None else f"BAD: {use.model.bad}"
    rows = [_row("model", use.model, bad)]
    for what, nodes in (
        ("predictions", use.predictions),
        ("selected", use.structures),
        ("DFT run", use.dft_runs),
        ("labelled", use.labelled),
        ("later model", use.models),
    ):
        rows += _node_rows(what, nodes)
    for kind, nodes in use.other_runs.items():
        rows += _node_rows(f"no DFT: {kind}", nodes)
    return rows


def label_rows(behind: "LabelsBehind") -> list[Row]:
    """Make rows of the labelled sets behind a node, each with its kinds of labels and the jobs that computed them."""
    rows = []
    for each in behind.labelled:
        runs = ", ".join(f"{n} {kind} runs" for kind, n in sorted(each.runs.items()))
        name = ", ".join(each.kinds) or "unknown"
        rows.append(_row(name, each.node, f"{each.node.n_structures} structures" + (f", {runs}" if runs else "")))
    rows += [_row("not known", model, "imported: its training is not in this profile") for model in behind.imported]
    return rows


def _no_dft(runs: Mapping[str, int]) -> str:
    return ", ".join(f"{n} others: {kind}" for kind, n in sorted(runs.items()))


def _node_rows(what: str, nodes: "Sequence[NodeRow]") -> list[Row]:
    rows = [_row(what, node, "" if node.n_structures is None else f"{node.n_structures} structures") for node in nodes]
    more: list[Row] = [(what, None, f"... and {len(rows) - _SHOWN} more", "")] if len(rows) > _SHOWN else []
    return rows[:_SHOWN] + more


def _row(what: str, node: "NodeRow", more: str) -> Row:
    failed = f"exit code {node.exit_status}" if node.exit_status else ""
    return what, node.pk, node.title, " ".join(words for words in (more, failed) if words)


def _json_value(value: object) -> object:
    from aiida_plugin.provenance.lineage import NodeRow

    if isinstance(value, NodeRow):
        return {key: each for key, each in value._asdict().items() if each is not None}
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    if is_dataclass(value):
        return {field.name: _json_value(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _json_value(each) for key, each in value.items()}
    return value.item() if hasattr(value, "item") else value

"""``verdi data cgcnn-model``, ``cgcnn-structures``, ``cgcnn-predictions``: the nodes of a profile.

Each ``verdi data`` imports this, so nothing heavy is imported here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import click
from aiida.cmdline.params import arguments, types
from aiida.cmdline.utils import decorators, echo

if TYPE_CHECKING:
    from aiida.orm import Data

    from aiida_plugin.data.model import CGCNNModelData
    from aiida_plugin.data.predictions import PredictionsData
    from aiida_plugin.data.stability import StabilityData
    from aiida_plugin.data.structures import StructureSetData

_SHORT = 12  # hex digits of a sha256 that tell models apart
_SHOWN = 10  # ids that are shown

_WIDTH = 80  # columns of a screen that a list fits, where it is not known
_GAP, _PADDING = 2, 2  # of the tables: between columns, and of a column beyond its header

_LABEL = click.option("--label", default="", help="Label of the node.")
_GROUP = click.option("--group", help="Also put the node into this group, of a study; it is made if it is not there.")
_OF_GROUP = click.option("--of-group", help="Only nodes of this group.")
_PATH = click.argument("path", type=click.Path(path_type=Path))
_FOLDER = click.argument("folder", type=click.Path(path_type=Path))


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Print one line and exit with code 2 for what bad input raises; a bug keeps its traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        echo.echo_error(" ".join(str(error).split()))
        raise click.exceptions.Exit(2) from error


def node_argument(metavar: str, *kinds: str) -> Callable[..., Any]:
    """Make an argument that names a node of one of these kinds of data: ``model``, ``structures``, ``predictions``."""
    entry_points = tuple(f"aiida.data:cgcnn.{kind}" for kind in kinds)
    argument: Callable[..., Any] = arguments.NODE(metavar=metavar, type=types.DataParamType(sub_classes=entry_points))
    return argument


def _rows(
    kind: "type[Data]", columns: Sequence[str], filters: Mapping[str, Any], group: str | None = None
) -> list[list[Any]]:
    """Query pk and columns of the nodes of a kind, the oldest first."""
    from aiida.orm import Group, QueryBuilder

    query = QueryBuilder().append(kind, filters=dict(filters), project=["id", *columns], tag="node")
    if group is not None:
        query.append(Group, with_node="node", filters={"label": group})
    return query.order_by({"node": {"id": "asc"}}).all()


def _table(
    rows: Sequence[Sequence[object]], headers: Sequence[str], shrinks: Sequence[str], last: Sequence[str] = ()
) -> None:
    """Print a table that fits the screen: the widest columns among `shrinks`, then among `last`, are cut."""
    texts = [["" if value is None else str(value) for value in row] for row in rows]
    least = [len(name) + _PADDING for name in headers]
    widths = [
        max([width, *(len(line) for row in texts for line in row[k].split("\n"))]) for k, width in enumerate(least)
    ]
    excess = sum(widths) + _GAP * (len(widths) - 1) - max(_WIDTH, get_terminal_size((_WIDTH, 24)).columns)
    for names in (shrinks, last):
        columns = [k for k, name in enumerate(headers) if name in names]
        while excess > 0 and any(widths[k] > least[k] for k in columns):
            widths[max(columns, key=lambda k: widths[k] - least[k])] -= 1
            excess -= 1
    cut = [
        ["\n".join(_cut(line, width) for line in cell.split("\n")) for cell, width in zip(row, widths, strict=True)]
        for row in texts
    ]
    echo.echo_tabulate(cut, headers=list(headers), disable_numparse=True)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _to_group(group: str | None, node: "Data") -> None:
    if group is not None:
        from aiida_plugin.calculations.functions.structure_sets import add_to_group

        add_to_group(group, node)


def _show(node: "Data", facts: Mapping[str, Any]) -> None:
    echo.echo_dictionary({"pk": node.pk, "uuid": node.uuid, **facts}, fmt="yaml")


# Models


@click.group("cgcnn-model")
def model() -> None:
    """Models of cgcnn-ase as nodes: list, show, import, export."""


@model.command("list")
@click.option("--name", help="Only nodes that hold a model of this name.")
@_OF_GROUP
@decorators.with_dbenv()
def list_models(name: str | None, of_group: str | None) -> None:
    """List the model nodes."""
    from aiida.orm import load_node

    from aiida_plugin.data.model import CGCNNModelData

    keys = ("name", "names", "targets", "units", "sha256")
    filters = {} if name is None else {"attributes.names": {"contains": [name]}}
    rows = _rows(CGCNNModelData, ["label", *(f"attributes.{key}" for key in keys)], filters, of_group)
    table = [
        [pk, "\n".join(names) if label in ("", name) else label, "\n".join(targets), "\n".join(units),
         "\n".join(scale or "" for scale in load_node(pk).scales), sha256[:_SHORT]]
        for pk, label, name, names, targets, units, sha256 in rows
    ]  # fmt: skip
    headers = ["PK", "Name", "Property", "Unit", "Scale", "sha256"]
    _table(table, headers, shrinks=("Property",), last=("Name",))


@model.command("show")
@node_argument("MODEL", "model")
@decorators.with_dbenv()
def show_model(node: "CGCNNModelData") -> None:
    """Show what is known of a model, and whether its files are those that were stored."""
    with errors_in_words():
        node.contents()
    _show(node, {**node.base.attributes.all, "scales": node.scales})


@model.command("import")
@click.argument("name")
@_GROUP
@decorators.with_dbenv()
def import_model(name: str, group: str | None) -> None:
    """Store a model once: NAME is a pretrained name, a model or run folder, or an original .pth.tar file."""
    from aiida_plugin.data.model import CGCNNModelData

    with errors_in_words():
        node = CGCNNModelData.from_name(name)
    if (stored := node.stored()) is not None:
        echo.echo_report(f"{', '.join(node.names)}: stored already, as node {stored.pk}")
    else:
        echo.echo_success(f"{', '.join(node.names)}: node {node.store().pk}")
    _to_group(group, stored or node)


@model.command("export")
@node_argument("MODEL", "model")
@_FOLDER
@decorators.with_dbenv()
def export_model(node: "CGCNNModelData", folder: Path) -> None:
    """Write a model into a new FOLDER, for cgcnn-ase predict --model."""
    with errors_in_words():
        echo.echo_success(str(node.export(folder)))


# Sets of structures


@click.group("cgcnn-structures")
def structures() -> None:
    """Sets of structures as nodes: list, show, import, import-fetched, from-nodes, subset, merge, export."""


@structures.command("list")
@click.option("--element", multiple=True, help="Only sets that hold this element; may be given several times.")
@click.option("--labelled", is_flag=True, help="Only sets with computed results.")
@_OF_GROUP
@decorators.with_dbenv()
def list_sets(element: tuple[str, ...], labelled: bool, of_group: str | None) -> None:
    """List the nodes; of labelled sets with the kind of method that made the labels, as far as it is known."""
    from aiida_plugin.data.structures import StructureSetData

    keys = ("n_structures", "n_atoms", "elements", "results", "label_kinds")
    filters = {"attributes.elements": {"contains": list(element)}} if element else {}
    table = [
        [*row, "-".join(elements), ", ".join(results), ", ".join(kinds or ())]
        for *row, elements, results, kinds in _rows(
            StructureSetData, ["label", *(f"attributes.{key}" for key in keys)], filters, of_group
        )
        if results or not labelled
    ]
    headers = ["PK", "Label", "Structures", "Atoms", "Elements", "Results", "Method"]
    _table(table, headers, shrinks=("Label", "Elements", "Results", "Method"))


@structures.command("show")
@node_argument("SET", "structures")
@decorators.with_dbenv()
def show_set(node: "StructureSetData") -> None:
    """Show what is known of a set, and its first ids."""
    with errors_in_words():
        ids = list(node.ids)
    shown = ids[:_SHOWN] + ([f"... and {len(ids) - _SHOWN} more"] if len(ids) > _SHOWN else [])
    _show(node, {**node.summary(), "ids": shown})


@structures.command("import")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@_LABEL
@_GROUP
@click.option("--skip-bad", is_flag=True, help="Leave out structures that cannot be read, rather than store nothing.")
@click.option("--order-disordered", is_flag=True, help="One ordered supercell where sites are partially occupied.")
@decorators.with_dbenv()
def import_set(paths: tuple[str, ...], label: str, group: str | None, skip_bad: bool, order_disordered: bool) -> None:
    """Store the structures of files, folders or globs as one set under the names that cgcnn-ase gives them.

    Exit code 1: some structures were left out (--skip-bad), each named on stderr.
    """
    from aiida_plugin.data.structures import read_set

    with errors_in_words():
        node, bad = read_set(paths, skip_bad=skip_bad, order_disordered=order_disordered)
        for line in bad:
            echo.echo_warning(line, err=True)
        node.label = label
        echo.echo_success(f"{len(node)} structures: node {node.store().pk}")
        _to_group(group, node)
    if bad:
        raise click.exceptions.Exit(1)


@structures.command("import-fetched")
@_FOLDER
@_LABEL
@_GROUP
@decorators.with_dbenv()
def import_fetched(folder: Path, label: str, group: str | None) -> None:
    """Store what `cgcnn-ase fetch --output FOLDER` wrote as one set: values as labels, provenance as an input."""
    from aiida_plugin.calculations.functions.fetch import store_fetched

    with errors_in_words():
        node = store_fetched(folder)
        node.label = label
        echo.echo_success(f"{len(node)} structures: node {node.pk}")
        _to_group(group, node)


@structures.command("from-nodes")
@click.argument("nodes", nargs=-1, metavar="NODE...", type=types.NodeParamType())
@click.option("--from-group", metavar="GROUP", help="All structures, CIF files, trajectories and sets of this group.")
@_LABEL
@_GROUP
@decorators.with_dbenv()
def from_nodes(nodes: "tuple[Data, ...]", from_group: str | None, label: str, group: str | None) -> None:
    """Make a set of AiiDA's StructureData, CifData and TrajectoryData (each step) and of sets, linked to each of them.

    The ids are the labels of the nodes.
    """
    from aiida_plugin.calculations.functions.structure_sets import set_of_group, set_of_nodes

    with errors_in_words():
        if bool(nodes) == (from_group is not None):
            raise ValueError("give either NODE... or --from-group")
        node = set_of_nodes(nodes) if from_group is None else set_of_group(from_group)
        _made(node, label, group)


@structures.command("subset")
@node_argument("SET", "structures")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_LABEL
@_GROUP
@decorators.with_dbenv()
def subset(node: "StructureSetData", ids: tuple[str, ...], label: str, group: str | None) -> None:
    """Make a set of these structures of SET, linked to it."""
    from aiida.orm import List

    from aiida_plugin.calculations.functions.structure_sets import subset

    with errors_in_words():
        _made(subset(node, List(list(ids))), label, group)


@structures.command("merge")
@click.argument(
    "sets",
    nargs=-1,
    required=True,
    metavar="SET...",
    type=types.DataParamType(sub_classes=("aiida.data:cgcnn.structures",)),
)
@_LABEL
@_GROUP
@decorators.with_dbenv()
def merge(sets: "tuple[StructureSetData, ...]", label: str, group: str | None) -> None:
    """Make one set of all structures of these sets, linked to them; labels of different kinds are refused."""
    from aiida_plugin.calculations.functions.structure_sets import merge_sets

    with errors_in_words():
        width = len(str(len(sets)))
        _made(merge_sets(**{f"set_{k:0{width}d}": each for k, each in enumerate(sets)}), label, group)


def _made(node: "StructureSetData", label: str, group: str | None) -> None:
    node.label = label or node.label
    _to_group(group, node)
    echo.echo_success(f"{len(node)} structures: node {node.pk}")


@structures.command("export")
@node_argument("SET", "structures")
@_PATH
@decorators.with_dbenv()
def export_set(node: "StructureSetData", path: Path) -> None:
    """Write a set to PATH: one .extxyz or packed .npz file, or a new folder of CIF files.

    An .extxyz file keeps moments, info and results that it can hold, an .npz file and CIF the structures alone; the
    names are kept in all of them.
    """
    from aiida_plugin.data.structures import write_set

    with errors_in_words():
        echo.echo_success(str(write_set(node, path)))


# Predictions


@click.group("cgcnn-predictions")
def predictions() -> None:
    """Predictions as nodes: list, show, export."""


@predictions.command("list")
@click.option("-m", "--model", help="Only predictions of the model of this name, or whose sha256 begins so.")
@_OF_GROUP
@decorators.with_dbenv()
def list_predictions(model: str | None, of_group: str | None) -> None:
    """List the nodes."""
    from aiida_plugin.data.predictions import PredictionsData

    by_model = [{"attributes.model": model}, {"attributes.model_sha256": {"like": f"{model}%"}}]
    keys = ("property", "unit", "model", "n_predictions", "n_out_of_domain", "n_failures", "model_sha256")
    filters = {} if model is None else {"or": by_model}
    rows = _rows(PredictionsData, [f"attributes.{key}" for key in keys], filters, of_group)
    headers = ["PK", "Property", "Unit", "Model", "N/out/bad", "sha256"]
    table = [[*row, f"{n}/{out}/{failed}", sha256[:_SHORT]] for *row, n, out, failed, sha256 in rows]
    _table(table, headers, shrinks=("Model",), last=("Property",))
    echo.echo("N predictions, out of them outside the model's domain, bad: structures without a prediction")


@predictions.command("show")
@node_argument("PREDICTIONS", "predictions", "stability")
@click.option("--id", "ids", multiple=True, help="Also the rows of this structure; may be given several times.")
@decorators.with_dbenv()
def show_predictions(node: "PredictionsData | StabilityData", ids: tuple[str, ...]) -> None:
    """Show what is known of predictions, or of energies above the hull, and which structures have none."""
    facts = dict(node.base.attributes.all)
    with errors_in_words():
        if failures := node.failures:
            facts["failures"] = dict(failures)
        if ids:
            frame = node.to_frame(ids)
            if missing := sorted(set(ids) - set(frame["id"])):
                raise ValueError(f"node {node.pk}: no prediction of {', '.join(missing)}")
            facts["rows"] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    _show(node, facts)


@predictions.command("export")
@node_argument("PREDICTIONS", "predictions", "stability")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@decorators.with_dbenv()
def export_predictions(node: "PredictionsData | StabilityData", path: Path) -> None:
    """Write the table to PATH, a .csv file like that of cgcnn-ase predict or stability, or .json."""
    with errors_in_words():
        write_table(node, path)
        echo.echo_success(str(path))


def write_table(node: "PredictionsData | StabilityData", path: Path) -> None:
    """Write the rows of a node to a .csv or .json file; another ending is a ValueError."""
    if path.suffix not in (".csv", ".json"):
        raise ValueError(f"{path}: allowed endings are .csv and .json")
    frame = node.to_frame()
    if path.suffix == ".csv":
        frame.to_csv(path, index=False, lineterminator="\n")
    else:
        frame.to_json(path, orient="records", indent=1, double_precision=15)

"""``verdi data cgcnn-model``: the models in a profile. Imported by each ``verdi data``, so nothing heavy here."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from aiida.cmdline.params import arguments, types
from aiida.cmdline.utils import decorators, echo

from aiida_plugin.cli.errors import errors_in_words

if TYPE_CHECKING:
    from aiida_plugin.data.model import CGCNNModelData

#: hex digits of a sha256 that tell models apart
_SHORT = 12

_MODEL = arguments.NODE(metavar="MODEL", type=types.DataParamType(sub_classes=("aiida.data:cgcnn.model",)))


@click.group("cgcnn-model")
def model() -> None:
    """Models of cgcnn-ase as nodes: list, show, import, export."""


@model.command("list")
@click.option("--name", help="Only nodes that hold a model of this name.")
@decorators.with_dbenv()
def list_models(name: str | None) -> None:
    """List the model nodes."""
    from aiida.orm import QueryBuilder

    from aiida_plugin.data.model import CGCNNModelData

    keys = ["names", "targets", "units", "architecture", "n_members", "sha256"]
    filters = {} if name is None else {"attributes.names": {"contains": [name]}}
    query = QueryBuilder().append(
        CGCNNModelData, filters=filters, project=["id", *(f"attributes.{key}" for key in keys)], tag="model"
    )
    rows = [
        [pk, "\n".join(names), "\n".join(targets), "\n".join(units), *shape, sha256[:_SHORT]]
        for pk, names, targets, units, *shape, sha256 in query.order_by({"model": {"id": "asc"}}).all()
    ]
    echo.echo_tabulate(rows, headers=["PK", "Name", "Property", "Unit", "Architecture", "Members", "sha256"])


@model.command("show")
@_MODEL
@decorators.with_dbenv()
def show_model(node: "CGCNNModelData") -> None:
    """Show what is known of a model, and whether its files are those that were stored."""
    with errors_in_words():
        node.contents()
    echo.echo_dictionary({"pk": node.pk, "uuid": node.uuid, **node.base.attributes.all}, fmt="yaml")


@model.command("import")
@click.argument("name")
@decorators.with_dbenv()
def import_model(name: str) -> None:
    """Store a model once: NAME is a pretrained name, a model or run folder, or an original .pth.tar file."""
    from aiida_plugin.data.model import CGCNNModelData

    with errors_in_words():
        node = CGCNNModelData.from_name(name)
    if (stored := node.stored()) is not None:
        echo.echo_report(f"{', '.join(node.names)}: stored already, as node {stored.pk}")
    else:
        echo.echo_success(f"{', '.join(node.names)}: node {node.store().pk}")


@model.command("export")
@_MODEL
@click.argument("folder", type=click.Path(path_type=Path))
@decorators.with_dbenv()
def export_model(node: "CGCNNModelData", folder: Path) -> None:
    """Write a model into a new FOLDER, for cgcnn-ase predict --model."""
    with errors_in_words():
        echo.echo_success(str(node.export(folder)))

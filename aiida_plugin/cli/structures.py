"""``verdi data cgcnn-structures``: the sets of structures in a profile. Imported by each ``verdi data``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from aiida.cmdline.params import arguments, types
from aiida.cmdline.utils import decorators, echo

from aiida_plugin.cli.errors import errors_in_words

if TYPE_CHECKING:
    from aiida_plugin.data.structures import StructureSetData

#: rows that show names
_SHOWN = 10

_SET = arguments.NODE(metavar="SET", type=types.DataParamType(sub_classes=("aiida.data:cgcnn.structures",)))


@click.group("cgcnn-structures")
def structures() -> None:
    """Sets of structures as nodes: list, show, import, import-fetched, export."""


@structures.command("list")
@click.option("--element", multiple=True, help="Only sets that hold this element; may be given several times.")
@click.option("--labelled", is_flag=True, help="Only sets with computed results.")
@decorators.with_dbenv()
def list_sets(element: tuple[str, ...], labelled: bool) -> None:
    """List the nodes."""
    from aiida.orm import QueryBuilder

    from aiida_plugin.data.structures import StructureSetData

    filters = {"attributes.elements": {"contains": list(element)}} if element else {}
    keys = ["n_structures", "n_atoms", "elements", "results"]
    query = QueryBuilder().append(
        StructureSetData, filters=filters, project=["id", "label", *(f"attributes.{key}" for key in keys)], tag="set"
    )
    rows = [
        [pk, label, n, n_atoms, "-".join(elements), ", ".join(results)]
        for pk, label, n, n_atoms, elements, results in query.order_by({"set": {"id": "asc"}}).all()
        if results or not labelled
    ]
    echo.echo_tabulate(rows, headers=["PK", "Label", "Structures", "Atoms", "Elements", "Results"])


@structures.command("show")
@_SET
@decorators.with_dbenv()
def show_set(node: "StructureSetData") -> None:
    """Show what is known of a set, and its first ids."""
    with errors_in_words():
        ids = list(node.ids)
    shown = ids[:_SHOWN] + ([f"... and {len(ids) - _SHOWN} more"] if len(ids) > _SHOWN else [])
    echo.echo_dictionary({"pk": node.pk, "uuid": node.uuid, **node.summary(), "ids": shown}, fmt="yaml")


@structures.command("import")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--label", default="", help="Label of the node.")
@click.option("--skip-bad", is_flag=True, help="Leave out structures that cannot be read, rather than store nothing.")
@click.option("--order-disordered", is_flag=True, help="One ordered supercell where sites are partially occupied.")
@decorators.with_dbenv()
def import_set(paths: tuple[str, ...], label: str, skip_bad: bool, order_disordered: bool) -> None:
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
    if bad:
        raise click.exceptions.Exit(1)


@structures.command("import-fetched")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--label", default="", help="Label of the node.")
@decorators.with_dbenv()
def import_fetched(folder: Path, label: str) -> None:
    """Store what `cgcnn-ase fetch --output FOLDER` wrote as one set: values as labels, provenance as an input."""
    from aiida_plugin.provenance.fetched import store_fetched

    with errors_in_words():
        node = store_fetched(folder)
        node.label = label
        echo.echo_success(f"{len(node)} structures: node {node.pk}")


@structures.command("export")
@_SET
@click.argument("path", type=click.Path(path_type=Path))
@decorators.with_dbenv()
def export_set(node: "StructureSetData", path: Path) -> None:
    """Write a set to PATH: one .extxyz or packed .npz file, or a new folder of CIF files.

    An .extxyz file keeps moments, info and results that it can hold, an .npz file and CIF the structures alone; the
    names are kept in all of them.
    """
    from aiida_plugin.data.structures import write_set

    with errors_in_words():
        echo.echo_success(str(write_set(node, path)))

"""Fetched data into the graph: from a database, or from a folder that ``cgcnn-ase fetch`` wrote."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from aiida.orm import Dict, FolderData

from aiida_plugin.calculations.functions.fetch import PROPERTIES, STRUCTURES, fetch
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.sources.fetch import fetch as fetch_from

if TYPE_CHECKING:
    from cgcnn_ase.sources.client import Query, ReferenceClient

_PROVENANCE = "provenance.json"


def store_fetched(folder: str | Path) -> StructureSetData:
    """The set of a fetched folder, made by ``cgcnn.fetch`` of its files and its provenance.

    Parameters
    ----------
    folder
        What `cgcnn_ase.sources.fetch.fetch` or ``cgcnn-ase fetch`` wrote.

    Raises
    ------
    ValueError
        If the folder is none of that kind, or its files do not belong together.
    """
    folder = Path(folder)
    needed = (STRUCTURES, PROPERTIES, _PROVENANCE)
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise ValueError(f"{folder}: no {' and no '.join(missing)}; needed is a folder that `cgcnn-ase fetch` wrote")
    provenance = json.loads((folder / _PROVENANCE).read_text(encoding="utf-8"))
    files = FolderData()
    for name in (STRUCTURES, PROPERTIES):
        files.base.repository.put_object_from_file(str(folder / name), name)
    node: StructureSetData = fetch(Dict(provenance), files)
    return node


def fetch_into_aiida(
    client: "ReferenceClient",
    query: "Query",
    *,
    fields: Sequence[str],
    cache: Path | None = None,
    offline: bool = False,
    progress: bool = False,
) -> StructureSetData:
    """Fetch the records of a query, and store them as a set with its provenance.

    Parameters
    ----------
    client, query, fields, cache, offline, progress
        See :func:`cgcnn_ase.sources.fetch.fetch`, which also says what is raised.
    """
    with TemporaryDirectory() as folder:
        fetch_from(client, query, folder, fields=fields, cache=cache, offline=offline, progress=progress)
        return store_fetched(folder)

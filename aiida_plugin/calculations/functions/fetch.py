"""``cgcnn.fetch``: structures with labels from a database, or from a folder of ``cgcnn-ase fetch``, as a set."""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from aiida.engine import calcfunction
from aiida.orm import Dict, FolderData

from aiida_plugin.data.labels import SCHEME
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.sources.client import SCHEME as WORDS
from cgcnn_ase.sources.fetch import fetch as write_fetched
from cgcnn_ase.sources.properties import ENERGIES
from cgcnn_ase.structures.packed import load_packed

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.sources.client import Query, ReferenceClient

STRUCTURES, PROPERTIES, PROVENANCE = "structures.npz", "properties.csv.gz", "provenance.json"
_OF_STRUCTURE = ("id", "reduced_formula", "nsites")  # columns that say nothing which the structure does not


@calcfunction
def fetch(provenance: Dict, files: FolderData) -> StructureSetData:
    """Make a set of structures of fetched files.

    Parameters
    ----------
    provenance
        The ``provenance.json`` of the fetched folder: provider, address, database version, query, fields and their
        units, licence, citations; no key.
    files
        Its ``structures.npz`` and ``properties.csv.gz``.

    Returns
    -------
    StructureSetData
        Under the ids of the database. The info of each structure has its properties by name, which training takes as
        labels, and what the database says in words; a value that the database does not have is absent. Where energies
        are among the properties, the label scheme names provider, functional and corrections, so that they are not
        mixed with others.

    Raises
    ------
    ValueError
        If a file is missing, or the two do not belong together.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        files.base.repository.copy_tree(folder)
        if missing := [each for each in (STRUCTURES, PROPERTIES) if not (folder / each).is_file()]:
            raise ValueError(f"the files lack {', '.join(missing)}")
        packed = load_packed(folder / STRUCTURES)
        ids = [str(each) for each in packed.ids]
        labelled = _labelled(packed.atoms(), folder / PROPERTIES, provenance.get_dict())
        return StructureSetData.from_ase(labelled, ids)


def _labelled(
    structures: "Iterator[tuple[str, Atoms]]", properties: Path, provenance: Mapping[str, Any]
) -> "Iterator[Atoms]":
    """Yield each structure with its row of the properties."""
    fields = provenance["fields"]
    with gzip.open(properties, "rt", encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        for name, atoms in structures:
            row = next(rows, None)
            if row is None or row["id"] != name:
                other = "nothing" if row is None else repr(row["id"])
                raise ValueError(f"{PROPERTIES} has {other} where {STRUCTURES} has {name!r}")
            known = {key: value for key, value in row.items() if value and key not in _OF_STRUCTURE}
            atoms.info = {key: float(value) if key in fields else value for key, value in known.items()}
            if any(field in ENERGIES for field in fields):
                scheme = {word: known.get(word, "not stated") for word in WORDS}
                atoms.info[SCHEME] = {"engine": provenance["provider"], **scheme}
            yield atoms
        if (row := next(rows, None)) is not None:
            raise ValueError(f"{PROPERTIES} has {row['id']!r}, {STRUCTURES} has not")


def store_fetched(folder: str | Path) -> StructureSetData:
    """Store a fetched folder as a set, made by ``cgcnn.fetch`` of its files and its provenance.

    Parameters
    ----------
    folder
        Written by `cgcnn_ase.sources.fetch.fetch` or ``cgcnn-ase fetch``.

    Raises
    ------
    ValueError
        If the folder is none of that kind, or its files do not belong together.
    """
    folder = Path(folder)
    if missing := [name for name in (STRUCTURES, PROPERTIES, PROVENANCE) if not (folder / name).is_file()]:
        raise ValueError(f"{folder}: no {' and no '.join(missing)}; needed is a folder that `cgcnn-ase fetch` wrote")
    provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
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
        write_fetched(client, query, folder, fields=fields, cache=cache, offline=offline, progress=progress)
        return store_fetched(folder)

"""``cgcnn.fetch``: what ``cgcnn-ase fetch`` brought from a database, as a set of structures with labels."""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from aiida.engine import calcfunction
from aiida.orm import Dict, FolderData

from aiida_plugin.data.labels import SCHEME
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.sources.client import SCHEME as WORDS
from cgcnn_ase.sources.properties import ENERGIES
from cgcnn_ase.structures.packed import load_packed

if TYPE_CHECKING:
    from ase import Atoms

STRUCTURES, PROPERTIES = "structures.npz", "properties.csv.gz"
#: columns that say nothing which the structure does not
_OWN = ("id", "reduced_formula", "nsites")


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
    structures: "Iterator[tuple[str, Atoms]]", properties: Path, provenance: dict[str, Any]
) -> "Iterator[Atoms]":
    """Each structure with its row of the properties."""
    fields = provenance["fields"]
    with gzip.open(properties, "rt", encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        for name, atoms in structures:
            row = next(rows, None)
            if row is None or row["id"] != name:
                result = "nothing" if row is None else repr(row["id"])
                raise ValueError(f"{PROPERTIES} has {result} where {STRUCTURES} has {name!r}")
            labels = {key: value for key, value in row.items() if value and key not in _OWN}
            atoms.info = {key: float(value) if key in fields else value for key, value in labels.items()}
            if any(field in ENERGIES for field in fields):
                known = {word: labels.get(word, "not stated") for word in WORDS}
                atoms.info[SCHEME] = {"engine": provenance["provider"], **known}
            yield atoms
        if (row := next(rows, None)) is not None:
            raise ValueError(f"{PROPERTIES} has {row['id']!r}, {STRUCTURES} has not")

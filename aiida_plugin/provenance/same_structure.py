"""All predictions of one structure, by every model, in whatever set it was predicted."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import numpy as np
from aiida.manage import get_manager
from aiida.orm import CalculationNode, QueryBuilder, load_node
from aiida.repository import Repository

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structure_archive.arrays import HASHES, hash_of_atoms
from aiida_plugin.data.structure_archive.reader import Open, read_hashes, read_ids
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

# columns of `predictions_of` besides those of the predictions: pks of the nodes
NODES = ("predictions_pk", "model_pk", "structures_pk", "job_pk")


class _Hit(NamedTuple):
    """Predictions of a set, and the ids under which the structure is in it."""

    pks: tuple[int, int | None, int, int]
    ids: list[str]


def predictions_of(structure: "Atoms | str") -> "pd.DataFrame":
    """Find all predictions of one structure, the oldest first.

    Parameters
    ----------
    structure
        The structure itself, found by its content: same cell, periodicity, elements and positions to 0.001 Å, atoms in
        the same order, under whatever id. Or an id: all structures that go by it, in any set.

    Returns
    -------
    DataFrame
        The columns of `PredictionsData.to_frame` (values in ``unit``) and the pks of the predictions, model, structure
        set and job. ``attrs["failures"]`` lists (pk of the predictions, id, reason) of models that could say nothing.

    Notes
    -----
    One query finds the predictions of all sets that hold the elements; of each set only the hashes (8 bytes a
    structure) or the ids are read, and of predictions only the rows asked for.
    """
    import pandas as pd

    frames, failures = [], []
    for hit in _hits(structure):
        predictions = cast(PredictionsData, load_node(hit.pks[0]))
        frame = predictions.to_frame(hit.ids)
        frames.append(frame.assign(**dict(zip(NODES, hit.pks, strict=True))))
        result = set(frame["id"])
        if len(result) < len(hit.ids):
            reasons = dict(predictions.failures)
            failures += [(hit.pks[0], name, reasons[name]) for name in hit.ids if name in reasons]
    whole = [frame for frame in frames if not frame.empty]
    table = pd.concat(whole, ignore_index=True) if whole else pd.DataFrame(columns=["id", "value", "std", *NODES])
    table.attrs["failures"] = failures
    return table


def _hits(structure: "Atoms | str") -> list[_Hit]:
    result: dict[int, _Hit] = {}
    places: dict[int, list[str]] = {}
    find, store = _finder(structure), get_manager().get_profile_storage().get_repository()
    rows = _query(structure).all()
    may_hold = _candidates({structures: files for _, _, _, structures, files in rows}, structure)
    for predictions, job, model, structures, files in rows:
        if structures not in places:
            is_of = structures in may_hold
            places[structures] = find(Repository.from_serialized(store, files).open) if is_of else []
        if ids := places[structures]:
            result.setdefault(predictions, _Hit((predictions, model, structures, job), ids))
    return [result[pk] for pk in sorted(result)]


def _query(structure: "Atoms | str") -> QueryBuilder:
    """Query pks of predictions, job, model and set, and the set's files, of what may be of the structure.

    Columns only: to load ten thousand nodes would take seconds.
    """
    filters: dict[str, Any] = {}
    if not isinstance(structure, str):
        filters = {"attributes.elements": {"contains": sorted(set(structure.get_chemical_symbols()))}}
    query = QueryBuilder().append(PredictionsData, tag="predictions", project="id")
    query.append(CalculationNode, tag="job", with_outgoing="predictions", project="id")
    query.append(CGCNNModelData, tag="model", with_outgoing="job", outerjoin=True, project="id")
    query.append(
        StructureSetData, tag="structures", with_outgoing="job", filters=filters, project=["id", "repository_metadata"]
    )
    return query


def _candidates(files: dict[int, dict[str, Any]], structure: "Atoms | str") -> set[int]:
    """Find the sets whose hashes (or ids) name the structure, and those without that file.

    All files are asked for at once: to open a thousand one by one takes seconds.
    """
    name = "ids.json" if isinstance(structure, str) else HASHES
    owners: dict[str, list[int]] = {}
    result: set[int] = set()
    for pk, entry in files.items():
        if name in entry["o"]:
            owners.setdefault(entry["o"][name]["k"], []).append(pk)
        else:
            result.add(pk)
    is_in = _matcher(structure)
    for key, stream in get_manager().get_profile_storage().get_repository().iter_object_streams(list(owners)):
        if is_in(partial(_open_content, stream.read())):
            result.update(owners[key])
    return result


def _open_content(content: bytes, _: str) -> AbstractContextManager[BinaryIO]:
    """Open the one file that was read already."""
    return BytesIO(content)


def _matcher(structure: "Atoms | str") -> Callable[[Open], bool]:
    """Tells whether the structure is in a set."""
    if isinstance(structure, str):
        return lambda open_file: structure in read_ids(open_file)
    content_hash = np.uint64(hash_of_atoms(structure))
    return lambda open_file: bool((read_hashes(open_file) == content_hash).any())


def _finder(structure: "Atoms | str") -> Callable[[Open], list[str]]:
    """Gives the ids of the structure in a set."""
    if isinstance(structure, str):
        return lambda open_file: [structure] if structure in read_ids(open_file) else []
    wanted = np.uint64(hash_of_atoms(structure))

    def find(open_file: Open) -> list[str]:
        rows = np.flatnonzero(read_hashes(open_file) == wanted).tolist()
        if not rows:
            return []
        ids = read_ids(open_file)
        return [ids[row] for row in rows]

    return find

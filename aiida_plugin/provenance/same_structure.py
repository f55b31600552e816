"""All predictions of one structure, by every model, in whatever set it was predicted."""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
from aiida.manage import get_manager
from aiida.orm import CalculationNode, QueryBuilder, StructureData, load_node
from aiida.repository import Repository

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structure_archive.archive import (
    Open,
    read_geometries,
    read_hashes,
    read_ids,
    rows_of_composition,
)
from aiida_plugin.data.structure_archive.arrays import HASHES, hash_of_atoms
from aiida_plugin.data.structures import SINGLE, StructureSetData

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

    from cgcnn_ase.graphs.crystal_graph import Geometry

# columns of `predictions_of` besides those of the predictions: pks of the nodes, and how the structure was found
NODES = ("predictions_pk", "model_pk", "structures_pk", "job_pk")
Match = Literal["id", "exact", "similar"]
TOLERANCE = 1e-3  # Å
MAX_COMPARED = 2000
_BATCH = 200  # sets whose files are read at once

Matches = dict[int, dict[str, Match]]  # by pk of the set, then by id


class _Hit(NamedTuple):
    """Predictions of a set, and the ids under which the structure is in it."""

    pks: tuple[int, int | None, int, int]
    ids: dict[str, Match]


class _Search(NamedTuple):
    """Sets and structures that were predicted and may hold the structure."""

    jobs: list[tuple[int, int | None, int, int]]  # pks of predictions, model, structures, job
    sets: dict[int, dict[str, Any]]  # files of each set by pk
    single: dict[int, "Atoms"]  # structures that were predicted as AiiDA's own nodes, by pk


def predictions_of(
    structure: "Atoms | str",
    *,
    tolerance: float = TOLERANCE,
    max_compared: int = MAX_COMPARED,
    progress: bool = False,
) -> "pd.DataFrame":
    """Find all predictions of one structure, the oldest first.

    Parameters
    ----------
    structure
        The structure itself, under whatever id: first that with the same cell, elements and positions to 0.001 Å, atoms
        in the same order; then what pymatgen's ``StructureMatcher`` finds within the tolerance: rotated, shifted, atoms
        in another order, in another cell or supercell. Or an id: all structures that go by it, in any set.
    tolerance
        Largest distance of sites (root mean square over the atoms) and of cell vectors, Å; 0 looks for the first kind
        alone. Structures that do not repeat in all directions are found by the first kind only.
    max_compared
        Structures of the same composition and volume that the matcher compares at most, those nearest in volume first.
    progress
        Whether to show a progress bar on stderr.

    Returns
    -------
    DataFrame
        The columns of `PredictionsData.to_frame` (values in ``unit``), the pks of the predictions, model, structure
        set and job, and ``match``: exact, similar, or id. ``attrs["failures"]`` lists (pk of the predictions, id,
        reason) of models that could say nothing; ``attrs["n_compared"]`` and ``attrs["not_compared"]`` count what the
        matcher compared, and what it would have had to compare beyond `max_compared`.

    Notes
    -----
    One query finds the predictions of all sets that hold the elements. Of each set the hashes (8 bytes a structure) or
    the ids are read, to match also cells and atomic numbers; positions only of structures of the same composition and
    volume per atom, and of predictions only the rows asked for.
    """
    import pandas as pd

    if tolerance < 0:
        raise ValueError(f"tolerance must be 0 or more, not {tolerance} Å")
    search = _search(structure)
    compared = {"n_compared": 0, "not_compared": 0}
    if isinstance(structure, str):
        matches = _by_id(search, structure)
    else:
        matches = _exact(search, structure)
        if tolerance > 0 and structure.pbc.all():
            compared = _add_similar(matches, search, structure, tolerance, max_compared, progress)
    frames, failures = [], []
    for hit in _hits(search, matches):
        predictions = cast(PredictionsData, load_node(hit.pks[0]))
        frame = predictions.to_frame(hit.ids)
        columns = dict(zip(NODES, hit.pks, strict=True))
        frames.append(frame.assign(**columns, match=[hit.ids[name] for name in frame["id"]]))
        result = set(frame["id"])
        if len(result) < len(hit.ids):
            reasons = dict(predictions.failures)
            failures += [(hit.pks[0], name, reasons[name]) for name in hit.ids if name in reasons]
    whole = [frame for frame in frames if not frame.empty]
    table = pd.concat(whole, ignore_index=True) if whole else pd.DataFrame(columns=["id", "value", "std", *NODES])
    table.attrs |= {"failures": failures, **compared}
    return table


def is_known_id(id: str) -> bool:
    """Tell whether any stored set, predicted or not, has a structure of this id."""
    query = QueryBuilder().append(StructureSetData, project=["id", "repository_metadata"])
    return any(id in read_ids(open_file) for _, open_file in _files(dict(query.all()), ("ids.json",)))


def _hits(search: _Search, matches: Matches) -> list[_Hit]:
    result = {pks[0]: _Hit(pks, matches[pks[2]]) for pks in reversed(search.jobs) if matches.get(pks[2])}
    return [result[pk] for pk in sorted(result)]


def _search(structure: "Atoms | str") -> _Search:
    """Query pks of predictions, job, model and structures, and the sets' files, of what may be of the structure.

    Columns only: to load ten thousand nodes would take seconds.
    """
    filters: dict[str, Any] = {}
    if not isinstance(structure, str):
        filters = {"attributes.elements": {"contains": sorted(set(structure.get_chemical_symbols()))}}
    rows = _query(StructureSetData, filters, ["id", "repository_metadata"])
    single = _query(StructureData, {}, ["id", "*"]) if structure == SINGLE or not isinstance(structure, str) else []
    jobs = [(predictions, model, pk, job) for predictions, job, model, pk, _ in [*rows, *single]]
    atoms = {pk: node.get_ase() for *_, pk, node in single if not (node.is_alloy or node.has_vacancies)}
    return _Search(jobs, {pk: files for *_, pk, files in rows}, atoms)


def _query(kind: type, filters: dict[str, Any], project: list[str]) -> list[list[Any]]:
    query = QueryBuilder().append(PredictionsData, tag="predictions", project="id")
    query.append(CalculationNode, tag="job", with_outgoing="predictions", project="id")
    query.append(CGCNNModelData, tag="model", with_outgoing="job", outerjoin=True, project="id")
    query.append(kind, tag="structures", with_outgoing="job", filters=filters, project=project)
    return query.all()


def _files(sets: dict[int, dict[str, Any]], names: tuple[str, ...]) -> Iterator[tuple[int, Open]]:
    """Yield each set with what opens these files of it, and the others.

    The named ones of many sets are asked for at once: to open a thousand one by one takes seconds.
    """
    store = get_manager().get_profile_storage().get_repository()
    batches = iter(sets.items())
    while batch := list(islice(batches, _BATCH)):
        keys = {files["o"][name]["k"] for _, files in batch for name in names if name in files["o"]}
        contents = {key: stream.read() for key, stream in store.iter_object_streams(list(keys))}
        for pk, files in batch:
            yield pk, _opener(files, contents, Repository.from_serialized(store, files).open)


def _opener(files: dict[str, Any], contents: dict[str, bytes], open_stored: Open) -> Open:
    def open_file(name: str) -> AbstractContextManager[BinaryIO]:
        key = files["o"].get(name, {}).get("k")
        return BytesIO(contents[key]) if key in contents else open_stored(name)

    return open_file


def _by_id(search: _Search, id: str) -> Matches:
    matches: Matches = {
        pk: {id: "id"} for pk, open_file in _files(search.sets, ("ids.json",)) if id in read_ids(open_file)
    }
    return matches | {pk: {id: "id"} for pk in search.single}


def _exact(search: _Search, structure: "Atoms") -> Matches:
    """By the hash of the content."""
    content_hash = np.uint64(hash_of_atoms(structure))
    matches: Matches = {}
    for pk, open_file in _files(search.sets, (HASHES,)):
        if len(rows := np.flatnonzero(read_hashes(open_file) == content_hash)):
            ids = read_ids(open_file)
            matches[pk] = {ids[row]: "exact" for row in rows.tolist()}
    for pk, atoms in search.single.items():
        if hash_of_atoms(atoms) == content_hash:
            matches[pk] = {SINGLE: "exact"}
    return matches


def _add_similar(
    matches: Matches, search: _Search, structure: "Atoms", tolerance: float, max_compared: int, progress: bool
) -> dict[str, int]:
    """Add what the matcher finds among structures of the same composition; say how many it compared and did not."""
    from cgcnn_ase.graphs.crystal_graph import geometry
    from cgcnn_ase.inspection.duplicates import MatchTolerances, find_common

    volume = structure.get_volume()
    edge, spacing = volume ** (1 / 3), (volume / len(structure)) ** (1 / 3)
    strain = 3 * tolerance / edge  # of the volume, where each edge is off by the tolerance
    limits = MatchTolerances(
        length=tolerance / edge, angle=float(np.degrees(tolerance / edge)), site=tolerance / spacing, volume=strain,
        primitive=2 * tolerance, written=tolerance, max_pairs=max_compared,
    )  # fmt: skip
    places: list[tuple[int, str]] = []
    candidates: list[Geometry] = []
    for pk, name, candidate in _candidates(search, structure, strain):
        if name not in matches.get(pk, ()):
            places.append((pk, name))
            candidates.append(candidate)
    common = find_common([geometry(structure)], candidates, sameness=limits, progress=progress)
    for _, k in common.pairs:
        pk, name = places[k]
        matches.setdefault(pk, {})[name] = "similar"
    return {"n_compared": common.n_compared, "not_compared": sum(common.not_compared.values())}


def _candidates(search: _Search, structure: "Atoms", strain: float) -> Iterator[tuple[int, str, "Geometry"]]:
    """Yield structures of the same composition and volume per atom, with the set and the id."""
    from cgcnn_ase.graphs.crystal_graph import geometry

    composition = dict(Counter(structure.numbers.tolist()))
    per_atom = structure.get_volume() / len(structure)
    volumes = (per_atom * (1 - strain), per_atom * (1 + strain))
    for pk, open_file in _files(search.sets, ("offsets.npy", "numbers.npy", "lattice.npy")):
        rows = rows_of_composition(open_file, composition, volumes)
        if len(rows):
            ids, geometries = read_ids(open_file), read_geometries(open_file, rows)
            yield from ((pk, ids[row], each) for row, each in zip(rows.tolist(), geometries, strict=True))
    for pk, atoms in search.single.items():
        yield pk, SINGLE, geometry(atoms)

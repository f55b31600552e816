"""A set of structures cut into shards, and the predictions of the shards joined into one node."""

import csv
from io import StringIO
from itertools import islice, pairwise

from aiida.engine import calcfunction
from aiida.orm import FolderData, Int

from aiida_plugin.calculations.predict import FAILURES
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData


def shard_name(k: int) -> str:
    """Name shard `k`, from 0; names sort as numbers do."""
    return f"shard_{k:04d}"


@calcfunction
def cut(structures: StructureSetData, n_shards: Int) -> dict[str, StructureSetData]:
    """Cut a set into consecutive parts, under the same ids, of sizes that differ by one at most.

    Parameters
    ----------
    structures
        The set; it is read once, in bounded memory.
    n_shards
        How many parts; at most as many as there are structures.

    Returns
    -------
    dict
        From ``shard_0000`` on.

    Raises
    ------
    ValueError
        If there are to be none, or more than structures.
    """
    n, total = n_shards.value, len(structures)
    if not 1 <= n <= total:
        raise ValueError(f"{total} structures cannot be cut into {n} shards; allowed are 1 to {total}")
    bounds = [k * total // n for k in range(n + 1)]
    atoms, ids = structures.iter_atoms(), structures.ids
    return {
        shard_name(k): StructureSetData.from_ase(islice(atoms, stop - start), ids[start:stop])
        for k, (start, stop) in enumerate(pairwise(bounds))
    }


@calcfunction
def join(**shards: PredictionsData | FolderData) -> PredictionsData:
    """Join the predictions of shards into one node, in the order of the shards' names.

    Parameters
    ----------
    **shards
        The predictions of each shard; of one in which no structure could be predicted, what its job retrieved.

    Raises
    ------
    ValueError
        If none of them has predictions, or they are not all of one model.
    """
    parts = [shards[name] for name in sorted(shards)]
    predicted = [part for part in parts if isinstance(part, PredictionsData)]
    if not predicted:
        raise ValueError("none of the shards has predictions")
    failures: list[tuple[str, str]] = []
    for part in parts:
        failures += part.failures if isinstance(part, PredictionsData) else failures_of(part)
    return PredictionsData.joined(predicted, failures)


def failures_of(retrieved: FolderData) -> list[tuple[str, str]]:
    """Read id and error of each structure that a prediction job could not predict."""
    text = retrieved.base.repository.get_object_content(FAILURES, "r")
    return [(row["id"], row["error"]) for row in csv.DictReader(StringIO(text))]

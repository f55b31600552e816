"""All predictions of one structure, by every model, in whatever set it was predicted."""

from typing import TYPE_CHECKING, Any, NamedTuple

from aiida.orm import CalculationNode, QueryBuilder

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

#: columns of `predictions_of` besides those of the predictions: pks of the nodes
NODES = ("predictions_pk", "model_pk", "structures_pk", "job_pk")


class _Hit(NamedTuple):
    """Predictions of a set, and the ids under which the structure is in it."""

    predictions: PredictionsData
    pks: tuple[int | None, ...]
    ids: list[str]


def predictions_of(structure: "Atoms | str") -> "pd.DataFrame":
    """All predictions of one structure, the oldest first.

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
        frame = hit.predictions.to_frame(hit.ids)
        frames.append(frame.assign(**dict(zip(NODES, hit.pks, strict=True))))
        found = set(frame["id"])
        if len(found) < len(hit.ids):
            reasons = dict(hit.predictions.failures)
            failures += [(hit.pks[0], name, reasons[name]) for name in hit.ids if name in reasons]
    whole = [frame for frame in frames if not frame.empty]
    table = pd.concat(whole, ignore_index=True) if whole else pd.DataFrame(columns=["id", "value", "std", *NODES])
    table.attrs["failures"] = failures
    return table


def _hits(structure: "Atoms | str") -> list[_Hit]:
    found: dict[int, _Hit] = {}
    places: dict[int, list[str]] = {}
    for structures, job, predictions, model in _query(structure).all():
        if structures.pk not in places:
            places[structures.pk] = _ids_in(structures, structure)
        if ids := places[structures.pk]:
            found.setdefault(predictions.pk, _Hit(predictions, (predictions.pk, model, structures.pk, job), ids))
    return list(found.values())


def _query(structure: "Atoms | str") -> QueryBuilder:
    """Set, pk of the job, predictions, and pk of the model, of every prediction that may be of the structure."""
    filters: dict[str, Any] = {}
    if not isinstance(structure, str):
        filters = {"attributes.elements": {"contains": sorted(set(structure.get_chemical_symbols()))}}
    query = QueryBuilder().append(StructureSetData, tag="structures", filters=filters, project="*")
    query.append(CalculationNode, tag="job", with_incoming="structures", project="id")
    query.append(PredictionsData, tag="predictions", with_incoming="job", project="*")
    query.append(CGCNNModelData, tag="model", with_outgoing="job", outerjoin=True, project="id")
    return query.order_by({"predictions": {"id": "asc"}})


def _ids_in(structures: StructureSetData, structure: "Atoms | str") -> list[str]:
    if isinstance(structure, str):
        return [structure] if structure in structures.ids else []
    import numpy as np

    from aiida_plugin.data.structure_hash import hash_of_atoms

    rows = np.flatnonzero(structures.hashes == np.uint64(hash_of_atoms(structure)))
    return [structures.ids[row] for row in rows.tolist()]

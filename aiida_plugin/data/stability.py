"""How stable predicted structures are, as a node."""

import json
from collections.abc import Collection, Iterable
from dataclasses import fields
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any, get_type_hints

from aiida.orm import Data

from aiida_plugin.data import attribute
from aiida_plugin.data.columns import Column, Kind, read_columns, write_columns
from aiida_plugin.data.predictions import LISTED, TableData

if TYPE_CHECKING:
    import pandas as pd

    from cgcnn_ase.stability.results import Stability, StabilityResults

# what all rows share stands in attributes; where a file lay, and why there is no row, are no columns
_SHARED = ("within", "scale", "hull_source", "hull_sha256", "model", "model_sha256")
_NO_COLUMNS = (*_SHARED, "source", "error")
_PARTS, _GAINS = "decomposition", "gains"  # kept as JSON
_LISTED_COLUMNS = ("e_above_hull", "e_above_hull_std", "p_stable")
_LIKELY = 0.5  # probability above which a structure counts as likely to be stable


class StabilityData(TableData):
    """Energies above the hull, probabilities of being stable, and decompositions, as of `cgcnn_ase.stability`.

    The rows are in the node's repository, with all digits; energies in eV/atom. Attributes: ``within``, ``scale``,
    ``hull_source`` and ``hull_sha256`` (of the competing phases), ``model`` and ``model_sha256``, and the counts
    ``n_structures`` (that have a row), ``n_likely`` (more likely than not to be stable), ``n_out_of_domain`` and
    ``n_failures``. To be queried there are ``e_above_hull_min``, and of up to 100 structures ``ids``,
    ``e_above_hull``, ``e_above_hull_std`` and ``p_stable``.

    Parameters
    ----------
    rows : iterable of Stability
        In the order of the structures; those with an ``error`` are listed as failures.

    Raises
    ------
    ValueError
        If there are none, or of several models or hulls.
    """

    class AttributesModel(TableData.AttributesModel):
        """Fields for queries: ``StabilityData.fields.attributes.e_above_hull_min`` and so on."""

        within: float = attribute("within", "Distance above the hull up to which a crystal counts as stable, eV/atom")
        scale: str = attribute("scale", "The corrections that all energies carry")
        hull_source: str = attribute("hull_source", "The competing phases, in words")
        hull_sha256: str = attribute("hull_sha256", "The sha256 of the competing phases")
        model: str = attribute("model", "The name of the model")
        model_sha256: str = attribute("model_sha256", "The sha256 of its weights")
        n_structures: int = attribute("n_structures", "How many structures have a row")
        n_likely: int = attribute("n_likely", "How many are more likely than not to be stable")
        n_out_of_domain: int = attribute("n_out_of_domain", "How many are outside the model's domain")
        n_failures: int = attribute("n_failures", "How many structures have no row")
        e_above_hull_min: float | None = attribute("e_above_hull_min", "The lowest, eV/atom", default=None)
        ids: list[str] | None = attribute("ids", f"The ids of up to {LISTED} structures", default=None)
        e_above_hull: list[float | None] | None = attribute("e_above_hull", "Of these, eV/atom", default=None)
        e_above_hull_std: list[float | None] | None = attribute("e_above_hull_std", "Their stds, eV/atom", default=None)
        p_stable: list[float | None] | None = attribute("p_stable", "Their probabilities", default=None)

    _file, _made_by = "stability.npz", "__init__(rows of cgcnn_ase.stability)"

    def __init__(self, rows: "Iterable[Stability] | None" = None, **kwargs: Any) -> None:
        Data.__init__(self, **kwargs)
        if rows is None:
            return
        everything = list(rows)
        shared = {tuple(getattr(row, name) for name in _SHARED) for row in everything}
        if len(shared) != 1:
            what = "of several models or hulls" if shared else "none"
            raise ValueError(f"a node holds the rows of one model and one hull; these are {what}")
        done = [row for row in everything if row.error is None]
        columns: dict[str, Column] = {name: [getattr(row, name) for row in done] for name in _kinds()}
        columns[_PARTS] = [json.dumps([vars(part) for part in parts]) for parts in columns[_PARTS]]
        columns[_GAINS] = [None if gains is None else json.dumps(gains) for gains in columns[_GAINS]]
        above = [row.e_above_hull for row in done if row.e_above_hull is not None and isfinite(row.e_above_hull)]
        failures = [(row.id, str(row.error)) for row in everything if row.error is not None]
        figures: dict[str, object] = {
            "n_structures": len(done),
            "n_likely": sum((row.p_stable or 0.0) > _LIKELY for row in done),
            "n_out_of_domain": sum(row.in_domain is False for row in done),
            "n_failures": self._put(write_columns(columns, _kinds()), failures),
        }
        if above:
            figures["e_above_hull_min"] = min(above)
        if len(done) <= LISTED:
            figures["ids"] = list(columns["id"])
            figures |= {name: [_finite(x) for x in columns[name]] for name in _LISTED_COLUMNS}
        self.base.attributes.set_many(dict(zip(_SHARED, shared.pop(), strict=True)) | figures)

    def __len__(self) -> int:
        return int(self.base.attributes.get("n_structures"))

    def results(self, ids: Collection[str] | None = None) -> "StabilityResults":
        """The rows as `cgcnn_ase.stability` gives them, but for the files that structures came from.

        Parameters
        ----------
        ids
            Only these structures; an id that there is none of is left out.
        """
        from cgcnn_ase.stability.predicted_phases import DecompositionPart
        from cgcnn_ase.stability.results import Stability, StabilityResults

        shared = {name: self.base.attributes.get(name) for name in _SHARED} | {"source": ""}
        columns = read_columns(self._content(), ids, _kinds())
        columns[_PARTS] = [tuple(DecompositionPart(**part) for part in json.loads(text)) for text in columns[_PARTS]]
        if _GAINS in columns:  # not in nodes of early versions, whose hulls have no predicted phases
            columns[_GAINS] = [None if text is None else json.loads(text) for text in columns[_GAINS]]
        rows = [
            Stability(**shared, **dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)
        ]
        failed = [(name, error) for name, error in self.failures if ids is None or name in ids]
        return StabilityResults([*rows, *(Stability(**shared, id=name, error=error) for name, error in failed)])

    def to_frame(self, ids: Collection[str] | None = None) -> "pd.DataFrame":
        """The table of :meth:`cgcnn_ase.stability.results.StabilityResults.to_frame`; energies in eV/atom."""
        return self.results(ids).to_frame()


def _finite(number: float | None) -> float | None:
    return number if number is not None and isfinite(number) else None


@cache
def _kinds() -> dict[str, Kind]:
    """The kind of each column, by the type of its field."""
    from cgcnn_ase.stability.results import Stability

    kinds: dict[type, Kind] = {str: "text", float: "number", int: "whole", bool: "flag"}
    types = get_type_hints(Stability)
    names = [each.name for each in fields(Stability) if each.name not in _NO_COLUMNS]
    return {name: next((kinds[t] for t in kinds if types[name] in (t, t | None)), "text") for name in names}

"""The predictions of one model on one set of structures, as a node."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import fsum, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiida.common.exceptions import ValidationError
from aiida.orm import Data

from aiida_plugin.data import attribute
from aiida_plugin.data.columns import CONSTANT_COLUMNS, KINDS, LATER, Column, read_columns, read_csv, write_columns
from cgcnn_ase.prediction.results import COLUMNS, MEMBERS, SITE_COLUMNS, Prediction, Predictions

if TYPE_CHECKING:
    import pandas as pd

    from cgcnn_ase.core.arrays import Floats

Failure = tuple[str, str]  # of a structure without a prediction: its id and why

LISTED = 100  # predictions whose values stand in the attributes
_FAILURES = "failures.json"
_OF_SITES = ("site_index", "element", "multiplicity")


class TableData(Data):
    """A table by id of structures, in the node's repository with all digits, and the structures that have no row."""

    _file, _made_by = "columns.npz", "__init__"  # the columns' file, and what makes a node

    def _put(self, columns: bytes, failures: Iterable[Failure]) -> int:
        """Take the columns, and the failures, of which the number comes back."""
        failed = [(str(name), str(error)) for name, error in failures]
        self.base.repository.put_object_from_bytes(columns, self._file)
        if failed:
            self.base.repository.put_object_from_bytes(json.dumps(failed).encode(), _FAILURES)
        return len(failed)

    def _content(self) -> bytes:
        content: bytes = self.base.repository.get_object_content(self._file, "rb")
        return content

    def __bool__(self) -> bool:
        return True  # a node is there, however long

    @property
    def failures(self) -> list[Failure]:
        """Id and error of each structure without a row."""
        if _FAILURES not in self.base.repository.list_object_names():
            return []
        pairs = json.loads(self.base.repository.get_object_content(_FAILURES, "rb"))
        return [(name, error) for name, error in pairs]

    def _validate(self) -> bool:
        """Refuse to store a node without columns."""
        super()._validate()
        if self._file not in self.base.repository.list_object_names():
            raise ValidationError(f"the node needs columns: {type(self).__name__}.{self._made_by}")
        return True


class PredictionsData(TableData):
    """Predictions of one model for a set of structures, or for their sites, and the structures that have none.

    The columns are arrays in the node's repository, with all digits. Attributes: ``property``, ``unit``, ``model`` (its
    name), ``model_sha256`` (of its weights), ``of_sites``, and the counts ``n_predictions``, ``n_structures`` (that
    have a prediction), ``n_out_of_domain`` (predictions) and ``n_failures`` (structures). To be queried there are
    ``value_min``, ``value_max``, ``value_mean`` and the same of ``std``, and of up to 100 predictions ``ids``,
    ``values`` and ``stds``.

    Parameters
    ----------
    columns : mapping
        A list a column: those of :meth:`to_frame` but unit, property, model and model_sha256; None for what is missing.
    unit, property, model, model_sha256 : str
        What all predictions share.
    failures : iterable of (id, error)
        The structures without a prediction.

    Raises
    ------
    ValueError
        If a column is missing or the lengths differ.
    """

    class AttributesModel(TableData.AttributesModel):
        """Fields for queries: ``PredictionsData.fields.attributes.model_sha256`` and so on."""

        property: str = attribute("property", "What is predicted")
        unit: str = attribute("unit", "The unit of value, std and interval")
        model: str = attribute("model", "The name of the model")
        model_sha256: str = attribute("model_sha256", "The sha256 of its weights")
        of_sites: bool = attribute("of_sites", "Whether there is a row for each site")
        n_predictions: int = attribute("n_predictions", "How many rows there are")
        n_structures: int = attribute("n_structures", "How many structures have a prediction")
        n_out_of_domain: int = attribute("n_out_of_domain", "How many predictions are outside the model's domain")
        n_failures: int = attribute("n_failures", "How many structures have no prediction")
        value_min: float | None = attribute("value_min", "The smallest value, in unit", default=None)
        value_max: float | None = attribute("value_max", "The largest value, in unit", default=None)
        value_mean: float | None = attribute("value_mean", "The mean of the values, in unit", default=None)
        std_min: float | None = attribute("std_min", "The smallest std, in unit", default=None)
        std_max: float | None = attribute("std_max", "The largest std, in unit", default=None)
        std_mean: float | None = attribute("std_mean", "The mean of the stds, in unit", default=None)
        ids: list[str] | None = attribute(
            "ids", f"The ids of up to {LISTED} predictions, as in the table", default=None
        )
        values: list[float | None] | None = attribute("values", "The values of these", default=None)
        stds: list[float | None] | None = attribute("stds", "The stds of these", default=None)

    # told by the columns, and not there in nodes of early versions
    _hash_ignored_attributes = (
        *(f"{name}_{figure}" for name in ("value", "std") for figure in ("min", "max", "mean")),
        *("ids", "values", "stds"),
    )

    _file, _made_by = "predictions.npz", "from_csv or .from_predictions"

    def __init__(
        self,
        columns: Mapping[str, Column] | None = None,
        *,
        unit: str = "",
        property: str = "",  # the name of the column
        model: str = "",
        model_sha256: str = "",
        failures: Iterable[Failure] = (),
        **kwargs: Any,
    ) -> None:
        Data.__init__(self, **kwargs)
        if columns is None:
            return
        model_columns = _own_columns(columns)
        counts = {
            "n_predictions": len(model_columns["id"]),
            "n_structures": len(set(model_columns["id"])),
            "n_out_of_domain": model_columns["in_domain"].count(False),
            "n_failures": self._put(write_columns(model_columns), failures),
        }
        shared = {"unit": unit, "property": property, "model": model, "model_sha256": model_sha256}
        self.base.attributes.set_many(
            shared | counts | {"of_sites": "site_index" in model_columns} | _figures(model_columns)
        )

    @classmethod
    def from_predictions(
        cls, predictions: Predictions, members: "Sequence[Sequence[float] | None] | None" = None
    ) -> "PredictionsData":
        """A new node, not stored, of the predictions and failures of one model.

        Parameters
        ----------
        predictions
            All of them.
        members
            What each member of the ensemble predicts, for each of ``predictions.all``.

        Raises
        ------
        ValueError
            If there are none, or of several models.
        """
        everything = [*predictions.all, *predictions.failures]
        models = list(dict.fromkeys(_said_of_all(p) for p in everything))
        if len(models) != 1:
            names = ", ".join(model[CONSTANT_COLUMNS.index("model")] for model in models) or "none"
            raise ValueError(f"a node holds the predictions of one model; these are of {names}")
        columns: dict[str, Column] = {
            name: [getattr(p, name) for p in predictions.all] for name in KINDS if name != MEMBERS
        }
        if members is not None:
            columns[MEMBERS] = [None if row is None else tuple(map(float, row)) for row in members]
        return cls(
            columns,
            failures=[(p.id, str(p.error)) for p in predictions.failures],
            **dict(zip(CONSTANT_COLUMNS, models[0], strict=True)),
        )

    @classmethod
    def from_csv(cls, path: str | Path, failures: Iterable[Failure] = ()) -> "dict[str, PredictionsData]":
        """New nodes, not stored, one for each model in the CSV file of ``cgcnn-ase predict``, by model name.

        Two models of the same name are told apart as ``name@`` and the start of their sha256.

        Parameters
        ----------
        path
            The file.
        failures
            Id and error of the structures that have no line in it; each node holds them.

        Raises
        ------
        ValueError
            If it is no such file, cut short, damaged, or holds no prediction.
        """
        failed = list(failures)
        result = [
            (dict(zip(CONSTANT_COLUMNS, shared, strict=True)), columns)
            for shared, columns in read_csv(Path(path)).items()
        ]
        names = [shared["model"] for shared, _ in result]
        nodes = {}
        for shared, columns in result:
            name = shared["model"]
            label = name if names.count(name) == 1 else f"{name}@{shared['model_sha256'][:8]}"
            if label in nodes:
                raise ValueError(f"{path}: {name} has predictions in two units or of two properties")
            nodes[label] = cls(columns, failures=failed, **shared)
        return nodes

    @classmethod
    def joined(cls, parts: "Sequence[PredictionsData]", failures: Iterable[Failure]) -> "PredictionsData":
        """A new node, not stored, of the predictions of several, in their order.

        Raises
        ------
        ValueError
            If they are not all of one model, property and unit.
        """
        shared = {tuple(part.base.attributes.get(name) for name in CONSTANT_COLUMNS) for part in parts}
        if len(shared) != 1:
            models = ", ".join(sorted(f"{model} ({sha[:8]})" for *_, model, sha in shared)) or "none"
            raise ValueError(f"a node holds the predictions of one model; these are of {models}")
        columns: dict[str, Column] = {}
        n = 0
        for part in parts:
            of_part = part.columns()
            for name in {**of_part, **columns}:  # a part of an earlier version lacks some
                column = columns.setdefault(name, [None] * n)
                column += of_part.get(name) or [None] * len(part)
            n += len(part)
        return cls(columns, failures=failures, **dict(zip(CONSTANT_COLUMNS, shared.pop(), strict=True)))

    def __len__(self) -> int:
        return int(self.base.attributes.get("n_predictions"))

    def columns(self) -> dict[str, Column]:
        """The columns as lists; None for what is missing."""
        return read_columns(self._content())

    def predictions(self) -> Iterator[Prediction]:
        """Each row as it was predicted, but for the file it came from, and then the structures that failed."""
        shared = {name: self.base.attributes.get(name) for name in CONSTANT_COLUMNS} | {"source": ""}
        columns = self.columns()
        columns["in_domain_reason"] = columns.pop("reason")
        columns.pop(MEMBERS, None)
        for row in zip(*columns.values(), strict=True):
            yield Prediction(**shared, **dict(zip(columns, row, strict=True)))
        for name, error in self.failures:
            yield Prediction(id=name, error=error, **shared)

    def with_members(self) -> "list[tuple[Prediction, Floats | None]]":
        """As :meth:`predictions`, each with what the members of the ensemble predict, (M,).

        Raises
        ------
        ValueError
            If the node does not hold that of all.
        """
        import numpy as np

        members = self.columns().get(MEMBERS, [None])
        if None in members:
            raise ValueError(
                f"predictions node {self.pk} does not hold what each network of the ensemble predicts, as those of "
                "earlier versions and of n_dropout do not: predict again, without n_dropout"
            )
        rows = [np.array(row) for row in members] + [None] * len(self.failures)
        return list(zip(self.predictions(), rows, strict=True))

    def to_frame(self, ids: Collection[str] | None = None) -> "pd.DataFrame":
        """The table that :meth:`cgcnn_ase.prediction.results.Predictions.to_frame` gives; numbers in ``unit``.

        Parameters
        ----------
        ids
            Only the rows of these structures; an id that has none is left out.
        """
        import pandas as pd

        columns = read_columns(self._content(), ids)
        shared = {name: [self.base.attributes.get(name)] * len(columns["id"]) for name in CONSTANT_COLUMNS}
        columns["in_domain_reason"] = columns["reason"]
        names = SITE_COLUMNS if self.base.attributes.get("of_sites") else COLUMNS
        return pd.DataFrame((columns | shared), columns=list(names))


def _said_of_all(prediction: Prediction) -> tuple[str, ...]:
    return tuple([getattr(prediction, name) for name in CONSTANT_COLUMNS])


def _figures(columns: Mapping[str, Column]) -> dict[str, object]:
    """Figures that can be queried; what is missing or not finite is left out, as AiiDA stores no NaN."""
    figures: dict[str, object] = {}
    known = {name: [x if x is not None and isfinite(x) else None for x in columns[name]] for name in ("value", "std")}
    for name, column in known.items():
        if numbers := [x for x in column if x is not None]:
            figures |= {f"{name}_min": min(numbers), f"{name}_max": max(numbers)}
            figures[f"{name}_mean"] = fsum(numbers) / len(numbers)
    if len(columns["id"]) <= LISTED:
        figures |= {"ids": list(columns["id"]), "values": known["value"], "stds": known["std"]}
    return figures


def _own_columns(columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns to keep: those of sites only where there are sites."""
    columns = {name: [None] * len(columns.get("id", ())) for name in LATER} | dict(columns)
    needed = [name for name in KINDS if name not in _OF_SITES]
    if any(index is not None for index in columns.get("site_index", ())):
        needed = list(KINDS)
    if missing := [name for name in needed if name not in columns]:
        raise ValueError(f"predictions lack the columns {', '.join(missing)}")
    lengths = {name: len(columns[name]) for name in needed}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of predictions differ in length: {lengths}")
    return {name: columns[name] for name in needed}

"""Errors of predictions against the labels that were computed later, as a table and as a picture."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from aiida.orm import CalculationNode, QueryBuilder, StructureData, load_node

from aiida_plugin.data.labels import kind_of, merge_schemes, scheme_id, scheme_of
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structure_archive.arrays import hash_of_atoms
from aiida_plugin.data.structures import StructureSetData, as_set
from aiida_plugin.provenance.lineage import STRUCTURES, Lineage, NodeRow, lineage
from aiida_plugin.provenance.origin import learned_structures
from cgcnn_ase.core.errors import require
from cgcnn_ase.structures.record import label_of

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms
    from matplotlib.axes import Axes

#: columns of `errors`
COLUMNS = (
    "id", "predicted", "std", "lower", "upper", "label", "error", "in_domain", "unit", "property", "model", "scheme",
    "engine", "functional", "kind", "relaxed", "trained_on", "predictions_pk", "labelled_pk",
)  # fmt: skip


class _Label(NamedTuple):
    """A computed structure of a labelled set."""

    atoms: "Atoms"
    hash: int
    scheme: dict[str, Any] | None
    pk: int


def errors(
    source: PredictionsData | CGCNNModelData, *, include_trained: bool = False, dft_only: bool = False
) -> "pd.DataFrame":
    """Predictions beside the labels that the same structures got later.

    A label belongs to a prediction if it is in a labelled set that was made from the predicted set, under the same id,
    and is of the same structure (cell, elements, positions to 0.001 Å), or of the structure that this one relaxed to by
    what its label scheme says (``relaxed``).

    Parameters
    ----------
    source
        Predictions, or a model for all predictions of it.
    include_trained
        Also of structures that the model was trained on (or the model that it began with): errors there say nothing of
        what it does elsewhere.
    dft_only
        Only against labels that are DFT by their scheme.

    Returns
    -------
    DataFrame
        A row for each prediction and label: ``predicted``, ``std``, ``lower``, ``upper``, ``label`` and ``error``
        (predicted - label) in ``unit``; ``scheme`` names the kind of label (None where it does not say),
        ``engine``, ``functional``, ``kind`` (DFT, machine-learned, empirical, unknown) and ``relaxed`` are of it;
        ``trained_on`` tells whether the model learned from the structure (to learn, or to validate). A formation energy
        is compared with the label's formation energy per atom, an energy per atom with its total energy over the atoms.
        ``attrs["left_out"]`` counts the labels that are not in the table, by reason.

    Raises
    ------
    ValueError
        If there are no labels to compare with, or predictions are of sites.
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    schemes: list[dict[str, Any] | None] = []
    left_out: dict[str, int] = {}
    predicted = _predicted(source)
    labels = _labels([pk for pk, _, _ in predicted])
    learned = learned_structures(_models_of(source))
    for pk, structures, predictions in predicted:
        if predictions.base.attributes.get("of_sites"):
            raise ValueError(f"node {predictions.pk} holds predictions of sites; labels are of whole structures")
        if not labels[pk]:
            continue
        known = set(structures.ids)
        known_labels = {name: result for name, result in labels[pk].items() if name in known}
        rows_of_labels: Iterable[Any] = predictions.to_frame(known_labels).itertuples()
        for row in rows_of_labels:
            seen: set[tuple[Any, ...]] = set()
            for label in known_labels[row.id]:
                value = label_of(label.atoms, row.property)
                trained_on = learned.has(row.id, label.hash, int(structures.hashes[structures.row_of(row.id)]))
                reason = _unlike(label, row, structures, value)
                if reason is None and dft_only and kind_of(label.scheme) != "DFT":
                    reason = "are not DFT"
                if reason is None and trained_on and not include_trained:
                    reason = "are of structures that the model was trained on"
                scheme = None if label.scheme is None else scheme_id(label.scheme)
                if (scheme, value, reason) in seen:  # the same label in a set that others were joined to
                    continue
                seen.add((scheme, value, reason))
                if reason is not None:
                    left_out[reason] = left_out.get(reason, 0) + 1
                    continue
                rows.append(_row(row, label, value, predictions.pk, trained_on))
                schemes.append(label.scheme)
    if not rows:
        why = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(
            f"node {source.pk}: no label to compare with{f': {why}' if why else ' was made from its structures'}"
        )
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "scheme"])
    table.insert(COLUMNS.index("scheme"), "scheme", _kinds(schemes))
    table.attrs["left_out"] = left_out
    return table


def _predicted(source: PredictionsData | CGCNNModelData) -> list[tuple[int, StructureSetData, PredictionsData]]:
    """Each predicted set (or structure, as a set of one) with its pk, and the predictions of it."""
    if isinstance(source, PredictionsData):
        from aiida_plugin.provenance.origin import origin

        return [
            (row.pk, as_set(cast(StructureSetData, load_node(row.pk))), source) for row in origin(source).structures
        ]
    query = QueryBuilder().append(CGCNNModelData, filters={"id": source.pk}, tag="model")
    query.append(CalculationNode, with_incoming="model", tag="job")
    query.append(PredictionsData, with_incoming="job", tag="predictions")
    query.append((StructureSetData, StructureData), with_outgoing="job", tag="structures", project="*")
    query.add_projection("predictions", "*")
    return [(structures.pk, as_set(structures), predictions) for predictions, structures in query.all()]


def _models_of(source: PredictionsData | CGCNNModelData) -> list[int]:
    if isinstance(source, CGCNNModelData):
        return [cast(int, source.pk)]
    from aiida_plugin.provenance.origin import origin

    return [row.pk for row in origin(source).models]


def _labels(sets: list[int]) -> dict[int, dict[str, list[_Label]]]:
    """Of each set, the labels by id in sets that were made from it."""
    result: dict[int, dict[str, list[_Label]]] = {}
    read: dict[int, list[tuple[str, _Label]]] = {}
    graph = lineage(sets, "descendants")
    for pk in sorted(set(sets)):
        of_set = result.setdefault(pk, {})
        for row in graph.after([pk]):
            if row.node_type == STRUCTURES and row.results and not _joined_later(graph, row):
                if row.pk not in read:
                    read[row.pk] = list(_read(cast(StructureSetData, load_node(row.pk))))
                for name, label in read[row.pk]:
                    of_set.setdefault(name, []).append(label)
    return result


def _joined_later(graph: Lineage, labelled: NodeRow) -> bool:
    """Tell whether all its labels went into another labelled set: of single runs, of one round."""
    into = [made for user in graph.outputs(labelled.pk) for made in graph.outputs(user.pk) if made.results]
    return any((made.n_structures or 0) >= (labelled.n_structures or 0) for made in into)


def _read(labelled: StructureSetData) -> Iterator[tuple[str, _Label]]:
    for name, atoms in zip(labelled.ids, labelled.iter_atoms(), strict=True):
        if atoms.calc is not None:
            yield name, _Label(atoms, hash_of_atoms(atoms), scheme_of(atoms), cast(int, labelled.pk))


def _kinds(schemes: list[dict[str, Any] | None]) -> list[str | None]:
    """A name for each label's kind, the same for schemes that differ only in which elements they tell of."""
    kinds: list[dict[str, Any]] = []
    places = [None if scheme is None else _place(scheme, kinds) for scheme in schemes]
    names = [scheme_id(kind) for kind in kinds]
    return [None if index is None else names[index] for index in places]


def _place(scheme: dict[str, Any], kinds: list[dict[str, Any]]) -> int:
    """The first kind that the scheme agrees with, which then tells of its elements too; else a new one."""
    for index, kind in enumerate(kinds):
        try:
            merged = merge_schemes([kind, scheme])
        except ValueError:  # another kind
            continue
        assert merged is not None
        kinds[index] = merged
        return index
    kinds.append(scheme)
    return len(kinds) - 1


def _unlike(label: _Label, row: Any, structures: StructureSetData, value: float | None) -> str | None:
    """Why a label cannot be compared with a prediction, None if it can."""
    if label.hash != structures.hashes[structures.row_of(row.id)]:
        if not (label.scheme or {}).get("relaxed"):
            return "under the same id are of another structure"
        if label.atoms.get_chemical_formula() != row.formula:
            return "under the same id are of another composition"
    return f"have no {row.property}" if value is None else None


def _row(row: Any, label: _Label, value: float | None, predictions_pk: int | None, trained_on: bool) -> tuple[Any, ...]:
    assert value is not None
    scheme = label.scheme or {}
    return (
        row.id, row.value, row.std, row.lower, row.upper, value, row.value - value, row.in_domain, row.unit,
        row.property, row.model, scheme.get("engine"), scheme.get("functional"), kind_of(label.scheme),
        bool(scheme.get("relaxed")), trained_on, predictions_pk, label.pk,
    )  # fmt: skip


def parity_plot(table: "pd.DataFrame", path: str | Path) -> Path:
    """Draw predicted values against labels, with one standard deviation; those outside the model's domain are crossed.

    Parameters
    ----------
    table
        Of `errors`: rows of one property and one kind of label.
    path
        The ending (.png, .pdf, .svg) says how.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the rows are of several properties or several kinds of label, or there are none.
    ImportError
        If matplotlib is missing.
    """
    require("matplotlib", "a picture")
    from cgcnn_ase.plotting.model_plots import ORANGE, parity, save

    if table.empty:
        raise ValueError("there is nothing to draw: the table is empty")
    name, unit = _single_value(table, "property"), _single_value(table, "unit")
    _single_value(table, "scheme")
    std = None if table["std"].isna().any() else table["std"].to_numpy(dtype=float)
    figure = parity(table["label"].to_numpy(dtype=float), table["predicted"].to_numpy(dtype=float), std,
                    name=name.replace("_", " "), unit=unit)  # fmt: skip
    axes = figure.axes[0]
    outside = table[table["in_domain"].eq(False)]
    if len(outside):
        axes.plot(outside["label"], outside["predicted"], "x", color=ORANGE, markersize=8,
                  label=f"outside the domain ({len(outside)})")  # fmt: skip
        axes.legend(loc="lower right", frameon=False, fontsize=9)
    _label(axes, table, name, unit)
    return save(figure, path)


def _label(axes: "Axes", table: "pd.DataFrame", name: str, unit: str) -> None:
    """Name the axes, and make room for all of the bars."""
    from matplotlib.ticker import MaxNLocator

    from cgcnn_ase.plotting.model_plots import MAX_POINTS, ORANGE

    made_by = " ".join(str(word) for word in (table["engine"].iloc[0], table["functional"].iloc[0]) if word)
    axes.set_title(f"{name.replace('_', ' ')}\n{axes.get_title()}", size=11)
    axes.set_xlabel(f"{made_by or 'label'} ({unit})")
    axes.set_ylabel(f"predicted ({unit})")
    spread = table["std"].astype(float).fillna(0.0) if len(table) <= MAX_POINTS else 0.0  # more have no bars
    low = min(axes.get_xlim()[0], float((table["predicted"] - spread).min()))
    high = max(axes.get_xlim()[1], float((table["predicted"] + spread).max()))
    for axis, set_limits in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        set_limits(low, high)
        axis.set_major_locator(MaxNLocator(5))
    axes.axline((low, low), slope=1, color=ORANGE, linestyle="--", linewidth=1.2)


def _single_value(table: "pd.DataFrame", column: str) -> str:
    result = list(dict.fromkeys(str(each) for each in table[column]))
    if len(result) > 1:
        raise ValueError(f"one picture shows one {column}, here are {', '.join(result)}; draw them one by one")
    return result[0]

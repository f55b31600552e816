"""Use of a model by all that came after, and marks on models found to be bad."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiida_plugin.provenance.label_kinds import kinds_of_runs, runs_by_kind
from aiida_plugin.provenance.lineage import BAD, MODEL, PREDICTIONS, STRUCTURES, NodeRow, lineage

if TYPE_CHECKING:
    from aiida_plugin.data.model import CGCNNModelData


@dataclass(frozen=True)
class Use:
    """Nodes that were made with a model, directly or through what came of it."""

    model: NodeRow
    predictions: list[NodeRow]  # of it, and of the models that came of it
    structures: list[NodeRow]  # sets that were selected through these predictions, without computed results
    labelled: list[NodeRow]  # such sets with computed results
    models: list[NodeRow]  # later ones: fine-tuned from it, or trained on structures that it selected
    dft_runs: list[NodeRow]  # DFT jobs on structures that it selected
    other_runs: dict[str, list[NodeRow]]  # other jobs that computed labels of them, by kind of method
    processes: list[NodeRow]  # all in between, workflows excepted


def used_by(model: "CGCNNModelData") -> Use:
    """Find everything in the graph that a model had a part in, in the order in which it was made."""
    assert model.pk is not None
    graph = lineage([model.pk], "descendants")
    rows = [graph.nodes[pk] for pk in sorted(graph.nodes) if pk != model.pk]
    dft_runs, other_runs = runs_by_kind(rows, kinds_of_runs(graph))
    sets = [row for row in rows if row.node_type == STRUCTURES]
    return Use(
        model=graph.nodes[model.pk],
        predictions=[row for row in rows if row.node_type == PREDICTIONS],
        structures=[row for row in sets if not row.results],
        labelled=[row for row in sets if row.results],
        models=[row for row in rows if row.node_type == MODEL],
        dft_runs=dft_runs,
        other_runs=other_runs,
        processes=[row for row in rows if row.is_process],
    )


def mark_bad(model: "CGCNNModelData", reason: str) -> None:
    """Say of a stored model why it must not be trusted; `origin` and `used_by` then tell.

    The node itself stays as it is: the mark is an extra, and a new reason takes the place of the old one.

    Raises
    ------
    ValueError
        If the reason is empty, or the model is not stored.
    """
    if not reason.strip():
        raise ValueError("say why the model is bad: the reason is empty")
    if not model.is_stored:
        raise ValueError("an unstored model cannot be marked; store it first")
    model.base.extras.set(BAD, {"reason": reason.strip()})


def unmark(model: "CGCNNModelData") -> None:
    """Take the mark back, if there is one."""
    if BAD in model.base.extras.all:
        model.base.extras.delete(BAD)


def bad_models() -> "list[CGCNNModelData]":
    """Return the models that were marked, oldest first."""
    from aiida.orm import QueryBuilder

    from aiida_plugin.data.model import CGCNNModelData

    query = QueryBuilder().append(CGCNNModelData, tag="model", filters={"extras": {"has_key": BAD}})
    return query.order_by({"model": {"id": "asc"}}).all(flat=True)

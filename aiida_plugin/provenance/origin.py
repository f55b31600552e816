"""Origin of a prediction, and use of a model by all that came after, with marks on models found to be bad.

The origin is job, model, training, the DFT runs behind it, and how its structures were made. To the origin of a model
belong the structures that it learned from, so that its errors there are told apart.
"""

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from aiida.common.links import LinkType
from aiida.orm import load_node

from aiida_plugin.provenance.label_kinds import kinds_of_runs, learned_from, runs_by_kind
from aiida_plugin.provenance.lineage import BAD, MODEL, PREDICTIONS, STRUCTURES, Lineage, NodeRow, lineage

if TYPE_CHECKING:
    from aiida.orm import Data, ProcessNode

    from aiida_plugin.data.model import CGCNNModelData
    from aiida_plugin.data.predictions import PredictionsData
    from aiida_plugin.data.structures import StructureSetData

_IDS = "training-ids.txt.gz"  # of a pretrained model: the ids of the database that it learned from


@dataclass(frozen=True)
class Training:
    """One training run behind a model."""

    job: NodeRow
    model: NodeRow  # that came out
    started_from: list[NodeRow]  # models that went in, of a fine-tuning
    labelled: list[NodeRow]  # sets that it learned from; one that it was only tested on is not among them
    n_dft_runs: int  # DFT jobs behind these sets
    n_other_runs: dict[str, int]  # other jobs that computed labels behind them, by kind of method


@dataclass(frozen=True)
class Origin:
    """All that stands behind some predictions, by links alone."""

    predictions: NodeRow  # the node that was asked for
    row: dict[str, Any] | None  # of an id: its value, std, unit and so on
    jobs: list[NodeRow]  # processes that predicted; several where shards were joined
    models: list[NodeRow]  # that these took in
    structures: list[NodeRow]  # that these took in
    trainings: list[Training]  # of the model, then of that which it was fine-tuned from, ...; none if it was imported
    dft_runs: list[NodeRow]  # all DFT jobs behind the labelled sets of these trainings
    other_runs: dict[str, list[NodeRow]]  # other jobs that computed such labels, by kind of method
    structure_steps: list[NodeRow]  # processes that made the structures (defects, cathode, selection), nearest first
    hosts: list[NodeRow]  # what these began with: data that nothing in the graph created
    bad: list[NodeRow]  # what of all this was marked bad


def origin(predictions: "PredictionsData", id: str | None = None) -> Origin:
    """Find where predictions come from.

    Parameters
    ----------
    predictions
        The node.
    id
        A structure of it: its row is given too, and where shards were joined only what stands behind its own shard.

    Raises
    ------
    ValueError
        If there is no prediction of this id.
    """
    assert predictions.pk is not None
    row = None if id is None else _row(predictions, id)
    graph = lineage([predictions.pk], "ancestors")
    kinds = kinds_of_runs(graph)
    jobs = _jobs(graph, predictions.pk)
    if id is not None and len(jobs) > 1:
        jobs = [job for job in jobs if _took_in(graph, job, id)]
    models = _unique(result for job in jobs for result in graph.inputs(job.pk) if result.node_type == MODEL)
    structures = _unique(row for job in jobs for row in graph.inputs(job.pk) if row.node_type in PREDICTED)
    trainings = trainings_of(graph, [model.pk for model in models], kinds)
    labelled = [result.pk for training in trainings for result in training.labelled]
    before = list(
        graph.behind(
            [result.pk for result in structures], through=lambda row: row.is_process or row.node_type in _HOSTS
        )
    )
    dft_runs, other_runs = runs_by_kind(graph.behind(labelled), kinds)
    return Origin(
        predictions=graph.nodes[predictions.pk],
        row=row,
        jobs=jobs,
        models=models,
        structures=structures,
        trainings=trainings,
        dft_runs=dft_runs,
        other_runs=other_runs,
        structure_steps=[result for result in before if result.is_process],
        hosts=[result for result in before if result.node_type in _HOSTS and not graph.inputs(result.pk)],
        bad=[result for result in graph.nodes.values() if result.bad is not None],
    )


#: the kinds of data that are predicted
PREDICTED = (STRUCTURES, "data.core.structure.StructureData.")
#: the kinds of data that structures begin with
_HOSTS = (
    *PREDICTED,
    "data.core.cif.CifData.",
    "data.core.singlefile.SinglefileData.",
)


def _row(predictions: "PredictionsData", id: str) -> dict[str, Any]:
    frame = predictions.to_frame([id])
    if frame.empty:
        reason = dict(predictions.failures).get(id)
        reason_text = f"the structure {id!r} failed: {reason}" if reason else f"no structure has the id {id!r}"
        raise ValueError(f"predictions node {predictions.pk}: {reason_text}")
    row = frame.astype(object).where(frame.notna(), None).iloc[0]
    return {str(name): value for name, value in row.items()}


def _jobs(graph: Lineage, predictions: int) -> list[NodeRow]:
    """The processes that predicted: beyond those that joined parts, which took in no model."""
    reached = graph.behind([predictions], through=lambda row: row.is_process or row.node_type == PREDICTIONS)
    processes = [row for row in reached if row.is_process]
    with_model = [row for row in processes if any(result.node_type == MODEL for result in graph.inputs(row.pk))]
    return with_model or processes[:1]


def _took_in(graph: Lineage, job: NodeRow, id: str) -> bool:
    from aiida_plugin.data.structures import as_set

    taken = [row for row in graph.inputs(job.pk) if row.node_type in PREDICTED]
    return any(id in as_set(cast("StructureSetData", load_node(row.pk))).ids for row in taken)


def trainings_of(graph: Lineage, models: list[int], kinds: dict[int, str]) -> list[Training]:
    """Return the training runs behind models, the newest first; `kinds` is of `kinds_of_runs`."""
    result: list[Training] = []
    front = list(models)
    seen = set(models)
    for pk in front:
        for job in graph.inputs(pk):
            labelled = learned_from(graph, job.pk)
            started_from = [row for row in graph.inputs(job.pk) if row.node_type == MODEL]
            dft, others = runs_by_kind(graph.behind(row.pk for row in labelled), kinds)
            n_others = {kind: len(rows) for kind, rows in others.items()}
            result.append(Training(job, graph.nodes[pk], started_from, labelled, len(dft), n_others))
            front += [row.pk for row in started_from if row.pk not in seen]
            seen |= {row.pk for row in started_from}
    return result


def _unique(rows: Iterable[NodeRow]) -> list[NodeRow]:
    return list({row.pk: row for row in rows}.values())


@dataclass(frozen=True)
class Learned:
    """Structures that some models were trained on."""

    hashes: frozenset[int]  # of the structures that stand in the graph
    ids: frozenset[str]  # of a database, of pretrained models

    def has(self, id: str, *hashes: int) -> bool:
        """Tell whether a structure is among them: by one of the hashes of its content, or by the id of a database."""
        return id in self.ids or not self.hashes.isdisjoint(hashes)


def learned_structures(models: Iterable[int]) -> Learned:
    """Collect what models learned from, and the models that they began with; what was held out to test is not among it.

    Structures that a training validated on count as learned: they decided which of its networks is kept, and how far
    its uncertainty reaches.
    """
    pks = list(models)
    graph = lineage(pks, "ancestors")
    trainings = trainings_of(graph, pks, {})
    hashes = {each for training in trainings for each in _hashes(cast("ProcessNode", load_node(training.job.pk)))}
    all_models = {*pks, *(row.pk for training in trainings for row in training.started_from)}
    ids = {each for pk in all_models for each in _ids(cast("CGCNNModelData", load_node(pk)))}
    return Learned(frozenset(hashes), frozenset(ids))


def _hashes(job: "ProcessNode") -> list[int]:
    """Of the structures that a training took in and did not hold out to test."""
    from aiida_plugin.calculations.train import data_of
    from aiida_plugin.data.structures import StructureSetData

    inputs: dict[str, Data] = dict(job.base.links.get_incoming(link_type=LinkType.INPUT_CALC).nested())
    sets = [node for name, node in inputs.items() if isinstance(node, StructureSetData) and name != "test"]
    held_out: set[str] = set()
    if "target" in inputs and "structures" in inputs:
        data = data_of(inputs)
        held_out = {name for name, split in zip(data.ids, data.split.tolist(), strict=True) if split == "test"}
    return [
        int(content_hash)
        for node in sets
        for name, content_hash in zip(node.ids, node.hashes.tolist(), strict=True)
        if name not in held_out
    ]


def _ids(model: "CGCNNModelData") -> list[str]:
    if _IDS not in model.base.repository.list_object_names():
        return []
    return gzip.decompress(model.base.repository.get_object_content(_IDS, "rb")).decode().splitlines()


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

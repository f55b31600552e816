"""Kinds of method behind labels: DFT is what the label's scheme says is DFT, whatever job computed it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiida.orm import CalcJobNode, Dict, QueryBuilder, load_node

from aiida_plugin.data.labels import functional_of, kind_of
from aiida_plugin.engines.base import engines
from aiida_plugin.provenance.lineage import MODEL, STRUCTURES, Lineage, NodeRow, lineage

if TYPE_CHECKING:
    from aiida_plugin.data.model import CGCNNModelData
    from aiida_plugin.data.predictions import PredictionsData
    from aiida_plugin.data.structures import StructureSetData

ASE_JOBS = "aiida.calculations:cgcnn.ase_dft"  # any ASE calculator: whether it is DFT, its inputs and labels tell


def engine_process_types() -> set[str]:
    """Return the process types of the jobs that compute labels, of all engines."""
    return {f"aiida.calculations:{engine.code_plugin}" for engine in engines()}


def kinds_of_runs(graph: Lineage) -> dict[int, str]:
    """Tell of each job of an engine what kind of method it ran, by pk.

    The label's scheme tells, by the set that the job's label went into. A job without a label (it failed, say, or its
    set is of an early version) is of the kind that its label would have been: by calculator and functional of an ASE
    calculator's job; those of the other engines are DFT codes.
    """
    types = engine_process_types()
    runs = [row for row in graph.nodes.values() if row.process_type in types]
    kinds = {run.pk: kind for run in runs if (kind := _kind_of_labels(graph, run.pk)) is not None}
    left = [run for run in runs if run.pk not in kinds]
    ase = {run.pk for run in left if run.process_type == ASE_JOBS}
    kinds |= {run.pk: "DFT" for run in left if run.pk not in ase}
    return kinds | _kinds_by_settings(ase)


def runs_by_kind(rows: Iterable[NodeRow], kinds: dict[int, str]) -> tuple[list[NodeRow], dict[str, list[NodeRow]]]:
    """Divide the engines' jobs among `rows` into those of DFT and, by kind, the others."""
    dft: list[NodeRow] = []
    others: dict[str, list[NodeRow]] = {}
    for row in rows:
        kind = kinds.get(row.pk)
        if kind == "DFT":
            dft.append(row)
        elif kind is not None:
            others.setdefault(kind, []).append(row)
    return dft, others


def dft_runs(graph: Lineage) -> list[NodeRow]:
    """Return the jobs in a graph that ran DFT."""
    return runs_by_kind(graph.nodes.values(), kinds_of_runs(graph))[0]


def _kind_of_labels(graph: Lineage, run: int) -> str | None:
    """Kind of the nearest labels that a job led to, None if no set tells."""
    for row in graph.after([run]):
        if row.node_type == STRUCTURES and row.label_kinds:
            return row.label_kinds[0] if len(row.label_kinds) == 1 else None
    return None


def _kinds_by_settings(jobs: set[int]) -> dict[int, str]:
    if not jobs:
        return {}
    query = QueryBuilder().append(CalcJobNode, filters={"id": {"in": sorted(jobs)}}, tag="job", project="id")
    columns = [f"attributes.{key}" for key in ("calculator", "functional", "parameters")]
    query.append(Dict, with_outgoing="job", edge_filters={"label": "settings"}, project=columns)
    kinds: dict[int, str] = dict.fromkeys(jobs, "unknown")
    for pk, calculator, stated, parameters in query.all():
        functional = functional_of(str(calculator), parameters or {}, stated)
        kinds[pk] = kind_of({"engine": calculator, "functional": functional})
    return kinds


@dataclass(frozen=True)
class LabelledSet:
    """A labelled set that something learned from, or was asked about."""

    node: NodeRow
    kinds: list[str]  # of its labels; empty if its structures carry values without any scheme
    runs: dict[str, int]  # jobs of engines behind it, by kind


@dataclass(frozen=True)
class LabelsBehind:
    """Labels that a model, predictions or a set of structures come from."""

    node: NodeRow
    only_dft: bool | None  # None where nothing in this profile tells: of an imported model, say
    labelled: list[LabelledSet]
    imported: list[NodeRow]  # models whose training is not in this profile

    @property
    def other_kinds(self) -> list[str]:
        """Kinds of labels that are not DFT."""
        return sorted({kind for each in self.labelled for kind in each.kinds or ["unknown"]} - {"DFT"})


def labels_behind(node: "PredictionsData | CGCNNModelData | StructureSetData") -> LabelsBehind:
    """Find all labels that a node comes from, and whether all of them are DFT.

    Of a set these are its own; of predictions and models those of the sets that the models learned from, and the models
    that these began with.
    """
    assert node.pk is not None
    graph = lineage([node.pk], "ancestors")
    start = graph.nodes[node.pk]
    if start.node_type == STRUCTURES:
        models, sets = [], [start]
    else:
        models = _models(graph, start)
        sets = [row for model in models for job in graph.inputs(model.pk) for row in learned_from(graph, job.pk)]
    kinds = kinds_of_runs(graph)
    labelled = [_labelled(graph, row, kinds) for row in {row.pk: row for row in sets}.values()]
    imported = [model for model in models if not graph.inputs(model.pk)]
    is_dft = {kind == "DFT" for each in labelled for kind in each.kinds or ["unknown"]}
    only_dft = False if False in is_dft else None if imported or not is_dft else True
    return LabelsBehind(start, only_dft, labelled, imported)


def learned_from(graph: Lineage, job: int) -> list[NodeRow]:
    """Return the labelled sets that a training learned from; one that it was only tested on is not among them."""
    test = {row.pk for row in graph.inputs(job, "test")}
    return [row for row in graph.inputs(job) if row.node_type == STRUCTURES and row.pk not in test]


def _models(graph: Lineage, start: NodeRow) -> list[NodeRow]:
    """The models of a node, and those that they began with, the last one first."""
    if start.node_type == MODEL:
        first = [start]
    else:
        reached = graph.behind([start.pk], through=lambda row: row.node_type not in (MODEL, STRUCTURES))
        first = [row for row in reached if row.node_type == MODEL]
    models = {row.pk: row for row in first}
    front = list(models)
    for pk in front:
        for job in graph.inputs(pk):
            for row in graph.inputs(job.pk):
                if row.node_type == MODEL and row.pk not in models:
                    models[row.pk] = row
                    front.append(row.pk)
    return list(models.values())


def _labelled(graph: Lineage, row: NodeRow, kinds: dict[int, str]) -> LabelledSet:
    known = row.label_kinds if row.label_kinds is not None else load_node(row.pk).label_kinds
    runs: dict[str, int] = {}
    for each in _runs_behind(graph, row.pk):
        if each.pk in kinds:
            runs[kinds[each.pk]] = runs.get(kinds[each.pk], 0) + 1
    return LabelledSet(row, list(known), runs)


def _runs_behind(graph: Lineage, labelled: int) -> Iterable[NodeRow]:
    """Nodes behind a labelled set, without those behind the models and predictions that selected its structures."""
    return graph.behind([labelled], through=lambda row: row.node_type != MODEL)

"""Structures that a model learned from, so that its errors there are told apart."""

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from aiida.common.links import LinkType
from aiida.orm import load_node

from aiida_plugin.calculations.train import data_of
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.provenance.lineage import lineage
from aiida_plugin.provenance.origin import trainings_of

if TYPE_CHECKING:
    from aiida.orm import Data, ProcessNode

_IDS = "training-ids.txt.gz"  # of a pretrained model: the ids of the database that it learned from


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
    ids = {each for pk in all_models for each in _ids(cast(CGCNNModelData, load_node(pk)))}
    return Learned(frozenset(hashes), frozenset(ids))


def _hashes(job: "ProcessNode") -> list[int]:
    """Of the structures that a training took in and did not hold out to test."""
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


def _ids(model: CGCNNModelData) -> list[str]:
    if _IDS not in model.base.repository.list_object_names():
        return []
    return gzip.decompress(model.base.repository.get_object_content(_IDS, "rb")).decode().splitlines()

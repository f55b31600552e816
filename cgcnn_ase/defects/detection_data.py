"""Labelled supercells as a network reads them: one label a cell, or one a site."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..data.dataset import hash_of_samples
from ..data.graph_cache import build_store
from ..data.prepared import PreparedData
from ..data.site_labels import LabelledHost, SiteSet, prepare_sites
from ..data.splits import group_split
from ..graphs.builder import GraphConfig
from ..graphs.geometry import geometry
from ..targets import TargetSpec
from .detection import DetectionCell
from .detection_hosts import NamedHost

#: whether a cell is defective
IS_DEFECTIVE = TargetSpec(name="is_defective", unit="probability", task="classification")
#: whether a site is where the defect is
IS_DEFECT_SITE = TargetSpec(name="is_defect_site", unit="probability", task="classification", level="site")


def split_hosts(hosts: Sequence[NamedHost], *, val: float = 0.1, test: float = 0.2, seed: int = 0) -> dict[str, str]:
    """The split of each host by name; hosts of one reduced formula are in one split."""
    split = group_split([host.formula for host in hosts], val=val, test=test, seed=seed)
    return {host.name: str(name) for host, name in zip(hosts, split, strict=True)}


def prepare_cells(
    cells: Sequence[DetectionCell], split: Mapping[str, str], graph: GraphConfig, *, workers: int = 1
) -> PreparedData:
    """Graphs of cells with the label whether each is defective, in the split of its host."""
    labels = np.array([[float(cell.defective)] for cell in cells])
    splits = np.array([split[cell.host] for cell in cells])
    train = np.flatnonzero(splits == "train")
    return PreparedData(
        ids=[cell.id for cell in cells],
        targets=labels,
        split=splits,
        graphs=build_store([geometry(cell.atoms) for cell in cells], graph, workers=workers),
        graph_config=graph,
        specs=(IS_DEFECTIVE,),
        train_hash=hash_of_samples([cells[int(k)].id for k in train], labels[train]),
    )


def prepare_places(cells: Sequence[DetectionCell], split: Mapping[str, str], graph: GraphConfig) -> PreparedData:
    """Graphs of cells with the label of each site whether the defect is there: 1 at `DetectionCell.places`, else 0."""
    hosts = []
    for cell in cells:
        labels = np.zeros(len(cell.atoms))
        labels[list(cell.places)] = 1.0
        hosts.append(LabelledHost(cell.id, geometry(cell.atoms), labels, split[cell.host]))
    data = prepare_sites([SiteSet("detection", hosts)], [IS_DEFECT_SITE], graph)
    return replace(data, targets=np.rint(data.targets))  # atoms that share a node have one label, but for rounding

"""Structures of which some sites have labels, such as the energy of a vacancy there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.dataset import hash_of_samples
from cgcnn_ase.data.graph_store import GraphStore
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.data.splits import hashed_split
from cgcnn_ase.graphs.builder import GraphConfig, graphs_and_nodes
from cgcnn_ase.graphs.crystal_graph import Geometry
from cgcnn_ase.structures.composition import composition_key

# structures whose graphs are built at once
_AT_ONCE = 64


class LabelledHost(NamedTuple):
    """A structure and what is known of its sites."""

    id: str
    structure: Geometry
    labels: Floats  # (N,) of each atom, NaN where nothing is known
    split: str  # train, val or test; empty where the set has none


@dataclass(frozen=True)
class SiteSet:
    """Hosts whose labels are of one kind: calculated with one functional, against one reference."""

    name: str
    hosts: list[LabelledHost]

    @property
    def n_labels(self) -> int:
        """Sites with a label."""
        return sum(int(np.isfinite(host.labels).sum()) for host in self.hosts)


def labelled_host(
    name: str, structure: Geometry, sites: Sequence[int], values: Sequence[float], split: str
) -> LabelledHost:
    """A host from the indices of its sites and their values.

    A site that is not there, one with two values, and a value that is not finite are a `DatasetError`.
    """
    labels = np.full(len(structure.numbers), np.nan)
    for site, value in zip(sites, values, strict=True):
        if not 0 <= site < len(labels):
            raise DatasetError(f"{name}: there is no site {site}; it has sites 0 to {len(labels) - 1}")
        if not np.isfinite(value):
            raise DatasetError(f"{name}: the label of site {site} is not finite")
        if np.isfinite(labels[site]):
            raise DatasetError(f"{name}: site {site} has two labels")
        labels[site] = value
    return LabelledHost(name, structure, labels, split)


def with_splits(
    site_set: SiteSet, others: Sequence[SiteSet], *, val: float = 0.1, test: float = 0.1, seed: int = 0
) -> SiteSet:
    """A set split by formula: as others have split the formula, else by its hash."""
    known = {composition_key(h.structure.numbers): h.split for other in others for h in other.hosts}
    formulas = [composition_key(h.structure.numbers) for h in site_set.hosts]
    hashed = hashed_split(formulas, val=val, test=test, seed=seed)
    splits = [known.get(formula, str(split)) for formula, split in zip(formulas, hashed, strict=True)]
    return replace(site_set, hosts=[h._replace(split=split) for h, split in zip(site_set.hosts, splits, strict=True)])


def without_held_out(sets: Sequence[SiteSet]) -> list[SiteSet]:
    """The sets less each host for training (or val) whose formula another set holds out for test (or val).

    One network learns all of them: what is tested in one set must not be taught by another.
    """
    held: dict[str, set[str]] = {split: set() for split in ("val", "test")}
    for host in (host for each in sets for host in each.hosts):
        if host.split in held:
            held[host.split].add(composition_key(host.structure.numbers))
    forbidden = {"train": held["val"] | held["test"], "val": held["test"], "test": set()}
    return [
        replace(
            each,
            hosts=[h for h in each.hosts if composition_key(h.structure.numbers) not in forbidden[h.split]],
        )
        for each in sets
    ]


def prepare_sites(sets: Sequence[SiteSet], specs: Sequence[TargetSpec], graph: GraphConfig) -> PreparedData:
    """Graphs and labels of several sets, each with a target of its own; sites of the other targets stay unlabelled.

    Atoms that a merged graph cannot tell apart share a node, whose label is the mean of theirs.
    """
    hosts = [(t, f"{each.name}:{host.id}", host) for t, each in enumerate(sets) for host in each.hosts]
    if not hosts:
        raise DatasetError("no host has a labelled site")
    stores, targets = [], []
    for first in range(0, len(hosts), _AT_ONCE):
        part = hosts[first : first + _AT_ONCE]
        built = graphs_and_nodes([host.structure for _, _, host in part], graph)
        stores.append(built.graph)
        set_index = np.concatenate([np.full(len(host.labels), t) for t, _, host in part])
        labels = np.concatenate([host.labels for _, _, host in part])
        targets.append(_of_nodes(built.node_of_atom, labels, set_index, (len(built.graph.numbers), len(specs))))
    return PreparedData(
        ids=[name for _, name, _ in hosts],
        targets=np.concatenate(targets),
        split=np.array([host.split for _, _, host in hosts]),
        graphs=GraphStore.from_graphs(stores),
        graph_config=graph,
        specs=tuple(specs),
        train_hash=_hash([(name, host) for _, name, host in hosts if host.split == "train"]),
    )


def _hash(hosts: Sequence[tuple[str, LabelledHost]]) -> str:
    """sha256 of names and labels."""
    labels = [np.empty(0), *(host.labels for _, host in hosts)]
    return hash_of_samples([name for name, host in hosts for _ in host.labels], np.concatenate(labels)[:, None])


def _of_nodes(node_of_atom: Ints, labels: Floats, column: Ints, shape: tuple[int, int]) -> Floats:
    """Mean label of each node in the column that it belongs to; NaN elsewhere."""
    known = np.isfinite(labels)
    at = (node_of_atom[known], column[known])
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, at, labels[known])
    np.add.at(count, at, 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)

"""A data set turned into graphs, targets and splits: all that training needs, readable with NumPy and torch alone.

Beside it the names of files by which a folder is known to hold such data, or a data set of the CGNN code.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cgcnn_ase.core.arrays import Floats, Ints, Strings
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.graph_store import GraphShards, GraphStore
from cgcnn_ase.graphs.builder import GraphConfig

if TYPE_CHECKING:
    from cgcnn_ase.nn.architecture import ArchitectureConfig

# files of a data set of the CGNN code
CGNN_TARGETS, CGNN_GRAPHS, CGNN_CONFIG, CGNN_SPLIT = "targets.csv", "graph_data.npz", "config.json", "split.json"
# files of prepared data, beside those of its graphs
SAMPLES, TARGETS = "samples.csv", "targets.npy"


@dataclass(frozen=True)
class PreparedData:
    """Graphs with labels and a split each.

    The targets are of crystals or of sites, all of the same level. Sites are the nodes of the graphs, in their order:
    with ``merge`` one for each class of equivalent atoms (see :func:`cgcnn_ase.graphs.builder.graphs_and_nodes`).
    """

    ids: list[str]
    targets: Floats  # (n, T), or (sites, T), each in its target's own unit; NaN: no label
    split: Strings  # (n,)
    graphs: GraphStore | GraphShards
    graph_config: GraphConfig
    specs: tuple[TargetSpec, ...]  # T of them
    train_hash: str  # sha256 of the ids and targets of the training split
    labels_converged: bool = True  # False where a label is marked as not converged (AiiDA's protocol fast)
    scale: str | None = None  # of the energies among the targets, by name; None where it is not stated

    def __post_init__(self) -> None:
        levels = {target.level for target in self.specs}
        if len(levels) != 1:
            raise ValueError("targets of crystals and of sites cannot be learned together, and there must be a target")
        n = int(self.graphs.n_nodes.sum()) if self.of_sites else len(self.ids)
        if self.targets.shape != (n, len(self.specs)):
            raise ValueError(f"targets must have the shape {(n, len(self.specs))}, not {self.targets.shape}")

    @property
    def of_sites(self) -> bool:
        """True where the targets are those of sites."""
        return self.specs[0].level == "site"

    def check_distances(self, architecture: "ArchitectureConfig") -> None:
        """Raise a `ValueError` where a network reads the lengths of bonds and only graphs without them were given."""
        if architecture.reads_distances and bool(self.graphs.batch([0]).distances[:1].isnan().any()):
            name = type(architecture).__name__.removesuffix("Config")
            raise ValueError(
                f"the graphs have no distances, which the architecture {name} reads; take one that reads none"
            )

    def rows(self, split: str) -> Ints:
        """Indices of the samples of one split."""
        return np.flatnonzero(self.split == split)

    def target_rows(self, rows: Tensor) -> Tensor:
        """Rows of ``targets`` that belong to some samples, in their order."""
        return self.graphs.node_rows(rows) if self.of_sites else rows

    def labels(self, split: str) -> Floats:
        """The targets of one split, (rows or their sites, T)."""
        labels: Floats = self.targets[self.target_rows(torch.from_numpy(self.rows(split))).numpy()]
        return labels

    def owners(self, split: str) -> Ints:
        """Of targets of sites: the crystal of each site of one split."""
        rows = self.rows(split)
        return np.repeat(rows, self.graphs.n_nodes.numpy()[rows])

    def sample_names(self, split: str) -> list[str]:
        """Ids of one split's crystals, or of their sites: the crystal's id and the number of the site."""
        rows = self.rows(split)
        if not self.of_sites:
            return [self.ids[i] for i in rows]
        return [f"{self.ids[i]}:{site}" for i in rows for site in range(int(self.graphs.n_nodes[i]))]

    def save(self, folder: Path) -> None:
        """Write a folder that :meth:`load` reads on a machine with only NumPy and torch."""
        meta = {
            "graph": asdict(self.graph_config),
            "targets": [asdict(target) for target in self.specs],
            "train_hash": self.train_hash,
            **({} if self.labels_converged else {"labels_converged": False}),
            **({} if self.scale is None else {"scale": self.scale}),
        }
        if isinstance(self.graphs, GraphShards):
            raise TypeError("data in shards is on disk already")
        self.graphs.save(folder, meta)
        np.save(folder / TARGETS, self.targets)
        with (folder / SAMPLES).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "split"])
            writer.writerows(zip(self.ids, self.split.tolist(), strict=True))

    @classmethod
    def load(cls, folder: Path) -> "PreparedData":
        """Read what :meth:`save` wrote, or a folder of such folders (see :func:`join`)."""
        if shards := shards_of(folder):
            return join([cls.load(shard) for shard in shards])
        meta = json.loads((folder / "meta.json").read_text())
        with (folder / SAMPLES).open(newline="") as file:
            rows = list(csv.DictReader(file))
        return cls(
            ids=[row["id"] for row in rows],
            targets=np.load(folder / TARGETS, allow_pickle=False),
            split=np.array([row["split"] for row in rows]),
            graphs=GraphStore.load(folder),
            graph_config=GraphConfig(**meta["graph"]),
            specs=tuple(TargetSpec(**target) for target in meta["targets"]),
            train_hash=meta["train_hash"],
            labels_converged=meta.get("labels_converged", True),
            scale=meta.get("scale"),
        )


def join(parts: Sequence[PreparedData]) -> PreparedData:
    """Several prepared data sets as one, whose graphs stay on disk.

    Other graphs, targets or scales of energies, or an id that occurs twice, are a `ValueError`.
    """
    first = parts[0]
    specs = tuple(_widest(same) for same in zip(*(part.specs for part in parts), strict=True))
    for part in parts:
        if part.graph_config != first.graph_config:
            raise ValueError(f"parts with different graphs: {first.graph_config} and {part.graph_config}")
    ids = [name for part in parts for name in part.ids]
    if len(set(ids)) < len(ids):
        twice = next(name for name, n in Counter(ids).items() if n > 1)
        raise ValueError(f"the id {twice!r} occurs in two parts")
    scales = sorted({part.scale for part in parts if part.scale is not None})
    if len(scales) > 1:
        raise ValueError(f"energies on the scales {' and '.join(scales)} never mix: labels of one scale are needed")
    stores = [store for part in parts for store in _stores(part.graphs)]
    return PreparedData(
        ids=ids,
        targets=np.concatenate([part.targets for part in parts]),
        split=np.concatenate([part.split for part in parts]),
        graphs=GraphShards(tuple(stores)),
        graph_config=first.graph_config,
        specs=specs,
        train_hash=hashlib.sha256("".join(part.train_hash for part in parts).encode()).hexdigest(),
        labels_converged=all(part.labels_converged for part in parts),
        scale=scales[0] if scales else None,
    )


def _widest(same: tuple[TargetSpec, ...]) -> TargetSpec:
    """The target that all parts have; of a classification, with all classes that occur in any."""
    widest = max(same, key=lambda target: target.n_classes)
    if any(replace(target, n_classes=widest.n_classes) != widest for target in same):
        raise ValueError(f"parts with different targets: {' and '.join(sorted({t.name for t in same}))}")
    return widest


def _stores(graphs: GraphStore | GraphShards) -> tuple[GraphStore, ...]:
    return graphs.stores if isinstance(graphs, GraphShards) else (graphs,)


def is_cgnn_folder(path: Path) -> bool:
    """Say whether a folder is a data set of the CGNN code, complete or not."""
    return (path / CGNN_GRAPHS).exists() or ((path / CGNN_TARGETS).exists() and (path / CGNN_CONFIG).exists())


def shards_of(folder: Path) -> list[Path]:
    """Folders of the parts of prepared data that was written in shards."""
    return sorted(path for path in folder.glob("shard-*") if (path / "meta.json").exists())


def is_prepared(path: Path) -> bool:
    """Say whether a path is a folder written by :meth:`PreparedData.save`, or one of such folders."""
    return bool(path.is_dir() and shards_of(path)) or ((path / "meta.json").exists() and (path / SAMPLES).exists())

"""A data set turned into graphs, targets and splits: all that training needs, readable with NumPy and torch alone."""

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cgcnn_ase.data.graph_store import GraphStore
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.targets import TargetSpec


@dataclass(frozen=True)
class PreparedData:
    """Graphs with a target and a split each."""

    ids: list[str]
    targets: npt.NDArray[np.float64]  #: (n,) in the target's own unit
    split: npt.NDArray[np.str_]  #: (n,)
    graphs: GraphStore
    graph_config: GraphConfig
    target: TargetSpec
    train_hash: str  #: sha256 of the ids and targets of the training split

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Indices of the samples of one split."""
        return np.flatnonzero(self.split == split)

    def save(self, folder: Path) -> None:
        """Write a folder that :meth:`load` reads on a machine with only NumPy and torch."""
        meta = {"graph": asdict(self.graph_config), "target": asdict(self.target), "train_hash": self.train_hash}
        self.graphs.save(folder, meta)
        with (folder / "targets.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "target", "split"])
            writer.writerows(zip(self.ids, self.targets.tolist(), self.split.tolist(), strict=True))

    @classmethod
    def load(cls, folder: Path) -> "PreparedData":
        """Read what :meth:`save` wrote."""
        meta = json.loads((folder / "meta.json").read_text())
        with (folder / "targets.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return cls(
            ids=[row["id"] for row in rows],
            targets=np.array([float(row["target"]) for row in rows]),
            split=np.array([row["split"] for row in rows]),
            graphs=GraphStore.load(folder),
            graph_config=GraphConfig(**meta["graph"]),
            target=TargetSpec(**meta["target"]),
            train_hash=meta["train_hash"],
        )


def is_prepared(path: Path) -> bool:
    """Whether a path is a folder written by :meth:`PreparedData.save`."""
    return (path / "meta.json").exists() and (path / "targets.csv").exists()

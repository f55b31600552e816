"""A data set to train on in a second: crystals made from prototypes, with a target that can be computed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from cgcnn_ase.core.elements import electronegativity_scale
from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.graph_store import build_store
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.graphs.builder import GraphConfig
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.nn.cgcnn import CGCNNConfig
from cgcnn_ase.training.config import TrainConfig

ELEMENTS = ["Li", "Na", "Mg", "Al", "Ti", "Mn", "Fe", "Ni", "Cu", "Zn", "O", "S", "F", "Cl", "N"]
SHAPES = {"rocksalt": 4.6, "cesiumchloride": 3.0, "zincblende": 5.0}
GRAPH = GraphConfig(rule="shell", cutoff=5.0, n_neighbors=6, merge=True)
SPEC = TargetSpec(name="ionicity", unit="eV", per_atom=True)
TINY = TrainConfig(
    graph=GRAPH,
    network=CGCNNConfig(n_features=8, n_convolutions=2, n_hidden=8, n_gaussians=8, cutoff=5.0),
    epochs=4,
    batch_size=16,
    learning_rate=5e-3,
    engine="torch",
)


def crystals(n: int, seed: int = 0) -> list[Atoms]:
    """Binary crystals of random elements, prototype and lattice constant."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(n):
        a, b = rng.choice(ELEMENTS, 2, replace=False)
        shape = str(rng.choice(list(SHAPES)))
        result.append(bulk(f"{a}{b}", shape, a=SHAPES[shape] * rng.uniform(0.9, 1.1)))
    return result


def target_of(atoms: Atoms) -> float:
    """Mean electronegativity, on the scale of the descriptor, plus half the shortest bond length in Å."""
    shortest = atoms.repeat(2).get_all_distances(mic=True)
    return float(electronegativity_scale()[atoms.numbers].mean() + 0.5 * shortest[shortest > 0.1].min())


def prepared_data(n_train: int = 96, n_val: int = 32, n_test: int = 24, seed: int = 0) -> PreparedData:
    """Such crystals with their graphs and splits."""
    n = n_train + n_val + n_test
    result = crystals(n, seed)
    return PreparedData(
        ids=[f"crystal-{k:03d}" for k in range(n)],
        targets=np.array([[target_of(atoms)] for atoms in result]),
        split=np.repeat(["train", "val", "test"], [n_train, n_val, n_test]),
        graphs=build_store([geometry(atoms) for atoms in result], GRAPH, workers=1),
        graph_config=GRAPH,
        specs=(SPEC,),
        train_hash="0" * 64,
    )


def weights_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
    return state


@pytest.fixture(scope="session")
def differing() -> Callable[[Path, Path], list[str]]:
    """Names of the weights and running statistics in which two checkpoints are not the same, bit for bit."""

    def find(first: Path, second: Path) -> list[str]:
        a, b = weights_in(first), weights_in(second)
        assert a.keys() == b.keys()
        return [name for name in a if not torch.equal(a[name], b[name])]

    return find


@pytest.fixture(scope="session")
def make_data() -> Callable[..., PreparedData]:
    return prepared_data


@pytest.fixture(scope="session")
def make_crystals() -> Callable[..., tuple[list[Atoms], list[float]]]:
    """Structures and their targets, to write as files."""

    def make(n: int, seed: int = 0) -> tuple[list[Atoms], list[float]]:
        result = crystals(n, seed)
        return result, [target_of(atoms) for atoms in result]

    return make


@pytest.fixture(scope="session")
def data() -> PreparedData:
    return prepared_data()


@pytest.fixture(scope="session")
def worse_every_epoch(data: PreparedData) -> PreparedData:
    """All val targets are the train mean: the first epoch is the best, and learning makes the val error worse."""
    mean = data.targets[data.rows("train")].mean()
    return replace(data, targets=np.where(data.split[:, None] == "val", mean, data.targets))


@pytest.fixture(scope="session")
def tiny() -> Callable[..., TrainConfig]:
    """Settings of a run that takes a second; keywords change them, those of the network too."""

    def make(**changes: Any) -> TrainConfig:
        names = {name: changes.pop(name) for name in list(changes) if name in CGCNNConfig.__dataclass_fields__}
        return replace(TINY, network=replace(TINY.network, **names), **changes)

    return make


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)

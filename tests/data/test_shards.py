"""Data sets in parts: the same as in one, and on disk rather than in memory."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write

from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.graph_store import GraphShards, GraphStore
from cgcnn_ase.data.prepared import PreparedData, is_prepared, join
from cgcnn_ase.data.splits import hashed_split
from cgcnn_ase.graphs.builder import GraphConfig, build_graphs
from cgcnn_ase.graphs.crystal_graph import CrystalGraph

CRYSTALS = [bulk("NaCl", "rocksalt", a=5.6 + 0.05 * k) for k in range(5)] + [bulk("Si"), bulk("Cu"), bulk("Al")]
GRAPH = GraphConfig(cutoff=5.0, n_neighbors=6)


def part(rows: range, **changes: object) -> PreparedData:
    graphs = GraphStore.from_graphs(build_graphs([CRYSTALS[k]], GRAPH) for k in rows)
    data = PreparedData(
        ids=[f"c{k}" for k in rows],
        targets=np.arange(8.0)[list(rows), None],
        split=np.array(["train", "val", "test"])[np.array(rows) % 3],
        graphs=graphs,
        graph_config=GRAPH,
        specs=(TargetSpec(name="x", unit="eV"),),
        train_hash="ab",
    )
    return replace(data, **changes)


def same(a: CrystalGraph, b: CrystalGraph) -> None:
    for name, x, y in zip(a._fields, a, b, strict=True):
        assert (x is None) == (y is None), name
        if x is not None and name != "lines":
            assert torch.equal(x, y), name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k, rows in enumerate((range(3), range(3, 4), range(4, 8))):
        part(rows).save(tmp_path / "data" / f"shard-{k:04d}")
    return tmp_path / "data"


@pytest.mark.parametrize("rows", [[0, 2, 3, 5], [7, 0, 3, 1, 4], [3], [6, 6, 1]])
def test_a_batch_is_that_of_a_single_store(folder: Path, rows: list[int]) -> None:
    whole = part(range(8))
    data = PreparedData.load(folder)
    assert isinstance(data.graphs, GraphShards)
    same(data.graphs.batch(rows), whole.graphs.batch(rows))
    picked = torch.tensor(rows)
    assert torch.equal(data.graphs.node_rows(picked), whole.graphs.node_rows(picked))
    assert data.graphs.node_owner().tolist() == whole.graphs.node_owner().tolist()


def test_the_parts_are_one_data_set(folder: Path) -> None:
    data, whole = PreparedData.load(folder), part(range(8))
    assert is_prepared(folder)
    assert (data.ids, data.targets.tolist(), data.split.tolist()) == (
        whole.ids,
        whole.targets.tolist(),
        whole.split.tolist(),
    )
    assert len(data.graphs) == 8


def test_graphs_stay_on_disk(folder: Path) -> None:
    """Their arrays are mapped, and another process gets the name of the folder instead of them."""
    data = PreparedData.load(folder)
    assert isinstance(data.graphs, GraphShards)
    for store in data.graphs.stores:
        assert len(pickle.dumps(store)) < 500
        assert isinstance(np.asarray(store.fields["distances"]).base, np.memmap | torch.Tensor) or store.folder
    again = pickle.loads(pickle.dumps(data))
    same(again.graphs.batch([1, 6]), data.graphs.batch([1, 6]))
    in_memory = part(range(8)).graphs
    same(pickle.loads(pickle.dumps(in_memory)).batch([1, 6]), in_memory.batch([1, 6]))


def test_parts_that_do_not_fit() -> None:
    one = part(range(3))
    with pytest.raises(ValueError, match="the id 'c2' occurs in two parts"):
        join([one, part(range(2, 5))])
    with pytest.raises(ValueError, match="parts with different targets: x and y"):
        join([one, part(range(3, 5), specs=(TargetSpec(name="y", unit="eV"),))])
    with pytest.raises(ValueError, match="parts with different graphs"):
        join([one, part(range(3, 5), graph_config=replace(GRAPH, cutoff=6.0))])
    classes = [TargetSpec(name="k", unit="", task="classification", n_classes=n) for n in (2, 4)]
    mixed = join([part(range(3), specs=(classes[0],)), part(range(3, 8), specs=(classes[1],))])
    assert mixed.specs == (classes[1],)


def test_a_formula_has_one_split_whatever_is_beside_it() -> None:
    names = [f"A{k}B" for k in range(3000)]
    whole = hashed_split(names, val=0.1, test=0.2, seed=3)
    assert hashed_split(names[500:600], val=0.1, test=0.2, seed=3).tolist() == whole[500:600].tolist()
    shares = [(whole == name).mean() for name in ("train", "val", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    assert (hashed_split(names, seed=4) != whole).any()
    with pytest.raises(ValueError, match="leave something to train on"):
        hashed_split(names, val=0.5, test=0.5)


def test_prepare_and_train_in_parts(tmp_path: Path, cgcnn_ase) -> None:  # type: ignore[no-untyped-def]
    """Through the command line; a shard that is there is kept."""
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for k in range(40):
            a, b = rng.choice(["Li", "Na", "K", "Rb", "Mg", "Ca"], 2, replace=False)
            write(folder / f"{name}{k}.cif", bulk(f"{a}{b}", "rocksalt", a=rng.uniform(5, 6)))
            rows.append(f"{name}{k},{rng.normal()}\n")
        (folder / "id_prop.csv").write_text("".join(rows))
    (tmp_path / "small.yaml").write_text(
        "epochs: 1\nbatch_size: 8\nnetwork: {n_features: 4, n_convolutions: 1, n_hidden: 4}\n"
    )
    arguments = ["prepare", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "out", "--val", "0.2"]
    ran = cgcnn_ase(*arguments)
    assert ran.code == 0, ran.err
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["shard-0000", "shard-0001"]
    before = (tmp_path / "out" / "shard-0000" / "distances.npy").stat().st_mtime_ns
    assert cgcnn_ase(*arguments).code == 0
    assert (tmp_path / "out" / "shard-0000" / "distances.npy").stat().st_mtime_ns == before
    ran = cgcnn_ase("train", tmp_path / "out", "--output", tmp_path / "run", "--config", tmp_path / "small.yaml")
    assert ran.code == 0, ran.err
    assert "80 structures" in ran.err
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()

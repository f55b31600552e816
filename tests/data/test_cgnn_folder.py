"""The data set folder of the CGNN code: graphs, targets and a split, and no structures."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import yaml

from cgcnn_ase import load_model
from cgcnn_ase.data.cgnn_folder import load_cgnn_folder
from cgcnn_ase.data.prepared import is_cgnn_folder
from cgcnn_ase.graphs.builder import GraphConfig, build_graphs
from cgcnn_ase.graphs.crystal_graph import unbatch

from ..conftest import random_crystal

SMALL = "network: {n_features: 8, n_hidden: 8, n_edge_features: 8}\nepochs: 2\nbatch_size: 16\nengine: torch\n"


def write_cgnn_folder(folder, structures, targets, split):
    """As `tools/mp_graph.py` and `OQMD/oqmd.py` of the CGNN code write one, of our coordinator's graphs."""
    folder.mkdir()
    graphs = unbatch(build_graphs(structures, GraphConfig(rule="coordinator")))
    numbers = sorted({int(z) for graph in graphs for z in graph.numbers})
    packed = {}
    for k, graph in enumerate(graphs):
        nodes = [numbers.index(int(z)) for z in graph.numbers]
        centers, neighbors = graph.centers.tolist(), graph.neighbors.tolist()
        packed[f"oqmd-{k}"] = (
            nodes,
            [[j for i, j in zip(centers, neighbors, strict=True) if i == n] for n in range(len(nodes))],
        )
    np.savez_compressed(folder / "graph_data.npz", graph_dict=packed)
    names = list(targets)
    rows = [
        f"oqmd-{k},{structures[k].get_chemical_formula()}," + ",".join(repr(float(targets[n][k])) for n in names)
        for k in range(len(structures))
    ]
    (folder / "targets.csv").write_text("\n".join([",".join(["name", "formula", *names]), *rows]) + "\n")
    config = {"atomic_numbers": numbers, "node_vectors": np.eye(len(numbers)).tolist()}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "split.json").write_text(json.dumps(split))
    return folder


@pytest.fixture(scope="module")
def structures():
    rng = np.random.default_rng(3)
    return [random_crystal(rng) for _ in range(60)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, structures):
    targets = {"energy": [len(s) / 3 for s in structures], "gap": [s.numbers.mean() for s in structures]}
    split = {"train": list(range(30)), "val": list(range(30, 54)), "test": list(range(54, 59))}
    return write_cgnn_folder(tmp_path_factory.mktemp("cgnn") / "SET", structures, targets, split)


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(whole, tmp_path / "SET")


def test_graphs_are_those_of_the_coordinator(whole, structures):
    data = load_cgnn_folder(whole, ["gap"], unit="eV")
    assert data.ids == [f"oqmd-{k}" for k in range(59)]  # row 59 is in no split
    assert [len(data.rows(split)) for split in ("train", "val", "test")] == [30, 24, 5]
    assert data.targets[:, 0] == pytest.approx([s.numbers.mean() for s in structures[:59]])
    assert (data.specs[0].name, data.specs[0].unit, data.specs[0].task) == ("gap", "eV", "regression")
    ours, theirs = build_graphs(structures[:59], data.graph_config), data.graphs.batch(range(59))
    for name in ("numbers", "centers", "neighbors", "multiplicity", "n_nodes", "n_edges"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert theirs.distances.isnan().all()


def test_without_a_split_it_is_by_composition(folder):
    (folder / "split.json").unlink()
    data = load_cgnn_folder(folder, ["gap"], val=0.2, test=0.2)
    assert len(data.ids) == 60
    assert 0 < len(data.rows("test")) < 30


@pytest.mark.slow
def test_train_and_evaluate(whole, tmp_path, cgcnn_ase):
    (tmp_path / "c.yaml").write_text(SMALL)
    run = tmp_path / "RUN"
    ran = cgcnn_ase("train", whole, "--target", "gap", "--unit", "eV", "--config", tmp_path / "c.yaml", "--output", run)
    assert ran.code == 0, ran.err
    assert "59 structures: 30 train, 24 val, 5 test" in ran.err
    used = yaml.safe_load((run / "config.yaml").read_text())
    assert used["graph"]["rule"] == "coordinator"
    assert used["network"]["architecture"] == "cgnn"
    metrics = json.loads((run / "metrics.json").read_text())
    assert np.isfinite(metrics["test"]["mae"])
    ran = cgcnn_ase("evaluate", run, whole, "--split", "test", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["mae"] == pytest.approx(metrics["test"]["mae"])
    ran = cgcnn_ase("train", whole, "--from", run, "--epochs", "1", "--output", tmp_path / "TUNED")
    assert ran.code == 0, ran.err
    assert load_model(tmp_path / "TUNED").scaler == load_model(run).scaler


def test_its_model_predicts_structures_as_their_graphs(whole, structures, tmp_path, cgcnn_ase):
    from cgcnn_ase import predict

    (tmp_path / "c.yaml").write_text(SMALL)
    run = tmp_path / "RUN"
    ran = cgcnn_ase("train", whole, "--target", "gap", "--config", tmp_path / "c.yaml", "--output", run)
    assert ran.code == 0, ran.err
    table = [line.split(",") for line in (run / "test_results.csv").read_text().splitlines()[1:]]
    result = predict(str(run), {f"oqmd-{k}": structures[k] for k in range(54, 59)})
    assert [float(row[2]) for row in table] == pytest.approx([result[row[0]][0] for row in table], abs=1e-5)


def test_a_network_that_reads_distances_is_refused(whole, tmp_path, cgcnn_ase):
    (tmp_path / "c.yaml").write_text("network: {architecture: cgcnn}\n")
    ran = cgcnn_ase("train", whole, "--target", "gap", "--config", tmp_path / "c.yaml", "--output", tmp_path / "RUN")
    assert ran.code == 2
    assert "the graphs have no distances, which the architecture CGCNN reads" in ran.err
    assert not (tmp_path / "RUN").exists()


def pack(folder, graphs):
    np.savez_compressed(folder / "graph_data.npz", graph_dict=graphs)


def change_json(folder, name, **changes):
    file = folder / name
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


class Runs:
    """Asks, when it is unpickled, for a folder to be made."""

    def __init__(self, path):
        self.place = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.place,)


SPOILT = {
    "no graphs": (lambda f: (f / "graph_data.npz").unlink(), "graph_data.npz is missing; a CGNN data set is"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no targets": (lambda f: (f / "targets.csv").unlink(), "targets.csv is missing"),
    "no names": (lambda f: (f / "targets.csv").write_text("id,gap\na,1\n"), "no column 'name'; there are id, gap"),
    "empty": (lambda f: (f / "targets.csv").write_text(""), "not a table"),
    "twice": (lambda f: (f / "targets.csv").write_text("name,gap\na,1\na,2\n"), "the name 'a' is there twice"),
    "no graph": (lambda f: pack(f, {"oqmd-0": ([0], [[]])}), "no graph of oqmd-1, oqmd-2"),
    "no dict": (lambda f: pack(f, [1, 2]), "an array of the shape"),
    "no array": (lambda f: np.savez(f / "graph_data.npz", x=1), "holds no graph_dict, but x"),
    "no npz": (lambda f: (f / "graph_data.npz").write_bytes(b"PK"), "damaged, or not written by numpy.savez"),
    "no numbers": (lambda f: change_json(f, "config.json", atomic_numbers=None), "has no atomic_numbers"),
    "few numbers": (lambda f: change_json(f, "config.json", atomic_numbers=[3]), "1 atomic_numbers for"),
    "bad numbers": (lambda f: change_json(f, "config.json", atomic_numbers="Li"), "not a list of whole numbers"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    "row beyond": (lambda f: change_json(f, "split.json", val=[60]), "val: there is no row 60; targets.csv has 60"),
    "row below": (lambda f: change_json(f, "split.json", val=[-1]), "val: there is no row -1"),
    "two splits": (lambda f: change_json(f, "split.json", val=[7]), "row 7 is in val and in another split"),
    "names as rows": (lambda f: change_json(f, "split.json", val=["a"]), "val: not a list of whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_wrong_is_said_in_words(folder, case, cgcnn_ase, tmp_path):
    spoil, message = SPOILT[case]
    spoil(folder)
    ran = cgcnn_ase("train", folder, "--target", "gap", "--output", tmp_path / "RUN")
    assert ran.code == 2
    assert message in ran.err
    assert not (tmp_path / "RUN").exists()


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (([0, 99], [[1], [0]]), "oqmd-0: node 99 is not from 0 to"),
        (([0, 1], [[1], [2]]), "oqmd-0: neighbour 2 is not from 0 to 1"),
        (([0, 1], [[1]]), "oqmd-0: 2 nodes with 1 lists of neighbours"),
        (([0, 1], [[1], [0.5]]), "oqmd-0: neighbours of node 1: not a list of whole numbers"),
        (([], []), "oqmd-0: 0 nodes"),
        ([[0]], "oqmd-0: not a pair of the nodes and their neighbours"),
    ],
)
def test_a_bad_graph_is_named(folder, graph, message):
    graphs = {f"oqmd-{k}": ([0], [[0]]) for k in range(60)} | {"oqmd-0": graph}
    pack(folder, graphs)
    with pytest.raises(ValueError, match=message):
        load_cgnn_folder(folder, ["gap"])


def test_columns_are_named(whole):
    with pytest.raises(ValueError, match="name the column to learn; there are energy, gap"):
        load_cgnn_folder(whole)
    with pytest.raises(ValueError, match="no column of numbers 'formula'; allowed: energy, gap"):
        load_cgnn_folder(whole, ["formula"])


def test_nothing_in_the_file_is_run(folder, tmp_path):
    pack(folder, {"oqmd-0": Runs(tmp_path / "made")})
    with pytest.raises(ValueError, match=r"it asks for .*mkdir; only arrays, numbers"):
        load_cgnn_folder(folder, ["gap"])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("as_arrays", [False, True])
def test_arrays_and_names_of_python_2(folder, as_arrays, monkeypatch):
    """Lists may be arrays; names that were str in Python 2 are bytes in its pickles or come as such."""
    make = np.array if as_arrays else list
    graphs = {f"oqmd-{k}".encode(): (make([0, 1]), [make([1, 1]), make([0])]) for k in range(60)}
    monkeypatch.setattr(pickle, "DEFAULT_PROTOCOL", 2)
    pack(folder, graphs)
    data = load_cgnn_folder(folder, ["gap"])
    assert data.graphs.batch([3]).neighbors.tolist() == [1, 1, 0]


def test_what_is_one(whole, tmp_path):
    assert is_cgnn_folder(whole)
    assert not is_cgnn_folder(tmp_path)


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_parts_have_no_effect_beside_its_split(whole, cgcnn_ase, tmp_path, command):
    ran = cgcnn_ase(command, whole, "--target", "gap", "--val", "0.2", "--test", "0.2", "--output", tmp_path / "out")
    assert ran.code == 2
    assert "SET: has a split of its own, so --val and --test would have no effect; leave it out" in ran.err
    assert not (tmp_path / "out").exists()

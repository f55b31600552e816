"""What is in the place of an output is written over only where ``--overwrite`` says so, and nothing else with it."""

import json

import numpy as np
import pytest
import yaml

from ..conftest import random_crystal

SETTINGS = {
    "epochs": 1, "batch_size": 16, "engine": "torch", "graph": {"cutoff": 5.0, "n_neighbors": 6},
    "network": {"n_features": 8, "n_convolutions": 1, "n_hidden": 8},
}  # fmt: skip
SEARCH = {
    "space": {"variables": {"x": {"low": 0.0, "high": 1.0, "sites": 20}}},
    "objectives": "value",
    "oracle": {"name": "callable", "function": "distance.py:of"},
    "budget": {"evaluations": 2, "initial": 2},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A folder with a data set of 40 crystals, and settings."""
    folder = tmp_path_factory.mktemp("overwrite")
    rng = np.random.default_rng(3)
    (folder / "DATA").mkdir()
    lines = ["id,gap"]
    for k in range(40):
        random_crystal(rng).write(folder / "DATA" / f"c{k}.cif")
        lines.append(f"c{k},{k / 40}")
    (folder / "DATA" / "id_prop.csv").write_text("\n".join(lines) + "\n")
    (folder / "c.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


@pytest.fixture(scope="module")
def train(path, cgcnn_ase):
    """Train into the folder ``RUN`` with options."""
    return lambda *options: cgcnn_ase(
        "train", path / "DATA", "--config", path / "c.yaml", "--output", path / "RUN", *options
    )


def content(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run(train, path):
    assert train().code == 0
    before = content(path / "RUN")
    ran = train("--seed", "1")
    assert ran.code == 2
    assert "holds a training run already; --resume goes on with it, --overwrite replaces it" in ran.err
    (path / "RUN" / "notes.txt").write_text("mine")
    ran = train("--seed", "1", "--overwrite")
    assert ran.code == 2
    assert "RUN: holds notes.txt beside a training run, which alone is written over" in ran.err
    (path / "RUN" / "notes.txt").unlink()
    assert train("--seed", "1", "--overwrite", "--target", "gab").code == 2  # an error leaves what is there
    assert content(path / "RUN") == before
    ran = train("--seed", "1", "--overwrite")
    assert ran.code == 0, ran.err
    after = content(path / "RUN")
    assert after.keys() == before.keys()
    assert after[path / "RUN" / "last.ckpt"] != before[path / "RUN" / "last.ckpt"]
    assert yaml.safe_load((path / "RUN" / "config.yaml").read_text())["seed"] == 1


def test_a_cross_validation_leaves_nothing_of_the_run_before(train, path):
    train()
    for k in ("4", "3"):
        ran = train("--k-fold", k, "--overwrite")
        assert ran.code == 0, ran.err
    names = {file.name for file in (path / "RUN").iterdir()}
    assert names == {"fold-0", "fold-1", "fold-2", "cross_validation.json"}


def test_data_of_others_is_no_run(train, path):
    """A folder of pictures is not emptied for a run."""
    folder = path / "pictures"
    folder.mkdir()
    (folder / "holiday.png").write_bytes(b"")
    ran = train("--overwrite", "--output", folder)
    assert ran.code == 2
    assert "pictures: is not empty and holds not a training run, which alone is written over" in ran.err
    assert (folder / "holiday.png").exists()


def test_prepared_data(cgcnn_ase, path):
    """Shards that are there are kept without the option, and none of an earlier data set stays with it."""
    output = path / "PREPARED"

    def prepare(*data, options=()):
        return cgcnn_ase("prepare", *data, "--config", path / "c.yaml", "--output", output, *options)

    data = path / "DATA"
    assert prepare(data, data, data).code == 0
    assert "is not empty; name another folder, or add --overwrite" in prepare(data).err
    ran = prepare(data, options=["--overwrite"])
    assert ran.code == 0, ran.err
    assert not list(output.glob("shard-*"))
    made = (output / "meta.json").stat().st_mtime_ns
    assert prepare(data).code == 2
    assert prepare(data, options=["--overwrite"]).code == 0
    assert (output / "meta.json").stat().st_mtime_ns > made


def test_an_evaluation(cgcnn_ase, path, small_model):
    def evaluate(*options):
        return cgcnn_ase("evaluate", small_model, path / "DATA", "--target", "gap", *options)

    output = path / "FIGURES"
    assert evaluate("--output", output).code == 0
    (output / "metrics.json").write_text("{}")
    ran = evaluate("--output", output)
    assert ran.code == 2
    assert "it holds an evaluation already; choose another folder, or add --overwrite" in ran.err
    assert evaluate("--output", output, "--overwrite").code == 0
    assert json.loads((output / "metrics.json").read_text())["n"] == 40


def test_an_evaluation_never_replaces_the_metrics_of_a_run(cgcnn_ase, train, path, small_model):
    train("--overwrite")
    before = (path / "RUN").joinpath("split.csv").read_bytes()
    ran = cgcnn_ase("evaluate", small_model, path / "DATA", "--target", "gap", "--output", path / "RUN", "--overwrite")
    assert ran.code == 2
    assert "RUN: holds a training run, whose own metrics.json is there; name another folder" in ran.err
    assert (path / "RUN").joinpath("split.csv").read_bytes() == before


def test_a_search(cgcnn_ase, path):
    (path / "search.yaml").write_text(yaml.safe_dump(SEARCH))
    (path / "distance.py").write_text("def of(point, atoms):\n    return {'value': point['x']}\n")
    output = path / "SEARCH"

    def search(*options):
        return cgcnn_ase("optimize", path / "search.yaml", "--output", output, *options)

    ran = search()
    assert ran.code == 0, ran.err
    assert "--resume goes on with it, --overwrite replaces it" in search().err
    (path / "search.yaml").write_text(yaml.safe_dump(SEARCH | {"seed": 5}))
    (output / "notes.txt").write_text("mine")
    assert "SEARCH: holds notes.txt beside an optimisation" in search("--overwrite").err
    (output / "notes.txt").unlink()
    ran = search("--overwrite")
    assert ran.code == 0, ran.err
    assert yaml.safe_load((output / "config.yaml").read_text())["seed"] == 5
    assert len((output / "evaluations.jsonl").read_text().splitlines()) == 2

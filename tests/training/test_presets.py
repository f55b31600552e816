"""Architectures by name through training: in Python, on the command line, beside settings and a model to tune."""

import os
import re
from dataclasses import asdict, replace

import pytest
import yaml
from ase.io import write

from cgcnn_ase import load_model
from cgcnn_ase.cli.options import PRESET_NAMES
from cgcnn_ase.data.graph_store import build_store
from cgcnn_ase.graphs.crystal_graph import geometry
from cgcnn_ase.training.callbacks import read_history
from cgcnn_ase.training.config import PRESETS, TrainConfig, preset, preset_config
from cgcnn_ase.training.member import train_member


@pytest.fixture(scope="module")
def path(make_crystals, tmp_path_factory):
    """A data set of a few crystals, with a split in proportion."""
    folder = tmp_path_factory.mktemp("presets") / "set"
    folder.mkdir()
    structures, targets = make_crystals(10)
    for k, atoms in enumerate(structures):
        write(folder / f"c{k}.cif", atoms)
    rows = [f"c{k},{target!r}" for k, target in enumerate(targets)]
    (folder / "id_prop.csv").write_text("\n".join(["cif_id,ionicity", *rows]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGCNN_ASE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield folder


def test_a_preset_is_the_base_of_a_configuration():
    for name, (graph, network) in PRESETS.items():
        assert preset_config(name) == TrainConfig(graph=graph, network=network)
    changed = preset_config("cgnn", epochs=3, network=replace(PRESETS["cgnn"][1], n_features=8))
    assert (changed.epochs, changed.network.n_features, changed.graph.rule) == (3, 8, "coordinator")
    with pytest.raises(ValueError, match="unknown preset 'cgan'; .*allowed: cgcnn-2018, "):
        preset_config("cgan")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains(make_data, make_crystals, tmp_path, name):
    """One epoch of one batch, at the published size."""
    config = preset_config(name, epochs=1, batch_size=4, engine="torch")
    data = make_data(n_train=4, n_val=2, n_test=0)
    shapes = [geometry(atoms) for atoms in make_crystals(6)[0]]
    graph = replace(config.graph, merge=True)  # the same results with less work
    config = replace(config, graph=graph)
    spec = replace(data.specs[0], per_atom=False)
    data = replace(data, graphs=build_store(shapes, graph, workers=1), graph_config=graph, specs=(spec,))
    train_member(data, config, tmp_path, progress=False)
    (row,) = read_history(tmp_path / "history.csv")
    assert 0 < float(row["train_loss"]) < 10


def test_help_lists_the_names(cgcnn_ase, monkeypatch):
    monkeypatch.setitem(os.environ, "COLUMNS", "400")
    assert set(re.split(", | or ", PRESET_NAMES)) == set(PRESETS)
    for command in ("train", "prepare"):
        ran = cgcnn_ase(command, "--help")
        assert ran.code == 0
        assert PRESET_NAMES in ran.out


def test_a_run_with_a_preset(path, cgcnn_ase, tmp_path):
    """Options and the file lie over the preset."""
    (tmp_path / "c.yaml").write_text("network: {n_features: 12, n_alignn: 1}\nepochs: 5\nengine: torch\n")
    ran = cgcnn_ase(
        "train", path, "--preset", "alignn-small", "--config", tmp_path / "c.yaml", "--epochs", 1, "--val", 0.2,
        "--output", tmp_path / "run",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    graph, network = preset("alignn-small")
    assert settings["graph"] == asdict(graph)
    assert settings["network"] == asdict(replace(network, n_features=12, n_alignn=1))
    assert settings["epochs"] == 1
    model = load_model(tmp_path / "run")
    tuned = cgcnn_ase(
        "train", path, "--from", tmp_path / "run", "--preset", "alignn-small", "--output", tmp_path / "tuned"
    )
    assert tuned.code == 2
    assert "--preset alignn-small: the model to tune has another network or graph" in tuned.err
    assert model.networks[0].config.architecture.n_features == 12


def test_the_preset_of_the_model_to_tune_may_be_named(original_weights, path, cgcnn_ase, tmp_path):
    weights = original_weights / "formation-energy-per-atom.pth.tar"
    ran = cgcnn_ase("train", path, "--from", weights, "--preset", "cgnn", "--output", tmp_path / "run")
    assert ran.code == 2
    assert "--preset cgnn: the model to tune has another" in ran.err


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_unknown_names(path, cgcnn_ase, tmp_path, command):
    ran = cgcnn_ase(command, path, "--preset", "schnet", "--output", tmp_path / "run")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"cgcnn-ase: unknown preset 'schnet'; allowed: {', '.join(PRESETS)}\n"
    assert not (tmp_path / "run").exists()


def test_a_preset_and_another_architecture(path, cgcnn_ase, tmp_path):
    (tmp_path / "c.yaml").write_text("network: {architecture: alignn}\n")
    ran = cgcnn_ase("train", path, "--preset", "cgnn", "--config", tmp_path / "c.yaml", "--output", tmp_path / "run")
    assert ran.code == 2
    assert "c.yaml: network.architecture: the preset cgnn is of the architecture cgnn, the settings ask for alignn" in (
        ran.err
    )


def test_prepared_for_a_preset(path, cgcnn_ase, tmp_path):
    ran = cgcnn_ase("prepare", path, "--preset", "cgnn", "--val", 0.2, "--output", tmp_path / "prepared")
    assert ran.code == 0, ran.err
    ran = cgcnn_ase("train", tmp_path / "prepared", "--preset", "alignn-small", "--output", tmp_path / "run")
    assert ran.code == 2
    assert "the data was prepared with GraphConfig(rule='coordinator'" in ran.err


def test_settings_for_larger_machines(path, cgcnn_ase, tmp_path):
    """The options write the settings; what this machine does not have is said before a run begins."""
    options = ["--preset", "cgcnn-2018-eq4", "--val", 0.2, "--epochs", 1]
    ran = cgcnn_ase(
        "train", path, *options, "--accumulate", 2, "--accelerator", "cpu", "--devices", 1, "--nodes", 1,
        "--precision", "bf16-mixed", "--tensorboard", "--output", tmp_path / "run",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    names = ("accumulate", "accelerator", "devices", "nodes", "precision", "tensorboard")
    assert [settings[name] for name in names] == [2, "cpu", 1, 1, "bf16-mixed", True]
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    for option, value, message in [
        ("--precision", "16", "precision: must be 32-true or 16-mixed or bf16-mixed, not '16'"),
        ("--accelerator", "tpu", "accelerator: must be auto or cpu or gpu, not 'tpu'"),
        ("--devices", 0, "devices must be at least 1"),
        ("--accumulate", 0, "accumulate must be at least 1"),
        ("--nodes", 2, "2 nodes: start one process a device"),
    ]:
        ran = cgcnn_ase("train", path, *options, option, value, "--output", tmp_path / "wrong")
        assert (ran.code, ran.out) == (2, "")
        assert message in ran.err
    assert not (tmp_path / "wrong").exists()


def test_no_gpu_is_said_in_words(path, cgcnn_ase, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    ran = cgcnn_ase("train", path, "--val", 0.2, "--accelerator", "gpu", "--output", tmp_path / "run")
    assert ran.code == 2
    assert "accelerator gpu: torch finds no GPU on this machine; allowed here: cpu or auto" in ran.err
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    ran = cgcnn_ase("train", path, "--val", 0.2, "--devices", 2, "--output", tmp_path / "run")
    assert "2 devices: this machine has 1" in ran.err
    assert not (tmp_path / "run").exists()

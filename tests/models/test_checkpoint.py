"""Model folders: what is saved comes back, what is damaged is refused in words, and nothing is executed."""

import json
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cgcnn_ase import Predictor, load_model
from cgcnn_ase.graphs.builder import build_graphs
from cgcnn_ase.models.checkpoint import load_folder, save_model
from cgcnn_ase.models.folder import CONFIG, FORMAT_VERSION, WEIGHTS, CheckpointError, read_config
from cgcnn_ase.models.registry import ModelRef, UnknownModelError, find_models, model_info, model_names

from ..conftest import make_model


@pytest.fixture
def folder(small_model, tmp_path):
    """A copy of the small model, to damage."""
    return shutil.copytree(small_model, tmp_path / "model")


def edit(folder, **changes):
    """Change the configuration without changing its hash."""
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"calibration": False},
        {"n_members": 1, "dropout": 0.3, "n_hidden_layers": 2},
        {"task": "classification", "name": "is_metal", "unit": "probability"},
        {"transform": "log10", "name": "bulk_modulus", "unit": "GPa"},
        {"convolution": "gated", "activation": "softplus", "mean_variance": False},
        {"norm": "layer", "atom_layer": True, "embedding": "learned"},
    ],
    ids=lambda s: "-".join(s) or "plain",
)
def test_round_trip(tmp_path, crystals, settings):
    model = make_model(**settings)
    model.training_record = {"train_hash": "abc", "test": {"mae": 0.05}}
    again = load_folder(save_model(model, tmp_path / "m"))
    assert (again.graph, again.target, again.scaler) == (model.graph, model.target, model.scaler)
    assert again.name == model.name
    assert again.training_record == model.training_record
    assert again.networks[0].config == model.networks[0].config
    assert not again.training
    graph = build_graphs(crystals, model.graph)
    with torch.inference_mode():
        before, after = model(graph, "torch"), again(graph, "torch")
    assert torch.equal(before.values, after.values)
    assert (before.stds is None) == (after.stds is None)
    one, two = (
        p.to_frame().drop(columns="model_sha256") for p in (Predictor(model)(crystals), Predictor(again)(crystals))
    )
    assert one.equals(two)


def test_saved_again_is_the_same(small_model, tmp_path):
    again = save_model(load_folder(small_model), tmp_path / "again")
    for name in (WEIGHTS, CONFIG):
        assert (again / name).read_bytes() == (small_model / name).read_bytes()


def test_hash_is_that_of_the_weights_file(small_model):
    from hashlib import sha256

    expected = sha256((small_model / WEIGHTS).read_bytes()).hexdigest()
    assert load_folder(small_model).sha256 == expected
    assert read_config(small_model)["sha256"][WEIGHTS] == expected


def test_weights_are_no_pickle(small_model, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("unpickled something")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    load_folder(small_model)
    with safe_open(small_model / WEIGHTS, "np") as tensors:
        assert all(tensors.get_tensor(name).dtype in (np.float32, np.int64) for name in tensors.keys())  # noqa: SIM118


def test_a_pickle_in_place_of_the_weights(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return sys.modules["pathlib"].Path.touch, (tmp_path / "ran",)

    (folder / WEIGHTS).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="damaged"):
        load_folder(folder)
    assert not (tmp_path / "ran").exists()


# Damage


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"no {name} in this model folder"):
        load_folder(folder)


@pytest.mark.parametrize("where", [0, 9, 0.5, -1])
def test_flipped_byte_in_the_weights(folder, where):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[int(where * len(content)) if isinstance(where, float) else where] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged: its sha256"):
        load_folder(folder)


def test_truncated_weights(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_folder(folder)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_flipped_byte_in_the_configuration(folder, part):
    """Every flip is either found or, in white space, changes nothing."""
    content = bytearray((folder / CONFIG).read_bytes())
    at = int(part * len(content))
    while content[at : at + 1].isspace():
        at -= 1
    content[at] ^= 1
    (folder / CONFIG).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged|no format_version|is newer"):
        load_folder(folder)


def test_changed_value_in_the_configuration(folder):
    edit(folder, scaler={"mean": 0.0, "std": 1.0})
    with pytest.raises(CheckpointError, match="does not fit the sha256 in it"):
        load_folder(folder)


def test_newer_format(folder):
    edit(folder, format_version=FORMAT_VERSION + 1)
    with pytest.raises(CheckpointError, match=r"is newer than .* upgrade cgcnn-ase"):
        load_folder(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"format_version": "1"}', "\x00"])
def test_no_configuration(folder, text):
    (folder / CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match="config"):
        load_folder(folder)


@pytest.mark.parametrize(
    "changes",
    [{"network": {"n_outputs": 1, "another": 2}}, {"n_members": 4}, {"scaler": {}}, {"target": None}, {"trust": {}}],
    ids=lambda c: next(iter(c)),
)
def test_a_configuration_that_does_not_fit(folder, changes):
    """Signed well, but not of this model."""
    from cgcnn_ase.models.folder import own_hash as _own_hash

    edit(folder, **changes)
    config = json.loads((folder / CONFIG).read_text())
    config["sha256"][CONFIG] = _own_hash(config)
    edit(folder, sha256=config["sha256"])
    with pytest.raises(CheckpointError, match="not a model of this package"):
        load_folder(folder)


# Names and places


def test_a_run_folder(small_model, tmp_path):
    shutil.copytree(small_model, tmp_path / "run" / "best")
    assert load_model(tmp_path / "run").sha256 == load_model(small_model).sha256


def test_unknown_name():
    with pytest.raises(UnknownModelError, match="no model 'gap': neither a file or folder nor a pretrained model") as e:
        load_model("gap")
    for name in model_names():
        assert name in str(e.value)


def test_another_file(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"not a model; allowed: a model folder, or an original CGCNN \.pth\.tar"):
        load_model(tmp_path / "a.txt")


def test_info(small_model):
    info = model_info(small_model)
    assert (info.target, info.unit, info.n_members) == ("formation_energy_per_atom", "eV/atom", 3)
    assert info.size == (small_model / WEIGHTS).stat().st_size
    assert info.test_mae is None
    assert find_models(small_model) == [ModelRef(small_model, info.name)]

"""The recipe of a pretrained potential from packed frames to the folder with its card."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cgcnn_ase.data.frames import read_frames
from cgcnn_ase.models.checkpoint import load_folder
from cgcnn_ase.models.registry import model_names
from cgcnn_ase.nn.smooth import SmoothCGCNNConfig
from cgcnn_ase.zoo import potentials
from tests.training.test_potential import morse_frames


def packed(frames, folder, split):
    """Write frames as the data sets hold them."""
    folder.mkdir(parents=True)
    np.savez_compressed(
        folder / "structures.npz",
        ids=np.array([f"frame-{k:03d}" for k in range(len(frames))]),
        lattice=np.stack([atoms.cell.array for atoms in frames]),
        offsets=np.cumsum([0, *map(len, frames)]),
        numbers=np.concatenate([atoms.numbers for atoms in frames]),
        frac=np.concatenate([atoms.get_scaled_positions(wrap=False) for atoms in frames]),
        forces=np.concatenate([atoms.get_forces() for atoms in frames]),
        stress=np.stack([atoms.get_stress(voigt=False) for atoms in frames]),
    )
    rows = [f"frame-{k:03d},{atoms.get_potential_energy()},{split[k]}" for k, atoms in enumerate(frames)]
    (folder / "properties.csv").write_text("id,energy,split\n" + "\n".join(rows) + "\n")


def test_packed_frames_are_those_of_memory(tmp_path):
    frames = morse_frames(4)
    packed(frames, tmp_path / "set", ["train", "val", "test", "train"])
    ours, expected = read_frames(tmp_path / "set"), read_frames(frames)
    np.testing.assert_allclose(ours.energies, expected.energies)
    np.testing.assert_allclose(np.concatenate(ours.forces), np.concatenate(expected.forces))
    np.testing.assert_allclose(ours.stress, expected.stress)
    np.testing.assert_allclose(ours.structures[1].positions, expected.structures[1].positions, atol=1e-12)
    assert ours.split.tolist() == ["train", "val", "test", "train"]


def test_a_recipe_trains_writes_and_tells(tmp_path, monkeypatch):
    splits = ["train"] * 12 + ["val"] * 24 + ["test"] * 4
    packed(morse_frames(40, repeat=((1, 1, 1),)), tmp_path / "data" / "frames", splits)
    packed(morse_frames(4, seed=90), tmp_path / "more", ["train"] * 4)
    recipe = replace(
        potentials.RECIPES["cathode-potential"],
        data="frames",
        network=SmoothCGCNNConfig(n_features=8, n_channels=3, n_products=4, cutoff=4.0),
        first={"epochs": 2},
        stop_after=1,
        settings={"epochs": 2},
    )
    monkeypatch.setitem(potentials.RECIPES, "tiny", recipe)
    monkeypatch.setattr(potentials, "pretrained_folder", lambda: tmp_path / "zoo")
    folder = potentials.train_pretrained_potential(
        "tiny", tmp_path / "data", tmp_path / "run", extra=(tmp_path / "more",), progress=False
    )
    model, card = load_folder(folder), (folder / "README.md").read_text()
    assert model.is_potential
    record = model.training_record
    assert (record["n_train"], record["n_val"], record["n_test"]) == (16, 24, 4)
    assert f"{record['test']['mae']:.4f}" in card
    assert record["train_hash"] in card
    assert model.sha256 in card
    assert "SevenNet-0" in card
    assert json.loads((tmp_path / "run" / "second" / "metrics.json").read_text())["test"] == record["test"]


def test_another_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown potential 'gold'; allowed: cathode-potential"):
        potentials.train_pretrained_potential("gold", tmp_path, tmp_path / "run")


def test_every_recipe_is_pretrained():
    assert set(potentials.RECIPES) <= set(model_names())

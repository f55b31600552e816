"""The recipe of a pretrained potential from packed frames to the folder with its card."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.morse import MorsePotential
from ase.calculators.singlepoint import SinglePointCalculator
from pymatgen.core import Composition

from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.frames import read_frames
from cgcnn_ase.models.checkpoint import load_folder, save_model
from cgcnn_ase.models.registry import model_names
from cgcnn_ase.nn.smooth import SmoothCGCNNConfig
from cgcnn_ase.zoo import potentials
from tests.potential.conftest import random_potential
from tests.training.test_potential import morse_frames

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def packed(frames, folder, split, *, sets=None, hosts=None):
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
    formulas = [Composition(str(atoms.symbols)).reduced_formula for atoms in frames]
    rows = [
        f"frame-{k:03d},{(sets or hosts or formulas)[k]},{formulas[k]},{atoms.get_potential_energy()},{split[k]}"
        for k, atoms in enumerate(frames)
    ]
    (folder / "properties.csv").write_text(
        f"id,{'host' if hosts else 'set'},reduced_formula,energy,split\n" + "\n".join(rows) + "\n"
    )


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
        earlier=(
            potentials.EarlierTraining(settings={"epochs": 2}, n_convolutions=2, alone=True, stop_after=1),
            potentials.EarlierTraining(settings={"epochs": 1}, n_convolutions=2),
        ),
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
    assert [each["stop_after"] for each in record["earlier"]] == [1, None]
    assert load_folder(folder).networks[0].config.architecture.n_convolutions == 3
    assert f"{record['test']['mae']:.4f}" in card
    assert record["train_hash"] in card
    assert model.sha256 in card
    assert "SevenNet-0" in card
    assert json.loads((tmp_path / "run" / "last" / "metrics.json").read_text())["test"] == record["test"]
    again = potentials.train_pretrained_potential(
        "tiny", tmp_path / "data", tmp_path / "again", extra=(tmp_path / "more",), trained=folder, progress=False
    )
    assert (again / "README.md").read_text().split("| energy")[0] == card.split("| energy")[0]
    # calibrated again from what is calibrated: the last digits differ, and with them the ranks of a few frames
    assert load_folder(again).training_record["test"] == pytest.approx(record["test"], abs=2e-3)


def labelled(formula, energy=-5.0):
    """A crystal with a formula of two elements and labels."""
    atoms = bulk(formula, "rocksalt", a=5.0)
    results = {"energy": energy * len(atoms), "forces": np.zeros((2, 3)), "stress": np.zeros(6)}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def held_out_data(folder):
    """Frames of ten formulas, some of which are held out, each in a way of its own."""
    train = ["LiF", "NaF", "KF", "MgO", "CaO", "SrO", "LiCl", "NaCl"]
    frames = [labelled(each) for each in [*train, "KCl", "BaO", "NaCl"]]
    packed(frames, folder / "dft_frames", ["train"] * 8 + ["val", "test", "val"])
    more = [labelled(each) for each in ("TiO", "KCl", "MgO", "VO", "MnO")]
    splits = ["train", "train", "train", "val", "train"]
    packed(more, folder / "more" / "one", splits, hosts=["a", "unknown", "a", "a", "b"])
    (folder / "mp36k").mkdir()
    rows = ["a,LiF,train", "b,NaF,val", "c,KF,test", "d,Li2O,val"]
    (folder / "mp36k" / "properties.csv").write_text("id,reduced_formula,split\n" + "\n".join(rows) + "\n")
    excluded = hashlib.sha256(b"CaO").hexdigest()[:16]
    (folder / "excluded_formulas.txt").write_text(f"0123456789abcdef\n{excluded}\n")
    return folder


def test_no_frame_to_learn_has_a_formula_that_is_held_out(tmp_path, capsys):
    data = held_out_data(tmp_path)
    recipe = potentials.RECIPES["general-potential"]
    alone, together = potentials.recipe_frames(recipe, data, [data / "more" / "one"])

    def formulas(frames, split):
        numbers = [shape.numbers for shape in frames.of_split(split).structures]
        return [Composition({int(z): 1 for z in each}).reduced_formula for each in numbers]

    assert formulas(alone, "train") == ["LiF", "MgO", "SrO", "LiCl"]
    learned = ["LiF", "MgO", "SrO", "LiCl"]
    assert formulas(together, "train") == [*learned, "TiO", "MgO", *learned]  # those of DFT twice
    assert formulas(together, "val") == ["KCl", "NaCl"]
    assert formulas(together, "test") == ["BaO"]
    secret = set((data / "excluded_formulas.txt").read_text().split())
    for each in formulas(together, "train"):
        assert hashlib.sha256(each.encode()).hexdigest()[:16] not in secret
    assert "6 of 12 frames to learn are left out: formulas held out" in capsys.readouterr().err
    (data / "excluded_formulas.txt").unlink()
    with pytest.raises(DatasetError, match=r"excluded_formulas.txt: not found"):
        potentials.recipe_frames(recipe, data)


def test_a_recipe_without_held_out_formulas_takes_all(tmp_path):
    data = held_out_data(tmp_path)
    recipe = replace(potentials.RECIPES["cathode-potential"], data="dft_frames")
    alone, together = potentials.recipe_frames(recipe, data, [data / "more" / "one"])
    assert (len(alone), len(together)) == (11, 15)


class Refusing(Calculator):
    """A Morse potential that stops at stretched copper."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        if atoms.get_volume() / len(atoms) > 13.5:
            raise RuntimeError("too far")
        other = atoms.copy()
        other.calc = MorsePotential(epsilon=0.35, r0=2.55, rho0=4.0, rcut1=3.3, rcut2=3.9)
        self.results = {"energy": other.get_potential_energy() + 2.0 * len(atoms), "forces": other.get_forces()}


def test_figures_of_the_benchmark_come_into_the_card(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from _dft_frames import dft_tables
    from _report import finish

    frames = morse_frames(16, repeat=((1, 1, 1),))
    packed(frames, tmp_path / "dft", ["val"] * 10 + ["test"] * 6, sets=["near", "far"] * 8)
    model = random_potential().float()
    model.name = "general-potential"
    model.training_record = {"train_hash": "0", "n_train": 1, "n_val": 10, "n_test": 6, "recipe": {"seed": 0}}
    folder = save_model(model, tmp_path / "zoo" / "general-potential")
    loaded, file = load_folder(folder), tmp_path / "figures.json"
    tables = dft_tables(loaded, {"Morse": Refusing}, tmp_path / "dft", "val", None)
    finish(tables, file, {"split": "val"})
    rows = tables[0].records()
    n_failed = sum(atoms.get_volume() / len(atoms) > 13.5 for atoms in frames[:10])
    assert 0 < n_failed < 10
    (ours, theirs) = (next(r for r in rows if (r["set"], r["potential"]) == ("all", p)) for p in (model.name, "Morse"))
    assert (ours["failed"], theirs["failed"]) == (0, n_failed)
    assert theirs["energy, meV/atom"] < 0.5
    assert theirs["forces, eV/Å"] < 1e-4
    assert sum("Morse fails on frame-" in note and "too far" in note for note in tables[0].notes) == n_failed

    monkeypatch.setattr(potentials, "pretrained_folder", lambda: tmp_path / "zoo")
    monkeypatch.setattr("sys.argv", ["potentials", "general-potential", "--figures", str(file)])
    potentials.main()
    card = (folder / "README.md").read_text()
    assert "Morse is better in the energies of all sets and in the forces of all sets" in card
    assert f"it fails on {n_failed} frames" in card
    assert f"{ours['energy, meV/atom']:.1f}" in card
    assert load_folder(folder).training_record["against_dft"]["val"]["errors"] == rows
    measured = json.loads(file.read_text())
    measured["tables"] = {title: each | {"notes": []} for title, each in measured["tables"].items()}
    file.write_text(json.dumps(measured))
    with pytest.raises(ValueError, match="not measured with the weights"):
        potentials.add_figures(folder, [file])


def test_another_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown potential 'gold'; allowed: cathode-potential"):
        potentials.train_pretrained_potential("gold", tmp_path, tmp_path / "run")


def test_every_recipe_is_pretrained():
    assert set(potentials.RECIPES) <= set(model_names())

"""Distorted crystals that a teacher labels: none with a formula that is held out, all kinds, the same for a seed."""

import hashlib
import sys
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from pymatgen.core import Composition

from cgcnn_ase.data.frames import read_frames
from tests.conftest import write_packed_set

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    """The script with a teacher that is quick."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import label_crystals

    monkeypatch.setattr(label_crystals, "potential", lambda _: LennardJones(sigma=2.0, epsilon=0.05, rc=5.0))
    return label_crystals


def packed(folder, crystals, split):
    """Write crystals as mp36k holds them, with what read_properties asks for."""
    columns = {
        "reduced_formula": [Composition(str(atoms.symbols)).reduced_formula for atoms in crystals],
        "formation_energy_per_atom": [-1.0] * len(crystals), "split": split,
    }  # fmt: skip
    names = [f"mp-{k}" for k in range(len(crystals))]
    write_packed_set(folder, crystals, columns, names=names, id_column="material_id")


@pytest.fixture
def data(tmp_path):
    """Rock salts, the first of which are to learn, one with atoms too many, and two formulas that are held out."""
    names = ("NaCl", "KCl", "MgO", "CaO", "LiF", "NaF", "KF", "SrO", "NaBr", "KBr", "LiCl", "LiBr")
    crystals = [bulk(name, "rocksalt", a=5.2, cubic=k % 2 == 0) for k, name in enumerate(names)]
    large = bulk("BaO", "rocksalt", a=5.5, cubic=True).repeat((3, 1, 1))
    packed(tmp_path / "mp36k", [*crystals, large], ["train"] * 10 + ["val", "test", "train"])
    packed(tmp_path / "dft_frames", [bulk("CaO", "rocksalt", a=4.8)], ["test"])
    (tmp_path / "excluded_formulas.txt").write_text(hashlib.sha256(b"KF").hexdigest()[:16] + "\n")
    return tmp_path


def labelled(script, data, output, monkeypatch, *, seed=1):
    """Run the script, and return its frames."""
    arguments = ["label_crystals.py", "--data", data, "--output", output, "--n-crystals", 20, "--seed", seed]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    script.main()
    return read_frames(output)


def test_no_formula_that_is_held_out_is_labelled(script, data, tmp_path, monkeypatch, capsys):
    frames = labelled(script, data, tmp_path / "run", monkeypatch)
    formulas = {Composition({int(z): 1 for z in s.numbers}).reduced_formula for s in frames.structures}
    table = pd.read_csv(tmp_path / "run" / "properties.csv.gz")
    reduced = {Composition(each).reduced_formula for each in table["formula"]}
    assert formulas
    assert not reduced & {"LiCl", "LiBr", "CaO", "KF", "BaO"}
    assert set(table["split"]) <= {"train", "val"}
    assert set(table["host"]) == {"mp-0", "mp-1", "mp-2", "mp-4", "mp-5", "mp-7", "mp-8", "mp-9"}
    assert (table.groupby("host")["split"].nunique() == 1).all()
    told = capsys.readouterr().out
    assert "'crystal held out': 2" in told
    again = ase.io.read(tmp_path / "run" / "frames.extxyz", ":")
    np.testing.assert_allclose(frames.energies, [atoms.get_potential_energy() for atoms in again])


def test_a_seed_gives_the_same_frames_also_after_a_stop(script, data, tmp_path, monkeypatch):
    whole = labelled(script, data, tmp_path / "a", monkeypatch)
    written = ase.io.read(tmp_path / "a" / "frames.extxyz", ":")
    hosts = list(dict.fromkeys(atoms.info["host"] for atoms in written))
    (tmp_path / "b").mkdir()
    ase.io.write(tmp_path / "b" / "frames.extxyz", [each for each in written if each.info["host"] in hosts[:3]])
    again = labelled(script, data, tmp_path / "b", monkeypatch)
    np.testing.assert_allclose(again.energies, whole.energies, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(again.forces), np.concatenate(whole.forces), atol=1e-6)
    other = labelled(script, data, tmp_path / "c", monkeypatch, seed=2)
    assert len(other) != len(whole) or not np.allclose(other.energies, whole.energies)


def test_each_kind_of_distortion_is_what_it_is_called(script):
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    changed = {}
    for kind in (*script.FORMS, *script.FAR):
        rng = np.random.default_rng(3)
        told, changed[kind] = script.distorted(atoms, rng, [kind])
        assert told.split()[0] == kind
        assert changed[kind].pbc.all()
    assert abs(changed["disturbed"].get_volume() / atoms.get_volume() - 1) < 0.4
    assert len(changed["vacancy"]) % 8 == 7
    assert len(changed["interstitial"]) % 8 == 1
    assert set(changed["substituted"].symbols) != set(atoms.symbols)
    assert sorted(changed["permuted"].numbers) == sorted(atoms.numbers)
    assert (changed["permuted"].numbers != atoms.numbers).any()
    np.testing.assert_allclose(changed["rattled"].cell, atoms.cell)
    assert 0.05 < np.abs(changed["rattled"].positions - atoms.positions).mean() < 0.5
    assert changed["slab"].get_volume() / len(changed["slab"]) > 1.5 * atoms.get_volume() / len(atoms)
    assert changed["compressed"].get_volume() < 0.6 * atoms.get_volume()
    assert changed["expanded"].get_volume() > 1.8 * atoms.get_volume()
    names = [name for name, _ in script.forms(atoms, np.random.default_rng(0), ["slab"])]
    assert names == ["as published", "slab", "slab"]


def test_an_element_has_no_elements_to_exchange(script):
    copper = bulk("Cu", cubic=True)
    assert [how for how, _ in script.forms(copper, np.random.default_rng(0), ["permuted"])] == ["as published"]

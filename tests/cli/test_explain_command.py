"""``cgcnn-ase explain``: its tables, JSON and picture, and bad input told in words."""

import json
import shutil

import ase.io
import pytest
from ase.build import bulk

from cgcnn_ase.explain.training_neighbors import NEIGHBORS
from cgcnn_ase.models.registry import DEFAULT_MODEL, find_model

from ..conftest import cif_text, rock_salt_cif


@pytest.fixture
def cif(tmp_path):
    file = tmp_path / "MgO.cif"
    file.write_text(rock_salt_cif())
    return file


@pytest.fixture
def command(cgcnn_ase, small_model):
    return lambda *args: cgcnn_ase("explain", *args, "--model", small_model, "--steps", 4)


def test_tables(command, cif):
    ran = command(cif, "--neighbors", 0)
    assert (ran.code, ran.err) == (0, "") or "gap" in ran.err
    assert "MgO Mg4O4: formation_energy_per_atom" in ran.out
    assert "to the mean over the atoms" in ran.out
    for word in ("baseline (pure-elements)", "Mg × 4", "O × 4", "gap", "prediction", "0, 1, 2, 3", "4, 5, 6, 7"):
        assert word in ran.out


def test_json_and_picture(command, cif, tmp_path):
    ran = command(cif, "--json", "--plot", tmp_path / "picture.png")
    assert ran.code == 0
    result = json.loads(ran.out)
    total = result["baseline"] + sum(atom["contribution"] for atom in result["atoms"]) + result["gap"]
    assert total == pytest.approx(result["prediction"])
    assert [atom["orbit"] for atom in result["atoms"]] == [0] * 4 + [1] * 4
    assert (result["id"], result["formula"], result["neighbors"]) == ("MgO", "Mg4O4", None)
    assert "no index of its training structures" in ran.err
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_neighbors_of_the_pretrained_model(cgcnn_ase, cif):
    ran = cgcnn_ase("explain", cif, "--neighbors", 3, "--json", "--baseline", "mean-element", "--steps", 32)
    assert (ran.code, ran.err) == (0, "")
    result = json.loads(ran.out)
    assert [set(n) for n in result["neighbors"]] == [{"id", "distance"}] * 3
    assert result["neighbors"][0]["id"] == "mp-1265"
    assert result["typical_distance"] > 0
    assert "mp-1265" in cgcnn_ase("explain", cif, "--baseline", "zero").out


def test_a_damaged_index(cgcnn_ase, cif, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(find_model(DEFAULT_MODEL).path, folder)
    (folder / NEIGHBORS).write_bytes((folder / NEIGHBORS).read_bytes()[:-1])
    ran = cgcnn_ase("explain", cif, "--model", folder)
    assert (ran.code, ran.out) == (2, "")
    assert f"{folder / NEIGHBORS}: damaged" in ran.err
    assert cgcnn_ase("explain", cif, "--model", folder, "--neighbors", 0, "--baseline", "zero").code == 0


def test_a_file_of_several_structures(command, tmp_path):
    file = tmp_path / "several.extxyz"
    ase.io.write(file, [bulk("Mg"), bulk("NaCl", "rocksalt", a=5.64)])
    ran = command(file)
    assert ran.code == 2
    assert "holds 2 structures; name one with --structure (several:0, several:1)" in ran.err
    assert "Na × 1" in command(file, "--structure", "several:1").out
    ran = command(file, "--structure", "several:2")
    assert ran.code == 2
    assert "no structure 'several:2'" in ran.err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("This is no CIF at all.\n", ""),
        (cif_text(["Qq", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)]), "Qq"),
        (cif_text(["Na", "Cl"], [(0, 0, 0), (0, 0, 0.01)]), "overlap"),
    ],
)
def test_bad_structures(command, tmp_path, text, reason):
    file = tmp_path / "bad.cif"
    file.write_text(text)
    ran = command(file)
    assert (ran.code, ran.out) == (2, "")
    assert "bad.cif" in ran.err
    assert reason in ran.err
    assert ran.err.count("\n") == 1


def test_bad_options(command, cgcnn_ase, cif, tmp_path):
    for arguments, reason in [
        ((tmp_path / "missing.cif",), "missing.cif: no such file"),
        ((tmp_path,), ""),
        ((cif, "--plot", tmp_path / "picture.docx"), "allowed are names that end in .png, .pdf or .svg"),
        ((cif, "--plot", tmp_path / "no" / "picture.png"), "does not exist"),
        ((cif, "--neighbors", -1), "must not be negative"),
        ((cif, "--baseline", "none"), "allowed are pure-elements, mean-element, zero"),
    ]:
        ran = command(*arguments)
        if arguments != (tmp_path,):
            assert (ran.code, ran.out) == (2, ""), arguments
        assert reason in ran.err
    ran = cgcnn_ase("explain", cif, "--model", "nothing")
    assert ran.code == 2
    assert "no model 'nothing'" in ran.err


def test_two_files(command, cif_folder):
    ran = command(cif_folder(2))
    assert ran.code == 2
    assert "one structure at a time, there are 2 files" in ran.err

"""``cgcnn-ase cathode``."""

import csv
import json

import ase.io
import pytest


def test_files_and_manifest(cgcnn_ase, tmp_path):
    folder = tmp_path / "out"
    ran = cgcnn_ase("cathode", "NCM811", "--li-vacancy", 0.1, "--num", 3, "--output", folder)
    assert ran.code == 0, ran.err
    assert "NCM811_002" in ran.out
    rows = list(csv.DictReader((folder / "manifest.csv").open()))
    assert [row["file"] for row in rows] == [f"NCM811_00{k}.extxyz" for k in range(3)]
    for row in rows:
        atoms = ase.io.read(folder / row["file"])
        assert len(atoms) == int(row["n_atoms"])
        assert atoms.info["composition"] == row["composition"] == "Li0.9Ni0.8Co0.1Mn0.1O2"
        assert row["composition_asked"] == "LiNi0.8Co0.1Mn0.1O2"
        assert float(row["li_content"]) == pytest.approx(0.9)


@pytest.mark.parametrize(("file_format", "ending"), [("cif", ".cif"), ("vasp", ".vasp")])
def test_other_formats_and_json(cgcnn_ase, tmp_path, file_format, ending):
    ran = cgcnn_ase("cathode", "NCA", "--supercell", "5x4x1", "--format", file_format, "--output", tmp_path, "--json")
    assert ran.code == 0, ran.err
    (row,) = json.loads(ran.out)
    assert row["file"] == f"NCA_000{ending}"
    atoms = ase.io.read(tmp_path / row["file"])
    assert len(atoms) == row["n_atoms"] == 240
    assert atoms.get_chemical_formula(mode="metal").count("Al3") == 1  # a twentieth of 60


def test_lowest_with_a_model(cgcnn_ase, tmp_path, small_model):
    ran = cgcnn_ase(
        "cathode", "LiNiO2", "--supercell", "2,1,1", "--li-vacancy", 0.5, "--li-removal", "lowest",
        "--model", small_model, "--n-candidates", 3, "--output", tmp_path, "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)[0]["li_removal"] == "lowest"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["NCX"], "known are Li2MnO3"),
        (["LiNi0.8Co0.3O2"], "must add up to 1"),
        (["LiNi1.1Co-0.1O2"], "negative amount"),
        (["NCA", "--li-vacancy", "1.2"], "0 to 1"),
        (["NCM811", "--supercell", "3x3x1"], "n_atoms=40"),
        (["NCA", "--supercell", "2x2"], "as in 5x2x1"),
        (["NCA", "--supercell", "-1"], "as in 5x2x1"),
        (["NCA", "--format", "xyz"], "allowed are extxyz, cif, vasp"),
        (["NCA", "--ordering", "nice"], "unknown ordering"),
        (["NCA", "--num", "0"], "num must be"),
        (["LiNiO2", "--num", "2"], "1 way only"),
        (["NCA", "--ordering", "lowest", "--model", "no-such-model"], "no-such-model"),
        (["NCA", "--ordering", "lowest", "--model", "band-gap"], "an energy needs one model"),
    ],
)
def test_bad_input_in_words_and_nothing_written(cgcnn_ase, tmp_path, arguments, message):
    ran = cgcnn_ase("cathode", *arguments, "--output", tmp_path / "out")
    assert ran.code == 2
    assert message in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_finished_folder_is_not_overwritten(cgcnn_ase, tmp_path):
    assert cgcnn_ase("cathode", "LiCoO2", "--n-atoms", 20, "--output", tmp_path).code == 0
    again = cgcnn_ase("cathode", "LiNiO2", "--n-atoms", 20, "--output", tmp_path)
    assert again.code == 2
    assert "manifest.csv already" in again.err


def test_help_imports_nothing_heavy(shell):
    code = "import sys\nfrom cgcnn_ase.cli.app import app\nprint(sorted({'numpy', 'ase', 'torch'} & set(sys.modules)))"
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert shell("cathode", "--help").code == 0

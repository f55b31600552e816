"""``cgcnn-ase stability``: rows, messages, exit codes."""

import csv
import json

import pytest
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

from cgcnn_ase.cli.app import app


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "MgO.cif", bulk("MgO", "rocksalt", a=4.21))
    write(tmp_path / "GaAs.cif", bulk("GaAs", "zincblende", a=5.65))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["stability", *map(str, arguments)])


def test_rows_and_words(folder):
    result = run(folder, "--output", folder / "out.csv", "--within", 0.1)
    assert result.exit_code == 0, result.output
    rows = {row["id"]: row for row in csv.DictReader((folder / "out.csv").open())}
    assert rows["MgO"]["decomposition"] == "1.00 MgO"
    assert (rows["MgO"]["scale"], rows["MgO"]["within"], rows["MgO"]["population"]) == ("mp2020", "0.1", "hypothetical")
    assert 0.5 < float(rows["MgO"]["p_stable"]) <= 1.0
    assert float(rows["MgO"]["e_above_hull"]) < 0.1
    assert "of 2 are more likely than not within 0.1 eV/atom of the hull" in result.stderr
    assert "would decide most" in result.stderr
    # the table has no phase of Ga and As, and says so
    assert "no stable compound of their elements is among the competing phases: GaAs. Their" in result.stderr
    assert rows["GaAs"]["e_above_hull"] == rows["GaAs"]["formation_energy_per_atom"]


def test_json_names_every_phase(folder):
    result = run(folder / "MgO.cif", "--json")
    (row,) = json.loads(result.stdout)
    assert row["decomposition"][0]["formula"] == "MgO"
    assert row["decomposition"][0]["id"].startswith("mp-")
    assert row["hull_sha256"]


def test_a_bad_file_is_named_and_the_rest_is_there(folder):
    (folder / "bad.cif").write_text("data_x\n")
    result = run(folder)
    assert result.exit_code == 1
    assert "bad.cif" in result.stderr or "bad:" in result.stderr
    assert {row["id"] for row in csv.DictReader(result.stdout.splitlines())} == {"MgO", "GaAs"}


def test_a_picture_of_two_elements(folder):
    result = run(folder / "MgO.cif", "--plot", folder / "hull.png")
    assert result.exit_code == 0, result.output
    assert (folder / "hull.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "mp2021"], "unknown scale of energies 'mp2021'"),
        (["--scale", "uncorrected"], "competing phases are on the scales mp2020 and mp-legacy"),
        (["--model", "band-gap"], "read off a formation energy per atom"),
        (["--entries", "nowhere.json"], "nowhere.json"),
        (["--output", "out.json"], "allowed for --output is a .csv file"),
    ],
)
def test_what_cannot_be_is_told_at_once(folder, arguments, message):
    result = run(folder, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_structures_that_compete_with_each_other(folder):
    write(folder / "MgO-wide.cif", bulk("MgO", "rocksalt", a=4.28))
    result = run(folder / "MgO.cif", "--competing", folder / "MgO-wide.cif", "--together", "--leave-out", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["hull_source"].endswith("; 2 predicted structures")
    result = run(folder / "MgO.cif", folder / "MgO-wide.cif", "--together", "--json")
    assert [row["id"] for row in json.loads(result.stdout)] == ["MgO", "MgO-wide"]
    assert "would decide most" in result.stderr
    (folder / "bad.cif").write_text("data_x\n")
    result = run(folder / "MgO.cif", "--competing", folder / "bad.cif")
    assert result.exit_code == 2
    assert "bad.cif: as a competing phase: " in result.stderr

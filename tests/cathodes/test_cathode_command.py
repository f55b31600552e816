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


# Experimental files, exchange, sodium, dopants


def exchanged_cif(path):
    rows = [("Li1", "Li", 0, 0.95), ("Ni2", "Ni", 0, 0.05), ("Ni1", "Ni", 0.5, 0.85), ("Mn1", "Mn", 0.5, 0.1),
            ("Li2", "Li", 0.5, 0.05), ("O1", "O", 0.2415, 1)]  # fmt: skip
    lines = ["data_a", "_cell_length_a 2.87", "_cell_length_b 2.87", "_cell_length_c 14.2", "_cell_angle_alpha 90",
             "_cell_angle_beta 90", "_cell_angle_gamma 120", "_symmetry_space_group_name_H-M 'R -3 m'", "loop_",
             *(f"_atom_site_{tag}" for tag in ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")),
             *(f"{label} {symbol} 0 0 {z} {occupancy}" for label, symbol, z, occupancy in rows)]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_experimental_cif_as_it_is(cgcnn_ase, tmp_path):
    file = exchanged_cif(tmp_path / "lno.cif")
    ran = cgcnn_ase("cathode", file, "--li-vacancy", 0.5, "--n-atoms", 80, "--output", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    (row,) = json.loads(ran.out)
    atoms = ase.io.read(tmp_path / "out" / row["file"])
    counts = {s: list(atoms.symbols).count(s) for s in ("Li", "Ni", "Mn", "O")}
    # 38 Li and 2 Ni in the layers of lithium, of which 19 Li go; 34 Ni, 4 Mn and 2 Li in the others
    assert counts == {"Li": 21, "Ni": 36, "Mn": 4, "O": 80}
    assert row["composition_asked"] == "LiNi0.9Mn0.1O2"
    assert row["reference"] == "the file lno.cif"


def test_rounding_of_a_file_is_said(cgcnn_ase, tmp_path):
    file = exchanged_cif(tmp_path / "lno.cif")
    ran = cgcnn_ase("cathode", file, "--supercell", "2x2x1", "--tolerance", 0.1, "--output", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "lno: occupancies are rounded: Li1/Ni2: Li 0.95 -> 11/12, Ni 0.05 -> 1/12; Ni1/Mn1/Li2: Ni 0.85" in ran.err


def test_exchange_of_lithium_and_nickel(cgcnn_ase, tmp_path):
    arguments = ("--antisite-exchange", 0.05, "--ordering", "ewald", "--n-atoms", 80, "--output", tmp_path, "--json")
    ran = cgcnn_ase("cathode", "NCM811", *arguments)
    assert ran.code == 0, ran.err
    (row,) = json.loads(ran.out)
    atoms = ase.io.read(tmp_path / row["file"])
    assert atoms.get_chemical_formula() == "Co2Li20Mn2Ni16O40"
    # the layers alternate along c, whatever the cell: heights in units of their distance are whole numbers
    normal = [0, 0, 1]
    layer = 14.19 / 6
    heights = atoms.positions @ normal / layer
    lithium = [round(h) % 2 for h, s in zip(heights, atoms.symbols, strict=True) if s == "Li"]
    nickel = [round(h) % 2 for h, s in zip(heights, atoms.symbols, strict=True) if s == "Ni"]
    assert sorted((lithium.count(0), lithium.count(1))) == [1, 19]
    assert sorted((nickel.count(0), nickel.count(1))) == [1, 15]
    assert row["antisite_exchange"] == 0.05


@pytest.mark.parametrize(
    ("name", "formula", "metal_oxygen"),
    [
        ("O3-NaNiO2", "NaNiO2", 1.91),
        ("O3-NaNi0.5Mn0.5O2", "MnNa2NiO4", 1.99),
        ("P2-Na0.67Ni0.33Mn0.67O2", None, 1.95),
        ("LNMO", "Li2Mn3NiO8", 1.94),
        ("LiNi0.8Co0.1Mn0.08Al0.02O2", "AlCo5Li50Mn4Ni40O100", 1.96),
        ("LiNi0.9Mg0.1O2", "Li10MgNi9O20", 1.97),
        ("LiFe0.5Mn0.5PO4", "FeLi2MnO8P2", 2.05),
    ],
)
def test_sodium_spinel_and_dopants_by_name(name, formula, metal_oxygen):
    from cgcnn_ase.cathodes import build_cathode

    atoms = build_cathode(name, n_atoms=200 if "Al0.02" in name else 100)
    if formula:
        assert atoms.get_chemical_formula(empirical=True) == formula
    metals = [k for k, s in enumerate(atoms.symbols) if s not in ("Li", "Na", "O", "P")]
    oxygen = [k for k, s in enumerate(atoms.symbols) if s == "O"]
    distances = atoms.get_all_distances(mic=True)
    assert distances[metals][:, oxygen].min() == pytest.approx(metal_oxygen, abs=0.06)
    sodium = [k for k, s in enumerate(atoms.symbols) if s == "Na"]
    if sodium:
        pairs = distances[sodium][:, sodium]
        assert pairs[pairs > 0.1].min() > 2.8
        assert atoms.info["li_content"] == pytest.approx(0.67 if name.startswith("P2") else 1, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["P2-Na0.67ZrO2"], "no published structure of this kind here has Zr; metals that can mix are Mn, Ni, Co, Fe"),
        (["O3-Na0.8CoO2"], "O3 is written with all its sodium"),
        (["LiCoO2", "--antisite-exchange", "0.02"], "no Ni to change places"),
        (["LiNiO2", "--antisite-exchange", "1.5"], "0 to 1"),
        (["LiNi0.5Mn1.7O4"], "must add up to 2"),
    ],
)
def test_bad_names_and_exchanges(cgcnn_ase, tmp_path, arguments, message):
    ran = cgcnn_ase("cathode", *arguments, "--output", tmp_path / "out")
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err


def test_fewer_than_asked_for_are_kept(cgcnn_ase, tmp_path):
    """One vacancy among twelve equivalent sites: one structure, not two."""
    arguments = ("--supercell", "2x2x1", "--li-vacancy", 1 / 12, "--num", 2, "--li-removal", "ewald")
    ran = cgcnn_ase("cathode", "LiCoO2", *arguments, "--output", tmp_path / "out")
    assert ran.code == 1
    assert "only 1 different structure of" in ran.err
    assert len(ase.io.read(tmp_path / "out" / "LiCoO2_000.extxyz")) == 47
    assert len((tmp_path / "out" / "manifest.csv").read_text().splitlines()) == 2

"""``cgcnn-ase inspect``: what is planted is reported, in words, in JSON and in pictures; bad input in one sentence."""

import json

import numpy as np
import pytest
from ase.build import bulk, make_supercell
from ase.io import write

#: published lattice parameters of rock salts, Å (Wyckoff, Crystal Structures, 1963)
SALTS = {
    "LiF": 4.027, "LiCl": 5.130, "LiBr": 5.501, "NaF": 4.620, "NaCl": 5.640, "NaBr": 5.973, "KF": 5.347, "KCl": 6.293,
    "KBr": 6.600, "MgO": 4.211, "CaO": 4.811, "SrO": 5.160, "MgS": 5.200, "CaS": 5.690, "SrS": 6.020,
}  # fmt: skip
OFFSETS = {"O": -0.687, "S": -0.503, "F": -0.462, "Cl": -0.614, "Br": -0.534}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Rock salts and one of them again as a supercell; the label of CaS is wrong."""
    folder = tmp_path_factory.mktemp("ours")
    rows = ["cif_id,formation_energy_per_atom,functional"]
    rng = np.random.default_rng(0)
    for k, (name, a) in enumerate(SALTS.items()):
        write(folder / f"{name}.cif", bulk(name, "rocksalt", a=a))
        rows.append(f"{name},{-2 - 0.02 * k if name != 'CaS' else 90},PBE")
    copy = make_supercell(bulk("MgO", "rocksalt", a=4.22), [[1, 1, 0], [0, 1, 0], [0, 0, 3]])
    write(folder / "again.cif", copy[rng.permutation(len(copy))])
    rows.append("again,-2.15,r2SCAN")
    (folder / "id_prop.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The same salts as conventional cells of another source, whose anions have other references."""
    folder = tmp_path_factory.mktemp("theirs")
    rows = ["cif_id,e_form"]
    for k, (name, a) in enumerate(SALTS.items()):
        atoms = bulk(name, "rocksalt", a=1.01 * a, cubic=True)
        write(folder / f"t{k}.cif", atoms)
        shift = next(value for anion, value in OFFSETS.items() if name.endswith(anion))
        rows.append(f"t{k},{-2 - 0.02 * k - 0.5 * shift:.6f}")
    write(folder / "other.cif", bulk("Cu"))
    (folder / "id_prop.csv").write_text("\n".join([*rows, "other,0.0"]) + "\n")
    return folder


def test_words_json_and_pictures(cgcnn_ase, ours, tmp_path):
    ran = cgcnn_ase("inspect", ours, "--output", tmp_path / "out")
    assert ran.code == 0, ran.err
    for words in (
        "16 structures, 15 formulas",
        "column functional mixes PBE (15), r2SCAN (1)",
        "| MgO | MgO, again | 0.03 |",
        "| CaS | CaS | value | formation_energy_per_atom is 90, ",
    ):
        assert words in ran.out
    report = (tmp_path / "out" / "report.md").read_text()
    pictures = ["elements.png", "sizes.png", "values.png"]
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted([*pictures, "report.json", "report.md"])
    for name in pictures:
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in report
    again = cgcnn_ase("inspect", ours, "--json")
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert json.loads(again.out) == saved
    assert saved["target"] == "formation_energy_per_atom"  # the only column of numbers
    (group,) = saved["duplicates"]["groups"]
    assert (group["ids"], group["values"]) == (["MgO", "again"], [-2.18, -2.15])
    assert cgcnn_ase("inspect", ours, "--output", tmp_path / "out").code == 2  # nothing is overwritten


def test_against_another_source(cgcnn_ase, ours, theirs, tmp_path):
    arguments = ("inspect", ours, "--with", theirs, "--with-target", "e_form")
    ran = cgcnn_ase(*arguments, "--json", "--output", tmp_path)
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)["comparison"]
    assert result["n_common"] == 15
    pairs = {one["id"]: one["other_id"] for one in result["common"]}
    # of MgO and its copy, the copy is nearer in volume to the other source's
    assert pairs == {name if name != "MgO" else "again": f"t{k}" for k, name in enumerate(SALTS)}
    offsets = result["element_offsets"]
    assert offsets["method"] == "huber"
    assert offsets["n_structures"] == 15
    # half of each salt is anion: the offset of all cations together is not known, differences between anions are
    assert offsets["offsets"]["Cl"] - offsets["offsets"]["F"] == pytest.approx(OFFSETS["Cl"] - OFFSETS["F"], abs=0.03)
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    words = cgcnn_ase(*arguments)
    assert "15 structures are in both" in words.out
    assert "cannot be told apart" in words.out
    plain = cgcnn_ase(*arguments, "--no-align", "--no-duplicates", "--json")
    assert json.loads(plain.out)["comparison"]["element_offsets"] is None
    assert json.loads(plain.out)["duplicates"] is None


def test_against_a_model(cgcnn_ase, ours, small_model):
    ran = cgcnn_ase("inspect", ours, "--model", small_model, "--json", "--no-duplicates")
    assert ran.code == 0, ran.err
    flagged = {o["id"]: o for o in json.loads(ran.out)["outliers"]["found"] if o["kind"] == "model"}
    predicted = {row["id"]: row for row in cgcnn_ase("predict", ours, "--model", small_model).rows()}
    labels = dict(line.split(",")[:2] for line in (ours / "id_prop.csv").read_text().splitlines()[1:])
    far = {i: abs(float(labels[i]) - float(p["value"])) / float(p["std"]) for i, p in predicted.items()}
    assert set(flagged) == {name for name, z in far.items() if z > 5}
    assert "CaS" in flagged
    assert flagged["CaS"]["score"] == pytest.approx(far["CaS"] / 5, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["OURS", "--target", "gap"], "no column 'gap'; allowed: formation_energy_per_atom"),
        (["OURS", "--target", "functional"], "column 'functional' holds text, not numbers"),
        (["OURS", "--with", "THEIRS"], "no column 'formation_energy_per_atom'; allowed: e_form"),
        (["OURS", "--with", "COPPER", "--with-target", "e"], "have no structure in common"),
        (["OURS", "--with-target", "e"], "--with-target e: belongs to --with OTHER_DATA"),
        (["OURS", "--with", "nowhere"], "nowhere: no such file or folder"),
        (["OURS", "--model", "band-gap"], "predicts band_gap, the column to judge is formation_energy_per_atom"),
        (["OURS", "--model", "is-metal"], "is a classifier"),
        (["OURS", "--model", "no-such-model"], "no-such-model"),
        (["OURS/MgO.cif"], "is a file of structures; a data set is"),
        (["EMPTY"], "neither structures.npz nor id_prop.csv"),
        (["TWO", "--with", "OURS"], "name the column to compare; there are e, gap"),
    ],
)
def test_bad_input(cgcnn_ase, ours, theirs, tmp_path, arguments, words):
    for name, text in (("copper", "cif_id,e\ncu,1\n"), ("two", "cif_id,e,gap\ncu,1,2\n")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "cu.cif", bulk("Cu"))
        (tmp_path / name / "id_prop.csv").write_text(text)
    (tmp_path / "empty").mkdir()
    places = {"OURS": ours, "THEIRS": theirs, "COPPER": tmp_path / "copper", "TWO": tmp_path / "two"}
    places["EMPTY"] = tmp_path / "empty"
    for name, folder in places.items():
        arguments = [a.replace(name, str(folder)) for a in arguments]
    ran = cgcnn_ase("inspect", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert len(ran.err.strip().splitlines()) == 1

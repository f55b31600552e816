"""Manifests: through extended XYZ, CSV and ASE databases, and damaged ones."""

from dataclasses import replace

import ase.io
import pytest
from ase.db import connect

from cgcnn_ase.defects.plan import COLUMNS, KEY, Manifest, read_manifest, write_manifest
from cgcnn_ase.defects.point import point_defects

from .conftest import example

KINDS = ["vacancy", "antisite", "substitution", "interstitial", "cation-mixing", "complex"]


@pytest.fixture(scope="module")
def defects():
    return list(point_defects(example("LiNiO2"), KINDS, dopants=["Mg"], cutoff=3.0, name="LiNiO2"))


def test_ids_are_unique_and_kinds_complete(defects):
    assert len({manifest.id for _, manifest in defects}) == len(defects)
    assert {manifest.kind for _, manifest in defects} == set(KINDS)


def test_round_trip_through_extxyz(defects, tmp_path):
    ase.io.write(tmp_path / "all.extxyz", [atoms for atoms, _ in defects])
    result = [Manifest.from_info(atoms.info) for atoms in ase.io.read(tmp_path / "all.extxyz", ":")]
    assert result == [manifest for _, manifest in defects]


def test_round_trip_through_a_database(defects, tmp_path):
    with connect(tmp_path / "all.db") as database:
        for atoms, _ in defects:
            database.write(atoms, data=atoms.info)
        result = [Manifest.from_info(row.data) for row in database.select()]
    assert result == [manifest for _, manifest in defects]


def test_round_trip_through_csv(defects, tmp_path):
    full = replace(
        defects[0].manifest, charge=-1, charges=(-2, 0, 1), oxidation_state=-2, distortion="-30% of 2 bonds, rattled",
        seed=7, host='a "name", with a comma',
    )  # fmt: skip
    manifests = [full, *(manifest for _, manifest in defects)]
    assert read_manifest(write_manifest(tmp_path / "manifest.csv", iter(manifests))) == manifests
    assert (tmp_path / "manifest.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert "2 0 0 0 2 0 0 0 1" in replace(full, supercell=(2, 0, 0, 0, 2, 0, 0, 0, 1)).to_row()["supercell"]


def test_what_was_done_is_in_it(defects):
    for atoms, manifest in defects:
        symbols = atoms.get_chemical_symbols()
        assert manifest.n_atoms == len(atoms)
        assert manifest.formula == "".join(
            f"{s}{symbols.count(s) if symbols.count(s) > 1 else ''}" for s in sorted(set(symbols))
        )
        assert manifest.generator.startswith("cgcnn_ase ")
    (mixing, *_) = [manifest for _, manifest in defects if manifest.kind == "cation-mixing"]
    assert (mixing.defect, mixing.removed, mixing.added) == ("Ni_Li+Li_Ni", ("Li", "Ni"), ("Ni", "Li"))


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({}, "no 'defect'"),
        ({KEY: "vacancy"}, "no 'defect'"),
        ({KEY: {"id": "a", "host": "b", "kind": "vacancy", "defect": "v_Li"}}, "no host_sha256"),
        ({KEY: {"id": "a", "surprise": 1}}, "unknown surprise"),
    ],
)
def test_atoms_without_a_manifest(info, words):
    with pytest.raises(ValueError, match=words):
        Manifest.from_info(info)


def test_damaged_csv(defects, tmp_path):
    file = write_manifest(tmp_path / "manifest.csv", [manifest for _, manifest in defects])
    good = file.read_text()
    file.write_text(good.replace("multiplicity", "number"))
    with pytest.raises(ValueError, match=r"manifest\.csv: is no manifest of defects: it has no column multiplicity"):
        read_manifest(file)
    file.write_text("\n".join(good.splitlines()[:2]) + "\nx,y,z\n")
    with pytest.raises(ValueError, match="line 3"):
        read_manifest(file)
    file.write_text(good.replace(",vacancy,v_Li,0,", ",vacancy,v_Li,zero,", 1))
    with pytest.raises(ValueError, match=r"line 2: .*zero"):
        read_manifest(file)

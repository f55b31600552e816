"""`cgcnn.defects` and `cgcnn.cathode`: what the command line makes, as nodes."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm
from aiida.engine import run_get_node
from aiida.manage.caching import enable_caching

from aiida_plugin.calculations.functions.generate import cathode, defects
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.defects.plan import Manifest, read_manifest
from cgcnn_ase.structures import read_structures

HOST = Path(__file__).parents[2] / "examples" / "structures" / "LiNiO2.cif"


@pytest.fixture
def host():
    """The LiNiO2 of the examples as a set of one."""
    (record,) = read_structures(HOST)
    return StructureSetData.from_ase([record.unwrap()], [record.id])


def same(atoms, other):
    """Elements in order and the same places, to what a file keeps."""
    assert atoms.get_chemical_symbols() == other.get_chemical_symbols()
    assert np.allclose(atoms.positions, other.positions, atol=1e-6)
    assert np.allclose(atoms.cell, other.cell, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--element", "Li", "--supercell", "3", "3", "1"], {"element": "Li", "supercell": [3, 3, 1]}),
        (
            ["--kind", "all", "--kind", "cation-mixing", "--supercell", "3", "3", "1", "--dopant", "Al"],
            {"kind": ["all", "cation-mixing"], "supercell": [3, 3, 1], "dopant": ["Al"]},
        ),
        (
            ["--num", "3", "--n-vacancies", "0.25", "--supercell", "2", "--seed", "7"],
            {"num": 3, "n_vacancies": 0.25, "supercell": 2, "seed": 7},
        ),
    ],
    ids=["li-vacancies", "all-kinds", "random"],
)
def test_the_same_as_the_command_writes(host, cgcnn_ase, tmp_path, words, settings):
    ran = cgcnn_ase("defects", HOST, "--output", tmp_path / "out", *words)
    assert ran.code == 0, ran.err
    written = read_manifest(tmp_path / "out" / "manifest.csv")
    made = defects(host, orm.Dict(settings))
    assert made["structures"].ids == tuple(row.id for row in written)
    assert [Manifest.from_info({"defect": row}) for row in made["manifest"]["structures"]] == written
    for row, atoms in zip(written, made["structures"].iter_atoms(), strict=True):
        same(atoms, read(tmp_path / "out" / f"{row.id}.extxyz"))
        assert Manifest.from_info(atoms.info) == row


def test_the_manifest_says_how_it_was_made(host):
    made, node = run_get_node(defects, host=host, settings=orm.Dict({"supercell": 2}))
    manifest = made["manifest"].get_dict()
    assert (manifest["host"], manifest["n_structures"]) == ("LiNiO2", 3)
    assert manifest["settings"]["supercell"] == 2
    assert manifest["settings"]["seed"] == 42  # what was not given is said, too
    assert [row["multiplicity"] for row in manifest["structures"]] == [3, 3, 6]  # Wyckoff 3a, 3b, 6c of R-3m
    inputs = node.inputs
    assert inputs.host.uuid == host.uuid
    assert inputs.package_versions["cgcnn-ase"]
    assert made["structures"].creator.uuid == made["manifest"].creator.uuid == node.uuid


def test_a_structure_of_aiida_as_host():
    salt = orm.StructureData(ase=bulk("NaCl", "rocksalt", a=5.64), label="salt")
    made = defects(salt, orm.Dict({"supercell": 3}))
    assert made["structures"].ids == ("salt-v_Na-0", "salt-v_Cl-0")
    assert [len(atoms) for atoms in made["structures"].iter_atoms()] == [53, 53]
    named = defects(salt, orm.Dict({"supercell": 3, "name": "halite", "element": ["Cl"]}))
    assert named["structures"].ids == ("halite-v_Cl-0",)


def test_the_same_again_is_taken_from_the_cache(host):
    settings = {"num": 2, "supercell": 2}
    run_get_node(defects, host=host, settings=orm.Dict(settings))
    with enable_caching():
        _, again = run_get_node(defects, host=host, settings=orm.Dict(settings))
        _, other_seed = run_get_node(defects, host=host, settings=orm.Dict(settings | {"seed": 1}))
        _, other_version = run_get_node(
            defects, host=host, settings=orm.Dict(settings), package_versions=orm.Dict({"cgcnn-ase": "0.0"})
        )
    assert again.base.caching.is_created_from_cache
    assert not other_seed.base.caching.is_created_from_cache
    assert not other_version.base.caching.is_created_from_cache


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"elements": ["Li"]}, "unknown settings elements; allowed: bond_distortion, charges, "),
        ({"min_distance": "far"}, "setting min_distance cannot be 'far': "),
        ({"kind": "hole"}, "unknown kind 'hole'; allowed: vacancy, antisite"),
        ({"element": "Na", "supercell": 2}, "Na"),
        ({"num": 2, "kind": "antisite"}, "num makes random vacancies, not kind antisite"),
        ({"structure": "NaCl"}, "no structure has the id 'NaCl'"),
    ],
)
def test_bad_settings_are_said_in_words(host, settings, words):
    with pytest.raises(ValueError, match=words):
        defects(host, orm.Dict(settings))


def test_the_host_must_be_one_whole_structure():
    salt = bulk("NaCl", "rocksalt", a=5.64)
    two = StructureSetData.from_ase([salt, bulk("MgO", "rocksalt", a=4.21)], ["a", "b"])
    with pytest.raises(ValueError, match=r"holds 2 structures; name the host as setting structure \(a, b\)"):
        defects(two, orm.Dict({"supercell": 3}))
    made = defects(two, orm.Dict({"supercell": 3, "structure": "b", "element": ["Mg"]}))
    assert made["structures"].ids == ("b-v_Mg-0",)
    half = orm.StructureData(cell=salt.cell[:].tolist())
    half.append_atom(symbols=["Li", "Na"], weights=[0.5, 0.5], position=(0, 0, 0))
    with pytest.raises(ValueError, match="partially occupied"):
        defects(half, orm.Dict())


def test_a_cathode_is_what_the_command_builds(cgcnn_ase, tmp_path):
    ran = cgcnn_ase("cathode", "NCM811", "--li-vacancy", "0.1", "--num", "3", "--seed", "5", "--output", tmp_path)
    assert ran.code == 0, ran.err
    made = cathode(orm.Dict({"name": "NCM811", "li_vacancy": 0.1, "num": 3, "seed": 5}))
    assert made["structures"].ids == ("NCM811_000", "NCM811_001", "NCM811_002")
    for name, atoms in zip(made["structures"].ids, made["structures"].iter_atoms(), strict=True):
        same(atoms, read(tmp_path / f"{name}.extxyz"))
        metals = [atoms.symbols.count(element) for element in ("Ni", "Mn", "Co")]
        assert np.allclose(np.array(metals) / sum(metals), [0.8, 0.1, 0.1], atol=0.02)
        assert atoms.info["li_content"] == pytest.approx(0.9, abs=0.02)
    rows = made["manifest"]["structures"]
    assert [row["id"] for row in rows] == list(made["structures"].ids)
    assert [row["seed"] for row in rows] == [atoms.info["seed"] for atoms in made["structures"].iter_atoms()]
    assert made["manifest"]["settings"]["ordering"] == "random"


def test_the_lowest_energy_is_that_of_a_model_node(small_model):
    model = CGCNNModelData.get_or_create(small_model)
    settings = {"name": "LiNi0.5Mn0.5O2", "n_atoms": 16, "ordering": "lowest", "n_candidates": 3}
    made, node = run_get_node(cathode, settings=orm.Dict(settings), model=model)
    assert node.inputs.model.uuid == model.uuid
    assert made["manifest"]["structures"][0]["ordering"] == "lowest"
    with pytest.raises(ValueError, match="'lowest' needs a model that gives the energies, as a node"):
        cathode(orm.Dict(settings))
    with pytest.raises(ValueError, match="neither ordering nor li_removal is 'lowest'"):
        cathode(orm.Dict({"name": "LiNiO2"}), model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "setting name is missing"),
        ({"name": "NCM811", "vacancy": 0.1}, "unknown settings vacancy; allowed: antisite_exchange, li_removal, "),
        (
            {"name": "NCM811", "ordering": "neat"},
            "setting ordering cannot be 'neat': .*'random', 'ewald', 'sqs' or 'lowest'",
        ),
        ({"name": "NCM811", "supercell": [1, 2]}, "setting supercell cannot be"),
        ({"name": "NCM811", "li_vacancy": 2}, "li_vacancy 2: the part of the lithium to remove is 0 to 1"),
        ({"name": "Unobtainium"}, "Unobtainium"),
    ],
)
def test_bad_settings_of_a_cathode(settings, words):
    with pytest.raises(ValueError, match=words):
        cathode(orm.Dict(settings))


def test_the_entry_points_name_them():
    from aiida.plugins import CalculationFactory

    assert CalculationFactory("cgcnn.defects") is defects
    assert CalculationFactory("cgcnn.cathode") is cathode


def test_a_task_of_aiida_workgraph(aiida_profile):
    """With and without the versions, which have a default."""
    workgraph = pytest.importorskip("aiida_workgraph", reason="aiida-workgraph is of the test extra")
    graph = workgraph.WorkGraph("cathodes")
    settings = {"name": "LiNiO2", "supercell": 1, "n_atoms": 4}
    graph.add_task(cathode, name="plain", settings=orm.Dict(settings))
    graph.add_task(cathode, name="versions", settings=orm.Dict(settings), package_versions=orm.Dict({"ase": "9"}))
    graph.run()
    assert graph.state == "FINISHED"
    plain, versions = sorted(
        graph.process.called, key=lambda node: "9" in node.inputs.package_versions.get_dict().values()
    )
    assert (plain.process_label, plain.is_finished_ok) == ("cathode", True)
    assert "numpy" in plain.inputs.package_versions.get_dict()
    assert versions.inputs.package_versions.get_dict() == {"ase": "9"}
    assert plain.outputs.structures.ids == versions.outputs.structures.ids

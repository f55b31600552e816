"""The node of a structure set: what goes in comes out, equal sets are equal, and its rows keep their provenance."""

import math

import numpy as np
import pytest

pytest.importorskip("aiida")

from aiida import orm
from aiida.common.exceptions import ModificationNotAllowed, ValidationError
from aiida.plugins import DataFactory
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import compare_atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixedPlane
from ase.spacegroup import crystal

from aiida_plugin.calculations.functions.labels import extract
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.structures import read_structures


def nickel_oxide():
    """Antiferromagnetic NiO, a = 4.17 Å."""
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    atoms.set_initial_magnetic_moments([2.0 if z == 28 and k % 4 == 0 else -2.0 if z == 28 else 0.0
                                        for k, z in enumerate(atoms.numbers)])  # fmt: skip
    atoms.info = {
        "a.dotted.key": 1, "nothing": math.nan, "far": -math.inf, "Größe": "Å ☃\n",
        "nested": {"list": [1, [2.5, None]]},
        "scalar": np.float32(0.1), "count": np.int64(3), "flag": np.bool_(True), "array": np.arange(6.0).reshape(2, 3),
        "pair": (1, (2, "x")), "complex": np.array([1 + 2j]), "$tuple": [1], "like": {"$array": 3}, "1": "one",
    }  # fmt: skip
    return atoms


def relaxed_copper():
    """Copper with energy, forces and stress of EMT, two atoms fixed."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.set_constraint([FixAtoms([0, 2]), FixedPlane(1, (0, 0, 1))])
    atoms.calc = EMT()
    atoms.get_stress()
    return atoms


def labelled_molecule():
    atoms = molecule("H2O")
    atoms.set_tags([1, 2, 2])
    atoms.set_initial_charges([-0.8, 0.4, 0.4])
    atoms.set_celldisp([0.1, 0.2, 0.3])
    atoms.arrays["names"] = np.array(["O", "H1", "H2"])
    atoms.calc = SinglePointCalculator(atoms, energy=-14.2, magmoms=[0.0, 0.1, 0.2], dipole=[0, 0, 0.4])
    return atoms


def slab():
    atoms = Atoms("LiO", positions=[(0, 0, 0), (0.1, 1 / 3, 1.9)], cell=[(3, 0.1, 0), (0, 3.3, 0.2), (0, 0, 0)])
    atoms.pbc = (True, True, False)
    return atoms


def assorted():
    return [nickel_oxide(), relaxed_copper(), labelled_molecule(), slab(), bulk("Fe")]


IDS = ["NiO", "κόσμος/Cu 1", "水", "a:b.c", "5"]


@pytest.fixture(scope="module")
def stored_before():
    return []


@pytest.fixture
def stored(aiida_profile, stored_before):
    """Stored once, and again where a test has emptied the profile."""
    query = orm.QueryBuilder().append(StructureSetData, filters={"uuid": {"in": stored_before or ["none"]}})
    if not query.count():
        stored_before.append(StructureSetData.from_ase(assorted(), IDS).store().uuid)
    return orm.load_node(stored_before[-1])


def assert_same(ours, theirs):
    assert compare_atoms(ours, theirs, tol=0.0) == []
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in theirs.arrays.items():
        assert ours.arrays[name].dtype == array.dtype
        assert ours.arrays[name].tobytes() == array.tobytes()
    assert np.array_equal(ours.get_celldisp(), theirs.get_celldisp())
    assert [c.todict() for c in ours.constraints] == [c.todict() for c in theirs.constraints]
    np.testing.assert_equal(ours.info, theirs.info)  # NaN equals NaN, and types within containers count
    results = theirs.calc.results if theirs.calc else {}
    assert (ours.calc.results if ours.calc else {}).keys() == results.keys()
    for name, value in results.items():
        assert np.array_equal(ours.calc.results[name], value), name


def test_the_factory_knows_it(aiida_profile):
    assert DataFactory("cgcnn.structures") is StructureSetData


def test_everything_comes_back(stored):
    again = orm.load_node(stored.pk)
    assert type(again) is StructureSetData
    assert len(again) == 5
    assert again.ids == tuple(IDS)
    for ours, theirs in zip(again.iter_atoms(), assorted(), strict=True):
        assert_same(ours, theirs)
    for k, name in enumerate(IDS):
        assert_same(again.atoms(k), assorted()[k])
        assert_same(again.atoms(name), assorted()[k])
    assert_same(again.atoms(-1), assorted()[4])
    assert isinstance(again.atoms(0).info["pair"], tuple)
    assert type(again.atoms(0).info["count"]) is int
    assert again.atoms(0).info["scalar"] == float(np.float32(0.1))


def test_labels_of_a_calculator_come_back_as_labels(stored):
    ours, theirs = stored.atoms(1), relaxed_copper()
    assert ours.get_potential_energy() == theirs.get_potential_energy()
    assert np.array_equal(ours.get_forces(), theirs.get_forces())
    assert np.array_equal(ours.get_stress(), theirs.get_stress())
    assert ours.calc.name == "emt"
    assert np.array_equal(stored.atoms(2).get_magnetic_moments(), [0.0, 0.1, 0.2])


def test_results_of_another_geometry_are_not_kept(aiida_profile):
    atoms = relaxed_copper()
    atoms.positions[1, 2] += 0.01
    assert StructureSetData.from_ase([atoms]).atoms(0).calc is None


def test_space_group_that_ase_leaves_in_info(aiida_profile):
    atoms = crystal(["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=[5.64] * 3 + [90] * 3)
    result = StructureSetData.from_ase([atoms]).atoms(0)
    assert result.info["spacegroup"] == atoms.info["spacegroup"]
    assert result.info["unit_cell"] == "conventional"


def test_arrays_hold_all_atoms(stored):
    arrays = stored.arrays()
    assert arrays.offsets.tolist() == [0, 8, 12, 15, 17, 18]
    assert np.array_equal(arrays.positions[8:12], relaxed_copper().positions)
    assert np.array_equal(arrays.lattice[3], slab().cell)
    assert np.array_equal(arrays.pbc[3], [True, True, False])
    assert arrays.numbers[12:15].tolist() == [8, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        arrays.positions[0] = 1.0


def test_the_summary_is_small_and_can_be_asked_for(stored):
    assert stored.summary() == {
        "format_version": 1, "n_structures": 5, "n_atoms": 18, "elements": ["H", "Li", "O", "Fe", "Ni", "Cu"],
        "formulas": ["Ni4O4", "Cu4", "H2O", "LiO", "Fe"],
        "site_arrays": ["initial_charges", "initial_magmoms", "names", "tags"],
        "results": ["dipole", "energies", "energy", "forces", "free_energy", "magmoms", "stress"],
        "label_kinds": ["unknown"],
    }  # fmt: skip
    result = orm.QueryBuilder().append(
        StructureSetData,
        filters={"attributes.n_atoms": 18, "attributes.elements": {"contains": ["Ni"]}, "id": stored.pk},
    )
    assert result.count() == 1
    fields = StructureSetData.fields
    result = orm.QueryBuilder().append(
        StructureSetData, filters=(fields.pk == stored.pk) & (fields.attributes.n_structures > 4)
    )
    assert result.count() == 1
    assert stored.serialize()["attributes"]["n_structures"] == 5


# Hashes


def test_equal_sets_are_the_same(stored):
    twin = StructureSetData.from_ase((atoms for atoms in assorted()), list(IDS)).store()
    assert twin.uuid != stored.uuid
    assert twin.base.caching.get_hash() == stored.base.caching.get_hash()


def test_info_and_arrays_in_another_order_are_the_same(stored):
    shuffled = assorted()
    shuffled[0].info = dict(reversed(shuffled[0].info.items()))
    shuffled[2].arrays = dict(reversed(shuffled[2].arrays.items()))
    assert StructureSetData.from_ase(shuffled, IDS).store().base.caching.get_hash() == stored.base.caching.get_hash()


def moved(structures, ids):
    structures[3].positions[0, 0] += 1e-15
    return structures, ids


def other_info(structures, ids):
    structures[0].info["nothing"] = 0.0
    return structures, ids


def other_moment(structures, ids):
    structures[0].arrays["initial_magmoms"][0] = 1.0
    return structures, ids


def open_boundary(structures, ids):
    structures[4].pbc = (True, True, False)
    return structures, ids


def other_owner(structures, ids):
    structures[4].set_tags([1])
    structures[3].set_tags([1, 1])
    return structures, ids


@pytest.mark.parametrize(
    "change",
    [
        moved, other_info, other_moment, open_boundary, other_owner,
        lambda structures, ids: (structures[::-1], ids[::-1]),
        lambda structures, ids: (structures, [*ids[:4], "6"]),
        lambda structures, ids: (structures[:4], ids[:4]),
    ],
)  # fmt: skip
def test_any_change_is_another_set(stored, change):
    other = StructureSetData.from_ase(*change(assorted(), list(IDS))).store()
    assert other.base.caching.get_hash() != stored.base.caching.get_hash()


def test_a_calculation_on_an_equal_set_is_taken_from_the_cache(aiida_profile_clean):
    from aiida.manage.caching import enable_caching

    def run():
        return extract.run_get_node(StructureSetData.from_ase(assorted(), IDS), orm.List([0, "水"]))[1]

    first = run()
    with enable_caching():
        second = run()
    assert second.base.caching.get_cache_source() == first.uuid


# Stored nodes


def test_a_stored_set_cannot_be_changed(stored):
    before = stored.base.repository.hash()
    with pytest.raises(ModificationNotAllowed):
        stored.base.repository.delete_object("ids.json")
    with pytest.raises(ModificationNotAllowed):
        stored.base.attributes.set("n_structures", 4)
    stored.atoms(0).positions += 1.0
    assert_same(stored.atoms(0), nickel_oxide())
    assert orm.load_node(stored.pk).base.repository.hash() == before


def test_it_survives_an_archive(aiida_profile_clean, tmp_path):
    from aiida.tools.archive import create_archive, import_archive

    node = StructureSetData.from_ase(assorted(), IDS).store()
    uuid, node_hash = node.uuid, node.base.caching.get_hash()
    create_archive([node], filename=tmp_path / "set.aiida")
    aiida_profile_clean.reset_storage()
    assert orm.QueryBuilder().append(StructureSetData).count() == 0
    import_archive(tmp_path / "set.aiida")
    again = orm.load_node(uuid)
    assert again.base.caching.compute_hash() == node_hash
    for ours, theirs in zip(again.iter_atoms(), assorted(), strict=True):
        assert_same(ours, theirs)


def test_a_packed_repository_is_read_all_the_same(aiida_profile_clean):
    """Packing with compression leaves streams that cannot be mapped and that only go forwards."""
    node = StructureSetData.from_ase(assorted() * 30).store()
    node.backend.get_repository().maintain(live=False, compress=True)
    again = orm.load_node(node.pk)
    for ours, theirs in zip(again.iter_atoms(), assorted() * 30, strict=True):
        assert_same(ours, theirs)
    assert_same(again.atoms(146), relaxed_copper())


def test_an_empty_node_is_not_stored(aiida_profile):
    with pytest.raises(ValidationError, match="from_ase"):
        StructureSetData().store()


def test_a_set_of_a_newer_format_is_not_read(aiida_profile):
    node = StructureSetData.from_ase(assorted())
    node.base.attributes.set("format_version", 99)
    for read in (lambda: node.ids, lambda: node.atoms(0), lambda: next(node.iter_atoms())):
        with pytest.raises(ValueError, match="of format 99, this version of cgcnn-ase reads formats up to 1"):
            read()


def test_files_that_do_not_belong_together_are_not_stored(aiida_profile):
    node = StructureSetData.from_ase(assorted())
    node.base.attributes.set("n_structures", 4)
    with pytest.raises(ValidationError, match="belong together"):
        node.store()


# Parts of a set


def test_select_keeps_ids_and_structures(stored):
    part = stored.select([4, "水", 0])
    assert not part.is_stored
    assert part.ids == ("5", "水", "NiO")
    for ours, k in zip(part.iter_atoms(), (4, 2, 0), strict=True):
        assert_same(ours, assorted()[k])
    direct = StructureSetData.from_ase([assorted()[k] for k in (4, 2, 0)], ["5", "水", "NiO"])
    assert part.store().base.caching.get_hash() == direct.store().base.caching.get_hash()


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([5], "no row 5; allowed are 0 to 4"), (["Cu"], "no structure has the id 'Cu'"),
        ([1.0], "1.0 is a float; allowed are rows"), ([-6], "no row -6"), ([1, 1], "given twice"),
        ([], "at least one structure"),
    ],
)  # fmt: skip
def test_select_says_what_is_wrong(stored, indices, words):
    with pytest.raises(ValueError, match=words):
        stored.select(indices)


def test_structure_data_has_the_geometry(stored):
    node = stored.to_structure_data("a:b.c")
    assert node.label == "a:b.c"
    assert node.base.extras.get("structure_id") == "a:b.c"
    ours = node.get_ase()
    assert np.array_equal(ours.positions, slab().positions)
    assert np.array_equal(ours.pbc, slab().pbc)
    assert stored.to_structure_data("NiO").get_ase().get_initial_magnetic_moments().tolist() == [0.0] * 8


def test_extract_leaves_links(stored):
    result, process = extract.run_get_node(structure_set=stored, indices=orm.List([3, "NiO"]))
    assert set(result) == {"row_3", "row_0"}
    assert result["row_0"].get_formula("hill") == "Ni4O4"
    assert process.is_finished_ok
    back = orm.QueryBuilder()
    back.append(StructureSetData, tag="set", project="uuid", edge_project=[])
    back.append(orm.CalcFunctionNode, with_incoming="set", filters={"id": process.pk}, tag="extract")
    back.append(orm.StructureData, with_incoming="extract", project="label", edge_project="label")
    assert sorted(back.all()) == sorted([[stored.uuid, "a:b.c", "row_3"], [stored.uuid, "NiO", "row_0"]])


@pytest.mark.parametrize(("indices", "words"), [([], "empty"), ([0, "NiO"], "named twice"), ([7], "no row 7")])
def test_extract_says_what_is_wrong(stored, indices, words):
    with pytest.raises(ValueError, match=words):
        extract(stored, orm.List(indices))


# Bad input


def with_info(value):
    atoms = bulk("Fe")
    atoms.info["bad"] = {"deep": [value]}
    return atoms


@pytest.mark.parametrize(
    ("structures", "ids", "words"),
    [
        ([], None, "at least one structure"),
        ([], [], "at least one structure"),
        ([bulk("Fe")] * 3, ["a", "b", "a"], "the id 'a' is given twice, to structures 0 and 2"),
        ([bulk("Fe")], [""], "id 0 is ''"),
        ([bulk("Fe")], [7], "id 0 is 7"),
        ([bulk("Fe")], ["a\0"], "holds no NUL"),
        ([bulk("Fe")] * 2, ["a"], r"more structures than ids \(1\)"),
        ([bulk("Fe")], ["a", "b"], "2 ids for 1 structures"),
        ([with_info(object())], ["odd"], r"structure 'odd'.*\['bad'\]\['deep'\]\[0\] is a object"),
        ([with_info({1: 2})], None, r"the key 1, a int"),
        ([Atoms(numbers=[200])], None, "atomic number 200"),
    ],
)
def test_bad_input_is_named(aiida_profile, structures, ids, words):
    with pytest.raises(ValueError, match=words):
        StructureSetData.from_ase(structures, ids)


# The packed file


def test_packed_file_is_read_by_the_command_line_s_reader(stored, tmp_path):
    file = tmp_path / "set.npz"
    stored.write_packed(file)
    records = list(read_structures(file))
    assert [record.id for record in records] == IDS
    for record, theirs in zip(records, assorted(), strict=True):
        ours = record.unwrap()
        assert ours.numbers.tolist() == theirs.numbers.tolist()
        assert ours.pbc.tolist() == theirs.pbc.tolist()
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-13)
        np.testing.assert_array_equal(ours.cell[ours.pbc], theirs.cell[theirs.pbc])
    again = tmp_path / "again.npz"
    orm.load_node(stored.pk).write_packed(again)
    assert again.read_bytes() == file.read_bytes()


def test_a_cell_that_is_none_costs_only_its_own_structure(aiida_profile, tmp_path):
    flat = Atoms("Li2", positions=[(0, 0, 0), (2, 0, 0)], cell=[(3, 0, 0), (0, 3, 0), (3, 3, 0)], pbc=True)
    lost = Atoms("Li", cell=[(3, 0, 0), (0, np.nan, 0), (0, 0, 3)], pbc=True)
    StructureSetData.from_ase([flat, bulk("Fe"), lost], ["flat", "fine", "lost"]).write_packed(tmp_path / "set.npz")
    flat_record, fine, lost_record = read_structures(tmp_path / "set.npz")
    assert "no volume" in flat_record.error
    assert fine.error is None
    assert "not" in lost_record.error
    assert "finite" in lost_record.error

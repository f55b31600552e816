"""Reading the packed ``.npz`` file of many structures."""

import shutil
import zipfile

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule

from cgcnn_ase.prediction.predictor import Predictor
from cgcnn_ase.structures import (
    StructureError,
    collect_paths,
    count_structures,
    iter_piece,
    iter_pieces,
    read_file,
    read_structures,
)
from cgcnn_ase.structures.packed import REQUIRED, count_packed, load_packed, pack, write_packed

from ..conftest import random_crystal
from .damage import OF_FILE, OF_STRUCTURE, cut, write

STRUCTURES = [bulk("NaCl", "rocksalt", a=5.64), graphene(a=2.46, vacuum=6.0), molecule("CO2", cell=[8, 9, 10])]
IDS = ["halite", "graphene", "Kohlendioxid ☁"]


def packed_arrays(structures=STRUCTURES, ids=IDS):
    """Written out here by ASE's own fractional coordinates, not by the code that is tested."""
    return {
        "ids": np.array(ids),
        "lattice": np.array([atoms.cell.array for atoms in structures]),
        "offsets": np.cumsum([0, *(len(atoms) for atoms in structures)]),
        "numbers": np.concatenate([atoms.numbers for atoms in structures]).astype(np.uint8),
        "frac": np.concatenate([atoms.get_scaled_positions(wrap=False) for atoms in structures]),
        "pbc": np.array([atoms.pbc for atoms in structures]),
    }


@pytest.fixture
def packed(tmp_path):
    def write(name="set.npz", without=(), compressed=False, **changed):
        arrays = {**packed_arrays(), **changed}
        save = np.savez_compressed if compressed else np.savez
        save(tmp_path / name, **{key: array for key, array in arrays.items() if key not in without})
        return tmp_path / name

    return write


@pytest.mark.parametrize("compressed", [False, True])
def test_every_row_is_a_structure_under_its_own_id(packed, compressed):
    records = list(read_structures(packed(compressed=compressed)))
    assert [record.id for record in records] == IDS
    for record, theirs in zip(records, STRUCTURES, strict=True):
        ours = record.unwrap()
        assert str(ours.symbols) == str(theirs.symbols)
        assert np.array_equal(ours.pbc, theirs.pbc)
        assert np.array_equal(ours.cell, theirs.cell)
        np.testing.assert_allclose(ours.get_all_distances(mic=True), theirs.get_all_distances(mic=True), atol=1e-12)


def test_one_row_keeps_its_id(packed):
    one = packed_arrays(STRUCTURES[:1], IDS[:1])
    assert [record.id for record in read_file(packed(**one))] == ["halite"]


def test_without_pbc_all_is_periodic(packed):
    records = read_file(packed(without=["pbc"]))
    assert [record.unwrap().pbc.tolist() for record in records] == [[True] * 3] * 3


def test_ids_may_be_numbers(packed):
    assert [record.id for record in read_file(packed(ids=np.array([7, 8, 9])))] == ["7", "8", "9"]


def test_one_bad_structure_costs_only_itself(packed):
    frac = packed_arrays()["frac"]
    frac[1] = frac[0]
    good = [record.error is None for record in read_file(packed(frac=frac))]
    assert good == [False, True, True]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"without": ["frac"]}, "no array 'frac'; needed are the arrays ids, lattice, offsets, numbers, frac"),
        (
            {"frac": np.zeros((3, 3))},
            r"'frac' is of type float64 and shape \(3, 3\); needed are numbers of shape \(7, 3\)",
        ),
        ({"offsets": np.array([0, 4, 2, 7])}, "'offsets' does not count up"),
        ({"offsets": np.array([0, 2, 7])}, r"'offsets' .* needed are integers of shape \(4,\)"),
        ({"numbers": np.full(7, 6.5)}, "'numbers' is of type float64"),
        ({"pbc": np.ones(3)}, "'pbc' is of type float64"),
        ({"lattice": np.array([["x"] * 9] * 3).reshape(3, 3, 3)}, "'lattice' is of type <U1"),
        ({"ids": np.array(["a", "b", "a"])}, "the id 'a' is in it twice"),
        ({"ids": np.array([1.5, 2.5, 3.5])}, "'ids' is of type float64"),
        ({"ids": np.array([{}, {}, {}])}, "'ids' is damaged, cut off, or holds Python objects"),
        (packed_arrays([Atoms()], [""]) | {"ids": np.array([], dtype=str), "offsets": np.array([0])}, "no structures"),
    ],
)
def test_a_bad_file_is_told_in_words(packed, changed, words):
    (record,) = read_file(packed(**changed))
    assert record.id == "set"
    with pytest.raises(StructureError, match=words):
        record.unwrap()
    assert "\n" not in record.error


def test_what_is_no_archive_is_told(packed, tmp_path):
    whole = packed().read_bytes()
    bad = {"cut": whole[: len(whole) // 2], "text": b"ids, lattice", "array": b"\x93NUMPY\x01\x00v"}
    for name, content in bad.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        (record,) = read_file(tmp_path / f"{name}.npz")
        assert "is no .npz file" in record.error
    (tmp_path / "empty.npz").write_bytes(b"")
    assert read_file(tmp_path / "empty.npz")[0].error == "is empty"
    assert read_file(tmp_path / "missing.npz")[0].error == "no such file"
    np.save(tmp_path / "one.npy", np.zeros(3))
    shutil.move(tmp_path / "one.npy", tmp_path / "one.npz")
    assert "is no .npz file" in read_file(tmp_path / "one.npz")[0].error


def test_damage_within_an_array_is_told(packed):
    file = packed()
    whole = bytearray(file.read_bytes())
    whole[whole.find(b"frac.npy") + 200] ^= 0xFF
    file.write_bytes(whole)
    (record,) = read_file(file)
    assert "'frac' is damaged" in record.error


def test_an_id_used_by_two_files_is_told(packed):
    records = list(read_structures([packed(), packed("other.npz", ids=np.array(["a", "halite", "b"]))]))
    assert [record.id for record in records if record.error] == ["halite"]


def test_in_a_folder_other_archives_are_left_alone(packed, tmp_path):
    packed()
    np.savez(tmp_path / "weights.npz", layer=np.zeros(3))
    (tmp_path / "broken.npz").write_bytes(b"PK")
    assert collect_paths(tmp_path) == [tmp_path / "set.npz"]


def test_the_shared_data_sets_are_such_files(shared_data):
    file = shared_data / "mp_elastic" / "structures.npz"
    packed = load_packed(file)
    records = read_structures(file)
    for k, record in zip(range(200), records, strict=False):
        assert record.id == packed.ids[k]
        assert len(record.unwrap()) == packed.offsets[k + 1] - packed.offsets[k]


def test_predicted_from_the_command_line(packed, cgcnn_ase, small_model):
    ran = cgcnn_ase("predict", packed(), "--model", small_model, "--engine", "torch")
    assert ran.code == 0, ran.err
    assert [row["id"] for row in ran.rows()] == IDS


def test_pieces_are_the_rows_of_the_file_in_order(packed, tmp_path):
    """Cut into pieces of two rows, with plain files around it, everything comes as from the files themselves."""
    STRUCTURES[0].write(tmp_path / "a.cif")
    paths = [tmp_path / "a.cif", packed("b.npz"), packed("c.npz", ids=np.array(["x", "y", "z"])), tmp_path / "no.cif"]
    lists = list(iter_pieces(paths, 2))
    whole = [record for path in paths for record in read_file(path)]
    cut = [record for pieces in lists for piece in pieces for record in iter_piece(piece)]
    assert [(r.id, r.source, r.error) for r in cut] == [(r.id, r.source, r.error) for r in whole]
    assert [r.atoms for r in cut] == [r.atoms for r in whole]
    assert [len(list(iter_piece(pieces[0]))) for pieces in lists] == [1, 2, 1, 2, 1, 1]
    assert count_structures(paths) == 8


def test_a_piece_of_a_bad_file_says_so_once(packed):
    bad = packed(without=["frac"])
    assert count_packed(bad) == 3
    ((piece,),) = iter_pieces([bad], 1)
    (record,) = iter_piece(piece)
    assert "no array 'frac'" in record.error


@pytest.mark.slow
def test_workers_share_one_file(packed, small_model):
    """Rows divided among processes give what one process gives, in the same order, bad ones in their places."""
    rng = np.random.default_rng(5)
    structures = [random_crystal(rng) for _ in range(300)]
    structures[140].positions[1] = structures[140].positions[0]
    file = packed(**packed_arrays(structures, [f"s{k}" for k in range(300)]))
    one, two = (list(Predictor(small_model, workers=n).stream(file)) for n in (1, 2))
    assert [(p.id, p.error) for p in two] == [(p.id, p.error) for p in one]
    assert [p.id for p in one] == [f"s{k}" for k in range(300)]
    assert [p.id for p in one if p.error] == ["s140"]
    values = np.array([[p.value, p.std] for p in one if not p.error])
    np.testing.assert_allclose([[p.value, p.std] for p in two if not p.error], values, rtol=1e-4, atol=1e-5)


# Damage, whoever reads the file


@pytest.mark.parametrize("damage", OF_FILE)
def test_damage_is_named_by_file_and_array(tmp_path, damage):
    change, words = OF_FILE[damage]
    file = write(tmp_path / "set.npz", change)
    for check_rows in (True, False):
        with pytest.raises(StructureError, match=words) as caught:
            load_packed(file, check_rows=check_rows)
        assert str(caught.value).startswith(f"{file}: ")
    with pytest.raises(StructureError, match=words):
        next(read_structures(file)).unwrap()


@pytest.mark.parametrize("damage", OF_STRUCTURE)
def test_a_bad_structure_costs_the_set_or_only_itself(tmp_path, damage):
    change, of_set, of_record = OF_STRUCTURE[damage]
    file = write(tmp_path / "set.npz", change)
    with pytest.raises(StructureError, match=of_set):
        load_packed(file)
    good, bad, last = read_structures(file)
    assert (good.error, last.error, bad.id) == (None, None, "copper")
    with pytest.raises(StructureError, match=of_record):
        bad.unwrap()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", REQUIRED)
def test_bytes_that_were_changed_are_told(tmp_path, name, compress):
    file = write(tmp_path / "set.npz", lambda arrays: arrays, compress=compress)
    with zipfile.ZipFile(file) as archive:
        start = archive.getinfo(f"{name}.npy").header_offset + 30 + len(f"{name}.npy")
        end = start + archive.getinfo(f"{name}.npy").compress_size
    content = bytearray(file.read_bytes())
    content[end - 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(StructureError, match=f"array '{name}' is damaged"):
        load_packed(file)


def test_a_file_that_was_cut_off_is_told(tmp_path):
    with pytest.raises(StructureError, match="is no .npz file or is cut off"):
        load_packed(cut(tmp_path / "set.npz"))


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_comes_back(tmp_path, compress):
    """In several parts, a flat cell among them."""
    flat = Atoms("Li2", positions=[(0, 0, 0), (2, 0, 0)], cell=[(3, 0, 0), (0, 3, 0), (3, 3, 0)], pbc=True)
    parts = [pack(IDS, STRUCTURES), pack([], []), pack(["flat"], [flat])]
    assert write_packed(tmp_path / "set.npz", lambda: parts, compress=compress) == 4
    records = read_file(tmp_path / "set.npz")
    assert [record.id for record in records] == [*IDS, "flat"]
    for record, theirs in zip(records, STRUCTURES, strict=False):
        np.testing.assert_allclose(record.unwrap().positions, theirs.positions, atol=1e-12)
        np.testing.assert_array_equal(record.unwrap().pbc, theirs.pbc)
    assert "no volume" in records[-1].error
    with pytest.raises(ValueError, match=r"the name of a packed file ends in \.npz"):
        write_packed(tmp_path / "set.zip", lambda: parts)


def test_some_of_the_structures():
    packed = pack(IDS, STRUCTURES)
    some = packed.where(np.array([True, False, True]))
    assert [(name, atoms.get_chemical_formula()) for name, atoms in some.atoms()] == [
        (name, atoms.get_chemical_formula()) for name, atoms in (*packed.rows(0, 1).atoms(), *packed.rows(2, 9).atoms())
    ]

"""Reading structures from files and objects: what is accepted, and what each bad input is told."""

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read as ase_read
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from cgcnn_ase.structures import (
    StructureError,
    StructureRecord,
    UniqueIds,
    check_atoms,
    collect_paths,
    from_object,
    read_file,
    read_structures,
)
from cgcnn_ase.structures.composition import formula_problem

from ..conftest import random_crystal

HEAD = """data_{name}
_cell_length_a 5.6402
_cell_length_b 5.6402
_cell_length_c 5.6402
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
_chemical_formula_sum 'Na4 Cl4'
_cell_formula_units_Z 4
loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""
ROWS = [
    "Na Na1 0.0 0.0 0.0 1",
    "Na Na2 0.0 0.5 0.5 1",
    "Na Na3 0.5 0.0 0.5 1",
    "Na Na4 0.5 0.5 0.0 1",
    "Cl Cl1 0.5 0.5 0.5 1",
    "Cl Cl2 0.5 0.0 0.0 1",
    "Cl Cl3 0.0 0.5 0.0 1",
    "Cl Cl4 0.0 0.0 0.5 1",
]
NACL = HEAD.format(name="NaCl") + "\n".join(ROWS) + "\n"
WITHOUT_SUM = NACL.replace("_chemical_formula_sum 'Na4 Cl4'\n", "").replace("_cell_formula_units_Z 4\n", "")


def read_text(tmp_path, text, name="x.cif", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_file(path, **options)


def error_of(tmp_path, text, name="x.cif", **options):
    (record,) = read_text(tmp_path, text, name, **options)
    assert record.atoms is None
    assert "\n" not in record.error
    assert record.source not in record.error
    return record.error


# ---- good files


def test_cif(tmp_path):
    (record,) = read_text(tmp_path, NACL, "NaCl.cif")
    assert record.id == "NaCl"
    assert record.source == str(tmp_path / "NaCl.cif")
    assert record.error is None
    assert record.atoms.get_chemical_formula() == "Cl4Na4"
    assert record.atoms.pbc.all()
    assert record.unwrap() is record.atoms


def test_records_and_errors_pickle(tmp_path):
    (record,) = read_text(tmp_path, NACL)
    again = pickle.loads(pickle.dumps(record))
    assert again.atoms == record.atoms
    error = pickle.loads(pickle.dumps(StructureError("a.cif", "is empty")))
    assert (str(error), error.source, error.reason) == ("a.cif: is empty", "a.cif", "is empty")
    with pytest.raises(StructureError, match=r"a\.cif: bad"):
        StructureRecord("a", "a.cif", None, "bad").unwrap()


@pytest.mark.parametrize(
    "name",
    [
        "a.cif",
        "a.vasp",
        "POSCAR",
        "CONTCAR_relaxed",
        "a.poscar",
        "a.xyz",
        "a.extxyz",
        "a.traj",
        "a.gen",
        "a.xsf",
        "a.cif.gz",
        "a.xyz.gz",
        "a.vasp.gz",
        "A.CIF",
    ],
)
def test_formats(tmp_path, name):
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    kind = {
        "cif": "cif",
        "vasp": "vasp",
        "poscar": "vasp",
        "xyz": "extxyz",
        "extxyz": "extxyz",
        "traj": "traj",
        "gen": "gen",
        "xsf": "xsf",
    }
    suffix = name.lower().removesuffix(".gz").rpartition(".")[2]
    plain = tmp_path / "plain"
    write(plain, atoms, format=kind.get(suffix, "vasp"))
    data = plain.read_bytes()
    plain.unlink()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    for record in (*read_file(tmp_path / name), *read_structures(tmp_path)):
        assert record.error is None
        assert sorted(record.atoms.symbols) == sorted(atoms.symbols)
        assert record.atoms.get_volume() == pytest.approx(atoms.get_volume())
        assert record.atoms.pbc.all()
        assert record.atoms.calc is None
        assert record.id.startswith("a") or record.id in ("A", f"{tmp_path.name}_POSCAR", "CONTCAR_relaxed")


def test_frames_are_told_apart(tmp_path):
    frames = [bulk("Cu"), bulk("Ni"), molecule("H2O")]
    write(tmp_path / "run.extxyz", frames)
    records = read_file(tmp_path / "run.extxyz")
    assert [r.id for r in records] == ["run:0", "run:1", "run:2"]
    assert [len(r.atoms) for r in records] == [1, 1, 3]
    assert not records[2].atoms.pbc.any()


def test_one_bad_frame_costs_itself_only(tmp_path):
    write(tmp_path / "run.xyz", [bulk("Cu"), bulk("Ni"), bulk("Fe")])
    text = (tmp_path / "run.xyz").read_text().replace("Ni", "Qq")
    records = read_text(tmp_path, text, "run.xyz")
    assert [r.error is None for r in records] == [True, False, True]
    assert records[2].id == "run:2"
    assert "Qq" in records[1].error


def test_plain_xyz_is_a_molecule(tmp_path):
    (record,) = read_text(tmp_path, "3\nwater\nO 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n", "water.xyz")
    assert not record.atoms.pbc.any()


@pytest.mark.parametrize("name", ["set.db", "set.json"])
def test_ase_databases(tmp_path, name):
    from ase.db import connect

    with connect(tmp_path / name) as database:
        for symbol in ("Cu", "Ni"):
            database.write(bulk(symbol))
    records = list(read_structures(str(tmp_path / name)))
    assert [r.id for r in records] == ["set:1", "set:2"]
    assert [str(r.atoms.symbols) for r in records] == ["Cu", "Ni"]


def test_pymatgen_json(tmp_path):
    from pymatgen.core import Lattice, Molecule, Structure

    crystal = Structure(Lattice.cubic(4.2), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    water = Molecule(["O", "H", "H"], [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    (record,) = read_text(tmp_path, json.dumps(crystal.as_dict()), "one.json")
    assert record.id == "one"
    np.testing.assert_allclose(record.atoms.positions, crystal.cart_coords)
    records = read_text(tmp_path, json.dumps([crystal.as_dict(), water.as_dict(), {"no": 1}]), "all.json")
    assert [r.id for r in records] == ["all:0", "all:1", "all:2"]
    assert not records[1].atoms.pbc.any()
    assert "neither" in records[2].error
    assert "cannot be read" in error_of(tmp_path, "{", "bad.json")
    (tmp_path / "atom_init.json").write_text('{"1": [0, 1]}')
    assert "atom_init" not in {p.stem for p in collect_paths(tmp_path)}


def test_objects():
    from pymatgen.core import Lattice, Molecule, Structure

    crystal = Structure(Lattice.cubic(4.2), ["Cs+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    slab = fcc111("Al", (1, 1, 3), vacuum=8)
    records = list(read_structures([bulk("Cu"), crystal, slab, Molecule(["N", "N"], [[0, 0, 0], [0, 0, 1.1]])]))
    assert [r.id for r in records] == ["0", "1", "2", "3"]
    assert [r.source for r in records] == ["<memory>"] * 4
    assert [r.atoms.pbc.tolist() for r in records] == [[True] * 3, [True] * 3, [True, True, False], [False] * 3]
    assert next(read_structures(crystal)).atoms.get_chemical_formula() == "ClCs"
    named = list(read_structures({"copper": bulk("Cu"), "salt": crystal}))
    assert [r.id for r in named] == ["copper", "salt"]


def test_from_object_copies_without_calculator():
    from ase.calculators.emt import EMT

    atoms = bulk("Cu")
    atoms.calc = EMT()
    copy = from_object(atoms)
    copy.positions += 1
    assert copy.calc is None
    assert atoms.positions.tolist() == [[0, 0, 0]]
    with pytest.raises(TypeError, match="neither"):
        from_object(3)
    with pytest.raises(TypeError, match="int"):
        read_structures(3)


def test_results_in_a_file_are_kept_as_plain_values(tmp_path):
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5)
    write(tmp_path / "a.extxyz", atoms)
    with connect(tmp_path / "a.db") as database:
        database.write(atoms, gap=1.5)
    for path in collect_paths(tmp_path):
        (record,) = read_file(path)
        assert record.atoms.calc is None
        assert record.atoms.info["energy"] == -3.5
    assert read_file(tmp_path / "a.db")[0].atoms.info["gap"] == 1.5


def test_stream_is_lazy_and_mixed(tmp_path):
    (tmp_path / "a.cif").write_text(NACL)

    def endless():
        yield tmp_path / "a.cif"
        yield bulk("Cu")
        yield str(tmp_path / "nothing-here")
        raise AssertionError("read too far")

    stream = read_structures(endless())
    assert [next(stream).id for _ in range(2)] == ["a", "1"]
    assert "no such" in next(stream).error


def test_twenty_thousand_atoms(tmp_path):
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True) * (14, 14, 13)
    assert len(atoms) > 20_000
    atoms.rattle(0.05, seed=1)
    write(tmp_path / "big.cif", atoms)
    start = time.process_time()
    (record,) = read_file(tmp_path / "big.cif")
    assert time.process_time() - start < 4
    assert len(record.atoms) == len(atoms)
    atoms.positions[17] = atoms.positions[12_345] + 0.1
    with pytest.raises(StructureError, match=r"atoms 18 .* and 12346 .* overlap: they are 0\.173"):
        check_atoms(atoms)


def test_import_is_light():
    heavy = ("ase", "gemmi", "pymatgen", "scipy", "torch")
    code = f"import sys, cgcnn_ase.structures; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_readers_say_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = WITHOUT_SUM.replace("'P 1'", "'P 63/m m c'").replace(
            "_cell_length_a 5.6402", "_cell_length_a '5.6402(1)'"
        )
        read_text(tmp_path, text + "He He1 0.25 0.25 0.25 1\n")
        read_text(tmp_path, text.replace("Na1 0.0 0.0 0.0 1", "Na1 0.0 0.0 0.0 0.5"), order_disordered=True)


# ---- collecting paths


def test_folder_glob_and_stdin(tmp_path, monkeypatch):
    for name in ("b.cif", "a.cif", "POSCAR", "notes.txt", "id_prop.csv", "setup.in", ".hidden.cif"):
        (tmp_path / name).write_text(NACL)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.cif").write_text(NACL)
    assert [p.name for p in collect_paths(tmp_path)] == ["POSCAR", "a.cif", "b.cif"]
    assert [p.name for p in collect_paths([str(tmp_path / "*.cif")])] == ["a.cif", "b.cif"]
    assert [p.name for p in collect_paths([str(tmp_path / "**" / "*.cif")])] == ["a.cif", "b.cif", "c.cif"]
    assert len(collect_paths([tmp_path, tmp_path / "a.cif", tmp_path / "setup.in"])) == 4
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{tmp_path / 'a.cif'}\n\n{tmp_path / 'gone.cif'}\n"))
    assert [p.name for p in collect_paths("-")] == ["a.cif", "gone.cif"]
    bracket = tmp_path / "[1].cif"
    bracket.write_text(NACL)
    assert collect_paths(str(bracket)) == [bracket]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/", "no such file or folder"),
        ("missing.cif", "no such file or folder"),
        ("empty", "holds no structure file; known are .cif"),
        ("*.cif", "matches no file"),
        ("*.txt", "matches no structure file"),
        ("notes.txt", "unknown suffix; known are .cif"),
    ],
)
def test_wrong_paths(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    target = os.path.join(tmp_path, name)  # noqa: PTH118
    for call in (collect_paths, read_structures):
        with pytest.raises(StructureError) as caught:
            call([target] if name != "missing.cif" else target)
        assert words in str(caught.value)
        assert name.strip("/*") in str(caught.value)


def test_missing_file_in_a_list_costs_itself_only(tmp_path):
    (tmp_path / "a.cif").write_text(NACL)
    first, second = read_structures([tmp_path / "gone.cif", tmp_path / "a.cif"])
    assert first.error == "no such file"
    assert second.error is None


def test_files_of_one_name_get_the_names_of_their_folders(tmp_path):
    for folder in ("dft/001", "dft/002", "other"):
        (tmp_path / folder).mkdir(parents=True)
        write(tmp_path / folder / "final.extxyz", [bulk("Cu"), bulk("Ni")])
    files = [tmp_path / folder / "final.extxyz" for folder in ("dft/001", "dft/002")]
    ids = ["001_final:0", "001_final:1", "002_final:0", "002_final:1"]
    assert [r.id for r in read_structures(files)] == ids
    assert [r.id for r in read_structures(str(tmp_path / "dft" / "*" / "*.extxyz"))] == ids
    # what comes later, out of a generator, is told apart as soon as it comes
    later = [r.id for r in read_structures(path for path in (files[0], tmp_path / "other" / "final.extxyz"))]
    assert later == ["final:0", "final:1", "other_final:0", "other_final:1"]
    for name in ("a/run", "b/run"):
        (tmp_path / name).mkdir(parents=True)
        write(tmp_path / name / "POSCAR", bulk("Cu"), format="vasp")
    assert [r.id for r in read_structures(str(tmp_path / "*" / "run" / "POSCAR"))] == ["a_run_POSCAR", "b_run_POSCAR"]


def test_name_used_twice_in_one_folder(tmp_path):
    (tmp_path / "x.cif").write_text(NACL)
    write(tmp_path / "x.vasp", bulk("Cu"))
    first, second = read_structures(tmp_path)
    assert first.atoms is not None
    assert second.error == f"the name 'x' is used twice: by {tmp_path / 'x.cif'} and {tmp_path / 'x.vasp'}; rename one"
    names = UniqueIds()
    assert names.check(first) is first
    assert names.check(second._replace(id="y", error=None)).error is None


def test_a_folder_takes_vasp_files_by_the_word_and_names_what_it_leaves_out(tmp_path, caplog):
    for name in ("a.vasp", "NiO_POSCAR", "03-CONTCAR.relaxed"):
        write(tmp_path / name, bulk("Cu"), format="vasp")
    for name in ("how_POSCAR_works.txt", "make_POSCAR.py", "x.pdb", "run.in"):
        (tmp_path / name).write_text("x")
    records = list(read_structures(tmp_path))
    assert [r.id for r in records] == ["03-CONTCAR.relaxed", "NiO_POSCAR", "a"]
    assert all(r.error is None for r in records)
    assert "left out run.in, x.pdb" in caplog.text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("oops"), "does not follow the format"),
        (AssertionError(), "does not follow the format"),
        (ValueError("could not broadcast input array from shape (0,) into shape (3,)"), "does not follow the format"),
        (AttributeError("'NoneType' object has no attribute 'group'"), "does not follow the format"),
        (ValueError("could not convert string to float: 'abc'"), "'abc' stands where a number is needed"),
        (ValueError("invalid literal for int() with base 10: 'Qq'"), "'Qq' stands where a number is needed"),
        (ValueError("the trajectory ends within a frame"), "cannot be read (the trajectory ends within a frame)"),
    ],
)
def test_no_error_of_python_reaches_a_user(error, words):
    from cgcnn_ase.structures.readers import error_message

    message = error_message(error)
    assert words in message
    assert not any(word in message for word in ("Error", "oops", "NoneType", "broadcast", "int()"))


def test_poscars_of_many_folders_have_names(tmp_path):
    for folder in ("LiNiO2", "NaCl"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "POSCAR", bulk("Cu"), format="vasp")
    assert [r.id for r in read_structures(str(tmp_path / "*" / "POSCAR"))] == ["LiNiO2_POSCAR", "NaCl_POSCAR"]


# ---- bad files


@pytest.mark.parametrize("name", ["x.cif", "POSCAR", "x.xyz", "x.json", "x.db", "x.traj", "x.gen"])
def test_empty_and_binary_files(tmp_path, name):
    assert error_of(tmp_path, "", name) == "is empty"
    assert error_of(tmp_path, bytes(range(256)) * 8, name)
    rng = np.random.default_rng(0)
    assert error_of(tmp_path, rng.bytes(3000), name)


def test_binary_cif(tmp_path):
    assert "is binary" in error_of(tmp_path, b"\x7fELF\x02\x01\x01" + bytes(100))
    assert "is binary" in error_of(tmp_path, bytes(range(1, 256)) * 9)
    assert error_of(tmp_path, b"\x1f\x8b\x08junk", "x.cif.gz")
    assert "cut off" in error_of(tmp_path, gzip.compress(NACL.encode())[:-20], "x.cif.gz")


def test_accents_in_an_old_cif(tmp_path):
    assert read_text(tmp_path, NACL.replace("data_NaCl", "# José\ndata_NaCl").encode("latin-1"))[0].atoms is not None


@pytest.mark.parametrize("rows", range(1, 8))
def test_cif_cut_off_between_rows(tmp_path, rows):
    words = error_of(tmp_path, HEAD.format(name="x") + "\n".join(ROWS[:rows]) + "\n")
    assert "do not match its own formula (Na4 Cl4)" in words


@pytest.mark.parametrize("length", range(5, len(NACL) - 3, 23))
def test_cif_cut_off_anywhere(tmp_path, length):
    error_of(tmp_path, NACL[:length])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(NACL)), st.binary(max_size=6), st.integers(0, 8))
def test_damaged_cif_never_raises(tmp_path_factory, offset, inserted, removed):
    data = NACL.encode()
    path = tmp_path_factory.getbasetemp() / "damaged.cif"
    path.write_bytes(data[:offset] + inserted + data[offset + removed :])
    for record in read_file(path):
        assert (record.atoms is None) != (record.error is None)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Na Na1", "D D1", "deuterium is not told apart; write H"),
        ("Na Na1", "X X1", "unknown element 'X'"),
        ("Na Na1", "Du Du1", "unknown element 'Du'"),
        ("Na Na1", "Md Md1", "unknown element 'Md'"),
        ("Na1 0.0", "Na1 nan", "not a finite number"),
        ("Na1 0.0", "Na1 inf", "not a finite number"),
        ("Na1 0.0", "Na1 1e400", "not a finite number"),
        ("Na1 0.0", "Na1 ?", "a coordinate of Na1 is '?', not a number"),
        ("Na1 0.0", "Na1 abc", "a coordinate of Na1 is 'abc', not a number"),
        ("Na1 0.0 0.0 0.0", "Na1 0.5 0.5 0.51773", r"overlap: they are 0.1 Å apart"),
        ("Na1 0.0 0.0 0.0", "Na1 0.5 0.5 0.5", r"overlap: they are 0 Å apart"),
        ("_cell_length_a 5.6402", "_cell_length_a 0", "no volume"),
        ("_cell_length_a 5.6402", "_cell_length_a -5", "no volume"),
        ("_cell_length_a 5.6402", "_cell_length_a nan", "no volume"),
        ("_cell_length_a 5.6402", "_cell_length_a 1e-5", "no volume"),
        ("_cell_angle_gamma 90", "_cell_angle_gamma 180", "not between 0 and 180"),
        ("_cell_angle_gamma 90", "_cell_angle_gamma 0", "not between 0 and 180"),
        ("_cell_angle_alpha 90\n_cell_angle_beta 90", "_cell_angle_alpha 30\n_cell_angle_beta 30", "enclose no volume"),
        ("0.0 0.0 1\nNa Na2", "0.0 0.0 0.5\nNa Na2", "partially occupied sites: Na1 (Na 0.5); --order-disordered"),
        ("0.0 0.0 1\nNa Na2", "0.0 0.0 1.5\nNa Na2", "occupancy of Na1 is 1.5, not between 0 and 1"),
        ("_atom_site_fract_z\n", "_atom_site_fract_q\n", "columns of its atom list differ"),
        ("_atom_site_fract_", "_atom_site_Cartn_", "Cartesian coordinates only"),
        ("_cell_", "_cello_", "states no unit cell"),
        ("_cell_length_a 5.6402", "_cell_length_a 5.6402\n_cell_length_a 5.7", "duplicate tag _cell_length_a"),
        ("0.0 0.0 1\nNa Na2", "0.0 0.0 1 7\nNa Na2", "cut off"),
    ],
)
def test_bad_cif(tmp_path, old, new, words):
    assert old in WITHOUT_SUM
    assert words in error_of(tmp_path, WITHOUT_SUM.replace(old, new))


def test_cif_without_atoms(tmp_path):
    assert error_of(tmp_path, WITHOUT_SUM.partition("loop_")[0]) == "is a CIF without atoms"
    assert error_of(tmp_path, "data_x\nloop_\n_atom_site_label\n_atom_site_fract_x\n")


def test_hydrogens_left_out(tmp_path):
    words = error_of(tmp_path, NACL.replace("Na4 Cl4", "Na4 Cl4 H8"))
    assert "no H among the atoms" in words
    assert "attached" in error_of(
        tmp_path, WITHOUT_SUM.replace("_occupancy", "_attached_hydrogens").replace("0.0 1\nNa Na2", "0.0 2\nNa Na2")
    )


@pytest.mark.parametrize(
    ("counts", "formula", "z", "symmetric", "good"),
    [
        ({"Na": 4, "Cl": 4}, "Cl Na", 4, True, True),
        ({"Na": 4, "Cl": 4}, "Na4 Cl4", 4, False, True),  # pymatgen's way
        ({"Na": 4, "Cl": 4}, "Na4 Cl4", 1, False, True),
        ({"Na": 4, "Cl": 4}, "Na Cl", None, False, True),
        ({"Na": 4, "Cl": 4}, "?", None, False, True),
        ({"Na": 4, "Cl": 4}, "(Na Cl)4", None, False, True),
        ({"Na": 4, "Cl": 3}, "Na Cl", None, False, False),
        ({"Na": 2, "Cl": 2}, "Na4 Cl4", None, False, False),
        ({"Na": 2, "Cl": 2}, "Na4 Cl4", 0.5, False, True),
        ({"Si": 5}, "Si8", 8, False, False),
        ({"Si": 5}, "Si", 8, False, False),
        ({"Si": 8}, "Si", 8, False, True),
        ({"Na": 1, "Cl": 1, "K": 1}, "Na Cl", None, False, False),
        ({"Fe": 4, "O": 6}, "Fe2 O3", 2, True, True),
        ({"Fe": 3, "O": 4}, "Fe0.75 O", None, True, True),
        ({"Li": 1000, "O": 499}, "Li2 O", None, False, False),
    ],
)
def test_formula(counts, formula, z, symmetric, good):
    assert (formula_problem(counts, formula, z, symmetric=symmetric) is None) is good


def test_unreadable_files(tmp_path):
    assert read_file(tmp_path / "gone.cif")[0].error == "no such file"
    (tmp_path / "dir.cif").mkdir()
    assert read_file(tmp_path / "dir.cif")[0].error == "is a folder, not a file"
    (tmp_path / "x.txt").write_text("x")
    assert "unknown suffix; known are .cif" in read_file(tmp_path / "x.txt")[0].error
    locked = tmp_path / "locked.cif"
    locked.write_text(NACL)
    locked.chmod(0)
    if os.access(locked, os.R_OK):  # root reads everything
        from cgcnn_ase.structures.readers import error_message

        assert "permission" in error_message(PermissionError(13, "Permission denied"))
    else:
        assert "permission" in read_file(locked)[0].error


def test_one_bad_file_never_costs_the_others(tmp_path):
    bad = {"a": "", "b": NACL[:300], "c": WITHOUT_SUM.replace("Na Na1", "D D1")}
    for name in "abcdef":
        (tmp_path / f"{name}.cif").write_text(bad.get(name, NACL))
    assert [r.error is None for r in read_structures(tmp_path)] == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Cu\n1.0\n0 0 0\n0 3 0\n0 0 3\nCu\n1\nDirect\n0 0 0\n", "no volume (no length along a)"),
        ("Cu\n1.0\n3 0 0\n0 3 0\n3 3 0\nCu\n1\nDirect\n0 0 0\n", "one plane"),
        ("Cu\n1.0\n3 0 0\n0 3 0\n0 0 3\nCu\n2\nDirect\n0 0 0\n", ""),
        ("Cu\n1.0\n3 0 0\n0 3 0\n0 0 3\nCu\n2\nDirect\n0 0 0\n0 0 0.01\n", "overlap"),
        ("Cu\n1.0\n3 0 0\n0 3 0\n0 0 3\nCu\n1\nDirect\nnan 0 0\n", "not a finite number"),
        ("Qq\n1.0\n3 0 0\n0 3 0\n0 0 3\nQq\n1\nDirect\n0 0 0\n", "Qq"),
    ],
)
def test_bad_poscar(tmp_path, text, words):
    assert words in error_of(tmp_path, text, "POSCAR")


# ---- checks of any structure


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (Atoms(), "has no atoms"),
        (Atoms("X", cell=[3, 3, 3], pbc=True), "dummy"),
        (Atoms([101], cell=[3, 3, 3], pbc=True), "unknown element"),
        (Atoms("Cu", pbc=True), "no length along a, b, c"),
        (Atoms("Cu", cell=[3, 3, 0], pbc=True), "no length along c"),
        (Atoms("Cu", cell=[3, 3, np.nan], pbc=True), "not finite"),
        (Atoms("Cu", cell=[[3, 0, 0], [3, 0, 0], [0, 0, 3]], pbc=[1, 1, 0]), "no volume"),
        (Atoms("Cu", [[0, 0, np.inf]]), "atom 1 has a coordinate"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.1]]), "overlap: they are 0.1 Å apart"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 4.9]], cell=[5, 5, 5], pbc=True), "overlap: they are 0.1 Å apart"),
        (Atoms("Cu", cell=[0.4, 3, 3], pbc=True), "overlaps its own image, 0.4 Å away"),
    ],
)
def test_bad_atoms(atoms, words):
    with pytest.raises(StructureError) as caught:
        check_atoms(atoms, "it")
    assert words in str(caught.value)
    assert str(caught.value).startswith("it: ")
    (record,) = read_structures([atoms])
    assert words in record.error


@pytest.mark.parametrize(
    "atoms",
    [
        molecule("C6H6"),
        Atoms("Cu"),
        fcc111("Al", (2, 2, 2), vacuum=5),
        fcc111("Al", (2, 2, 2)),
        Atoms("H2", [[0, 0, 0], [0, 0, 4.9]], cell=[5, 5, 5], pbc=[True, True, False]),
        Atoms("C2", [[0, 0, 0], [1.3, 0, 0]], cell=[2.6, 0, 0], pbc=[True, False, False]),
        Atoms("Cu", cell=[[2.5, 0, 0], [20, 2.2, 0], [-40, 30, 2.1]], pbc=True),
    ],
)
def test_good_atoms(atoms):
    assert check_atoms(atoms) is atoms


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 20, 96, 97, 120]), st.tuples(*[st.booleans()] * 3))
def test_overlaps_are_those_of_an_independent_search(seed, n, pbc):
    """Against ASE's neighbour list, in skewed cells, on both sides of the switch to a tree."""
    from ase.neighborlist import neighbor_list

    from cgcnn_ase.structures.validation import validation_error

    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2, 9, 3)) + rng.uniform(-4, 4, (3, 3))
    if abs(np.linalg.det(cell)) < 5:
        return
    atoms = Atoms([6] * n, rng.uniform(-1, 2, (n, 3)) @ cell, cell=cell, pbc=pbc)
    nearest = min(neighbor_list("d", atoms, 0.5), default=None)
    words = validation_error(atoms)
    assert (words is None) == (nearest is None)
    if nearest is not None:
        assert f"{nearest:.3g} Å" in words


# ---- disorder


def disordered():
    from pymatgen.core import Lattice, Structure

    return Structure.from_spacegroup(
        "R-3m",
        Lattice.hexagonal(2.878, 14.19),
        ["Li", {"Ni": 0.5, "Mn": 0.5}, "O"],
        [[0, 0, 0.5], [0, 0, 0], [0, 0, 0.2585]],
    )


def test_partial_occupancy_is_refused_by_name():
    (record,) = read_structures([disordered()])
    assert "Ni 0.5" in record.error
    assert "--order-disordered" in record.error
    with pytest.raises(StructureError, match="partially occupied"):
        from_object(disordered())


def test_disorder_is_ordered_on_request(tmp_path):
    structure = disordered()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure.to(filename=str(tmp_path / "d.cif"))
    assert "partially occupied sites: " in read_file(tmp_path / "d.cif")[0].error
    first, second = (read_file(tmp_path / "d.cif", order_disordered=True)[0] for _ in range(2))
    assert first.error is None
    counts = {s: list(first.atoms.symbols).count(s) for s in set(first.atoms.symbols)}
    assert counts["Ni"] == counts["Mn"]
    assert counts["Li"] == counts["Ni"] * 2
    assert counts["O"] == counts["Ni"] * 4
    assert first.atoms == second.atoms
    density = len(first.atoms) / first.atoms.get_volume()
    assert density == pytest.approx(len(structure) / structure.volume)


def test_vacancies_are_ordered_too():
    from pymatgen.core import Lattice, Structure

    structure = Structure(
        Lattice.cubic(4.0), [{"Li": 0.5}, "Co", "O", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]]
    )
    atoms = from_object(structure, order_disordered=True)
    assert atoms.get_chemical_formula(empirical=True) == "Co2LiO4"


def test_a_rare_occupant_is_kept():
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(4.0), [{"Li": 0.013, "Na": 0.987}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.warns(UserWarning, match="ordered as"):
        atoms = from_object(structure, order_disordered=True)
    assert atoms.symbols.count("Li") / atoms.symbols.count("Cl") == pytest.approx(0.013, abs=5e-4)


@pytest.mark.parametrize("options", [{"direct": True}, {"direct": False}, {"direct": True, "constrained": True}])
@pytest.mark.parametrize("scale", ["1.0", "1.07", "-130.5", "1.0 1.1 0.9"])
def test_a_poscar_is_that_of_ase_bit_for_bit(tmp_path, options, scale):
    atoms = random_crystal(np.random.default_rng(5), n_atoms=7)
    if options.pop("constrained", False):
        atoms.set_constraint(FixAtoms([0, 3]))
    write(tmp_path / "POSCAR", atoms, format="vasp", **options)
    lines = (tmp_path / "POSCAR").read_text().splitlines()
    (tmp_path / "POSCAR").write_text("\n".join([lines[0], scale, *lines[2:]]) + "\n")
    _same_bits(next(iter(read_structures(tmp_path / "POSCAR"))).unwrap(), ase_read(tmp_path / "POSCAR"))


@pytest.mark.parametrize("kind", ["plain", "slab", "energy", "info", "no cell", "two", "empty line"])
def test_extended_xyz_is_that_of_ase_bit_for_bit(tmp_path, kind):
    atoms = random_crystal(np.random.default_rng(6), n_atoms=7)
    atoms.pbc = (True, True, kind != "slab")
    if kind == "no cell":
        atoms = molecule("H2O")
    if kind == "energy":
        atoms.calc = SinglePointCalculator(atoms, energy=-3.0)
    atoms.info |= {"name": "x"} if kind == "info" else {}
    write(tmp_path / "a.extxyz", [atoms] * (1 + (kind == "two")))
    text = (tmp_path / "a.extxyz").read_text()
    (tmp_path / "a.extxyz").write_text(text + "\n" * (kind == "empty line"))
    records = list(read_structures(tmp_path / "a.extxyz"))
    assert len(records) == 1 + (kind == "two")
    expected = ase_read(tmp_path / "a.extxyz")
    _same_bits(records[-1].unwrap(), expected)
    assert records[-1].unwrap().info.get("name") == expected.info.get("name")


def _same_bits(atoms, expected):
    for name in ("positions", "numbers", "pbc"):
        assert getattr(atoms, name).tolist() == getattr(expected, name).tolist()
    assert atoms.cell.array.tolist() == expected.cell.array.tolist()

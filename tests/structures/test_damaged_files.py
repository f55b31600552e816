"""Files as people have them: damage that costs no more than itself, contradictions, labels, SHELX and POSCAR."""

import re
from collections import Counter

import gemmi
import numpy as np
import pytest

from cgcnn_ase.structures import read_file
from cgcnn_ase.structures.composition import parse_formula

HEXAGONAL = [op.triplet() for op in gemmi.find_spacegroup_by_name("R -3 m:H").operations()]
SITES = ["Li1 Li 0 0 0.5", "Ni1 Ni 0 0 0", "O1 O 0 0 0.2585"]
CELL = (2.878, 2.878, 14.19, 90, 90, 120)
LINIO2 = {"Li": 3, "Ni": 3, "O": 6}


def cif(*lines, name="'R -3 m'", ops=HEXAGONAL, sites=SITES, cell=CELL, columns="label type_symbol", more="", extra=()):
    """LiNiO2 in hexagonal axes, with other lines."""
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    text = ["data_a", *lines, *([f"_symmetry_space_group_name_H-M {name}"] if name else [])]
    text += [f"_cell_{tag} {value}" for tag, value in zip(tags, cell, strict=True)]
    if ops:
        text += ["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{op}'" for op in ops)]
    text += [
        "loop_",
        *(f"_atom_site_{column}" for column in columns.split()),
        *(f"_atom_site_fract_{x}" for x in "xyz"),
    ]
    return "\n".join([*text, *([f"_atom_site_{more}"] if more else []), *sites, *extra, ""])


def read(tmp_path, text, name="x.cif", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return read_file(path)


def counts_of(tmp_path, text, name="x.cif", **options):
    (record,) = read(tmp_path, text, name, **options)
    assert record.error is None, record.error
    return Counter(record.atoms.symbols)


def error_of(tmp_path, text, name="x.cif"):
    (record,) = read(tmp_path, text, name)
    assert record.atoms is None
    return record.error


# ---- damage elsewhere in the file


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (cif("_citation_journal_volume 385\u2013386", name="R -3 m"), None),
        (
            cif(extra=["loop_", "_pd_meas_2theta", "_pd_meas_counts", "10 5", "11"]),
            "loop of _pd_meas_2theta is not whole",
        ),
        (cif(extra=["_refine_ls_R 0.03", "_refine_ls_R 0.04"]), "_refine_ls_R stands there twice"),
        (cif("_cell_length_a 2.878"), "_cell_length_a stands there twice, with one value"),
        (cif("_publ_section_title", ";", "an open text", extra=[]), None),
        (cif("_publ_author_name 'Smith, J."), None),
        (cif(extra=["_publ_section_comment", ";", "never closed"]), None),
        (cif().replace("'x,y,z'", "x, y, z"), None),
        (
            cif(extra=["data_niggli", "_cell_length_a 2", "loop_", "_atom_site_label", "_atom_site_fract_x", "? ?"]),
            None,
        ),
        (cif().replace("_cell_length", "_cell.length").replace("_cell_angle", "_cell.angle"), None),
    ],
)
def test_damage_elsewhere_does_not_cost_the_structure(tmp_path, caplog, text, note):
    assert counts_of(tmp_path, text) == LINIO2
    assert (note is None) == (not caplog.records)
    assert note is None or note in caplog.text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp1252"])
def test_encodings(tmp_path, encoding):
    assert counts_of(tmp_path, cif("_publ_author_name 'Müller'"), encoding=encoding) == LINIO2


def test_blocks_of_one_name_are_several_structures(tmp_path):
    records = read(tmp_path, cif() + cif())
    assert [record.id for record in records] == ["x:0", "x:1"]
    assert [Counter(record.atoms.symbols) for record in records] == [LINIO2, LINIO2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (cif("_cell_length_a 3.1"), "duplicate tag _cell_length_a with different values"),
        (cif(sites=[*SITES, "O2 O 0 0"]), "cut off"),
        (cif(sites=["? ? ? ? ?"]), "is a CIF without atoms"),
    ],
)
def test_damage_of_the_structure_itself_is_refused(tmp_path, text, words):
    assert words in error_of(tmp_path, text)


# ---- contradictions


NACL = ["Na1 Na 0 0 0", "Cl1 Cl 0.5 0.5 0.5"]
CUBIC = (5.64, 5.64, 5.64, 90, 90, 90)
FM3M = [op.triplet() for op in gemmi.find_spacegroup_by_name("F m -3 m").operations()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"ops": ["x,y,z"]},
            "lists 1 symmetry operation .* which contradicts the space group F m -3 m .*192 operations",
        ),
        ({"ops": None, "lines": ["_symmetry_Int_Tables_number 166"]}, "F m -3 m and the number 166, which contradict"),
        ({"ops": None, "lines": ["_space_group_name_Hall '-P 2ybc'"]}, "which contradict each other"),
        ({"ops": FM3M, "lines": ["_cell_volume 26.6"]}, "states a volume of 26.6 .* lengths in Bohr"),
        ({"ops": FM3M, "lines": ["_exptl_crystal_density_diffrn 8.7"]}, r"density of 8.7 .* have 2.16 g/cm³"),
        ({"ops": FM3M, "lines": ["_chemical_formula_sum 'Na (Cl0.9 Br0.1)'"]}, "no Br among the atoms"),
        (
            {"ops": FM3M, "cell": (4, 4, 4, 60, 60, 60), "sites": ["Na1 Na 0 0 0", "Cl1 Cl .25 .25 .25"]},
            "192 symmetry operations that do not fit its cell",
        ),
        (
            {"ops": FM3M, "lines": ["_chemical_formula_sum 'Na Cl'", "_cell_formula_units_Z 8"]},
            "with Z = 8: the cell holds 4",
        ),
        (
            {"ops": FM3M, "lines": ["_chemical_formula_sum 'Na Cl'", "_cell_formula_units_Z 3"]},
            "with Z = 3: the cell holds 4",
        ),
        ({"ops": ["x,y,z", "-x,-y,z+1/3"], "name": None}, "operations that form no group"),
        ({"ops": ["x,y,z", "x-1,y-1,z", "x-1,y,z"]}, "contradicts the space group F m -3 m"),
    ],
)
def test_contradictions_are_refused_in_words(tmp_path, options, words):
    options = {"name": "'F m -3 m'", "sites": NACL, "cell": CUBIC, **options}
    text = cif(*options.pop("lines", ()), **options)
    assert re.search(words, error_of(tmp_path, text))


def test_most_operations_of_a_named_group_are_completed(tmp_path, caplog):
    """48 of 192 operations, of which none is a centring alone; the truth is spglib's: Li8Mn16O32."""
    import spglib

    database = spglib.get_symmetry_from_database(526)
    seen = {}
    for rotation, translation in zip(database["rotations"], database["translations"], strict=True):
        op = gemmi.Op()
        op.rot, op.tran = (rotation * 24).tolist(), np.rint(translation * 24).astype(int).tolist()
        seen.setdefault(rotation.tobytes(), op.triplet())
    sites = ["Li1 Li 0.125 0.125 0.125", "Mn1 Mn 0.5 0.5 0.5", "O1 O 0.2632 0.2632 0.2632"]
    text = cif(name="'F d -3 m'", ops=list(seen.values()), sites=sites, cell=(8.2476,) * 3 + (90, 90, 90))
    assert counts_of(tmp_path, text) == {"Li": 8, "Mn": 16, "O": 32}
    assert "lists 48 of the 192 operations" in caplog.text


def test_a_whole_list_needs_no_operations(tmp_path):
    """All atoms are listed, the identity alone is given, and the name is that of the symmetry that they have."""
    fcc = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    sites = [f"Na{k} Na {x} {y} {z}" for k, (x, y, z) in enumerate(fcc)]
    sites += [f"Cl{k} Cl {(x + 0.5) % 1} {y} {z}" for k, (x, y, z) in enumerate(fcc)]
    for ops in (["x,y,z"], None):
        assert counts_of(tmp_path, cif(name="'F m -3 m'", ops=ops, sites=sites, cell=CUBIC)) == {"Na": 4, "Cl": 4}


@pytest.mark.parametrize(
    ("formula", "elements", "amounts"),
    [
        ("LI NI O2", ["Li", "Ni", "O"], {"Li": 1, "Ni": 1, "O": 2}),
        ("LINIO2", ["Li", "Ni", "O"], {"Li": 1, "Ni": 1, "O": 2}),
        ("CO2", ["C", "O"], {"C": 1, "O": 2}),
        ("CO O", ["Co", "O"], {"Co": 1, "O": 1}),
        ("Li (Ni0.8 Co0.1 Mn0.1) O2", (), {"Li": 1, "Ni": 0.8, "Co": 0.1, "Mn": 0.1, "O": 2}),
        ("Ca(OH)2", (), {"Ca": 1, "O": 2, "H": 2}),
        ("Ca3 [Al (O H)6]2", (), {"Ca": 3, "Al": 2, "O": 12, "H": 12}),
        ("Ca S O4 , 2(H2 O)", (), {"Ca": 1, "S": 1, "O": 6, "H": 4}),
        ("CaSO4\u00b72H2O", (), {"Ca": 1, "S": 1, "O": 6, "H": 4}),
        ("Li1-x Ni O2", (), None),
    ],
)
def test_formulas(formula, elements, amounts):
    assert parse_formula(formula, elements) == (None if amounts is None else pytest.approx(amounts))


def test_z_that_is_no_whole_number_counts_nothing(tmp_path):
    lines = ["_chemical_formula_sum 'Li1 Ni1 O2'", "_cell_formula_units_Z 5.33333333333333"]
    assert counts_of(tmp_path, cif(*lines)) == LINIO2


# ---- labels


@pytest.mark.parametrize(
    ("label", "formula", "words"),
    [
        ("TM1", None, "the label TM1 names none"),
        ("TM1", "Li Ni O2", "the label TM1 names no element of the formula"),
        ("VAC1", "Li V O2", "the label VAC1 names a vacancy"),
        ("NiCoMn1", "Li Ni O2", "the label NiCoMn1 names several elements"),
        ("Ni/Co1", None, "the label Ni/Co1 names several elements"),
        ("Ni,Co1", None, "the label Ni,Co1 names several elements"),
        ("Ni1_Co1", "Li Ni O2", "the label Ni1_Co1 names several elements"),
        ("Ni.5Co.5", "Li Ni O2", "the label Ni.5Co.5 names several elements"),
        ("H2O1", None, "the label H2O1 names several elements"),
        ("W1", None, "the label W1 may stand for W or O"),
        ("W1", "Li (H2 O) O2", "the label W1 names no element of the formula"),
        ("OH1", None, "the label OH1 names none"),
        ("NI1", None, "the label NI1 may stand for Ni or N"),
    ],
)
def test_labels_that_are_no_elements_are_refused(tmp_path, label, formula, words):
    lines = [f"_chemical_formula_sum '{formula}'"] if formula else []
    sites = ["Li1 0 0 0.5", f"{label} 0 0 0", "O1 0 0 0.2585"]
    assert words in error_of(tmp_path, cif(*lines, columns="label", sites=sites))


@pytest.mark.parametrize(
    ("label", "formula", "element"),
    [
        ("Ni1", None, "Ni"),
        ("NI1", "Li Ni O2", "Ni"),
        ("NI1", "LI NI O2", "Ni"),
        ("W1", "Li W O2", "W"),
        ("TM1", "Li Tm O2", "Tm"),
    ],
)
def test_the_formula_decides_what_a_label_means(tmp_path, label, formula, element):
    lines = [f"_chemical_formula_sum '{formula}'"] if formula else []
    sites = ["Li1 0 0 0.5", f"{label} 0 0 0", "OA 0 0 0.2585"]
    assert counts_of(tmp_path, cif(*lines, columns="label", sites=sites)) == {"Li": 3, element: 3, "O": 6}


# ---- occupancies, coordinates of few digits, messages


@pytest.mark.parametrize("occupancy", ["1.01(2)", "0.998(5)", "1.003(1)"])
def test_an_occupancy_of_one_within_its_uncertainty_is_one(tmp_path, caplog, occupancy):
    sites = [f"Li1 Li 0 0 0.5 {occupancy}", "Ni1 Ni 0 0 0 1", "O1 O 0 0 0.2585 1"]
    assert counts_of(tmp_path, cif(more="occupancy", sites=sites)) == LINIO2
    assert f"the occupancy {occupancy} of Li1 is taken as 1" in caplog.text


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        (["Li1 Li 0 0 0.5 0.90(2)"], "partially occupied sites: Li1 (Li 0.9)"),
        (["Li1 Li 0 0 0.5 1.2(2)"], None),
        (["Li1 Li 0 0 0.5 1.02"], "the occupancy of Li1 is 1.02"),
        (
            ["Li1 Li 0 0 0.5 0.99(2)", "Ni2 Ni 0 0 0.5 0.01(2)"],
            "partially occupied sites: Li1 (Li 0.99), Ni2 (Ni 0.01)",
        ),
    ],
)
def test_other_occupancies(tmp_path, sites, words):
    text = cif(more="occupancy", sites=[*sites, "Ni1 Ni 0 0 0 1", "O1 O 0 0 0.2585 1"])
    if words is None:
        assert counts_of(tmp_path, text) == LINIO2
    else:
        assert words in error_of(tmp_path, text)


@pytest.mark.parametrize("third", ["0.333", "0.3333", "0.33333"])
def test_thirds_to_three_digits(tmp_path, third):
    ops = [op.triplet() for op in gemmi.find_spacegroup_by_name("P 63/m m c").operations()]
    site = f"Mg1 Mg {third} {1 - float(third):.{len(third) - 2}f} 0.25"
    text = cif(name="'P 63/m m c'", ops=ops, sites=[site], cell=(3.2094, 3.2094, 5.2108, 90, 90, 120))
    assert counts_of(tmp_path, text) == {"Mg": 2}


def test_messages_name_the_labels_of_the_file(tmp_path):
    for ops, name in ((HEXAGONAL, "'R -3 m'"), (None, None)):
        words = error_of(tmp_path, cif(ops=ops, name=name, sites=[*SITES, "Ni7 Ni 0 0 0.02"]))
        assert "Ni1 (Ni)" in words
        assert "Ni7 (Ni)" in words


# ---- SHELX

RUTILE = """TITL rutile in P42/mnm
CELL 0.71073 4.5937 4.5937 2.9587 90 90 90
ZERR 2 0.0001 0.0001 0.0001 0 0 0
LATT 1
SYMM -X, -Y, Z
SYMM -Y+1/2, X+1/2, Z+1/2
SYMM Y+1/2, -X+1/2, Z+1/2
SYMM -X+1/2, Y+1/2, -Z+1/2
SYMM 0.5+X, 0.5-Y, 0.5-Z
SYMM Y, X, -Z
SYMM -Y, -X, -Z
SFAC Ti O
UNIT 2 4
FVAR 1.0 0.3053
REM Ti2 1 0.1 0.1 0.1 11.0
TI1 1 10.000000 0.000000 0.000000 10.12500 0.00500 =
   0.005 0.0 0.0 0.0
O1 2 21.0 21.0 10.0 10.25000 0.00500
Q1 1 0.25 0.25 0.25 11.0 0.05 1.2
HKLF 4
END
"""


def test_shelx_with_symmetry_free_variables_and_special_positions(tmp_path):
    (record,) = read(tmp_path, RUTILE, "x.res")
    expected = cif(
        name="'P 42/m n m'",
        ops=[op.triplet() for op in gemmi.find_spacegroup_by_name("P 42/m n m").operations()],
        sites=["Ti1 Ti 0 0 0", "O1 O 0.3053 0.3053 0"],
        cell=(4.5937, 4.5937, 2.9587, 90, 90, 90),
    )
    (reference,) = read(tmp_path, expected)
    assert Counter(record.atoms.symbols) == {"Ti": 2, "O": 4}
    np.testing.assert_allclose(
        np.sort(record.atoms.get_all_distances(mic=True), axis=None),
        np.sort(reference.atoms.get_all_distances(mic=True), axis=None),
        atol=1e-9,
    )


@pytest.mark.parametrize(
    ("latt", "n"),
    [(-1, 1), (1, 2), (-2, 2), (2, 4), (-3, 3), (3, 6), (-4, 4), (4, 8), (-5, 2), (-6, 2), (-7, 2), (7, 4)],
)
def test_lattice_types_of_shelx(tmp_path, latt, n):
    text = f"TITL x\nCELL 1 9 9 11 90 90 120\nLATT {latt}\nSFAC Li\nUNIT {n}\nLi1 1 0.07 0.11 0.13 11.0\nEND\n"
    assert counts_of(tmp_path, text, "x.res") == {"Li": n}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("10.12500", "10.06250", "partially occupied sites: TI1 (Ti 0.5)"),
        ("LATT 1", "LATT 9", "LATT 9 is no lattice type"),
        ("SFAC Ti O", "SFAC Qq O", "unknown element 'Qq'"),
        ("O1 2", "O1 3", "O1 is of the element number 3, but SFAC names 2"),
        ("21.0 21.0", "31.0 21.0", "needs the free variable 3"),
        ("SYMM Y, X, -Z\n", "", "form no group"),
    ],
)
def test_bad_shelx(tmp_path, old, new, words):
    assert words in error_of(tmp_path, RUTILE.replace(old, new), "x.res")


def test_airss_keeps_its_energy(tmp_path):
    text = (
        "TITL Al-1 0.01 16.4 -107.25 0.00 0.00 1 (Fm-3m) n - 3\nCELL 1.54 2.86 2.86 2.86 60 60 60\nLATT -1\nSFAC Al\n"
        "Al 1 0.5 0.5 0.5 1.0\nEND\n"
    )
    (record,) = read(tmp_path, text, "x.res")
    assert str(record.atoms.symbols) == "Al"
    assert record.atoms.info["energy"] == -107.25


# ---- POSCAR

POSCAR = "NiO\n1.0\n4.2 0 0\n0 4.2 0\n0 0 4.2\nNi O\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (".5 .5 .5\n", "", "is cut off: it counts 2 atoms and lists 1"),
        (".5 .5 .5\n", ".5 .5 .5\n.2 .2 .2\n", "counts 2 atoms and lists 3"),
        ("NiO\n", "my oxide\n", "names no elements"),
        ("Ni O\n1 1", "Ni O\n1 1 1", "names 2 elements (Ni O) but gives 3 numbers of atoms"),
        (".5 .5 .5", ".5 .5 x", "line 10: 'x' in a position is not a number"),
        ("4.2 0 0\n", "4.2 0\n", "line 3: a cell vector needs 3 numbers, and has 2"),
        ("Direct", "Fractional", "'Fractional' is neither Direct nor Cartesian"),
    ],
)
def test_bad_poscars_are_told_what_is_wrong(tmp_path, old, new, words):
    text = POSCAR.replace(old, new)
    if "my oxide" in text:
        text = text.replace("Ni O\n", "")
    assert words in error_of(tmp_path, text, "POSCAR")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".5 .5 .5", ".5d0 5.0D-1 .5"),
        ("Ni O\n1 1", "Ni\nO\n1\n1"),
        (".5 .5 .5\n", ".5 .5 .5\n\n0 0 0\n0 0 0\n"),
        (".5 .5 .5\n", ".5 .5 .5\n\nCartesian\n0 0 0\n0 0 0\n"),
        ("Direct\n0 0 0\n.5 .5 .5", "Selective dynamics\nDirect\n0 0 0 T T F\n.5 .5 .5 T T T"),
        ("Ni O\n1 1\n", "Ni_pv/abc O_s\n1 1 ! Ni O\n"),
    ],
)
def test_liberties_of_poscars(tmp_path, old, new):
    (record,) = read(tmp_path, POSCAR.replace(old, new), "POSCAR")
    assert Counter(record.atoms.symbols) == {"Ni": 1, "O": 1}
    np.testing.assert_allclose(record.atoms.get_scaled_positions(), [[0, 0, 0], [0.5, 0.5, 0.5]], atol=1e-12)

"""Every setting of every space group, in every spelling, without operations: the right atoms or a refusal."""

import re
import warnings
from collections import Counter
from functools import cache

import gemmi
import numpy as np
import pytest

from cgcnn_ase.structures.cif import read_block
from cgcnn_ase.structures.cif_text import blocks_with_atoms
from cgcnn_ase.structures.space_groups import settings_by_name

# general positions, so that every operation makes an atom of its own
SITES = {"Li": (0.2013, 0.4763, 0.4449), "O": (0.0899, 0.2914, 0.3403)}


@cache
def setting(hall_number):
    """The names and the operations of one of spglib's 530 settings."""
    import spglib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = spglib.get_spacegroup_type(hall_number)
        database = spglib.get_symmetry_from_database(hall_number)
    return kind, database["rotations"], database["translations"]


@cache
def cell(hall_number):
    """A cell that the operations fit and no higher symmetry does, from the mean of the images of a metric tensor."""
    rotations = setting(hall_number)[1]
    metric = np.array([[270.0, 13, 21], [13, 380, 17], [21, 17, 530]])
    metric = np.mean([rotation.T @ metric @ rotation for rotation in rotations], axis=0)
    a, b, c = np.sqrt(np.diag(metric))
    angles = np.degrees(np.arccos([metric[1, 2] / b / c, metric[0, 2] / a / c, metric[0, 1] / a / b]))
    return [float(x) for x in np.round([a, b, c, *angles], 7)]


@cache
def images(hall_number):
    """The atoms that spglib's operations make of the sites."""
    _, rotations, translations = setting(hall_number)
    return {(symbol, *row) for symbol, frac in SITES.items() for row in places(rotations @ frac + translations)}


def places(frac):
    """Fractional coordinates in steps of 1e-5 of the cell."""
    return map(tuple, (np.rint(frac * 1e5).astype(int) % 100_000).tolist())


def text_of(parameters, lines, sites=SITES):
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    head = [f"_cell_{tag} {value!r}" for tag, value in zip(tags, parameters, strict=True)]
    loop = ["loop_", "_atom_site_label", *(f"_atom_site_fract_{x}" for x in "xyz")]
    rows = [f"{symbol}1 {x} {y} {z}" for symbol, (x, y, z) in sites.items()]
    return "\n".join(["data_x", *lines, *head, *loop, *rows, ""])


def read(text):
    (block,), rare, _ = blocks_with_atoms(text)
    return read_block(block, rare=rare).atoms


def atoms_of(text):
    atoms = read(text)
    return {(symbol, *row) for symbol, row in zip(atoms.symbols, places(atoms.get_scaled_positions()), strict=True)}


def spellings(kind):
    """A name in the ways that programs write it: (kind of spelling, tag, name)."""
    suffix = f":{kind.choice}" if kind.choice[:1] in ("1", "2", "H", "R") and kind.choice else ""
    bracketed = re.sub(r"_(\d)", r"(\1)", kind.international_full).replace(" ", "")
    name = "_symmetry_space_group_name_H-M"
    yield "full", name, kind.international_full.replace("_", "") + suffix
    yield "short", name, kind.international_short.replace("_", "") + suffix
    yield "Hall", "_space_group_name_Hall", kind.hall_symbol
    yield "underscored", "_space_group_name_H-M_alt", kind.international_full + suffix
    yield "bracketed", name, bracketed + suffix


@pytest.mark.parametrize("one", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_setting_in_every_spelling(one):
    """Each setting in one of the spellings, in turn; slow: in all of them."""
    by_short = {}
    for hall_number in range(1, 531):
        by_short.setdefault(setting(hall_number)[0].international_short, []).append(hall_number)
    tried, refused, wrong = Counter(), [], []
    for hall_number in range(1, 531):
        kind = setting(hall_number)[0]
        listed = list(spellings(kind))
        for spelling, tag, name in listed[hall_number % 5 :][:1] if one else listed:
            tried[spelling] += 1
            try:
                atoms = atoms_of(text_of(cell(hall_number), [f"{tag} '{name}'"]))
            except ValueError as error:
                refused.append((hall_number, name, str(error)))
                continue
            # spglib's short symbol is that of the standard setting: any with this symbol and cell is meant by it
            meant = by_short[kind.international_short] if spelling == "short" else [hall_number]
            if not any(atoms == images(other) for other in meant):
                wrong.append((hall_number, spelling, name, len(atoms)))
    assert sum(tried.values()) == (530 if one else 5 * 530)
    assert wrong == []
    assert len(refused) <= 0.02 * sum(tried.values()), refused[:10]


@pytest.mark.parametrize(
    ("spelling", "hall"),
    [
        ("P 2_1/c", "-P 2ybc"),
        ("P2(1)/c", "-P 2ybc"),
        ("p 21/C", "-P 2ybc"),
        ("P2~1~/c", "-P 2ybc"),
        ("P 1 21/c 1 (No. 14)", "-P 2ybc"),
        ("P 21/b", "-P 2bc"),
        ("P6(3)/mmc", "-P 6c 2c"),
        ("R3-c", '-R 3 2"c'),
        ("R -3 m H", '-R 3 2"'),
        ("R -3 m R", "-P 3* 2"),
        ("H -3 m", '-R 3 2"'),
        ("F d -3 m Z", "-F 4vw 2vw 3"),
        ("Fd-3mS", "F 4d 2 3 -1d"),
        ("F d 3 m :1", "F 4d 2 3 -1d"),
        ("I 41/a m d S", "I 4bw 2bw -1bw"),
        ("C m c e", "-C 2bc 2"),
        ("P 21/n 21/m 21/a", "-P 2ac 2n"),
        ("R \\bar{3} m :H", '-R 3 2"'),
        ("R 3\u0305 m :H", '-R 3 2"'),
        ("P n m a :cab", "-P 2c 2ab"),
    ],
)
def test_spellings_of_programs(spelling, hall):
    """Against gemmi's operations of the Hall symbol in International Tables."""
    first = gemmi.symops_from_hall(settings_by_name(spelling)[0].hall)
    assert {op.triplet() for op in first} == {op.triplet() for op in gemmi.symops_from_hall(hall)}


@pytest.mark.parametrize(
    "name", ["P 21/q", "Xyz", "P 7", "F d -3 n m", "231", "P 21/c (No. 15)", "R -3 m K", "P 3 2", "P 31 2"]
)
def test_a_name_that_is_not_understood_is_refused_not_read_as_p1(name):
    for tag in ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_ref", "_symmetry_group"):
        with pytest.raises(ValueError, match="states a space group that is not understood"):
            read(text_of([5, 5, 5, 90, 90, 90], [f"{tag} '{name}'"]))


@pytest.mark.parametrize(
    "tag", ["_space_group_name_H-M_ref", "_space_group_name_H-M_full", "_space_group.name_H-M_alt"]
)
def test_other_tags_of_the_name(tag):
    atoms = read(text_of([4.2, 4.2, 4.2, 90, 90, 90], [f"{tag} 'F m -3 m'"], {"Ni": (0, 0, 0), "O": (0.5, 0.5, 0.5)}))
    assert Counter(atoms.symbols) == {"Ni": 4, "O": 4}


@pytest.mark.parametrize(
    ("name", "parameters", "sites", "formula", "counts"),
    [
        # CaO2 with the axis along c: O at (x, y, 1/2) and (-x, -y, 1/2) by hand
        ("P 2/m", [5, 6.1, 7.3, 90, 90, 101], {"Ca": (0, 0, 0), "O": (0.3, 0.2, 0.5)}, None, {"Ca": 1, "O": 2}),
        ("P 2/m", [5, 6.1, 7.3, 101, 90, 90], {"Ca": (0, 0, 0), "O": (0.5, 0.3, 0.2)}, None, {"Ca": 1, "O": 2}),
        # primitive cells of centred groups, all atoms listed
        ("F m -3 m", [2.97, 2.97, 2.97, 60, 60, 60], {"Ni": (0, 0, 0), "O": (0.5, 0.5, 0.5)}, None, {"Ni": 1, "O": 1}),
        ("I m -3 m", [2.48, 2.48, 2.48, 109.4712206] + [109.4712206] * 2, {"Fe": (0, 0, 0)}, None, {"Fe": 1}),
        # ... and of spinel, MgAl2O4 by origin 2, of which the formula says that atoms are to be generated
        (
            "F d -3 m:2",
            [8.0806 / 2**0.5] * 3 + [60, 60, 60],
            {"Mg": (0.125, 0.125, 0.125), "Al": (0.5, 0.5, 0.5), "O": (0.2624, 0.2624, 0.2624)},
            "'Mg Al2 O4'\n_cell_formula_units_Z 2",
            {"Mg": 2, "Al": 4, "O": 8},
        ),
        # magnesium in orthohexagonal axes, b = √3 a
        (
            "P 63/m m c",
            [3.2094, 3.2094 * 3**0.5, 5.2108, 90, 90, 90],
            {"Mg": (0.0, 1 / 3, 0.25)},
            "Mg\n_cell_formula_units_Z 4",
            {"Mg": 4},
        ),
    ],
)
def test_the_setting_that_fits_the_cell_is_taken(name, parameters, sites, formula, counts):
    lines = [f"_symmetry_space_group_name_H-M '{name}'"] + ([f"_chemical_formula_sum {formula}"] if formula else [])
    assert Counter(read(text_of(parameters, lines, sites)).symbols) == counts


@pytest.mark.parametrize("name", ["F m -3 m", "P 63/m m c", "P 4/m m m"])
def test_a_group_that_does_not_fit_the_cell_is_refused(name):
    with pytest.raises(ValueError, match="do not fit its cell"):
        read(text_of([4.1, 4.7, 5.3, 90, 90, 90], [f"_symmetry_space_group_name_H-M '{name}'"]))
    triplets = [f"'{op.triplet()}'" for op in gemmi.find_spacegroup_by_name(name).operations()]
    with pytest.raises(ValueError, match=f"{len(triplets)} symmetry operations that do not fit its cell"):
        read(text_of([4.1, 4.7, 5.3, 90, 90, 90], ["loop_", "_symmetry_equiv_pos_as_xyz", *triplets]))

"""Cathodes by name: the lattice is the published one, the composition is what was asked, or it is said what can be."""

import ase.io
import numpy as np
import pytest
import spglib
from ase.neighborlist import neighbor_list

from cgcnn_ase.cathodes import build_cathode, cathode_names, cathodes, parse_cathode
from cgcnn_ase.structures.arrangement import whole_numbers
from cgcnn_ase.structures.composition import oxidation_states
from cgcnn_ase.structures.supercells import compact_matrix


def bonds(atoms, a, b, cutoff):
    """Distances of neighbours of two kinds, each bond once a direction, sorted."""
    i, j, d = neighbor_list("ijd", atoms, cutoff)
    symbols = np.array(atoms.get_chemical_symbols())
    return np.sort(d[(symbols[i] == a) & (symbols[j] == b)])


def space_group(atoms):
    return spglib.get_spacegroup((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=1e-3)


# The end members


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("LiNiO2", "R-3m (166)"),
        ("LiCoO2", "R-3m (166)"),
        ("LiAlO2", "R-3m (166)"),
        ("LiMnO2", "C2/m (12)"),
        ("LiFePO4", "Pnma (62)"),
        ("LiMn2O4", "Fd-3m (227)"),
        ("Li2MnO3", "C2/m (12)"),
    ],
)
def test_space_group_of_end_members_by_spglib(name, symbol):
    assert space_group(build_cathode(name, supercell=1)) == symbol
    assert space_group(build_cathode(name, n_atoms=60)) == symbol


@pytest.mark.parametrize(
    ("name", "metal", "nearest", "count", "published"),
    [
        ("LiNiO2", "Ni", 2.2, 6, 1.974),
        ("LiCoO2", "Co", 2.2, 6, 1.921),  # Akimoto et al.: 1.9213 Å
        ("LiAlO2", "Al", 2.2, 6, 1.91),
        ("LiMnO2", "Mn", 2.1, 4, 1.92),
        ("LiMn2O4", "Mn", 2.2, 6, 1.96),
        ("Li2MnO3", "Mn", 2.2, 6, 1.91),
        ("LiFePO4", "P", 1.8, 4, 1.54),
    ],
)
def test_bonds_are_those_published(name, metal, nearest, count, published):
    atoms = build_cathode(name, supercell=1)
    result = bonds(atoms, metal, "O", nearest)
    assert len(result) == count * atoms.get_chemical_symbols().count(metal)
    assert result.mean() == pytest.approx(published, abs=0.015)


def test_lithium_is_where_lithium_belongs():
    layered, spinel = build_cathode("LiNiO2", supercell=1), build_cathode("LiMn2O4", supercell=1)
    assert len(bonds(layered, "Li", "O", 2.3)) == 6 * 3  # octahedral
    assert len(bonds(spinel, "Li", "O", 2.3)) == 4 * 8  # tetrahedral


def test_lattice_parameters_come_back_from_the_cell():
    assert build_cathode("LiCoO2", supercell=(2, 3, 1)).cell.cellpar() == pytest.approx(
        [2 * 2.8161, 3 * 2.8161, 14.0536, 90, 90, 120]
    )
    volume = 3 * 2.878**2 * np.sqrt(3) / 2 * 14.19 / 9  # of one formula unit, a third of the hexagonal cell
    atoms = build_cathode("LiNiO2")
    assert atoms.get_volume() / atoms.get_chemical_symbols().count("Ni") == pytest.approx(volume)


def test_vegard_lies_between_the_end_members_and_near_what_was_measured():
    a, c = parse_cathode("LiNi0.5Co0.5O2").lattice.cell[0], parse_cathode("LiNi0.5Co0.5O2").lattice.cell[2]
    assert a == pytest.approx((2.878 + 2.8161) / 2)
    assert c == pytest.approx((14.19 + 14.0536) / 2)
    # LiNi0.5Mn0.5O2 is what the hypothetical LiMnO2 was made from; NCM111: Yabuuchi and Ohzuku, 2003
    assert parse_cathode("LiNi0.5Mn0.5O2").lattice.cell[:3] == pytest.approx((2.892, 2.892, 14.301))
    assert parse_cathode("NCM111").lattice.cell[0] == pytest.approx(2.862, abs=0.01)
    assert parse_cathode("NCM111").lattice.cell[2] == pytest.approx(14.227, abs=0.05)
    ni_o = bonds(build_cathode("NCM811", supercell=(5, 2, 1)), "Ni", "O", 2.3)
    assert 1.90 < ni_o.min() <= ni_o.max() < 2.05


# Compositions


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("NCM811", {"Ni": 0.8, "Co": 0.1, "Mn": 0.1}),
        ("NCM523", {"Ni": 0.5, "Co": 0.2, "Mn": 0.3}),
        ("NMC532", {"Ni": 0.5, "Co": 0.2, "Mn": 0.3}),  # the other order of the letters
        ("ncm622", {"Ni": 0.6, "Co": 0.2, "Mn": 0.2}),
        ("NCM111", {"Ni": 1 / 3, "Co": 1 / 3, "Mn": 1 / 3}),
        ("NCM900505", {"Ni": 0.9, "Co": 0.05, "Mn": 0.05}),
        ("NCA", {"Ni": 0.8, "Co": 0.15, "Al": 0.05}),
        ("LiNi0.8Mn0.1Co0.1O2", {"Ni": 0.8, "Co": 0.1, "Mn": 0.1}),
    ],
)
def test_composition_is_exact_by_counting(name, shares):
    atoms = build_cathode(name)
    symbols = atoms.get_chemical_symbols()
    n = symbols.count("Li")
    assert symbols.count("O") == 2 * n
    assert {metal: symbols.count(metal) / n for metal in shares} == pytest.approx(shares)
    assert set(symbols) == {"Li", "O", *shares}
    assert 50 <= len(atoms) <= 200


def test_lithium_vacancies_by_counting():
    atoms = build_cathode("NCM811", li_vacancy=0.1)
    symbols = atoms.get_chemical_symbols()
    assert symbols.count("Li") / (symbols.count("O") / 2) == pytest.approx(0.9)
    assert atoms.info["li_content"] == pytest.approx(0.9)
    assert atoms.info["composition"] == "Li0.9Ni0.8Co0.1Mn0.1O2"
    assert "Li" not in build_cathode("LiCoO2", supercell=1, li_vacancy=1).get_chemical_symbols()
    assert build_cathode("Li2MnO3", supercell=1, li_vacancy=0.5).info["composition"] == "LiMnO3"


def test_what_is_realised_stands_beside_what_was_asked():
    atoms = build_cathode("LiNi0.8Co0.1Mn0.1O2", supercell=(3, 3, 1), tolerance=0.03)
    assert atoms.info["composition_asked"] == "LiNi0.8Co0.1Mn0.1O2"
    assert atoms.info["composition"] == "LiNi0.7778Co0.1111Mn0.1111O2"
    assert atoms.info["supercell"] == "3x3x1"


def test_a_supercell_that_cannot_hold_it_names_one_that_can():
    with pytest.raises(ValueError, match=r"3x3x1 cannot hold LiNi0.8Co0.1Mn0.1O2 within 0.02 .* n_atoms=40$"):
        build_cathode("NCM811", supercell=(3, 3, 1))
    assert build_cathode("NCM811", n_atoms=40).info["composition"] == "LiNi0.8Co0.1Mn0.1O2"
    with pytest.raises(ValueError, match="cannot hold LiNiO2 with 0.01 of its Li removed"):
        build_cathode("LiNiO2", n_atoms=100, li_vacancy=0.01, tolerance=0.001)


def test_whole_numbers_add_up():
    assert whole_numbers({"Ni": 1 / 3, "Co": 1 / 3, "Mn": 1 / 3}, 10) == {"Ni": 4, "Co": 3, "Mn": 3}
    assert whole_numbers({"Ni": 0.8, "Co": 0.15, "Al": 0.05}, 20) == {"Ni": 16, "Co": 3, "Al": 1}


def test_info_survives_extxyz(tmp_path):
    atoms = build_cathode("LiMnO2", li_vacancy=0.25, n_atoms=64)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    back = ase.io.read(tmp_path / "a.extxyz")
    assert back.info == atoms.info
    assert back.get_chemical_symbols() == atoms.get_chemical_symbols()


@pytest.mark.parametrize(
    ("counts", "states"),
    [
        ({"Li": 1, "Ni": 1, "O": 2}, {"Ni": 3}),
        ({"Li": 1, "Mn": 2, "O": 4}, {"Mn": 3.5}),
        ({"Li": 2, "Ni": 1, "Mn": 1, "O": 4}, {"Ni": 2, "Mn": 4}),
        ({"Li": 10, "Ni": 8, "Co": 1, "Mn": 1, "O": 20}, {"Ni": 2.875, "Co": 3, "Mn": 4}),
        ({"Ni": 8, "Co": 1, "Mn": 1, "O": 20}, {"Ni": 4, "Co": 4, "Mn": 4}),
        ({"Fe": 1, "P": 1, "O": 4}, {"Fe": 3}),
        ({"Li": 1, "Mn": 1, "O": 3}, {"Mn": 4, "O": -5 / 3}),  # oxygen pays when no metal is left
    ],
)
def test_oxidation_states_are_neutral_and_those_of_the_textbook(counts, states):
    result = oxidation_states(counts)
    assert sum(result[symbol] * n for symbol, n in counts.items()) == pytest.approx(0, abs=1e-9)
    assert {symbol: result[symbol] for symbol in states} == pytest.approx(states)


def test_oxidation_states_that_do_not_exist():
    with pytest.raises(ValueError, match="too few anions"):
        oxidation_states({"Li": 9, "Ni": 1, "O": 2})
    with pytest.raises(ValueError, match="too few cations"):
        oxidation_states({"Li": 1, "O": 9})
    with pytest.raises(ValueError, match="Xe"):
        oxidation_states({"Xe": 1, "O": 1})


# Supercells and seeds


def test_the_compact_supercell_is_the_cubic_one_where_there_is_one():
    fcc = 2.0 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    cell = compact_matrix(np.eye(3) * 4, 8) @ (np.eye(3) * 4)
    assert sorted(np.linalg.norm(cell, axis=1)) == pytest.approx([8, 8, 8])
    for n in (4, 8, 27):
        cell = compact_matrix(fcc, n) @ fcc
        assert np.linalg.det(cell) == pytest.approx(n * np.linalg.det(fcc))
    # eight fcc cells doubled along each axis: images 2 * sqrt(8) apart, the densest packing there is
    assert np.linalg.norm(compact_matrix(fcc, 8) @ fcc, axis=1).min() == pytest.approx(2 * np.sqrt(8))


@pytest.mark.parametrize("n", [7, 20, 30])
def test_no_diagonal_supercell_is_more_compact(n):
    cell = np.asarray(parse_cathode("LiNiO2").lattice.atoms(primitive=True).cell)

    def shortest(vectors):
        grid = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3), axis=-1).reshape(-1, 3)
        return np.linalg.norm(grid[np.any(grid != 0, axis=1)] @ vectors, axis=1).min()

    best = shortest(compact_matrix(cell, n) @ cell)
    diagonal = [(a, b, n // a // b) for a in range(1, n + 1) for b in range(1, n + 1) if n % (a * b) == 0]
    assert all(best >= shortest(np.diag(d) @ cell) - 1e-9 for d in diagonal)


def test_same_seed_same_structure_and_different_ones_for_different_seeds():
    one, again, other = (build_cathode("NCM622", li_vacancy=0.2, seed=s) for s in (1, 1, 2))
    assert one == again
    assert one != other


def test_several_are_different_and_can_be_made_again():
    many = list(cathodes("NCM811", num=6, li_vacancy=0.1))
    assert len(many) == 6
    assert len({atoms.numbers.tobytes() + atoms.positions.tobytes() for atoms in many}) == 6
    assert build_cathode("NCM811", li_vacancy=0.1, seed=many[3].info["seed"]) == many[3]


def test_symmetry_counts_as_the_same():
    """One vacancy among equivalent sites is one structure, two in a small cell are a few."""
    with pytest.raises(ValueError, match="only 1 different structure"):
        list(cathodes("LiCoO2", num=2, supercell=(2, 2, 1), li_vacancy=1 / 12))
    result = cathodes("LiCoO2", num=9, supercell=(2, 1, 1), li_vacancy=1 / 3)  # 15 ways, fewer orbits
    with pytest.raises(ValueError, match="ask for fewer"):
        list(result)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "NCX"}, "unknown cathode 'NCX'; known are Li2MnO3, .*NCM811"),
        ({"name": ""}, "unknown cathode"),
        ({"name": "NCM812"}, "add up to 11"),
        ({"name": "LiNi0.8Co0.3O2"}, r"add up to 1\.1; they must add up to 1"),
        ({"name": "LiNi0.5Co0.3O2"}, r"add up to 0\.8"),
        ({"name": "LiNi1.1Co-0.1O2"}, "negative amount"),
        ({"name": "LiFeO2"}, "has Fe; metals that can mix are Ni, Co, Mn, Al"),
        ({"name": "Li0.5CoO2"}, "li_vacancy"),
        ({"name": "LiO2"}, "unknown cathode"),
        ({"name": "NCA", "li_vacancy": 1.5}, r"li_vacancy 1\.5: .* 0 to 1"),
        ({"name": "NCA", "li_vacancy": -0.1}, r"li_vacancy -0\.1"),
        ({"name": "NCA", "li_vacancy": float("nan")}, "li_vacancy nan"),
        ({"name": "NCA", "ordering": "best"}, "unknown ordering 'best'; allowed: random, ewald, sqs, lowest"),
        ({"name": "NCA", "li_removal": "best"}, "unknown li_removal 'best'; allowed: random, ewald, lowest"),
        ({"name": "NCA", "ordering": "lowest"}, "needs a model"),
        ({"name": "NCA", "tolerance": -1}, "tolerance -1"),
        ({"name": "NCA", "n_atoms": 0}, "n_atoms must be at least 1, not 0"),
        ({"name": "NCA", "supercell": (1, 0, 1)}, "1x0x1: the repeats"),
        ({"name": "NCA", "supercell": 0}, "0x0x0: the repeats"),
        ({"name": "NCA", "supercell": (2, 2)}, "2x2: the repeats are three whole numbers"),
        ({"name": "NCA", "n_atoms": 10_000}, "at most 512; beyond, give the supercell"),
    ],
)
def test_bad_input_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        build_cathode(**options)


def test_more_structures_than_there_are():
    with pytest.raises(ValueError, match="1 way only"):
        cathodes("LiNiO2", num=2)
    with pytest.raises(ValueError, match="num must be at least 1, not 0"):
        cathodes("NCA", num=0)


def test_every_listed_name_builds():
    for name in cathode_names():
        assert len(build_cathode(name, n_atoms=60)) >= 30

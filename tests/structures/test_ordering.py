"""Ordering of disordered crystals: composition by counting, energies by pymatgen, and what is said about it."""

import time
import warnings
from itertools import combinations

import numpy as np
import pytest
from pymatgen.analysis.ewald import EwaldSummation
from pymatgen.core import Lattice, Structure

from cgcnn_ase.structures import StructureError, from_object, read_file, read_structures
from cgcnn_ase.structures.composition import likely_charges, oxidation_states
from cgcnn_ase.structures.electrostatics import ewald_matrix
from cgcnn_ase.structures.ordering import OrderingOptions, OrderingWarning

QUICK = OrderingOptions(n_atoms=40)


def layered(rows, *, header="_symmetry_space_group_name_H-M 'R -3 m'\n_symmetry_Int_Tables_number 166"):
    """A CIF of the alpha-NaFeO2 structure with these rows: label, type symbol, z, occupancy."""
    lines = ["data_made_up", "_cell_length_a 2.872", "_cell_length_b 2.872", "_cell_length_c 14.20",
             "_cell_angle_alpha 90", "_cell_angle_beta 90", "_cell_angle_gamma 120", header, "loop_",
             *(f"_atom_site_{tag}" for tag in ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")),
             *(f"{label} {symbol} 0 0 {z} {occupancy}" for label, symbol, z, occupancy in rows)]  # fmt: skip
    return "\n".join(lines) + "\n"


OXYGEN = ("O1", "O", "0.2415", "1")
EXCHANGED = [
    ("Li1", "Li+", "0", "0.966(3)"), ("Ni2", "Ni2+", "0", "0.034(3)"), ("Ni1", "Ni3+", "0.5", "0.766"),
    ("Li2", "Li+", "0.5", "0.034"), ("Co1", "Co3+", "0.5", "0.1"), ("Mn1", "Mn4+", "0.5", "0.1"),
    ("O1", "O2-", "0.2415", "1."),
]  # fmt: skip


def ordered(tmp_path, text, options=True):
    """The one structure of a file, and the warning."""
    (tmp_path / "a.cif").write_text(text)
    with pytest.warns(OrderingWarning) as caught:
        (record,) = read_file(tmp_path / "a.cif", order_disordered=options)
    (note,) = (str(warning.message) for warning in caught if warning.category is OrderingWarning)
    return record.unwrap(), note


def amounts(atoms):
    """Atoms per two oxygens."""
    symbols = atoms.get_chemical_symbols()
    return {s: 2 * symbols.count(s) / symbols.count("O") for s in dict.fromkeys(symbols)}


# Composition, and what is said of it


def test_ncm811_is_exact(tmp_path):
    rows = [("Li1", "Li+", "0", "1."), ("Ni1", "Ni3+", "0.5", "0.8"), ("Co1", "Co3+", "0.5", "0.1"),
            ("Mn1", "Mn4+", "0.5", "0.1"), OXYGEN]  # fmt: skip
    atoms, note = ordered(tmp_path, layered(rows))
    assert atoms.get_chemical_formula() == "Co3Li30Mn3Ni24O60"
    assert "the occupancies are exact" in note
    assert "a.cif: ordered as Li30Ni24Co3Mn3O60 (lowest Ewald energy; charges: mean formal charges" in note
    assert atoms.info["ordering_rounding"] == 0


def test_exchange_is_rounded_site_by_site_and_said(tmp_path):
    atoms, note = ordered(tmp_path, layered(EXCHANGED))
    assert atoms.get_chemical_formula() == "Co3Li30Mn3Ni24O60"
    assert "charges: of the file, which leave" in note
    assert "occupancies are rounded: Li1/Ni2: Li 0.966 -> 29/30, Ni 0.034 -> 1/30; Ni1/Li2/Co1/Mn1: Ni 0.766" in note
    assert atoms.info["ordering_rounding"] == pytest.approx(23 / 30 - 0.766)
    assert atoms.info["ordering_sites"].count("->") == 6
    lithium_layers = np.round(atoms.get_scaled_positions()[atoms.symbols == "Ni"] @ atoms.cell[:, 2] / (14.2 / 6))
    assert sorted(n % 2 for n in lithium_layers.astype(int)) == [0] + [1] * 23  # the one in the layers of lithium


@pytest.mark.parametrize(
    ("rows", "expected", "options"),
    [
        ([("Li1", "Li", "0", "0.985"), ("Ni2", "Ni", "0", "0.015"), ("Ni1", "Ni", "0.5", "1"), OXYGEN],
         {"Li": 0.985, "Ni": 1.015}, True),
        ([("Li1", "Li", "0", "0.5"), ("Ni1", "Ni", "0.5", "0.8"), ("Mn1", "Mn", "0.5", "0.1"),
          ("Co1", "Co", "0.5", "0.1"), OXYGEN], {"Li": 0.5, "Ni": 0.8, "Mn": 0.1, "Co": 0.1}, QUICK),
        ([("O", "'O'", "0.241", "1"), ("Ni,Co,Mn", "'0.80(1)Ni + 0.10Co + 0.10Mn'", "0.5", "1"),
          ("Li1Ni2", "'0.93(1)Li + 0.07(1)Ni'", "0", "1")], {"Li": 0.93, "Ni": 0.87, "Mn": 0.1, "Co": 0.1},
         OrderingOptions()),
    ],
)  # fmt: skip
def test_field_cases_end_with_their_composition(tmp_path, rows, expected, options):
    start = time.monotonic()
    atoms, _ = ordered(tmp_path, layered(rows), options)
    assert time.monotonic() - start < 30
    assert amounts(atoms) == pytest.approx({**expected, "O": 2}, abs=0.0035)
    assert atoms.get_volume() / len(atoms[atoms.symbols == "O"]) == pytest.approx(2.872**2 * 0.75**0.5 * 14.2 / 6)


def test_the_refusal_names_the_labels_of_the_file(tmp_path):
    rows = [OXYGEN, ("Ni,Co,Mn", "'0.80(1)Ni + 0.10Co + 0.10Mn'", "0.5", "1"), ("Li1Ni2", "Li", "0", "1")]
    (tmp_path / "a.cif").write_text(layered(rows))
    (record,) = read_file(tmp_path / "a.cif")
    assert "Ni,Co,Mn (Ni 0.8), Ni,Co,Mn (Co 0.1), Ni,Co,Mn (Mn 0.1)" in record.error


def test_a_bad_file_costs_the_others_nothing(tmp_path):
    over = [("Li1", "Li", "0", "0.9"), ("Ni2", "Ni", "0", "0.5"), ("Ni1", "Ni", "0.5", "1"), OXYGEN]
    good = [("Li1", "Li", "0", "0.5"), ("Ni1", "Ni", "0.5", "1"), OXYGEN]
    (tmp_path / "a.cif").write_text(layered(over))
    (tmp_path / "b.cif").write_text(layered(good))
    with pytest.warns(OrderingWarning, match=r"b\.cif"):
        first, second = read_structures(tmp_path, order_disordered=QUICK)
    assert first.error == "the occupancies of Li1/Ni2 add up to 1.4, more than 1"
    assert amounts(second.atoms) == {"Li": 0.5, "Ni": 1, "O": 2}


def test_rows_of_one_site_may_be_given_at_equivalent_places(tmp_path):
    text = layered([("Li1", "Li", "0", "0.9"), ("Ni1", "Ni", "0.5", "1"), OXYGEN])
    text += "Ni2 Ni 0.66667 0.33333 0.33333 0.1\n"
    atoms, note = ordered(tmp_path, text, QUICK)
    assert "exact" in note
    assert atoms.info["ordering_sites"] == "Li1/Ni2: Li 0.9 -> 9/10, Ni 0.1 -> 1/10"


def test_a_file_that_lists_every_site_is_read_with_its_symmetry(tmp_path):
    """Twelve sites of half a lithium are one kind of site in a cell of P1, too."""
    structure = half_lithium().make_supercell((2, 2, 1), in_place=False)
    structure.to(str(tmp_path / "a.cif"))
    text = (tmp_path / "a.cif").read_text()
    atoms, note = ordered(tmp_path, text, QUICK)
    assert "exact" in note
    assert atoms.info["ordering_sites"].count("->") == 2
    assert amounts(atoms) == {"Li": 0.25, "Co": 1, "O": 2}


# The arrangement


def half_lithium():
    return Structure.from_spacegroup(
        "R-3m", Lattice.hexagonal(2.82, 14.1), [{"Li": 0.25}, "Co", "O"], [[0, 0, 0], [0, 0, 0.5], [0, 0, 0.24]]
    )


def charged(atoms):
    structure = Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.positions, coords_are_cartesian=True)
    structure.add_oxidation_state_by_element(oxidation_states(structure.composition.get_el_amt_dict()))
    return structure


def ewald_energy(atoms):
    return EwaldSummation(charged(atoms)).total_energy


def test_the_matrix_gives_the_energy_of_pymatgen():
    rng = np.random.default_rng(3)
    cell = np.array([[4.0, 0.3, -0.2], [-1.5, 5.0, 0.4], [0.6, 1.0, 11.0]])
    frac, charges = rng.random((7, 3)), np.array([1, -2, 3, -1, 2, -2, -1.0])
    structure = Structure(cell, ["Li", "O", "Co", "F", "Ni", "O", "F"], frac)
    structure.add_oxidation_state_by_site(charges.tolist())
    matrix = ewald_matrix(cell, frac @ cell, np.arange(7))
    assert charges @ matrix @ charges == pytest.approx(EwaldSummation(structure, acc_factor=14).total_energy, abs=1e-4)
    assert ewald_matrix(cell, frac @ cell, np.array([2, 5])) == pytest.approx(matrix[[2, 5]], abs=1e-9)


def test_ewald_finds_what_enumeration_finds():
    with pytest.warns(OrderingWarning):
        atoms = from_object(half_lithium(), order_disordered=OrderingOptions(supercell=(2, 2, 1)))
    full = half_lithium().make_supercell((2, 2, 1), in_place=False)
    charges = {"Li": 1.0, "Co": 3.75, "O": -2.0}
    lithium = [k for k, site in enumerate(full) if "Li" in site.species_string]
    plain = Structure(full.lattice, ["Li" if k in lithium else site.species_string for k, site in enumerate(full)],
                      full.frac_coords)  # fmt: skip
    plain.add_oxidation_state_by_element(charges)
    matrix = EwaldSummation(plain).total_energy_matrix
    rest = [k for k in range(len(plain)) if k not in lithium]
    energies = [matrix[np.ix_(kept, kept)].sum() for kept in ([*rest, *some] for some in combinations(lithium, 3))]
    assert len(energies) == 220
    assert ewald_energy(atoms) == pytest.approx(min(energies), abs=1e-3)
    assert min(energies) < np.median(energies) - 0.1


def test_same_seed_same_ordering_and_several_that_differ():
    options = OrderingOptions(n_atoms=40, method="random", num=3)
    with pytest.warns(OrderingWarning):
        first, again = (list(read_structures([half_lithium()], order_disordered=options)) for _ in range(2))
    assert [record.id for record in first] == ["0:0", "0:1", "0:2"]
    assert [a.atoms == b.atoms for a, b in zip(first, again, strict=True)] == [True] * 3
    distances = [np.sort(r.atoms[r.atoms.symbols == "Li"].get_all_distances(mic=True).ravel()) for r in first]
    assert not any(np.allclose(a, b) for a, b in combinations(distances, 2))
    energies = [ewald_energy(record.atoms) for record in first]
    with pytest.warns(OrderingWarning):
        best = from_object(half_lithium(), order_disordered=OrderingOptions(n_atoms=40))
    assert ewald_energy(best) < min(energies)


def test_lowest_takes_the_lowest_of_its_candidates():
    seen = []

    def energies(structures):
        seen.append([atoms.get_scaled_positions()[atoms.symbols == "Li"][:, 2].sum() for atoms in structures])
        return np.array(seen[-1])

    options = OrderingOptions(n_atoms=40, method="lowest", energies=energies, n_candidates=3)
    with pytest.warns(OrderingWarning, match="lowest energy"):
        atoms = from_object(half_lithium(), order_disordered=options)
    assert len(seen[0]) == 3
    assert energies([atoms])[0] == pytest.approx(min(seen[0]))


def test_sqs_of_a_disordered_file(tmp_path):
    pytest.importorskip("icet")
    rows = [("Li1", "Li", "0", "0.75"), ("Ni1", "Ni", "0.5", "0.5"), ("Mn1", "Mn", "0.5", "0.5"), OXYGEN]
    atoms, note = ordered(tmp_path, layered(rows), OrderingOptions(n_atoms=16, method="sqs"))
    assert "quasirandom" in note
    assert amounts(atoms) == pytest.approx({"Li": 0.75, "Ni": 0.5, "Mn": 0.5, "O": 2})


@pytest.mark.parametrize("method", ["random", "ewald"])
def test_split_sites_are_never_both_taken(method):
    """The two sodium sites of P2 lie 1.67 Å apart; with 0.67 of them filled no two neighbours need be."""
    structure = Structure.from_spacegroup(
        "P6_3/mmc", Lattice.hexagonal(2.89, 11.15), [{"Na": 0.25}, {"Na": 0.42}, "Mn", "O"],
        [[0, 0, 0.25], [1 / 3, 2 / 3, 0.75], [0, 0, 0], [1 / 3, 2 / 3, 0.0915]],
    )  # fmt: skip
    with pytest.warns(OrderingWarning):
        atoms = from_object(structure, order_disordered=OrderingOptions(method=method, n_atoms=80))
    sodium = atoms[atoms.symbols == "Na"]
    distances = sodium.get_all_distances(mic=True) + 10 * np.eye(len(sodium))
    assert distances.min() > 2.8


def test_the_time_is_kept_and_said(tmp_path):
    start = time.monotonic()
    atoms, note = ordered(tmp_path, layered(EXCHANGED), OrderingOptions(time_limit=0.01))
    assert time.monotonic() - start < 10
    assert "the time of 0.01 s was up: the best until then is taken" in note
    assert atoms.get_chemical_formula() == "Co3Li30Mn3Ni24O60"


def test_a_file_read_again_gives_the_same_although_time_stopped_it(tmp_path):
    options = OrderingOptions(time_limit=0.02, seed=7)
    first, _ = ordered(tmp_path, layered(EXCHANGED), options)
    assert first == ordered(tmp_path, layered(EXCHANGED), options)[0]


# Charges


def test_charges_of_argyrodites_sulfates_and_alloys():
    assert likely_charges({"Li": 6, "P": 1, "S": 5, "Cl": 1}).states == {"Li": 1, "P": 5, "S": -2, "Cl": -1}
    assert likely_charges({"Li": 2, "S": 1, "O": 4}).states == {"Li": 1, "S": 6, "O": -2}
    assert likely_charges({"Li": 66, "P": 4, "Ge": 6, "S": 50, "I": 10}).states["Ge"] == 4
    assert likely_charges({"Cu": 1, "Au": 3}) is None
    uneven = likely_charges({"Na": 3, "Cl": 4})
    assert "leave -0.14 e an atom" in uneven.source


def test_many_elements_are_guessed_at_once():
    start = time.monotonic()
    many = ["Ti", "V", "Cr", "Mn", "Fe", "Mo", "Re", "Ru", "S", "Se", "Te", "N", "Cl", "Br", "I", "P", "As", "Sb"]
    assert likely_charges(dict.fromkeys(many, 7)) is not None
    assert time.monotonic() - start < 5


def test_an_alloy_is_ordered_at_random_and_that_is_said():
    alloy = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.8), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    with pytest.warns(OrderingWarning, match="random; charges: none: it holds no anion"):
        atoms = from_object(alloy, order_disordered=OrderingOptions(n_atoms=20))
    assert atoms.get_chemical_formula() == "Au10Cu10"


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best"}, "unknown ordering 'best'; allowed: random, ewald, sqs, lowest"),
        ({"n_atoms": 0}, "n_atoms must be at least 1, not 0"),
        ({"time_limit": 0}, "time_limit 0: .* above 0"),
        ({"supercell": (1, 0, 1)}, "1x0x1: the repeats"),
        ({"method": "lowest"}, "needs a model"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        OrderingOptions(**options)


def test_too_large_a_supercell_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("error", OrderingWarning)
        with pytest.raises(StructureError, match="supercell of 12000 sites; at most 2000"):
            from_object(half_lithium(), order_disordered=OrderingOptions(supercell=10))

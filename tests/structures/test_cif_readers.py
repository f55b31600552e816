"""The two CIF readers agree with one another and with what is published of the crystals."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgcnn_ase.structures import read_file
from cgcnn_ase.structures.cif import lattice_matrix, read_block
from cgcnn_ase.structures.cif_text import blocks_with_atoms
from cgcnn_ase.structures.cif_values import rank_by_number
from cgcnn_ase.structures.disorder import read_cif_pymatgen


def read_cif_gemmi(text):
    """The structures of a CIF, one a block that lists atoms, by gemmi alone."""
    blocks, rare, _ = blocks_with_atoms(text)
    return [read_block(block, rare=rare).atoms for block in blocks]


SPINEL = {"a": 8.0806, "u": 0.2624}  # MgAl2O4


def cif(cell, sites, *, name=None, number=None, ops=None, formula=None, z=None, block="x", quote="", extra=""):
    """CIF text; `sites` are (label, type, x, y, z[, occupancy])."""
    lines = [f"data_{block}"]
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines += [f"_cell_{tag} {quote}{value}{quote}" for tag, value in zip(tags, cell, strict=True)]
    if name:
        lines.append(f"_symmetry_space_group_name_H-M '{name}'")
    if number:
        lines.append(f"_space_group_IT_number {number}")
    if formula:
        lines.append(f"_chemical_formula_sum '{formula}'")
    if z:
        lines.append(f"_cell_formula_units_Z {z}")
    if ops:
        lines += ["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{op}'" for op in ops)]
    lines += ["loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"]
    if any(len(site) > 5 for site in sites):
        lines.append("_atom_site_occupancy")
    for label, kind, *values in sites:
        lines.append(" ".join([label, kind, *(f"{quote}{value}{quote}" for value in values)]))
    return "\n".join([*lines, extra]) + "\n"


def operations(hm):
    import gemmi

    return [op.triplet() for op in gemmi.find_spacegroup_by_name(hm).operations()]


def distances(atoms):
    """All periodic distances to 8 Å, sorted, an independent list (ASE's)."""
    from ase.neighborlist import neighbor_list

    return np.sort(neighbor_list("d", atoms, 5.0))


def assert_same(first, second, *, order=True):
    assert len(first) == len(second)
    assert first.get_volume() == pytest.approx(second.get_volume(), rel=1e-12)
    if order:
        assert first.numbers.tolist() == second.numbers.tolist()
        np.testing.assert_array_equal(first.cell.array, second.cell.array)
        delta = first.get_scaled_positions() - second.get_scaled_positions()
        np.testing.assert_allclose(delta - np.rint(delta), 0, atol=1e-9)
    else:
        assert Counter(first.numbers.tolist()) == Counter(second.numbers.tolist())
    np.testing.assert_allclose(distances(first), distances(second), atol=1e-6)


NACL = ((5.6402, 5.6402, 5.6402, 90, 90, 90), [("Na1", "Na+", 0, 0, 0), ("Cl1", "Cl-", 0.5, 0.5, 0.5)])
LINIO2 = (
    (2.8780, 2.8780, 14.1900, 90, 90, 120),
    [("Li1", "Li", 0, 0, 0.5), ("Ni1", "Ni", 0, 0, 0), ("O1", "O", 0, 0, 0.2585)],
)
SPINEL_CELL = (SPINEL["a"],) * 3 + (90, 90, 90)
CASES = {
    # name of the group, cell, sites, atoms in the cell, nearest distance
    "halite": ("F m -3 m", *NACL, 8, 5.6402 / 2),
    "layered": ("R -3 m:H", *LINIO2, 12, None),
    "spinel-2": (
        "F d -3 m:2",
        SPINEL_CELL,
        [("Mg", "Mg", 0.125, 0.125, 0.125), ("Al", "Al", 0.5, 0.5, 0.5), ("O", "O", 0.2624, 0.2624, 0.2624)],
        56,
        None,
    ),
    "spinel-1": (
        "F d -3 m:1",
        SPINEL_CELL,
        [("Mg", "Mg", 0, 0, 0), ("Al", "Al", 0.625, 0.625, 0.625), ("O", "O", 0.3874, 0.3874, 0.3874)],
        56,
        None,
    ),
    "hcp": ("P 63/m m c", (3.2094, 3.2094, 5.2108, 90, 90, 120), [("Mg1", "Mg", 0.3333, 0.6667, 0.25)], 2, None),
    "rutile": (
        "P 42/m n m",
        (4.5937, 4.5937, 2.9587, 90, 90, 90),
        [("Ti1", "Ti4+", 0, 0, 0), ("O1", "O2-", 0.3053, 0.3053, 0)],
        6,
        None,
    ),
    "monoclinic": (
        "P 1 21/c 1",
        (5.1505, 5.2116, 5.3173, 90, 99.23, 90),
        [
            ("Zr", "Zr", 0.2754, 0.0395, 0.2083),
            ("O1", "O", 0.0700, 0.3317, 0.3447),
            ("O2", "O", 0.4496, 0.7569, 0.4792),
        ],
        12,
        None,
    ),
    "cm": (
        "C 1 2/m 1",
        (5.03, 8.63, 9.72, 90, 98.2, 90),
        [("Li", "Li", 0, 0, 0), ("Ni", "Ni", 0, 0.3333, 0.5), ("O", "O", 0.25, 0.1, 0.27)],
        14,
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_readers_agree_on_symmetric_crystals(case):
    hm, cell, sites, n_atoms, nearest = CASES[case]
    text = cif(cell, sites, ops=operations(hm))
    (fast,), (slow,) = read_cif_gemmi(text), read_cif_pymatgen(text)
    assert len(fast) == n_atoms
    assert_same(fast, slow)
    if nearest:
        assert distances(fast)[0] == pytest.approx(nearest)


def test_both_origins_of_spinel_are_one_crystal():
    first, second = (
        read_cif_gemmi(cif(*CASES[c][1:3], ops=operations(CASES[c][0])))[0] for c in ("spinel-1", "spinel-2")
    )
    np.testing.assert_allclose(distances(first), distances(second), atol=1e-9)
    assert Counter(first.symbols) == {"Mg": 8, "Al": 16, "O": 32}


@pytest.mark.parametrize("hm", ["F m -3 m", "Fm-3m", "R -3 m:H", "R -3 m", "P 63/m m c", "F d -3 m:2"])
def test_group_by_name_alone(tmp_path, hm):
    case = next(c for c in CASES.values() if c[0].replace(" ", "").split(":")[0] == hm.replace(" ", "").split(":")[0])
    if ":2" in hm:
        case = CASES["spinel-2"]
    named = read_cif_gemmi(cif(case[1], case[2], name=hm))[0]
    explicit = read_cif_gemmi(cif(case[1], case[2], ops=operations(case[0])))[0]
    assert_same(named, explicit, order=False)


def test_rhombohedral_axes_are_told_by_the_cell():
    a, c = 2.8780, 14.1900
    edge = np.sqrt(a * a / 3 + c * c / 9)
    angle = 2 * np.degrees(np.arcsin(a / 2 / edge))
    text = cif(
        (edge,) * 3 + (angle,) * 3,
        [("Li1", "Li", 0.5, 0.5, 0.5), ("Ni1", "Ni", 0, 0, 0), ("O1", "O", 0.2585, 0.2585, 0.2585)],
        name="R -3 m",
    )
    primitive = read_cif_gemmi(text)[0]
    hexagonal = read_cif_gemmi(cif(*LINIO2, ops=operations("R -3 m:H")))[0]
    assert len(primitive) == 4
    assert primitive.get_volume() == pytest.approx(hexagonal.get_volume() / 3)
    np.testing.assert_allclose(np.repeat(distances(primitive), 3), distances(hexagonal), atol=1e-6)


@pytest.mark.parametrize("group", [{"name": "F d -3 m"}, {"number": 227}, {"name": "Fd-3m", "number": 227}])
def test_the_formula_tells_which_origin_a_named_group_has(group):
    for case in ("spinel-1", "spinel-2"):
        text = cif(*CASES[case][1:3], **group, formula="Al2 Mg O4", z=8)
        explicit = cif(*CASES[case][1:3], ops=operations(CASES[case][0]))
        assert_same(read_cif_gemmi(text)[0], read_cif_gemmi(explicit)[0], order=False)
    text = cif((3.567, 3.567, 3.567, 90, 90, 90), [("C1", "C", 0.0, 0.0, 0.0)], **group)
    with pytest.raises(ValueError, match="two choices of origin, both possible"):
        read_cif_gemmi(text)
    assert len(read_cif_gemmi(text.replace("loop_", "_chemical_formula_sum C\n_cell_formula_units_Z 8\nloop_"))[0]) == 8


def test_group_by_number_alone():
    for case, number in (("hcp", 194), ("rutile", 136), ("layered", 166), ("monoclinic", 14)):
        hm, cell, sites = CASES[case][:3]
        explicit = read_cif_gemmi(cif(cell, sites, ops=operations(hm)))[0]
        assert_same(read_cif_gemmi(cif(cell, sites, number=number))[0], explicit, order=False)


def test_no_symmetry_information_is_p1():
    text = cif((4, 4, 4, 90, 90, 90), [("Cs", "Cs", 0, 0, 0), ("Cl", "Cl", 0.5, 0.5, 0.5)])
    assert_same(read_cif_gemmi(text)[0], read_cif_pymatgen(text)[0])


def test_quoted_numbers_uncertainties_and_unknown_values():
    text = cif(
        (5.64, 5.64, "5.6402(3)", 90, 90, "90.0(1)"),
        [("Na1", "Na+", "0.0000(2)", 0, 0, 1), ("Cl1", "Cl-", 0.5, "0.50(1)", ".5", "1.00(2)")],
        ops=operations("P m m m"),
        quote="'",
        extra="_exptl_crystal_density_diffrn ?\n_diffrn_ambient_temperature .",
    )
    for quote in ("'", '"'):
        quoted = text.replace("'", quote)
        fast, slow = read_cif_gemmi(quoted)[0], read_cif_pymatgen(quoted)[0]
        assert fast.cell.lengths().tolist() == pytest.approx([5.64, 5.64, 5.6402])
        assert_same(fast, slow)


@pytest.mark.parametrize("occupancy", ["?", ".", "1.00000"])
def test_unstated_occupancy_is_full(occupancy):
    text = cif((4, 4, 4, 90, 90, 90), [("Cs", "Cs", 0, 0, 0, occupancy)])
    assert len(read_cif_gemmi(text)[0]) == 1


def test_site_of_no_occupancy_is_no_atom():
    text = cif((4, 4, 4, 90, 90, 90), [("Cs", "Cs", 0, 0, 0, 1), ("Cl", "Cl", 0.5, 0.5, 0.5, 0)])
    assert_same(read_cif_gemmi(text)[0], read_cif_pymatgen(text)[0])


def test_elements_from_labels_and_charges():
    rows = [("Ni1", "Ni2+"), ("NI2", "NI"), ("O3", "O2-"), ("Fe4", "Fe3+,spin=5"), ("La5", "La0+")]
    text = cif((20, 4, 4, 90, 90, 90), [(label, kind, i / 6, 0, 0) for i, (label, kind) in enumerate(rows)])
    assert Counter(read_cif_gemmi(text)[0].symbols) == {"Ni": 2, "O": 1, "Fe": 1, "La": 1}
    bare = text.replace("_atom_site_type_symbol\n", "")
    for _, kind in rows:
        bare = bare.replace(f" {kind} ", " ", 1)
    bare = bare.replace("NI2", "Ni2a")
    assert Counter(read_cif_gemmi(bare)[0].symbols) == {"Ni": 2, "O": 1, "Fe": 1, "La": 1}
    assert_same(read_cif_gemmi(bare)[0], read_cif_pymatgen(bare)[0])


def test_blocks_without_atoms_are_passed_over(tmp_path):
    text = "data_global\n_journal_year 1999\n" + cif(*NACL, ops=operations("F m -3 m"))
    (tmp_path / "one.cif").write_text(text)
    (record,) = read_file(tmp_path / "one.cif")
    assert record.id == "one"
    assert len(record.atoms) == 8


def test_several_blocks_are_several_structures(tmp_path):
    bad = cif((4, 4, 4, 90, 90, 90), [("D1", "D", 0, 0, 0)], block="bad")
    text = cif(*NACL, ops=operations("F m -3 m"), block="a") + bad + cif(*LINIO2, ops=operations("R -3 m:H"), block="b")
    (tmp_path / "two.cif").write_text(text)
    records = read_file(tmp_path / "two.cif")
    assert [r.id for r in records] == ["two:0", "two:1", "two:2"]
    assert [r.atoms and len(r.atoms) for r in records] == [8, None, 12]
    assert "deuterium" in records[1].error
    good = text.replace(bad, "")
    for fast, slow in zip(read_cif_gemmi(good), read_cif_pymatgen(good), strict=True):
        assert_same(fast, slow)


def test_two_digit_special_position_is_one_atom(tmp_path):
    """0.33 and 0.67 for thirds: three images 0.02 Å apart are one atom, as the formula says."""
    text = cif(
        (3.2094, 3.2094, 5.2108, 90, 90, 120),
        [("Mg1", "Mg", 0.333, 0.667, 0.25)],
        ops=operations("P 63/m m c"),
        formula="Mg",
        z=2,
    )
    (tmp_path / "mg.cif").write_text(text)
    (record,) = read_file(tmp_path / "mg.cif")
    assert len(record.atoms) == 2
    reference = read_cif_gemmi(cif(*CASES["hcp"][1:3], ops=operations("P 63/m m c")))[0]
    np.testing.assert_allclose(distances(record.atoms), distances(reference), atol=1e-3)


def test_formula_and_z_decide_where_name_and_operations_contradict_each_other(tmp_path, caplog):
    text = cif(*NACL, name="P m -3 m", number=221, ops=operations("F m -3 m"), formula="Na Cl", z=4)
    (tmp_path / "x.cif").write_text(text)
    assert len(read_file(tmp_path / "x.cif")[0].atoms) == 8
    assert "192 symmetry operations (space group number 225), which contradicts the space group P m -3 m" in caplog.text
    for other in (text.replace("_cell_formula_units_Z 4\n", ""), cif(*NACL, name="F m -3 m", ops=["x, y, z"])):
        (tmp_path / "x.cif").write_text(other)
        (record,) = read_file(tmp_path / "x.cif")
        assert "contradict" in record.error


def test_operations_that_form_no_group_are_refused():
    with pytest.raises(ValueError, match="form no group"):
        read_cif_gemmi(cif(*NACL, ops=operations("F m -3 m")[:7]))


def test_magnetic_file_is_read_and_modulated_refused(tmp_path):
    axes = "".join(f"_atom_site_moment_crystalaxis_{axis}\n" for axis in "xyz")
    moments = f"loop_\n_atom_site_moment_label\n{axes}Ni1 0 0 2.0\n"
    cell, sites = (4.17, 4.17, 4.17, 90, 90, 90), [("Ni1", "Ni", 0, 0, 0), ("O1", "O", 0.5, 0.5, 0.5)]
    path = tmp_path / "m.mcif"
    path.write_text(cif(cell, sites, ops=["x, y, z"], extra=moments))
    (record,) = read_file(path)
    assert Counter(record.atoms.symbols) == {"Ni": 1, "O": 1}
    path.write_text(cif(cell, sites, extra="_cell_modulation_dimension 1"))
    assert "modulated" in read_file(path)[0].error


def test_matrix_is_pymatgens_bit_for_bit():
    from pymatgen.core import Lattice

    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b, c, alpha, beta, gamma = [*rng.uniform(2, 20, 3), *rng.uniform(70, 110, 3)]
        expected = Lattice.from_parameters(a, b, c, alpha, beta, gamma).matrix
        np.testing.assert_array_equal(lattice_matrix(a, b, c, alpha, beta, gamma), expected)


def test_order_of_elements_is_pymatgens():
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranked = sorted(range(1, 101), key=Element.from_Z)
    assert sorted(range(1, 101), key=lambda z: rank_by_number()[z]) == ranked


def compare_files(path: Path, *, exact=True) -> None:
    from pymatgen.core import Structure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = Structure.from_file(path)
    (record,) = read_file(path)
    assert record.error is None, (path, record.error)
    atoms = record.atoms
    assert atoms.numbers.tolist() == [site.specie.Z for site in reference], path
    np.testing.assert_array_equal(atoms.cell.array, reference.lattice.matrix)
    if exact:
        np.testing.assert_allclose(atoms.positions, reference.cart_coords, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["Li", "Ni", "O", "Fe", "S"]), min_size=1, max_size=10),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["ase", "pymatgen"]),
)
def test_written_p1_files_give_pymatgens_atoms_in_its_order(tmp_path_factory, symbols, seed, writer):
    from ase import Atoms
    from ase.io import write
    from pymatgen.core import Structure

    rng = np.random.default_rng(seed)
    grid = rng.permutation(27)[: len(symbols)]
    frac = (np.stack(np.unravel_index(grid, (3, 3, 3)), axis=1) + rng.uniform(-0.2, 0.2, (len(symbols), 3))) / 3
    cell = lattice_matrix(*rng.uniform(6, 9, 3), *rng.uniform(75, 105, 3))
    path = tmp_path_factory.getbasetemp() / f"{writer}.cif"
    if writer == "ase":
        write(path, Atoms(symbols, scaled_positions=frac, cell=cell, pbc=True))
    else:
        Structure(cell, symbols, frac).to(filename=str(path))
    compare_files(path)


@pytest.mark.parametrize("part", [slice(100), pytest.param(slice(100, 300), marks=pytest.mark.long)], ids=str)
def test_agrees_with_pymatgen_on_real_crystals(shared_data, tmp_path, part):
    """Materials Project crystals as pymatgen writes them, plain and symmetrised."""
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifWriter

    packed = np.load(shared_data / "mp36k" / "structures.npz")
    offsets, lattice, numbers, frac = (packed[key] for key in ("offsets", "lattice", "numbers", "frac"))
    sizes = np.diff(offsets)
    chosen = np.random.default_rng(1).choice(np.flatnonzero(sizes <= 40), 300, replace=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, i in enumerate(chosen[part]):
            rows = slice(offsets[i], offsets[i + 1])
            structure = Structure(lattice[i], numbers[rows], frac[rows].astype(float))
            path = tmp_path / "x.cif"
            CifWriter(structure, symprec=0.01 if k % 2 else None).write_file(path)
            compare_files(path)

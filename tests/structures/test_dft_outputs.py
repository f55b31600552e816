"""Outputs of DFT programs: structure, energy, forces, stress, moments, functional and U, against what the files state.

The files in ``dft`` are shortened outputs of small runs of our own; those of VASP are ASE's own test files.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.units import Bohr, GPa, Hartree, Ry

from cgcnn_ase.structures.dft_outputs import output_kind, read_output

FILES = Path(__file__).parent / "dft"
VASP = Path(find_spec("ase").origin).parent / "test" / "testdata" / "vasp"


def one(path):
    (record,) = read_output(path, "id")
    assert record.error is None, record.error
    return record.calculation


def facts(calculation):
    return calculation.program, calculation.version, calculation.functional, dict(calculation.hubbard_u)


def test_quantum_espresso():
    calculation = one(FILES / "h2_u.pwo")
    assert facts(calculation) == ("Quantum ESPRESSO", "6.7MaX", "PBE", {"H": 3.0})
    assert calculation.converged
    atoms = calculation.atoms
    assert atoms.get_potential_energy() == pytest.approx(-2.22668680 * Ry)
    np.testing.assert_allclose(atoms.cell.lengths(), 7.558904 * Bohr * np.array([1, 1, 1.184292]), rtol=1e-5)
    assert atoms.get_distance(0, 1) == pytest.approx(0.1842915 * 7.558904 * Bohr, rel=1e-5)
    text = (FILES / "h2_u.pwo").read_text()
    force = next(float(line.split()[-1]) for line in text.splitlines() if "atom    1 type  1" in line)
    assert atoms.get_forces()[0, 2] == pytest.approx(force * Ry / Bohr, rel=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), ase.io.read(FILES / "h2_u.pwo", format="espresso-out").get_stress())


def test_cp2k():
    calculation = one(FILES / "h2.cp2k.out")
    assert facts(calculation) == ("CP2K", "2023.1", "PBE", {})
    atoms = calculation.atoms
    assert atoms.get_potential_energy() == pytest.approx(-1.167383371758642 * Hartree)
    np.testing.assert_allclose(atoms.get_forces(), np.array([[0, 0, -1], [0, 0, 1]]) * 0.0058825 * Hartree / Bohr)
    np.testing.assert_allclose(atoms.get_stress()[:3] / GPa, [0.171657621613, 0.171657621613, 6.2722009872])
    np.testing.assert_allclose(atoms.cell.array, np.diag([3.2, 3.2, 4.0]))
    assert "magmoms" not in atoms.calc.results


def test_cp2k_with_u_and_spin():
    calculation = one(FILES / "h_u.cp2k.out")
    assert facts(calculation) == ("CP2K", "2023.1", "PBE", {"H": 2.0})
    assert calculation.atoms.get_magnetic_moments().tolist() == [1.0]


def test_a_relaxation_by_cp2k_has_its_positions_beside_it(tmp_path):
    text = (FILES / "h2.cp2k.out").read_text().replace("ENERGY_FORCE", "     GEO_OPT")
    file = tmp_path / "cp2k.out"
    file.write_text(text)
    (record,) = read_output(file, "id")
    assert record.error == "is a relaxation whose positions are in aiida-pos-1.xyz, which is not beside it"
    frames = [f"2\n i = {k}, E = -1.1\nH 0 0 {z}\nH 0 0 {-z}\n" for k, z in enumerate((0.3686, 0.371))]
    (tmp_path / "aiida-pos-1.xyz").write_text("".join(frames))
    assert one(file).atoms.positions[:, 2].tolist() == [0.371, -0.371]


def test_gpaw():
    calculation = one(FILES / "si.gpaw.txt")
    assert facts(calculation) == ("GPAW", "26.7.0", "PBE", {})
    assert calculation.converged
    atoms = calculation.atoms
    results = atoms.calc.results
    assert (results["energy"], results["free_energy"]) == (6.648225, 6.640888)
    assert atoms.get_forces()[1].tolist() == [-4.18919, 0, 0]
    assert atoms.get_stress().tolist() == [-0.267042, -0.283822, -0.283822, 0.039905, 0, 0]
    assert atoms.cell.array.tolist() == [[0, 2.715, 2.715], [2.715, 0, 2.715], [2.715, 2.715, 0]]
    assert atoms.positions[1].tolist() == [1.5075, 1.3575, 1.3575]


def test_u_in_the_setups_of_gpaw(tmp_path):
    text = (FILES / "si.gpaw.txt").read_text().replace("  xc=XC(", "  setups={'Si': ':d,4.0'},\n  xc=XC(")
    (tmp_path / "gpaw.txt").write_text(text)
    assert one(tmp_path / "gpaw.txt").hubbard_u == {"Si": 4.0}


def test_moments_of_gpaw(tmp_path):
    rows = ["Local magnetic moments", "|  x |  y |  z |", "|----|----|----|", "| 0.0 | 0.0 | 1.5 |  # Si 0",
            "| 0.0 | 0.0 | -0.5 |  # Si 1", ""]  # fmt: skip
    text = (FILES / "si.gpaw.txt").read_text().replace("Forces  #", "\n".join(rows) + "\nForces  #")
    (tmp_path / "gpaw.txt").write_text(text)
    assert one(tmp_path / "gpaw.txt").atoms.get_magnetic_moments().tolist() == [1.5, -0.5]


def test_u_in_quantum_espresso_since_version_7(tmp_path):
    text = (FILES / "h2_u.pwo").read_text()
    head = "     Hubbard parameters of DFT+U (Dudarev formulation) in eV:\n     U(H1-1s)  =  2.5000\n"
    (tmp_path / "a.pwo").write_text(text.replace("     Simplified LDA+U calculation", head + "     Simplified", 1)
                                    .replace("3.0000   0.0000   0.0000", "0.0000   0.0000   0.0000"))  # fmt: skip
    assert one(tmp_path / "a.pwo").hubbard_u == {"H": 2.5}


def test_gpaw_before_version_25():
    calculation = one(VASP.parent / "gpaw_expected_text_output")
    assert facts(calculation) == ("GPAW", "20.1.1b1", "PBE", {})
    expected = ase.io.read(VASP.parent / "gpaw_expected_text_output", format="gpaw-out")
    assert calculation.atoms.get_potential_energy() == expected.get_potential_energy()


def test_outcar():
    assert output_kind(VASP / "OUTCAR_example_1") == "outcar"
    calculation = one(VASP / "OUTCAR_example_1")
    assert facts(calculation)[::2] == ("VASP", "PBE")
    assert calculation.converged
    expected = ase.io.read(VASP / "OUTCAR_example_1", format="vasp-out")
    for name in ("energy", "free_energy", "forces", "stress"):
        np.testing.assert_array_equal(calculation.atoms.calc.results[name], expected.calc.results[name])


def test_u_in_an_outcar(tmp_path):
    """As VASP prints it: U less J."""
    text = (VASP / "OUTCAR_example_1").read_text()
    printed = "   U (eV)           for each species LDAUU =   6.2\n   J (eV)           for each species LDAUJ =   1.0\n"
    (tmp_path / "OUTCAR").write_text(text.replace("   LCOMPAT=", printed + "   LCOMPAT=", 1))
    assert one(tmp_path / "OUTCAR").hubbard_u == {"Ni": pytest.approx(5.2)}


def test_vasprun_against_pymatgen(tmp_path):
    from pymatgen.io.vasp.outputs import Vasprun

    run = Vasprun(str(VASP / "vasprun_dfpt.xml"), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    calculation = one(VASP / "vasprun_dfpt.xml")
    assert facts(calculation) == ("VASP", "6.3.2", "PBE", {})
    atoms = calculation.atoms
    assert atoms.get_potential_energy() == pytest.approx(float(run.final_energy), abs=1e-6)
    np.testing.assert_allclose(atoms.get_forces(), run.ionic_steps[-1]["forces"])
    np.testing.assert_allclose(atoms.cell.array, run.final_structure.lattice.matrix)
    tags = '<incar>\n  <i type="logical" name="LDAU"> T </i>\n'
    tags += '  <v name="LDAUU"> 5.0 0.0</v>\n  <v name="LDAUJ"> 1.0 0.0</v>\n'
    (tmp_path / "vasprun.xml").write_text((VASP / "vasprun_dfpt.xml").read_text().replace("<incar>", tags, 1))
    assert one(tmp_path / "vasprun.xml").hubbard_u == {run.atomic_symbols[0]: 4.0}


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("h2_u.pwo", ("convergence has been achieved in", "convergence NOT achieved after"), "did not converge"),
        ("h2_u.pwo", ("!    total energy", "     total energy"), "holds no energy"),
        ("h2.cp2k.out", ("SCF run converged", "SCF run NOT converged"), "did not converge"),
        ("h2.cp2k.out", ("ENERGY| Total", "ENERGY| total"), "holds no energy of a finished step"),
        ("si.gpaw.txt", ("Extrapolated:", "Extra"), "holds no energy of a finished step"),
    ],
)
def test_what_is_not_finished_is_a_reason(tmp_path, name, change, reason):
    text = (FILES / name).read_text()
    assert change[0] in text
    (tmp_path / name).write_text(text.replace(*change))
    (record,) = read_output(tmp_path / name, "id")
    assert record.calculation is None
    assert reason in record.error


def test_a_file_that_is_cut_off(tmp_path):
    (tmp_path / "vasprun.xml").write_bytes((VASP / "vasprun_dfpt.xml").read_bytes()[:3000])
    (record,) = read_output(tmp_path / "vasprun.xml", "id")
    assert record.error.startswith("cannot be read")


def test_structures_with_results(tmp_path):
    """Frames of extended XYZ, trajectories and databases: each a calculation; one without an energy has a reason."""
    frames = []
    for k in range(3):
        atoms = bulk("NiO", "rocksalt", a=4.2 + k / 10)
        atoms.info["functional"] = "PBE"
        if k < 2:
            results = {"energy": -10.0 - k, "forces": np.full((2, 3), 0.1 * k), "magmoms": np.array([1.5, 0.0])}
            atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    ase.io.write(tmp_path / "all.extxyz", frames)
    ase.io.write(tmp_path / "all.traj", frames)
    with connect(tmp_path / "all.db") as database:
        for atoms in frames:
            database.write(atoms, functional="PBE")
    for name in ("all.extxyz", "all.traj", "all.db"):
        records = read_output(tmp_path / name, "all")
        assert [record.id for record in records] == ["all:0", "all:1", "all:2"]
        first, second = (record.calculation for record in records[:2])
        assert (first.atoms.get_potential_energy(), second.atoms.get_potential_energy()) == (-10.0, -11.0)
        np.testing.assert_allclose(second.atoms.get_forces(), 0.1)
        assert second.atoms.get_magnetic_moments().tolist() == [1.5, 0.0]
        if name != "all.traj":
            assert first.functional == "PBE"
        assert "holds no energy" in records[2].error


def test_other_files_are_no_outputs(tmp_path):
    (tmp_path / "slurm.out").write_text("srun: job 12 started\n")
    (tmp_path / "notes.txt").write_text("CP2K| is a program\n")
    shutil.copy(VASP / "POSCAR_example_1", tmp_path / "POSCAR")
    assert [output_kind(path) for path in tmp_path.iterdir()] == [None, None, None]

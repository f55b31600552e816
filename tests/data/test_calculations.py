"""Folders of finished calculations as data sets: what is read, what is left out and why, reference energies."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.data.calculations import read_calculations
from cgcnn_ase.data.dataset import load_dataset, read_table, target_columns

from ..structures.test_dft_outputs import FILES, VASP


def calculated(atoms, energy, **info):
    atoms = atoms.copy()
    atoms.info.update(info)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((len(atoms), 3)))
    return atoms


@pytest.fixture
def runs(tmp_path) -> Path:
    """A folder as they are: one run a folder, inputs and logs beside the outputs, one run that was killed."""
    root = tmp_path / "runs"
    for name, file, source in (
        ("vasp/001", "vasprun.xml", VASP / "vasprun_dfpt.xml"),
        ("vasp/001", "OUTCAR", VASP / "OUTCAR_example_1"),
        ("vasp/002", "OUTCAR", VASP / "OUTCAR_example_1"),
        ("qe/h2", "relax.pwo", FILES / "h2_u.pwo"),
        ("cp2k", "h.out", FILES / "h_u.cp2k.out"),
        ("cp2k", "h2.out", FILES / "h2.cp2k.out"),
        ("gpaw", "gpaw.txt", FILES / "si.gpaw.txt"),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / name / file)
    write(root / "gpaw" / "start.extxyz", bulk("Si"))  # an input, beside the output
    (root / "gpaw" / "slurm.out").write_text("started\n")
    (root / "vasp" / "003").mkdir()
    (root / "vasp" / "003" / "vasprun.xml").write_bytes((VASP / "vasprun_dfpt.xml").read_bytes()[:2000])
    return root


def test_every_run_by_its_folder_and_one_bad_file_is_not_the_end(runs):
    with pytest.warns(UserWarning, match=r"1 of 7 calculations are left out:\s+vasp/003/vasprun.xml: cannot be read"):
        data = read_table(runs)
    assert data.ids == ["cp2k/h", "cp2k/h2", "gpaw", "qe/h2", "vasp/001", "vasp/002"]
    columns = data.columns.set_index(np.array(data.ids))
    assert columns["program"].to_dict() == {
        "cp2k/h": "CP2K", "cp2k/h2": "CP2K", "gpaw": "GPAW", "qe/h2": "Quantum ESPRESSO", "vasp/001": "VASP",
        "vasp/002": "VASP",
    }  # fmt: skip
    assert columns["hubbard_u"].to_dict()["qe/h2"] == "H:3"
    assert columns["functional"].unique().tolist() == ["PBE"]
    # vasprun.xml comes before the OUTCAR beside it
    assert columns.loc["vasp/001", "energy_per_atom"] == pytest.approx(-6.745873 / 2, abs=1e-5)
    assert columns.loc["gpaw", "max_force"] == pytest.approx(4.18919)
    assert columns.loc["gpaw", "pressure"] == pytest.approx((0.267042 + 2 * 0.283822) / 3 * 160.21766, rel=1e-6)
    # forces, stress and moments of each atom are kept, also of a part
    part = data.take(np.array([2, 0]))
    assert part.calculations[0].atoms.get_forces()[0, 0] == 4.18898
    assert part.calculations[1].atoms.get_magnetic_moments().tolist() == [1.0]


def test_energies_that_do_not_go_together_are_told(runs):
    with pytest.warns(UserWarning, match="energies of different calculations are mixed: CP2K PBE, GPAW PBE, Quantum"):
        read_table(runs)
    for folder in ("vasp", "qe", "gpaw"):
        shutil.rmtree(runs / folder)
    with pytest.warns(UserWarning, match="mixed: U of H 0, 2 eV"):
        read_table(runs)


def test_a_broken_vasprun_is_replaced_by_the_outcar_beside_it(runs):
    shutil.copy(VASP / "OUTCAR_example_1", runs / "vasp" / "003" / "OUTCAR")
    assert not read_calculations(runs).failures


def test_nothing_that_can_be_used(runs):
    for folder in ("cp2k", "gpaw", "qe", "vasp/001", "vasp/002"):
        shutil.rmtree(runs / folder)
    with (
        pytest.warns(UserWarning, match="1 of 1 calculations are left out"),
        pytest.raises(DatasetError, match="none of its 1 calculations can be used"),
    ):
        read_table(runs)


@pytest.fixture
def oxides(tmp_path) -> Path:
    """Made-up energies of MgO and the elements: −12 eV a formula unit, −1.5 eV a Mg and −4.9 eV an O atom."""
    folder = tmp_path / "oxides"
    folder.mkdir()
    oxygen = bulk("O", "fcc", a=5.0)
    frames = [
        calculated(bulk("MgO", "rocksalt", a=4.2), -12.0, functional="PBE", gap=4.5),
        calculated(bulk("MgO", "rocksalt", a=4.2) * (2, 1, 1), -23.8, functional="PBE"),
        calculated(bulk("Mg"), -3.0, functional="PBE"),
        calculated(bulk("Mg", "bcc", a=3.5), -1.4, functional="PBE"),  # not the ground state
        calculated(oxygen, -4.9, functional="PBE"),
    ]
    write(folder / "all.extxyz", frames)
    return folder


def test_formation_energies_by_the_elements_that_were_calculated_too(oxides):
    data = load_dataset(oxides, target="formation_energy_per_atom")
    assert data.targets[:, 0].tolist() == pytest.approx([(-12 + 6.4) / 2, (-23.8 + 12.8) / 4, 0.0, 0.1, 0.0])
    assert data.unit_of("formation_energy_per_atom") == "eV/atom"
    assert target_columns(oxides)[:3] == ["formation_energy_per_atom", "energy_per_atom", "energy"]
    assert load_dataset(oxides, target="gap").targets.tolist() == [[4.5]]


def test_reference_energies_in_a_file(oxides):
    (oxides / "references.json").write_text(json.dumps({"Mg": -1.0, "O": -5.0}))
    assert load_dataset(oxides, target="formation_energy_per_atom").targets[0, 0] == pytest.approx(-3.0)
    (oxides / "references.json").write_text('"mp-pbe"')
    from cgcnn_ase.core.elements import reference_energies

    known = reference_energies()
    expected = (-12.0 - known["Mg"] - known["O"]) / 2
    assert load_dataset(oxides, target="formation_energy_per_atom").targets[0, 0] == pytest.approx(expected)
    (oxides / "references.json").write_text('{"Magnesium": -1.0}')
    with pytest.raises(DatasetError, match=r"references\.json: must hold energies in eV/atom by element"):
        load_dataset(oxides, target="formation_energy_per_atom")


def test_from_own_results_to_a_model_without_a_script(cgcnn_ase, tmp_path, monkeypatch):
    """``inspect``, ``train`` and ``evaluate`` on a database and a folder of results."""
    monkeypatch.setenv("CGCNN_ASE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for k in range(24):
        symbols = [str(s) for s in rng.choice(["Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"], 2, replace=False)]
        atoms = bulk("".join(symbols), "cesiumchloride", a=2.9 + rng.uniform(0, 0.2))
        atoms.calc = EMT()
        atoms.get_potential_energy()
        (tmp_path / "runs" / f"{k:02d}").mkdir(parents=True)
        write(tmp_path / "runs" / f"{k:02d}" / "final.extxyz", atoms)
    settings = "graph: {cutoff: 5.0, n_neighbors: 6, merge: true}\nnetwork: {n_features: 8, n_convolutions: 1}\n"
    (tmp_path / "c.yaml").write_text(settings)
    ran = cgcnn_ase("inspect", tmp_path / "runs", "--target", "energy_per_atom", "--no-duplicates", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["report"]["columns"]["energy_per_atom"]["distribution"]["n"] == 24
    options = ["--target", "energy_per_atom", "--config", tmp_path / "c.yaml", "--epochs", 1, "--val", 0.2]
    ran = cgcnn_ase("train", tmp_path / "runs", *options, "--output", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert "energy_per_atom, test: MAE" in ran.out
    assert "eV/atom" in ran.out
    ran = cgcnn_ase("evaluate", tmp_path / "run", tmp_path / "runs", "--split", "test", "--json")
    assert ran.code == 0, ran.err
    expected = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert json.loads(ran.out)["mae"] == pytest.approx(expected["mae"], rel=1e-5)

"""``cgcnn-ase relax``: structures and table, trajectories, going on after an interruption, and bad input in words."""

import csv
import json

import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixBondLength
from ase.io import read, write

import cgcnn_ase as package
from cgcnn_ase.cli.relax_output import FileNames
from cgcnn_ase.learning import relax as learning
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.potential.relax import relax
from cgcnn_ase.potential.relax_results import COLUMNS

from ..potential.conftest import random_potential
from .test_predict_table import on_terminal


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a potential with random weights."""
    return save_model(random_potential(), tmp_path_factory.mktemp("models") / "random")


@pytest.fixture
def structures(tmp_path):
    """Folder with two rattled crystals, a.cif and b.extxyz, the latter with an energy and a label."""
    folder = tmp_path / "structures"
    folder.mkdir()
    for name, (formula, a) in {"a.cif": ("LiCl", 5.13), "b.extxyz": ("NiO", 4.17)}.items():
        atoms = bulk(formula, "rocksalt", a=a, cubic=True)
        atoms.rattle(0.05, seed=1)
        atoms.info = {} if name == "a.cif" else {"energy": -1.0, "label": "mine"}
        write(folder / name, atoms)
    return folder


@pytest.fixture
def command(cgcnn_ase, model):
    return lambda *args, **options: cgcnn_ase("relax", "--model", model, "--workers", 1, *args, **options)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_ran_is_written_down(command, structures, tmp_path):
    """For AiiDA, which compares it with what was asked for."""
    ran = command(
        structures, "--output", tmp_path / "out.csv", "--environment", tmp_path / "environment.json", "--steps", 0
    )
    assert ran.code == 0
    record = json.loads((tmp_path / "environment.json").read_text())
    assert (record["engine"], record["device"]) == ("torch", "cpu")
    assert record["versions"]["numpy"] == np.__version__


def test_structures_and_table_are_those_of_the_function(command, structures, model, tmp_path):
    output, steps = tmp_path / "out.extxyz", tmp_path / "steps"
    ran = command(structures, "--output", output, "--trajectory", steps, "--fmax", 0.1)
    assert (ran.code, ran.out) == (0, "")
    assert f"2 relaxed, written to {output}" in ran.err
    expected = relax(structures, model, fmax=0.1, trajectory=True)
    rows, frames = table(tmp_path / "out.csv"), read(output, ":")
    assert tuple(rows[0]) == COLUMNS
    for row, atoms, result in zip(rows, frames, expected, strict=True):
        assert result.converged
        assert row["id"] == atoms.info["id"] == result.id
        assert float(row["energy"]) == pytest.approx(result.energy, abs=1e-6)
        assert atoms.get_potential_energy() == pytest.approx(result.energy, abs=1e-6)
        assert (row["converged"], row["error"], row["steps"]) == ("True", "", str(result.steps))
        np.testing.assert_allclose(atoms.get_forces(), result.atoms.get_forces(), atol=1e-6)
        np.testing.assert_allclose(atoms.get_stress(), result.atoms.get_stress(), atol=1e-7)
        np.testing.assert_allclose(atoms.positions, result.atoms.positions, atol=1e-6)
        for name in ("energy_std", "steps", "converged", "max_force", "max_force_std", "model", "model_sha256"):
            assert atoms.info[name] == pytest.approx(getattr(result, name), abs=1e-6), name
        walked = read(steps / f"{result.id}.extxyz", ":")
        assert [frame.info["step"] for frame in walked] == list(range(result.steps + 1))
        assert walked[0].get_potential_energy() == pytest.approx(result.initial_energy, abs=1e-6)
        assert walked[-1].get_potential_energy() == pytest.approx(result.energy, abs=1e-6)
    assert frames[1].info["label"] == "mine"
    assert frames[1].info["original_energy"] == -1.0


def test_a_run_that_was_stopped_goes_on(command, structures, tmp_path):
    for k in range(3):
        write(structures / f"c{k}.cif", bulk("MgO", "rocksalt", a=4.2 + 0.05 * k))
    write(structures / "d.extxyz", [bulk("NiO", "rocksalt", a=4.1 + 0.02 * k) for k in range(3)])
    (structures / "bad.cif").write_text("no CIF\n")
    whole, part = tmp_path / "whole.extxyz", tmp_path / "part.extxyz"
    arguments = (structures, "--steps", 5, "--fixed-cell", "--output")
    assert command(*arguments, whole).code == 1
    lines = (tmp_path / "whole.csv").read_text().splitlines(keepends=True)
    order = [row["id"] for row in table(tmp_path / "whole.csv")]
    assert order == ["a", "b", "bad", "c0", "c1", "c2", "d:0", "d:1", "d:2"]
    good = [name for name in order if name != "bad"]
    # killed within the line of d:0, whose frame is there; then frames are lost, too
    of_frames = whole.read_text().splitlines(keepends=True)
    starts = {name: next(k for k, line in enumerate(of_frames) if f" id={name} " in line) - 1 for name in good}
    for n_lines, kept in ((starts["d:1"], 5), (starts["d:1"] + 2, 5), (starts["c2"] + 1, 4), (0, 0)):
        part.write_text("".join(of_frames[:n_lines]))
        (tmp_path / "part.csv").write_text("".join(lines[:7]) + lines[7][:20])
        ran = command(*arguments, part, "--resume")
        assert ran.code == 1
        assert "1 failed" in ran.err
        assert (f"{kept} structures are in {part} already" in ran.err) == (kept > 0)
        rows = {row["id"]: row for row in table(tmp_path / "part.csv")}
        assert [name for name in rows if name != "bad"] == good
        for expected in table(tmp_path / "whole.csv"):
            same = [row["error"] or float(row["energy"]) for row in (expected, rows[expected["id"]])]
            assert same[0] == same[1] or same[0] == pytest.approx(same[1], abs=1e-5)
        for atoms, expected in zip(read(part, ":"), read(whole, ":"), strict=True):
            assert atoms.info["id"] == expected.info["id"]
            np.testing.assert_allclose(atoms.positions, expected.positions, atol=1e-5)
    # what failed is tried again, and nothing else
    write(structures / "bad.cif", bulk("CaO", "rocksalt", a=4.8))
    ran = command(*arguments, part, "--resume")
    assert (ran.code, "1 relaxed" in ran.err) == (0, True)
    assert [row["id"] for row in table(tmp_path / "part.csv")] == [*good, "bad"]
    ran = command(*arguments, part, "--resume")
    assert (ran.code, "0 relaxed" in ran.err) == (0, True)
    assert len(read(part, ":")) == 9


def test_resume_is_of_the_same_model_and_settings(command, structures, small_model, tmp_path):
    output = tmp_path / "out.csv"
    assert command(structures, "--steps", 2, "--output", output).code == 0
    assert not (tmp_path / "out.extxyz").exists()
    before = output.read_text()
    for options, words in [
        (("--steps", 3), "with --steps 2"),
        (("--steps", 2, "--fmax", 1e-4), "with a larger --fmax than 0.0001"),
    ]:
        text = before.replace(",2,False,", ",2,True,") if "--fmax" in options else before
        output.write_text(text)
        ran = command(structures, *options, "--output", output, "--resume")
        assert (ran.code, words in ran.err, output.read_text() == text) == (2, True, True)
    output.write_text(before.replace(",random,", ",other,"))
    ran = command(structures, "--steps", 2, "--output", output, "--resume")
    assert (ran.code, "by another model (other" in ran.err) == (2, True)


def test_a_failing_file_among_good_ones(command, structures, tmp_path):
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    (structures / "aa.cif").write_text("no CIF\n")
    ran = command(structures, "--steps", 1)
    assert ran.code == 1
    assert [(row["id"], row["error"] != "") for row in ran.rows()] == [("a", False), ("aa", True), ("b", False)]
    assert f"{structures / 'aa.cif'}: is not a CIF" in ran.err
    assert ran.err.count("aa.cif") == 1
    assert f"{structures / 'b.extxyz'}: not converged after 1 steps: the largest force is" in ran.err
    assert "1 failed, 2 relaxed, 1 of them not converged after 1 steps" in ran.err
    with pytest.raises(ValueError, match="FixBondLength"):
        raise ValueError(relax(with_constraint(atoms), random_potential())[0].error)
    listed = command("-", "--steps", 0, stdin=f"{structures / 'a.cif'}\n{tmp_path / 'missing.cif'}\n")
    assert (listed.code, len(listed.rows())) == (1, 2)
    assert "missing.cif: no such file" in listed.err


def with_constraint(atoms):
    atoms = atoms.copy()
    atoms.set_constraint(FixBondLength(0, 1))
    return atoms


def test_json(command, structures, tmp_path):
    (structures / "bad.cif").write_text("")
    ran = command(structures, "--steps", 1, "--json", "--quiet", "--output", tmp_path / "out.csv")
    rows = json.loads(ran.out)
    assert (ran.code, [row["id"] for row in rows]) == (1, ["a", "b", "bad"])
    assert list(rows[0]) == list(COLUMNS)
    assert isinstance(rows[0]["converged"], bool)
    assert rows[2]["error"] == "is empty"
    assert len(table(tmp_path / "out.csv")) == 3
    assert "written to" not in command(structures / "a.cif", "--json", "--steps", 0, "--quiet").err


def test_a_table_on_a_terminal(cgcnn_ase_command, structures, model):
    text, code = on_terminal(cgcnn_ase_command, "relax", structures, "--model", model, "--fixed-cell", "--fmax", 0.2)
    assert code == 0
    assert "id,source" not in text
    for word in ("relaxed by random", "Li4Cl4", "Ni4O4", "energies in eV", "converged", "+0.0%"):
        assert word in text
    assert "in domain" not in text  # this model tells none


def test_workers_give_the_same(command, shell, model, structures):
    options = ("relax", structures, "--model", model, "--steps", 3)
    alone, together = (shell(*options, "--workers", n).rows() for n in (1, 2))
    for one, other in zip(alone, together, strict=True):
        assert float(one["energy"]) == pytest.approx(float(other["energy"]), abs=1e-6)


def test_a_model_without_forces_is_refused(cgcnn_ase, structures, small_model, tmp_path):
    ran = cgcnn_ase("relax", structures, "--model", small_model, "--output", tmp_path / "out.extxyz")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "so it has no forces; cathode-potential has" in ran.err
    assert not (tmp_path / "out.extxyz").exists()


def test_bad_values(command, cgcnn_ase, structures, tmp_path):
    (tmp_path / "mine.csv").write_text("id,energy\na,1\n")
    for arguments, words in [
        (("--fmax", 0), "fmax must be above 0 eV/Å, not 0"),
        (("--fmax", "nan"), "fmax must be above 0 eV/Å, not nan"),
        (("--steps", -1), "steps must be 0 or more, not -1"),
        (("--workers", 0), "--workers 0: give 1 or more"),
        (("--output", tmp_path / "out.json"), "allowed are names that end in .csv or .extxyz"),
        (("--output", tmp_path / "no" / "out.csv"), "does not exist"),
        (("--output", tmp_path / "mine.extxyz"), "mine.csv was not written by cgcnn-ase relax"),
        (("--output", structures / "b.extxyz"), "is one of the structures to relax"),
        (("--trajectory", structures), "holds structures to relax"),
        (("--trajectory", structures / "a.cif"), "is a file; name a folder"),
        (("--trajectory", tmp_path / "no" / "steps"), "does not exist"),
        (("--resume",), "--resume has no effect here: it belongs to --output"),
    ]:
        ran = command(structures, *arguments)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), arguments
        assert words in ran.err, arguments
    assert "no such file or folder" in command(tmp_path / "missing.cif").err
    ran = cgcnn_ase("relax", structures, "--model", "nothing")
    assert (ran.code, "no model 'nothing'" in ran.err) == (2, True)
    assert (tmp_path / "mine.csv").read_text() == "id,energy\na,1\n"
    assert (structures / "b.extxyz").read_text().count("Lattice") == 1


def test_the_output_of_an_earlier_run_is_no_input(command, structures):
    output = structures / "out.extxyz"
    assert command(structures, "--steps", 1, "--output", output).code == 0
    ran = command(structures, "--steps", 1, "--output", output, "--resume")
    assert (ran.code, "0 relaxed" in ran.err) == (0, True)
    assert "is one of the structures to relax" in command(structures, "--steps", 1, "--output", output).err


def test_symmetry_is_kept(command, structures, tmp_path):
    import spglib

    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    atoms.set_cell(atoms.cell.array * [1, 1, 1.04], scale_atoms=True)
    write(tmp_path / "tetragonal.vasp", atoms)
    command(tmp_path / "tetragonal.vasp", "--keep-symmetry", "--steps", 5, "--output", tmp_path / "out.extxyz")
    result = read(tmp_path / "out.extxyz")
    cell = (result.cell.array, result.get_scaled_positions(), result.numbers)
    assert spglib.get_spacegroup(cell, symprec=1e-4).startswith("I4/mmm")


def test_names_of_files_are_safe_and_different():
    name = FileNames(["a:0"])
    assert name("a:0") == "a_0"
    assert name("a_0").startswith("a_0_")
    assert name("a_0") != name("A:0")
    assert name("../x/y") == "___x_y"
    assert name("") == "_"
    assert name("Li1.0Ni(2)O+") == "Li1.0Ni(2)O+"
    assert len(name("x" * 400)) <= 160


def test_relax_is_public_and_without_a_reference_the_potential_s_own(model):
    assert package.relax is learning.relax
    assert {"relax", "LearningCalculator"} <= set(dir(package))
    cell = bulk("NiO", "rocksalt", a=4.17)
    assert package.relax(cell, model)[0].energy == relax(cell, model)[0].energy


def test_with_a_reference(cgcnn_ase, tmp_path):
    """Labels in a folder, which a second command finds; energies of the reference; options that fit together."""
    from ase.calculators.emt import EMT

    cell = bulk("Cu", a=3.6, cubic=True)
    cell.rattle(0.1, seed=1)
    write(tmp_path / "cu.extxyz", cell)
    command = [
        "relax", str(tmp_path / "cu.extxyz"), "--fixed-cell", "--reference", "emt", "--model", "none",
        "--memory", str(tmp_path / "memory"),
    ]  # fmt: skip
    run = cgcnn_ase(*command, "--output", str(tmp_path / "out.extxyz"), "--trajectory", str(tmp_path / "steps"))
    assert run.code == 0, run.err
    assert "calls of the reference" in run.err
    relaxed = read(tmp_path / "out.extxyz")
    check = relaxed.copy()
    check.calc = EMT()
    assert relaxed.get_potential_energy() == pytest.approx(check.get_potential_energy(), abs=1e-6)
    assert np.linalg.norm(check.get_forces(), axis=1).max() < 0.05
    labels = read(tmp_path / "memory/labels.extxyz", ":")
    assert relaxed.info["n_reference_calls"] == len(labels) == len(read(tmp_path / "steps/cu.extxyz", ":"))
    again = cgcnn_ase(*command, "--json")
    assert again.code == 0
    assert json.loads(again.out)[0]["energy"] == pytest.approx(relaxed.get_potential_energy(), abs=1e-8)
    assert len(read(tmp_path / "memory/labels.extxyz", ":")) == len(labels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--memory", "m"], "--memory: of no effect without --reference"),
        (["--max-calls", "3", "--max-force-std", "1"], "--max-force-std, --max-calls: of no effect without"),
        (["--reference", "emtt"], "unknown reference 'emtt'; did you mean emt?"),
        (["--reference", "emt", "--keep-symmetry"], "--keep-symmetry: not with --reference"),
        (["--reference", "emt", "--workers", "2"], "one after the other"),
        (["--reference", "emt", "--max-force-std", "0"], "max_force_std must be above 0"),
        (["--reference", "emt", "--memory", "no/such/folder"], "does not exist"),
        (["--reference", "emt", "--model", "band-gap"], "has no forces"),
    ],
)
def test_options_of_a_reference(cgcnn_ase, structures, options, words):
    run = cgcnn_ase("relax", str(structures), *options)
    assert run.code == 2
    assert words in " ".join(run.err.split())

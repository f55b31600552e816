"""The relaxation job: a real run against the package's own `relax`, provenance, and each way it can fail."""

import csv
import io
import json
from importlib import metadata

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms, FixedPlane

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.common.links import LinkType  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.plugins import CalculationFactory, DataFactory, ParserFactory  # noqa: E402

from aiida_plugin.data.labels import kind_of, scheme_of  # noqa: E402
from aiida_plugin.parsers.relax import FLAGS, NUMBERS, TEXTS  # noqa: E402
from cgcnn_ase.models.checkpoint import save_model  # noqa: E402
from cgcnn_ase.potential.relax import relax  # noqa: E402
from cgcnn_ase.potential.relax_results import COLUMNS  # noqa: E402

from ..potential.conftest import random_potential  # noqa: E402

FMAX = 0.02


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small potential with random weights."""
    return save_model(random_potential(), tmp_path_factory.mktemp("models") / "random")


@pytest.fixture
def model(folder):
    return DataFactory("cgcnn.model").get_or_create(folder)


@pytest.fixture
def code(aiida_code_installed, cgcnn_ase_command):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.relax", filepath_executable=cgcnn_ase_command)


def cells():
    """Two rattled cells that need few steps, of which the second has magnetic moments and a label of its own."""
    result = [bulk("NaCl", "rocksalt", a=5.6), bulk("MgO", "rocksalt", a=4.2)]
    for atoms in result:
        atoms.rattle(0.1, seed=1)
    result[1].set_initial_magnetic_moments([1.0, -1.0])
    result[1].info["energy_per_atom"] = -9.0
    return result


def structure_set(structures):
    return DataFactory("cgcnn.structures").from_ase(structures, [f"s{k}" for k in range(len(structures))])


def run(code, model, structures, **parameters):
    inputs = {"code": code, "model": model, "structures": structures, "parameters": orm.Dict(parameters)}
    return run_get_node(CalculationFactory("cgcnn.relax"), **inputs)


def frame_of(results):
    return pd.DataFrame(dict(results.get_iterarrays()))


def test_a_run_gives_what_the_package_gives(code, model, folder):
    initial = cells()
    results, node = run(code, model, structure_set(initial), fmax=FMAX)
    assert node.is_finished_ok, node.exit_message
    expected = relax(initial, folder, fmax=FMAX)
    frame, table = frame_of(results["results"]), expected.to_frame()
    assert frame["id"].tolist() == ["s0", "s1"]
    for name in NUMBERS:
        known = table[name].notna()
        assert np.allclose(frame[name][known], table[name][known].astype(float), rtol=0, atol=1e-6), name
        assert frame[name][~known].isna().all(), name
    assert frame["steps"].min() > 0
    assert frame["converged"].all()
    assert frame["error"].tolist() == ["", ""]
    relaxed = results["relaxed"]
    assert relaxed.ids == ("s0", "s1")
    for before, after, row in zip(initial, relaxed.iter_atoms(), expected, strict=True):
        assert after.get_potential_energy() == pytest.approx(row.energy, abs=1e-6)
        assert np.allclose(after.get_forces(), row.atoms.get_forces(), atol=1e-6)
        assert np.allclose(after.get_stress(), row.atoms.get_stress(), atol=1e-6)
        assert np.allclose(after.positions, row.atoms.positions, atol=1e-6)
        assert np.allclose(after.cell.array, row.atoms.cell.array, atol=1e-6)
        assert after.get_initial_magnetic_moments().tolist() == before.get_initial_magnetic_moments().tolist()
        # labels of the structure that went in are not those of the relaxed one
        assert "energy_per_atom" not in after.info
        assert after.info["converged"] is True
        assert after.info["model_sha256"] == model.sha256
        assert kind_of(scheme_of(after)) == "machine-learned"
    assert relaxed.label_kinds == ["machine-learned"]
    summary = results["summary"].get_dict()
    assert (summary["n_structures"], summary["n_failed"], summary["n_converged"]) == (2, 0, 2)
    assert node.res.n_structures == 2  # `verdi calcjob res`
    # structures and table stand in nodes, and are not stored a second time with the job
    assert "structures.npz" not in node.base.repository.list_object_names()
    kept = results["retrieved"].base.repository.list_object_names()
    assert not {"relaxed.extxyz", "relaxed.csv"} & set(kept)
    # from the relaxed structures by links alone to the model, the structures and what ran
    inputs = relaxed.creator.base.links.get_incoming(link_type=LinkType.INPUT_CALC).nested()
    assert relaxed.creator.uuid == node.uuid
    assert inputs["model"].uuid == model.uuid
    assert np.allclose(inputs["structures"].atoms("s0").positions, initial[0].positions)
    assert results["environment"]["differences"] == []
    assert results["environment"]["versions"]["torch"] == metadata.version("torch")


def test_a_structure_of_aiidas_own_with_its_trajectory(code, model, folder):
    initial = cells()[0]
    structure = orm.StructureData(ase=initial).store()
    results, node = run(code, model, structure, fmax=FMAX, fixed_cell=True, trajectory=True)
    assert node.is_finished_ok, node.exit_message
    (expected,) = relax(initial, folder, fmax=FMAX, fixed_cell=True, trajectory=True)
    relaxed = results["relaxed"]
    assert isinstance(relaxed, orm.StructureData)
    assert np.allclose(relaxed.get_ase().positions, expected.atoms.positions, atol=1e-6)
    assert np.allclose(relaxed.cell, structure.cell)
    assert relaxed.get_formula() == structure.get_formula()
    assert relaxed.creator.inputs.structures.uuid == structure.uuid
    assert results["summary"]["energy"] == pytest.approx(expected.energy, abs=1e-6)
    assert results["summary"]["steps"] == expected.steps
    trajectory = results["trajectory"]
    assert trajectory.numsteps == len(expected.trajectory) == expected.steps + 1
    energies = [atoms.get_potential_energy() for atoms in expected.trajectory]
    assert np.allclose(trajectory.get_array("energies"), energies, atol=1e-6)
    assert np.allclose(trajectory.get_array("forces")[-1], expected.atoms.get_forces(), atol=1e-6)
    assert trajectory.get_array("stresses").shape == (trajectory.numsteps, 6)
    assert np.allclose(trajectory.get_step_structure(0).get_ase().positions, initial.positions, atol=1e-6)
    assert np.allclose(trajectory.get_cells()[-1], structure.cell)
    assert trajectory.creator.uuid == node.uuid


def test_fixed_atoms_and_structures_that_fail(code, model, folder):
    """Fixed atoms go along; other constraints and bad structures cost themselves only."""
    held, free, planar = (*cells(), cells()[0])
    held.set_constraint(FixAtoms([0]))
    planar.set_constraint(FixedPlane([0], (0, 0, 1)))
    results, node = run(code, model, structure_set([held, planar, free]), fmax=FMAX, fixed_cell=True)
    assert node.exit_status == 341
    assert "1 of 3 structures could not be relaxed: s1 (the first: " in node.exit_message
    assert "FixedPlane" in node.exit_message
    assert "not converged" not in node.exit_message
    assert results["relaxed"].ids == ("s0", "s2")
    relaxed = results["relaxed"].atoms("s0")
    assert np.allclose(relaxed.positions[0], held.positions[0], atol=1e-7)
    assert not np.allclose(relaxed.positions[1], held.positions[1], atol=1e-3)
    assert [type(constraint) for constraint in relaxed.constraints] == [FixAtoms]
    expected = relax([held, free], folder, fmax=FMAX, fixed_cell=True).to_frame()
    frame = frame_of(results["results"])
    assert np.allclose(frame["energy"][[0, 2]], expected["energy"].astype(float), atol=1e-6)
    assert np.isnan(frame["energy"][1])
    assert not frame["converged"][1]
    assert "FixedPlane" in frame["error"][1]
    assert "structures.traj" not in node.base.repository.list_object_names()


def test_not_converged_and_where_it_ended(code, model, folder):
    results, node = run(code, model, structure_set(cells()), fmax=1e-7, steps=1)
    assert node.exit_status == 342
    assert "2 of 2 structures have forces above 1e-07 eV/Å after 1 steps: s0, s1" in node.exit_message
    expected = relax(cells(), folder, fmax=1e-7, steps=1).to_frame()
    assert np.allclose(frame_of(results["results"])["energy"], expected["energy"], atol=1e-6)
    assert not frame_of(results["results"])["converged"].any()
    assert results["relaxed"].atoms("s0").info["converged"] is False
    # no step at all is asked for to get energies and forces, so that it is no failure
    results, node = run(code, model, structure_set(cells()), fmax=1e-7, steps=0)
    assert node.is_finished_ok, node.exit_message
    assert np.allclose(results["relaxed"].atoms("s0").positions, cells()[0].positions, atol=1e-6)
    assert results["summary"]["n_converged"] == 0


def test_none_could_be_relaxed(code, model):
    odd = cells()[0]
    odd.numbers[0] = 0
    results, node = run(code, model, structure_set([odd]))
    assert node.exit_status == 340
    assert "no structure could be relaxed; the first: " in node.exit_message
    assert frame_of(results["results"])["error"][0] in node.exit_message
    assert "relaxed" not in results


def test_symmetry_is_kept(code, model):
    """Of a cell that is not cubic, whose angles would change otherwise."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.set_cell(atoms.cell * [1.0, 1.0, 1.1], scale_atoms=True)
    results, node = run(code, model, structure_set([atoms]), fmax=0.001, keep_symmetry=True, steps=3)
    assert node.exit_status in (0, 342)
    lengths, angles = np.split(results["relaxed"].atoms("s0").cell.cellpar(), 2)
    assert lengths[0] == pytest.approx(lengths[1], abs=1e-6)
    assert abs(lengths[0] - 5.6) > 1e-3
    assert np.allclose(angles, 90, atol=1e-6)


# What is refused before anything runs


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"speed": 9}, "unknown parameter 'speed'; .*allowed: fmax, steps, fixed_cell, keep_symmetry, trajectory"),
        ({"fixed_cel": True}, "did you mean fixed_cell"),
        ({"fmax": 0}, r"fmax must be a number above 0 \(eV/Å\), not 0"),
        ({"fmax": "small"}, "fmax must be a number above 0"),
        ({"fmax": True}, "fmax must be a number above 0"),
        ({"steps": -1}, "steps must be a whole number, 0 or more, not -1"),
        ({"steps": 1.5}, "steps must be a whole number, 0 or more, not 1.5"),
        ({"steps": True}, "steps must be a whole number"),
        ({"fixed_cell": "yes"}, "fixed_cell must be True or False, not 'yes'"),
        ({"keep_symmetry": 1}, "keep_symmetry must be True or False, not 1"),
        ({"trajectory": True}, "a trajectory is kept of a single structure, and the set has 2"),
    ],
)
def test_bad_parameters(code, model, parameters, words):
    with pytest.raises(ValueError, match=words):
        run(code, model, structure_set(cells()), **parameters)


def test_a_model_that_is_no_potential(code, small_model):
    with pytest.raises(ValueError, match="small-formation.* is no potential: the energy of its architecture cgcnn"):
        run(code, DataFactory("cgcnn.model").get_or_create(small_model), structure_set(cells()))


def test_several_models_of_one_folder(code):
    with pytest.raises(ValueError, match=r"the node holds 3 models \(.*\); a relaxation needs one potential"):
        run(code, "elastic", structure_set(cells()))


def test_partial_occupations(code, model):
    structure = orm.StructureData(cell=np.eye(3) * 4)
    structure.append_atom(symbols=["Ni", "Co"], weights=[0.5, 0.5], position=(0, 0, 0), name="M")
    with pytest.raises(ValueError, match="partially occupied sites"):
        run(code, model, structure)


def test_checks_of_every_job_still_apply(code, model):
    """Validation of the inputs together does not replace AiiDA's own."""
    inputs = {"code": code, "model": model, "structures": structure_set(cells())}
    with pytest.raises(ValueError, match="parser"):
        run_get_node(
            CalculationFactory("cgcnn.relax"), metadata={"options": {"parser_name": "cgcnn.no_such"}}, **inputs
        )


def test_the_columns_are_those_of_the_package():
    assert {*NUMBERS, *TEXTS, *FLAGS} <= set(COLUMNS)


# The parser, on what a job may leave


@pytest.fixture
def parsed(code, model, tmp_path):
    """Parse made-up files: name to text, as a job on two structures would have left them."""

    def parse(*, trajectory=False, **files):
        node = orm.CalcJobNode(computer=code.computer, process_type="aiida.calculations:cgcnn.relax")
        node.set_option("resources", {"num_machines": 1})
        node.set_option("check_versions", True)
        inputs = {
            "model": model, "structures": structure_set(cells()[: 1 if trajectory else 2]).store(), "code": code,
            "package_version": orm.Str(metadata.version("cgcnn-ase")).store(),
            "versions": orm.Dict({"numpy": metadata.version("numpy")}).store(),
            "parameters": orm.Dict({"fmax": FMAX, "trajectory": trajectory}).store(),
        }  # fmt: skip
        for label, value in inputs.items():
            node.base.links.add_incoming(value, link_type=LinkType.INPUT_CALC, link_label=label)
        node.store()
        retrieved = orm.FolderData()
        names = {"exit": "exit_code", "err": "cgcnn-ase.err", "environment": "environment.json"}
        for name, text in files.items():
            if name in names:
                retrieved.base.repository.put_object_from_bytes(text.encode(), names[name])
            else:
                path = tmp_path / {"table": "relaxed.csv", "relaxed": "relaxed.extxyz"}.get(name, name)
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
        retrieved.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label="retrieved")
        retrieved.store()
        return ParserFactory("cgcnn.relax").parse_from_node(
            node, store_provenance=False, retrieved_temporary_folder=str(tmp_path)
        )

    return parse


@pytest.fixture(scope="module")
def written(folder):
    """The files of a good run on two structures, by what the package itself gives."""
    from ase.io.extxyz import write_extxyz

    rows = relax(dict(zip(["s0", "s1"], cells(), strict=True)), folder, fmax=FMAX)
    table, relaxed = io.StringIO(), io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for k, row in enumerate(rows):
        writer.writerow(row.row() | {"id": f"s{k}"})
        write_extxyz(relaxed, [row.atoms])
    environment = {
        "package_version": metadata.version("cgcnn-ase"), "checkout": {}, "engine": "torch",
        "versions": {"numpy": metadata.version("numpy")},
    }  # fmt: skip
    return {"table": table.getvalue(), "relaxed": relaxed.getvalue(), "environment": json.dumps(environment)}


def test_parsing_a_good_run(parsed, written):
    results, ended = parsed(exit="0\n", **written)
    assert ended.is_finished_ok, ended.exit_message
    assert len(results["relaxed"]) == 2


def less(text, n):
    """Without the last n lines."""
    return "".join(text.splitlines(keepends=True)[:-n])


def changed(written, column, value):
    """The table with another value in the first row."""
    rows = list(csv.DictReader(io.StringIO(written["table"])))
    rows[0][column] = value
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return {**written, "table": table.getvalue()}


def without(written, name):
    return {key: text for key, text in written.items() if key != name}


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda w: {"exit": "2", "err": "cgcnn-ase: no model 'x'"}, 310, "could not start: no model 'x'"),
        (lambda w: {"exit": "137", **w}, 320, "was killed (exit code 137)"),
        (lambda w: {"table": less(w["table"], 1)}, 321, "after 1 of 2 structures"),
        (lambda w: {}, 321, "after 0 of 2 structures"),
        (lambda w: {"exit": "1", **without(w, "table"), "err": "Oops"}, 330, "left no relaxed.csv: Oops"),
        (lambda w: {"exit": "0", **without(w, "relaxed")}, 330, "left no relaxed.extxyz"),
        (lambda w: {"exit": "0", **without(w, "environment")}, 330, "left no environment.json: it tells what ran"),
        (lambda w: {"exit": "0", **w, "environment": "[]"}, 331, "environment.json cannot be read"),
        (lambda w: {"exit": "0", **w, "table": "not a table"}, 331, "relaxed.csv cannot be read: it lacks the columns"),
        (lambda w: {"exit": "0", **w, "table": w["table"][:-90]}, 331, "relaxed.csv cannot be read: row 1 is cut"),
        (lambda w: {"exit": "0", **changed(w, "energy", "low")}, 331, "energy of row 0 is 'low'"),
        (lambda w: {"exit": "0", **changed(w, "energy", "nan")}, 331, "row 0 has neither an error nor energy"),
        (lambda w: {"exit": "0", **changed(w, "steps", "")}, 331, "row 0 has neither an error nor steps"),
        (lambda w: {"exit": "0", **changed(w, "converged", "maybe")}, 331, "converged of row 0 is 'maybe'"),
        (lambda w: {"exit": "0", **changed(w, "id", "s1")}, 331, "the id 's1' is in it twice"),
        (lambda w: {"exit": "0", **w, "relaxed": w["relaxed"][:-40]}, 331, "relaxed.extxyz cannot be read"),
        (lambda w: {"exit": "0", **w, "relaxed": ""}, 331, "relaxed.extxyz cannot be read"),
        (lambda w: {"exit": "0", **w, "relaxed": less(w["relaxed"], 4)}, 331, "it holds 1 structures, relaxed.csv 2"),
        (lambda w: {"exit": "0", **w, "relaxed": w["relaxed"].replace("Na ", "Li ")}, 331, "'s0' has other atoms"),
        (lambda w: {"exit": "0", **w, "relaxed": w["relaxed"].replace(" energy=", " e=")}, 331, "no energy and forces"),
        (lambda w: {"exit": "0", **w, "table": less(w["table"], 1)}, 332, "1 of 2 structures have no row: s1"),
        (lambda w: {"exit": "0", **changed(w, "model_sha256", "abc")}, 333, "relaxed on a model abc, asked was"),
        (
            lambda w: {"exit": "0", **w, "environment": w["environment"].replace(metadata.version("numpy"), "0.1")},
            334,
            "numpy 0.1, asked was",
        ),
    ],
)
def test_each_failure_has_its_number(parsed, written, change, status, words):
    results, ended = parsed(**change(written))
    assert ended.exit_status == status, ended.exit_message
    assert words in ended.exit_message
    assert "relaxed" not in results


def test_a_trajectory_that_is_not_there_or_damaged(parsed, written):
    single = {**written, "table": less(written["table"], 1), "relaxed": less(written["relaxed"], 4)}
    _, ended = parsed(trajectory=True, exit="0", err="gone", **single)
    assert ended.exit_status == 330
    assert "left no trajectory/*.extxyz: gone" in ended.exit_message
    _, ended = parsed(trajectory=True, exit="0", **single, **{"trajectory/s0.extxyz": single["relaxed"][:-30]})
    assert ended.exit_status == 331
    assert "trajectory/s0.extxyz cannot be read" in ended.exit_message
    results, ended = parsed(trajectory=True, exit="0", **single, **{"trajectory/s0.extxyz": single["relaxed"]})
    assert ended.is_finished_ok, ended.exit_message
    assert results["trajectory"].numsteps == 1


def test_failed_and_not_converged_together(parsed, written):
    table = changed(changed(written, "error", "bad"), "energy", "")["table"].replace("True", "False")
    relaxed = "".join(written["relaxed"].splitlines(keepends=True)[4:])
    results, ended = parsed(exit="1", **{**written, "table": table, "relaxed": relaxed})
    assert ended.exit_status == 341
    assert "could not be relaxed: s0 (the first: bad)" in ended.exit_message
    assert "1 of them are not converged: s1" in ended.exit_message
    assert results["relaxed"].ids == ("s1",)

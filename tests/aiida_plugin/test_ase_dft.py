"""Any ASE calculator as a job: real runs with EMT, restarts, and each way to fail."""

import json
import platform
import sys
from importlib import metadata
from itertools import pairwise

import ase
import numpy as np
import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.common.folders import SandboxFolder  # noqa: E402
from aiida.common.links import LinkType  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.engine.utils import instantiate_process  # noqa: E402
from aiida.manage import get_manager  # noqa: E402
from aiida.manage.caching import enable_caching  # noqa: E402
from aiida.plugins import CalculationFactory, ParserFactory, WorkflowFactory  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.calculators.emt import EMT  # noqa: E402

from aiida_plugin.data.labels import scheme_of  # noqa: E402
from aiida_plugin.parsers.ase_dft import scheme_of_job  # noqa: E402


@pytest.fixture
def code(aiida_code_installed):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=sys.executable)


@pytest.fixture
def warm_code(aiida_code_installed, warm_python):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=warm_python)


def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def inputs_of(code, atoms=None, *, options=None, **settings):
    """Those of one job with EMT, unless the settings say otherwise."""
    return {
        "code": code,
        "structure": orm.StructureData(ase=copper() if atoms is None else atoms),
        "settings": orm.Dict({"calculator": "emt", **settings}),
        "metadata": {"options": options or {}},
    }


def run(code, *args, **settings):
    return run_get_node(CalculationFactory("cgcnn.ase_dft"), **inputs_of(code, *args, **settings))


def test_a_run_gives_what_the_calculator_gives_here_and_is_cached(code):
    results, node = run(code)
    assert node.is_finished_ok, node.exit_message
    ours, theirs = results["labelled"].atoms(0), copper()
    theirs.calc = EMT()
    assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-9)
    assert np.allclose(ours.get_forces(), theirs.get_forces(), atol=1e-9)
    assert np.allclose(ours.get_stress(), theirs.get_stress(), atol=1e-12)
    assert results["output_parameters"]["energy"] == pytest.approx(ours.get_potential_energy(), abs=1e-9)
    assert results["labelled"].creator.inputs.structure.uuid == node.inputs.structure.uuid
    scheme = scheme_of(ours)
    assert (scheme["engine"], scheme["functional"]) == ("emt", "empirical")
    asked, ran = node.inputs.versions.get_dict(), results["environment"].get_dict()
    assert asked == {name: metadata.version(name) for name in ("ase", "numpy")}
    assert (ran["versions"], ran["engine"], ran["host"]) == (asked, "emt", platform.node())
    assert results["energy"].value == pytest.approx(theirs.get_potential_energy(), abs=1e-9)
    assert np.allclose(results["forces"].get_array("forces"), theirs.get_forces(), atol=1e-9)
    assert "relaxed_structure" not in results
    assert node.res.energy == results["energy"].value  # `verdi calcjob res`
    with enable_caching(identifier="aiida.calculations:cgcnn.ase_dft"):
        _, again = run(code)
    assert again.base.caching.get_cache_source() == node.uuid


@pytest.mark.slow
def test_a_relaxation_goes_on_until_it_is_done(code):
    """Three steps a job are too few; the next job starts where the last one ended."""
    chain = WorkflowFactory("cgcnn.ase_dft.base")
    inputs = inputs_of(code, task="relax", fmax=0.05, max_steps=3)
    results, node = run_get_node(chain, calc=inputs)
    assert node.is_finished_ok, node.exit_message
    jobs = node.called
    assert len(jobs) > 1
    assert [job.exit_status for job in jobs[:-1]] == [420] * (len(jobs) - 1)
    for before, after in pairwise(jobs):
        assert after.inputs.restart_folder.uuid == before.outputs.remote_folder.uuid
    relaxed = results["labelled"].atoms(0)
    assert np.allclose(results["relaxed_structure"].get_ase().positions, relaxed.positions)
    assert results["relaxed_structure"].creator.pk == jobs[-1].pk
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() <= 0.05
    assert scheme_of(relaxed)["relaxed"]
    here = relaxed.copy()
    here.calc = EMT()
    assert here.get_potential_energy() == pytest.approx(relaxed.get_potential_energy(), abs=1e-6)

    _, gave_up = run_get_node(chain, calc=inputs_of(code, task="relax", fmax=1e-9, max_steps=1), max_iterations=1)
    assert gave_up.exit_status == 430
    assert "gave up after 1 tries; the last: the relaxation did not converge: after 1 steps" in gave_up.exit_message


def test_a_job_in_a_container_gets_what_it_goes_on_from(code, tmp_path):
    """It sees its own folder alone, so that a link to another leads nowhere; the script is started once outside."""
    contained = orm.ContainerizedCode(
        engine_command="apptainer exec {image_name}", image_name="gpaw.sif", filepath_executable="python3",
        computer=code.computer, default_calc_job_plugin="cgcnn.ase_dft",
    ).store()  # fmt: skip
    (tmp_path / "before").mkdir()
    before = orm.RemoteData(computer=code.computer, remote_path=str(tmp_path / "before")).store()
    jobs = []
    for each in (code, contained):
        folder = SandboxFolder()
        process = instantiate_process(
            get_manager().get_runner(), CalculationFactory("cgcnn.ase_dft"), **inputs_of(each), restart_folder=before
        )
        jobs.append((process.prepare_for_submission(folder), process.inputs, folder.get_content_list()))
    (plain, asked, _), (inside, nothing, files) = jobs
    assert [link[2] for link in plain.remote_symlink_list] == ["previous"]
    assert not inside.remote_symlink_list
    assert "previous" in files
    assert [copy[1:] for copy in inside.remote_copy_list] == [
        (f"{tmp_path}/before/{name}", f"previous/{name}") for name in ("state.json", "restart.gpw")
    ]
    assert "versions" in asked
    assert "versions" not in nothing  # what is in an image is not known here


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({"calculator": "warp"}, 310, "no calculator 'warp': neither a name that ASE knows, nor module:Class"),
        ({"calculator": "ase.calculators.emt:FTL"}, 310, "has no attribute 'FTL'"),
        ({"calculator": "not_installed_here:Any"}, 311, "needs not_installed_here"),
        ({"calculator": "ase.calculators.tip3p:TIP3P", "parameters": {"warp": 9}}, 310, "refuses its parameters"),
        ({"properties": ["magmoms"]}, 310, "the calculator computes no magmoms"),
    ],
)
def test_what_the_calculator_refuses_comes_back_in_words(warm_code, settings, status, words):
    _, node = run(warm_code, **settings)
    assert node.exit_status == status, node.exit_message
    assert words in node.exit_message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"speed": 9}, "unknown settings speed; allowed: calculator, parameters, task"),
        ({"calculator": None}, "settings must name a calculator"),
        ({"task": "dance"}, "task 'dance'; allowed: energy, relax"),
        ({"properties": ["beauty"]}, "unknown properties beauty; allowed: energy, forces, stress, magmoms"),
        ({"moments": [1]}, "moments must be a dict"),
        ({"functional": "PBE"}, "functional 'PBE': the calculator emt has none, it is empirical"),
        (
            {"calculator": "chgnet", "functional": "PBE"},
            "functional 'PBE': the calculator chgnet has none, it is machine-learned",
        ),
    ],
)
def test_settings_that_make_no_sense(code, settings, words):
    with pytest.raises(ValueError, match=words):
        run(code, **settings)


# The parser, on what a job may leave

GOOD = {
    "status": "ok",
    "results": {"energy": -1.5, "forces": [[0.0, 0.0, 0.1]] * 4},
    "positions": copper().positions.tolist(),
    "relax_steps": None,
    "version": "1",
    "environment": {"versions": {"ase": ase.__version__}, "engine": "emt", "host": "node7", "seeds": {}},
}


@pytest.fixture
def parsed(code):
    """Parse made-up files: name to text, as a job would have left them."""

    def parse(**files):
        node = orm.CalcJobNode(computer=code.computer, process_type="aiida.calculations:cgcnn.ase_dft")
        node.set_option("resources", {"num_machines": 1})
        node.set_option("check_versions", True)
        inputs = inputs_of(code, moments={"Cu": 1.0})
        inputs["versions"] = orm.Dict({"ase": ase.__version__})
        for name in ("structure", "settings", "code", "versions"):
            value = inputs[name] if inputs[name].is_stored else inputs[name].store()
            node.base.links.add_incoming(value, link_type=LinkType.INPUT_CALC, link_label=name)
        node.store()
        retrieved = orm.FolderData()
        names = {"exit": "exit_code", "err": "ase.err", "results": "results.json"}
        for name, text in files.items():
            retrieved.base.repository.put_object_from_bytes(text.encode(), names[name])
        retrieved.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label="retrieved")
        retrieved.store()
        return ParserFactory("cgcnn.ase_dft").parse_from_node(node, store_provenance=False)

    return parse


def results(**changes):
    return json.dumps({**GOOD, **changes})


def test_parsing_a_good_run(parsed):
    result, ended = parsed(exit="0", results=results())
    assert ended.is_finished_ok, ended.exit_message
    atoms = result["labelled"].atoms(0)
    assert atoms.get_potential_energy() == -1.5
    assert scheme_of(atoms)["spin"]
    assert (result["environment"]["host"], result["environment"]["differences"]) == ("node7", [])
    assert "relax_steps" not in result["output_parameters"].get_dict()


@pytest.mark.parametrize(
    ("files", "status", "words"),
    [
        ({"exit": "2", "results": results(status="usage", reason="bad")}, 310, "could not start: bad"),
        ({"exit": "2", "results": results(status="missing", reason="needs x")}, 311, "needs x: install it"),
        ({"exit": "1", "err": "Traceback\nValueError: too close"}, 312, "stopped: ValueError: too close"),
        ({"exit": "137"}, 320, "was killed (exit code 137)"),
        ({"exit": "2", "results": results(status="memory", reason="more than there is")}, 320, "more than there is"),
        ({}, 321, "out of wall time: the job ended before the calculator did"),
        ({"exit": "2", "results": results(status="time", reason="over")}, 321, "out of wall time: over"),
        ({"exit": "0", "err": "gone"}, 330, "left no results.json: gone"),
        ({"exit": "0", "results": "{"}, 331, "results.json cannot be read"),
        ({"exit": "0", "results": results(environment=None)}, 331, "it does not tell what ran"),
        ({"exit": "0", "results": "[]"}, 331, "results.json cannot be read"),
        ({"exit": "0", "results": results(results={"forces": [[0, 0, 0]] * 4})}, 331, "KeyError: 'energy'"),
        ({"exit": "0", "results": results(results={"energy": 1, "forces": [[0, 0, 0]]})}, 331, "forces is of shape"),
        ({"exit": "0", "results": results(results={"energy": float("nan")})}, 332, "gave no number"),
        ({"exit": "2", "results": results(status="not_finite", reason="energy is not finite")}, 332, "energy is not"),
        ({"exit": "0", "results": results(environment={"versions": {"ase": "1"}})}, 334, "ase 1, asked was"),
        ({"exit": "2", "results": results(status="scf", reason="100 steps")}, 410, "did not converge: 100 steps"),
        ({"exit": "2", "results": results(status="relax", reason="9 steps")}, 420, "did not converge: 9 steps"),
    ],
)
def test_each_failure_has_its_number(parsed, files, status, words):
    result, ended = parsed(**files)
    assert ended.exit_status == status, ended.exit_message
    assert words in ended.exit_message
    assert "labelled" not in result


# What the labels are called


def scheme(calculator, parameters=None, **settings):
    facts = {
        "calculator": calculator, "parameters": parameters or {}, "task": "energy", "functional": None,
        "kpoints_distance": None, **settings,
    }  # fmt: skip
    return scheme_of_job(facts, {"version": "1"}, spin=False)


def test_a_machine_learned_potential_is_called_what_it_is():
    assert scheme("chgnet")["functional"] == "machine-learned"
    assert scheme("mace.calculators:mace_mp")["functional"] == "machine-learned"
    assert scheme("emt")["functional"] == "empirical"
    assert scheme("espresso")["functional"] == "unknown"
    assert scheme("espresso", functional="PBE")["functional"] == "PBE"


def test_the_scheme_tells_u_cutoff_and_smearing_of_gpaw():
    parameters = {
        "mode": {"name": "pw", "ecut": 300}, "xc": "PBE", "setups": {"Ni": "10:d,6.2", "Co": ":d,3.32,0", "Li": "1"},
        "occupations": {"name": "fermi-dirac", "width": 0.1},
    }  # fmt: skip
    result = scheme("gpaw", parameters)
    assert result["hubbard_u"] == {"Ni": 6.2, "Co": 3.32}
    assert result["cutoffs"] == {"wave functions": 300.0}
    assert result["smearing"]["width"] == 0.1
    assert scheme("gpaw", {**parameters, "occupations": {"width": 0.2}}) != result

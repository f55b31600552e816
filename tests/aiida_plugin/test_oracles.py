"""DFT as oracle of an optimisation: values, what fails, what is not computed twice, and what is in the graph."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.common.links import LinkType  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.calculators.emt import EMT  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from aiida_plugin.calculations.functions.optimisation_step import PROCESS_TYPE, record_steps  # noqa: E402
from aiida_plugin.engines.base import engine as engine_of  # noqa: E402
from aiida_plugin.engines.protocol import resolve  # noqa: E402
from aiida_plugin.oracles.dft import (  # noqa: E402
    DFTOracle,
    DFTSettings,
)
from aiida_plugin.provenance.label_kinds import engine_process_types  # noqa: E402
from aiida_plugin.provenance.lineage import lineage  # noqa: E402
from cgcnn_ase.optimization.config import build_problem, read_config  # noqa: E402
from cgcnn_ase.optimization.loop import optimise  # noqa: E402
from cgcnn_ase.optimization.oracles import BatchOracle, OracleError, make_oracle  # noqa: E402
from cgcnn_ase.optimization.records import RecordingOracle  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _daemon import profile  # noqa: E402
from _learning import make_codes  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "optimize_ncm.yaml"
STRUCTURES = """
from ase.build import bulk

def metal(point):
    return bulk(point["metal"], "fcc", a=point["a"])

def hydride(point):
    return bulk("LiH", "rocksalt", a=point["a"])
"""


@pytest.fixture(autouse=True)
def code(aiida_profile, aiida_code_installed, warm_python):
    return aiida_code_installed(
        label="python", default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=warm_python
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "structures.py").write_text(STRUCTURES)
    return tmp_path


def emt(**settings):
    values = {"code": "python@localhost", "protocol": "fast", "overrides": {"calculator": "emt"}} | settings
    return DFTOracle("ase", DFTSettings(**values))


def metals(*names, **changes):
    """An optimisation over metals and lattice constants."""
    return {
        "space": {
            "variables": {"metal": {"categories": list(names)}, "a": {"low": 3.5, "high": 4.2}},
            "structure": "structures.py:metal",
        },
        "objectives": "energy_per_atom",
        "oracle": "gpaw",
        "budget": {"evaluations": 4, "initial": 4, "batch": 2},
        "seed": 1,
    } | changes


def steps_of(run):
    """The nodes of a run's rounds."""
    query = orm.QueryBuilder()
    query.append(orm.Dict, filters={"attributes.folder": str(run.resolve())}, tag="settings")
    query.append(orm.CalcFunctionNode, filters={"process_type": PROCESS_TYPE}, with_incoming="settings", tag="step")
    return query.order_by({"step": {"id": "asc"}}).all(flat=True)


@pytest.mark.slow
def test_the_command_with_real_gpaw(folder):
    """Lithium hydride: formation energies from GPAW's own lithium and H2; from the last round back to all jobs."""
    gpaw = pytest.importorskip("gpaw", reason="GPAW is an optional extra")
    from cgcnn_ase.cli.app import app

    config = {
        "space": {"variables": {"a": {"low": 4.1, "high": 4.5}}, "structure": "structures.py:hydride"},
        "objectives": "formation_energy_per_atom",
        "oracle": {"name": "gpaw", "protocol": "fast", "overrides": {"spin": False}},
        "budget": {"evaluations": 3, "initial": 2, "batch": 2},
    }
    (folder / "gpaw.yaml").write_text(yaml.safe_dump(config))
    done = CliRunner().invoke(app, ["optimize", str(folder / "gpaw.yaml"), "--output", str(folder / "run"), "--json"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (folder / "run" / "evaluations.jsonl").read_text().splitlines()]
    what = f"GPAW {gpaw.__version__} (PBE, plane waves 250 eV, protocol fast) through AiiDA"
    assert {line["oracle"] for line in lines} == {what}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here = bulk("LiH", "rocksalt", a=lines[0]["point"]["a"])
        here.calc = gpaw.GPAW(
            mode=gpaw.PW(250), xc="PBE", kpts={"size": (2, 2, 2), "gamma": True}, txt=None,
            occupations=gpaw.FermiDirac(0.1), convergence={"energy": 1e-4, "density": 1e-3, "eigenstates": 1e-4},
        )  # fmt: skip
        energy = here.get_potential_energy()
    (cell,) = lines[0]["cells"].values()
    assert cell["values"]["energy"] == pytest.approx(energy, abs=1e-4)
    chain = orm.load_node(cell["info"]["label_workchain"])
    known = chain.outputs.reference_energies["energies"]
    assert lines[0]["values"]["formation_energy_per_atom"] == pytest.approx(
        (energy - known["Li"] - known["H"]) / 2, abs=1e-4
    )
    assert cell["info"]["scheme_id"] == chain.outputs.reference_energies["scheme_id"]
    assert cell["info"]["engine_version"] == gpaw.__version__

    first, last = steps_of(folder / "run")
    assert last.inputs.previous.uuid == first.outputs.result.uuid
    assert last.inputs.settings["config"]["oracle"]["protocol"] == "fast"
    assert last.outputs.result["n_evaluated"] == 3
    best = min(lines, key=lambda line: line["values"]["formation_energy_per_atom"])
    assert last.outputs.result["best"]["formation_energy_per_atom"]["key"] == best["key"]
    behind = lineage([last.outputs.result.pk], "ancestors")
    jobs = [orm.load_node(row.pk) for row in behind.nodes.values() if row.process_type in engine_process_types()]
    cells = {job.inputs.structure.get_cell_volume() for job in jobs if job.inputs.structure.get_formula() == "HLi"}
    assert sorted(cells) == pytest.approx(sorted(line["point"]["a"] ** 3 / 4 for line in lines))
    # the elements were computed in the first round, and not again
    second = orm.load_node(next(iter(lines[2]["cells"].values()))["info"]["label_workchain"])
    called = [link.link_label for link in second.base.links.get_outgoing(link_type=LinkType.CALL_WORK).all()]
    assert called == ["row_0"]


def test_a_batch_is_one_work_chain_and_equal_structures_one_run():
    oracle = emt()
    assert isinstance(oracle, BatchOracle)
    assert isinstance(oracle, RecordingOracle)
    cells = [bulk("Cu"), bulk("Ag"), bulk("Cu"), None]
    replies = dict(oracle.evaluate_many([{}] * 4, cells))
    for k, symbol in enumerate(["Cu", "Ag", "Cu"]):
        atoms = bulk(symbol)
        atoms.calc = EMT()
        assert replies[k].values == {"energy": pytest.approx(atoms.get_potential_energy(), abs=1e-9)}
        assert replies[k].stds == {}
        assert replies[k].info["scale"] == "other:emt empirical"
    assert isinstance(replies[3], OracleError)
    assert len({replies[k].info["label_workchain"] for k in range(3)}) == 1
    chain = orm.load_node(replies[0].info["label_workchain"])
    assert chain.inputs.structures.ids == tuple(replies[k].info["id"] for k in (0, 1))
    assert len([each for each in chain.called_descendants if isinstance(each, orm.CalcJobNode)]) == 2


@pytest.mark.slow
def test_what_fails_is_recorded_and_not_told(folder):
    """EMT knows no titanium."""
    result = optimise(metals("Cu", "Ti"), folder / "run", folder=folder, oracle=emt())
    assert {record.point["metal"] for record in result.failed} == {"Ti"}
    assert 0 < len(result.failed) < 4
    for record in result.failed:
        assert record.values == {}
        assert "the calculator stopped" in record.reason
        assert "label work chain" in record.reason
    nodes = steps_of(folder / "run")
    assert [node.outputs.result["round"] for node in nodes] == [1, 2]
    log = nodes[-1].outputs.result.get_dict()
    assert (log["n_evaluated"], log["n_failed"]) == (4, len(result.failed))
    assert log["best"]["energy_per_atom"]["key"] == result.best.key
    # the failure is linked to the work chain, and by that to the job that stopped
    failures = [
        link.node for node in nodes for link in node.base.links.get_incoming().all() if "failures" in link.link_label
    ]
    assert sum(each["n_failed"] for each in failures) == len(result.failed)
    for each in failures:
        (chain,) = each.base.links.get_incoming(link_type=LinkType.RETURN).all_nodes()
        assert 312 in {job.exit_status for job in chain.called_descendants if isinstance(job, orm.CalcJobNode)}


def test_all_that_fails_is_a_failure_each():
    replies = dict(emt().evaluate_many([{}, {}], [bulk("Ti"), bulk("Zr")]))
    assert "Ti" in str(replies[0])
    assert "Zr" in str(replies[1])


def jobs_of(evaluation):
    chain = orm.load_node(evaluation.info["label_workchain"])
    return [each for each in chain.called_descendants if isinstance(each, orm.CalcJobNode)]


@pytest.mark.slow
def test_what_was_computed_is_not_computed_again_and_what_failed_is(folder):
    copper = bulk("Cu", a=3.647)
    (first,) = jobs_of(emt().evaluate({}, copper))
    (again,) = jobs_of(emt().evaluate({}, copper))
    assert again.base.caching.get_cache_source() == first.uuid
    oracle = emt()
    for _ in range(2):
        with pytest.raises(OracleError):
            oracle.evaluate({}, bulk("Zr", a=3.2, c=5.1))
    query = orm.QueryBuilder().append(
        orm.CalcJobNode, filters={"attributes.exit_status": 312, "extras": {"has_key": "_aiida_cached_from"}}
    )
    assert query.count() == 0


@pytest.mark.slow
def test_killed_and_resumed(folder):
    """The kill comes when a round is evaluated, and before it is a node."""

    class Killed(RuntimeError):
        pass

    config = metals("Cu", "Ag", "Au", budget={"evaluations": 2, "initial": 2})
    oracle = emt()
    oracle.on_step = lambda step: (_ for _ in ()).throw(Killed())
    with pytest.raises(Killed):
        optimise(config, folder / "run", folder=folder, oracle=oracle)
    assert steps_of(folder / "run") == []
    for _ in range(2):  # the second time all is there
        optimise(config, folder / "run", folder=folder, oracle=emt(), resume=True)
        nodes = steps_of(folder / "run")
        assert [node.outputs.result["round"] for node in nodes] == [1, 2]
        assert nodes[1].inputs.previous.uuid == nodes[0].outputs.result.uuid
    labels = [node.inputs.labelled_0.uuid for node in nodes]
    assert len(set(labels)) == 2
    assert len({node.inputs.settings.uuid for node in nodes}) == 1


@pytest.mark.slow
def test_energies_that_are_not_those_of_the_labels_are_no_node(folder):
    steps = []
    config = metals("Cu", "Ag", budget={"evaluations": 1})
    optimise(config, folder / "run", folder=folder, oracle=emt(), on_step=steps.append)
    record = steps[0].records[0]
    next(iter(record.cells.values()))["values"]["energy"] += 0.1
    run = {"config": {}, "oracle": {}, "objectives": [], "folder": "elsewhere"}
    with pytest.raises(ValueError, match="that of its label"):
        record_steps(run)(steps[0])


def test_steps_of_any_oracle(folder):
    steps = []
    (folder / "f.py").write_text("def f(point, atoms):\n    return {'value': (point['x'] - 0.3) ** 2}\n")
    config = {
        "space": {"variables": {"x": {"low": 0.0, "high": 1.0}}},
        "objectives": "value",
        "oracle": {"name": "callable", "function": "f.py:f"},
        "budget": {"evaluations": 4, "initial": 2},
    }
    run = {
        "config": config,
        "oracle": {"what": "f"},
        "objectives": [{"name": "value", "wanted": "min"}],
        "folder": str(folder / "run"),
    }
    keep = record_steps(run)
    result = optimise(config, folder / "run", folder=folder, on_step=lambda step: steps.append(keep(step)))
    assert [log["n_evaluated"] for log in steps] == [1, 2, 3, 4]
    assert steps[-1]["best"]["value"]["value"] == pytest.approx(result.best.values["value"], rel=1e-12)
    with pytest.raises(ValueError, match="run lacks folder, objectives"):
        record_steps({"config": {}, "oracle": {}})


def test_the_example_with_gpaw_is_accepted(tmp_path):
    values = yaml.safe_load(EXAMPLE.read_text()) | {"oracle": "gpaw", "budget": {"evaluations": 2}}
    (tmp_path / "ncm.yaml").write_text(yaml.safe_dump(values))
    config = read_config(tmp_path / "ncm.yaml")
    oracle = make_oracle(config.oracle.name, config.oracle.model_extra, folder=tmp_path)
    problem = build_problem(config, oracle, tmp_path)
    assert oracle.describe()["what"].startswith("GPAW ")
    assert "PBE+U, plane waves 500 eV, protocol balanced" in oracle.describe()["what"]
    point = problem.space.snap(
        {"ni_content": 0.5, "co_content": 0.33, "mn_content": 0.17, "li_vacancy_ratio": 0.2, "ordering_seed": 1}
    )
    assert set(problem.structure(point).symbols) == {"Li", "Ni", "Co", "Mn", "O"}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gpaw", {"protocol": "quick"}, "no protocol 'quick'; allowed: fast, balanced, stringent"),
        ("gpaw", {"protocoll": "fast"}, "unknown setting oracle.protocoll; did you mean protocol"),
        ("gpaw", {"overrides": {"cutof": 1}}, "no setting cutof; allowed"),
        (
            "gpaw",
            {"code": "nowhere@localhost"},
            "there is no code 'nowhere@localhost'; make it with `aiida-cgcnn setup`",
        ),
        ("gpaw", {"max_parallel": 0}, "oracle.max_parallel"),
        ("vasp", {}, "oracle.code: vasp has no code by default"),
    ],
)
def test_bad_options_are_refused_in_words(name, options, words):
    with pytest.raises(ValueError, match="oracle|no ") as refused:
        make_oracle(name, options)
    assert words in str(refused.value)


def test_a_code_of_another_engine(aiida_code_installed):
    other = aiida_code_installed(label="other", default_calc_job_plugin="core.arithmetic.add")
    with pytest.raises(ValueError, match="needs one for cgcnn.ase_dft"):
        emt(code=other.full_label).evaluate({}, bulk("Cu"))


DAEMON = """
import sys
from ase.build import bulk
from aiida.orm import QueryBuilder, WorkChainNode
from aiida_plugin.oracles import dft
from aiida_plugin.oracles.dft import DFTSettings

if KILLED:
    dft.terminated = lambda waiting: sys.exit(0)
settings = {"code": "python", "protocol": "fast", "overrides": {"calculator": "emt"}, "submit": True}
oracle = dft.DFTOracle("ase", DFTSettings(**settings))
found = dict(oracle.evaluate_many([{}] * len(METALS), [bulk(metal) for metal in METALS]))
chains = QueryBuilder().append(WorkChainNode, filters={"attributes.process_label": "LabelWorkChain"}).count()
print("FOUND", chains, *(found[k].values["energy"] for k in range(len(METALS))))
"""


@pytest.mark.slow
def test_under_the_daemon_a_killed_optimiser_finds_its_work_chain_again():
    with profile() as made:
        make_codes(made)
        made.verdi("daemon", "start")
        made.python(f"KILLED, METALS = True, ['Cu', 'Ag']\n{DAEMON}")
        output = made.python(f"KILLED, METALS = False, ['Cu', 'Ag', 'Au']\n{DAEMON}", timeout=240)
        starts = (made.folder / "runs.log").read_text().count("start")
    _, n_chains, *energies = output[output.index("FOUND") :].split()[:5]
    assert int(n_chains) == 2  # gold alone is in the second
    assert starts == 3
    for metal, energy in zip(["Cu", "Ag", "Au"], energies, strict=True):
        atoms = bulk(metal)
        atoms.calc = EMT()
        assert float(energy) == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def test_submit_needs_a_daemon():
    with pytest.raises(ValueError, match="oracle.submit"):
        emt(submit=True).evaluate({}, bulk("Cu"))


def test_without_a_profile(tmp_path):
    line = "from cgcnn_ase.optimization.oracles import make_oracle; make_oracle('gpaw')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", line],
        env=os.environ | {"AIIDA_PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ValueError: DFT through AiiDA needs a profile" in done.stderr
    assert "verdi presto --use-zeromq && aiida-cgcnn setup" in done.stderr


@pytest.mark.parametrize(
    ("engine", "protocol", "overrides", "words"),
    [
        ("gpaw", "fast", {}, "GPAW (PBE, plane waves 250 eV, protocol fast) through AiiDA"),
        (
            "gpaw",
            "stringent",
            {"relax": True},
            "GPAW (PBE+U, plane waves 700 eV, protocol stringent, positions relaxed to",
        ),
        ("vasp", "balanced", {"hubbard": False}, "VASP (PBE, plane waves 520 eV, protocol balanced) through AiiDA"),
        ("quantumespresso", "fast", {}, "Quantum ESPRESSO (PBE, plane waves, protocol fast) through AiiDA"),
        ("cp2k", "fast", {}, "CP2K (PBE, DZVP-MOLOPT-SR-GTH, protocol fast) through AiiDA"),
        ("ase", "fast", {"calculator": "emt"}, "the ASE calculator emt through AiiDA"),
    ],
)
def test_what_it_says_of_itself(engine, protocol, overrides, words):
    assert engine_of(engine).describe(resolve(engine, protocol, overrides), protocol).startswith(words)

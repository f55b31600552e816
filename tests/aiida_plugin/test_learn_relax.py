"""Relaxation by an engine that is asked where the potential does not know, with EMT for DFT."""

import math
import re

import numpy as np
import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.engine.utils import instantiate_process  # noqa: E402
from aiida.manage import get_manager  # noqa: E402
from aiida.plugins import CalculationFactory, DataFactory, WorkflowFactory  # noqa: E402
from ase.build import add_adsorbate, bulk, fcc111  # noqa: E402
from ase.calculators.emt import EMT  # noqa: E402
from ase.constraints import FixAtoms, FixedPlane  # noqa: E402
from click.testing import CliRunner  # noqa: E402

from aiida_plugin.calculations.functions.learn_step import learn_step  # noqa: E402
from aiida_plugin.cli.app import main  # noqa: E402
from aiida_plugin.data.labels import scheme_of  # noqa: E402
from aiida_plugin.provenance.label_kinds import labels_behind  # noqa: E402
from aiida_plugin.provenance.origin import origin  # noqa: E402
from aiida_plugin.provenance.picture import graph_picture  # noqa: E402
from cgcnn_ase.learning.reference import ask_reference  # noqa: E402
from cgcnn_ase.learning.session import LearnedRelaxation, LearnedRelaxOptions  # noqa: E402
from cgcnn_ase.learning.shared import SharedMemory  # noqa: E402
from cgcnn_ase.models.checkpoint import save_model  # noqa: E402

from ..potential.conftest import random_potential  # noqa: E402
from .labelled import small_formation_model  # noqa: E402
from .test_label import from_checkpoint  # noqa: E402
from .test_label import runner as runner  # noqa: E402

SETTINGS = {"fmax": 0.05, "fixed_cell": True, "max_calls": 15}


@pytest.fixture
def code(aiida_code_installed, warm_python):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=warm_python)


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    """A small potential with random weights."""
    return save_model(random_potential(), tmp_path_factory.mktemp("models") / "random")


def slab():
    """H on Al(111), of which the lower layer stays."""
    atoms = fcc111("Al", (1, 1, 2), vacuum=5.0, periodic=True)
    add_adsorbate(atoms, "H", 1.2, "fcc")
    atoms.set_constraint(FixAtoms([0]))
    atoms.info["family"] = "slab"
    return atoms


def copper(seed=0, symbol="Cu"):
    atoms = bulk(symbol, cubic=True, a=3.65)
    atoms.rattle(0.1, seed=seed)
    return atoms


def structure_set(**named):
    return DataFactory("cgcnn.structures").from_ase(named.values(), list(named))


def builder(code, structures, model=None, *, overrides=None, settings=None, **options):
    return WorkflowFactory("cgcnn.learn_relax").get_builder_from_protocol(
        code, structures, model, "ase", "fast", {"calculator": "emt"} | (overrides or {}),
        settings=SETTINGS | (settings or {}), **options,
    )  # fmt: skip


def relaxed_here(atoms):
    """The same in this process, without AiiDA."""
    session = LearnedRelaxation(atoms, SharedMemory(None), LearnedRelaxOptions(**SETTINGS), trajectory="slab")
    while (request := session.ask()) is not None:
        session.tell(*ask_reference(EMT(), session.atoms_of(request.structure), with_stress=session.with_cell))
    return session


@pytest.fixture
def earlier(code):
    """Makes a memory of nine structures, with labels as the engine's runs have them."""

    def make(structures):
        _, node = run_get_node(builder(code, structure_set(copper=bulk("Cu")), settings={"max_calls": 1}))
        scheme = scheme_of(node.outputs.labels.atoms(0))
        return DataFactory("cgcnn.structures").from_ase([labelled(atoms, **scheme) for atoms in structures])

    return make


def labelled(atoms, **scheme):
    """As an engine would leave it."""
    atoms.calc = EMT()
    atoms.get_stress()
    atoms.info["label_scheme"] = {"engine": "emt", "functional": "empirical"} | scheme
    return atoms


def steps_here(structures, settings, label_settings=None, **inputs):
    """All steps without the engine's jobs; the outputs of the last, and all requests."""
    inputs |= {"structures": structures, "settings": orm.Dict(settings)}
    if label_settings is not None:
        inputs["label_settings"] = orm.Dict(label_settings)
    outputs, requests = learn_step(**inputs), []
    while "request" in outputs:
        requests.append(outputs["request"].get_dict())
        told = structure_set(**{"0": labelled(outputs["structure"].get_ase())})
        inputs |= {"new_label": told, "request": outputs["request"]}
        outputs = learn_step(**inputs)
        inputs["labels"] = outputs["labels"]
    return outputs, requests


def jobs(node):
    return [each for each in node.called_descendants if isinstance(each, orm.CalcJobNode)]


def test_a_slab(code, small_model, tmp_path):
    """The path is the package's own; by links alone the end leads back to every label."""
    results, node = run_get_node(builder(code, structure_set(slab=slab())))
    assert node.is_finished_ok, node.exit_message
    session = relaxed_here(slab())
    labels = results["labels"]
    assert len(labels) == len(session.labels) > 2
    assert labels.ids == tuple(f"slab:{k}" for k in range(len(labels)))
    for ours, theirs in zip(labels.iter_atoms(), session.labels, strict=True):
        assert np.allclose(ours.positions, theirs.atoms.positions, atol=1e-6)
        assert ours.get_potential_energy() == pytest.approx(theirs.energy, abs=1e-6)
        assert (ours.info["trajectory"], ours.info["asked_because"]) == ("slab", theirs.reason)
        assert ours.info.get("force_error") == pytest.approx(theirs.force_error, abs=1e-4)
    relaxed = results["relaxed_structures"].atoms("slab")
    assert relaxed.get_potential_energy() == pytest.approx(session.converged.energy, abs=1e-6)
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() <= 0.05  # of atoms that move
    assert np.allclose(relaxed.positions[0], slab().positions[0], atol=1e-12)
    assert relaxed.info["family"] == "slab"
    (row,) = results["summary"]["structures"]
    assert (row["n_calls"], row["converged"]) == (len(labels), True)
    assert row["energy"] == pytest.approx(relaxed.get_potential_energy())
    assert results["summary"]["model"] == {"name": "springs", "sha256": ""}
    assert results["summary"]["scheme"]["engine"] == "emt"

    # what stands behind it
    runs = {job.pk for job in jobs(node)}
    assert len(runs) == len(labels)
    assert ancestors(results["relaxed_structures"]) == ancestors(labels) == runs
    for of in (results["relaxed_structures"], labels):
        behind = labels_behind(of)
        assert [(each.kinds, each.runs) for each in behind.labelled] == [(["empirical"], {"empirical": len(runs)})]
    model = DataFactory("cgcnn.model").get_or_create(small_model)
    predicted = CalculationFactory("cgcnn.predict_in_process")(model, results["relaxed_structures"])
    of = origin(predicted, "slab")
    assert runs < {row.pk for row in of.structure_steps}
    assert [row.pk for row in of.hosts] == [node.inputs.structures.pk]
    graph_picture(results["relaxed_structures"], tmp_path / "graph.dot")
    assert (tmp_path / "graph.dot").read_text().count("AseCalculation") == len(runs)


def ancestors(data):
    """All jobs of ASE calculators behind a node."""
    query = orm.QueryBuilder().append(orm.Data, filters={"id": data.pk}, tag="data")
    query.append(
        orm.CalcJobNode, with_descendants="data", filters={"process_type": {"like": "%cgcnn.ase_dft"}}, project="id"
    )
    return set(query.all(flat=True))


def test_structures_share_labels_and_the_potential(code, potential):
    """The second is asked about no more often than the first, though the weights of the potential are random."""
    model = DataFactory("cgcnn.model").get_or_create(potential)
    asked = builder(code, structure_set(a=copper(0), b=copper(1)), model, settings={"fmax": 0.1})
    results, node = run_get_node(asked)
    assert node.is_finished_ok, node.exit_message
    summary = results["summary"].get_dict()
    calls = [row["n_calls"] for row in summary["structures"]]
    assert calls[1] <= calls[0]
    assert len(jobs(node)) == len(results["labels"]) == summary["n_calls"] == sum(calls)
    assert [atoms.info["trajectory"] for atoms in results["labels"].iter_atoms()] == ["a"] * calls[0] + ["b"] * calls[1]
    assert summary["model"] == {"name": "random", "sha256": model.base.attributes.get("sha256")}
    assert results["relaxed_structures"].ids == ("a", "b")
    first = next(link.node for link in node.base.links.get_outgoing().all() if link.link_label == "step_0")
    assert first.inputs.model.uuid == model.uuid


def test_where_calls_run_out_the_labels_lead_on(code):
    """As the memory of a second run of the same structure, which goes on where the first ended."""
    structure = orm.StructureData(ase=copper())
    structure.store()
    before, node = run_get_node(builder(code, structure, settings={"max_calls": 2}))
    assert node.exit_status == 430
    assert node.exit_message.startswith(
        "1 of 1 structures have forces above 0.05 eV/Å after 2 calls: 0; give the labels"
    )
    assert "relaxed_structure" not in before
    assert before["labels"].ids == ("0:0", "0:1")
    results, node = run_get_node(builder(code, structure, memory=before["labels"]))
    assert node.is_finished_ok, node.exit_message
    (row,) = results["summary"]["structures"]
    assert row["n_labels"] == 2 + row["n_calls"]
    assert len(jobs(node)) == row["n_calls"] > 0
    relaxed = results["relaxed_structure"].get_ase()
    relaxed.calc = EMT()
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() <= 0.05
    assert relaxed.get_potential_energy() == pytest.approx(row["energy"], abs=1e-6)
    assert len(ancestors(results["relaxed_structure"])) == row["n_labels"]


def test_a_run_that_fails_costs_no_other_structure(code):
    """EMT knows no iron, nor how atoms fare in one place; copper as it is has no forces."""
    structures = structure_set(**{"i.ron": copper(symbol="Fe"), "copper": bulk("Cu")})
    results, node = run_get_node(builder(code, structures))
    assert node.exit_status == 420, node.exit_message
    assert "of 1 of 2 structures the engine has no label: i.ron: call 0: the calculator stopped" in node.exit_message
    assert results["relaxed_structures"].ids == ("copper",)
    assert [row["converged"] for row in results["summary"]["structures"]] == [False, True]


def test_a_structure_that_shares_no_element_or_has_other_constraints(code):
    odd = copper()
    odd.set_constraint(FixedPlane(0, [0, 0, 1]))
    results, node = run_get_node(builder(code, structure_set(copper=bulk("Cu"), silver=bulk("Ag"), odd=odd)))
    assert node.exit_status == 310
    assert (
        "2 of 3 structures cannot be relaxed: silver: the labels are of Cu, and the structure has" in node.exit_message
    )
    assert "FixedPlane" in results["summary"]["structures"][2]["error"]
    assert results["relaxed_structures"].ids == ("copper",)


def test_a_memory_that_cannot_be_used(code):
    of_silver = structure_set(silver=labelled(bulk("Ag")))
    _, node = run_get_node(builder(code, structure_set(copper=bulk("Cu")), memory=of_silver))
    assert node.exit_status == 410
    assert "the labels are of Ag, and the structure has none of these elements" in node.exit_message
    _, node = run_get_node(
        builder(code, structure_set(copper=bulk("Cu")), memory=[of_silver, structure_set(x=bulk("Cu"))])
    )
    assert node.exit_status == 410
    assert "memory_1: structure 'x' is a label without energy and forces" in node.exit_message
    assert jobs(node) == []


def test_a_memory_of_another_functional_is_refused(code):
    other = structure_set(copper=labelled(copper(3), engine="gpaw", functional="PBE"))
    results, node = run_get_node(builder(code, structure_set(copper=copper()), memory=other))
    assert node.exit_status == 411
    assert "labels of different kinds are mixed: engine is gpaw for some and emt for others" in node.exit_message
    assert "labels" not in results


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"settings": {"fmax": 0}}, "fmax must be a number above 0, not 0"),
        ({"settings": {"max_force_std": -0.1}}, "max_force_std must be a number above 0, not -0.1"),
        ({"settings": {"max_energy_std": "low"}}, "max_energy_std must be a number above 0, not 'low'"),
        ({"settings": {"max_calls": 0}}, "max_calls must be a whole number, 1 or more, not 0"),
        ({"settings": {"fixed_cell": 1}}, "fixed_cell must be True or False, not 1"),
        ({"settings": {"steps": 1}}, "steps"),
        ({"overrides": {"relax": True}}, "relax is true, and a label must be of the structure that was asked for"),
        ({"overrides": {"calculator": None}}, "no structure can be labelled: .*needs the setting calculator"),
        ({"model": True}, "is no potential"),
        ({"finetune_every": 9}, "finetune_every must be 10 or more, not 9"),
        ({"finetune_every": 10}, "finetune_every needs a potential to tune"),
    ],
)
def test_bad_input_in_words(code, small_model, options, words):
    if "model" in options:
        options = {"model": DataFactory("cgcnn.model").get_or_create(small_model)}
    before = orm.QueryBuilder().append(orm.ProcessNode).count()
    with pytest.raises(ValueError, match=words):
        run_get_node(builder(code, structure_set(copper=copper()), **options))
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == before


def test_each_step_may_be_taken_twice(code, earlier, potential, aiida_code_installed, cgcnn_ase_command, monkeypatch):
    """As where the daemon dies within it: nothing is called, computed, tuned or submitted a second time."""
    cgcnn = aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable=cgcnn_ase_command)
    model = DataFactory("cgcnn.model").get_or_create(potential)
    asked = builder(
        code, structure_set(slab=slab()), model, settings={"max_calls": 2},
        memory=earlier(rattled_slab(k) for k in range(9)),
        finetune_every=10, finetune={"code": cgcnn, "settings": {"epochs": 1}},
    )  # fmt: skip
    chain = instantiate_process(get_manager().get_runner(), asked)
    monkeypatch.setattr(chain, "submit", lambda process, inputs: run_get_node(process, **inputs)[1])
    monkeypatch.setattr(chain, "to_context", lambda **nodes: chain.ctx.update(nodes))

    def twice(step):
        before = dict(chain.ctx)
        step()
        chain.ctx.clear()
        chain.ctx.update(before)
        return step()

    with chain._process_scope():
        assert twice(chain.begin) is None
        twice(chain.learn)
        while chain.goes_on():
            first, second = (chain.tune, chain.take_tuned) if chain.is_to_tune() else (chain.label, chain.take_label)
            twice(first)
            assert twice(second) is None
            twice(chain.learn)
    labels = [link.link_label for link in chain.node.base.links.get_outgoing().all()]
    assert sorted(labels) == ["finetune_2", "label_1", "label_3", "step_0", "step_1", "step_2", "step_3"]
    assert len(chain.ctx.labels) == 2
    assert len(jobs(chain.node)) == 3


def rattled_slab(k):
    atoms = slab()
    atoms.rattle(0.05, seed=k)
    return atoms


def test_the_potential_is_tuned_along_the_way(code, earlier, potential, aiida_code_installed, cgcnn_ase_command):
    """As soon as there are ten labels, on all of them; links lead from the model to them, and from the end to it."""
    cgcnn = aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable=cgcnn_ase_command)
    model = DataFactory("cgcnn.model").get_or_create(potential)
    memory = earlier(copper(k + 1) for k in range(9))
    asked = builder(
        code, structure_set(a=copper(0)), model, memory=memory,
        settings={"fmax": 0.1}, finetune_every=10, finetune={"code": cgcnn, "settings": {"epochs": 1}},
    )  # fmt: skip
    results, node = run_get_node(asked)
    assert node.is_finished_ok, node.exit_message
    trained = [each for each in node.called if each.process_label == "TrainCalculation"]
    frames = trained[0].inputs.structures
    assert len(frames) == 10
    assert frames.creator.process_type == "aiida.calculations:cgcnn.learn_step"
    assert trained[0].inputs.model.uuid == model.uuid
    shifts = {round(atoms.info["energy_shift"], 9) for atoms in frames.iter_atoms()}
    assert len(shifts) == 1  # one energy an element
    assert shifts != {0.0}
    assert results["model"].creator.uuid == trained[-1].uuid
    steps = [each for each in node.called if each.process_label == "learn_step"]
    after = [step for step in steps if "tuned" in step.inputs]
    assert after
    assert all(step.inputs.tuned.creator.uuid == trained[0].uuid for step in after[:1])
    assert after[0].inputs.learned.uuid == frames.uuid
    summary = results["summary"].get_dict()
    assert summary["model"] == {
        "name": "random-tuned",
        "sha256": results["model"].base.attributes.get("sha256"),
        "n_labels": len(trained[-1].inputs.structures),
    }
    first = next(job for job in jobs(node) if job.process_label == "AseCalculation")
    assert first.uuid in {each.uuid for each in behind(results["model"])}


def behind(data):
    """All processes that a node comes of."""
    query = orm.QueryBuilder().append(orm.Data, filters={"id": data.pk}, tag="data")
    return query.append(orm.ProcessNode, with_descendants="data").all(flat=True)


def test_a_fine_tuning_that_fails_loses_no_label(code, earlier, potential, aiida_code_installed):
    cgcnn = aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable="/bin/false")
    model = DataFactory("cgcnn.model").get_or_create(potential)
    memory = earlier(copper(k + 1) for k in range(9))
    asked = builder(code, structure_set(a=copper(0)), model, memory=memory, finetune_every=10, finetune={"code": cgcnn})
    results, node = run_get_node(asked)
    assert node.exit_status == 440, node.exit_message
    assert node.exit_message.startswith("the potential could not be tuned on 10 labels, job <")
    assert results["labels"].ids == ("a:0",)


# Steps alone, whose labels are made here


def test_a_cell_that_moves(aiida_profile):
    """Its labels have stress; what is asked holds nothing that a node cannot."""
    outputs, requests = steps_here(structure_set(copper=copper()), {"fmax": 0.1, "max_calls": 20})
    (row,) = outputs["summary"]["structures"]
    assert row["converged"]
    assert row["max_force"] <= 0.1
    assert row["energy"] < row["first_energy"]
    assert [request["call"] for request in requests] == list(range(row["n_calls"]))
    assert "energy" not in requests[0]
    for request, atoms in zip(requests[1:], list(outputs["labels"].iter_atoms())[1:], strict=True):
        assert request["with_cell"]
        assert all(math.isfinite(request[name]) for name in ("energy", "energy_std", "max_force_std"))
        error = request["energy"] - atoms.get_potential_energy()
        assert atoms.info["energy_error"] == pytest.approx(error, abs=1e-6)
    relaxed = outputs["relaxed_structures"].atoms("copper")
    assert not np.allclose(relaxed.cell.array, copper().cell.array, atol=1e-3)
    assert relaxed.get_stress().shape == (6,)


def test_kinds_and_moments_are_kept(aiida_profile):
    """AiiDA's own kinds come back; moments go to the engine by kind."""
    structure = orm.StructureData(cell=bulk("Cu", cubic=True).cell.array)
    for k, position in enumerate(bulk("Cu", cubic=True, a=3.6).positions):
        structure.append_atom(symbols="Cu", position=position, name=f"Cu{k % 2}")
    outputs, _ = steps_here(structure, {"fmax": 1.0, "fixed_cell": True})
    assert [site.kind_name for site in outputs["relaxed_structure"].sites] == ["Cu0", "Cu1"] * 2
    magnetic = copper()
    magnetic.set_initial_magnetic_moments([1.0, -1.0, 1.0, -1.0])
    first = learn_step(structure_set(magnetic=magnetic), orm.Dict({}))
    assert first["request"]["moments"] == {"Cu": 1.0, "Cu1": -1.0}


def test_a_label_of_other_atoms_is_refused(aiida_profile):
    structures, settings = structure_set(copper=copper()), orm.Dict({"fixed_cell": True})
    first = learn_step(structures, settings)
    wrong = structure_set(**{"0": labelled(copper(symbol="Ag"))})
    with pytest.raises(ValueError, match="the label is of Ag4, and 'copper' is Cu4"):
        learn_step(structures, settings, new_label=wrong, request=first["request"])


def test_labels_of_the_protocol_fast_mark_the_model_that_learns_from_them(
    aiida_profile, aiida_code_installed, cgcnn_ase_command, tmp_path
):
    """From the label through the set to the tuned model, and its card."""
    outputs, _ = steps_here(structure_set(a=copper(0), b=copper(1)), SETTINGS, {"converged": False})
    labels = outputs["labels"]
    assert outputs["summary"]["labels_converged"] is False
    assert labels.base.attributes.get("labels_converged") is False
    assert outputs["relaxed_structures"].base.attributes.get("labels_converged") is False
    code = aiida_code_installed(default_calc_job_plugin="cgcnn.train", filepath_executable=cgcnn_ase_command)
    model = DataFactory("cgcnn.model").get_or_create(save_model(small_formation_model(), tmp_path / "old"))
    recipe = {"epochs": 1, "freeze": "convolutions", "checkpoint": "last", "engine": "torch", "test": 0.0}
    results, node = run_get_node(
        WorkflowFactory("cgcnn.finetune"),
        code=code, model=model, structures=labels, target=orm.Str("energy_per_atom"), recipe=orm.Dict(recipe),
    )  # fmt: skip
    assert node.is_finished_ok, node.exit_message
    assert results["model"].base.attributes.get("labels_converged") is False
    card = results["model"].base.repository.get_object_content("README.md", "r")
    assert "**Not converged:**" in card
    assert "Its std is against labels of that kind, and does not count how far these are from converged ones" in card
    whole, _ = steps_here(structure_set(a=copper(0)), SETTINGS, {"converged": True})
    assert whole["summary"]["labels_converged"] is True
    assert "labels_converged" not in whole["labels"].base.attributes.all


# aiida-cgcnn learn-relax


@pytest.fixture
def command(code, tmp_path):
    """The command with EMT for DFT; more arguments as of the command line."""
    (tmp_path / "emt.yaml").write_text("calculator: emt\n")
    engine = ["--engine", "ase", "--code", code.full_label, "--protocol", "fast", "--settings", tmp_path / "emt.yaml"]
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in ("learn-relax", *args, *engine)])


def test_the_command_submits(command, runner, potential):
    """Node, potential, limits and memory are those that were named; from its checkpoint it runs to the minimum."""
    structures = structure_set(a=copper(0)).store()
    memory = structure_set(b=labelled(copper(1))).store()
    model = DataFactory("cgcnn.model").get_or_create(potential).store()
    done = command(structures.pk, "--model", model.pk, "--fmax", 0.1, "--max-calls", 20, "--fixed-cell",
                   "--max-force-std", 0.3, "--memory", memory.pk)  # fmt: skip
    assert done.exit_code == 0, done.output
    result = re.fullmatch(r"submitted cgcnn.learn_relax as (\d+); `verdi process status PK` shows .*\n", done.output)
    node = orm.load_node(int(result[1]))
    assert runner.controller.told == [node.pk]
    assert node.process_type == "aiida.workflows:cgcnn.learn_relax"
    assert node.inputs.structures.uuid == structures.uuid
    assert node.inputs.model.uuid == model.uuid
    assert node.inputs.memory.memory_0.uuid == memory.uuid
    assert node.inputs.label.settings["calculator"] == "emt"
    settings = node.inputs.settings.get_dict()
    assert settings == {"fmax": 0.1, "max_calls": 20, "fixed_cell": True, "max_force_std": 0.3}
    from_checkpoint(node.pk, runner)
    assert node.exit_status == 411, node.exit_message  # the memory is of another scheme than the engine's labels


def test_the_command_tells_what_it_would_do(command):
    """The first run of each structure, a conflict among them, of a set and of a single structure; nothing is stored."""
    overlap = bulk("NiO", "rocksalt", a=4.17)
    overlap.positions[1] = overlap.positions[0] + [0.0, 0.0, 0.05]
    structures = structure_set(copper=bulk("Cu"), overlap=overlap).store()
    before = orm.QueryBuilder().append(orm.ProcessNode).count()
    done = command(structures.pk, "--model", "none", "--dry-run")
    assert done.exit_code == 1
    first, second, last = done.output.splitlines()
    assert first.startswith("copper: 1 atoms, k-points ")
    assert second.startswith("conflict overlap: atoms 1 (Ni) and 2 (O) are 0.05 Å apart")
    assert last == "1 runs of ase, 1 conflicts; nothing was submitted"
    single = orm.StructureData(ase=bulk("Cu")).store()
    done = command(single.pk, "--dry-run")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("0: 1 atoms, k-points ")
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == before


def test_what_the_command_cannot_do(command, code, small_model):
    structures, silver = structure_set(copper=bulk("Cu")).store(), structure_set(ag=labelled(bulk("Ag"))).store()
    no_potential = DataFactory("cgcnn.model").get_or_create(small_model).store()
    for options, words in [
        (["--fmax", 0], "fmax must be a number above 0, not 0"),
        (["--memory", structures.pk], "structure 'copper' is a label without energy and forces"),
        (["--memory", silver.pk], "the labels are of Ag, and the structure has none of these elements"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--finetune-every", 9, "--finetune-code", code.full_label], "finetune_every must be 10 or more, not 9"),
        (["--model", no_potential.pk], "is no potential"),
        (["--model", structures.pk], f"node {structures.pk} is a StructureSetData; give a model (cgcnn.model)"),
    ]:
        done = command(structures.pk, *options)
        assert done.exit_code == 2, (options, done.output)
        assert done.output.startswith("Error: ")
        assert words in done.output
    done = command(no_potential.pk)
    assert done.exit_code == 2
    assert "give a set (cgcnn.structures) or a StructureData" in done.output

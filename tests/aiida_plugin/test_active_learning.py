"""The active-learning loop, with EMT for DFT: rounds, budget, provenance, and each way it ends."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.plugins import DataFactory, WorkflowFactory  # noqa: E402

from cgcnn_ase.data.frames import read_frames  # noqa: E402
from cgcnn_ase.models.checkpoint import save_model  # noqa: E402
from cgcnn_ase.potential.evaluation import calibrate_potential  # noqa: E402

from ..potential.conftest import random_potential  # noqa: E402
from .alloys import alloys  # noqa: E402
from .labelled import small_formation_model  # noqa: E402

EMT_LABELS = {"engine": "ase", "protocol": "fast", "overrides": {"calculator": "emt"}}
#: a retraining of a second or two
QUICK = {"overrides": {"recipe": {"epochs": 2, "engine": "torch"}}}


@pytest.fixture
def codes(aiida_code_installed, cgcnn_ase_command, warm_python):
    ours = aiida_code_installed(
        label="cgcnn-ase", default_calc_job_plugin="cgcnn.predict", filepath_executable=cgcnn_ase_command
    )
    return ours, aiida_code_installed(
        label="python", default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=warm_python
    )


@pytest.fixture
def model(tmp_path):
    return DataFactory("cgcnn.model").get_or_create(save_model(small_formation_model(), tmp_path / "old"))


def structure_set(atoms):
    return DataFactory("cgcnn.structures").from_ase(atoms.values(), list(atoms))


def builder(codes, model, **options):
    chain = WorkflowFactory("cgcnn.active_learning")
    return chain.get_builder_from_protocol(
        codes[0], model, codes[1], **EMT_LABELS, **{"finetune": QUICK, "references": True, "relax": False} | options
    )


def test_two_rounds(codes, model):
    """One label and one element, the fewest jobs that a loop has: the second round trains from what both labelled."""
    pool = {f"c{k}": bulk("Cu", a=3.5 + 0.05 * k) for k in range(4)}
    asked = builder(codes, model, candidates=structure_set(pool), budget={"rounds": 2}, selection={"take": {"lcb": 1}})
    results, node = run_get_node(asked)
    assert node.is_finished_ok, node.exit_message
    labelled = results["labelled"]
    assert len(set(labelled.ids)) == len(labelled) == 2
    assert all("formation_energy_per_atom" in atoms.info for atoms in labelled.iter_atoms())
    report = results["report"].get_dict()
    assert report["ended"] == "2 rounds were done"
    assert [row["n_labels"] for row in report["rows"]] == [1, 2]
    # the element was computed once, in the first round
    labels = [each for each in node.called if each.process_label == "LabelWorkChain"]
    assert references_of(labels[0]) == ["reference_Cu"]
    assert references_of(labels[1]) == []
    # with one label there is none to hold out, so the second round alone trains, from the first model
    (chain,) = [each for each in node.called if each.process_label == "FinetuneWorkChain"]
    assert chain.inputs.model.uuid == model.uuid
    assert sorted(chain.inputs.structures.ids) == sorted(labelled.ids)
    check_origin(results["model"], labels)


def references_of(label_chain):
    """The jobs of elements that a work chain of labels called."""
    names = [link.link_label for link in label_chain.base.links.get_outgoing().all()]
    return [name for name in names if name.startswith("reference_") and len(name) < 14]


def check_origin(trained, label_chains):
    """From a model back to every DFT run that labelled, by links alone."""
    query = orm.QueryBuilder().append(orm.Data, filters={"uuid": trained.uuid}, tag="model")
    query.append(
        orm.CalcJobNode, with_descendants="model", filters={"process_type": {"like": "%cgcnn.ase_dft"}}, project="uuid"
    )
    runs = [each for chain in label_chains for each in chain.called_descendants if isinstance(each, orm.CalcJobNode)]
    assert {uuid for (uuid,) in query.all()} == {run.uuid for run in runs}


def test_candidates_are_relaxed_first(codes, model, potential):
    """Of one whose element the potential has not learned stays as it was; DFT starts from where the others ended."""
    pool = {f"c{k}": bulk("Cu", cubic=True, a=3.6 + 0.1 * k) for k in range(2)} | {"silver": bulk("Ag")}
    for atoms in pool.values():
        atoms.rattle(0.1, seed=1)
        atoms.info["host"] = atoms.get_chemical_formula()
    candidates = structure_set(pool)
    asked = builder(
        codes, model, candidates=candidates, budget={"rounds": 2}, selection={"take": {"lcb": 3}}, references=False,
        relax=potential, relaxation={"fmax": 0.001, "steps": 3},
    )  # fmt: skip
    results, node = run_get_node(asked)
    labels = next(each for each in node.called if each.process_label == "LabelWorkChain")
    started = labels.inputs.structures
    (job,) = [each for each in node.called if each.process_label == "RelaxCalculation"]
    assert job.inputs.model.uuid == potential.uuid
    assert job.inputs.structures.ids == ("c0", "c1")
    assert started.creator.process_label == "with_relaxed"
    assert started.creator.inputs.relaxed.creator.uuid == job.uuid
    assert started.creator.inputs.structures.uuid == candidates.uuid
    assert started.ids == tuple(pool)
    for name in ("c0", "c1"):
        ended = job.outputs.relaxed.atoms(name)
        assert np.allclose(started.atoms(name).positions, ended.positions)
        assert np.allclose(started.atoms(name).cell.array, ended.cell.array)
        assert not np.allclose(started.atoms(name).cell.array, pool[name].cell.array)
        assert started.atoms(name).info["host"] == "Cu4"
        assert started.atoms(name).calc is None
    assert started.atoms("silver").info["not_relaxed"] == "random has not learned Ag"
    assert np.allclose(started.atoms("silver").positions, pool["silver"].positions)
    prediction = next(each for each in node.called if each.process_label == "PredictCalculation")
    assert prediction.inputs.structures.uuid == started.uuid
    labelled = results["labelled"]
    assert np.allclose(labelled.atoms("c0").positions, started.atoms("c0").positions, atol=1e-6)


@pytest.fixture
def potential(tmp_path):
    """A small potential that says it has learned copper and some other metals, not silver."""
    made = random_potential()
    frames = []
    for k in range(24):
        atoms = bulk("Cu", cubic=True, a=3.6 + 0.01 * k)
        atoms.symbols[0] = ("Cu", "Al", "Ni", "Pd", "Pt", "Au")[k % 6]
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        atoms.get_stress()
        frames.append(atoms)
    calibrate_potential(made, read_frames(frames), read_frames(frames))
    return DataFactory("cgcnn.model").get_or_create(save_model(made, tmp_path / "random"))


def test_the_default_of_the_relaxation(codes, model, monkeypatch, potential):
    """The package's potential where the property is an energy, none where it is not or that was asked for."""
    monkeypatch.setattr("aiida_plugin.calculations.relax.POTENTIAL", potential)
    pool = structure_set({"a": bulk("Cu")})
    assert builder(codes, model, candidates=pool, relax=None)["potential"].uuid == potential.uuid
    assert "potential" not in builder(codes, model, candidates=pool, relax=False)
    gap = builder(codes, model, candidates=pool, relax=None, finetune={**QUICK, "target": "band_gap"})
    assert "potential" not in gap
    with pytest.raises(ValueError, match="is no potential"):
        run_get_node(builder(codes, model, candidates=pool, relax=model))


@pytest.mark.slow
def test_two_rounds_from_a_pool(codes, model):
    asked = builder(
        codes, model, candidates=structure_set(alloys(12)), budget={"rounds": 2}, selection={"take": {"lcb": 2}}
    )
    results, node = run_get_node(asked)
    assert node.is_finished_ok, node.exit_message
    labelled = results["labelled"]
    assert len(set(labelled.ids)) == len(labelled) == 4
    assert all("formation_energy_per_atom" in atoms.info for atoms in labelled.iter_atoms())
    report = results["report"].get_dict()
    assert report["ended"] == "2 rounds were done"
    assert [row["n_labels"] for row in report["rows"]] == [2, 4]
    # each element was computed once, in the first round that had it
    labels = [each for each in node.called if each.process_label == "LabelWorkChain"]
    computed = [name for each in labels for name in references_of(each)]
    assert sorted(computed) == sorted(f"reference_{symbol}" for symbol in results["reference_energies"]["energies"])
    check_origin(results["model"], labels)
    # both models were trained from the first
    chains = [each for each in node.called if each.process_label == "FinetuneWorkChain"]
    assert [each.inputs.model.uuid for each in chains] == [model.uuid, model.uuid]
    assert len(chains[1].inputs.structures) == 4


@pytest.mark.slow
def test_new_defects_of_a_host_for_each_round(codes, model):
    host = structure_set({"alloy": bulk("Ni", cubic=True).repeat((2, 2, 1))})
    asked = builder(
        codes, model, host=host, proposal={"element": ["Ni"], "num": 4, "n_vacancies": 2, "supercell": 1, "seed": 3},
        budget={"rounds": 2}, selection={"take": {"uncertain": 1}},
    )  # fmt: skip
    results, node = run_get_node(asked)
    assert node.is_finished_ok, node.exit_message
    assert len(results["labelled"]) == 2
    proposed = [each for each in node.called if each.process_label == "defects"]
    assert [each.inputs.settings["seed"] for each in proposed] == [3, 4]
    assert all(each.inputs.host.uuid == host.uuid for each in proposed)
    # with one label there is none to hold out: the first round trains no model
    assert len([each for each in node.called if each.process_label == "FinetuneWorkChain"]) == 1
    assert ["n_train" in row for row in results["report"]["rows"]] == [False, True]


@pytest.mark.slow
def test_the_budget_of_labels(codes, model):
    """The last round takes what is left; with a single label the model stays as it is."""
    pool = structure_set(alloys(3))
    results, node = run_get_node(
        builder(codes, model, candidates=pool, budget={"rounds": 5, "labels": 1}, selection={"take": {"lcb": 2}})
    )
    assert node.is_finished_ok, node.exit_message
    assert len(results["labelled"]) == 1
    assert results["report"]["ended"] == "there are 1 labels; the budget is 1"
    assert "model" not in results


@pytest.mark.slow
def test_a_pool_that_runs_dry(codes, model):
    asked = builder(
        codes, model, candidates=structure_set(alloys(2)), budget={"rounds": 5}, selection={"take": {"lcb": 2}}
    )
    results, node = run_get_node(asked)
    assert node.is_finished_ok, node.exit_message
    assert "no structure is left to choose" in results["report"]["ended"]
    assert len(results["report"]["rows"]) == 1


@pytest.mark.slow
def test_nothing_could_be_labelled(codes, model):
    iron = alloys(1)
    iron["a0"].symbols[:] = "Fe"
    _, node = run_get_node(builder(codes, model, candidates=structure_set(iron)))
    assert node.exit_status == 430
    assert "round 1: nothing could be labelled" in node.exit_message


@pytest.mark.slow
def test_labels_of_another_kind_do_not_mix(codes, model):
    """What there is already was computed by something else."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = alloys(1)["a0"]
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    atoms.info |= {"label_scheme": {"engine": "vasp", "functional": "PBE"}, "formation_energy_per_atom": 0.1}
    old = structure_set({"old": atoms})
    results, node = run_get_node(builder(codes, model, candidates=structure_set(alloys(3)), labelled=old))
    assert node.exit_status == 431
    assert "labels of different kinds are mixed: engine is vasp for some and emt for others" in node.exit_message
    assert results["labelled"].uuid == old.uuid  # nothing is lost


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give candidates, or a host"),
        ({"host": 1, "proposal": {}}, "the host needs a proposal"),
        ({"candidates": 1, "budget": {"hours": 1}}, "unknown hours; allowed: rounds, labels, std_below"),
        ({"candidates": 1, "budget": {"rounds": 0}}, "rounds must be a whole number from 1 on, not 0"),
        ({"candidates": 1, "finetune": {"recipe": 1}}, "finetune: unknown recipe; allowed: protocol"),
    ],
)
def test_bad_input_in_words(codes, model, options, words):
    some = {k: structure_set(alloys(2)) if k in ("candidates", "host") else v for k, v in options.items()}
    with pytest.raises(ValueError, match=words):
        run_get_node(builder(codes, model, **{"finetune": {}} | some))

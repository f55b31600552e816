"""Screening: predictions, choice, labels and agreement in one workflow, with EMT for DFT."""

import numpy as np
import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.plugins import DataFactory, WorkflowFactory  # noqa: E402
from ase.calculators.emt import EMT  # noqa: E402

from cgcnn_ase import predict  # noqa: E402

from .alloys import alloys  # noqa: E402

EMT_LABELS = {"engine": "ase", "protocol": "fast", "overrides": {"calculator": "emt"}}


@pytest.fixture
def code(aiida_code_installed, cgcnn_ase_command):
    return aiida_code_installed(
        label="cgcnn-ase", default_calc_job_plugin="cgcnn.predict", filepath_executable=cgcnn_ase_command
    )


@pytest.fixture
def python(aiida_code_installed, warm_python):
    return aiida_code_installed(
        label="python", default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=warm_python
    )


@pytest.fixture
def model(small_model):
    return DataFactory("cgcnn.model").get_or_create(small_model)


def structure_set(atoms):
    return DataFactory("cgcnn.structures").from_ase(atoms.values(), list(atoms))


def builder(code, model, atoms, **options):
    return WorkflowFactory("cgcnn.screen").get_builder_from_protocol(code, model, structure_set(atoms), **options)


def test_without_an_engine_it_ends_with_the_choice(code, model, small_model):
    atoms = alloys(8)
    results, node = run_get_node(builder(code, model, atoms, selection={"take": {"best": 2, "uncertain": 1}}))
    assert node.is_finished_ok, node.exit_message
    expected = predict(small_model, atoms).to_frame().sort_values("value")
    rows = results["chosen"]["rows"]
    assert [row["id"] for row in rows[:2]] == expected["id"].tolist()[:2]
    assert [row["why"] for row in rows] == ["best", "best", "uncertain"]
    rest = expected[~expected["id"].isin(expected["id"][:2])]
    assert rows[2]["id"] == rest.sort_values("std")["id"].iloc[-1]
    assert "labelled" not in results
    assert len(results["predictions"]) == 8
    (job,) = [each for each in node.called if each.process_label == "PredictCalculation"]
    assert job.inputs.settings.get_dict() == {"population": "hypothetical"}


@pytest.mark.slow
def test_labels_and_agreement(code, python, model, small_model):
    """The errors are those of the model against EMT, computed here; and all of it hangs together by links."""
    atoms = alloys(6)
    options = {"selection": {"take": {"best": 2, "uncertain": 1}}, "references": True, "n_shards": 2}
    results, node = run_get_node(builder(code, model, atoms, label_code=python, **EMT_LABELS, **options))
    assert node.is_finished_ok, node.exit_message
    chosen = [row["id"] for row in results["chosen"]["rows"]]
    assert sorted(results["labelled"].ids) == sorted(chosen)
    result = results["agreement"].get_dict()
    references = results["reference_energies"]["energies"]
    errors = []
    for row in result["rows"]:
        cell = atoms[row["id"]].copy()
        cell.calc = EMT()
        label = (cell.get_potential_energy() - sum(references[s] for s in cell.symbols)) / len(cell)
        assert row["label"] == pytest.approx(label, abs=1e-8)
        mean, _ = predict(small_model, {"x": cell})["x"]
        errors.append(mean - label)
    assert (result["n"], result["unit"]) == (3, "eV/atom")
    assert result["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-3)
    assert result["label_scheme"]["engine"] == "emt"
    # from the report back to the model by links alone
    query = orm.QueryBuilder().append(orm.Dict, filters={"uuid": results["agreement"].uuid}, tag="report")
    query.append(orm.Data, with_descendants="report", filters={"uuid": model.uuid})
    assert query.count() >= 1


@pytest.mark.slow
def test_failed_labels_are_listed(code, python, model):
    """EMT knows no iron."""
    atoms = alloys(2)
    atoms["iron"] = atoms["a0"].copy()
    atoms["iron"].symbols[:] = "Fe"
    options = {"selection": {"take": {"best": 3}}, "label_code": python}
    results, node = run_get_node(builder(code, model, atoms, **EMT_LABELS, **options))
    assert node.is_finished_ok, node.exit_message
    assert sorted(results["labelled"].ids) == ["a0", "a1"]
    assert results["failures"]["n_failed"] == 1


@pytest.mark.slow
def test_nothing_could_be_labelled(code, python, model):
    atoms = {"iron": alloys(1)["a0"]}
    atoms["iron"].symbols[:] = "Fe"
    results, node = run_get_node(builder(code, model, atoms, label_code=python, **EMT_LABELS))
    assert node.exit_status == 430
    assert "could not be labelled" in node.exit_message
    assert len(results["predictions"]) == 1  # what was predicted is not lost


def test_nothing_could_be_predicted(code, model):
    odd = alloys(1)
    odd["a0"].numbers[:] = 0
    _, node = run_get_node(builder(code, model, odd))
    assert node.exit_status == 410
    assert "no structure could be predicted" in node.exit_message


def test_a_model_of_several_properties(code):
    elastic = DataFactory("cgcnn.model").get_or_create("elastic")
    _, node = run_get_node(builder(code, elastic, alloys(2)))
    assert node.exit_status == 411
    assert "has no model of (not said); it has bulk_modulus, poisson_ratio, shear_modulus" in node.exit_message
    asked = builder(code, elastic, alloys(3), selection={"take": {"best": 1}, "goal": "max"})
    asked.property = orm.Str("bulk-modulus")
    results, node = run_get_node(asked)
    assert node.is_finished_ok, node.exit_message
    values = predict("bulk-modulus", alloys(3)).to_frame().set_index("id")["value"]
    assert results["chosen"]["rows"][0]["id"] == values.idxmax()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"selection": {"take": {"ucb": 1}}}, "unknown acquisition 'ucb'"),
        ({"engine": "abinit"}, "unknown engine 'abinit'; allowed: ase, cp2k, gpaw"),
        ({"engine": "ase", "protocol": "quick"}, "no protocol 'quick'; allowed: fast, balanced, stringent"),
        ({"engine": "gpaw", "protocol": "fast", "overrides": {"cutof": 1}}, "no setting cutof; allowed:"),
    ],
)
def test_bad_input_in_words(code, python, model, options, words):
    with pytest.raises(ValueError, match=words):
        run_get_node(builder(code, model, alloys(2), label_code=python, **options))

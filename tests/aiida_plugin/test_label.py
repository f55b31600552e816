"""The label work chain, with EMT for DFT: what it gives, what fails, and what stands behind a label."""

import sys

import numpy as np
import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.plugins import DataFactory, WorkflowFactory  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.calculators.emt import EMT  # noqa: E402

from aiida_plugin.data.label_scheme import scheme_of  # noqa: E402


@pytest.fixture(autouse=True)
def _profile(aiida_profile):
    return aiida_profile


@pytest.fixture
def code(aiida_code_installed):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=sys.executable)


def alloys():
    """Two alloys of copper and gold with info and tags, and silver."""
    made = []
    for k in range(2):
        atoms = bulk("Cu", cubic=True, a=3.8)
        atoms.symbols[: k + 1] = "Au"
        atoms.rattle(0.05, seed=k)
        atoms.set_tags([1, 2, 3, 4])
        atoms.info = {"family": "alloy", "a.dotted.key": k}
        made.append(atoms)
    return [*made, bulk("Ag")]


IDS = ["one", "two.with.dots", "silver"]


def builder(code, structures=None, ids=IDS, *, overrides=None, **inputs):
    return WorkflowFactory("cgcnn.label").get_builder_from_protocol(
        code,
        DataFactory("cgcnn.structures").from_ase(alloys() if structures is None else structures, ids),
        "ase",
        "fast",
        {"calculator": "emt"} | (overrides or {}),
        **inputs,
    )


def test_labels_of_a_set(code):
    results, node = run_get_node(builder(code))
    assert node.is_finished_ok, node.exit_message
    labelled = results["labelled"]
    assert labelled.ids == tuple(IDS)
    for ours, theirs in zip(labelled.iter_atoms(), alloys(), strict=True):
        theirs.calc = EMT()
        assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-9)
        assert np.allclose(ours.get_forces(), theirs.get_forces(), atol=1e-9)
        assert np.allclose(ours.get_stress(), theirs.get_stress(), atol=1e-12)
        assert np.array_equal(ours.get_tags(), theirs.get_tags())
        assert theirs.info.items() <= ours.info.items()
        scheme = scheme_of(ours)
        assert (scheme["engine"], scheme["functional"], scheme["relaxed"]) == ("emt", "empirical", False)
    assert results["failures"]["n_failed"] == 0
    assert "reference_energies" not in results


def test_some_fail_and_the_rest_is_kept(code):
    """EMT knows no iron."""
    results, node = run_get_node(builder(code, [*alloys()[:2], bulk("Fe")], max_parallel=2))
    assert node.is_finished_ok, node.exit_message
    assert results["labelled"].ids == tuple(IDS[:2])
    failures = results["failures"].get_dict()
    assert (failures["n"], failures["n_failed"]) == (3, 1)
    assert failures["failed"]["silver"]["exit_status"] == 312
    assert "Fe" in failures["failed"]["silver"]["message"]


def test_all_fail(code):
    _, node = run_get_node(builder(code, [bulk("Fe")], ["iron"]))
    assert node.exit_status == 340
    assert "no structure could be labelled; the first: iron: the calculator stopped" in node.exit_message
    assert node.outputs.failures["n_failed"] == 1


def test_formation_energies(code):
    results, node = run_get_node(builder(code, references=True, indices=["two.with.dots"]))
    assert node.is_finished_ok, node.exit_message
    elements = {}
    for element in ("Cu", "Au"):
        atoms = bulk(element)
        atoms.calc = EMT()
        elements[element] = atoms.get_potential_energy()
    assert results["reference_energies"]["energies"] == pytest.approx(elements, abs=1e-9)
    alloy = alloys()[1]
    alloy.calc = EMT()
    expected = (alloy.get_potential_energy() - 2 * elements["Cu"] - 2 * elements["Au"]) / 4
    found = results["labelled"].atoms(0).info["formation_energy_per_atom"]
    assert found == pytest.approx(expected, abs=1e-9)

    again, later = run_get_node(
        builder(code, indices=["one", "silver"], reference_energies=results["reference_energies"])
    )
    assert later.is_finished_ok, later.exit_message
    assert "formation_energy_per_atom" in again["labelled"].atoms("one").info
    assert "formation_energy_per_atom" not in again["labelled"].atoms("silver").info  # its energy is not known


def test_reference_energies_of_another_kind_are_not_mixed_in(code):
    other = orm.Dict({"energies": {"Cu": 0.0, "Au": 0.0}, "scheme": {"engine": "gpaw", "functional": "PBE"}})
    results, node = run_get_node(builder(code, indices=[0], reference_energies=other))
    assert node.exit_status == 350
    assert "engine is gpaw for some and emt for others" in node.exit_message
    assert "formation_energy_per_atom" not in results["labelled"].atoms(0).info

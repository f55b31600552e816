"""The label work chain, with EMT for DFT: what it gives, what fails, and what stands behind a label."""

import re
import sys

import numpy as np
import pytest

aiida = pytest.importorskip("aiida", reason="aiida-core is an optional extra")

from aiida import orm  # noqa: E402
from aiida.engine import run_get_node  # noqa: E402
from aiida.engine.persistence import AiiDAPersister  # noqa: E402
from aiida.manage import get_manager  # noqa: E402
from aiida.plugins import DataFactory, WorkflowFactory  # noqa: E402
from ase import Atoms  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.calculators.emt import EMT  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from ase.neighborlist import neighbor_list as neighbour_list  # noqa: E402
from click.testing import CliRunner  # noqa: E402
from plumpy.persistence import LoadSaveContext  # noqa: E402

from aiida_plugin.calculations.functions.labels import (  # noqa: E402
    join_labels,
    reference_structure,
    structures_to_label,
)
from aiida_plugin.cli.app import main  # noqa: E402
from aiida_plugin.data.labels import largest_group, merge_schemes, scheme_id, scheme_of  # noqa: E402
from aiida_plugin.data.structures import write_set  # noqa: E402
from aiida_plugin.engines.labels import energy_outliers, formation_energy_error, label_error  # noqa: E402
from aiida_plugin.engines.protocol import resolve  # noqa: E402
from aiida_plugin.workflows.label_plan import label_plan  # noqa: E402
from cgcnn_ase.data.calculations import read_calculations  # noqa: E402


@pytest.fixture
def code(aiida_code_installed, warm_python):
    return aiida_code_installed(default_calc_job_plugin="cgcnn.ase_dft", filepath_executable=warm_python)


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
    results, node = run_get_node(builder(code, alloys()[1:], IDS[1:]))
    assert node.is_finished_ok, node.exit_message
    labelled = results["labelled"]
    assert labelled.ids == tuple(IDS[1:])
    for ours, theirs in zip(labelled.iter_atoms(), alloys()[1:], strict=True):
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

    # what stands behind a label, by links alone
    joined = labelled.creator
    job = joined.inputs.row_0.creator
    assert job.process_type == "aiida.calculations:cgcnn.ase_dft"
    assert job.inputs.settings["calculator"] == "emt"
    assert job.inputs.versions["ase"]
    assert job.inputs.structure.creator.inputs.structure_set.uuid == node.inputs.structures.uuid
    assert joined.inputs.structure_set.uuid == node.inputs.structures.uuid


def test_some_fail_and_the_rest_is_kept(code, tmp_path):
    """EMT knows no iron; the others are given to no engine."""
    overlap = bulk("NiO", "rocksalt", a=4.17)
    overlap.positions[1] = overlap.positions[0] + [0.0, 0.0, 0.05]
    directed = bulk("Cu")
    directed.set_initial_magnetic_moments([[0.0, 0.0, 1.0]])
    structures = {
        "i.ron": bulk("Fe"), "alloy": alloys()[0], "molecule": Atoms("O2", [[0, 0, 0], [0, 0, 1.2]]),
        "overlap": overlap, "dummy": Atoms("X", cell=[3, 3, 3], pbc=True), "directed": directed,
    }  # fmt: skip
    results, node = run_get_node(builder(code, structures.values(), list(structures), max_parallel=1))
    assert node.is_finished_ok, node.exit_message
    assert results["labelled"].ids == ("alloy",)
    failures = results["failures"].get_dict()
    assert (failures["n"], failures["n_failed"]) == (6, 5)
    assert failures["failed"]["i.ron"]["exit_status"] == 312
    assert results["failures"].creator.process_type == "aiida.calculations:cgcnn.label_failures"
    assert "Fe" in failures["failed"]["i.ron"]["message"]
    assert failures["failed"]["molecule"]["message"].startswith("it has no cell; give a molecule a box")
    assert failures["failed"]["overlap"]["message"] == (
        "atoms 1 (Ni) and 2 (O) are 0.05 Å apart; at least 0.95 Å are needed (min_distance: 0.5 of the sum of their "
        "covalent radii)"
    )
    assert "dummy atoms" in failures["failed"]["dummy"]["message"]
    assert "one number an atom" in failures["failed"]["directed"]["message"]
    assert len(node.called) == 5  # extract, two jobs, join, and the report of the failures

    # the protocol is fast: label, set and what is merged of such sets say that it is not converged
    assert scheme_of(results["labelled"].atoms(0))["converged"] is False
    assert results["labelled"].base.attributes.get("labels_converged") is False
    write_set(results["labelled"], tmp_path / "set.extxyz")
    (row,) = read_calculations(tmp_path / "set.extxyz").calculations
    assert not row.settings_converged


class Broker:
    """In place of a message broker: keeps what the daemon is told to go on with."""

    def __init__(self):
        self.told = []

    def continue_process(self, pid, **_):
        self.told.append(pid)


@pytest.fixture
def runner(aiida_profile):
    """The runner of the profile, with a broker that nobody listens to."""
    runner = get_manager().get_runner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_controller", Broker())
        patch.setattr(runner, "_persister", AiiDAPersister())
        yield runner


def from_checkpoint(pk, runner):
    """Run what was submitted, as the daemon would."""
    AiiDAPersister().load_checkpoint(pk).unbundle(LoadSaveContext(runner=runner)).execute()


def test_the_command_submits(code, runner, tmp_path):
    """The process is stored with what was asked for, and the daemon told; from its checkpoint it runs to the labels."""
    structures = DataFactory("cgcnn.structures").from_ase(alloys()[2:], IDS[2:]).store()
    (tmp_path / "emt.yaml").write_text("calculator: emt\n")
    options = ["--engine", "ase", "--code", code.full_label, "--protocol", "fast", "--references"]
    done = CliRunner().invoke(main, ["label", str(structures.pk), *options, "--settings", str(tmp_path / "emt.yaml")])
    assert done.exit_code == 0, done.output
    pk = int(
        re.fullmatch(r"submitted cgcnn.label as (\d+); `verdi process status PK` shows how it goes\n", done.output)[1]
    )
    assert runner.controller.told == [pk]
    node = orm.load_node(pk)
    assert node.process_type == "aiida.workflows:cgcnn.label"
    assert node.inputs.structures.uuid == structures.uuid
    assert node.inputs.code.uuid == code.uuid
    assert node.inputs.settings["calculator"] == "emt"
    assert node.inputs.references.value
    assert not node.is_terminated

    from_checkpoint(pk, runner)
    assert node.is_finished_ok, node.exit_message
    assert node.outputs.labelled.ids == ("silver",)
    assert "formation_energy_per_atom" in node.outputs.labelled.atoms("silver").info


def test_the_command_without_a_broker(code):
    """What AiiDA says is told in a line; nothing was submitted."""
    structures = DataFactory("cgcnn.structures").from_ase(alloys(), IDS).store()
    before = orm.QueryBuilder().append(orm.ProcessNode).count()
    done = CliRunner().invoke(main, ["label", str(structures.pk), "--engine", "gpaw", "--code", code.full_label])
    assert done.exit_code == 2
    assert done.output.startswith("Error: Cannot submit because the runner does not have a process controller")
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == before


def test_all_fail(code):
    _, node = run_get_node(builder(code, [bulk("Fe")], ["iron"], references=True))
    assert node.exit_status == 340
    assert "no structure could be labelled; the first: iron: the calculator stopped" in node.exit_message
    assert (node.outputs.failures["n"], node.outputs.failures["n_failed"]) == (1, 1)  # an element is no structure
    assert list(node.outputs.failures["references_failed"]) == ["Fe"]


def test_formation_energies(code):
    """Of an alloy by hand; copper at the lattice constant of the reference is nothing above itself."""
    results, node = run_get_node(builder(code, [alloys()[1]], ["alloy"], references=True))
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
    # no data is made by the work chain itself: the elements are read off the structures by a calcfunction
    references = next(run for run in node.called if run.process_label == "reference_structures")
    assert references.inputs.elements.creator.process_type == "aiida.calculations:cgcnn.elements_to_label"
    assert references.inputs.elements.creator.inputs.structure_set.uuid == node.inputs.structures.uuid
    result = results["labelled"].atoms("alloy").info["formation_energy_per_atom"]
    assert result == pytest.approx(expected, abs=1e-9)
    assert results["reference_energies"]["scheme_id"] == scheme_id(scheme_of(results["labelled"].atoms(0)))

    again, later = run_get_node(
        builder(
            code,
            [bulk("Cu", cubic=True), bulk("Ag")],
            ["copper", "silver"],
            reference_energies=results["reference_energies"],
        )
    )
    assert later.is_finished_ok, later.exit_message
    assert again["labelled"].atoms("copper").info["formation_energy_per_atom"] == pytest.approx(0.0, abs=1e-9)
    assert "formation_energy_per_atom" not in again["labelled"].atoms("silver").info  # its energy is not known


@pytest.mark.slow
def test_only_elements_that_are_not_known_are_computed(code):
    first, _ = run_get_node(builder(code, indices=["silver"], references=True))
    structures = [*alloys(), bulk("CuS", "zincblende", a=5.4)]
    results, node = run_get_node(
        builder(code, structures, [*IDS, "sulphide"], references=True, reference_energies=first["reference_energies"])
    )
    # the labels are there, and what was asked for and is missing is no success
    codes = WorkflowFactory("cgcnn.label").exit_codes
    assert node.exit_status == codes.ERROR_REFERENCES_FAILED.status == 351
    assert codes.ERROR_REFERENCES.status == 350
    assert "without the formation energies of structures with S" in node.exit_message
    assert "no simple reference structure of S" in results["failures"]["references_failed"]["S"]["message"]
    assert list(results["failures"]["failed"]) == ["sulphide"]
    labels = [link.link_label for link in node.base.links.get_outgoing().all()]
    assert "reference_Cu" in labels
    assert "reference_Ag" not in labels
    assert sorted(results["reference_energies"]["energies"]) == ["Ag", "Au", "Cu"]
    assert all("formation_energy_per_atom" in atoms.info for atoms in results["labelled"].iter_atoms())


@pytest.mark.slow
def test_reference_energies_of_another_kind_are_not_mixed_in(code):
    other = orm.Dict({"energies": {"Cu": 0.0, "Au": 0.0}, "scheme": {"engine": "gpaw", "functional": "PBE"}})
    results, node = run_get_node(builder(code, indices=[0], reference_energies=other))
    assert node.exit_status == 350
    assert "engine is gpaw for some and emt for others" in node.exit_message
    assert "formation_energy_per_atom" not in results["labelled"].atoms(0).info


def test_relaxed_labels_are_of_the_relaxed_positions(code):
    results, node = run_get_node(
        builder(code, indices=["one"], overrides={"relax": True, "fmax": 0.01, "max_relax_steps": 50})
    )
    assert node.is_finished_ok, node.exit_message
    relaxed = results["labelled"].atoms("one")
    assert scheme_of(relaxed)["relaxed"]
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() <= 0.01
    assert not np.allclose(relaxed.positions, alloys()[0].positions, atol=1e-3)
    here = relaxed.copy()
    here.calc = EMT()
    assert here.get_potential_energy() == pytest.approx(relaxed.get_potential_energy(), abs=1e-6)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"overrides": {"speed": 1}}, "no setting speed; allowed: functional"),
        ({"max_parallel": 0}, "max_parallel is 0; it must be 1 or more"),
        ({"reference_energies": {"energies": {}}}, "reference_energies lacks scheme"),
    ],
)
def test_inputs_that_make_no_sense(code, inputs, words):
    if "reference_energies" in inputs:
        inputs = inputs | {"reference_energies": orm.Dict(inputs["reference_energies"])}
    with pytest.raises(ValueError, match=words):
        run_get_node(builder(code, **inputs))


def test_names_that_are_not_there(code, aiida_code_installed):
    chain = WorkflowFactory("cgcnn.label")
    structures = DataFactory("cgcnn.structures").from_ase(alloys(), IDS)
    with pytest.raises(ValueError, match="unknown engine 'warp'; allowed: ase, cp2k, gpaw, quantumespresso"):
        chain.get_builder_from_protocol(code, structures, "warp")
    with pytest.raises(ValueError, match="no protocol 'quick'; allowed: fast, balanced, stringent"):
        chain.get_builder_from_protocol(code, structures, "gpaw", "quick")
    other = aiida_code_installed(default_calc_job_plugin="cgcnn.predict", filepath_executable=sys.executable)
    with pytest.raises(ValueError, match=r"is made for cgcnn\.predict; engine 'gpaw' needs one for cgcnn\.ase_dft"):
        chain.get_builder_from_protocol(other, structures, "gpaw")
    with pytest.raises(ValueError, match="no structure has the id 'gold'"):
        builder(code, indices=["gold"])
    _, node = run_get_node(builder(code, indices=["gold"], check=False))
    assert node.exit_status == 310
    assert "no structure has the id 'gold'" in node.exit_message
    with pytest.raises(ValueError, match="no structure can be labelled: .*needs the setting calculator"):
        builder(code, overrides={"calculator": None})
    with pytest.raises(ValueError, match=r"hubbard_u is set, but hubbard is false \(protocol fast\)"):
        builder(code, overrides={"hubbard_u": {"Ni": 6.2}})
    before = orm.QueryBuilder().append(orm.Node).count()
    runs = label_plan(builder(code, [bulk("Ni"), Atoms("O2")], ["nickel", "molecule"], references=True))
    assert [(run.name, run.n_atoms, run.kpoints, bool(run.conflict)) for run in runs] == [
        ("nickel", 1, [3, 3, 3], False), ("molecule", 2, None, True), ("reference_Ni", 1, [3, 3, 3], False)
    ]  # fmt: skip
    assert "it has no cell" in runs[1].describe()
    assert orm.QueryBuilder().append(orm.Node).count() == before


# What the engines are given


def test_kinds_are_split_where_moments_differ():
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    nickel = [atom.index for atom in atoms if atom.symbol == "Ni"]
    moments = np.zeros(8)
    moments[nickel] = [2.0, -2.0, 2.0, -2.0]
    atoms.set_initial_magnetic_moments(moments)
    made = structures_to_label(
        DataFactory("cgcnn.structures").from_ase([atoms, bulk("Cu")], ["NiO", "Cu"]), orm.List([0, "Cu"])
    )
    node = made["row_0"]
    by_kind = made["moments"]["row_0"]
    assert by_kind == {"Ni": 2.0, "Ni1": -2.0, "O": 0.0}
    assert [by_kind[site.kind_name] for site in node.sites] == moments.tolist()
    assert [node.get_kind(site.kind_name).symbol for site in node.sites] == atoms.get_chemical_symbols()
    assert np.array_equal([site.position for site in node.sites], atoms.positions)
    assert "row_1" not in made["moments"].get_dict()
    with pytest.raises(ValueError, match="'Cu'.*named twice"):
        structures_to_label(DataFactory("cgcnn.structures").from_ase([bulk("Cu")], ["Cu"]), orm.List([0, "Cu"]))


def test_references_of_the_battery_elements():
    """As many atoms and the distance of neighbours as the textbook's structure has."""
    neighbours = {"Li": 3.02, "Ni": 2.49, "Co": 2.51, "Al": 2.86, "Mn": 2.59, "Fe": 2.48, "O": 1.21}
    for element, distance in neighbours.items():
        atoms = reference_structure(element)
        assert set(atoms.symbols) == {element}
        assert neighbour_list("d", atoms, 4.0).min() == pytest.approx(distance, abs=0.1)
    oxygen = reference_structure("O")
    assert oxygen.get_initial_magnetic_moments().sum() == 2
    assert not oxygen.pbc.any()
    assert reference_structure("Mn").get_initial_magnetic_moments().sum() == 0
    with pytest.raises(ValueError, match="no simple reference structure of S"):
        reference_structure("S")


def test_labels_of_another_kind_are_left_out():
    one = {"engine": "gpaw", "smearing": 0.1, "pseudopotentials": {"Ni": "a"}}
    other_element = {"engine": "gpaw", "smearing": 0.1, "pseudopotentials": {"O": "b"}}
    wider = {"engine": "gpaw", "smearing": 0.2, "pseudopotentials": {"Ni": "a"}}
    alike, others = largest_group({"w": wider, "a": one, "b": other_element})
    assert alike == ["a", "b"]
    assert others == {
        "w": "labels of different kinds are mixed: smearing is 0.1 for some and 0.2 for others"
    }  # fmt: skip
    assert largest_group({}) == ([], {})


def labelled(energy=-20.0, force=0.1, distance=2.085):
    atoms = Atoms("NiO", [[0, 0, 0], [0, 0, distance]], cell=[4, 4, 4], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=[[0, 0, force], [0, 0, -force]])
    return atoms


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (labelled(), None),
        (labelled(energy=20.0), None),
        (labelled(energy=26e3), r"its energy is 1\.3e\+04 eV/atom"),
        (labelled(energy=float("nan")), "energy is not finite"),
        (labelled(force=99.0), None),
        (labelled(force=-101.0), r"the force on atom 1 \(Ni\) is 101 eV/Å \(max_force: 100 eV/Å\)"),
        (labelled(distance=0.96), None),
        (labelled(distance=0.94), r"atoms 1 \(Ni\) and 2 \(O\) are 0.94 Å apart; at least 0.95 Å"),
        (labelled(distance=3.5), r"are 0.5 Å apart"),  # across the cell's edge
    ],
)
def test_labels_that_are_implausible(atoms, words):
    """Covalent radii of Cordero et al.: Ni 1.24, O 0.66 Å."""
    reason = label_error(atoms, resolve("gpaw"))
    assert reason is None if words is None else re.search(words, reason)


def test_energies_that_are_implausible_beside_others():
    settings = resolve("gpaw", overrides={"max_energy": 5.0})
    named = {"low": labelled(-20.0), "high": labelled(-8.0), "other": bulk("Ni")}
    named["other"].calc = SinglePointCalculator(named["other"], energy=0.0)
    outliers = energy_outliers(named, settings)
    assert outliers == {
        "high": "its energy is 6 eV/atom above that of 'low', of the same composition (max_energy: 5 eV/atom)"
    }
    assert energy_outliers({**named, "high": labelled(-11.0)}, settings) == {}
    assert formation_energy_error(-5.0, settings) is None
    assert formation_energy_error(None, settings) is None
    for energy in (5.1, -5.1):
        assert "its formation energy is" in formation_energy_error(energy, settings)


def test_labels_are_as_converged_as_the_least_of_them():
    scheme = {"engine": "gpaw", "functional": "PBE"}
    assert merge_schemes([scheme, scheme]) == scheme
    assert merge_schemes([scheme, scheme | {"converged": False}, scheme]) == scheme | {"converged": False}


def test_a_label_of_another_structure_is_refused():
    structures = DataFactory("cgcnn.structures")
    atoms = bulk("Cu")
    moved, gold = bulk("Cu", a=3.7), bulk("Au", a=3.61)
    for wrong, words in ((moved, "other positions or another cell"), (gold, "is of Au, the structure of Cu")):
        wrong.calc = EMT()
        wrong.get_potential_energy()
        with pytest.raises(ValueError, match=words):
            join_labels(structures.from_ase([atoms], ["Cu"]), row_0=structures.from_ase([wrong]))

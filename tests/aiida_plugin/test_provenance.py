"""Asking the graph: where numbers come from, what used a model, how wrong it was."""

import pytest

pytest.importorskip("aiida")

from aiida import orm
from ase.build import bulk, make_supercell

from aiida_plugin.calculations.training_data import gather
from aiida_plugin.data.labels import kind_of
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.provenance.errors import errors
from aiida_plugin.provenance.label_kinds import labels_behind
from aiida_plugin.provenance.lineage import lineage
from aiida_plugin.provenance.origin import learned_structures, origin, used_by
from aiida_plugin.provenance.picture import graph_picture
from aiida_plugin.provenance.same_structure import predictions_of

from .labelled import oxides
from .stored_graph import SCHEME, ase_run, model_node, predict, predictions_of_model, process, store_graph


@pytest.fixture(scope="module")
def graph(aiida_profile, small_model, tmp_path_factory):
    """One graph for all tests here: they leave it as it is."""
    aiida_profile.reset_storage()
    return store_graph(small_model, tmp_path_factory.mktemp("models"))


def pks(rows):
    return [row.pk for row in rows]


# Where a number comes from


def test_the_origin_of_a_prediction(graph):
    """Of the second round: its job, model and training, and the DFT runs of the first round by links alone."""
    result = origin(graph.predictions[1], "v3")
    assert (result.row["id"], result.row["unit"]) == ("v3", "eV/atom")
    assert result.row["value"] == pytest.approx(-1.0 - 0.03 - 0.1)
    assert pks(result.jobs) == [graph.predict_jobs[1].pk]
    assert pks(result.models) == [graph.models[1].pk]
    assert result.models[0].sha256 == graph.models[1].sha256
    assert pks(result.structures) == [graph.pool.pk]
    (training,) = result.trainings
    assert training.job.pk == graph.trainings[0].pk
    assert pks(training.labelled) == [graph.labelled[0].pk]
    assert pks(training.started_from) == [graph.models[0].pk]
    assert training.n_dft_runs == 3
    assert sorted(pks(result.dft_runs)) == [run.pk for run in graph.runs[0]]
    assert pks(result.structure_steps) == [graph.defects.pk]
    assert pks(result.hosts) == [graph.host.pk]
    assert result.bad == []


@pytest.mark.parametrize(
    ("engine", "functional", "kind"),
    [
        ("gpaw", "PBE", "DFT"),
        ("Materials Project", "PBE", "DFT"),
        ("mypackage.dft:Calculator", "r2SCAN", "DFT"),
        ("emt", "empirical", "empirical"),
        ("emt", "PBE", "empirical"),  # as labels of early versions may say
        ("chgnet", "machine-learned", "machine-learned"),
        ("chgnet.model.dynamics:CHGNetCalculator", "PBE", "machine-learned"),
        ("mace.calculators:mace_mp", "PBE", "machine-learned"),
        ("cgcnn_ase:CGCNNCalculator", "unknown", "machine-learned"),
        ("ase.calculators.lj:LennardJones", "PBE", "empirical"),
        ("dftb", "LDA", "empirical"),
        ("espresso", "unknown", "unknown"),
        ("oqmd", "not stated", "unknown"),
    ],
)
def test_only_dft_is_called_dft(engine, functional, kind):
    assert kind_of({"engine": engine, "functional": functional}) == kind


def test_a_label_without_a_scheme_is_not_called_dft():
    assert kind_of(None) == "unknown"


def test_runs_of_potentials_are_not_counted_as_dft(graph, small_model, tmp_path):
    """EMT, CHGNet and GPAW ran through the same entry point; a model learned from all three."""
    copper = bulk("Cu", a=3.7)
    runs = [
        ase_run(graph, copper, "emt", functional="empirical"),
        ase_run(graph, copper, "chgnet", functional="PBE", stated="PBE"),  # written before this was refused
        ase_run(graph, copper, "gpaw", functional="PBE", stated=None),
    ]
    merged = StructureSetData.from_ase([part.atoms(0) for part in runs], [part.ids[0] for part in runs])
    inputs = {f"set_{k}": part for k, part in enumerate(runs)}
    process(orm.CalcFunctionNode, "aiida.calculations:cgcnn.merge_labelled", inputs, {"result": merged})
    assert merged.label_kinds == ["DFT", "empirical", "machine-learned"]
    model = model_node(small_model, tmp_path, 50)
    process(orm.CalcJobNode, "aiida.calculations:cgcnn.train", {"structures": merged}, {"model": model}, graph.computer)
    pool = StructureSetData.from_ase([bulk("Al")], ["al"]).store()
    result = predictions_of_model(pool, model, ["al"], [0.0])
    predict(graph, model, pool, result)
    of = origin(result)
    gpaw = runs[2].creator
    assert pks(of.dft_runs) == [gpaw.pk]
    assert {kind: pks(rows) for kind, rows in of.other_runs.items()} == {
        "empirical": [runs[0].creator.pk],
        "machine-learned": [runs[1].creator.pk],
    }
    assert (of.trainings[0].n_dft_runs, of.trainings[0].n_other_runs) == (1, {"empirical": 1, "machine-learned": 1})
    behind = labels_behind(model)
    assert (behind.only_dft, behind.other_kinds) == (False, ["empirical", "machine-learned"])
    assert labels_behind(result).only_dft is False
    assert labels_behind(runs[2]).only_dft is True
    assert labels_behind(graph.labelled[0]).only_dft is True
    # models of this graph began with one whose labels nobody knows here
    assert labels_behind(graph.models[1]).only_dft is None
    assert pks(labels_behind(graph.models[1]).imported) == [graph.models[0].pk]


def test_an_imported_model_has_no_training(graph):
    result = origin(graph.predictions[0])
    assert (result.trainings, result.dft_runs, result.row) == ([], [], None)


def test_lineage_agrees_with_aiidas_own_query(graph):
    """AiiDA's recursive join lists every path; the set of nodes is the same."""
    last = graph.models[-1]
    query = orm.QueryBuilder().append(CGCNNModelData, filters={"id": last.pk}, tag="model")
    query.append(orm.Node, with_descendants="model", project="id")
    assert set(lineage([last.pk], "ancestors").nodes) - {last.pk} == set(query.all(flat=True))
    query = orm.QueryBuilder().append(StructureSetData, filters={"id": graph.pool.pk}, tag="pool")
    query.append(orm.Node, with_ancestors="pool", project="id")
    assert set(lineage([graph.pool.pk], "descendants").nodes) - {graph.pool.pk} == set(query.all(flat=True))
    near = lineage([last.pk], "ancestors", depth=2)
    assert set(near.nodes) == {last.pk, graph.trainings[-1].pk, graph.labelled[-1].pk, graph.models[-2].pk}


# One structure in many sets


def test_a_structure_that_was_never_predicted(graph):
    assert predictions_of(bulk("NiO", "rocksalt", a=9.9)).empty
    assert predictions_of(bulk("Cu")).empty
    assert predictions_of("nobody").empty


def test_digits_that_files_lose_do_not_matter(graph, tmp_path):
    from ase.io import read

    atoms = graph.pool.atoms("v5")
    atoms.write(tmp_path / "a.extxyz")
    assert len(predictions_of(read(tmp_path / "a.extxyz"))) == 2
    atoms.positions[1] += 0.002
    assert predictions_of(atoms).empty


@pytest.mark.parametrize("change", ["noise", "rotated", "supercell", "permuted"])
def test_what_pymatgens_matcher_finds_is_found(graph, change):
    """And nothing else: the pool holds nineteen other structures of the same composition and volume."""
    from pymatgen.core.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    stored = graph.pool.atoms("v5")
    atoms = stored.copy()
    if change == "noise":
        atoms.rattle(1e-4, seed=3)
    elif change == "rotated":
        atoms.rotate(37, (1, 2, 3), rotate_cell=True)
    elif change == "supercell":
        atoms = make_supercell(atoms, [[1, 1, 0], [0, 2, 0], [0, 0, 1]])
        atoms.rattle(1e-4, seed=4)
    else:
        atoms = atoms[[1, 0]]
        atoms.translate((0.3, 0.2, 0.1))
    other = AseAtomsAdaptor.get_structure(stored)
    assert StructureMatcher(scale=False).fit(AseAtomsAdaptor.get_structure(atoms), other)
    assert predictions_of(atoms, tolerance=0).empty
    table = predictions_of(atoms)
    assert table["id"].tolist() == ["v5", "v5"]
    assert set(table["match"]) == {"similar"}
    assert table["predictions_pk"].tolist() == pks(graph.predictions)
    assert set(predictions_of(stored)["match"]) == {"exact"}


def test_the_matcher_is_bounded_and_says_so(graph):
    atoms = graph.pool.atoms("v5")
    atoms.rotate(20, "z", rotate_cell=True)
    table = predictions_of(atoms, max_compared=3)
    assert table.attrs["n_compared"] == 3
    assert table.attrs["not_compared"] > 0
    with pytest.raises(ValueError, match="tolerance must be 0 or more"):
        predictions_of(atoms, tolerance=-1.0)


# What used a model


def test_all_that_used_a_model(graph):
    used = used_by(graph.models[1])
    assert pks(used.predictions) == [graph.predictions[1].pk]
    assert pks(used.structures) == [graph.selected[1].pk]
    assert pks(used.labelled) == [graph.labelled[1].pk]
    assert pks(used.models) == [graph.models[2].pk]
    assert pks(used.dft_runs) == [run.pk for run in graph.runs[1]]
    everything = used_by(graph.models[0])
    assert pks(everything.models) == [graph.models[1].pk, graph.models[2].pk]
    assert pks(everything.predictions) == [p.pk for p in graph.predictions]


# Errors against later labels


def test_errors_against_later_dft(graph):
    """Labels were made 0.02 eV/atom above the predictions that selected them."""
    table = errors(graph.predictions[0])
    rows = table[table["labelled_pk"] == graph.labelled[0].pk]
    assert rows["id"].tolist() == ["v0", "v1", "v2"]
    assert rows["error"].to_numpy() == pytest.approx([-0.02] * 3)
    assert set(table["id"]) == {f"v{k}" for k in range(6)}  # of the second round too: it is later
    assert set(table["unit"]) == {"eV/atom"}
    assert set(table["engine"]) == {"quantumespresso"}
    assert table["scheme"].nunique() == 1
    assert table.attrs["left_out"] == {}
    of_model = errors(graph.models[0])
    assert of_model.equals(table)


def test_what_a_model_was_trained_on_is_left_out(graph):
    """The second model learned from the labels of the first round; those of the second round came later."""
    table = errors(graph.predictions[1])
    assert table["id"].tolist() == ["v3", "v4", "v5"]
    assert not table["trained_on"].any()
    assert table.attrs["left_out"] == {"are of structures that the model was trained on": 3}
    everything = errors(graph.predictions[1], include_trained=True)
    assert everything.set_index("id")["trained_on"].to_dict() == {f"v{k}": k < 3 for k in range(6)}
    assert set(errors(graph.predictions[0])["kind"]) == {"DFT"}
    assert len(errors(graph.predictions[0], dft_only=True)) == 6


def test_what_a_training_held_out_to_test_was_not_learned(graph, small_model, tmp_path):
    atoms = oxides(12)
    structures = StructureSetData.from_ase(atoms.values(), list(atoms)).store()
    settings = {"test": 0.3, "val": 0.2, "split_by": "structure"}
    inputs = {"structures": structures, "target": orm.Str("formation_energy_per_atom"), "settings": orm.Dict(settings)}
    inputs = {name: node.store() for name, node in inputs.items()}
    model = model_node(small_model, tmp_path, 60)
    process(orm.CalcJobNode, "aiida.calculations:cgcnn.train", inputs, {"model": model}, graph.computer)
    split = gather(structures, "formation_energy_per_atom", settings).split
    assert (split == "test").sum() > 0
    assert learned_structures([model.pk]).hashes == set(structures.hashes[split != "test"].tolist())


def test_kinds_of_labels():
    """Schemes that tell of other elements are of one kind; another functional or another U is not."""
    from aiida_plugin.provenance.errors import _kinds

    nickel, cobalt = SCHEME, {**SCHEME, "hubbard_u": {"Co": 3.3}}
    other = {**SCHEME, "hubbard_u": {"Ni": 5.0}}
    names = _kinds([nickel, cobalt, None, other, {**SCHEME, "functional": "SCAN"}, nickel])
    assert names[0] == names[1] == names[5]
    assert names[2] is None
    assert len(set(names)) == 4


# Pictures


def test_pictures_that_cannot_be_drawn(graph, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"allowed endings are \.png, \.svg, \.pdf, \.dot"):
        graph_picture(graph.pool, tmp_path / "graph.bmp")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        graph_picture(graph.pool, tmp_path / "nowhere" / "graph.png")
    monkeypatch.setattr("aiida_plugin.provenance.picture.MAX_NODES", 3)
    with pytest.raises(ValueError, match="nodes, 3 can be read: give a smaller depth"):
        graph_picture(graph.predictions[1], tmp_path / "graph.dot")
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt install graphviz"):
        graph_picture(graph.predictions[1], tmp_path / "graph.png")

"""Asking the graph: where numbers come from, what used a model, how wrong it was."""

import pytest

pytest.importorskip("aiida")

from aiida import orm
from ase.build import bulk

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.provenance.errors import errors
from aiida_plugin.provenance.lineage import lineage
from aiida_plugin.provenance.model_usage import used_by
from aiida_plugin.provenance.origin import origin
from aiida_plugin.provenance.picture import graph_picture
from aiida_plugin.provenance.same_structure import predictions_of

from .stored_graph import SCHEME, store_graph


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

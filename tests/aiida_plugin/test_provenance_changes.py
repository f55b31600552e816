"""Asking a graph that each test adds something to: shards, failures, marks, labels of other kinds."""

import sqlite3

import pytest

pytest.importorskip("aiida")

import numpy as np
from aiida import orm
from aiida.manage import get_manager
from ase.build import bulk
from sqlalchemy import event, inspect

from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.provenance.errors import errors, parity_plot
from aiida_plugin.provenance.origin import bad_models, mark_bad, origin, unmark, used_by
from aiida_plugin.provenance.picture import graph_picture
from aiida_plugin.provenance.same_structure import predictions_of

from .stored_graph import SCHEME, label, labelled, pool_of, predict, predictions_of_model, process, store_graph


@pytest.fixture(scope="module")
def stored(aiida_profile, small_model, tmp_path_factory):
    """The graph, and a copy of the database that it is in."""
    aiida_profile.reset_storage()
    graph = store_graph(small_model, tmp_path_factory.mktemp("models"), n_runs=2)
    copy = sqlite3.connect(":memory:")
    database().backup(copy)
    return graph, copy


def database():
    """The connection to the file of the profile."""
    return get_manager().get_profile_storage().get_session().connection().connection.driver_connection


@pytest.fixture
def graph(stored):
    """The graph as it was stored: what a test adds or marks is gone after it, since the copy is written back."""
    graph, copy = stored
    session = get_manager().get_profile_storage().get_session()
    kept = set(session.identity_map.keys())
    yield graph
    session.commit()
    copy.backup(database())
    for row in list(session):
        if inspect(row).key not in kept:
            session.expunge(row)
    session.expire_all()


@pytest.fixture
def count_queries(aiida_profile):
    """How many SELECT statements a call needs."""
    engine = get_manager().get_profile_storage().get_session().get_bind()
    statements = []

    def heard(_connection, _cursor, statement, *_):
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            statements.append(statement)

    def count(call, *args):
        statements.clear()
        event.listen(engine, "before_cursor_execute", heard)
        try:
            return call(*args), len(statements)
        finally:
            event.remove(engine, "before_cursor_execute", heard)

    return count


def pks(rows):
    return [row.pk for row in rows]


def test_trainings_go_back_to_the_first_model(graph):
    later = predictions_of_model(graph.pool, graph.models[2], ["v0"], [0.0])
    predict(graph, graph.models[2], graph.pool, later)
    result = origin(later)
    assert [training.job.pk for training in result.trainings] == [job.pk for job in reversed(graph.trainings)]
    assert [training.model.pk for training in result.trainings] == [graph.models[2].pk, graph.models[1].pk]
    assert {run.pk for run in result.dft_runs} == {run.pk for runs in graph.runs for run in runs}


def test_an_id_that_is_not_there(graph):
    with pytest.raises(ValueError, match=rf"predictions node {graph.predictions[0].pk}: no structure has the id 'x'"):
        origin(graph.predictions[0], "x")
    failed = predictions_of_model(graph.pool, graph.models[0], ["v0"], [0.0], failures=[("v1", "no volume")])
    predict(graph, graph.models[0], graph.pool, failed)
    with pytest.raises(ValueError, match="'v1' failed: no volume"):
        origin(failed, "v1")


def test_of_joined_shards_an_id_leads_to_its_own(graph):
    """Two shards, joined: behind an id of the second stands only the second job."""
    model = graph.models[1]
    shards = [graph.pool.select(range(10)), graph.pool.select(range(10, 20))]
    process(orm.CalcFunctionNode, "aiida.calculations:cgcnn.cut", {"structures": graph.pool},
            {f"shard_{k}": shard for k, shard in enumerate(shards)})  # fmt: skip
    parts = [predictions_of_model(shard, model, shard.ids, np.zeros(10)) for shard in shards]
    jobs = [predict(graph, model, shard, part) for shard, part in zip(shards, parts, strict=True)]
    joined = predictions_of_model(graph.pool, model, graph.pool.ids, np.zeros(20))
    process(orm.CalcFunctionNode, "aiida.calculations:cgcnn.join", {"part_0": parts[0], "part_1": parts[1]},
            {"predictions": joined})  # fmt: skip
    assert sorted(pks(origin(joined).jobs)) == [job.pk for job in jobs]
    result = origin(joined, "v12")
    assert pks(result.jobs) == [jobs[1].pk]
    assert pks(result.structures) == [shards[1].pk]
    assert pks(result.models) == [model.pk]
    assert graph.defects.pk in pks(result.structure_steps)


@pytest.mark.slow
def test_the_number_of_queries_does_not_grow_with_structures_or_runs(graph, count_queries, small_model, tmp_path):
    (tmp_path / "big").mkdir()
    big = store_graph(small_model, tmp_path / "big", n_pool=300, n_runs=12)
    _, few = count_queries(origin, graph.predictions[1])
    result, many = count_queries(origin, big.predictions[1])
    assert len(result.dft_runs) == 12
    assert many == few <= 20


def test_all_predictions_of_one_structure(graph, count_queries):
    """By its content, whatever it is called: in the pool by two models, in another set under another name."""
    atoms = graph.pool.atoms("v5")
    other = StructureSetData.from_ase([bulk("NiO", "rocksalt", a=5.5), atoms], ["x", "same"]).store()
    third = predictions_of_model(other, graph.models[0], ["x", "same"], [0.0, 7.0])
    predict(graph, graph.models[0], other, third)
    result, queries = count_queries(predictions_of, atoms)
    assert result["id"].tolist() == ["v5", "v5", "same"]
    assert result["value"].tolist() == pytest.approx([-1.05, -1.15, 7.0])
    assert result["model_pk"].tolist() == [graph.models[0].pk, graph.models[1].pk, graph.models[0].pk]
    assert result["predictions_pk"].tolist() == [*(p.pk for p in graph.predictions), third.pk]
    for k in range(5):  # sets that it is not in cost no further query
        rest = StructureSetData.from_ase([bulk("NiO", "rocksalt", a=6.0 + k)]).store()
        predict(graph, graph.models[0], rest, predictions_of_model(rest, graph.models[0], ["0"], [0.0]))
    assert count_queries(predictions_of, atoms)[1] == queries
    by_id = predictions_of("v5")
    assert by_id["predictions_pk"].tolist() == [p.pk for p in graph.predictions]


def test_what_a_model_could_not_say_is_told(graph):
    failed = predictions_of_model(graph.pool, graph.models[0], ["v0"], [0.0], failures=[("v5", "no volume")])
    predict(graph, graph.models[0], graph.pool, failed)
    result = predictions_of(graph.pool.atoms("v5"))
    assert result.attrs["failures"] == [(failed.pk, "v5", "no volume")]
    assert len(result) == 2


def test_a_mark_is_seen_wherever_the_model_stands_behind(graph):
    first, second, _ = graph.models
    mark_bad(first, " trained on wrong labels ")
    assert [node.pk for node in bad_models()] == [first.pk]
    assert used_by(first).model.bad == "trained on wrong labels"
    (bad,) = origin(graph.predictions[1]).bad  # predicted by the second, which was fine-tuned from the first
    assert (bad.pk, bad.bad) == (first.pk, "trained on wrong labels")
    unmark(first)
    unmark(second)
    assert bad_models() == []
    with pytest.raises(ValueError, match="the reason is empty"):
        mark_bad(first, " ")


def test_a_label_of_another_structure_under_the_same_id_is_left_out(graph):
    made = StructureSetData.from_ase([labelled(bulk("NiO", "rocksalt", a=6.0), 1.0)], ["v7"])
    process(orm.CalcFunctionNode, "x.other", {"structures": graph.pool}, {"labelled": made})
    table = errors(graph.predictions[0])
    assert "v7" not in set(table["id"])
    assert table.attrs["left_out"] == {"under the same id are of another structure": 1}
    relaxed = StructureSetData.from_ase(
        [labelled(bulk("NiO", "rocksalt", a=6.0), 1.0, {**SCHEME, "relaxed": True})], ["v8"]
    )
    process(orm.CalcFunctionNode, "x.relax", {"structures": graph.pool}, {"labelled": relaxed})
    (row,) = errors(graph.predictions[0]).query("id == 'v8'").itertuples()
    assert row.relaxed
    assert row.label == 1.0


def test_nothing_to_compare_with(graph):
    lonely = StructureSetData.from_ase([bulk("Cu")], ["cu"]).store()
    result = predictions_of_model(lonely, graph.models[0], ["cu"], [0.0])
    predict(graph, graph.models[0], lonely, result)
    with pytest.raises(ValueError, match="no label to compare with was made from its structures"):
        errors(result)
    without = labelled(lonely.atoms(0), 0.0)
    del without.info["formation_energy_per_atom"]
    made = StructureSetData.from_ase([without], ["cu"])
    process(orm.CalcFunctionNode, "x.label", {"structures": lonely}, {"labelled": made})
    with pytest.raises(ValueError, match="no label to compare with: 1 have no formation_energy_per_atom"):
        errors(result)


def test_a_label_joined_to_others_counts_once(graph):
    joined = StructureSetData.from_ase(
        [*graph.labelled[0].iter_atoms(), *graph.labelled[1].iter_atoms()],
        [*graph.labelled[0].ids, *graph.labelled[1].ids],
    )
    process(orm.CalcFunctionNode, "x.join", {"a": graph.labelled[0], "b": graph.labelled[1]}, {"labelled": joined})
    assert len(errors(graph.predictions[0])) == 4


def test_sets_of_single_labels_are_not_counted_beside_the_set_that_joins_them(graph):
    """As the labelling does it: a set for each run under the id "0", which may be an id of the predicted set too."""
    pool = StructureSetData.from_ase(pool_of(3, seed=5)).store()
    result = predictions_of_model(pool, graph.models[0], pool.ids, [0.0, 0.0, 0.0])
    predict(graph, graph.models[0], pool, result)
    singles = {}
    for k in (1, 2):
        singles[f"row_{k}"] = StructureSetData.from_ase([labelled(pool.atoms(k), 0.1 * k)])
        process(orm.CalcFunctionNode, "x.run", {"structures": pool}, {"labelled": singles[f"row_{k}"]})
    joined = StructureSetData.from_ase([labelled(pool.atoms(k), 0.1 * k) for k in (1, 2)], ["1", "2"])
    process(orm.CalcFunctionNode, "x.join", {"structure_set": pool, **singles}, {"labelled": joined})
    table = errors(result)
    assert table["id"].tolist() == ["1", "2"]
    assert table["error"].to_numpy() == pytest.approx([-0.1, -0.2])
    assert table.attrs["left_out"] == {}


def test_parity_plot(graph, tmp_path):
    table = errors(graph.predictions[0])
    assert parity_plot(table, tmp_path / "parity.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    other = label(graph, graph.selected[0], [0.0, 0.0], [0, 1], {**SCHEME, "functional": "SCAN"})
    assert other.is_stored
    with pytest.raises(ValueError, match="one picture shows one scheme, here are"):
        parity_plot(errors(graph.predictions[0]), tmp_path / "parity.png")


def test_picture_of_the_graph(graph, tmp_path):
    mark_bad(graph.models[0], "wrong labels")
    text = graph_picture(graph.predictions[1], tmp_path / "graph.dot").read_text()
    assert all(words in text for words in ("20 structures", "2 structures, labelled", "BAD: wrong labels", "Pw"))
    assert f"({graph.trainings[0].pk})" in text
    assert f"({graph.trainings[1].pk})" not in text
    near = graph_picture(graph.predictions[1], tmp_path / "near.dot", depth=1).read_text()
    assert near.count("->") == 1
    both = graph_picture(graph.predictions[1], tmp_path / "both.dot", direction="both").read_text()
    assert f"({graph.trainings[1].pk})" in both

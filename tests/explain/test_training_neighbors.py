"""Nearest training structures: compressed, found again, and never from a damaged or foreign file."""

import numpy as np
import pytest

from cgcnn_ase import load_model
from cgcnn_ase.data.graph_store import GraphStore
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.explain.training_neighbors import (
    NEIGHBORS,
    NeighborIndex,
    build_neighbor_index,
    crystal_embeddings,
    load_neighbor_index,
)
from cgcnn_ase.graphs.builder import build_graph
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.models.folder import CheckpointError
from cgcnn_ase.models.registry import DEFAULT_MODEL, find_model

from ..conftest import make_model
from ..prediction.test_pretrained import EXAMPLES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder without an index."""
    return save_model(make_model(), tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def data(model, crystals):
    return PreparedData(
        ids=[f"x-{k}" for k in range(len(crystals))],
        targets=np.zeros((len(crystals), 1)),
        split=np.array(["train"] * 50 + ["test"] * 10),
        graphs=GraphStore.from_graphs(build_graph(atoms, model.graph) for atoms in crystals),
        graph_config=model.graph,
        specs=(model.target,),
        train_hash="",
    )


@pytest.fixture(scope="module")
def index(model, data):
    return build_neighbor_index(model, data)


def test_a_training_structure_is_its_own_nearest_neighbor(model, crystals, index):
    assert len(index) == 50
    for k, atoms in enumerate(crystals[:50]):
        first, second = index.nearest(model, build_graph(atoms, model.graph), 2)
        assert first.id == f"x-{k}"
        assert first.distance < 0.1 * second.distance


def test_distances_are_those_of_the_embeddings(model, crystals, data, index):
    query = crystal_embeddings(model, build_graph(crystals[55], model.graph))[0]
    exact = np.linalg.norm(crystal_embeddings(model, data.graphs.batch(range(50))) - query, axis=1)
    np.testing.assert_allclose(index.distances(query), exact, rtol=0.02)


def test_as_many_as_asked_for(model, crystals, index):
    graph = build_graph(crystals[55], model.graph)
    nearest = index.nearest(model, graph, 7)
    assert len(nearest) == 7
    assert [n.distance for n in nearest] == sorted(n.distance for n in nearest)
    assert len(index.nearest(model, graph, 1000)) == 50
    with pytest.raises(ValueError, match="at least 1, not 0"):
        index.nearest(model, graph, 0)


def test_typical_distance():
    grid = np.arange(40.0)[:, None] * [1.0, 0, 0]
    assert NeighborIndex.of_embeddings(list(map(str, range(40))), grid).typical == pytest.approx(1.0, rel=0.3)


def test_one_structure_alone():
    index = NeighborIndex.of_embeddings(["only"], [[1.0, 2.0]])
    assert index.distances([1.0, 2.0]) == pytest.approx([0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("ids", "embeddings", "reason"),
    [([], np.zeros((0, 3)), "0 ids"), (["a"], np.zeros((2, 3)), "1 ids"), (["a"], [[np.nan]], "not finite")],
)
def test_embeddings_that_cannot_be_used(ids, embeddings, reason):
    with pytest.raises(ValueError, match=reason):
        NeighborIndex.of_embeddings(ids, embeddings)


def test_other_data_than_the_model_reads(model, data):
    from dataclasses import replace

    with pytest.raises(ValueError, match="the model reads"):
        build_neighbor_index(model, replace(data, graph_config=replace(data.graph_config, cutoff=5.0)))
    with pytest.raises(ValueError, match="no split 'nothing'"):
        build_neighbor_index(model, data, split="nothing")


def test_another_model_than_the_index_is_of(crystals, index):
    other = make_model(seed=5)
    with pytest.raises(ValueError, match="another model's weights"):
        index.nearest(other, build_graph(crystals[0], other.graph))


# The file


def test_saved_and_loaded(folder, model, crystals, index, tmp_path):
    assert load_neighbor_index(folder, model_sha256=model.sha256) is None
    file = index.save(tmp_path)
    loaded = load_neighbor_index(tmp_path, model_sha256=model.sha256)
    graph = build_graph(crystals[55], model.graph)
    assert [n.id for n in loaded.nearest(model, graph)] == [n.id for n in index.nearest(model, graph)]
    assert loaded.typical == pytest.approx(index.typical)
    assert file.name == NEIGHBORS


@pytest.mark.parametrize("how", ["cut off", "one byte", "empty", "text", "another safetensors"])
def test_a_damaged_file_is_refused(index, model, tmp_path, how):
    file = index.save(tmp_path)
    whole = file.read_bytes()
    if how == "another safetensors":
        from safetensors.numpy import save

        broken = save({"x": np.zeros(3)})
    else:
        flipped = whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:]
        broken = {"cut off": whole[:-100], "one byte": flipped, "empty": b"", "text": b"This is none." * 9}[how]
    file.write_bytes(broken)
    with pytest.raises(CheckpointError, match=NEIGHBORS):
        load_neighbor_index(tmp_path, model_sha256=model.sha256)


def test_an_index_of_other_weights_is_refused(index, tmp_path):
    index.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"made of weights with sha256 .*build it again"):
        load_neighbor_index(tmp_path, model_sha256="0" * 64)


# The one that is shipped


def test_the_index_of_the_pretrained_model():
    model, folder = load_model(), find_model(DEFAULT_MODEL).path
    index = load_neighbor_index(folder, model_sha256=model.sha256)
    assert len(index) == model.training_record["n_train"]
    assert (folder / NEIGHBORS).stat().st_size < 1.5e6
    from cgcnn_ase.structures import read_file

    atoms = read_file(EXAMPLES / "MgO.cif")[0].unwrap()
    nearest = index.nearest(model, build_graph(atoms, model.graph), 5)
    assert "mp-1265" in [n.id for n in nearest]  # periclase
    assert nearest[0].distance < index.typical

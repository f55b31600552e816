"""Many graphs as flat arrays: what goes in comes out, from memory and from disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from cgcnn_ase.data.graph_store import GraphStore
from cgcnn_ase.graphs import CrystalGraph, GraphConfig, batch, build_graph, build_graphs

STRUCTURES = [
    bulk("NaCl", "rocksalt", a=5.6),
    Atoms("He", cell=[30] * 3, pbc=True),
    bulk("Ti", "hcp", a=2.95),
    molecule("H2O"),
    bulk("Cu", "fcc", a=3.6, cubic=True),
]
CONFIGS = [
    GraphConfig(),
    GraphConfig(angular=True, merge=True),
    GraphConfig(line_graph=True),
    GraphConfig(line_graph=True, merge=True),
]


def assert_same(one: CrystalGraph, other: CrystalGraph) -> None:
    for name, a, b in zip(CrystalGraph._fields, one, other, strict=True):
        if name == "lines" and a is not None and b is not None:
            torch.testing.assert_close(tuple(a), tuple(b), atol=0, rtol=0)
        elif name != "vectors":
            torch.testing.assert_close(a, b, atol=0, rtol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("config", CONFIGS)
def test_batches_are_those_of_the_graphs(config: GraphConfig) -> None:
    store = GraphStore.from_graphs([build_graphs(STRUCTURES[:2], config), build_graphs(STRUCTURES[2:], config)])
    assert len(store) == 5
    for picked in ([0], [1], [4, 0, 2], [3, 3, 1], list(range(5))):
        assert_same(store.batch(picked), batch([build_graph(STRUCTURES[k], config) for k in picked]))
    assert_same(store.batch(torch.tensor([2, 0])), store.batch([2, 0]))


@pytest.mark.parametrize("config", CONFIGS)
def test_disk(tmp_path: Path, config: GraphConfig) -> None:
    store = GraphStore.from_graphs([build_graphs(STRUCTURES, config)])
    store.save(tmp_path / "graphs", {"note": "x"})
    loaded = GraphStore.load(tmp_path / "graphs")
    assert_same(loaded.batch([4, 1, 0]), store.batch([4, 1, 0]))
    assert json.loads((tmp_path / "graphs" / "meta.json").read_text()) == {"note": "x"}


def test_merged_edges_among_others_count_once() -> None:
    """As prepared by an earlier version, which did not merge them."""
    merged = build_graph(STRUCTURES[2], GraphConfig(merge=True))
    plain = build_graph(STRUCTURES[0], GraphConfig())
    store = GraphStore.from_graphs([plain, merged])
    assert_same(store.batch([0, 1]), batch([plain, merged]))


def test_with_and_without_a_line_graph_do_not_mix() -> None:
    with pytest.raises(ValueError, match="with a line graph or volumes and graphs without"):
        GraphStore.from_graphs([build_graph(STRUCTURES[0], config) for config in (CONFIGS[0], CONFIGS[2])])


def test_files_are_plain_arrays(tmp_path: Path) -> None:
    GraphStore.from_graphs([build_graphs(STRUCTURES, CONFIGS[0])]).save(tmp_path, {})
    arrays = {path.stem: np.load(path, allow_pickle=False) for path in tmp_path.glob("*.npy")}
    assert set(arrays) == {
        "numbers", "multiplicity", "centers", "neighbors", "distances", "angular", "n_nodes", "n_edges", "volumes",
    }  # fmt: skip
    assert arrays["numbers"].dtype == np.uint8
    assert arrays["n_nodes"].tolist() == [2, 1, 2, 3, 4]
